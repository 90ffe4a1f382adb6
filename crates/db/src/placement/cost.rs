//! CostOptimized: the cheapest storage, by its price for a GB and month.
//!
//! ```text
//! price = cost_per_gb_month, else tag `cost` if it is a number, else that of tag `tier`, else that of the scheme
//! ```
//!
//! Roots of one price share collections by load. The prices of tiers and schemes only put them in order; one currency
//! everywhere is what matters, so a configuration that names one price should name them all.

use super::load_balanced::by_measure;
use super::{Candidate, PlacementRequest, PlacementStrategy};

/// Tiers in the order of their prices.
const TIERS: [(&str, f64); 9] = [
    ("archive", 0.001),
    ("cold", 0.004),
    ("cool", 0.010),
    ("warm", 0.0125),
    ("standard", 0.023),
    ("hot", 0.023),
    ("hdd", 0.045),
    ("ssd", 0.08),
    ("nvme", 0.125),
];

/// List prices in US dollars for the first GB and month in a region of the United States, 2026: S3 Standard, Cloud Storage
/// Standard and Azure Blob hot LRS as compared at finout.io/blog/cloud-storage-pricing-comparison (seen 2026-11-21), and
/// for `file` the 0.08 of EBS gp3, AWS's general SSD volume. Only a last resort for an order: whoever pays something else
/// says so with `cost_per_gb_month`.
const SCHEMES: [(&str, f64); 4] = [("s3", 0.023), ("gcs", 0.020), ("adls", 0.018), ("file", 0.08)];

/// The cheapest roots, balanced; then the dearer ones.
pub(super) struct CostOptimized;

impl PlacementStrategy for CostOptimized {
    fn rank(&self, _: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize> {
        by_measure(candidates, |candidate| Some(price(candidate)))
    }
}

fn price(candidate: &Candidate) -> f64 {
    let tag = |name: &str| candidate.tags.get(name).map(String::as_str);
    let number = |text: &str| text.parse().ok().filter(|cost: &f64| cost.is_finite() && *cost >= 0.0);
    let listed =
        |list: &[(&str, f64)], name: &str| list.iter().find(|(listed, _)| *listed == name).map(|(_, cost)| *cost);
    candidate
        .cost_per_gb_month
        .or_else(|| number(tag("cost")?))
        .or_else(|| listed(&TIERS, &tag("tier")?.to_lowercase()))
        .or_else(|| listed(&SCHEMES, scheme(&candidate.url)))
        // Every scheme that a configuration accepts is listed.
        .unwrap_or(f64::MAX)
}

/// The scheme under its first name: `gs` is `gcs`.
fn scheme(url: &str) -> &str {
    match url.split_once("://").map_or("file", |(scheme, _)| scheme) {
        "s3a" => "s3",
        "gs" => "gcs",
        "adl" | "az" | "azure" | "abfs" | "abfss" => "adls",
        other => other,
    }
}
