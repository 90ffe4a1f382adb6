//! Avro's numbers, texts and maps, and the entry made of them.

use crate::point::{NamedVectors, Operation, Payload, Point, PointId, Seq};

use super::super::codec::Damage;

pub(super) const UPSERT: i64 = 0;
pub(super) const DELETE: i64 = 1;

/// Snappy's length preamble: like Avro's long without zigzag.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_vectors(out: &mut Vec<u8>, vectors: &NamedVectors) {
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

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
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

    fn bytes(&mut self) -> Result<&'a [u8], Damage> {
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

    pub(super) fn seq(&mut self) -> Result<Seq, Damage> {
        let seq = self.long()?;
        Seq::try_from(seq).map_err(|_| Damage::new(format!("sequence number {seq} is negative")))
    }

    pub(super) fn varint(&mut self) -> Result<u64, Damage> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damage::new("a length is longer than 35 bits"))
    }

    /// One entry, after its mark.
    pub(super) fn entry(&mut self) -> Result<(Seq, Operation), Damage> {
        let seq = self.seq()?;
        let kind = self.long()?;
        let id: PointId = self
            .string()?
            .parse()
            .map_err(|_| Damage::new("a point id is neither a number nor a UUID"))?;
        let vectors = self.vectors()?;
        let payload = self.payload()?;
        match kind {
            UPSERT => Ok((seq, Operation::Upsert(Point { id, vectors, payload }))),
            DELETE if vectors.is_empty() && payload.is_empty() => Ok((seq, Operation::Delete(id))),
            DELETE => Err(Damage::new("a deletion carries data")),
            other => Err(Damage::new(format!("operation {other} is unknown"))),
        }
    }
}
