//! Tests of the bytes: round trips, stock readers, torn tails at every offset, damage at every offset.

use apache_avro::types::Value;
use proptest::prelude::*;

use super::super::block::{FORMAT_VERSION, FrameBuffer, Header, Step, SyncMarker, step};
use super::super::codec::{PayloadTexts, codec, entry_bound};
use super::*;

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let id = prop_oneof![
        any::<u64>().prop_map(PointId::Num),
        any::<u128>().prop_map(|bits| PointId::Uuid(uuid::Uuid::from_u128(bits)))
    ];
    let vector = prop::collection::vec(-1e9_f32..1e9, 0..40);
    let vectors = prop::collection::btree_map("[a-zä]{0,5}", vector, 0..4).prop_map(|map| {
        let mut vectors = NamedVectors::default();
        map.into_iter().for_each(|(name, vector)| vectors.insert(name, vector));
        vectors
    });
    let payload = prop::collection::btree_map(".{0,4}", any::<i64>(), 0..4).prop_map(|map| {
        map.into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect::<Payload>()
    });
    let upsert = (id.clone(), vectors, payload)
        .prop_map(|(id, vectors, payload)| Operation::Upsert(Point { id, vectors, payload }));
    prop::collection::vec(prop_oneof![4 => upsert, 1 => id.prop_map(Operation::Delete)], 1..12)
}

fn header(format: WalFormat, first_seq: Seq) -> Header {
    Header {
        format,
        version: FORMAT_VERSION,
        description: format!(r#"{{"id":"{COLLECTION}"}}"#),
        shard: "000".into(),
        first_seq,
        previous_seq: first_seq - 1,
        acknowledged: first_seq - 1,
        lanes: 1,
        marker: *b"a sync marker 16",
        author: None,
    }
}

/// The bytes of one block.
pub(super) fn block(
    format: WalFormat,
    first: Seq,
    operations: &[Operation],
    mark: Seq,
    marker: &SyncMarker,
) -> Vec<u8> {
    let codec = codec(format);
    let mut frame = FrameBuffer::reusing(Vec::new());
    let payloads = PayloadTexts::of(operations).unwrap();
    for ((seq, operation), payload) in (first..).zip(operations).zip(payloads.iter()) {
        codec
            .put_entry(frame.entries_mut(), seq == first, seq, operation, payload)
            .unwrap();
    }
    let bound = payloads.len() + operations.iter().map(entry_bound).sum::<usize>();
    assert!(frame.raw_len() <= bound, "{} > {bound}", frame.raw_len());
    frame.seal(codec, operations.len(), mark, marker).bytes().to_vec()
}

/// A file of these blocks, and the offset after its header and after each block.
fn file_of(format: WalFormat, first: Seq, blocks: &[Vec<Operation>]) -> (Vec<u8>, Vec<usize>) {
    let header = header(format, first);
    let mut bytes = header.encode();
    let mut ends = vec![bytes.len()];
    let mut seq = first;
    for operations in blocks {
        bytes.extend_from_slice(&block(format, seq, operations, seq - 1, &header.marker));
        seq += operations.len() as u64;
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn read(bytes: &[u8]) -> Result<(Entries, FileSummary)> {
    let mut entries = Vec::new();
    let summary = read_log_file("the file", bytes, &mut |seq, operation| entries.push((seq, operation)))?;
    Ok((entries, summary))
}

fn small_blocks() -> Vec<Vec<Operation>> {
    vec![vec![upsert(1), delete(2)], vec![upsert(3)], vec![upsert(4), upsert(5)]]
}

fn formats() -> impl Strategy<Value = WalFormat> {
    prop::sample::select(WalFormat::ALL.to_vec())
}

proptest! {
    #[test]
    fn f1_f2_what_is_encoded_is_decoded(format in formats(), blocks in prop::collection::vec(operations(), 0..5), first in 1_u64..1 << 62) {
        let (bytes, _) = file_of(format, first, &blocks);
        let (entries, summary) = read(&bytes).unwrap();
        let expected: Entries = (first..).zip(blocks.iter().flatten().cloned()).collect();
        prop_assert_eq!(entries, expected);
        prop_assert_eq!(summary.blocks, blocks.len() as u64);
        prop_assert_eq!(summary.end, FileEnd::Complete);
    }

    #[test]
    fn f8_bytes_from_a_disk_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        for format in WalFormat::ALL {
            let _ = codec(format).entries(FORMAT_VERSION, &bytes);
            let _ = codec(format).header(&bytes);
            let mut file = header(format, 1).encode();
            file.extend_from_slice(&bytes);
            let _ = read(&file);
        }
    }

    #[test]
    fn f8_flipped_bytes_never_panic_and_never_change_an_entry(
        format in formats(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6),
        blocks in prop::collection::vec(operations(), 1..4),
    ) {
        let (mut bytes, _) = file_of(format, 1, &blocks);
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        if let Ok((entries, _)) = read(&bytes) {
            let expected: Entries = (1..).zip(blocks.into_iter().flatten()).take(entries.len()).collect();
            prop_assert_eq!(entries, expected);
        }
    }
}

/// The entry as a stock reader must show it.
fn as_avro(acknowledged: Seq, seq: Seq, operation: &Operation) -> Value {
    let (index, symbol, vectors, payload) = match operation {
        Operation::Upsert(point) => {
            let floats = |vector: &[f32]| Value::Array(vector.iter().map(|value| Value::Float(*value)).collect());
            let vectors = point
                .vectors
                .iter()
                .map(|(name, vector)| (name.to_owned(), floats(vector)))
                .collect();
            (0, "UPSERT", vectors, serde_json::to_string(&point.payload).unwrap())
        }
        Operation::Delete(_) => (1, "DELETE", std::collections::HashMap::new(), String::new()),
    };
    Value::Record(vec![
        ("acknowledged".into(), Value::Long(acknowledged as i64)),
        ("seq".into(), Value::Long(seq as i64)),
        ("op".into(), Value::Enum(index, symbol.into())),
        ("id".into(), Value::String(operation.id().to_string())),
        ("vectors".into(), Value::Map(vectors)),
        ("payload".into(), Value::String(payload)),
    ])
}

#[tokio::test]
async fn f1_a_stock_avro_reader_reads_every_value_of_a_sealed_file() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    for id in 0..30 {
        wal.append(vec![upsert(id), delete(id / 2)]).await.unwrap();
    }
    wal.roll(0).await.unwrap();
    let bytes = std::fs::read(place.path(0)).unwrap();
    let reader = apache_avro::Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.user_metadata()["proximadb.first_seq"], b"1");
    let values: Vec<Value> = reader.map(|value| value.unwrap()).collect();
    let applied = place.applied.lock().clone();
    assert_eq!(values.len(), 60);
    for (value, (seq, operation)) in values.iter().zip(&applied) {
        // Each call was a block of two operations, and the first of them says what was durable before it.
        let acknowledged = if seq % 2 == 1 { seq - 1 } else { 0 };
        assert_eq!(*value, as_avro(acknowledged, *seq, operation));
    }
}

#[test]
fn f8_a_file_cut_at_every_byte_keeps_exactly_its_complete_blocks() {
    for format in WalFormat::ALL {
        let (bytes, ends) = file_of(format, 1, &small_blocks());
        let whole = read(&bytes).unwrap().0;
        for cut in ends[0]..=bytes.len() {
            let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
            let entries = small_blocks().iter().take(complete).map(Vec::len).sum::<usize>();
            let (found, summary) = read(&bytes[..cut]).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            assert_eq!(found, whole[..entries], "cut at {cut}");
            assert_eq!(summary.valid_bytes as usize, ends[complete], "cut at {cut}");
            assert_eq!(summary.end == FileEnd::Complete, cut == ends[complete], "cut at {cut}");
            // The same with the zeros that were written ahead.
            let mut zeroed = bytes[..cut].to_vec();
            zeroed.resize(bytes.len() + 1000, 0);
            let (found, summary) = read(&zeroed).unwrap_or_else(|error| panic!("zeros from {cut}: {error}"));
            // A block that ends in zero bytes is complete with them.
            assert!(
                found.len() >= entries && found == whole[..found.len()],
                "zeros from {cut}"
            );
            assert!(summary.valid_bytes as usize >= ends[complete]);
        }
    }
}

#[test]
fn f8_any_lost_part_of_the_last_block_is_a_torn_tail() {
    for format in WalFormat::ALL {
        // A disk may write the sectors of a block in any order: any range of it may still be the zeros from before.
        let (bytes, ends) = file_of(format, 1, &small_blocks());
        let last = ends[2]..ends[3];
        for from in last.clone() {
            for to in from + 1..=last.end {
                let mut torn = bytes.clone();
                torn[from..to].fill(0);
                torn.resize(torn.len() + 100, 0);
                let (found, _) = read(&torn).unwrap_or_else(|error| panic!("{from}..{to}: {error}"));
                assert!(found.len() == 3 || torn[..bytes.len()] == bytes[..], "{from}..{to}");
            }
        }
    }
}

#[test]
fn f8_damage_at_any_byte_before_the_last_block_is_corruption_at_its_block() {
    for format in WalFormat::ALL {
        let (bytes, ends) = file_of(format, 1, &small_blocks());
        for at in 0..ends[2] {
            for bits in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= bits;
                let Err(Error::Corruption(message)) = read(&damaged) else {
                    panic!("{at} ^ {bits} was not noticed")
                };
                let block = ends.iter().copied().filter(|end| *end <= at).max().unwrap_or(0);
                assert!(
                    message.contains(&format!("the file at offset {block}:")),
                    "{at} ^ {bits}: {message}"
                );
            }
        }
        for at in ends[2]..ends[3] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x01;
            // In the last block damage looks like a torn write, unless only the number of entries is wrong.
            assert!(read(&damaged).is_err() || read(&damaged).unwrap().0.len() == 3, "{at}");
        }
    }
}

#[test]
fn f8_two_lost_blocks_are_corruption_not_a_torn_tail() {
    for format in WalFormat::ALL {
        // The last block is unreadable, but it was begun: so the one before it had been synced.
        let (mut bytes, ends) = file_of(format, 1, &small_blocks());
        bytes[ends[1] + 20] ^= 1;
        bytes[ends[2] + 20] ^= 1;
        assert!(matches!(read(&bytes), Err(Error::Corruption(_))));
    }
}

#[test]
fn a_block_with_a_right_checksum_and_wrong_numbers_is_corruption() {
    for format in WalFormat::ALL {
        let (mut bytes, _) = file_of(format, 1, &small_blocks());
        let (other, ends) = file_of(format, 7, &small_blocks());
        bytes.extend_from_slice(&other[ends[0]..ends[1]]);
        let error = read(&bytes).unwrap_err();
        assert!(
            error.to_string().contains("entry 7 stands where entry 6 belongs"),
            "{error}"
        );
    }
}

#[test]
fn f8_numbers_that_nothing_can_follow_are_corruption() {
    for format in WalFormat::ALL {
        for first in [0, 1 << 63, u64::MAX] {
            let bytes = Header {
                first_seq: first,
                ..header(format, 1)
            };
            assert!(matches!(read(&bytes.encode()), Err(Error::Corruption(_))), "{first}");
        }
    }
    let header = Header {
        lanes: 2,
        ..header(WalFormat::Bincode, 1)
    };
    for (first, mark) in [(u64::MAX, 0), (u64::MAX - 1, 0), (1, u64::MAX)] {
        let operations = [upsert(1), delete(2)];
        let codec = codec(WalFormat::Bincode);
        let mut frame = FrameBuffer::reusing(Vec::new());
        for (seq, operation) in [first, first.wrapping_add(1)].into_iter().zip(&operations) {
            codec
                .put_entry(frame.entries_mut(), seq == first, seq, operation, b"")
                .unwrap();
        }
        let block = frame.seal(codec, operations.len(), mark, &header.marker);
        let file = [&header.encode(), block.bytes(), block.bytes()].concat();
        assert!(matches!(read(&file), Err(Error::Corruption(_))), "{first} {mark}");
    }
    assert_eq!(first_seq("00000000000000000000.avro"), None);
    assert_eq!(first_seq("00000000000000000001.avro"), Some(1));
}

#[test]
fn a_file_of_another_version_is_refused_by_name() {
    let mut bytes = header(WalFormat::Avro, 1).encode();
    let at = bytes
        .windows(24)
        .position(|window| window == b"proximadb.format_version")
        .unwrap()
        + 25;
    assert_eq!(bytes[at], b'2');
    bytes[at] = b'3';
    assert!(matches!(read(&bytes), Err(Error::Corruption(_))));
}

#[test]
fn the_end_of_a_file_is_no_block() {
    for format in WalFormat::ALL {
        let (bytes, ends) = file_of(format, 1, &small_blocks());
        assert!(matches!(step(&bytes, ends[0], &header(format, 1)), Step::Block(_)));
        assert!(matches!(step(&bytes, bytes.len(), &header(format, 1)), Step::End));
    }
}
