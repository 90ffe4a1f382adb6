//! Feature rows B2 to B4, B8, B11 and B12 over real servers, and what wrong settings and faults say.

use serde_json::json;
use testservers::{Bucket, Kind, bucket, own_server};

use super::*;

fn open(bucket: &Bucket) -> Filesystem {
    let url = StorageUrl::parse(&bucket.url).unwrap();
    FilesystemFactory::get_filesystem(&url, &bucket.options).unwrap()
}

fn with(bucket: &Bucket, option: &str, value: &str) -> Bucket {
    let mut changed = bucket.clone();
    changed.options.insert(option.to_owned(), value.to_owned());
    changed
}

/// The one line that a bucket with something wrong says; it holds none of its options' values but the endpoint.
async fn refusal(bucket: &Bucket) -> String {
    let error = open(bucket).read("x").await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let line = error.to_string();
    assert!(line.starts_with(&bucket.url) && !line.contains('\n'), "{line}");
    for (option, value) in bucket
        .options
        .iter()
        .filter(|(option, _)| *option != "endpoint" && *option != "region")
    {
        assert!(!line.contains(value.as_str()), "{option} is shown: {line}");
    }
    line
}

#[tokio::test]
async fn b2_an_s3_bucket_keeps_every_promise() {
    conformance(&open(&bucket(Kind::S3))).await;
}

#[tokio::test]
async fn b2_n3_a_bucket_of_r2_keeps_every_promise() {
    let (bucket, _server) = own_server(Kind::S3, &["--r2", "--region", "auto"]);
    let fs = open(&bucket);
    creates(&fs).await;
    reads_many(&fs).await;
    refuses_paths_outside(&fs).await;
    let large = Bytes::from((0..20 << 20).map(|at: u32| (at >> 10) as u8).collect::<Vec<u8>>());
    fs.write_atomic("large", large.clone()).await.unwrap();
    assert_eq!(fs.read("large").await.unwrap(), large);
}

#[tokio::test]
async fn b3_an_azure_container_keeps_every_promise() {
    conformance(&open(&bucket(Kind::Azure))).await;
}

#[tokio::test]
async fn b4_a_google_bucket_keeps_every_promise() {
    conformance(&open(&bucket(Kind::Gcs))).await;
}

#[tokio::test]
async fn b3_b4_other_spellings_of_a_scheme_are_the_same_place() {
    for (kind, scheme, other) in [
        (Kind::Azure, "adls://", "abfss://"),
        (Kind::Gcs, "gcs://", "gs://"),
        (Kind::S3, "s3://", "s3a://"),
    ] {
        let place = bucket(kind);
        open(&place).write_atomic("a/file", bytes("text")).await.unwrap();
        let again = Bucket {
            url: place.url.replace(scheme, other),
            ..place
        };
        assert_eq!(open(&again).read("a/file").await.unwrap(), bytes("text"));
    }
}

#[tokio::test]
async fn b8_a_trailing_slash_gives_the_same_object() {
    for kind in Kind::ALL {
        let place = bucket(kind);
        open(&place).write_atomic("c/file", bytes("text")).await.unwrap();
        let slashed = Bucket {
            url: format!("{}/", place.url),
            ..place
        };
        assert_eq!(open(&slashed).read("c/file").await.unwrap(), bytes("text"));
    }
}

#[test]
fn b11_of_64_threads_on_a_bucket_one_creates() {
    for kind in Kind::ALL {
        one_of_64_commits(&open(&bucket(kind)));
    }
}

#[tokio::test]
async fn b12_two_accounts_in_one_process_each_with_its_own_credentials() {
    let one = bucket(Kind::S3);
    let (two, _server) = own_server(
        Kind::S3,
        &[
            "--access-key",
            "other-id",
            "--secret-key",
            "other-secret",
            "--region",
            "eu-west-1",
        ],
    );
    for place in [&one, &two] {
        open(place).write_atomic("file", bytes(&place.url)).await.unwrap();
    }
    for place in [&one, &two] {
        assert_eq!(open(place).read("file").await.unwrap(), bytes(&place.url));
    }
    let crossed = with(
        &with(&two, "access_key_id", "test-key-id"),
        "secret_access_key",
        "test-secret-of-s3",
    );
    assert!(
        refusal(&crossed)
            .await
            .contains("the credentials are refused (InvalidAccessKeyId)")
    );
}

#[tokio::test]
async fn b2_wrong_credentials_are_named_with_what_to_do_and_not_shown() {
    let place = bucket(Kind::S3);
    let line = refusal(&with(&place, "secret_access_key", "hunter2")).await;
    assert!(
        line.contains(
            "credentials are refused (SignatureDoesNotMatch): check the variables that [storage.credentials."
        ),
        "{line}"
    );
    let line = refusal(&with(&bucket(Kind::Azure), "account_key", "aHVudGVyMg==")).await;
    assert!(
        line.contains("credentials are refused (AuthenticationFailed)") || line.contains("permission denied (403"),
        "{line}"
    );
    let line = refusal(&with(&bucket(Kind::Gcs), "bearer_token", "hunter2")).await;
    assert!(
        line.contains("credentials are refused (AuthenticationRequired)"),
        "{line}"
    );
}

#[tokio::test]
async fn a_missing_bucket_is_named_and_never_empty() {
    for (kind, noun) in [(Kind::S3, "bucket"), (Kind::Azure, "container"), (Kind::Gcs, "bucket")] {
        let place = bucket(kind);
        let missing = Bucket {
            url: place.url.replace("/test/", "/missing-one/"),
            ..place
        };
        let line = refusal(&missing).await;
        assert!(line.contains(&format!("the {noun} does not exist")), "{line}");
        let fs = open(&missing);
        assert!(fs.list("").await.unwrap_err().is_unavailable());
        assert!(fs.list_names("").await.unwrap_err().is_unavailable());
        assert!(fs.write_atomic("x", bytes("x")).await.unwrap_err().is_unavailable());
    }
}

#[tokio::test]
async fn b2_a_wrong_region_is_named_with_what_to_do() {
    let line = refusal(&with(&bucket(Kind::S3), "region", "eu-west-1")).await;
    assert!(
        line.contains("is in another region") && line.contains("give its `region`"),
        "{line}"
    );
}

#[tokio::test]
async fn an_endpoint_that_nobody_answers_is_named() {
    for kind in Kind::ALL {
        let (through, faults) = bucket(kind).with_faults();
        faults.stop();
        let line = refusal(&through).await;
        assert!(
            line.contains("cannot be reached: check the endpoint and the network"),
            "{line}"
        );
        assert!(line.contains("http://127.0.0.1:"), "{line}");
    }
}

#[tokio::test]
async fn large_files_go_in_parts_and_come_back_whole() {
    for kind in Kind::ALL {
        let (place, faults) = bucket(kind).with_faults();
        faults.clear();
        let fs = open(&place);
        let large: Vec<u8> = (0..20 << 20)
            .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let large = Bytes::from(large);
        fs.write_atomic("c/large", large.clone()).await.unwrap();
        let puts = faults.log().iter().filter(|request| request["method"] == "PUT").count();
        assert!(puts >= 3, "{kind:?}: three parts: {:?}", faults.log());
        assert!(fs.read("c/large").await.unwrap() == large, "{kind:?}");
        assert_eq!(
            fs.read_range("c/large", (8 << 20) - 2..(8 << 20) + 2).await.unwrap(),
            large.slice((8 << 20) - 2..(8 << 20) + 2)
        );
    }
}

/// Invariant 3: whatever is done to the requests, the answer of a create is what is stored.
#[tokio::test]
async fn a_create_whose_answer_is_lost_knows_its_own_bytes() {
    for kind in Kind::ALL {
        let (place, faults) = bucket(kind).with_faults();
        let fs = open(&place);
        for (n, action) in [
            "drop-after",
            "status-after",
            "duplicate",
            "drop-before",
            "status",
            "truncate-request",
        ]
        .iter()
        .enumerate()
        {
            faults.set(&json!([{"method": "PUT", "times": 1, "action": action, "status": 503}]));
            let (path, ours) = (format!("v/{n}"), bytes(&format!("ours {n}")));
            let outcome = fs.create(&path, ours.clone()).await.unwrap();
            assert_eq!(outcome, Created::Committed, "{kind:?} {action}");
            assert_eq!(faults.hits(), [1], "{kind:?} {action}");
            faults.set(&json!([{"method": "PUT", "times": 1, "action": action, "status": 503}]));
            let outcome = fs.create(&path, bytes("other")).await.unwrap();
            assert_eq!(outcome, Created::Conflict(ours), "{kind:?} {action}");
        }
    }
}

#[tokio::test]
async fn a_create_that_cannot_be_read_back_is_neither_won_nor_lost() {
    let (place, faults) = bucket(Kind::S3).with_faults();
    let fs = open(&place);
    faults.set(&json!([{"method": "PUT", "times": 1, "action": "drop-after"}, {"action": "status", "status": 403}]));
    let error = fs.create("v/1", bytes("ours")).await.unwrap_err();
    assert!(matches!(error, StoreError::Indeterminate(_)), "{error:?}");
    faults.clear();
    assert_eq!(fs.create("v/1", bytes("ours")).await.unwrap(), Created::Committed);
}

#[tokio::test]
async fn deletes_may_be_repeated_and_their_answers_lost_over_all_clouds() {
    for kind in Kind::ALL {
        let (place, faults) = bucket(kind).with_faults();
        let fs = open(&place);
        for n in 0..3 {
            fs.write_atomic(&format!("d/{n}"), bytes("x")).await.unwrap();
        }
        faults.set(&json!([{"method": "DELETE|POST", "times": 1, "action": "status-after", "status": 503}]));
        fs.delete("d/0").await.unwrap();
        assert_eq!(faults.hits(), [1], "{kind:?}");
        fs.delete("d/0").await.unwrap();
        faults.set(&json!([{"method": "DELETE|POST", "times": 1, "action": "drop-after"}]));
        fs.delete("d/1").await.unwrap();
        fs.delete_dir("d").await.unwrap();
        assert_eq!(paths(&fs, "").await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn throttled_requests_are_repeated_and_fewer_go_at_once() {
    let (place, faults) = bucket(Kind::S3).with_faults();
    let fs = open(&place);
    let full = fs.request_limit().unwrap();
    faults.set(&json!([{"times": 3, "action": "status", "status": 503}]));
    fs.write_atomic("x", bytes("x")).await.unwrap();
    assert_eq!((faults.hits(), fs.throttled()), (vec![3], Some(3)));
    assert!(
        fs.request_limit().unwrap() <= full / 4,
        "three answers in a row halve it three times"
    );
    let text = (0..full * full).map(|_| async { fs.exists("x").await.unwrap() });
    for found in text.take(200) {
        assert!(found.await);
    }
    assert!(fs.request_limit().unwrap() > full / 4, "it grows back with answers");
}

#[tokio::test]
async fn cut_and_delayed_answers_are_read_again() {
    for kind in Kind::ALL {
        let (place, faults) = bucket(kind).with_faults();
        let fs = open(&place);
        let text = bytes(&"0123456789".repeat(10_000));
        fs.write_atomic("x", text.clone()).await.unwrap();
        faults.set(&json!([
            {"method": "GET", "times": 1, "action": "truncate-response", "bytes": 1000},
            {"method": "GET", "times": 2, "action": "latency", "ms": 50},
        ]));
        assert_eq!(fs.read("x").await.unwrap(), text, "{kind:?}");
        faults.set(&json!([{"method": "GET", "times": 1, "action": "truncate-response", "bytes": 100}]));
        assert_eq!(paths(&fs, "").await, ["x"], "{kind:?}");
    }
}
