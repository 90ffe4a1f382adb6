//! The bytes of a version.
//!
//! ```text
//! 0   "PXKV"                      32      recent: n × (writer 8, sequence 8), the latest first
//! 4   1        format version     32+16n  the value
//! 5   0 | 1    deleted | value    ...     0 or 1 zero bytes, so that the record of a value has an even length
//! 6   n ≤ 64   recent writers             and that of a deletion an odd one
//! 7   0 | 1    padding bytes      end-8   XXH3-64 of the object's name and of all bytes before
//! 8   number, 16 writer, 24 sequence                    (numbers are little-endian)
//! ```
//!
//! The name is part of the checksum: a record under another name is damage, too. The length tells a listing which keys
//! exist, without reading them.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use crate::store::{Entry, Version};

const MAGIC: &[u8; 4] = b"PXKV";
const FORMAT_VERSION: u8 = 1;
const HEADER: usize = 32;
const CHECKSUM: usize = 8;
const WRITER: usize = 16;
/// So many other writers' last changes are remembered: more may not write one key at the same moment if all of them are to
/// learn the outcome of a change whose answer was lost. At most 1 KiB in a record.
pub(crate) const MAX_RECENT: usize = 64;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Which version it is, and who wrote it.
    pub version: Version,
    /// The last change of each other writer before this one, the latest first.
    pub recent: Vec<(u64, u64)>,
    /// `None`: the key was deleted.
    pub value: Option<Bytes>,
}

impl Record {
    /// The record of a change that `writer` makes on top of `head`.
    pub(crate) fn after(head: Option<&Self>, writer: u64, sequence: u64, value: Option<Bytes>) -> Self {
        let mut recent = Vec::new();
        if let Some(head) = head {
            recent.push((head.version.writer, head.version.sequence));
            recent.extend(head.recent.iter().copied());
            recent.retain(|(other, _)| *other != writer);
            recent.truncate(MAX_RECENT);
        }
        let number = head.map_or(0, |head| head.version.number) + 1;
        Self {
            version: Version {
                number,
                writer,
                sequence,
            },
            recent,
            value,
        }
    }

    /// Whether this is the change, or comes after it. Asked by the writer of the change, about its last one of this key.
    pub(crate) fn follows(&self, change: Version) -> bool {
        let own = (self.version.writer, self.version.sequence);
        let change = (change.writer, change.sequence);
        own == change || self.recent.contains(&change)
    }

    /// Whether older writers may have been forgotten.
    pub(crate) fn is_forgetful(&self) -> bool {
        self.recent.len() == MAX_RECENT
    }

    pub(crate) fn entry(&self) -> Option<Entry> {
        let value = self.value.clone()?;
        Some(Entry {
            value,
            version: self.version,
        })
    }

    /// The bytes of the object of this name.
    pub(crate) fn encode(&self, name: &str) -> Bytes {
        assert!(self.recent.len() <= MAX_RECENT, "the list is cut when a record is made");
        let value = self.value.as_deref().unwrap_or_default();
        let padding = match &self.value {
            Some(value) => value.len() % 2,
            None => 1,
        };
        let mut bytes = BytesMut::with_capacity(HEADER + WRITER * self.recent.len() + value.len() + padding + CHECKSUM);
        bytes.put_slice(MAGIC);
        bytes.put_u8(FORMAT_VERSION);
        bytes.put_u8(u8::from(self.value.is_some()));
        bytes.put_u8(self.recent.len() as u8);
        bytes.put_u8(padding as u8);
        bytes.put_u64_le(self.version.number);
        bytes.put_u64_le(self.version.writer);
        bytes.put_u64_le(self.version.sequence);
        for (writer, sequence) in &self.recent {
            bytes.put_u64_le(*writer);
            bytes.put_u64_le(*sequence);
        }
        bytes.put_slice(value);
        bytes.put_bytes(0, padding);
        let checksum = checksum(name, &bytes);
        bytes.put_u64_le(checksum);
        bytes.freeze()
    }

    /// The record in the bytes of the object of this name, or what is wrong with them.
    pub(crate) fn decode(name: &str, bytes: &Bytes) -> Result<Self, String> {
        let wrong = |what: &str| format!("the object is not a record of this key: {what}");
        let body = bytes.len().checked_sub(CHECKSUM).filter(|length| *length >= HEADER);
        let body = body.ok_or_else(|| wrong("it is too short"))?;
        if !bytes.starts_with(MAGIC) {
            return Err(wrong("its first bytes are others"));
        }
        let stored = u64_at(bytes, body).ok_or_else(|| wrong("it is too short"))?;
        if checksum(name, &bytes[..body]) != stored {
            return Err(wrong("its checksum is another"));
        }
        let (format, kind, count, padding) = (bytes[4], bytes[5], usize::from(bytes[6]), usize::from(bytes[7]));
        if format != FORMAT_VERSION {
            return Err(format!(
                "the record has format version {format}, and this release reads {FORMAT_VERSION}"
            ));
        }
        let start = HEADER + WRITER * count;
        let end = body.checked_sub(padding).filter(|end| *end >= start);
        let (Some(end), true) = (end, kind <= 1 && padding <= 1 && count <= MAX_RECENT) else {
            return Err(wrong("its parts do not fit together"));
        };
        let number = |at| u64_at(bytes, at).ok_or_else(|| wrong("it is too short"));
        let version = Version {
            number: number(8)?,
            writer: number(16)?,
            sequence: number(24)?,
        };
        let pair = |n| Ok((number(HEADER + WRITER * n)?, number(HEADER + WRITER * n + 8)?));
        let recent = (0..count).map(pair).collect::<Result<_, String>>()?;
        let value = (kind == 1).then(|| bytes.slice(start..end));
        Ok(Self { version, recent, value })
    }
}

/// Whether the record of this length is that of a value.
pub(crate) fn is_value(length: u64) -> bool {
    length.is_multiple_of(2)
}

fn checksum(name: &str, bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(name.as_bytes());
    hash.update(bytes);
    hash.digest()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(eight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = Record> {
        let pairs = vec(any::<(u64, u64)>(), 0..=MAX_RECENT);
        let value = proptest::option::of(vec(any::<u8>(), 0..300).prop_map(Bytes::from));
        (any::<(u64, u64, u64)>(), pairs, value).prop_map(|((number, writer, sequence), recent, value)| Record {
            version: Version {
                number,
                writer,
                sequence,
            },
            recent,
            value,
        })
    }

    proptest! {
        #[test]
        fn a_record_comes_back_and_its_length_tells_whether_the_key_exists(record in records()) {
            let bytes = record.encode("n");
            prop_assert_eq!(is_value(bytes.len() as u64), record.value.is_some());
            prop_assert_eq!(Record::decode("n", &bytes), Ok(record));
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(Record::decode("n", &bytes.into()).is_err());
        }

        #[test]
        fn a_changed_cut_longer_or_renamed_record_is_refused(record in records(), at in any::<usize>(), flip in 1..=255u8) {
            let bytes = record.encode("n");
            let at = at % bytes.len();
            let mut changed = bytes.to_vec();
            changed[at] ^= flip;
            prop_assert!(Record::decode("n", &changed.into()).is_err());
            prop_assert!(Record::decode("n", &bytes.slice(..at)).is_err());
            prop_assert!(Record::decode("n", &[&bytes[..], &[flip]].concat().into()).is_err());
            prop_assert!(Record::decode("m", &bytes).is_err());
        }

        /// Behind a right checksum every field can be anything: what a writer with a fault would leave.
        #[test]
        fn any_body_with_a_right_checksum_is_read_or_refused_without_a_panic(
            kind in any::<[u8; 3]>(), mut body in vec(any::<u8>(), 24..400), tame in any::<bool>()
        ) {
            let header = if tame { [kind[0] % 3, kind[1] % 20, kind[2] % 3] } else { kind };
            let mut bytes = [&MAGIC[..], &[FORMAT_VERSION], &header].concat();
            bytes.append(&mut body);
            let sum = checksum("n", &bytes);
            bytes.extend(sum.to_le_bytes());
            if let Ok(record) = Record::decode("n", &bytes.into()) {
                prop_assert!(record.recent.len() <= MAX_RECENT);
            }
        }
    }

    #[test]
    fn a_writer_is_remembered_until_sixty_four_others_have_written() {
        let first = Record::after(None, 1, 10, None);
        assert_eq!(first.version.number, 1);
        let mut head = first.clone();
        for other in 0..MAX_RECENT as u64 {
            head = Record::after(Some(&head), 100 + other, 1, None);
            assert!(head.follows(first.version), "after {other} others");
            // Once more by the same writer: takes no further place.
            head = Record::after(Some(&head), 100 + other, 2, None);
        }
        assert!(head.is_forgetful());
        let next = Record::after(Some(&head), 1_000, 1, None);
        assert!(!next.follows(first.version));
        assert!(!Record::after(Some(&first), 1, 11, None).is_forgetful());
    }
}
