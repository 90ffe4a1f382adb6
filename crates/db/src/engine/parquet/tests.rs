#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::decode::typed_column;
use super::*;
use crate::engine::cluster::sort_by_cluster;
use crate::engine::samples::{contents, data, description, footer};
use arrow_array::Array;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use proptest::prelude::*;

fn segment(rows: u64, dim: usize) -> (SegmentFooter, SegmentData) {
    let description = description(dim);
    let unsorted = data(&description, 1..=rows, &[(5000, rows + 1), (4000, rows + 2)]);
    let (sorted, _) = sort_by_cluster(&description.schema, &unsorted);
    (footer(&description, &sorted), sorted)
}

fn check_round_trip(footer: &SegmentFooter, data: &SegmentData) {
    let bytes = encode(footer, data).unwrap();
    let (footer_back, back) = decode(&bytes).unwrap();
    assert_eq!(&footer_back, footer);
    assert_eq!(contents(&back), contents(data));
    assert_eq!(back.clustering, data.clustering);
}

#[test]
fn g8_a_segment_comes_back_as_it_was_written() {
    for (rows, dim) in [(1, 1), (6, 3), (500, 3), (5000, 8)] {
        let (footer, data) = segment(rows, dim);
        check_round_trip(&footer, &data);
    }
}

#[test]
fn a_segment_of_several_row_groups_comes_back_as_it_was_written() {
    let description = description(2048);
    let mut data = data(&description, (1..4000).filter(|number| number % 7 != 6), &[]);
    let offsets = (0..data.len() as u32).step_by(40).chain([data.len() as u32]).collect();
    data.clustering = Some(Clustering {
        space: String::new(),
        offsets,
    });
    let footer = footer(&description, &data);
    let groups = row_groups(&data);
    assert!(groups.len() >= 3);
    assert_eq!((groups[0].start, groups[groups.len() - 1].end), (0, data.len()));
    let borders = &data.clustering.as_ref().unwrap().offsets;
    for pair in groups.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
        assert!(
            borders.contains(&(pair[0].end as u32)),
            "a row group ends where a cluster ends"
        );
    }
    check_round_trip(&footer, &data);
}

#[test]
fn tombstones_alone_and_rows_without_vectors_come_back() {
    let description = description(3);
    let only_tombstones = data(&description, [], &[(1, 7)]);
    check_round_trip(&footer(&description, &only_tombstones), &only_tombstones);
    let without_default_vector = data(&description, [6, 13, 20], &[]);
    let (sorted, _) = sort_by_cluster(&description.schema, &without_default_vector);
    assert_eq!(sorted.clustering.as_ref().unwrap().space, "title");
    check_round_trip(&footer(&description, &sorted), &sorted);
}

#[test]
fn a_changed_byte_anywhere_is_an_error() {
    let (footer, data) = segment(20, 2);
    let bytes = encode(&footer, &data).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        assert!(decode(&damaged.into()).is_err(), "byte {at}");
    }
    for end in 0..bytes.len() {
        assert!(decode(&bytes.slice(..end)).is_err(), "cut at {end}");
    }
}

/// A writer with a fault would leave such files; the Parquet library panics over some.
#[test]
fn a_changed_byte_behind_a_right_checksum_is_an_error_or_read_never_a_panic() {
    let (footer, data) = segment(6, 2);
    let bytes = encode(&footer, &data).unwrap();
    for at in HEAD_BYTES..bytes.len() {
        for value in [0, 0x7f, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x80] {
            let mut damaged = bytes.to_vec();
            damaged[at] = value;
            let checksum = crc32(&damaged[HEAD_BYTES..]);
            damaged[8..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
            let _read_or_not = decode(&damaged.into());
        }
    }
}

proptest! {
    #[test]
    fn damaged_bytes_are_an_error_never_a_panic(cut in 0usize..20_000, noise in prop::collection::vec((0usize..20_000, any::<u8>()), 1..20)) {
        let (footer, data) = segment(20, 2);
        let intact = encode(&footer, &data).unwrap();
        let mut bytes = intact[..cut.clamp(0, intact.len())].to_vec();
        for (at, value) in noise {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        prop_assert!(bytes == intact || decode(&bytes.into()).is_err());
    }
}

#[test]
fn rows_outside_the_sequence_range_of_the_footer_are_an_error() {
    let (mut footer, data) = segment(20, 2);
    footer.max_seq -= 1;
    assert!(
        decode(&encode(&footer, &data).unwrap())
            .unwrap_err()
            .0
            .contains("sequence numbers")
    );
}

#[test]
fn g6_pages_carry_checksums_and_indexes_that_point_at_them() {
    let (footer, data) = segment(5000, 200);
    let bytes = encode(&footer, &data).unwrap();
    let options = ReadOptionsBuilder::new().with_page_index().build();
    let reader = SerializedFileReader::new_with_options(bytes.clone(), options).unwrap();
    let metadata = reader.metadata();
    assert_eq!(metadata.file_metadata().num_rows(), 5000);
    let mut pages = 0;
    for (group, row_group) in metadata.row_groups().iter().enumerate() {
        let index = metadata.page_index_for_row_group(group);
        for (column, chunk) in row_group.columns().iter().enumerate() {
            let (start, length) = chunk.byte_range();
            let mut next = start;
            for location in index.page_locations(column).unwrap() {
                assert_eq!(location.offset as u64, next);
                next += location.compressed_page_size as u64;
                pages += 1;
            }
            assert_eq!(next, start + length);
        }
    }
    assert!(pages > 10, "{pages}");
}

/// Writes a sample for a look with other tools: `PROXIMADB_SAMPLE=/tmp/x.parquet cargo test … g6_other_readers`.
#[test]
fn g6_other_readers_find_ids_vectors_and_typed_columns() {
    let (footer, data) = segment(5000, 200);
    let bytes = encode(&footer, &data).unwrap();
    if let Some(path) = std::env::var_os("PROXIMADB_SAMPLE") {
        std::fs::write(path, &bytes).unwrap();
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let names: Vec<String> = reader
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(
        names,
        [
            "id",
            "seq",
            "cluster",
            "vector",
            "vector.title",
            "payload.a.b",
            "payload.at",
            "payload.n",
            "payload"
        ]
    );
    let batch = reader.with_batch_size(5000).build().unwrap().next().unwrap().unwrap();
    let numbers: &arrow_array::Int64Array = typed_column(&batch, "payload.n").unwrap();
    let words: &StringArray = typed_column(&batch, "payload.a.b").unwrap();
    for row in 0..batch.num_rows() {
        let payload = data.payloads.get(row).unwrap();
        assert_eq!(
            payload.get("n").and_then(serde_json::Value::as_i64),
            numbers.is_valid(row).then(|| numbers.value(row))
        );
        assert_eq!(
            payload.get("a").and_then(|a| a["b"].as_str()),
            words.is_valid(row).then(|| words.value(row))
        );
    }
}
