//! The same suite and the same races on real S3, Azure and Google Cloud Storage servers, with faults in front of them.

use std::sync::Arc;

use bytes::Bytes;
use proximadb_kv::{CacheOptions, Cached, ErrorKind, Store, open};
use serde_json::json;
use testservers::{Bucket, Kind, bucket};

use crate::faults::told_outcomes_are_true;
use crate::places::Layer::{Batch, Cache, Compress, Namespace};
use crate::places::{is_full, stack};
use crate::{races, suite};

async fn store(bucket: &Bucket) -> Arc<dyn Store> {
    Arc::new(open(&bucket.url, &bucket.options).await.unwrap())
}

async fn conforms(bucket: &Bucket) {
    for layers in [&[][..], &[Compress, Cache, Batch, Namespace]] {
        let mut place = bucket.clone();
        place.url += &format!("/{}", layers.len());
        let stack = stack(store(&place).await, layers);
        suite::conforms(&stack, 12).await;
    }
}

async fn races(bucket: &Bucket) {
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(store(bucket).await);
    }
    let (tasks, each) = if is_full() { (64, 1_000) } else { (16, 5) };
    races::m7_one_creator_wins(&stores, 64).await;
    races::m6_made_swaps_are_changes(&stores, 8, 6).await;
    races::m8_increments_are_exact(&stores, tasks, each).await;
}

/// Answers that are lost, late or wrong after the server has done what was asked, and before.
async fn faults(kind: Kind) {
    let bucket = bucket(kind);
    let (faulty, proxy) = bucket.with_faults();
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(store(&faulty).await);
    }
    proxy.set(&json!([
        {"method": "PUT", "probability": 0.15, "action": "status-after", "status": 503},
        {"method": "PUT", "probability": 0.15, "action": "drop-after"},
        {"method": "PUT", "probability": 0.05, "action": "drop-before"},
        {"method": "PUT", "probability": 0.05, "action": "status", "status": 409, "code": "ConditionalRequestConflict"},
        {"method": "PUT", "probability": 0.05, "action": "duplicate"},
        {"method": "GET", "probability": 0.05, "action": "status", "status": 503},
        {"method": "GET", "query": "^$", "probability": 0.05, "action": "corrupt"},
    ]));
    let told = told_outcomes_are_true(&stores, &store(&bucket).await, 6, 6).await;
    println!("{told:?}");
    assert!(proxy.hits().iter().sum::<u64>() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m11_n2_s8_the_s3_server_conforms() {
    conforms(&bucket(Kind::S3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m11_s8_the_azure_server_conforms() {
    conforms(&bucket(Kind::Azure)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m11_s8_the_gcs_server_conforms() {
    conforms(&bucket(Kind::Gcs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_m7_m8_n2_races_on_the_s3_server() {
    races(&bucket(Kind::S3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_m7_m8_races_on_the_azure_server() {
    races(&bucket(Kind::Azure)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_m7_m8_races_on_the_gcs_server() {
    races(&bucket(Kind::Gcs)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n2_n5_lost_answers_of_the_s3_server_are_never_lies() {
    faults(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_lost_answers_of_the_azure_server_are_never_lies() {
    faults(Kind::Azure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_lost_answers_of_the_gcs_server_are_never_lies() {
    faults(Kind::Gcs).await;
}

/// R2 refuses what S3 does not (`r2_refusal` in s3-server.py), among others a second write to one name within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_the_suite_and_the_races_hold_with_the_answers_of_r2() {
    let (bucket, _server) = testservers::own_server(Kind::S3, &["--r2", "--region", "auto"]);
    conforms(&bucket).await;
    races(&bucket).await;
}

/// Google allows one write a second to one name: no name is written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m8_one_write_a_second_to_a_name_is_no_limit() {
    let (bucket, _server) = testservers::own_server(Kind::Gcs, &["--mutation-interval", "600000"]);
    let stores = [store(&bucket).await, store(&bucket).await];
    races::m8_increments_are_exact(&stores, 4, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n4_a_second_read_through_the_cache_makes_no_request_and_a_set_invalidates() {
    let (faulty, proxy) = bucket(Kind::S3).with_faults();
    let cached = Cached::new(store(&faulty).await, CacheOptions::default());
    cached.set("k", Bytes::from("1")).await.unwrap();
    cached.get("k").await.unwrap();
    proxy.clear();
    assert_eq!(cached.get("k").await.unwrap().unwrap(), "1");
    assert!(proxy.log().is_empty(), "{:?}", proxy.log());
    cached.set("k", Bytes::from("2")).await.unwrap();
    assert_eq!(cached.get("k").await.unwrap().unwrap(), "2");
    assert!(!proxy.log().is_empty());
}

/// The server sees conditional puts only; what it answers decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n2_n5_an_outage_is_an_error_that_names_the_bucket_and_no_secret() {
    let (faulty, proxy) = bucket(Kind::S3).with_faults();
    let store = store(&faulty).await;
    assert!(
        store
            .create_if_absent("k", Bytes::from("1"))
            .await
            .unwrap()
            .is_swapped()
    );
    let puts = proxy.log().into_iter().filter(|request| request["method"] == "PUT");
    assert_eq!(puts.count(), 1);
    proxy.set(&json!([{"action": "status", "status": 403, "code": "AccessDenied"}]));
    let error = store.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().starts_with(&faulty.url), "{error}");
    let error = store.create_if_absent("other", Bytes::from("1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    for (name, secret) in &faulty.options {
        assert!(
            !name.contains("key") || !error.to_string().contains(secret.as_str()),
            "{error}"
        );
    }
    proxy.clear();
    assert_eq!(store.get("other").await.unwrap(), None);
    assert_eq!(store.get("k").await.unwrap().unwrap(), "1");
}
