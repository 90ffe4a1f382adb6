//! Which URLs a component has when it has no list of its own, and what makes a URL or a set of lists wrong.
//!
//! URLs are strings here and stay byte-identical. Whether the roots behind them are what they should be
//! (nested, foreign, unmounted) is found out when they are opened.

use std::collections::BTreeMap;
use std::env;

use crate::error::{Error, Result};

/// The directory, below the working directory, that holds everything when nothing is configured.
const DATA_DIRECTORY: &str = "proximadb-data";

/// The schemes of local directories and of the three clouds, with the aliases in use for them.
const SCHEMES: [&str; 9] = ["file", "s3", "s3a", "gcs", "gs", "adls", "abfss", "abfs", "az"];

/// The schemes whose URLs name the container before an `@`.
const CONTAINER_FIRST: [&str; 3] = ["adls", "abfss", "abfs"];

/// The URL of the data directory that is used when no URL is configured at all.
pub(super) fn data_directory() -> Result<String> {
    let current = env::current_dir().map_err(|e| Error::Config(format!("cannot find the working directory: {e}")))?;
    let Some(path) = current.to_str() else {
        let problem = "the name of the working directory is not UTF-8: configure [storage] urls";
        return Err(Error::Config(problem.to_owned()));
    };
    Ok(join(&format!("file://{path}"), DATA_DIRECTORY))
}

/// `<url>/<name>`, with one slash between them.
pub(super) fn join(url: &str, name: &str) -> String {
    // The slashes of an empty path ("file:///") belong to the scheme.
    let root = url.trim_end_matches('/');
    if root.ends_with(':') {
        format!("{root}///{name}")
    } else {
        format!("{root}/{name}")
    }
}

/// Whether a URL lies at or below a prefix. The prefix ends at a slash: `s3://logs` does not cover `s3://logs-old`.
pub(super) fn covers(prefix: &str, url: &str) -> bool {
    let rest = url.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Says what is wrong with a URL. A URL that may hold a secret is not repeated.
pub(super) fn check(url: &str) -> Result<(), String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(no_scheme(url));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let user_info = authority.contains('@') && !CONTAINER_FIRST.contains(&scheme);
    if user_info || authority.contains("@") && authority.contains(':') || rest.contains(['?', '#']) {
        let advice = "name environment variables in [storage.credentials.\"<url prefix>\"] instead";
        return Err(format!(
            "a {scheme}:// URL must not carry credentials or a query: {advice}"
        ));
    }
    if !SCHEMES.contains(&scheme) {
        return Err(format!(
            "unknown scheme `{scheme}` in `{url}`: use file, s3, gcs or adls"
        ));
    }
    if scheme == "file" && !authority.is_empty() {
        return Err(format!(
            "`{url}` is not absolute: write file:// and an absolute path, such as `file:///{rest}`"
        ));
    }
    if scheme != "file" && authority.is_empty() {
        return Err(format!("`{url}` names no bucket"));
    }
    Ok(())
}

fn no_scheme(text: &str) -> String {
    if text.starts_with('/') {
        return format!("`{text}` is a path, not a URL: write `file://{text}`");
    }
    if text.is_empty() {
        return "an empty string is not a URL".to_owned();
    }
    format!("`{text}` is not a URL: write file:// and an absolute path, or s3://, gcs:// or adls:// and a bucket")
}

/// Refuses a URL that is given twice, in one list or in two: a root belongs to one component.
pub(super) fn check_distinct(lists: &[(&str, &[String])]) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, urls) in lists {
        for url in *urls {
            let Some(other) = seen.insert(url.trim_end_matches('/'), key) else {
                continue;
            };
            let problem = if other == *key {
                format!("duplicate URL `{url}` in {key}")
            } else {
                format!("duplicate URL `{url}` in {other} and {key}: each component needs directories of its own")
            };
            return Err(Error::Config(problem));
        }
    }
    Ok(())
}
