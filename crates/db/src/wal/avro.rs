//! The log as Avro object container files: encoder and decoder written by hand for the one schema of the log.
//!
//! Owns the bytes of header, block frame and entry. Generic Avro libraries visit `array<float>` value by value and lose a
//! factor of 30 to 170; here a vector is one copy, because Avro's float is exactly the little-endian `f32`.
//!
//! ```text
//! header   = "Obj\x01" | map<bytes> of metadata | 16 bytes sync marker
//! block    = long entries | long size | data (size bytes) | the sync marker
//! data     = varint raw length | 0xFC | u32 LE raw length - 1 | raw entries | u32 BE CRC32 of the raw entries
//! WalEntry = acknowledged: long | seq: long | op: enum | id: string | vectors: map<array<float>> | payload: string
//! long     = zigzag varint            string = long length, UTF-8
//! map      = (long n, n × (string, array), long 0) or long 0 when empty;   array the same with n × f32 LE
//! ```
//!
//! `data` is what the Avro codec "snappy" prescribes, with one literal and no compression: vectors do not compress, but
//! every stock reader opens it and most check the CRC32. The mark of a block is the field `acknowledged` of its first
//! entry (0 in the others): it stands first so that it can be put before entries that are already encoded.
//! `proximadb.checksum` is the last metadata key and covers all header bytes before it and the sync marker.
//!
//! The decoder accepts only what the encoder writes: anything else is damage, never a panic.

mod wire;

use std::collections::BTreeMap;

use crate::config::WalFormat;
use crate::point::{Operation, Seq};
use crate::sealed::crc32;

use super::block::{Author, CHECKSUM_BYTES, FORMAT_VERSION, Header, OBJECT_VERSION, SyncMarker};
use super::codec::{Damage, Frame, LogCodec};

use wire::{DELETE, Input, UPSERT, put_bytes, put_length, put_long, put_varint, put_vectors};

const MAGIC: &[u8; 4] = b"Obj\x01";
const CHECKSUM_KEY: &str = "proximadb.checksum";
/// Tag of a snappy literal whose length follows in four bytes.
const LITERAL: u8 = 0xfc;

/// Avro schema of one entry, as it stands in every file header. Part of the format: never edit, add a version.
const SCHEMA: &str = concat!(
    r#"{"type":"record","name":"WalEntry","namespace":"proximadb","fields":["#,
    r#"{"name":"acknowledged","type":"long"},"#,
    r#"{"name":"seq","type":"long"},"#,
    r#"{"name":"op","type":{"type":"enum","name":"WalOp","symbols":["UPSERT","DELETE"]}},"#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"vectors","type":{"type":"map","values":{"type":"array","items":"float"}}},"#,
    r#"{"name":"payload","type":"string"}]}"#
);

/// The schema of version 1: no marks.
const SCHEMA_V1: &str = concat!(
    r#"{"type":"record","name":"WalEntry","namespace":"proximadb","fields":["#,
    r#"{"name":"seq","type":"long"},"#,
    r#"{"name":"op","type":{"type":"enum","name":"WalOp","symbols":["UPSERT","DELETE"]}},"#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"vectors","type":{"type":"map","values":{"type":"array","items":"float"}}},"#,
    r#"{"name":"payload","type":"string"}]}"#
);

/// The format `avro`.
pub(super) struct Avro;

impl LogCodec for Avro {
    fn put_header(&self, header: &Header) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut fields = vec![
            (
                "avro.schema",
                if header.version == 1 { SCHEMA_V1 } else { SCHEMA }.to_owned(),
            ),
            ("avro.codec", "snappy".to_owned()),
            ("proximadb.format_version", header.version.to_string()),
            ("proximadb.description", header.description.clone()),
            ("proximadb.shard", header.shard.clone()),
            ("proximadb.first_seq", header.first_seq.to_string()),
            ("proximadb.previous_seq", header.previous_seq.to_string()),
        ];
        if header.version > 1 {
            fields.push(("proximadb.acknowledged", header.acknowledged.to_string()));
            fields.push(("proximadb.lanes", header.lanes.to_string()));
        }
        if let Some(author) = &header.author {
            fields.push(("proximadb.writer", author.writer.to_string()));
            fields.push(("proximadb.epoch", author.epoch.to_string()));
            fields.push(("proximadb.fence", author.fence.unwrap_or(0).to_string()));
        }
        put_length(&mut out, fields.len() + 1);
        for (key, value) in fields {
            put_bytes(&mut out, key.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        let checksum = header_checksum(&out, &header.marker);
        put_bytes(&mut out, CHECKSUM_KEY.as_bytes());
        put_bytes(&mut out, checksum.as_bytes());
        put_length(&mut out, 0);
        out.extend_from_slice(&header.marker);
        out
    }

    fn header(&self, bytes: &[u8]) -> Result<(Header, usize), Damage> {
        let mut input = Input::new(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return Err(Damage::new("is not an Avro container file"));
        }
        let mut fields = BTreeMap::new();
        let mut checksum = None;
        for _ in 0..input.length()? {
            let covered = bytes.len() - input.remaining();
            let key = input.string()?;
            let value = input.string()?;
            if key == CHECKSUM_KEY {
                checksum = Some((covered, value));
            }
            fields.insert(key, value);
        }
        input.end("the header")?;
        let mut marker = SyncMarker::default();
        marker.copy_from_slice(input.take(size_of::<SyncMarker>())?);
        let (covered, checksum) = checksum.ok_or_else(|| Damage::new("the header has no checksum"))?;
        if header_checksum(bytes.get(..covered).unwrap_or_default(), &marker) != checksum {
            return Err(Damage::new("the header does not match its checksum"));
        }
        Ok((from_fields(&fields, marker)?, bytes.len() - input.remaining()))
    }

    fn put_entry(
        &self,
        out: &mut Vec<u8>,
        is_first: bool,
        seq: Seq,
        operation: &Operation,
        payload: &[u8],
    ) -> Result<(), Damage> {
        let seq = i64::try_from(seq).map_err(|_| Damage::new("Avro's long ends at 2^63"))?;
        if !is_first {
            put_long(out, 0);
        }
        put_long(out, seq);
        match operation {
            Operation::Upsert(point) => {
                put_long(out, UPSERT);
                put_bytes(out, point.id.to_string().as_bytes());
                put_vectors(out, &point.vectors);
            }
            Operation::Delete(id) => {
                put_long(out, DELETE);
                put_bytes(out, id.to_string().as_bytes());
                put_long(out, 0);
            }
        }
        put_bytes(out, payload);
        Ok(())
    }

    fn put_mark(&self, durable: Seq) -> Vec<u8> {
        let mut mark = Vec::with_capacity(10);
        put_long(&mut mark, durable.cast_signed());
        mark
    }

    fn put_frame(&self, count: usize, data_len: usize) -> Vec<u8> {
        let mut prefix = Vec::with_capacity(10);
        put_varint(&mut prefix, data_len);
        prefix.push(LITERAL);
        prefix.extend_from_slice(&(data_len as u32 - 1).to_le_bytes());
        let mut front = Vec::with_capacity(30);
        put_length(&mut front, count);
        put_length(&mut front, prefix.len() + data_len + CHECKSUM_BYTES);
        front.append(&mut prefix);
        front
    }

    fn frame(&self, bytes: &[u8]) -> Result<Frame, Damage> {
        let mut input = Input::new(bytes);
        let count = input.length()?;
        let size = input.length()?;
        let before_data = input.remaining();
        let data_len = input.varint()?;
        let tag = input.take(1)?;
        let literal = input.take(4)?.iter().rev();
        let literal = literal.fold(0_u64, |value, byte| value << 8 | u64::from(*byte)) + 1;
        let prefix_len = before_data - input.remaining();
        let expected = data_len + prefix_len as u64 + CHECKSUM_BYTES as u64;
        if tag != [LITERAL] || literal != data_len || size as u64 != expected {
            return Err(Damage::new("the lengths of the block contradict each other"));
        }
        let start = bytes.len() - input.remaining();
        Ok(Frame {
            count,
            data: start..start + data_len as usize,
        })
    }

    fn put_checksum(&self, checksum: u32) -> [u8; 4] {
        checksum.to_be_bytes()
    }

    fn mark<'a>(&self, version: u32, data: &'a [u8]) -> Result<(Seq, &'a [u8]), Damage> {
        if version == 1 {
            return Ok((0, data));
        }
        let mut input = Input::new(data);
        Ok((input.seq()?, input.rest()))
    }

    fn entries(&self, version: u32, raw: &[u8]) -> Result<Vec<(Seq, Operation)>, Damage> {
        let mut input = Input::new(raw);
        let mut entries = Vec::new();
        while input.remaining() > 0 {
            if version > 1 && !entries.is_empty() && input.long()? != 0 {
                return Err(Damage::new("an entry that is not the first of its block has a mark"));
            }
            entries.push(input.entry()?);
        }
        Ok(entries)
    }
}

fn from_fields(fields: &BTreeMap<&str, &str>, marker: SyncMarker) -> Result<Header, Damage> {
    let field = |key: &str| {
        let value = fields.get(key).copied();
        value.ok_or_else(|| Damage::new(format!("the header has no {key}")))
    };
    fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, Damage> {
        text.parse().map_err(|_| Damage::new(format!("{key} is not a number")))
    }
    let seq = |key: &str| number(key, field(key)?);
    let version = field("proximadb.format_version")?;
    let schema = field("avro.schema")?;
    let version = match version {
        "1" if schema == SCHEMA_V1 => 1,
        "2" if schema == SCHEMA => FORMAT_VERSION,
        "3" if schema == SCHEMA => OBJECT_VERSION,
        _ => {
            let reason =
                format!("format version {version} is unknown, this program reads versions 1 to {OBJECT_VERSION}");
            return Err(Damage(reason));
        }
    };
    if field("avro.codec")? != "snappy" {
        return Err(Damage::new("its codec is not snappy"));
    }
    let previous_seq = seq("proximadb.previous_seq")?;
    let (acknowledged, lanes) = match version {
        1 => (previous_seq, 1),
        _ => {
            let lanes = "proximadb.lanes";
            (seq("proximadb.acknowledged")?, number(lanes, field(lanes)?)?)
        }
    };
    let author = match version {
        OBJECT_VERSION => {
            let writer = field("proximadb.writer")?;
            let writer = writer
                .parse()
                .map_err(|_| Damage::new("proximadb.writer is not a UUID"))?;
            Some(Author {
                writer,
                epoch: seq("proximadb.epoch")?,
                fence: Some(seq("proximadb.fence")?).filter(|next| *next > 0),
            })
        }
        _ => None,
    };
    Ok(Header {
        format: WalFormat::Avro,
        version,
        description: field("proximadb.description")?.to_owned(),
        shard: field("proximadb.shard")?.to_owned(),
        first_seq: seq("proximadb.first_seq")?,
        previous_seq,
        acknowledged,
        lanes,
        marker,
        author,
    })
}

fn header_checksum(covered: &[u8], marker: &SyncMarker) -> String {
    format!("{:08x}", crc32(&[covered, marker].concat()))
}
