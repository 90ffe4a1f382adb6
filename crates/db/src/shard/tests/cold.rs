//! A shard whose index root is a bucket: it reads what it needs, and answers as one that has everything in memory.

use proximadb_index::{IndexKind, Metric};
use proximadb_store::{Blocks, Cache, CacheConfig, FileInfo};
use serde_json::json;
use testservers::{Faults, Kind};

use super::*;
use crate::filter::Filter;
use crate::point::{Point, PointId};
use crate::search::{PayloadSelector, Record, ScoredPoint, Selection, VectorSelector};

const ROWS: u64 = 12_000;

impl Fixture {
    /// The same with indexes on a bucket, behind a proxy.
    async fn with_index_on_bucket() -> (Self, Faults) {
        let directory = TempDir::new().unwrap();
        let (bucket, faults) = testservers::bucket(Kind::S3).with_faults();
        let config = |component: StorageComponentType| {
            let (url, options) = match component {
                StorageComponentType::Index => (bucket.url.clone(), bucket.options.clone()),
                _ => (
                    format!("file://{}/{component}", directory.path().display()),
                    BTreeMap::new(),
                ),
            };
            RootConfig {
                component,
                url: StorageUrl::parse(&url).unwrap(),
                options,
                tags: BTreeMap::new(),
                weight: 1.0,
            }
        };
        let roots = Roots::open(StorageComponentType::ALL.into_iter().map(config).collect(), false);
        let roots = Arc::new(roots.await.unwrap());
        let cache = CacheConfig {
            memory_bytes: 64 << 20,
            directory: None,
            disk_bytes: 0,
        };
        let cache = Cache::open(&cache).await.unwrap();
        roots.of_component(StorageComponentType::Index)[0].fs().set_cache(cache);
        let fixture = Self {
            directory,
            roots,
            budget: MemoryBudget::new(1 << 30),
            bucket_memory: BucketMemory::new(1 << 30),
        };
        (fixture, faults)
    }

    fn bucket(&self) -> Arc<crate::root::Root> {
        self.roots.of_component(StorageComponentType::Index).remove(0)
    }

    async fn stored(&self, extension: &str) -> Vec<FileInfo> {
        let mut files = self.bucket().list("").await.unwrap();
        files.retain(|file| file.path.ends_with(extension));
        files
    }
}

fn select() -> Selection {
    Selection {
        payload: PayloadSelector::All,
        vectors: VectorSelector::All,
    }
}

fn queries() -> Vec<Query> {
    let near = |number: u64| Query {
        select: select(),
        ..Query::nearest(vec![(number % 4 * 100) as f32 + 4.5, 3.0, number as f32, 250.0], 10)
    };
    let filter: Filter =
        serde_json::from_value(json!({"must": [{"key": "a.b", "match": {"value": "word 4"}}]})).unwrap();
    let ids: Filter = serde_json::from_value(json!({"must": [{"has_id": [1, 2, 400, 5_000]}]})).unwrap();
    let title = |number: f32| Query {
        using: "title".to_owned(),
        ..Query::nearest(vec![number, -0.5], 15)
    };
    let mut queries: Vec<Query> = (0..8).map(near).collect();
    queries.push(Query { limit: 100, ..near(7) });
    queries.push(Query {
        filter: Some(filter),
        ..near(9)
    });
    queries.push(Query {
        filter: Some(ids),
        ..near(9)
    });
    queries.push(Query { exact: true, ..near(2) });
    queries.extend([title(3.0), title(700.0)]);
    queries
}

/// What a user sees.
#[derive(Debug, PartialEq)]
struct Seen {
    found: Vec<Vec<ScoredPoint>>,
    records: Vec<Record>,
    page: (Vec<Record>, Option<PointId>),
    count: u64,
}

async fn seen(shard: &Arc<Shard>) -> Seen {
    let mut found = Vec::new();
    for query in queries() {
        let metric = if query.using.is_empty() {
            Metric::Euclidean
        } else {
            Metric::Dot
        };
        found.push(shard.search(&query, metric).await.unwrap());
    }
    let ids: Vec<PointId> = (0..ROWS).step_by(997).map(|number| point(number, DIM).id).collect();
    let filter: Filter = serde_json::from_value(json!({"must": [{"key": "n", "range": {"gte": 3_000}}]})).unwrap();
    Seen {
        found,
        records: shard.retrieve(&ids, &select()).await.unwrap(),
        page: shard.scroll(Some(&filter), None, 50, &select()).await.unwrap(),
        count: shard.count(Some(&filter)).await.unwrap(),
    }
}

/// What is compared with every point.
async fn exact(shard: &Arc<Shard>) -> Vec<Vec<ScoredPoint>> {
    let mut found = Vec::new();
    for query in queries().into_iter().filter(|query| query.using.is_empty()) {
        let query = Query { exact: true, ..query };
        found.push(shard.search(&query, Metric::Euclidean).await.unwrap());
    }
    found
}

/// Whatever happens to an index: it is searched through it, or exactly.
async fn assert_right(shard: &Arc<Shard>, expected: &(Seen, Vec<Vec<ScoredPoint>>), what: &str) {
    let now = seen(shard).await;
    assert_eq!(
        (&now.records, &now.page, now.count),
        (&expected.0.records, &expected.0.page, expected.0.count),
        "{what}"
    );
    for (now, before) in now.found.iter().zip(&expected.0.found) {
        assert_eq!(now.len(), before.len(), "{what}");
    }
    assert_eq!(exact(shard).await, expected.1, "{what}");
}

fn in_parts(shard: &Shard) -> usize {
    let segments = shard.segments();
    let partial = |segment: &&crate::state::SegmentSource| {
        segment.data.partial().is_some() && segment.indexes.partial().is_some()
    };
    segments.iter().filter(partial).count()
}

async fn filled(fixture: &Fixture) -> Arc<Shard> {
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..ROWS)).await.unwrap();
    shard.flush().await.unwrap();
    shard.write(upserts(100..200)).await.unwrap();
    let deletes = (0..ROWS)
        .step_by(50)
        .map(|number| Operation::Delete(point(number, DIM).id));
    shard.write(deletes.collect()).await.unwrap();
    shard.flush().await.unwrap();
    eventually("index files", async || {
        fixture.stored(".ivf").await.len() == 1 && fixture.stored(".idx").await.len() == 1
    })
    .await;
    shard
}

#[tokio::test(flavor = "multi_thread")]
async fn issue5_a_shard_on_a_bucket_reads_what_it_needs_and_answers_as_from_memory() {
    let (fixture, _faults) = Fixture::with_index_on_bucket().await;
    let shard = filled(&fixture).await;
    let query = queries().remove(0);
    let explained = async |shard: &Arc<Shard>| shard.explain(Some((&query, Metric::Euclidean))).await.unwrap().reads;
    assert_eq!(
        explained(&shard).await,
        Reads::default(),
        "what was written is in memory"
    );
    let expected = seen(&shard).await;
    shard.close().await;

    let shard = fixture.open().await.unwrap();
    assert_eq!(in_parts(&shard), 1);
    let reads = explained(&shard).await;
    // Some rows are dead, so how far to look shows when the first lists were read.
    assert!((1..=4).contains(&reads.rounds), "{reads:?}");
    let stored: u64 = [fixture.stored(".idx").await, fixture.stored(".ivf").await]
        .concat()
        .iter()
        .map(|file| file.size)
        .sum();
    let read: u64 = reads.roots.values().map(|fetched| fetched.bytes).sum();
    assert!(0 < read && read < stored, "{reads:?} of {stored}");
    assert_eq!(explained(&shard).await, Reads::default(), "it is all there");
    assert_eq!(seen(&shard).await, expected);
    shard.close().await;

    // A point that is changed is read; what is merged is read whole.
    let shard = fixture.open().await.unwrap();
    let id = point(501, DIM).id;
    let change = |state: &State| {
        let location = state.locate(id).unwrap();
        let mut point: Point = state.point(id, location)?;
        point.payload.insert("changed".to_owned(), json!(true));
        Ok(vec![Operation::Upsert(point)])
    };
    shard.read_modify_write(change).await.unwrap();
    shard.flush().await.unwrap();
    shard.compact().await.unwrap();
    assert_eq!(shard.segments().len(), 1);
    let changed = shard.retrieve(&[id], &select()).await.unwrap().remove(0);
    let mut point = point(501, DIM);
    point.payload.insert("changed".to_owned(), json!(true));
    assert_eq!(
        (changed.payload, changed.vectors),
        (Some(point.payload), Some(point.vectors))
    );
    let merged = seen(&shard).await;
    assert_eq!((merged.count, &merged.page), (expected.count, &expected.page));
    eventually("the new index", async || {
        fixture.stored(".ivf").await.len() == 1 && !shard.segments()[0].indexes.is_empty()
    })
    .await;
    let merged = seen(&shard).await;
    shard.close().await;
    let shard = fixture.open().await.unwrap();
    assert_eq!(in_parts(&shard), 1);
    assert_eq!(seen(&shard).await, merged);
    shard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_hybrid_index_on_a_bucket_is_read_whole_and_finds_the_same() {
    let (fixture, _faults) = Fixture::with_index_on_bucket().await;
    let open = async || {
        let mut description = description(DIM);
        let metadata = json!({"proximadb": {"index": "hybrid"}});
        description.schema.settings.insert("metadata".to_owned(), metadata);
        let options = fixture.options(description.id);
        Shard::open(description, "000", options).await.unwrap()
    };
    let shard = open().await;
    shard.write(upserts(0..ROWS)).await.unwrap();
    shard.flush().await.unwrap();
    eventually("index files", async || {
        fixture.stored(".ivf").await.len() == 1 && fixture.stored(".idx").await.len() == 1
    })
    .await;
    let expected = seen(&shard).await;
    shard.close().await;
    let shard = open().await;
    let segments = shard.segments();
    let kinds: Vec<IndexKind> = segments[0].indexes.values().map(|index| index.kind()).collect();
    assert!(kinds.contains(&IndexKind::Hybrid), "{kinds:?}");
    assert_eq!(seen(&shard).await, expected);
    shard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn issue5_a_file_on_a_bucket_that_is_damaged_or_lost_is_made_anew_and_never_believed() {
    let (fixture, _faults) = Fixture::with_index_on_bucket().await;
    let shard = filled(&fixture).await;
    let expected = (seen(&shard).await, exact(&shard).await);
    shard.close().await;
    for extension in [".idx", ".ivf"] {
        let file = fixture.stored(extension).await.remove(0);
        let good = fixture.bucket().read(&file.path).await.unwrap();
        let body = Blocks::of(&good).unwrap().body();
        // The first block is looked at by the opening, the last one by searches.
        for at in [30, body.start + 5, body.end - 5] {
            let mut damaged = good.to_vec();
            damaged[at as usize] ^= 1;
            fixture
                .bucket()
                .write_pieces(&file.path, &[damaged.into()])
                .await
                .unwrap();
            let shard = fixture.open().await.unwrap();
            assert_right(&shard, &expected, &format!("{extension} {at}")).await;
            eventually("a good file", async || {
                shard.repair_indexes().await;
                fixture.bucket().read(&file.path).await.is_ok_and(|bytes| bytes == good)
            })
            .await;
            eventually("an index", async || seen(&shard).await == expected.0).await;
            shard.close().await;
        }
        // One that goes away while it is in use.
        let shard = fixture.open().await.unwrap();
        fixture.bucket().delete(&file.path).await.unwrap();
        assert_right(&shard, &expected, &format!("without {extension}")).await;
        eventually("the file again", async || {
            shard.repair_indexes().await;
            fixture.bucket().read(&file.path).await.is_ok_and(|bytes| bytes == good)
        })
        .await;
        shard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issue5_while_a_bucket_refuses_searches_of_what_was_not_read_say_so_and_go_on_afterwards() {
    let (fixture, faults) = Fixture::with_index_on_bucket().await;
    let shard = filled(&fixture).await;
    let expected = seen(&shard).await;
    shard.close().await;
    let shard = fixture.open().await.unwrap();
    let query = queries().remove(0);
    faults.set(&json!([{"method": "GET", "path": "[.]ivf", "action": "status", "status": 403}]));
    let refused = shard.search(&query, Metric::Euclidean).await.unwrap_err();
    assert!(matches!(refused, Error::RootUnavailable { .. }), "{refused}");
    // Rows are read from the segment, which is on another root.
    faults.set(&json!([{"method": "GET", "path": "[.]idx", "action": "status", "status": 403}]));
    fixture.bucket().set_state(RootState::Online);
    assert_eq!(shard.retrieve(&[point(1, DIM).id], &select()).await.unwrap().len(), 1);
    faults.clear();
    fixture.bucket().set_state(RootState::Online);
    assert_eq!(seen(&shard).await, expected);
    shard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn issue5_what_lies_on_a_bucket_holds_no_more_memory_than_allowed_and_answers_stay() {
    let (mut fixture, _faults) = Fixture::with_index_on_bucket().await;
    let shard = filled(&fixture).await;
    let expected = seen(&shard).await;
    assert_eq!(in_parts(&shard), 0, "what was written is in memory");
    let all = fixture.bucket_memory.used();
    shard.close().await;

    fixture.bucket_memory = BucketMemory::new(all / 3);
    let shard = fixture.open().await.unwrap();
    for _ in 0..5 {
        // Exact searches read everything.
        assert_eq!(seen(&shard).await, expected);
    }
    let is_kept = || fixture.bucket_memory.used() <= all / 3;
    eventually("memory given up", async || is_kept()).await;
    assert_eq!(in_parts(&shard), 1);
    assert_eq!(seen(&shard).await, expected);

    // What is made here does not stay in memory either.
    shard.compact().await.unwrap();
    eventually("new files, in parts", async || in_parts(&shard) == 1 && is_kept()).await;
    let now = seen(&shard).await;
    assert_eq!((now.count, &now.page), (expected.count, &expected.page));
    shard.close().await;
}
