#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use tempfile::TempDir;

use super::*;
use crate::{FilesystemFactory, StorageUrl};

fn local(dir: &TempDir) -> Filesystem {
    let url = StorageUrl::parse(&format!("file://{}", dir.path().display())).unwrap();
    FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap()
}

fn names(dir: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path().join("d")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn b9_a_file_written_in_parts_appears_whole_when_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, path) = (local(&dir), Path::from("d/file"));
    let store = fs.object_store();
    fs.write_atomic("d/file", Bytes::from_static(b"old")).await.unwrap();
    let mut upload = store.put_multipart(&path).await.unwrap();
    let first = upload.put_part("hello ".into());
    let second = upload.put_part(["wo", "rld"].map(Bytes::from).into_iter().collect());
    // In any order.
    second.await.unwrap();
    assert_eq!(fs.read("d/file").await.unwrap(), "old");
    let found: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(found.len(), 1, "the staged file is not listed");
    first.await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(fs.read("d/file").await.unwrap(), "hello world");
    assert_eq!(names(&dir), ["file"]);
    upload.complete().await.unwrap_err();
    upload.put_part("more".into()).await.unwrap_err();
}

#[tokio::test]
async fn b9_an_upload_that_is_aborted_dropped_or_incomplete_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, path) = (local(&dir), Path::from("d/file"));
    let store = fs.object_store();
    fs.write_atomic("d/file", Bytes::from_static(b"old")).await.unwrap();
    let mut aborted = store.put_multipart(&path).await.unwrap();
    aborted.put_part("new".into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert_eq!(names(&dir), ["file"]);
    let mut incomplete = store.put_multipart(&path).await.unwrap();
    drop(incomplete.put_part("never written".into()));
    incomplete.complete().await.unwrap_err();
    assert_eq!(names(&dir), ["file"]);
    let dropped = store.put_multipart(&path).await.unwrap();
    assert_eq!(names(&dir), ["file", "file#1"]);
    drop(dropped);
    // The removal runs on a thread of the root: so does this, until it sees the result.
    let staged = dir.path().join("d/file#1");
    fs.blocking(move || while staged.exists() {}).await.unwrap();
    assert_eq!(fs.read("d/file").await.unwrap(), "old");
}

#[tokio::test]
async fn k2_requests_of_a_library_are_measured_like_the_roots_own() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, path) = (local(&dir), Path::from("d/file"));
    let store = fs.object_store();
    let create = || store.put_opts(&path, "12345".into(), PutMode::Create.into());
    create().await.unwrap();
    assert!(matches!(create().await.unwrap_err(), Error::AlreadyExists { .. }));
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "12345");
    assert_eq!(store.get_range(&path, 1..3).await.unwrap(), "23");
    store.head(&path).await.unwrap();
    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
    let mut upload = store.put_multipart(&Path::from("d/other")).await.unwrap();
    upload.put_part("123".into()).await.unwrap();
    upload.complete().await.unwrap();
    store.delete(&path).await.unwrap();
    assert!(matches!(store.get(&path).await.unwrap_err(), Error::NotFound { .. }));
    let stats = |op| {
        let stats = fs.meter().stats(op);
        (stats.count, stats.bytes)
    };
    assert_eq!(stats(Op::Create), (2, 5));
    assert_eq!(stats(Op::Read), (4, 7));
    assert_eq!(stats(Op::List), (1, 0));
    assert_eq!(stats(Op::Write), (3, 3));
    assert_eq!(stats(Op::Delete), (1, 0));
    assert_eq!(fs.meter().errors(), 0, "answers are no errors");
}

#[tokio::test]
async fn a_missing_base_directory_is_unavailable_for_a_library_too() {
    let dir = tempfile::tempdir().unwrap();
    let fs = local(&dir);
    std::fs::remove_dir(dir.path()).unwrap();
    let path = Path::from("d/file");
    for error in [
        fs.object_store().put(&path, "new".into()).await.unwrap_err(),
        fs.object_store().put_multipart(&path).await.unwrap_err(),
        fs.object_store().get(&path).await.unwrap_err(),
    ] {
        assert!(fs.explain("d/file", &error).is_unavailable(), "{error}");
    }
}
