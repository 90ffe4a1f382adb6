//! `[storage.prices]`: what requests to buckets cost.

use std::collections::BTreeMap;

use proximadb_store::{Prices, Scheme, StorageUrl};

use super::StorageConfig;
use super::effective::Settings;
use super::keys::CLOUDS;
use crate::error::Result;

/// The clouds of an endpoint that is not their scheme's usual one.
const ENDPOINTS: [(&str, &str); 1] = [("r2.cloudflarestorage.com", "r2")];

/// The prices of every cloud; the one without keys charges nothing.
pub(super) fn table(settings: &Settings) -> Result<BTreeMap<&'static str, Prices>> {
    let known = CLOUDS.iter().filter(|cloud| **cloud != "free");
    let prices = known.map(|cloud| {
        let price = |name: &str| settings.value(&format!("storage.prices.{cloud}.{name}"));
        Ok((
            *cloud,
            Prices {
                put: price("put_per_1000")?,
                list: price("list_per_1000")?,
                get: price("get_per_1000")?,
                egress_gb: price("egress_per_gb")?,
            },
        ))
    });
    prices.collect()
}

impl StorageConfig {
    /// What requests to the root at a URL cost: nothing on a disk.
    pub fn prices_of(&self, url: &StorageUrl) -> Prices {
        let of_url = self.for_url(url.as_str());
        let endpoint = of_url.options.get("endpoint").map_or("", String::as_str);
        let by_scheme = match url.scheme() {
            Scheme::File => return Prices::default(),
            Scheme::S3 => "s3",
            Scheme::Gcs => "gcs",
            Scheme::Adls => "azure",
        };
        let by_endpoint = ENDPOINTS.iter().find(|(host, _)| endpoint.contains(host));
        let told = by_endpoint.map_or(by_scheme, |(_, cloud)| *cloud);
        let cloud = of_url.cloud.as_deref().unwrap_or(told);
        self.prices.get(cloud).copied().unwrap_or_default()
    }
}
