#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use proximadb_store::{StorageUrl, StoreError};
use tempfile::TempDir;

use super::*;

pub(in crate::root) struct World {
    dir: TempDir,
}

impl World {
    pub(in crate::root) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub(in crate::root) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A root whose component is its name up to the first digit.
    pub(in crate::root) fn config(&self, name: &str) -> RootConfig {
        let component = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '/');
        self.config_at(
            component.parse().unwrap(),
            &format!("file://{}", self.path(name).display()),
        )
    }

    pub(in crate::root) fn config_at(&self, component: StorageComponentType, url: &str) -> RootConfig {
        let url = StorageUrl::parse(url).unwrap();
        RootConfig {
            component,
            url,
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
        }
    }

    pub(in crate::root) async fn open(&self, names: &[&str]) -> Result<Roots> {
        Roots::open(names.iter().map(|name| self.config(name)).collect(), true).await
    }

    pub(in crate::root) async fn refused(&self, names: &[&str], part: &str) {
        match self.open(names).await {
            Err(Error::Config(message)) => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::root) fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(in crate::root) fn entries(&self, name: &str) -> usize {
        std::fs::read_dir(self.path(name)).unwrap().count()
    }
}

fn ids(roots: &Roots) -> Vec<(String, RootId)> {
    let mut ids: Vec<_> = roots
        .all()
        .iter()
        .map(|root| (root.url().to_owned(), root.id()))
        .collect();
    ids.sort();
    ids
}

pub(in crate::root) fn state_of(roots: &Roots, position: usize) -> RootState {
    roots.all()[position].state()
}

/// Stands for an unmounted disk: the directory of the root is there, and empty.
fn unmount(world: &World, name: &str) {
    world.rename(name, &format!("{name}.disk"));
    std::fs::create_dir(world.path(name)).unwrap();
}

fn mount(world: &World, name: &str) {
    std::fs::remove_dir(world.path(name)).unwrap();
    world.rename(&format!("{name}.disk"), name);
}

#[tokio::test]
async fn c15_roots_keep_their_identity_over_restarts_and_shuffles() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2", "viper1", "metadata1"]).await.unwrap();
    let (before, cluster) = (ids(&roots), roots.cluster_id());
    assert_eq!(roots.of_component(StorageComponentType::Wal).len(), 2);
    drop(roots);
    let roots = world.open(&["metadata1/", "viper1", "wal2", "wal1"]).await.unwrap();
    assert_eq!(roots.cluster_id(), cluster);
    let trimmed: Vec<_> = ids(&roots)
        .into_iter()
        .map(|(url, id)| (url.trim_end_matches('/').to_owned(), id))
        .collect();
    assert_eq!(trimmed, before);
    assert_eq!(
        roots.all()[0].url(),
        format!("file://{}/", world.path("metadata1").display()),
        "A13"
    );
    let wal = roots.of_component(StorageComponentType::Wal);
    assert_eq!(wal.iter().map(|root| root.index()).collect::<Vec<_>>(), [0, 1]);
    assert!(
        roots
            .all()
            .iter()
            .all(|root| root.state() == RootState::Online && root.available().is_ok())
    );
}

#[tokio::test]
async fn a14_duplicate_and_nested_roots_are_refused_and_nothing_is_written() {
    let world = World::new();
    std::os::unix::fs::symlink(world.path("wal1"), world.path("viper1")).unwrap();
    world.refused(&["wal1", "wal1/"], "duplicate root").await;
    std::fs::create_dir(world.path("wal1")).unwrap();
    world.refused(&["wal1", "viper1"], "duplicate root").await;
    let nested = world.config_at(StorageComponentType::Viper, world.config("wal1").url.join("x").as_str());
    let error = Roots::open(vec![world.config("wal1"), nested], true).await.unwrap_err();
    assert!(error.to_string().contains("nested roots"), "{error}");
    assert_eq!(world.entries("wal1"), 0);
}

#[tokio::test]
async fn a_root_of_another_cluster_or_component_or_a_copied_one_is_refused() {
    let (world, other) = (World::new(), World::new());
    drop(world.open(&["wal1", "viper1"]).await.unwrap());
    drop(other.open(&["wal1"]).await.unwrap());
    std::fs::rename(other.path("wal1"), world.path("wal2")).unwrap();
    world
        .refused(&["wal1", "viper1", "wal2"], "belongs to another cluster")
        .await;

    world.rename("viper1", "index1");
    world
        .refused(&["wal1", "index1"], "is configured for index, but holds viper")
        .await;

    let copy = world.path("wal3/_proximadb");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(world.path("wal1/_proximadb/root.json"), copy.join("root.json")).unwrap();
    world.refused(&["wal1", "wal3"], "are the same root").await;
}

#[tokio::test]
async fn e10_an_unmounted_disk_is_offline_nothing_is_written_and_it_comes_back_with_a_probe() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2", "metadata1"]).await.unwrap();
    let before = ids(&roots);
    drop(roots);
    unmount(&world, "wal2");

    let roots = world.open(&["wal1", "wal2", "metadata1"]).await.unwrap();
    assert_eq!(ids(&roots), before, "the list of roots knows its identity");
    let root = Arc::clone(&roots.all()[1]);
    assert_eq!(
        root.state(),
        RootState::Offline {
            reason: MISSING_IDENTITY.to_owned()
        }
    );
    let used = HashSet::from([root.id()]);
    assert!(roots.initialise_missing(&used).await.unwrap().is_empty());
    assert!(roots.probe().await.is_empty());
    let error = root.write_atomic("x", "x".into()).await.unwrap_err();
    assert!(
        error.to_string().contains(root.url()) && error.to_string().contains("is the disk mounted"),
        "{error}"
    );
    assert_eq!(world.entries("wal2"), 0, "nothing may be written below the mount point");
    assert_eq!(state_of(&roots, 0), RootState::Online);

    mount(&world, "wal2");
    let back = roots.probe().await;
    assert_eq!(back.iter().map(|root| root.id()).collect::<Vec<_>>(), [root.id()]);
    root.write_atomic("x", "x".into()).await.unwrap();
    assert_eq!(root.state(), RootState::Suspect, "one good probe can be luck");
    assert!(roots.probe().await.is_empty(), "it is back already");
    assert_eq!((root.state(), root.reason()), (RootState::Online, None));
    // It is locked again.
    assert!(proximadb_store::RootLock::acquire(&world.path("wal2")).is_err());
}

#[tokio::test]
async fn the_only_metadata_disk_missing_is_noticed_too() {
    let world = World::new();
    drop(world.open(&["wal1", "metadata1"]).await.unwrap());
    unmount(&world, "metadata1");
    let roots = world.open(&["wal1", "metadata1"]).await.unwrap();
    assert!(matches!(state_of(&roots, 1), RootState::Offline { .. }));
    assert_eq!(world.entries("metadata1"), 0);
}

#[tokio::test]
async fn b7_a_deleted_directory_that_no_collection_uses_is_back_and_others_are_untouched() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    let before = ids(&roots);
    drop(roots);
    std::fs::remove_dir_all(world.path("wal2")).unwrap();
    let stamp = |name: &str| {
        let metadata = std::fs::metadata(world.path(name)).unwrap();
        (metadata.ino(), metadata.mtime_nsec())
    };
    let untouched = stamp("wal1");
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert!(!world.path("wal2").exists());
    assert_eq!(roots.initialise_missing(&HashSet::new()).await.unwrap().len(), 1);
    assert!(world.path("wal2/_proximadb/root.json").exists());
    assert_eq!((ids(&roots), stamp("wal1")), (before, untouched));
    assert_eq!(state_of(&roots, 1), RootState::Online);
    drop(roots);
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert_eq!(state_of(&roots, 1), RootState::Online);
}

#[tokio::test]
async fn c13_c15_a_url_may_be_added_moved_or_removed_and_removed_ones_stay_known() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    let (first, second) = (roots.all()[0].id(), roots.all()[1].id());
    drop(roots);
    // The disk of the second is mounted elsewhere, and a third takes its old place.
    world.rename("wal2", "wal9");
    let roots = world.open(&["wal1", "wal9", "wal2"]).await.unwrap();
    let all = roots.all();
    assert_eq!((all[0].id(), all[1].id()), (first, second));
    assert!(all.iter().all(|root| root.state() == RootState::Online));
    let third = all[2].id();
    drop((roots, all));
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert_eq!(roots.by_id(third).unwrap().id(), third);
    let error = roots.by_id(second).unwrap_err().to_string();
    assert!(
        error.contains("/wal9") && error.contains("not in the configuration"),
        "{error}"
    );
    assert_eq!(roots.not_configured().len(), 1);
    assert!(matches!(
        roots.by_id(RootId(Uuid::nil())),
        Err(Error::RootUnavailable { .. })
    ));
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_is_gone() {
    let world = World::new();
    let roots = world.open(&["wal1"]).await.unwrap();
    world.refused(&["wal1"], "another process").await;
    roots.close();
    drop(world.open(&["wal1"]).await.unwrap());
}

#[tokio::test]
async fn data_without_identity_is_refused_and_files_that_are_not_ours_are_no_hindrance() {
    let world = World::new();
    std::fs::create_dir_all(world.path("wal1/0190a5b0-0000-7000-8000-000000000001/000")).unwrap();
    world.refused(&["wal1"], "no _proximadb/root.json").await;
    assert_eq!(world.entries("wal1"), 1);
    std::fs::create_dir_all(world.path("wal2/lost+found")).unwrap();
    world.open(&["wal2"]).await.unwrap();
}

/// A file where the directory should be: the root cannot be looked at.
fn block(world: &World, name: &str) {
    std::fs::write(world.path(name), "").unwrap();
}

#[tokio::test]
async fn the_first_start_needs_every_root_and_later_ones_do_not() {
    let world = World::new();
    block(&world, "wal2");
    match world.open(&["wal1", "wal2"]).await {
        Err(Error::RootUnavailable { url, .. }) => assert!(url.ends_with("/wal2")),
        other => panic!("{other:?}"),
    }
    assert!(!world.path("wal1").exists());
    drop(world.open(&["wal1"]).await.unwrap());
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    let stand_in = roots.all()[1].id();
    assert!(matches!(state_of(&roots, 1), RootState::Offline { .. }));
    // Seen at last: it has no identity, so it could be anything; a restart decides.
    std::fs::remove_file(world.path("wal2")).unwrap();
    assert!(roots.probe().await.is_empty());
    assert!(!world.path("wal2").exists());
    drop(roots);
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert_eq!(state_of(&roots, 1), RootState::Online);
    assert_ne!(roots.all()[1].id(), stand_in);
}

#[tokio::test]
async fn a_damaged_identity_is_offline_and_never_overwritten() {
    let world = World::new();
    drop(world.open(&["wal1", "wal2"]).await.unwrap());
    std::fs::write(world.path("wal2/_proximadb/root.json"), "{").unwrap();
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert!(matches!(state_of(&roots, 1), RootState::Offline { reason } if reason.contains("damaged")));
    assert!(roots.initialise_missing(&HashSet::new()).await.unwrap().is_empty());
    assert_eq!(std::fs::read(world.path("wal2/_proximadb/root.json")).unwrap(), b"{");
}

#[tokio::test]
async fn the_list_of_roots_survives_on_any_root_and_stays_short() {
    let world = World::new();
    let mut names = vec!["wal1"];
    for name in ["wal2", "wal3", "wal4", "wal5", "wal6"] {
        names.push(name);
        drop(world.open(&names).await.unwrap());
    }
    assert_eq!(world.entries("wal1/_proximadb/roots"), 3);
    let newest = std::fs::read_dir(world.path("wal1/_proximadb/roots"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .max();
    std::fs::write(newest.unwrap(), "damaged").unwrap();
    for name in ["wal2", "wal3", "wal4", "wal5"] {
        std::fs::remove_dir_all(world.path(name).join("_proximadb/roots")).unwrap();
    }
    let roots = world.open(&["wal1"]).await.unwrap();
    // What the older list on the first root still knows.
    assert_eq!(roots.not_configured().len(), 4);
    drop(roots);
    let roots = world.open(&["wal1", "wal6"]).await.unwrap();
    assert_eq!(roots.not_configured().len(), 4);
}

#[tokio::test]
async fn k3_a_failure_changes_the_state_of_its_root_only_and_a_probe_heals_it() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    let root = Arc::clone(&roots.all()[0]);
    let url = StorageUrl::parse(root.url()).unwrap();
    let fail = |errno| {
        root.map_error(StoreError::from_io(
            &url,
            "a/b",
            &std::io::Error::from_raw_os_error(errno),
        ))
    };
    let (enoent, eio, enospc) = (2, 5, 28);
    assert!(matches!(fail(enoent), Error::Corruption(message) if message.contains("a/b")));
    assert_eq!(root.state(), RootState::Online);
    assert!(matches!(fail(enospc), Error::StorageFull { url, .. } if url == root.url()));
    assert_eq!(root.state(), RootState::ReadOnly);
    assert!(
        root.reason().unwrap().contains("a/b: no space left"),
        "{:?}",
        root.reason()
    );
    assert_eq!(root.last_error().unwrap().message, root.reason().unwrap());
    assert!(!root.accepts_placements());
    assert!(
        root.available().is_ok(),
        "writes are tried, so that space that returns is noticed"
    );
    roots.probe().await;
    assert_eq!(root.state(), RootState::Suspect);
    roots.probe().await;
    assert_eq!((root.state(), root.reason()), (RootState::Online, None));
    assert!(matches!(fail(eio), Error::RootUnavailable { .. }));
    assert_eq!(root.state(), RootState::Suspect);
    roots.probe().await;
    assert_eq!(root.state(), RootState::Suspect);
    roots.probe().await;
    assert_eq!((root.state(), root.reason()), (RootState::Online, None));
    assert_eq!(state_of(&roots, 1), RootState::Online);
}

#[test]
fn k1_usage_is_kept_per_collection_and_summed() {
    let world = World::new();
    let config = world.config("wal1");
    let fs = FilesystemFactory::get_filesystem(&config.url, &config.options).unwrap();
    let root = Root::new(RootId(Uuid::nil()), config, 0, fs, RootState::Online);
    let [a, b] = [1, 2].map(|n| crate::schema::CollectionId(Uuid::from_u128(n)));
    root.add_usage(a, 100, 2);
    root.add_usage(b, 50, 1);
    root.remove_usage(a, 40, 1);
    assert_eq!(root.usage(), super::super::Usage { bytes: 110, files: 2 });
    assert_eq!((root.usage_of(a).bytes, root.collections()), (60, 2));
    root.clear_usage(a);
    assert_eq!((root.usage().bytes, root.collections()), (50, 1));
}
