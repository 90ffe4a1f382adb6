#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use uuid::Uuid;

use super::*;

const ROOT: RootId = RootId(Uuid::nil());

#[test]
fn c8_the_average_follows_the_latest_operations() {
    let latencies = Latencies::default();
    let now = Instant::now();
    let note = |count, ms| latencies.note(ROOT, count, Duration::from_millis(ms), now);
    assert_eq!(note(0, 0), None, "nothing was measured");
    assert_eq!(note(100, 100), Some(1.0));
    assert_eq!(note(100, 100), Some(1.0), "nothing new");
    let slower = note(110, 600).unwrap();
    assert!((10.0..25.0).contains(&slower), "ten operations of 50 ms: {slower}");
    let slow = note(300, 600 + 190 * 50).unwrap();
    assert!((49.0..=50.0).contains(&slow), "{slow}");
    let recovered = note(600, 600 + 190 * 50 + 300).unwrap();
    assert!(recovered < 1.1, "{recovered}");
}

#[test]
fn c8_a_measurement_that_is_old_is_forgotten_and_one_that_is_refreshed_is_not() {
    let latencies = Latencies::default();
    let start = Instant::now();
    let note = |count, after| latencies.note(ROOT, count, Duration::from_millis(50 * count), start + after);
    assert_eq!(note(1, Duration::ZERO), Some(50.0));
    assert_eq!(note(1, Latencies::AGE_MAX - Duration::from_secs(1)), Some(50.0));
    assert_eq!(note(2, Latencies::AGE_MAX), Some(50.0));
    assert_eq!(note(2, Latencies::AGE_MAX * 2), None);
    assert_eq!(note(3, Latencies::AGE_MAX * 2), Some(50.0));
}

#[test]
fn d12_the_device_of_a_directory_that_is_not_there_yet_is_that_of_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let number = device_number(directory.path()).unwrap();
    assert_eq!(device_number(&directory.path().join("a/b")), Some(number));
}
