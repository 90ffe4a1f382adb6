//! One log entry as Avro binary: encoder and decoder written by hand for the one schema of the log.
//!
//! Owns the schema text and the bytes of one record. Does not own blocks, files or checksums (`block`).
//! Generic Avro libraries visit `array<float>` value by value and lose a factor of 30 to 170; here a vector is one
//! copy, because Avro's float is exactly the little-endian `f32`.
//!
//! ```text
//! WalEntry = seq: long | op: enum | id: string | vectors: map<array<float>> | payload: string
//! long     = zigzag varint            string = long length, UTF-8
//! map      = (long n, n × (string, array), long 0) or long 0 when empty;   array the same with n × f32 LE
//! ```
//!
//! The decoder accepts only what the encoder writes: anything else is damage, never a panic.

use crate::point::{NamedVectors, Operation, Payload, Point, PointId, Seq};

/// Avro schema of one entry, as it stands in every file header. Part of the format: never edit, add a version.
pub(super) const SCHEMA: &str = concat!(
    r#"{"type":"record","name":"WalEntry","namespace":"proximadb","fields":["#,
    r#"{"name":"seq","type":"long"},"#,
    r#"{"name":"op","type":{"type":"enum","name":"WalOp","symbols":["UPSERT","DELETE"]}},"#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"vectors","type":{"type":"map","values":{"type":"array","items":"float"}}},"#,
    r#"{"name":"payload","type":"string"}]}"#
);

const UPSERT: i64 = 0;
const DELETE: i64 = 1;

/// Why bytes are not what the format says. The caller adds file and offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) String);

impl Damage {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The payloads of some operations as JSON, made before the log's lock is taken: JSON is the slow part of an entry.
pub(super) struct PayloadTexts {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl PayloadTexts {
    /// Serialises the payload of each operation; an empty payload becomes the empty text.
    pub(super) fn of(operations: &[Operation]) -> Result<Self, serde_json::Error> {
        let mut texts = Self {
            text: Vec::new(),
            ends: Vec::with_capacity(operations.len()),
        };
        for operation in operations {
            if let Operation::Upsert(point) = operation
                && !point.payload.is_empty()
            {
                serde_json::to_writer(&mut texts.text, &point.payload)?;
            }
            texts.ends.push(texts.text.len());
        }
        Ok(texts)
    }

    /// The texts of no operations.
    pub(super) fn none() -> Self {
        Self {
            text: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// The texts in the order of the operations.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }

    /// Bytes of all texts together.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

/// Upper bound of the encoded size of `operation` without its payload text, in bytes.
pub(super) fn size_bound(operation: &Operation) -> usize {
    // seq, op, id length, UUID text, map count and end, payload length: each varint at most 10 bytes.
    const FIXED: usize = 10 + 1 + 1 + 36 + 10 + 1 + 10;
    match operation {
        Operation::Delete(_) => FIXED,
        Operation::Upsert(point) => {
            FIXED
                + point
                    .vectors
                    .iter()
                    .map(|(name, vector)| 10 + name.len() + 10 + 4 * vector.len() + 1)
                    .sum::<usize>()
        }
    }
}

/// Appends one entry to `out`.
pub(super) fn encode_entry(out: &mut Vec<u8>, seq: Seq, operation: &Operation, payload: &[u8]) {
    assert!(
        i64::try_from(seq).is_ok(),
        "sequence numbers stay below 2^63: Avro's long is signed"
    );
    put_long(out, seq.cast_signed());
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
}

fn put_vectors(out: &mut Vec<u8>, vectors: &NamedVectors) {
    if !vectors.is_empty() {
        put_length(out, vectors.len());
        for (name, vector) in vectors.iter() {
            put_bytes(out, name.as_bytes());
            put_floats(out, vector);
        }
    }
    put_long(out, 0);
}

fn put_floats(out: &mut Vec<u8>, values: &[f32]) {
    if !values.is_empty() {
        put_length(out, values.len());
        let start = out.len();
        out.resize(start + 4 * values.len(), 0);
        let (_, room) = out.split_at_mut(start);
        // Fixed-size chunks compile to wide copies; pushing value by value does not.
        for (bytes, value) in room.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
    }
    put_long(out, 0);
}

/// Appends an Avro long: zigzag, then 7 bits a byte, low bits first.
pub(super) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a length. Lengths of things in memory fit an `i64`.
pub(super) fn put_length(out: &mut Vec<u8>, length: usize) {
    put_long(out, (length as u64).cast_signed());
}

/// Appends Avro `bytes` or `string`.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Bytes still to be decoded. Every length is checked against what is left before anything is allocated.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| Damage::new("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn long(&mut self) -> Result<i64, Damage> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self
                .rest
                .split_first()
                .ok_or_else(|| Damage::new("ends inside a number"))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Damage::new("a number is longer than 64 bits"))
    }

    /// A length: not negative. Whether so many bytes are left is checked when they are taken.
    pub(super) fn length(&mut self) -> Result<usize, Damage> {
        let value = self.long()?;
        usize::try_from(value).map_err(|_| Damage::new(format!("length {value} is negative")))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.length()?;
        self.take(length)
    }

    pub(super) fn string(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage::new("a text is not UTF-8"))
    }

    /// The long 0 that ends an array or a map.
    pub(super) fn end(&mut self, what: &str) -> Result<(), Damage> {
        match self.long()? {
            0 => Ok(()),
            more => Err(Damage::new(format!("{what} goes on with {more} where it must end"))),
        }
    }

    fn floats(&mut self) -> Result<Vec<f32>, Damage> {
        let count = self.length()?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let size = count
            .checked_mul(4)
            .ok_or_else(|| Damage::new(format!("a vector of {count} values")))?;
        let values = self
            .take(size)?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        self.end("a vector")?;
        Ok(values)
    }

    fn vectors(&mut self) -> Result<NamedVectors, Damage> {
        let mut vectors = NamedVectors::default();
        let count = self.length()?;
        if count == 0 {
            return Ok(vectors);
        }
        for _ in 0..count {
            let name = self.string()?.to_owned();
            let values = self.floats()?;
            vectors.insert(name, values);
        }
        if vectors.len() != count {
            return Err(Damage::new("two vectors have the same name"));
        }
        self.end("the map of vectors")?;
        Ok(vectors)
    }

    fn payload(&mut self) -> Result<Payload, Damage> {
        match self.bytes()? {
            [] => Ok(Payload::new()),
            text => {
                serde_json::from_slice(text).map_err(|error| Damage::new(format!("a payload is not JSON: {error}")))
            }
        }
    }
}

/// Reads one entry.
pub(super) fn decode_entry(input: &mut Input<'_>) -> Result<(Seq, Operation), Damage> {
    let seq = input.long()?;
    let seq = Seq::try_from(seq).map_err(|_| Damage::new(format!("sequence number {seq} is negative")))?;
    let kind = input.long()?;
    let id: PointId = input
        .string()?
        .parse()
        .map_err(|_| Damage::new("a point id is neither a number nor a UUID"))?;
    let vectors = input.vectors()?;
    let payload = input.payload()?;
    match kind {
        UPSERT => Ok((seq, Operation::Upsert(Point { id, vectors, payload }))),
        DELETE if vectors.is_empty() && payload.is_empty() => Ok((seq, Operation::Delete(id))),
        DELETE => Err(Damage::new("a deletion carries data")),
        other => Err(Damage::new(format!("operation {other} is unknown"))),
    }
}
