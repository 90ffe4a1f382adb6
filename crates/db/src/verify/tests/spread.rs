//! Collections over several roots: striping, lanes of the log, trees, index copies, moves cut short.

use super::*;
use crate::database::MoveState;
use crate::root::RootId;
use crate::schema::StorageEngineKind;
use FindingKind::Incomplete;

const POINTS: u64 = 20_000;

fn spread_config(directory: &Path, affinity: bool) -> Config {
    let striped = format!("collection_affinity = {affinity}\n");
    config_with(directory, |section| match section {
        "wal" => format!("format = \"bincode\"\n{striped}"),
        "viper" => format!("distribution_strategy = \"RoundRobin\"\n{striped}"),
        "index" => "backup_replicas = 2\nindex_type_affinity = false\n".to_owned(),
        _ => String::new(),
    })
}

fn wide_points(numbers: std::ops::Range<u64>) -> Vec<Point> {
    let mut points = points(numbers.clone());
    for (point, number) in points.iter_mut().zip(numbers) {
        let vector = (0..32).map(|at| ((number * 31 + at * 7) % 97) as f32).collect();
        point.vectors.insert(String::new(), vector);
    }
    points
}

async fn create(database: &Arc<Database>, engine: StorageEngineKind) {
    let schema = json!({"vectors": {"": {"size": 32, "distance": "Euclid"}}});
    let mut schema: crate::schema::Schema = serde_json::from_value(schema).unwrap();
    schema.storage_engine = engine;
    database.create_collection("c", schema).await.unwrap();
    let collection = database.collection("c").await.unwrap();
    for start in (0..POINTS).step_by(4_000) {
        collection.upsert(wide_points(start..start + 4_000)).await.unwrap();
    }
    collection.flush().await.unwrap();
    for number in POINTS..POINTS + 12 {
        collection.upsert(wide_points(number..number + 1)).await.unwrap();
    }
}

impl Stopped {
    async fn spread(engine: StorageEngineKind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = spread_config(directory.path(), engine == StorageEngineKind::Lsm);
        let database = Database::open(config.clone()).await.unwrap();
        create(&database, engine).await;
        if engine == StorageEngineKind::Viper {
            // The indexes are built in the background, with two copies each.
            let count = |extension| files_below(directory.path(), extension).len();
            let are_there = || count("ivf") >= 2 && count("ivf") % 2 == 0 && count("idx") == count("ivf");
            eventually("the indexes", async || are_there()).await;
        }
        database.close().await;
        Self { directory, config }
    }

    /// A move that gets as far as the manifests, which the new root refuses.
    async fn moved_halfway(engine: StorageEngineKind) -> Self {
        let component = match engine {
            StorageEngineKind::Viper => StorageComponentType::Viper,
            StorageEngineKind::Lsm => StorageComponentType::Lsm,
        };
        let directory = tempfile::tempdir().unwrap();
        let config = spread_config(directory.path(), true);
        let database = Database::open(config.clone()).await.unwrap();
        create(&database, engine).await;
        let stopped = Self { directory, config };
        let target = stopped.elsewhere(component.name());
        std::fs::create_dir_all(target.join("000")).unwrap();
        std::fs::write(target.join("000/manifest"), "in the way").unwrap();
        let url = format!("file://{}", target.parent().unwrap().display());
        let roots = database.roots().of_component(component);
        let to: RootId = roots.iter().find(|root| root.url() == url).unwrap().id();
        database.move_component("c", component, None, to).await.unwrap();
        eventually("the refusal", async || database.moves()[0].state == MoveState::Waiting).await;
        database.close().await;
        std::fs::remove_file(target.join("000/manifest")).unwrap();
        stopped
    }

    /// Flips a byte in the middle of the first and the last file with one of these extensions.
    async fn check_every_flip(&self, extensions: &[&str], information: &[(FindingKind, &str)]) {
        let mut checked = 0;
        for extension in extensions {
            let files = self.files(extension);
            for file in [files.first().unwrap(), files.last().unwrap()] {
                let original = std::fs::read(file).unwrap();
                flip(file, original.len() / 2);
                let mut expected = information.to_vec();
                expected.push((Damaged, name(file)));
                self.check(&self.verify().await, &expected);
                std::fs::write(file, &original).unwrap();
                checked += 1;
            }
        }
        assert_eq!(checked, 2 * extensions.len());
        self.check(&self.verify().await, information);
    }

    fn roots_with(&self, extension: &str) -> usize {
        let roots: std::collections::BTreeSet<PathBuf> = self
            .files(extension)
            .iter()
            .map(|file| root_of(self.path(), file))
            .collect();
        roots.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_a_striped_collection_passes_and_every_flipped_byte_is_named() {
    let stopped = Stopped::spread(StorageEngineKind::Viper).await;
    let before = contents(stopped.path());
    stopped.check(&stopped.verify().await, &[]);
    assert_eq!(contents(stopped.path()), before);
    assert!(stopped.roots_with("bincode") > 1);
    stopped.check_every_flip(&["bincode", "parquet", "json"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_on_one_of_several_roots_is_named() {
    let stopped = Stopped::spread(StorageEngineKind::Viper).await;
    for (extension, kind) in [
        ("bincode", Missing),
        ("parquet", Missing),
        ("ivf", Incomplete),
        ("idx", Incomplete),
    ] {
        for file in stopped.files(extension).into_iter().take(2) {
            let kept = std::fs::read(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            let end = match extension {
                "bincode" => ".bincode",
                _ => name(&file),
            };
            stopped.check(&stopped.verify().await, &[(kind, end)]);
            std::fs::write(&file, kept).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_on_another_root_than_its_manifest_says_is_an_orphan_there_and_missing_here() {
    let stopped = Stopped::spread(StorageEngineKind::Viper).await;
    let segment = stopped.files("parquet").remove(0);
    let root = root_of(stopped.path(), &segment);
    let mut others = (0..3).map(|n| stopped.path().join(format!("d{n}/viper")));
    let other = others.find(|other| *other != root).unwrap();
    let target = other.join(segment.strip_prefix(&root).unwrap());
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::copy(&segment, &target).unwrap();
    stopped.check(&stopped.verify().await, &[(Orphan, name(&segment))]);
    std::fs::remove_file(&segment).unwrap();
    stopped.check(
        &stopped.verify().await,
        &[(Orphan, name(&segment)), (Missing, name(&segment))],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_a_tree_passes_every_flipped_byte_is_named_and_a_second_tree_is_a_duplicate() {
    let stopped = Stopped::spread(StorageEngineKind::Lsm).await;
    stopped.check(&stopped.verify().await, &[]);
    stopped.check_every_flip(&["sst", "manifest", "bincode"], &[]).await;
    let (home, elsewhere) = (stopped.home("lsm"), stopped.elsewhere("lsm"));
    copy(&home, &elsewhere);
    stopped.check(&stopped.verify().await, &[(Duplicate, name(&home))]);
    std::fs::remove_dir_all(elsewhere).unwrap();
    let table = stopped.files("sst").remove(0);
    let orphan = table.with_file_name("01ARZ3NDEKTSV4RRFFQ69G5FAV.sst");
    std::fs::copy(&table, &orphan).unwrap();
    stopped.check(&stopped.verify().await, &[(Information, name(&orphan))]);
    std::fs::remove_file(orphan).unwrap();
    std::fs::remove_dir_all(home).unwrap();
    for index in stopped.of_component("index") {
        std::fs::remove_file(index).unwrap();
    }
    // The log has been flushed: what the tree had is in none of its files.
    stopped.check(&stopped.verify().await, &[(Missing, "/000"), (Missing, ".bincode")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_cut_short_is_information_and_damage_is_found_all_the_same() {
    for engine in [StorageEngineKind::Viper, StorageEngineKind::Lsm] {
        let stopped = Stopped::moved_halfway(engine).await;
        let id = name(&stopped.home("wal")).to_owned();
        let verification = stopped.verify().await;
        stopped.check(&verification, &[(Information, &id)]);
        let moving = verification.findings().next().unwrap();
        assert!(moving.problem.contains("being moved from file://"), "{moving:?}");
        if engine == StorageEngineKind::Viper {
            stopped
                .check_every_flip(&["parquet", "json"], &[(Information, &id)])
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_record_that_lags_is_told_from_another_history() {
    let stopped = Stopped::moved_halfway(StorageEngineKind::Viper).await;
    let id = name(&stopped.home("wal")).to_owned();
    let records = stopped.of_component("metadata");
    let newest = records.iter().max_by_key(|file| name(file).to_owned()).unwrap();
    std::fs::remove_file(newest).unwrap();
    let verification = stopped.verify().await;
    stopped.check(&verification, &[(Information, &id), (Incomplete, ".json")]);
    let lagging = verification
        .findings()
        .find(|finding| finding.kind == Incomplete)
        .unwrap();
    assert!(lagging.problem.contains("is on 1 of 2 homes"), "{lagging:?}");
    // The same version by another writer.
    let older = newest.parent().unwrap();
    let older = all_files(older).remove(0);
    let mut record = CollectionRecord::decode(&std::fs::read(&older).unwrap()).unwrap();
    record.nonce = uuid::Uuid::new_v4();
    std::fs::write(&older, crate::sealed::seal(&record).unwrap()).unwrap();
    stopped.check(&stopped.verify().await, &[(Information, &id), (Damaged, name(&older))]);
}
