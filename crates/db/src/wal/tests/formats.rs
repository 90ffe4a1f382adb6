//! Tests of the two formats (F2), of older files and of closed ones, through `Wal`.

use super::super::block::Header;
use super::super::codec::{PayloadTexts, codec};
use super::*;
use crate::sealed::crc32;

async fn place_of(format: WalFormat) -> Place {
    Place {
        format,
        ..Place::new().await
    }
}

#[tokio::test]
async fn f2_both_formats_replay_the_same_operations_and_describe_their_collection() {
    let operations: Vec<Vec<Operation>> = vec![vec![upsert(1), delete(1)], vec![upsert(2)], vec![delete(3), upsert(1)]];
    let mut found = Vec::new();
    for format in WalFormat::ALL {
        let place = place_of(format).await;
        let (wal, _) = place.open(0).await.unwrap();
        for call in &operations {
            wal.append(call.clone()).await.unwrap();
        }
        wal.roll(0).await.unwrap();
        wal.append(vec![upsert(9)]).await.unwrap();
        wal.close().await;
        let names: Vec<String> = place.files().into_iter().map(|file| file.name).collect();
        assert_eq!(
            names,
            [
                format!("00000000000000000001.{format}"),
                format!("00000000000000000006.{format}")
            ]
        );
        assert_eq!(
            names.iter().filter_map(|name| first_seq(name)).collect::<Vec<_>>(),
            [1, 6]
        );
        let bytes = std::fs::read(place.path(1)).unwrap();
        let summary = read_log_file("it", &bytes, &mut |_, _| {}).unwrap();
        assert_eq!((summary.end, summary.acknowledged), (FileEnd::Complete, 6));
        assert!(summary.description.contains(COLLECTION));
        found.push(place.open(0).await.unwrap().1);
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].len(), 6);
}

#[tokio::test]
async fn f2_a_directory_with_both_formats_is_replayed_in_the_order_of_the_numbers() {
    let mut place = Place::new().await;
    let mut expected = Vec::new();
    for (round, format) in [WalFormat::Avro, WalFormat::Bincode, WalFormat::Avro, WalFormat::Bincode]
        .into_iter()
        .enumerate()
    {
        place.format = format;
        let (wal, replayed) = place.open(0).await.unwrap();
        assert_eq!(replayed, expected, "round {round}");
        for id in 0..3 {
            let numbers = wal.append(vec![upsert(id), delete(id)]).await.unwrap();
            expected.extend([(numbers.start, upsert(id)), (numbers.start + 1, delete(id))]);
        }
        if round % 2 == 0 {
            wal.close().await;
        }
    }
    assert_eq!(place.files().len(), 4);
    assert_eq!(place.open(0).await.unwrap().1, expected);
    assert_eq!(place.replayed(20).await, [21, 22, 23, 24]);
}

#[tokio::test]
async fn f2_an_unused_log_changes_its_format_without_losing_the_first_number() {
    let mut place = Place::new().await;
    place.open(0).await.unwrap();
    place.format = WalFormat::Bincode;
    let (wal, _) = place.open(0).await.unwrap();
    assert_eq!(wal.append(vec![upsert(1)]).await.unwrap(), 1..2);
    assert_eq!(place.replayed(0).await, [1]);
}

#[tokio::test]
async fn f2_f8_a_flipped_byte_anywhere_in_a_cleanly_closed_log_is_reported_or_changes_nothing() {
    for format in WalFormat::ALL {
        let place = place_of(format).await;
        let (wal, _) = place.open(0).await.unwrap();
        wal.append(vec![upsert(1)]).await.unwrap();
        wal.append(vec![upsert(2), delete(1)]).await.unwrap();
        wal.close().await;
        let path = place.path(0);
        let bytes = std::fs::read(&path).unwrap();
        let expected: Entries = vec![(1, upsert(1)), (2, upsert(2)), (3, delete(1))];
        let mut unnoticed = Vec::new();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x11;
            std::fs::write(&path, &damaged).unwrap();
            match place.open(0).await {
                Ok((_, replayed)) => {
                    assert_eq!(replayed, expected, "{format}: byte {at}");
                    unnoticed.push(at);
                }
                Err(Error::Corruption(message)) => assert!(message.contains("at offset "), "{message}"),
                Err(other) => panic!("{format}: byte {at}: {other}"),
            }
        }
        // Only damage of the closing block itself looks like a write that was cut short.
        assert!(unnoticed.len() < 64, "{format}: {unnoticed:?}");
        assert!(
            unnoticed.iter().all(|at| at + 64 > bytes.len()),
            "{format}: {unnoticed:?}"
        );
    }
}

#[tokio::test]
async fn a_closed_log_goes_on_where_its_closing_block_stood() {
    for format in WalFormat::ALL {
        let place = place_of(format).await;
        for id in 1..=5 {
            let (wal, replayed) = place.open(0).await.unwrap();
            assert_eq!(replayed.len() as u64, id - 1);
            wal.append(vec![upsert(id)]).await.unwrap();
            wal.close().await;
        }
        assert_eq!(place.files().len(), 1);
        let bytes = std::fs::read(place.path(0)).unwrap();
        assert_eq!(read_log_file("it", &bytes, &mut |_, _| {}).unwrap().blocks, 5);
        // A log that is only opened and closed keeps every byte.
        place.open(0).await.unwrap().0.close().await;
        assert_eq!(std::fs::read(place.path(0)).unwrap(), bytes);
    }
}

/// A file of the first version of the format: no marks, no closing block.
fn old_file(first: Seq, blocks: &[Vec<Operation>]) -> Vec<u8> {
    let header = Header {
        format: WalFormat::Avro,
        version: 1,
        description: format!(r#"{{"id":"{COLLECTION}"}}"#),
        shard: "000".into(),
        first_seq: first,
        previous_seq: first - 1,
        acknowledged: first - 1,
        lanes: 1,
        marker: *b"a sync marker 16",
        author: None,
    };
    let avro = codec(WalFormat::Avro);
    let mut bytes = header.encode();
    let mut seq = first;
    for operations in blocks {
        let mut raw = Vec::new();
        let payloads = PayloadTexts::of(operations).unwrap();
        for (operation, payload) in operations.iter().zip(payloads.iter()) {
            avro.put_entry(&mut raw, true, seq, operation, payload).unwrap();
            seq += 1;
        }
        bytes.extend_from_slice(&avro.put_frame(operations.len(), raw.len()));
        bytes.extend_from_slice(&raw);
        bytes.extend_from_slice(&crc32(&raw).to_be_bytes());
        bytes.extend_from_slice(&header.marker);
    }
    bytes
}

#[tokio::test]
async fn f8_files_of_the_first_version_are_replayed_and_the_log_goes_on_in_a_new_file() {
    let place = Place::new().await;
    std::fs::create_dir_all(place.directory()).unwrap();
    let first = old_file(1, &[vec![upsert(1), upsert(2)], vec![delete(1)]]);
    let second = old_file(4, &[vec![upsert(4)]]);
    std::fs::write(place.directory().join("00000000000000000001.avro"), &first).unwrap();
    std::fs::write(place.directory().join("00000000000000000004.avro"), &second).unwrap();
    let (wal, replayed) = place.open(0).await.unwrap();
    assert_eq!(
        replayed,
        [(1, upsert(1)), (2, upsert(2)), (3, delete(1)), (4, upsert(4))]
    );
    assert_eq!(wal.append(vec![upsert(5)]).await.unwrap(), 5..6);
    assert_eq!(place.files().len(), 3);
    assert_eq!(place.replayed(0).await, [1, 2, 3, 4, 5]);
    assert_eq!(std::fs::read(place.path(0)).unwrap(), first);
}

#[tokio::test]
async fn f8_an_unused_file_of_the_first_version_does_not_stop_the_log() {
    let place = Place::new().await;
    std::fs::create_dir_all(place.directory()).unwrap();
    std::fs::write(place.directory().join("00000000000000000001.avro"), old_file(1, &[])).unwrap();
    let (wal, _) = place.open(0).await.unwrap();
    let numbers = wal.append(vec![upsert(5)]).await.unwrap();
    assert_eq!(place.replayed(0).await, [numbers.start]);
}
