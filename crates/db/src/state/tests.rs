#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::engine::compaction;
use crate::engine::segment::SegmentId;
use crate::root::RootId;

/// What happens to a shard, as far as its state is concerned.
#[derive(Debug, Clone)]
enum Step {
    Upsert(u64),
    Delete(u64),
    Freeze,
    /// The frozen table becomes a segment, after the writes that follow it in the list of steps up to here.
    Flush,
    /// All segments become one.
    Compact,
    /// The process dies: segments and the log above them are all that is left.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12u64).prop_map(Step::Upsert),
        3 => (0..12u64).prop_map(Step::Delete),
        1 => Just(Step::Freeze),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

fn schema() -> Arc<Schema> {
    let schema = json!({ "vectors": { "": { "size": 2, "distance": "Dot" } } });
    Arc::new(serde_json::from_value(schema).unwrap())
}

fn meta(data: &SegmentData) -> SegmentMeta {
    let (min_seq, max_seq) = data.seq_range().unwrap_or_default();
    let (rows, tombstones) = (data.len() as u64, data.tombstones.len() as u64);
    let meta = json!({
        "id": SegmentId::generate(), "root_id": RootId(Uuid::nil()), "rows": rows, "tombstones": tombstones,
        "min_seq": min_seq, "max_seq": max_seq, "bytes": 1, "data_bytes": 1, "crc32": 0, "replaces": [],
    });
    serde_json::from_value(meta).unwrap()
}

/// A shard without files: its state, what would be in its segments and log, and what must be visible.
struct World {
    state: State,
    flushed_seq: Seq,
    log: Vec<(Seq, Operation)>,
    model: BTreeMap<u64, Seq>,
    seq: Seq,
}

impl World {
    fn new() -> Self {
        let state = State::load(schema(), 0, Vec::new());
        Self {
            state,
            flushed_seq: 0,
            log: Vec::new(),
            model: BTreeMap::new(),
            seq: 0,
        }
    }

    fn write(&mut self, operation: Operation) {
        self.seq += 1;
        self.log.push((self.seq, operation.clone()));
        self.state.apply(self.seq, operation);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Upsert(id) => {
                let vectors = NamedVectors::single(vec![*id as f32, (self.seq + 1) as f32]);
                self.write(Operation::Upsert(Point {
                    id: PointId::Num(*id),
                    vectors,
                    payload: Payload::new(),
                }));
                self.model.insert(*id, self.seq);
            }
            Step::Delete(id) => {
                self.write(Operation::Delete(PointId::Num(*id)));
                self.model.remove(id);
            }
            Step::Freeze => drop(self.state.freeze()),
            Step::Flush => self.flush(),
            Step::Compact => self.compact(),
            Step::Restart => self.restart(),
        }
    }

    fn flush(&mut self) {
        let Some(frozen) = self.state.frozen_for_flush() else {
            return;
        };
        let (data, kept) = frozen.table.to_segment(&frozen.live);
        // Segments are sorted by cluster; any other order than that of arrival will do.
        let order: Vec<u32> = (0..data.len() as u32).rev().collect();
        let data = Arc::new(data.reorder(&order));
        let origins: Vec<Location> = order
            .iter()
            .map(|row| Location {
                source: frozen.source,
                row: kept[*row as usize],
            })
            .collect();
        let source = self.state.add_segment(meta(&data), data.clone());
        self.state.adopt(source, 0..origins.len(), &origins);
        self.state.drop_frozen();
        self.flushed_seq = frozen.through;
        self.log.retain(|(seq, _)| *seq > frozen.through);
    }

    fn compact(&mut self) {
        let inputs: Vec<SegmentSource> = self.state.segments().cloned().collect();
        let parts: Vec<_> = inputs
            .iter()
            .map(|input| (input.data.clone(), (*input.live).clone()))
            .collect();
        let merged = Arc::new(compaction::merge(&schema(), &parts, None).unwrap());
        let origins: Vec<Location> = inputs
            .iter()
            .flat_map(|input| {
                input.live.ones().map(|row| Location {
                    source: input.source,
                    row: row as u32,
                })
            })
            .collect();
        let source = self.state.add_segment(meta(&merged), merged);
        self.state.adopt(source, 0..origins.len(), &origins);
        let sources: Vec<SourceId> = inputs.iter().map(|input| input.source).collect();
        self.state.drop_segments(&sources);
    }

    fn restart(&mut self) {
        let segments = self
            .state
            .segments()
            .map(|segment| (segment.meta.clone(), segment.data.clone()))
            .collect();
        self.state = State::load(schema(), self.flushed_seq, segments);
        for (seq, operation) in self.log.clone() {
            self.state.apply(seq, operation);
        }
    }

    fn check(&self) {
        let seen: BTreeMap<u64, Seq> = self
            .state
            .points_from(None)
            .map(|(id, location)| {
                let PointId::Num(number) = id else {
                    panic!("only numbers are written")
                };
                let seq = self.state.seq(location);
                assert_eq!(
                    self.state.vectors(location).unwrap(),
                    NamedVectors::single(vec![number as f32, seq as f32])
                );
                (number, seq)
            })
            .collect();
        assert_eq!(seen, self.model);
        let in_tables: usize = self
            .state
            .memtables()
            .map(|memtable| memtable.live.count_ones(..))
            .sum();
        let in_segments: usize = self.state.segments().map(|segment| segment.live.count_ones(..)).sum();
        assert_eq!(in_tables + in_segments, self.model.len(), "each point has one live row");
        assert!(
            self.state
                .segments()
                .all(|segment| segment.live_rows == segment.live.count_ones(..))
        );
    }
}

proptest! {
    /// G8, invariants 7 and 12: whatever is flushed, merged or replayed, and in which order, the newest version of every
    /// point is visible and no deleted one comes back.
    #[test]
    fn any_history_shows_the_newest_version_of_every_point(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.restart();
        world.check();
    }
}
