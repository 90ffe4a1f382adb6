//! Real files of a real database, then one thing broken at a time (A17, E2, E4, E11).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod spread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Database;
use crate::engine::manifest::{Manifest, SegmentMeta};
use crate::metadata::{CollectionRecord, CollectionState, MetadataStore};
use crate::patience::eventually;
use crate::point::{NamedVectors, Operation, Point, PointId};
use crate::wal::{Wal, WalFile, WalOptions, WalStart, read_log_file};
use FindingKind::{Damaged, Duplicate, Information, Missing, Orphan, Stray, Unreachable};

const COMPONENTS: [&str; 5] = ["wal", "viper", "lsm", "index", "metadata"];

/// A stopped database with one collection of two segments, an index and a log with unflushed points.
struct Stopped {
    directory: TempDir,
    config: Config,
}

fn config_of(directory: &Path) -> Config {
    config_with(directory, |_| String::new())
}

/// Three roots for each component, and further keys of its section.
fn config_with(directory: &Path, further: impl Fn(&str) -> String) -> Config {
    let keys = ["wal_urls", "data_urls", "storage_urls", "index_urls", "metadata_urls"];
    let sections = ["wal", "viper", "lsm", "index", "collection_metadata"];
    let mut text = String::new();
    for ((component, key), section) in COMPONENTS.into_iter().zip(keys).zip(sections) {
        let urls: Vec<String> = (0..3)
            .map(|n| format!("file://{}/d{n}/{component}", directory.display()))
            .collect();
        text += &format!("[storage.{section}_config]\n{key} = {urls:?}\n{}", further(component));
    }
    let file = directory.join("proximadb.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), std::iter::empty()).unwrap()
}

fn points(numbers: std::ops::Range<u64>) -> Vec<Point> {
    let point = |number| {
        let mut vectors = NamedVectors::default();
        vectors.insert(String::new(), vec![(number % 7) as f32, number as f32]);
        Point {
            id: PointId::Num(number),
            vectors,
            payload: Default::default(),
        }
    };
    numbers.map(point).collect()
}

impl Stopped {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config_of(directory.path());
        let database = Database::open(config.clone()).await.unwrap();
        let schema = json!({"vectors": {"": {"size": 2, "distance": "Euclid"}}});
        database
            .create_collection("c", serde_json::from_value(schema).unwrap())
            .await
            .unwrap();
        let collection = database.collection("c").await.unwrap();
        collection.upsert(points(0..2_100)).await.unwrap();
        collection.flush().await.unwrap();
        collection.upsert(points(2_100..2_110)).await.unwrap();
        collection.flush().await.unwrap();
        collection.upsert(points(2_110..2_120)).await.unwrap();
        collection.upsert(points(2_120..2_130)).await.unwrap();
        // The index is built in the background.
        let is_there = |extension| !files_below(directory.path(), extension).is_empty();
        eventually("the index", async || is_there("ivf") && is_there("idx")).await;
        drop(collection);
        database.close().await;
        Self { directory, config }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The files of an extension, sorted; not those of the roots themselves.
    fn files(&self, extension: &str) -> Vec<PathBuf> {
        files_below(self.path(), extension)
    }

    fn of_component(&self, component: &str) -> Vec<PathBuf> {
        let all = all_files(self.path()).into_iter();
        all.filter(|file| is_collections(file) && root_of(self.path(), file).ends_with(component))
            .collect()
    }

    /// The directory of the collection on the root that is its home.
    fn home(&self, component: &str) -> PathBuf {
        let file = self.of_component(component).remove(0);
        let root = root_of(self.path(), &file);
        let below = file.strip_prefix(&root).unwrap();
        root.join(below.components().next().unwrap())
    }

    /// The collection's directory on a root of the component that is not its home.
    fn elsewhere(&self, component: &str) -> PathBuf {
        let home = self.home(component);
        let roots = (0..3).map(|n| self.path().join(format!("d{n}")).join(component));
        let used: Vec<PathBuf> = self
            .of_component(component)
            .iter()
            .map(|file| root_of(self.path(), file))
            .collect();
        roots
            .filter(|root| !used.contains(root))
            .map(|root| root.join(home.file_name().unwrap()))
            .next()
            .unwrap()
    }

    /// Goes on with the log in files of one operation each.
    async fn append_in_small_files(&self) {
        let home = self.home("wal");
        let roots = Roots::open(root_configs(&self.config).unwrap(), false).await.unwrap();
        let mut roots = roots.of_component(StorageComponentType::Wal);
        roots.retain(|root| root.url() == format!("file://{}", home.parent().unwrap().display()));
        let root = roots.remove(0);
        let log = self.files("avro").remove(0);
        let bytes = std::fs::read(&log).unwrap();
        let start = WalStart {
            lanes: vec![root.clone()],
            spare: None,
            roots: Vec::new(),
            directory: format!("{}/000", name(&home)),
            description: read_log_file("log", &bytes, &mut |_, _| ()).unwrap().description,
            files: vec![WalFile {
                root,
                name: name(&log).to_owned(),
                bytes: bytes.len() as u64,
                content: None,
            }],
            after: 2_110,
            format: Default::default(),
            options: WalOptions {
                segment_bytes: 1,
                ..WalOptions::default()
            },
            apply: Arc::new(|_| ()),
            confirm: None,
        };
        let wal = Wal::open(start, &mut |_, _| ()).await.unwrap();
        for point in points(0..3) {
            wal.append(vec![Operation::Upsert(point)]).await.unwrap();
        }
        wal.close().await;
    }

    async fn verify(&self) -> Verification {
        verify(&self.config).await.unwrap()
    }

    /// Verifies, and expects these kinds of findings at these ends of paths, and no others.
    #[track_caller]
    fn check(&self, verification: &Verification, expected: &[(FindingKind, &str)]) {
        let found: Vec<_> = verification
            .findings()
            .map(|finding| (finding.kind, finding.path.clone()))
            .collect();
        assert_eq!(
            found.len(),
            expected.len(),
            "{:#?}",
            verification.findings().collect::<Vec<_>>()
        );
        for (kind, end) in expected {
            let is_there = found.iter().any(|(found, path)| found == kind && path.ends_with(end));
            assert!(
                is_there,
                "{kind} {end}: {:#?}",
                verification.findings().collect::<Vec<_>>()
            );
        }
        let damaged = expected.iter().filter(|(kind, _)| kind.is_damage()).count();
        assert_eq!(verification.damaged(), damaged);
    }
}

fn all_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all_files(&path))
        } else {
            files.push(path)
        }
    }
    files.sort();
    files
}

fn is_collections(file: &Path) -> bool {
    file.extension().is_none_or(|extension| extension != "toml") && !file.to_str().unwrap().contains("_proximadb")
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let files = all_files(directory).into_iter().filter(|file| is_collections(file));
    files
        .filter(|file| file.extension().is_some_and(|found| found == extension))
        .collect()
}

/// `<base>/d<n>/<component>` of a file.
fn root_of(base: &Path, file: &Path) -> PathBuf {
    base.join(
        file.strip_prefix(base)
            .unwrap()
            .components()
            .take(2)
            .collect::<PathBuf>(),
    )
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for file in all_files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

/// All files with their bytes, locks aside.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = all_files(directory).into_iter().filter(|file| name(file) != "lock");
    files.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_database_passes_with_the_numbers_of_the_disk_and_is_not_changed() {
    let stopped = Stopped::new().await;
    let before = contents(stopped.path());
    let verification = stopped.verify().await;
    stopped.check(&verification, &[]);
    assert_eq!(contents(stopped.path()), before);
    assert_eq!(verification.sections.len(), 5);
    for section in &verification.sections {
        assert!(section.passed());
        assert_eq!(section.roots.len(), 3);
        let files = stopped.of_component(section.component.name());
        let totals = section.totals();
        assert_eq!(totals.files, files.len() as u64, "{}", section.component);
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(totals.bytes, bytes, "{}", section.component);
    }
    let directories = |at: usize| verification.sections[at].totals().collection_directories;
    assert_eq!(
        (0..5).map(directories).collect::<Vec<_>>(),
        [1, 1, 0, 2, 2],
        "the types of index files have roots of their own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_in_every_kind_of_file() {
    let stopped = Stopped::new().await;
    let mut checked = 0;
    for extension in ["avro", "parquet", "ivf", "idx", "json"] {
        for file in stopped.files(extension) {
            let original = std::fs::read(&file).unwrap();
            let places = [0, original.len() / 3, original.len() / 2];
            for at in places {
                flip(&file, at);
                let verification = stopped.verify().await;
                stopped.check(&verification, &[(Damaged, name(&file))]);
                std::fs::write(&file, &original).unwrap();
                checked += 1;
            }
        }
    }
    assert!(checked >= 3 * (1 + 2 + 1 + 1 + 2 + 2), "{checked}");
    stopped.check(&stopped.verify().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_last_byte_is_found_except_in_the_newest_log_where_it_looks_like_a_torn_tail() {
    let stopped = Stopped::new().await;
    for extension in ["parquet", "ivf", "idx", "json"] {
        for file in stopped.files(extension) {
            let original = std::fs::read(&file).unwrap();
            flip(&file, original.len() - 1);
            stopped.check(&stopped.verify().await, &[(Damaged, name(&file))]);
            std::fs::write(&file, &original).unwrap();
        }
    }
    let log = stopped.files("avro").remove(0);
    flip(&log, std::fs::read(&log).unwrap().len() - 1);
    stopped.check(&stopped.verify().await, &[(Information, name(&log))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_of_the_newest_log_file_is_information_and_stays() {
    let stopped = Stopped::new().await;
    let log = stopped.files("avro").remove(0);
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 5]).unwrap();
    stopped.check(&stopped.verify().await, &[(Information, name(&log))]);
    assert_eq!(
        std::fs::read(&log).unwrap().len(),
        whole.len() - 5,
        "verification cuts nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_record_or_a_manifest_names_must_be_there() {
    let stopped = Stopped::new().await;
    let segment = stopped.files("parquet").remove(0);
    let kept = std::fs::read(&segment).unwrap();
    std::fs::remove_file(&segment).unwrap();
    stopped.check(&stopped.verify().await, &[(Missing, name(&segment))]);
    std::fs::write(&segment, kept).unwrap();

    let id = name(&stopped.home("wal")).to_owned();
    let shard = format!("{id}/000");
    for (component, expected) in [
        ("wal", shard.as_str()),
        ("viper", shard.as_str()),
        ("metadata", id.as_str()),
    ] {
        let (home, aside) = (stopped.home(component), stopped.path().join("aside"));
        // A collection whose log is gone is not opened, so nothing but the log is reported.
        std::fs::rename(&home, &aside).unwrap();
        let verification = stopped.verify().await;
        let expected: &[_] = match component {
            "viper" => &[
                (Missing, expected),
                (Missing, ".avro"),
                (Orphan, ".ivf"),
                (Orphan, ".idx"),
            ],
            _ => &[(Missing, expected)],
        };
        stopped.check(&verification, expected);
        std::fs::rename(&aside, &home).unwrap();
    }
    // The index is derived: without it the segment is searched exactly.
    std::fs::remove_dir_all(stopped.home("index")).unwrap();
    stopped.check(&stopped.verify().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_between_log_files_is_missing_data() {
    let stopped = Stopped::new().await;
    stopped.append_in_small_files().await;
    let logs = stopped.files("avro");
    assert!(logs.len() >= 3, "{logs:?}");
    stopped.check(&stopped.verify().await, &[]);
    std::fs::remove_file(&logs[1]).unwrap();
    stopped.check(&stopped.verify().await, &[(Missing, name(&logs[2]))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_record_the_data_is_checked_all_the_same() {
    let stopped = Stopped::new().await;
    let id = name(&stopped.home("wal")).to_owned();
    for file in stopped.of_component("metadata") {
        std::fs::remove_file(file).unwrap();
    }
    let verification = stopped.verify().await;
    stopped.check(&verification, &[(Missing, &id)]);
    assert_eq!(verification.sections[4].findings.len(), 1, "reported with the metadata");
    let segment = stopped.files("parquet").remove(0);
    flip(&segment, 100);
    stopped.check(&stopped.verify().await, &[(Missing, &id), (Damaged, name(&segment))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_strays_and_leftovers_are_warnings() {
    let stopped = Stopped::new().await;
    let segment = stopped.files("parquet").remove(0);
    let orphan = segment.with_file_name(format!("{}.parquet", uuid::Uuid::now_v7()));
    std::fs::copy(&segment, &orphan).unwrap();
    let root = root_of(stopped.path(), &segment);
    std::fs::create_dir(root.join("lost+found")).unwrap();
    std::fs::write(root.join("lost+found/readme.txt"), "mine").unwrap();
    std::fs::write(root.join("_proximadb/notes.txt"), "mine").unwrap();
    std::fs::write(segment.with_extension("parquet#7"), "half").unwrap();
    let stray = segment.with_file_name("copy of a segment.parquet");
    std::fs::copy(&segment, &stray).unwrap();
    let expected = [
        (Orphan, name(&orphan)),
        (Stray, "lost+found/readme.txt"),
        (Stray, "_proximadb/notes.txt"),
        (Orphan, ".parquet#7"),
        (Stray, name(&stray)),
    ];
    let verification = stopped.verify().await;
    stopped.check(&verification, &expected);
    assert_eq!(verification.warnings(), expected.len());
    let files = stopped.of_component("viper").len() as u64;
    assert_eq!(
        verification.sections[1].totals().files + 1,
        files,
        "all but the one outside of the collection"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_a_collection_on_a_second_root_is_a_duplicate_and_one_that_was_moved_is_missing_at_home() {
    let stopped = Stopped::new().await;
    let id = name(&stopped.home("wal")).to_owned();
    for component in ["wal", "viper", "metadata"] {
        let elsewhere = stopped.elsewhere(component);
        copy(&stopped.home(component), &elsewhere);
        stopped.check(&stopped.verify().await, &[(Duplicate, &id)]);
        std::fs::remove_dir_all(elsewhere).unwrap();
    }
    std::fs::rename(stopped.home("wal"), stopped.elsewhere("wal")).unwrap();
    stopped.check(&stopped.verify().await, &[(Stray, &id), (Missing, "/000")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_not_there_is_unreachable_and_nothing_is_created_in_its_place() {
    let stopped = Stopped::new().await;
    let root = root_of(stopped.path(), &stopped.files("parquet")[0]);
    std::fs::rename(&root, stopped.path().join("unmounted")).unwrap();
    let verification = stopped.verify().await;
    stopped.check(&verification, &[(Unreachable, "")]);
    assert!(!root.exists());
    assert_eq!(verification.damaged(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_beside_a_server_and_where_there_is_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_of(directory.path());
    let refused = verify(&config).await.unwrap_err().to_string();
    assert!(refused.contains("nothing to verify"), "{refused}");
    assert_eq!(all_files(directory.path()).len(), 1, "only the configuration");
    let database = Database::open(config.clone()).await.unwrap();
    let refused = verify(&config).await.unwrap_err().to_string();
    assert!(refused.contains("another process"), "{refused}");
    database.close().await;
    assert_eq!(verify(&config).await.unwrap().damaged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_roots_themselves_are_checked() {
    let stopped = Stopped::new().await;
    let reserved = stopped.path().join("d0/wal/_proximadb/roots");
    let list = all_files(&reserved).remove(0);
    flip(&list, 40);
    stopped.check(&stopped.verify().await, &[(Damaged, name(&list))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_segment_that_is_not_the_one_the_manifest_names_is_damaged() {
    let stopped = Stopped::new().await;
    let mut manifests = stopped.files("json").into_iter();
    let newest = manifests
        .rfind(|file| file.parent().unwrap().ends_with("manifest"))
        .unwrap();
    let original = std::fs::read(&newest).unwrap();
    let changes: [fn(&mut SegmentMeta); 3] = [|meta| meta.crc32 ^= 1, |meta| meta.bytes += 1, |meta| meta.rows += 1];
    for change in changes {
        let mut manifest = Manifest::decode(&original).unwrap();
        change(&mut manifest.segments[0]);
        std::fs::write(&newest, manifest.encode().unwrap()).unwrap();
        let segment = format!("{}.parquet", manifest.segments[0].id);
        stopped.check(&stopped.verify().await, &[(Damaged, &segment)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_collection_that_is_being_dropped_nothing_has_to_be_there() {
    let stopped = Stopped::new().await;
    let home = stopped.home("wal");
    let file = stopped.of_component("metadata").remove(0);
    let mut record = CollectionRecord::decode(&std::fs::read(file).unwrap()).unwrap();
    record.state = CollectionState::Dropping;
    let roots = Roots::open(root_configs(&stopped.config).unwrap(), true).await.unwrap();
    let roots = Arc::new(roots);
    MetadataStore::new(roots.clone()).update(record).await.unwrap();
    roots.close();
    std::fs::remove_dir_all(&home).unwrap();
    stopped.check(&stopped.verify().await, &[(Information, name(&home))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_creation_is_told_from_a_lost_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_of(directory.path());
    let database = Database::open(config.clone()).await.unwrap();
    let schema = json!({"vectors": {"": {"size": 2, "distance": "Euclid"}}});
    database
        .create_collection("c", serde_json::from_value(schema).unwrap())
        .await
        .unwrap();
    database.close().await;
    let stopped = Stopped { directory, config };
    stopped.check(&stopped.verify().await, &[]);
    std::fs::remove_dir_all(stopped.home("viper")).unwrap();
    stopped.check(&stopped.verify().await, &[(Information, "/000")]);
    // Without the log either, all of its data may have been lost.
    std::fs::remove_dir_all(stopped.home("wal")).unwrap();
    stopped.check(&stopped.verify().await, &[(Missing, "/000")]);
}
