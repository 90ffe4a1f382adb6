//! Opens buckets: S3, Google Cloud Storage and Azure, from the environment and the root's options.
//!
//! Owns what a request to a bucket goes through: retries with jitter and a deadline, and a limit of requests at once
//! that follows what the service takes. Does not own what an error means for the root (`error`).

mod pace;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use crate::error::{StoreError, detail};
use crate::url::{Scheme, StorageUrl};
pub(crate) use pace::Pace;

/// Requests are repeated over a short while, below the deadline of an operation; longer outages are the business of
/// whoever knows what the request was for.
const RETRIES: usize = 5;
const RETRY_TIMEOUT: Duration = Duration::from_secs(8);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An opened bucket.
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) pace: Arc<Pace>,
}

/// Opens the bucket of a URL; no request is made.
pub(crate) fn open(url: &StorageUrl, options: &BTreeMap<String, String>) -> Result<Remote, StoreError> {
    let pace = Arc::new(Pace::default());
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        Scheme::File => return Err(config_error(url, "not a bucket")),
        Scheme::S3 => s3(url, options, &pace)?,
        Scheme::Gcs => gcs(url, options, &pace)?,
        Scheme::Adls => azure(url, options, &pace)?,
    };
    let (_, prefix) = url.bucket_and_prefix();
    if prefix.is_empty() {
        return Ok(Remote { store, pace });
    }
    let prefix = object_store::path::Path::parse(prefix)
        .map_err(|_| config_error(url, "the prefix is not a legal object name"))?;
    let store = Arc::new(PrefixStore::new(store, prefix));
    Ok(Remote { store, pace })
}

fn s3(
    url: &StorageUrl,
    options: &BTreeMap<String, String>,
    pace: &Arc<Pace>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = AmazonS3Builder::from_env();
    for (key, value) in options {
        builder = builder.with_config(parse_key::<AmazonS3ConfigKey>(url, key)?, value);
    }
    if plain_http(options) {
        builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    let builder = builder.with_bucket_name(url.bucket_and_prefix().0);
    let builder = builder
        .with_retry(retry())
        .with_http_connector(pace.connector(url.bucket_and_prefix().0));
    Ok(Arc::new(builder.build().map_err(|_| unusable(url))?))
}

fn gcs(
    url: &StorageUrl,
    options: &BTreeMap<String, String>,
    pace: &Arc<Pace>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (key, value) in options {
        // The other clouds call it so.
        let name = if key.eq_ignore_ascii_case("endpoint") {
            "base_url"
        } else {
            key
        };
        builder = builder.with_config(parse_key::<GoogleConfigKey>(url, name)?, value);
    }
    if plain_http(options) {
        builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    let builder = builder.with_bucket_name(url.bucket_and_prefix().0);
    let builder = builder
        .with_retry(retry())
        .with_http_connector(pace.connector(url.bucket_and_prefix().0));
    Ok(Arc::new(builder.build().map_err(|_| unusable(url))?))
}

fn azure(
    url: &StorageUrl,
    options: &BTreeMap<String, String>,
    pace: &Arc<Pace>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (key, value) in options {
        builder = builder.with_config(parse_key::<AzureConfigKey>(url, key)?, value);
    }
    if let Some(account) = url.account() {
        builder = builder.with_account(account);
    }
    if builder.get_config_value(&AzureConfigKey::AccountName).is_none() {
        return Err(config_error(
            url,
            "no storage account is named: write adls://<account>.dfs.core.windows.net/<container>/…, or give the option `account_name`",
        ));
    }
    if plain_http(options) {
        builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    let builder = builder.with_container_name(url.bucket_and_prefix().0);
    let builder = builder
        .with_retry(retry())
        .with_http_connector(pace.connector(url.bucket_and_prefix().0));
    Ok(Arc::new(builder.build().map_err(|_| unusable(url))?))
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        backoff: BackoffConfig {
            init_backoff: FIRST_PAUSE,
            max_backoff: LONGEST_PAUSE,
            ..BackoffConfig::default()
        },
    }
}

/// Whoever writes `http://` for the endpoint of one bucket means it.
fn plain_http(options: &BTreeMap<String, String>) -> bool {
    let mut endpoints = options
        .iter()
        .filter(|(key, _)| key.to_ascii_lowercase().ends_with("endpoint") || key.eq_ignore_ascii_case("base_url"));
    endpoints.any(|(_, value)| value.starts_with("http://"))
}

fn parse_key<K: FromStr>(url: &StorageUrl, key: &str) -> Result<K, StoreError> {
    key.to_ascii_lowercase()
        .parse()
        .map_err(|_| config_error(url, &format!("unknown option `{key}`")))
}

/// The reason is kept out of the message: it may repeat a value.
fn unusable(url: &StorageUrl) -> StoreError {
    let what = match url.scheme() {
        Scheme::S3 | Scheme::File => "`access_key_id` and `secret_access_key` go together, `endpoint` is a URL",
        Scheme::Gcs => "`service_account_path` or `service_account_key` is a readable key in JSON, `endpoint` is a URL",
        Scheme::Adls => "`account_key` is the base64 text of a key, `endpoint` is a URL",
    };
    config_error(
        url,
        &format!("the options (or the environment) do not fit together: {what}"),
    )
}

fn config_error(url: &StorageUrl, reason: &str) -> StoreError {
    StoreError::Config(detail(url, "", reason.to_owned()))
}
