//! Checksums of Parquet pages, which the `parquet` crate (60.1) can verify but does not write.
//!
//! Its Arrow writer hands every encoded page to a [`PageStore`] as two blobs, header and data. This store puts the
//! CRC-32 of the data into the header, and [`PageChecksums::settle`] adds the bytes that this took to the sizes and
//! offsets in the chunk's metadata. The header is a Thrift struct in compact form, its fields numbered by their
//! distance from the one before:
//!
//! ```text
//! before: 0x15 type │ 0x15 uncompressed size │ 0x15 compressed size │ 0x?C the page's own struct (field 5, 7 or 8) …
//! after:  0x15 type │ 0x15 uncompressed size │ 0x15 compressed size │ 0x15 CRC │ 0x?C one nearer …
//! ```
//!
//! Only for columns without a dictionary: its page would move the others after they were counted.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::column::page_store::{PageKey, PageStore, PageStoreArgs, PageStoreFactory};
use parquet::errors::{ParquetError, Result};

use crate::sealed::crc32;

/// A field of type i32, one after the previous field.
const NEXT_I32: u8 = 0x15;
/// Type of a struct field, in the low half of its first byte.
const STRUCT: u8 = 0x0C;

/// Makes page stores that write checksums, and remembers how many bytes that added. One for each file.
#[derive(Debug, Default)]
pub struct PageChecksums {
    /// Bytes added to each page of a column's current chunk, by column.
    added: Arc<Mutex<HashMap<usize, Vec<usize>>>>,
}

impl PageChecksums {
    /// Corrects the sizes and offsets of a chunk that was just closed; the next chunk of this column comes after that.
    ///
    /// # Errors
    /// If the chunk's metadata cannot be rebuilt or does not match its pages.
    pub fn settle(&self, column: usize, chunk: &mut ArrowColumnChunk) -> Result<()> {
        let added = self.added.lock().remove(&column).unwrap_or_default();
        let total: usize = added.iter().sum();
        let close = chunk.close_mut();
        close.bytes_written += total as u64;
        let metadata = close.metadata.clone();
        if metadata.dictionary_page_offset().is_some() {
            return Err(ParquetError::General(
                "page checksums of a column with a dictionary".to_owned(),
            ));
        }
        let (compressed, uncompressed) = (metadata.compressed_size(), metadata.uncompressed_size());
        close.metadata = metadata
            .into_builder()
            .set_total_compressed_size(compressed + total as i64)
            .set_total_uncompressed_size(uncompressed + total as i64)
            .build()?;
        let Some(index) = close.offset_index.as_mut() else {
            return Ok(());
        };
        if index.page_locations.len() != added.len() {
            return Err(ParquetError::General("a page without a checksum".to_owned()));
        }
        let mut before = 0;
        for (location, added) in index.page_locations.iter_mut().zip(added) {
            location.offset += before;
            location.compressed_page_size += added as i32;
            before += added as i64;
        }
        Ok(())
    }
}

impl PageStoreFactory for PageChecksums {
    fn create(&self, args: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>> {
        let store = ChecksumStore {
            column: args.column_index(),
            blobs: Vec::new(),
            added: Arc::clone(&self.added),
        };
        Ok(Box::new(store))
    }
}

/// Pages of one chunk in memory: header, data, header, data …
struct ChecksumStore {
    column: usize,
    blobs: Vec<Bytes>,
    added: Arc<Mutex<HashMap<usize, Vec<usize>>>>,
}

impl PageStore for ChecksumStore {
    fn put(&mut self, value: Bytes) -> Result<PageKey> {
        if self.blobs.len() % 2 == 1
            && let Some(header) = self.blobs.last_mut()
        {
            let longer = with_checksum(header, &value)
                .ok_or_else(|| ParquetError::General("a page header of an unknown form".to_owned()))?;
            self.added
                .lock()
                .entry(self.column)
                .or_default()
                .push(longer.len() - header.len());
            *header = longer;
        }
        self.blobs.push(value);
        Ok(PageKey::new(self.blobs.len() as u64 - 1))
    }

    fn take(&mut self, key: PageKey) -> Result<Bytes> {
        let blob = usize::try_from(key.get()).ok().and_then(|at| self.blobs.get_mut(at));
        blob.map(std::mem::take)
            .ok_or_else(|| ParquetError::General("no such page".to_owned()))
    }

    fn memory_size(&self) -> usize {
        self.blobs.iter().map(Bytes::len).sum()
    }
}

/// The page header with the checksum of the page's data; `None` if it is not the header of that page as drawn above.
fn with_checksum(header: &[u8], data: &[u8]) -> Option<Bytes> {
    let mut at = 0;
    let mut value = 0;
    for _ in 0..3 {
        if *header.get(at)? != NEXT_I32 {
            return None;
        }
        let (read, length) = read_varint(header.get(at + 1..)?)?;
        value = read;
        at += 1 + length;
    }
    let is_size_of_data = unzigzag(value) == i32::try_from(data.len()).ok()?;
    let (own, rest) = header.get(at..)?.split_first()?;
    // Fields 5, 7 and 8 stand 2, 4 and 5 after field 3.
    if !is_size_of_data || own & 0x0F != STRUCT || own >> 4 < 2 {
        return None;
    }
    let mut longer = Vec::with_capacity(header.len() + 6);
    longer.extend_from_slice(header.get(..at)?);
    longer.push(NEXT_I32);
    write_varint(zigzag(crc32(data) as i32), &mut longer);
    longer.push(own - 0x10);
    longer.extend_from_slice(rest);
    Some(longer.into())
}

/// A number and the bytes it took.
fn read_varint(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut value = 0u32;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

fn write_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// A header of a page of nine bytes, whose own struct is field 5.
    const HEADER: [u8; 8] = [NEXT_I32, 0, NEXT_I32, 18, NEXT_I32, 18, 0x2C, 0xAA];

    #[test]
    fn g6_the_checksum_of_the_data_becomes_field_4_of_the_header() {
        let longer = with_checksum(&HEADER, b"123456789").unwrap();
        let (value, length) = read_varint(&longer[7..]).unwrap();
        assert_eq!(unzigzag(value) as u32, 0xCBF4_3926, "the check value of CRC-32");
        assert_eq!(longer[..7], [&HEADER[..6], &[NEXT_I32]].concat());
        assert_eq!(longer[7 + length..], [0x1C, 0xAA]);
    }

    #[test]
    fn a_header_of_another_page_or_form_is_refused() {
        assert_eq!(with_checksum(&HEADER, b"12345678"), None);
        assert_eq!(
            with_checksum(&[&HEADER[..6], &[0x1C, 0xAA]].concat(), b"123456789"),
            None
        );
        for end in 0..7 {
            assert_eq!(with_checksum(&HEADER[..end], b"123456789"), None);
        }
    }
}
