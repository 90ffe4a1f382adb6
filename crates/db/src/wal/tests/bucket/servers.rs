//! The same over real servers of each protocol, with a proxy in front that loses answers.

use std::collections::BTreeSet;

use serde_json::json;
use testservers::Kind;

use super::*;

/// Puts that fail before the server sees them, or after it has applied them.
fn rules() -> serde_json::Value {
    json!([
        {"method": "PUT|POST", "action": "drop-after", "probability": 0.1},
        {"method": "PUT|POST", "action": "status-after", "status": 500, "probability": 0.1},
        {"method": "PUT|POST", "action": "drop-before", "probability": 0.1},
        {"method": "PUT|POST", "action": "status", "status": 503, "probability": 0.1},
        {"method": "GET", "action": "status", "status": 503, "probability": 0.1},
    ])
}

async fn open(place: &Buckets) -> store::Process {
    // The listing and the fence meet the faults too.
    for _ in 0..20 {
        if let Ok(log) = place.open(0).await {
            return log;
        }
    }
    panic!("the log does not open");
}

async fn check(kind: Kind) {
    let mut place = Buckets::new(0);
    let direct = testservers::bucket(kind);
    let (proxied, faults) = direct.with_faults();
    place.server = Some(proxied);
    let (mut acknowledged, mut open_ids) = (BTreeSet::new(), BTreeSet::new());
    let mut old: Option<store::Process> = None;
    for round in 0..3_u64 {
        faults.clear();
        let log = open(&place).await;
        if let Some(old) = old.take() {
            let stale = old.wal.append(vec![upsert(9_000 + round)]).await;
            assert!(stale.is_err(), "a writer that was replaced acknowledged something");
        }
        let found = ids(&log.operations);
        assert!(
            acknowledged.is_subset(&found),
            "lost: {:?}",
            acknowledged.difference(&found)
        );
        assert!(
            found
                .iter()
                .all(|id| acknowledged.contains(id) || open_ids.contains(id))
        );
        acknowledged = found;
        open_ids.clear();
        faults.set(&rules());
        let calls = (0..6_u64).map(|writer| {
            let wal = log.wal.clone();
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for call in 0..4 {
                    let id = round * 1_000 + writer * 100 + call;
                    outcomes.push((id, wal.append(vec![upsert(id)]).await));
                }
                outcomes
            })
        });
        for call in calls.collect::<Vec<_>>() {
            for (id, outcome) in call.await.unwrap() {
                match outcome {
                    Ok(_) => acknowledged.insert(id),
                    Err(error) => {
                        assert!(!error.to_string().contains("fenced"), "{error}");
                        open_ids.insert(id)
                    }
                };
            }
        }
        assert!(log.applied.lock().is_sorted_by_key(|(seq, _)| *seq));
        old = Some(log);
    }
    faults.clear();
    place.server = Some(direct);
    let found = open(&place).await.operations;
    assert_eq!(ids(&found).len(), found.len(), "nothing twice");
    assert!(acknowledged.is_subset(&ids(&found)));
    assert!(
        acknowledged.len() > 36,
        "{} of 72 calls were acknowledged",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_inv3_inv11_on_s3_with_lost_answers() {
    check(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_inv3_inv11_on_azure_with_lost_answers() {
    check(Kind::Azure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_inv3_inv11_on_google_cloud_with_lost_answers() {
    check(Kind::Gcs).await;
}
