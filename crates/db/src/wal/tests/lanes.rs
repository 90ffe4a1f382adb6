//! Tests of several lanes written side by side (C6, F11), through `Wal` and over made files.

use std::io::ErrorKind;
use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;

use super::super::block::{FORMAT_VERSION, Header};
use super::super::file::faults::{Fault, Gate};
use super::*;

const LANES: usize = 3;

async fn striped(format: WalFormat) -> Place {
    let options = WalOptions {
        // Each call of `large` is a block of its own.
        max_batch_bytes: 80_000,
        segment_bytes: 400_000,
        stall: Duration::from_secs(3600),
        ..WalOptions::default()
    };
    Place {
        lanes: LANES,
        format,
        ..Place::with_roots(LANES, options).await
    }
}

fn large(id: u64) -> Operation {
    Operation::Upsert(Point {
        id: PointId::Num(id),
        vectors: NamedVectors::single(vec![id as f32; 20_000]),
        payload: Payload::new(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_blocks_go_to_all_roots_are_applied_in_order_and_are_found_again() {
    for format in WalFormat::ALL {
        let place = striped(format).await;
        let mut total = 0;
        for _ in 0..3 {
            let (wal, replayed) = place.open(0).await.unwrap();
            assert!(replayed.iter().map(|(seq, _)| *seq).eq(1..=total));
            let calls = (0..40).map(|id| {
                let operation = if id % 3 == 0 { upsert(id) } else { large(id) };
                wal.append(vec![operation, delete(id)])
            });
            for numbers in futures::future::join_all(calls).await {
                numbers.unwrap();
            }
            assert!(
                place
                    .applied
                    .lock()
                    .iter()
                    .map(|(seq, _)| *seq)
                    .eq(total + 1..=total + 80)
            );
            total += 80;
            assert_eq!(wal.roots_in_use().len(), LANES);
        }
        // What is flushed is released on every root, and what is left is enough.
        let (wal, _) = place.open(0).await.unwrap();
        wal.roll(0).await.unwrap();
        wal.append(vec![upsert(1)]).await.unwrap();
        wal.release(total).await.unwrap();
        assert!(place.files().len() <= LANES, "{:?}", place.files());
        assert_eq!(place.replayed(total).await, [total + 1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_f11_while_one_lane_syncs_slowly_the_others_proceed_and_nothing_is_acknowledged_before_its_turn() {
    let place = striped(WalFormat::Avro).await;
    let (wal, _) = place.open(0).await.unwrap();
    let gate = Gate::default();
    wal.faults()
        .once("sync", Some(place.roots[1].id()), Fault::Block(gate.clone()));
    let calls: Vec<_> = (1..=9_u64)
        .map(|id| {
            let wal = wal.clone();
            tokio::spawn(async move { wal.append(vec![large(id)]).await })
        })
        .collect();
    // All blocks but the slow one become durable.
    eventually("the other blocks", async || wal.stats().commits >= 8 && gate.reached()).await;
    let before = wal.last_seq();
    assert!(before < 9);
    assert!(place.applied.lock().iter().all(|(seq, _)| *seq <= before));
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(place.applied.lock().iter().map(|(seq, _)| *seq).eq(1..=9));
    assert!(place.replayed(0).await.into_iter().eq(1..=9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_what_waits_is_shared_out_among_the_lanes() {
    let mut place = striped(WalFormat::Bincode).await;
    // Four such calls fit into one block.
    place.options.max_batch_bytes = 350_000;
    let (wal, _) = place.open(0).await.unwrap();
    let gates: Vec<Gate> = place.roots.iter().map(|_| Gate::default()).collect();
    for (root, gate) in place.roots.iter().zip(&gates) {
        wal.faults().once("sync", Some(root.id()), Fault::Block(gate.clone()));
    }
    let calls: Vec<_> = (1..=7_u64)
        .map(|id| {
            let wal = wal.clone();
            tokio::spawn(async move { wal.append(vec![large(id)]).await })
        })
        .collect();
    // Each lane has a block, and the others wait.
    eventually("three blocks", async || gates.iter().all(Gate::reached)).await;
    gates.iter().for_each(Gate::open);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let commits = wal.stats().commits;
    assert!(
        commits >= 5,
        "one block took what other lanes could have written: {commits}"
    );
    assert!(place.replayed(0).await.into_iter().eq(1..=7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_the_block_of_a_lane_that_fails_or_hangs_goes_to_another_lane() {
    for hangs in [false, true] {
        let mut place = striped(WalFormat::Bincode).await;
        if hangs {
            place.options.stall = Duration::from_millis(600);
        }
        let (wal, _) = place.open(0).await.unwrap();
        let gate = Gate::default();
        let fault = if hangs {
            Fault::Block(gate.clone())
        } else {
            Fault::Error(ErrorKind::Other)
        };
        wal.faults().always("sync", Some(place.roots[2].id()), fault);
        let calls = (1..=20).map(|id| wal.append(vec![large(id)]));
        for numbers in futures::future::join_all(calls).await {
            numbers.unwrap();
        }
        assert!(
            place.applied.lock().iter().map(|(seq, _)| *seq).eq(1..=20),
            "hangs: {hangs}"
        );
        assert!(place.replayed(0).await.into_iter().eq(1..=20), "hangs: {hangs}");
        gate.open();
        eventually("the end of the threads", async || Arc::strong_count(&wal.shared) == 1).await;
        assert!(
            place.replayed(0).await.into_iter().eq(1..=20),
            "hangs: {hangs}, after the late answer"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_a_lane_that_fails_is_replaced_by_the_spare() {
    let mut place = striped(WalFormat::Avro).await;
    place.lanes = 2;
    let spare = place.roots[2].clone();
    place.spare = Some(Arc::new(move |_, _| {
        let spare = spare.clone();
        async move { Ok(spare) }.boxed()
    }));
    let (wal, _) = place.open(0).await.unwrap();
    wal.faults()
        .always("write", Some(place.roots[0].id()), Fault::Error(ErrorKind::StorageFull));
    for numbers in futures::future::join_all((1..=20).map(|id| wal.append(vec![large(id)]))).await {
        numbers.unwrap();
    }
    assert!(place.files_on(2).len() + place.files_on(1).len() >= 2);
    assert!(place.replayed(0).await.into_iter().eq(1..=20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_when_every_lane_fails_callers_get_an_error_and_the_log_goes_on_when_it_can() {
    let place = striped(WalFormat::Avro).await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    let applied = |wal: &Wal| wal.last_seq();
    for _ in 0..LANES {
        wal.faults().once("write", None, Fault::Error(ErrorKind::StorageFull));
    }
    let error = wal.append(vec![upsert(2)]).await.unwrap_err();
    assert!(matches!(error, Error::StorageFull { .. }), "{error}");
    assert_eq!(applied(&wal), 1);
    let numbers = wal.append(vec![upsert(3)]).await.unwrap();
    assert!(numbers.start > 2);
    assert_eq!(place.replayed(0).await, [1, numbers.start]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_a_log_changes_between_one_lane_and_several() {
    let mut place = striped(WalFormat::Avro).await;
    let mut last = 0;
    for lanes in [1, 3, 2, 1, 3] {
        place.lanes = lanes;
        let (wal, replayed) = place.open(0).await.unwrap();
        assert!(replayed.iter().map(|(seq, _)| *seq).eq(1..=last), "{lanes} lanes");
        for numbers in futures::future::join_all((0..6).map(|id| wal.append(vec![large(id)]))).await {
            last = last.max(numbers.unwrap().start);
        }
        wal.continue_on(place.roots[..(lanes % 3) + 1].to_vec()).await.unwrap();
        for numbers in futures::future::join_all((0..6).map(|id| wal.append(vec![large(id)]))).await {
            last = last.max(numbers.unwrap().start);
        }
    }
    assert!(place.replayed(0).await.into_iter().eq(1..=last));
}

/// One block of a made log.
#[derive(Debug, Clone)]
struct Made {
    lane: usize,
    first: Seq,
    count: usize,
    /// Last number acknowledged when it was written.
    mark: Seq,
}

/// Blocks with their lanes; each is written when a random number of those before it is acknowledged.
fn made_blocks() -> impl Strategy<Value = Vec<Made>> {
    prop::collection::vec((0..LANES, 1_usize..4, 0..LANES), 1..14).prop_map(|plan| {
        let mut blocks: Vec<Made> = Vec::new();
        let mut mark = 0;
        for (lane, count, behind) in plan {
            let first = blocks.last().map_or(1, |last| last.first + last.count as u64);
            // At most one block of every other lane is still under way, and never one of this lane.
            let under_way =
                |at: usize| blocks.len() - at <= behind && blocks[at..].iter().all(|other| other.lane != lane);
            let acknowledged = (0..blocks.len()).find(|at| under_way(*at)).unwrap_or(blocks.len());
            let reached = acknowledged
                .checked_sub(1)
                .map_or(0, |at| blocks[at].first + blocks[at].count as u64 - 1);
            mark = reached.max(mark);
            blocks.push(Made {
                lane,
                first,
                count,
                mark,
            });
        }
        blocks
    })
}

/// The blocks as files, one a lane, and for each block where it stands: lane, start, end.
fn write(place: &Place, blocks: &[Made]) -> Vec<(usize, usize, usize)> {
    let mut files: Vec<Option<(Header, Vec<u8>)>> = vec![None; LANES];
    let mut spans = Vec::new();
    for made in blocks {
        let (header, bytes) = files[made.lane].get_or_insert_with(|| {
            let header = Header {
                format: place.format,
                version: FORMAT_VERSION,
                description: format!(r#"{{"id":"{COLLECTION}"}}"#),
                shard: "000".into(),
                first_seq: made.first,
                previous_seq: made.first - 1,
                acknowledged: made.mark,
                lanes: LANES as u32,
                marker: uuid::Uuid::new_v4().into_bytes(),
                author: None,
            };
            let bytes = header.encode();
            (header, bytes)
        });
        let operations: Vec<Operation> = (0..made.count as u64).map(|at| upsert(made.first + at)).collect();
        let start = bytes.len();
        bytes.extend_from_slice(&super::bytes::block(
            place.format,
            made.first,
            &operations,
            made.mark,
            &header.marker,
        ));
        spans.push((made.lane, start, bytes.len()));
    }
    for (lane, (header, bytes)) in files
        .into_iter()
        .enumerate()
        .filter_map(|(lane, file)| Some((lane, file?)))
    {
        std::fs::create_dir_all(place.directory_on(lane)).unwrap();
        std::fs::write(
            place.directory_on(lane).join(file_name(header.first_seq, place.format)),
            bytes,
        )
        .unwrap();
    }
    spans
}

/// Cuts the file of a lane at `at` and leaves zeros behind.
fn cut(place: &Place, lane: usize, at: usize) {
    let file = place.directory_on(lane).join(&place.files_on(lane)[0].name);
    let mut bytes = std::fs::read(&file).unwrap();
    let length = bytes.len();
    bytes.truncate(at);
    bytes.resize(length + 50, 0);
    std::fs::write(&file, bytes).unwrap();
}

/// The end of what no crash may take: marks are of what was durable.
fn durable_before(blocks: &[Made], kept: usize) -> Seq {
    blocks[..kept].iter().map(|made| made.mark).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn c6_after_a_crash_of_striped_lanes_what_was_acknowledged_is_there_once_and_in_order(
        blocks in made_blocks(),
        format in prop::sample::select(WalFormat::ALL.to_vec()),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), LANES),
        is_damage in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = striped(format).await;
            let spans = write(&place, &blocks);
            let marked = durable_before(&blocks, blocks.len());
            let last_of = |made: &Made| made.first + made.count as u64 - 1;
            // In each lane the first lost block, and the bytes of it that are still there.
            let mut lost = vec![false; blocks.len()];
            for (lane, index) in cuts.iter().enumerate() {
                let own: Vec<usize> = (0..blocks.len()).filter(|at| blocks[*at].lane == lane).collect();
                let loses = |at: &&usize| is_damage || last_of(&blocks[**at]) > marked;
                let candidates: Vec<usize> = own.iter().filter(loses).copied().collect();
                if candidates.is_empty() || index.index(4) == 0 {
                    continue;
                }
                let at = candidates[index.index(candidates.len())];
                let (_, start, end) = spans[at];
                cut(&place, lane, start + index.index(end - start));
                own.iter().filter(|other| **other >= at).for_each(|other| lost[*other] = true);
            }
            let known = blocks.iter().zip(&lost).filter(|(_, lost)| !**lost).map(|(made, _)| made.mark).max().unwrap_or(0);
            let first_marks = (0..LANES).filter_map(|lane| blocks.iter().find(|made| made.lane == lane)).map(|made| made.mark);
            let known = known.max(first_marks.max().unwrap_or(0));
            let kept = lost.iter().position(|lost| *lost).unwrap_or(blocks.len());
            let end = kept.checked_sub(1).map_or(0, |at| last_of(&blocks[at]));
            match place.open(0).await {
                Err(Error::Corruption(message)) => {
                    assert!(known > end, "{message}");
                    assert!(message.contains(&format!("entries {} to ", end + 1)), "{message}");
                }
                Err(other) => panic!("{other}"),
                Ok((wal, replayed)) => {
                    assert!(known <= end, "acknowledged entries up to {known} are missing from {end} on");
                    let expected: Entries = (1..=end).map(|seq| (seq, upsert(seq))).collect();
                    assert_eq!(replayed, expected);
                    // What lies behind the gap never comes back, and writing goes on.
                    let numbers = wal.append(vec![delete(1), delete(2)]).await.unwrap();
                    assert!(numbers.start > end);
                    let expected: Vec<Seq> = (1..=end).chain(numbers.clone()).collect();
                    assert_eq!(place.replayed(0).await, expected);
                    assert_eq!(place.replayed(end).await, numbers.collect::<Vec<_>>());
                }
            }
        });
    }
}
