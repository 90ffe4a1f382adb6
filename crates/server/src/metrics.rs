//! Counts and times of requests, and the text in which Prometheus reads them and the state of collections and roots.
//!
//! Series are looked up under a read lock and counted with atomics, so requests do not wait for each other.

mod collection;
mod storage;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

pub use collection::CollectionSample;
pub use storage::StorageSample;
use text::Text;

/// Upper bounds of the duration histogram, in seconds.
const BOUNDS_S: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0,
];

/// What a series counts: method, route pattern, status. The pattern, never the path: names must not make series.
type Labels = (&'static str, String, u16);

/// Name and help of a family, and its value for one thing.
type Family<T, V> = (&'static str, &'static str, fn(&T) -> V);

/// All requests since the start.
#[derive(Debug, Default)]
pub struct Requests {
    series: RwLock<HashMap<Labels, Arc<Series>>>,
}

#[derive(Debug, Default)]
struct Series {
    buckets: [AtomicU64; BOUNDS_S.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Requests {
    /// Counts one answered request.
    pub fn record(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let labels = (method, route.to_owned(), status);
        let found = self.series.read().get(&labels).cloned();
        let series = found.unwrap_or_else(|| self.series.write().entry(labels).or_default().clone());
        let seconds = took.as_secs_f64();
        if let Some((_, bucket)) = BOUNDS_S
            .iter()
            .zip(&series.buckets)
            .find(|(bound, _)| seconds <= **bound)
        {
            bucket.fetch_add(1, Relaxed);
        }
        series.count.fetch_add(1, Relaxed);
        series
            .micros
            .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, text: &mut Text) {
        let series: BTreeMap<Labels, Arc<Series>> = self
            .series
            .read()
            .iter()
            .map(|(labels, series)| (labels.clone(), series.clone()))
            .collect();
        text.family("rest_responses_total", "counter", "Answered requests");
        for ((method, route, status), series) in &series {
            let labels = [
                ("method", *method),
                ("endpoint", route),
                ("status", &status.to_string()),
            ];
            text.sample("rest_responses_total", &labels, series.count.load(Relaxed) as f64);
        }
        text.family(
            "rest_responses_duration_seconds",
            "histogram",
            "Time from the head of a request to its answer",
        );
        for ((method, route, status), series) in &series {
            let labels = [
                ("method", *method),
                ("endpoint", route),
                ("status", &status.to_string()),
            ];
            let mut below = 0;
            let buckets = BOUNDS_S.iter().zip(&series.buckets).map(|(bound, bucket)| {
                below += bucket.load(Relaxed);
                (*bound, below)
            });
            let (count, seconds) = (series.count.load(Relaxed), series.micros.load(Relaxed) as f64 / 1e6);
            text.histogram("rest_responses_duration_seconds", &labels, buckets, count, seconds);
        }
    }
}

/// Everything in the Prometheus text format, version 0.0.4.
pub fn render(requests: &Requests, collections: &[CollectionSample], storage: &StorageSample) -> String {
    let mut text = Text::default();
    text.family("app_info", "gauge", "Name and version of the server");
    text.sample(
        "app_info",
        &[("name", "proximadb"), ("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    collection::write(&mut text, collections);
    storage::write(&mut text, storage);
    requests.write(&mut text);
    text.0
}
