//! Random histories over several roots: writes, flushes, compactions, moves, drains and restarts, against a model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proximadb_db::collection::Collection;
use proximadb_db::config::Config;
use proximadb_db::database::MoveState;
use proximadb_db::point::{NamedVectors, Payload, Point, PointId};
use proximadb_db::root::{RootState, StorageComponentType};
use proximadb_db::schema::Schema;
use proximadb_db::{Database, Error, PayloadSelector, PointSelector, Selection, VectorSelector};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;

use crate::patience::eventually;

const ROOTS: usize = 3;
const NAME: &str = "points";
const STEPS: usize = 60;
const IDS: u64 = 400;

/// What is different between the worlds.
#[derive(Debug, Clone, Copy)]
struct World {
    engine: &'static str,
    affinity: bool,
    format: &'static str,
}

async fn open(directory: &Path, world: World) -> Arc<Database> {
    let urls: Vec<String> = (0..ROOTS)
        .map(|n| format!("file://{}/{n}", directory.display()))
        .collect();
    let mut variables = vec![
        ("STORAGE__URLS".to_owned(), serde_json::to_string(&urls).unwrap()),
        ("STORAGE__WAL_CONFIG__FORMAT".to_owned(), world.format.to_owned()),
        ("STORAGE__INDEX_CONFIG__BACKUP_REPLICAS".to_owned(), "2".to_owned()),
    ];
    for section in ["WAL_CONFIG", "VIPER_CONFIG"] {
        variables.push((
            format!("STORAGE__{section}__COLLECTION_AFFINITY"),
            world.affinity.to_string(),
        ));
    }
    let variables = variables
        .into_iter()
        .map(|(key, value)| (format!("PROXIMADB__{key}"), value));
    Database::open(Config::load(None, variables).unwrap()).await.unwrap()
}

fn schema(world: World) -> Schema {
    let schema = json!({ "vectors": { "": { "size": 4, "distance": "Euclid" } }, "storage_engine": world.engine });
    serde_json::from_value(schema).unwrap()
}

fn point(id: u64, stamp: u64) -> Point {
    let vector = (0..4).map(|at| (stamp % 997) as f32 + at as f32).collect();
    let payload: Payload = serde_json::from_value(json!({ "stamp": stamp })).unwrap();
    Point {
        id: PointId::Num(id),
        vectors: NamedVectors::single(vector),
        payload,
    }
}

/// A database, what it should hold, and the random choices.
struct Run {
    directory: TempDir,
    world: World,
    database: Arc<Database>,
    model: BTreeMap<u64, u64>,
    random: StdRng,
    stamp: u64,
}

impl Run {
    async fn new(world: World, seed: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let database = open(directory.path(), world).await;
        database.create_collection(NAME, schema(world)).await.unwrap();
        Self {
            directory,
            world,
            database,
            model: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            stamp: 0,
        }
    }

    async fn collection(&self) -> Arc<Collection> {
        self.database.collection(NAME).await.unwrap()
    }

    async fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..8 => self.upsert().await,
            8..11 => self.delete().await,
            11..14 => self.collection().await.flush().await.unwrap(),
            14 => self.collection().await.compact().await.unwrap(),
            15..17 => self.begin_move().await,
            17 => self.settle().await,
            _ => self.restart().await,
        }
    }

    async fn upsert(&mut self) {
        let count = if self.random.random_bool(0.1) { 3_000 } else { 50 };
        self.stamp += 1;
        let ids: Vec<u64> = (0..count).map(|_| self.random.random_range(0..IDS * 10)).collect();
        self.model.extend(ids.iter().map(|id| (*id, self.stamp)));
        let points = ids.into_iter().map(|id| point(id, self.stamp)).collect();
        self.collection().await.upsert(points).await.unwrap();
    }

    async fn delete(&mut self) {
        let ids: Vec<u64> = (0..30).map(|_| self.random.random_range(0..IDS * 10)).collect();
        self.model.retain(|id, _| !ids.contains(id));
        let ids = ids.into_iter().map(PointId::Num).collect();
        self.collection().await.delete(PointSelector::Ids(ids)).await.unwrap();
    }

    /// A move of any component to any root; one that cannot be begun is refused and changes nothing.
    async fn begin_move(&mut self) {
        let component = StorageComponentType::ALL[self.random.random_range(0..5)];
        let roots = self.database.roots().of_component(component);
        let to = roots[self.random.random_range(0..ROOTS)].id();
        match self.database.move_component(NAME, component, None, to).await {
            Ok(_) | Err(Error::InvalidInput(_)) => {}
            Err(error) => panic!("{component}: {error}"),
        }
    }

    /// Waits for all moves.
    async fn settle(&self) {
        eventually("the end of the moves", async || {
            let moves = self.database.moves();
            let open: Vec<_> = moves
                .iter()
                .filter(|report| !matches!(report.state, MoveState::Done | MoveState::Ended))
                .collect();
            assert!(open.iter().all(|report| report.error.is_none()), "{open:?}");
            open.is_empty()
        })
        .await;
    }

    async fn restart(&mut self) {
        self.database.close().await;
        self.database = open(self.directory.path(), self.world).await;
        self.check().await;
    }

    async fn check(&self) {
        let select = Selection {
            payload: PayloadSelector::All,
            vectors: VectorSelector::All,
        };
        let (records, next) = self
            .collection()
            .await
            .scroll(None, None, usize::MAX, &select)
            .await
            .unwrap();
        assert!(next.is_none());
        let found: BTreeMap<u64, u64> = records
            .iter()
            .map(|record| {
                let PointId::Num(id) = record.id else {
                    panic!("{record:?}")
                };
                let stamp = record.payload.as_ref().unwrap()["stamp"].as_u64().unwrap();
                let vectors = record.vectors.as_ref().unwrap();
                assert_eq!(*vectors, point(id, stamp).vectors);
                (id, stamp)
            })
            .collect();
        assert_eq!(found.len(), records.len(), "no point occurs twice");
        assert_eq!(found, self.model);
    }

    /// Everything moves off one root of each component, and nothing of the collection is left there.
    async fn drain(&mut self) {
        for component in StorageComponentType::ALL {
            let root = self
                .database
                .roots()
                .of_component(component)
                .remove(self.random.random_range(0..ROOTS));
            self.database.drain_root(root.id()).await.unwrap();
            eventually("the end of the drain", async || {
                self.database.residents(&root).is_empty()
            })
            .await;
            self.settle().await;
            let left = root.list("").await.unwrap();
            let left: Vec<_> = left
                .iter()
                .filter(|file| !file.path.starts_with("_proximadb/"))
                .collect();
            assert!(left.is_empty(), "{component}: {left:?}");
            self.check().await;
            self.database.resume_root(root.id()).await.unwrap();
            assert_eq!(root.state(), RootState::Online);
        }
    }
}

async fn history(world: World, seed: u64) {
    println!("{world:?}, seed {seed}");
    let mut run = Run::new(world, seed).await;
    for _ in 0..STEPS {
        run.step().await;
    }
    run.check().await;
    run.settle().await;
    run.drain().await;
    run.restart().await;
    run.database.close().await;
}

/// `PROXIMADB_SEED` replays one.
fn seed() -> u64 {
    let given = std::env::var("PROXIMADB_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(rand::random)
}

const VIPER: World = World {
    engine: "viper",
    affinity: true,
    format: "avro",
};

#[tokio::test(flavor = "multi_thread")]
async fn k4_moves_and_drains_lose_nothing_of_viper_collections() {
    history(VIPER, seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_moves_and_drains_lose_nothing_of_lsm_collections() {
    let world = World {
        engine: "lsm",
        format: "bincode",
        ..VIPER
    };
    history(world, seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_g2_moves_and_drains_lose_nothing_of_striped_collections() {
    let world = World {
        affinity: false,
        ..VIPER
    };
    history(world, seed()).await;
}
