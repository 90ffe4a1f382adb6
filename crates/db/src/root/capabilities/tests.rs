#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as Outcome,
};
use proximadb_store::{FilesystemFactory, StorageUrl};
use serde_json::json;
use testservers::{Bucket, Kind, bucket, own_server};

use super::*;
use crate::root::{RootConfig, RootState, Roots, StorageComponentType};

/// A service that ignores the condition of a create, as some S3 clones do.
#[derive(Debug)]
struct Careless(InMemory);

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "careless")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut options: PutOptions) -> Outcome<PutResult> {
        options.mode = PutMode::Overwrite;
        self.0.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Outcome<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Outcome<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Outcome<Path>>) -> BoxStream<'static, Outcome<Path>> {
        self.0.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Outcome<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Outcome<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Outcome<()> {
        self.0.copy_opts(from, to, options).await
    }
}

fn config(bucket: &Bucket, component: StorageComponentType) -> RootConfig {
    RootConfig {
        component,
        url: StorageUrl::parse(&bucket.url).unwrap().join(component.name()),
        options: bucket.options.clone(),
        tags: BTreeMap::new(),
        weight: 1.0,
    }
}

fn filesystem(bucket: &Bucket) -> Filesystem {
    let url = StorageUrl::parse(&bucket.url).unwrap();
    FilesystemFactory::get_filesystem(&url, &bucket.options).unwrap()
}

#[tokio::test]
async fn buckets_of_all_clouds_pass_the_probe_and_nothing_is_left() {
    let (r2, _server) = own_server(Kind::S3, &["--r2", "--region", "auto"]);
    for bucket in Kind::ALL.map(bucket).into_iter().chain([r2]) {
        let fs = filesystem(&bucket);
        let found = probe_capabilities(&fs).await.unwrap();
        let url = &bucket.url;
        assert_eq!((found.problem(), found.versioning), (None, false), "{url}: {found:?}");
        assert!(fs.list("").await.unwrap().is_empty(), "{url}");
    }
    let (versioned, _server) = own_server(Kind::Gcs, &["--versioning"]);
    let found = probe_capabilities(&filesystem(&versioned)).await.unwrap();
    assert!(found.versioning && found.problem().is_none());
    assert!(found.advice().iter().any(|advice| advice.contains("versioning is on")));
}

#[tokio::test]
async fn a_service_that_ignores_create_if_absent_is_refused_with_the_reason() {
    let url = StorageUrl::parse("s3://careless/root").unwrap();
    let fs = Filesystem::over(&url, Arc::new(Careless(InMemory::new()))).unwrap();
    let reason = require(&fs).await.unwrap_err();
    assert!(reason.contains("create-if-absent is ignored"), "{reason}");
    assert!(!fs.exists(PATH).await.unwrap());
}

#[tokio::test]
async fn the_first_use_of_a_bucket_probes_and_later_starts_do_not() {
    let (place, faults) = bucket(Kind::S3).with_faults();
    faults.clear();
    let configs = || {
        StorageComponentType::ALL
            .map(|component| config(&place, component))
            .to_vec()
    };
    let roots = Roots::open(configs(), true).await.unwrap();
    assert!(roots.all().iter().all(|root| root.state() == RootState::Online));
    assert!(
        !format!("{roots:?}").contains("test-secret-of-s3"),
        "credentials are not shown"
    );
    let first: Vec<_> = roots.all().iter().map(|root| root.id()).collect();
    let wal = filesystem(&place);
    check(&wal.read(&format!("wal/{PATH}")).await.unwrap()).unwrap();
    faults.clear();
    let roots = Roots::open(configs(), true).await.unwrap();
    assert_eq!(roots.all().iter().map(|root| root.id()).collect::<Vec<_>>(), first);
    let log = faults.log();
    assert!(
        log.iter().all(|request| request["method"] == "GET"),
        "a start only reads: {log:?}"
    );
}

#[tokio::test]
async fn an_interrupted_first_use_is_probed_again() {
    let (place, faults) = bucket(Kind::Gcs).with_faults();
    faults.set(&json!([{"method": "PUT", "path": "capabilities(%2E|[.])json", "action": "status", "status": 403}]));
    let refused = Roots::open(vec![config(&place, StorageComponentType::Viper)], true).await;
    assert!(
        matches!(&refused, Err(Error::Config(reason)) if reason.contains("permission denied")),
        "{refused:?}"
    );
    faults.clear();
    Roots::open(vec![config(&place, StorageComponentType::Viper)], true)
        .await
        .unwrap();
}
