//! The log in bincode's wire format: fixed-width little-endian integers, lengths of 64 bits, enum tags of 32 bits.
//!
//! Owns the bytes of header, block frame and entry. They are written with `wincode`, because `bincode` itself is not
//! maintained any more.
//!
//! ```text
//! header = "PXWALBIN" | length: u64 | record (length bytes) | marker: [u8; 16] | u32 CRC-32 of all before
//! record = version: u32 | description: String | shard: String | first, previous, acknowledged: u64 | lanes: u32
//!          | in objects: writer: [u8; 16] | epoch, fence: u64
//! block  = count: u32 | length: u64 | u32 CRC-32 of the 12 bytes before | data (length bytes) | u32 CRC-32 of data | marker
//! data   = mark: u64 | count × entry
//! entry  = seq: u64 | enum { 0: Upsert(id, Vec<(String, Vec<f32>)>, payload: String), 1: Delete(id) }
//! id     = enum { 0: Num(u64), 1: Uuid([u8; 16]) }
//! ```
//!
//! The decoder accepts only what the encoder writes: anything else is damage, never a panic.

use uuid::Uuid;
use wincode::config::{Configuration, PREALLOCATION_SIZE_LIMIT_DISABLED};
use wincode::{SchemaRead, SchemaWrite};

use crate::config::WalFormat;
use crate::point::{NamedVectors, Operation, Payload, Point, PointId, Seq};
use crate::sealed::crc32;

use super::block::{Author, CHECKSUM_BYTES, FORMAT_VERSION, Header, OBJECT_VERSION, SyncMarker};
use super::codec::{Damage, Frame, LogCodec, check_seq};

/// First bytes of every file.
pub(super) const MAGIC: &[u8; 8] = b"PXWALBIN";
const UPSERT: u32 = 0;
const DELETE: u32 = 1;
const NUM: u32 = 0;
const UUID: u32 = 1;
/// Bytes of the lengths before a block's data, and of what covers them.
const LENGTHS: usize = 12;

/// What is read has passed a checksum, so no limit has to guess which lengths are plausible.
type Config = Configuration<true, PREALLOCATION_SIZE_LIMIT_DISABLED>;
const CONFIG: Config = Configuration::default().disable_preallocation_size_limit();

/// The format `bincode`.
pub(super) struct Bincode;

impl LogCodec for Bincode {
    fn put_header(&self, header: &Header) -> Vec<u8> {
        let mut record = Vec::new();
        let numbers = (header.first_seq, header.previous_seq, header.acknowledged);
        let texts = (header.description.as_str(), header.shard.as_str());
        let written = put(&mut record, &header.version)
            .and_then(|()| put(&mut record, texts.0))
            .and_then(|()| put(&mut record, texts.1))
            .and_then(|()| put(&mut record, &numbers))
            .and_then(|()| put(&mut record, &header.lanes));
        let written = match &header.author {
            Some(author) => written
                .and_then(|()| put(&mut record, &author.writer.into_bytes()))
                .and_then(|()| put(&mut record, &(author.epoch, author.fence.unwrap_or(0)))),
            None => written,
        };
        assert!(written.is_ok(), "memory takes every byte");
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(record.len() as u64).to_le_bytes());
        out.append(&mut record);
        out.extend_from_slice(&header.marker);
        let checksum = crc32(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    fn header(&self, bytes: &[u8]) -> Result<(Header, usize), Damage> {
        let early = || Damage::new("the header ends too early");
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| Damage::new("is no log file"))?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(early)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| early())?;
        let (mut record, rest) = rest.split_at_checked(length).ok_or_else(early)?;
        let (marker, rest) = rest.split_first_chunk::<16>().ok_or_else(early)?;
        let (checksum, after) = rest.split_first_chunk::<4>().ok_or_else(early)?;
        let end = bytes.len() - after.len();
        let covered = bytes.get(..end - CHECKSUM_BYTES).unwrap_or_default();
        if crc32(covered).to_le_bytes() != *checksum {
            return Err(Damage::new("the header does not match its checksum"));
        }
        let header = read_header(&mut record, *marker)?;
        if !record.is_empty() {
            return Err(Damage::new("the header is longer than its fields"));
        }
        Ok((header, end))
    }

    fn put_entry(
        &self,
        out: &mut Vec<u8>,
        _is_first: bool,
        seq: Seq,
        operation: &Operation,
        payload: &[u8],
    ) -> Result<(), Damage> {
        put(out, &seq)?;
        match operation {
            Operation::Upsert(point) => {
                put(out, &UPSERT)?;
                put_id(out, &point.id)?;
                put(out, &(point.vectors.len() as u64))?;
                for (name, vector) in point.vectors.iter() {
                    put(out, name)?;
                    put::<[f32]>(out, vector)?;
                }
                put::<[u8]>(out, payload)
            }
            Operation::Delete(id) => {
                put(out, &DELETE)?;
                put_id(out, id)
            }
        }
    }

    fn put_mark(&self, durable: Seq) -> Vec<u8> {
        durable.to_le_bytes().to_vec()
    }

    fn put_frame(&self, count: usize, data_len: usize) -> Vec<u8> {
        let mut front = Vec::with_capacity(LENGTHS + CHECKSUM_BYTES);
        front.extend_from_slice(&(count as u32).to_le_bytes());
        front.extend_from_slice(&(data_len as u64).to_le_bytes());
        let checksum = crc32(&front);
        front.extend_from_slice(&checksum.to_le_bytes());
        front
    }

    fn frame(&self, bytes: &[u8]) -> Result<Frame, Damage> {
        let early = || Damage::new("ends too early");
        let (lengths, rest) = bytes.split_at_checked(LENGTHS).ok_or_else(early)?;
        let (checksum, _) = rest.split_first_chunk::<4>().ok_or_else(early)?;
        if crc32(lengths).to_le_bytes() != *checksum {
            return Err(Damage::new("the lengths of the block do not match their checksum"));
        }
        let (count, data_len): (u32, u64) = read(&mut &*lengths)?;
        let data_len = usize::try_from(data_len).map_err(|_| early())?;
        let start = LENGTHS + CHECKSUM_BYTES;
        let end = start.checked_add(data_len).ok_or_else(early)?;
        Ok(Frame {
            count: count as usize,
            data: start..end,
        })
    }

    fn put_checksum(&self, checksum: u32) -> [u8; 4] {
        checksum.to_le_bytes()
    }

    fn mark<'a>(&self, _version: u32, mut data: &'a [u8]) -> Result<(Seq, &'a [u8]), Damage> {
        Ok((check_seq(read(&mut data)?)?, data))
    }

    fn entries(&self, _version: u32, mut raw: &[u8]) -> Result<Vec<(Seq, Operation)>, Damage> {
        let mut entries = Vec::new();
        while !raw.is_empty() {
            entries.push(read_entry(&mut raw)?);
        }
        Ok(entries)
    }
}

/// Appends a value in bincode's wire format.
fn put<T: SchemaWrite<Config, Src = T> + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), Damage> {
    wincode::config::serialize_into(out, value, CONFIG).map_err(|error| Damage(error.to_string()))
}

/// Takes a value in bincode's wire format off the front of `rest`.
fn read<'a, T: SchemaRead<'a, Config, Dst = T>>(rest: &mut &'a [u8]) -> Result<T, Damage> {
    T::get(rest).map_err(|error| Damage(error.to_string()))
}

fn put_id(out: &mut Vec<u8>, id: &PointId) -> Result<(), Damage> {
    match id {
        PointId::Num(number) => put(out, &(NUM, *number)),
        PointId::Uuid(uuid) => put(out, &(UUID, uuid.into_bytes())),
    }
}

fn read_id(rest: &mut &[u8]) -> Result<PointId, Damage> {
    match read::<u32>(rest)? {
        NUM => Ok(PointId::Num(read(rest)?)),
        UUID => Ok(PointId::Uuid(Uuid::from_bytes(read(rest)?))),
        other => Err(Damage(format!("a point id of kind {other} is unknown"))),
    }
}

fn read_entry(rest: &mut &[u8]) -> Result<(Seq, Operation), Damage> {
    let seq = check_seq(read(rest)?)?;
    let kind = read::<u32>(rest)?;
    let id = read_id(rest)?;
    match kind {
        UPSERT => {
            let vectors = read_vectors(rest)?;
            let payload = match read::<&[u8]>(rest)? {
                [] => Payload::new(),
                text => serde_json::from_slice(text)
                    .map_err(|error| Damage::new(format!("a payload is not JSON: {error}")))?,
            };
            Ok((seq, Operation::Upsert(Point { id, vectors, payload })))
        }
        DELETE => Ok((seq, Operation::Delete(id))),
        other => Err(Damage::new(format!("operation {other} is unknown"))),
    }
}

fn read_vectors(rest: &mut &[u8]) -> Result<NamedVectors, Damage> {
    let mut vectors = NamedVectors::default();
    let count: u64 = read(rest)?;
    for _ in 0..count {
        let name = read::<&str>(rest)?.to_owned();
        let Some(length) = rest.first_chunk::<8>() else {
            return Err(Damage::new("a vector ends too early"));
        };
        // Checked before anything is allocated for it.
        if u64::from_le_bytes(*length) > rest.len() as u64 / 4 {
            return Err(Damage::new("a vector is longer than its block"));
        }
        vectors.insert(name, read(rest)?);
    }
    if vectors.len() as u64 != count {
        return Err(Damage::new("two vectors have the same name"));
    }
    Ok(vectors)
}

fn read_header(record: &mut &[u8], marker: SyncMarker) -> Result<Header, Damage> {
    let version: u32 = read(record)?;
    if version != FORMAT_VERSION && version != OBJECT_VERSION {
        let reason = format!(
            "format version {version} is unknown, this program reads versions {FORMAT_VERSION} and {OBJECT_VERSION}"
        );
        return Err(Damage(reason));
    }
    let (description, shard) = (read::<&str>(record)?.to_owned(), read::<&str>(record)?.to_owned());
    let (first_seq, previous_seq, acknowledged) = read(record)?;
    let lanes = read(record)?;
    let author = match version {
        OBJECT_VERSION => {
            let (writer, epoch, fence) = (read(record)?, read(record)?, read(record)?);
            Some(Author {
                writer: Uuid::from_bytes(writer),
                epoch,
                fence: Some(fence).filter(|next| *next > 0),
            })
        }
        _ => None,
    };
    Ok(Header {
        format: WalFormat::Bincode,
        version,
        description,
        shard,
        first_seq,
        previous_seq,
        acknowledged,
        lanes,
        marker,
        author,
    })
}
