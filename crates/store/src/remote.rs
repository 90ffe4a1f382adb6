//! Opens buckets: S3, Google Cloud Storage and Azure, from the environment and the root's options.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};

use crate::error::{StoreError, detail};
use crate::traffic::{CountingConnector, Traffic};
use crate::url::{Scheme, StorageUrl};

/// Requests are repeated a few times over a short while; longer outages are the business of whoever knows what the
/// request was for.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the bucket of a URL; no request is made.
pub(crate) fn open(
    url: &StorageUrl,
    options: &BTreeMap<String, String>,
    traffic: &Arc<Traffic>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let (bucket, prefix) = url.bucket_and_prefix();
    let connector = CountingConnector {
        traffic: Arc::clone(traffic),
        bucket: bucket.to_owned(),
    };
    let retry = RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..Default::default()
    };
    // The reason is kept out of the message: it may repeat a value.
    let wrong = |_| config_error(url, "the options and the environment do not name a usable store");
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        Scheme::File => return Err(config_error(url, "not a bucket")),
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            for (key, value) in options {
                builder = builder.with_config(parse_key::<AmazonS3ConfigKey>(url, key)?, value);
            }
            Arc::new(builder.with_http_connector(connector).build().map_err(wrong)?)
        }
        Scheme::Gcs => {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .with_retry(retry);
            for (key, value) in options {
                builder = builder.with_config(parse_key::<GoogleConfigKey>(url, key)?, value);
            }
            Arc::new(builder.with_http_connector(connector).build().map_err(wrong)?)
        }
        Scheme::Adls => {
            let mut builder = MicrosoftAzureBuilder::from_env()
                .with_container_name(bucket)
                .with_retry(retry);
            if let Some(account) = url.account() {
                builder = builder.with_account(account);
            }
            for (key, value) in options {
                builder = builder.with_config(parse_key::<AzureConfigKey>(url, key)?, value);
            }
            Arc::new(builder.with_http_connector(connector).build().map_err(wrong)?)
        }
    };
    if prefix.is_empty() {
        return Ok(store);
    }
    let prefix = object_store::path::Path::parse(prefix)
        .map_err(|_| config_error(url, "the prefix is not a legal object name"))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

fn parse_key<K: FromStr>(url: &StorageUrl, key: &str) -> Result<K, StoreError> {
    key.to_ascii_lowercase()
        .parse()
        .map_err(|_| config_error(url, &format!("unknown option `{key}`")))
}

fn config_error(url: &StorageUrl, reason: &str) -> StoreError {
    StoreError::Config(detail(url, "", reason.to_owned()))
}
