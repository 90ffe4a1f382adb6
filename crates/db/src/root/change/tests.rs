#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use proximadb_store::{RootLock, StorageUrl};

use super::super::StorageComponentType;
use super::super::open::tests::{World, state_of};
use super::*;

fn refused(outcome: Result<Arc<Root>>, part: &str) {
    match outcome {
        Err(Error::Config(message)) => assert!(message.contains(part), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn k4_c13_a_root_is_added_while_running_and_is_one_of_the_cluster_after_a_restart() {
    let world = World::new();
    let roots = world.open(&["wal1", "metadata1"]).await.unwrap();
    let added = roots.add(world.config("wal2")).await.unwrap();
    assert_eq!((added.state(), added.index()), (RootState::Online, 1));
    assert_eq!(roots.of_component(StorageComponentType::Wal).len(), 2);
    assert_eq!(roots.by_id(added.id()).unwrap().id(), added.id());
    added.write_atomic("x", "x".into()).await.unwrap();
    assert!(RootLock::acquire(&world.path("wal2")).is_err(), "it is locked");
    let id = added.id();
    drop((roots, added));
    let roots = world.open(&["wal1", "metadata1"]).await.unwrap();
    let known: Vec<RootId> = roots.not_configured().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(known, [id], "the configuration decides which roots are used");
    // Taken back as what it was.
    assert_eq!(roots.add(world.config("wal2")).await.unwrap().id(), id);
    drop(roots);
    let roots = world.open(&["wal1", "wal2", "metadata1"]).await.unwrap();
    assert_eq!(roots.all()[1].id(), id);
}

#[tokio::test]
async fn a14_what_a_start_refuses_is_refused_while_running_and_nothing_is_written_there() {
    let (world, other) = (World::new(), World::new());
    drop(other.open(&["wal1"]).await.unwrap());
    let roots = world.open(&["wal1", "viper1"]).await.unwrap();
    refused(roots.add(world.config("wal1/")).await, "duplicate root");
    let below = world.config("wal1").url.join("x");
    let nested = world.config_at(StorageComponentType::Viper, below.as_str());
    refused(roots.add(nested).await, "nested roots");
    let foreign = other.config("wal1");
    refused(roots.add(foreign).await, "belongs to another cluster");
    std::fs::create_dir_all(world.path("wal3/0190a5b0-0000-7000-8000-000000000001/000")).unwrap();
    refused(roots.add(world.config("wal3")).await, "no _proximadb/root.json");
    assert_eq!(world.entries("wal3"), 1);
    std::fs::write(world.path("wal4"), "").unwrap();
    let unseen = roots.add(world.config("wal4")).await.unwrap_err();
    assert!(matches!(unseen, Error::RootUnavailable { .. }), "{unseen}");
    assert_eq!(roots.all().len(), 2);
    assert!(roots.not_configured().is_empty());
}

#[tokio::test]
async fn a_drain_outlasts_restarts_and_probes_until_it_is_ended() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    let root = Arc::clone(&roots.all()[1]);
    roots.set_draining(root.id(), true).await.unwrap();
    assert_eq!(root.state(), RootState::Draining);
    assert!(!root.accepts_placements());
    root.write_atomic("x", "x".into()).await.unwrap();
    assert_eq!(root.read("x").await.unwrap(), "x");

    let url = StorageUrl::parse(root.url()).unwrap();
    let eio = std::io::Error::from_raw_os_error(5);
    root.map_error(proximadb_store::StoreError::from_io(&url, "x", &eio));
    assert_eq!(root.state(), RootState::Draining);
    let reason = root.reason().unwrap();
    assert!(
        reason.contains("being emptied") && reason.contains("os error 5"),
        "{reason}"
    );
    roots.probe().await;
    roots.probe().await;
    assert_eq!(root.state(), RootState::Draining);
    assert_eq!(root.reason().unwrap(), "it is being emptied by request");
    drop((roots, root));

    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert_eq!(
        (state_of(&roots, 0), state_of(&roots, 1)),
        (RootState::Online, RootState::Draining)
    );
    let id = roots.all()[1].id();
    roots.set_draining(id, false).await.unwrap();
    assert_eq!(state_of(&roots, 1), RootState::Online);
    drop(roots);
    let roots = world.open(&["wal1", "wal2"]).await.unwrap();
    assert_eq!(state_of(&roots, 1), RootState::Online);
    assert!(roots.set_draining(RootId(uuid::Uuid::nil()), true).await.is_err());
}

#[tokio::test]
async fn a_removed_root_is_forgotten_for_good_and_its_place_can_be_used_anew() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2", "viper1"]).await.unwrap();
    let root = Arc::clone(&roots.all()[1]);
    roots.set_draining(root.id(), true).await.unwrap();
    roots.remove(root.id()).await.unwrap();
    assert_eq!(roots.all().len(), 2);
    assert!(roots.not_configured().is_empty());
    let error = roots.by_id(root.id()).unwrap_err().to_string();
    assert!(error.contains("/wal2") && error.contains("removed"), "{error}");
    assert!(root.write_atomic("x", "x".into()).await.is_err());
    assert!(!world.path("wal2/_proximadb/root.json").exists());
    let last = roots.all()[0].id();
    assert!(matches!(roots.remove(last).await, Err(Error::InvalidInput(_))));

    let anew = roots.add(world.config("wal2")).await.unwrap();
    assert_ne!(anew.id(), root.id());
    assert_eq!(anew.state(), RootState::Online, "the drain was the old one's");
    roots.remove(anew.id()).await.unwrap();
    drop((roots, root, anew));
    let roots = world.open(&["wal1", "viper1"]).await.unwrap();
    assert!(roots.not_configured().is_empty());
    drop(roots);
    let other = World::new();
    std::fs::rename(world.path("wal2"), other.path("wal1")).unwrap();
    drop(other.open(&["wal1"]).await.unwrap());
}

#[tokio::test]
async fn a_root_that_was_away_does_not_bring_a_removed_one_back() {
    let world = World::new();
    let roots = world.open(&["wal1", "wal2", "wal3"]).await.unwrap();
    let gone = roots.all()[1].id();
    drop(roots);
    world.rename("wal3", "away");
    let roots = world.open(&["wal1", "wal2", "wal3"]).await.unwrap();
    roots.remove(gone).await.unwrap();
    drop(roots);
    world.rename("away", "wal3");
    let roots = world.open(&["wal1", "wal3"]).await.unwrap();
    assert!(roots.not_configured().is_empty());
    let error = roots.by_id(gone).unwrap_err().to_string();
    assert!(error.contains("removed"), "{error}");
}
