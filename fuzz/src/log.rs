//! Log files.

use crate::crc32;

const MARKER: &[u8; 16] = b"a sync marker 16";

/// The file of a header and some blocks. The first byte of the header is the number of fields that it says it has, the first one of a block
/// the number of its entries; the rest is what stands in the file, without lengths, checksums and markers.
pub fn avro(header: &[u8], blocks: &[&[u8]]) -> Vec<u8> {
    let (count, fields) = header.split_first().unwrap_or((&0, &[]));
    let mut file = b"Obj\x01".to_vec();
    put_long(&mut file, u64::from(*count) + 1);
    file.extend(fields);
    let checksum = format!("{:08x}", crc32(&[file.as_slice(), MARKER].concat()));
    for text in ["proximadb.checksum", &checksum] {
        put_long(&mut file, text.len() as u64);
        file.extend(text.as_bytes());
    }
    put_long(&mut file, 0);
    file.extend(MARKER);
    for block in blocks {
        let (count, data) = block.split_first().unwrap_or((&0, &[]));
        let mut snappy = Vec::new();
        put_varint(&mut snappy, data.len() as u64);
        snappy.push(0xfc);
        snappy.extend((data.len() as u32).wrapping_sub(1).to_le_bytes());
        put_long(&mut file, u64::from(*count));
        put_long(&mut file, (snappy.len() + data.len() + 4) as u64);
        file.extend(snappy);
        file.extend_from_slice(data);
        file.extend(crc32(data).to_be_bytes());
        file.extend(MARKER);
    }
    file
}

/// The same in the other format; its header says no number.
pub fn bincode(header: &[u8], blocks: &[&[u8]]) -> Vec<u8> {
    let mut file = b"PXWALBIN".to_vec();
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header);
    file.extend(MARKER);
    file.extend(crc32(&file).to_le_bytes());
    for block in blocks {
        let (count, data) = block.split_first().unwrap_or((&0, &[]));
        let mut lengths = u32::from(*count).to_le_bytes().to_vec();
        lengths.extend((data.len() as u64).to_le_bytes());
        let checksum = crc32(&lengths);
        file.extend(lengths);
        file.extend(checksum.to_le_bytes());
        file.extend_from_slice(data);
        file.extend(crc32(data).to_le_bytes());
        file.extend(MARKER);
    }
    file
}

fn put_long(out: &mut Vec<u8>, value: u64) {
    put_varint(out, value << 1);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
