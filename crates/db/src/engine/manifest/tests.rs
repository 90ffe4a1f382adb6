#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::engine::samples::{description, root};

const SHARD: &str = "000";

fn meta(number: u128) -> SegmentMeta {
    SegmentMeta {
        copy: None,
        id: SegmentId(Uuid::from_u128(number)),
        root_id: RootId(Uuid::nil()),
        rows: 1,
        tombstones: 0,
        min_seq: number as Seq,
        max_seq: number as Seq,
        bytes: 1,
        data_bytes: 1,
        crc32: 1,
        replaces: Vec::new(),
    }
}

/// A segment `id` that replaces some, together with some.
fn found(id: u128, replaces: &[u128], outputs: &[u128]) -> (SegmentFooter, SegmentMeta) {
    let ids = |ids: &[u128]| ids.iter().map(|id| SegmentId(Uuid::from_u128(*id))).collect::<Vec<_>>();
    let meta = SegmentMeta {
        replaces: ids(replaces),
        ..meta(id)
    };
    let footer = SegmentFooter {
        id: meta.id,
        description: description(2),
        shard: SHARD.to_owned(),
        min_seq: meta.min_seq,
        max_seq: meta.max_seq,
        replaces: ids(replaces),
        outputs: ids(outputs),
    };
    (footer, meta)
}

fn check_rebuilt(files: &[(SegmentFooter, SegmentMeta)], expected: &[u128]) {
    let manifest = Manifest::rebuild(description(2).id, SHARD, files).unwrap();
    let segments: Vec<u128> = manifest.segments.iter().map(|meta| meta.id.0.as_u128()).collect();
    assert_eq!(segments, expected);
    assert_eq!((manifest.version, manifest.description), (1, description(2)));
    assert_eq!(
        manifest.flushed_seq,
        files.iter().map(|(footer, _)| footer.max_seq).max().unwrap()
    );
}

#[test]
fn e6_a_manifest_is_rebuilt_from_what_the_segments_say() {
    check_rebuilt(&[found(1, &[], &[1]), found(2, &[], &[2])], &[1, 2]);
}

#[test]
fn e6_segments_that_a_complete_newer_one_replaces_are_left_out() {
    check_rebuilt(
        &[found(1, &[], &[1]), found(2, &[], &[2]), found(3, &[1, 2], &[3])],
        &[3],
    );
    // A chain of compactions whose old files were never deleted.
    check_rebuilt(&[found(1, &[], &[1]), found(2, &[1], &[2]), found(3, &[2], &[3])], &[3]);
    // The outputs are two, both there.
    check_rebuilt(
        &[found(1, &[], &[1]), found(3, &[1], &[3, 4]), found(4, &[1], &[3, 4])],
        &[3, 4],
    );
}

#[test]
fn e6_an_unfinished_compaction_replaces_nothing() {
    check_rebuilt(
        &[found(1, &[], &[1]), found(2, &[], &[2]), found(3, &[1, 2], &[3, 4])],
        &[1, 2, 3],
    );
}

#[test]
fn e6_a_compaction_whose_inputs_were_being_deleted_is_complete() {
    // Segment 1 is gone, and 4 was merged away later without leaving a trace.
    check_rebuilt(&[found(2, &[], &[2]), found(3, &[1, 2], &[3, 4])], &[3]);
    // Segment 4 is missing because 5 replaced it.
    check_rebuilt(
        &[found(1, &[], &[1]), found(3, &[1], &[3, 4]), found(5, &[4], &[5])],
        &[3, 5],
    );
}

#[test]
fn e6_a_segment_of_another_collection_or_none_at_all_is_an_error() {
    let mut files = vec![found(1, &[], &[1])];
    files[0].0.shard = "001".to_owned();
    assert!(matches!(
        Manifest::rebuild(description(2).id, SHARD, &files),
        Err(Error::Corruption(_))
    ));
    assert!(matches!(
        Manifest::rebuild(description(2).id, SHARD, &[]),
        Err(Error::Corruption(_))
    ));
}

#[test]
fn a_changed_byte_anywhere_in_a_manifest_is_an_error() {
    let manifest = Manifest::empty(description(2), SHARD).next(description(2), 9, vec![meta(1), meta(2)]);
    let bytes = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << bit;
            Manifest::decode(&damaged).unwrap_err();
        }
        Manifest::decode(&bytes[..at]).unwrap_err();
    }
}

#[test]
fn only_manifest_files_have_a_version() {
    assert_eq!(version_of("manifest/00000000000000000007.json"), Some(7));
    assert_eq!(version_of("a/000/manifest/00000000000000000007.json"), Some(7));
    for other in [
        "00000000000000000007.json",
        "manifest/7.json",
        "manifest/00000000000000000007.parquet",
        "manifest/0000000000000000000x.json",
    ] {
        assert_eq!(version_of(other), None, "{other}");
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    root: Arc<Root>,
    store: ManifestStore,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path()).await;
        let store = ManifestStore::new(Arc::clone(&root), description(2).id, SHARD);
        Self {
            _directory: directory,
            root,
            store,
        }
    }

    async fn files(&self) -> Vec<FileInfo> {
        self.root.list(&description(2).id.to_string()).await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        self.files().await.into_iter().map(|file| file.path).collect()
    }

    async fn latest(&self) -> Result<Option<Manifest>> {
        self.store.latest(&self.files().await).await
    }

    async fn commit(&self, versions: u64) -> Manifest {
        let mut manifest = Manifest::empty(description(2), SHARD);
        for version in 1..=versions {
            manifest = manifest.next(description(2), version * 10, vec![meta(u128::from(version))]);
            self.store.commit(&manifest).await.unwrap();
        }
        manifest
    }
}

#[tokio::test]
async fn the_newest_manifest_is_the_truth_and_four_versions_are_kept() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.latest().await.unwrap(), None);
    let last = fixture.commit(7).await;
    assert_eq!(fixture.latest().await.unwrap(), Some(last));
    let versions: Vec<u64> = fixture
        .names()
        .await
        .iter()
        .filter_map(|name| version_of(name))
        .collect();
    assert_eq!(versions, [4, 5, 6, 7]);
}

#[tokio::test]
async fn of_two_commits_of_a_version_one_wins_and_the_same_one_may_repeat() {
    let fixture = Fixture::new().await;
    let base = fixture.commit(1).await;
    let (ours, other) = (
        base.next(description(2), 20, vec![]),
        base.next(description(2), 20, vec![]),
    );
    fixture.store.commit(&ours).await.unwrap();
    assert!(matches!(
        fixture.store.commit(&other).await,
        Err(Error::RootUnavailable { .. })
    ));
    fixture.store.commit(&ours).await.unwrap();
    assert_eq!(fixture.latest().await.unwrap(), Some(ours));
}

#[tokio::test]
async fn a_damaged_newest_manifest_is_corruption_that_names_it_never_an_older_state() {
    let fixture = Fixture::new().await;
    fixture.commit(3).await;
    let newest = fixture.names().await.into_iter().last().unwrap();
    let mut bytes = fixture.root.read(&newest).await.unwrap().to_vec();
    bytes[40] ^= 1;
    fixture.root.write_atomic(&newest, bytes.into()).await.unwrap();
    let error = fixture.latest().await.unwrap_err();
    assert!(
        matches!(&error, Error::Corruption(reason) if reason.contains(&newest)),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_under_another_name_is_corruption() {
    let fixture = Fixture::new().await;
    fixture.commit(1).await;
    let name = fixture.names().await.remove(0);
    let bytes = fixture.root.read(&name).await.unwrap();
    fixture
        .root
        .write_atomic(&name.replace("01.json", "02.json"), bytes)
        .await
        .unwrap();
    assert!(matches!(fixture.latest().await, Err(Error::Corruption(_))));
    let other = ManifestStore::new(Arc::clone(&fixture.root), description(2).id, "001");
    let bytes = fixture.root.read(&name).await.unwrap();
    fixture
        .root
        .write_atomic(&name.replace("/000/", "/001/"), bytes)
        .await
        .unwrap();
    assert!(matches!(
        other.latest(&fixture.files().await[..1]).await,
        Err(Error::Corruption(_))
    ));
}
