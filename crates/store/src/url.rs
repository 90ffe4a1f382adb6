//! The URL of a root: parsed once, kept byte for byte, compared by a canonical key.
//!
//! Does not touch a bucket; touches the disk only to resolve symbolic links of `file://` roots.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// Kind of place a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A directory on this machine: `file:///path`.
    File,
    /// Amazon S3 or a server that speaks its protocol (R2, MinIO): `s3://bucket/prefix`, also `s3a://`.
    S3,
    /// Google Cloud Storage: `gcs://bucket/prefix`, also `gs://`.
    Gcs,
    /// Azure: `adls://account.dfs.core.windows.net/container/prefix`, also `az://`, `azure://`, `abfs://`, `abfss://`.
    Adls,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Adls => "adls",
        }
    }
}

/// Why a text is not the URL of a root. Never repeats a text that may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UrlError(String);

/// How two roots lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// The same place.
    Same,
    /// One contains the other.
    Nested,
    /// Nothing in common.
    Apart,
}

/// URL of a root. Its text stays as it was configured.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StorageUrl {
    text: String,
    place: Place,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Local(PathBuf),
    Bucket {
        scheme: Scheme,
        account: Option<String>,
        bucket: String,
        prefix: String,
    },
}

impl StorageUrl {
    /// Parses `file:///path`, `s3://bucket/prefix`, `gcs://bucket/prefix` or
    /// `adls://account.dfs.core.windows.net/container/prefix`.
    ///
    /// # Errors
    /// An unknown scheme, a plain or relative path, a missing bucket, `.` or `..` in the path, or a credential in the URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(UrlError(plain_path_advice(text)));
        };
        let place = match scheme.to_ascii_lowercase().as_str() {
            "file" => parse_local(text, rest)?,
            "s3" | "s3a" => parse_bucket(Scheme::S3, text, rest)?,
            "gcs" | "gs" => parse_bucket(Scheme::Gcs, text, rest)?,
            "adls" | "adl" | "az" | "azure" => parse_bucket(Scheme::Adls, text, rest)?,
            "abfs" | "abfss" => parse_abfs(text, rest)?,
            other => {
                let shown = if may_hold_secret(text) { "the URL" } else { text };
                return Err(UrlError(format!(
                    "unknown scheme `{other}` in {shown}: expected file, s3, gcs or adls"
                )));
            }
        };
        Ok(Self {
            text: text.to_owned(),
            place,
        })
    }

    /// The text as configured, byte for byte.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Kind of place.
    pub fn scheme(&self) -> Scheme {
        match &self.place {
            Place::Local(_) => Scheme::File,
            Place::Bucket { scheme, .. } => *scheme,
        }
    }

    /// The directory of a `file://` URL.
    pub fn local_path(&self) -> Option<&Path> {
        match &self.place {
            Place::Local(path) => Some(path),
            Place::Bucket { .. } => None,
        }
    }

    /// This URL with one more path segment.
    ///
    /// # Panics
    /// When `segment` is empty, or holds a `/`, `?`, `#`, `.` alone or `..`: segments are constants of the program.
    pub fn join(&self, segment: &str) -> Self {
        assert!(
            !segment.is_empty() && segment != "." && segment != ".." && !segment.contains(['/', '?', '#', '@']),
            "a path segment is one plain name"
        );
        let place = match &self.place {
            Place::Local(path) => Place::Local(path.join(segment)),
            Place::Bucket {
                scheme,
                account,
                bucket,
                prefix,
            } => Place::Bucket {
                scheme: *scheme,
                account: account.clone(),
                bucket: bucket.clone(),
                prefix: if prefix.is_empty() {
                    segment.to_owned()
                } else {
                    format!("{prefix}/{segment}")
                },
            },
        };
        Self {
            text: format!("{}/{segment}", self.text.trim_end_matches('/')),
            place,
        }
    }

    /// Key for comparison: aliases of schemes folded, trailing `/` trimmed, symbolic links of local paths resolved as far
    /// as they exist. Reads the disk for `file://`, so it belongs on the pool of the root.
    pub fn canonical(&self) -> String {
        match &self.place {
            Place::Local(path) => format!("file://{}", resolve(path).display()),
            Place::Bucket { .. } => self.lexical(),
        }
    }

    /// As [`canonical`](Self::canonical) without reading the disk.
    pub fn lexical(&self) -> String {
        match &self.place {
            Place::Local(path) => format!("file://{}", path.display()),
            Place::Bucket {
                scheme,
                account,
                bucket,
                prefix,
            } => {
                let account = account.as_deref().map(|a| format!("{a}/")).unwrap_or_default();
                let slash = if prefix.is_empty() { "" } else { "/" };
                format!("{}://{account}{bucket}{slash}{prefix}", scheme.name())
            }
        }
    }

    /// How this root and another lie to each other, by their canonical keys.
    pub fn overlaps(&self, other: &Self) -> Overlap {
        compare(&self.canonical(), &other.canonical())
    }

    /// Azure account (lower case), if the URL names it.
    pub(crate) fn account(&self) -> Option<&str> {
        match &self.place {
            Place::Bucket { account, .. } => account.as_deref(),
            Place::Local(_) => None,
        }
    }

    /// Bucket (or container) and prefix; empty for local URLs.
    pub(crate) fn bucket_and_prefix(&self) -> (&str, &str) {
        match &self.place {
            Place::Bucket { bucket, prefix, .. } => (bucket, prefix),
            Place::Local(_) => ("", ""),
        }
    }
}

/// How two canonical keys lie to each other.
pub fn compare(a: &str, b: &str) -> Overlap {
    let (a, b) = (a.trim_end_matches('/'), b.trim_end_matches('/'));
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    match () {
        () if a == b => Overlap::Same,
        // `file:` alone is the trimmed root directory `file:///`, which contains every local path.
        () if within(a, b) || within(b, a) => Overlap::Nested,
        () => Overlap::Apart,
    }
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl FromStr for StorageUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

fn plain_path_advice(text: &str) -> String {
    match text {
        "" => "the URL of a root is empty: write file:// and an absolute path, s3://…, gcs://… or adls://…".to_owned(),
        _ if may_hold_secret(text) => "not a URL: expected file://, s3://, gcs:// or adls://".to_owned(),
        _ if text.starts_with('/') => format!("`{text}` is not a URL: write file://{text}"),
        _ => format!("`{text}` is not a URL: write file:// and an absolute path, as file:///data/{text}"),
    }
}

/// Whether a text may carry `user:password@` or a signature.
fn may_hold_secret(text: &str) -> bool {
    text.contains(['@', '?'])
}

fn parse_local(text: &str, rest: &str) -> Result<Place, UrlError> {
    if !rest.starts_with('/') {
        return Err(UrlError(format!(
            "{text}: a local root needs an absolute path, as file:///data (three slashes)"
        )));
    }
    if rest.contains('\0') {
        return Err(UrlError("the path of a file:// URL holds a NUL character".to_owned()));
    }
    let segments = checked_segments(rest).map_err(|reason| UrlError(format!("{text}: {reason}")))?;
    Ok(Place::Local(PathBuf::from(format!("/{}", segments.join("/")))))
}

fn parse_bucket(scheme: Scheme, text: &str, rest: &str) -> Result<Place, UrlError> {
    refuse_secrets(scheme, rest)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host_is_account = scheme == Scheme::Adls && host.contains('.');
    if host_is_account {
        let account = account_of(text, host)?;
        let (container, prefix) = path.split_once('/').unwrap_or((path, ""));
        return bucket(scheme, Some(account), container, prefix, text);
    }
    bucket(scheme, None, host, path, text)
}

/// `abfss://container@account.dfs.core.windows.net/prefix`: what stands before the `@` is the container.
fn parse_abfs(text: &str, rest: &str) -> Result<Place, UrlError> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let Some((container, server)) = host.split_once('@') else {
        return parse_bucket(Scheme::Adls, text, rest);
    };
    refuse_secrets(Scheme::Adls, container)?;
    refuse_secrets(Scheme::Adls, server)?;
    refuse_secrets(Scheme::Adls, path)?;
    let account = account_of(text, server)?;
    bucket(Scheme::Adls, Some(account), container, path, text)
}

fn account_of(text: &str, host: &str) -> Result<String, UrlError> {
    match host.split_once('.') {
        Some((account, server))
            if !account.is_empty() && (server.starts_with("dfs.") || server.starts_with("blob.")) =>
        {
            Ok(account.to_ascii_lowercase())
        }
        _ => Err(UrlError(format!(
            "{text}: expected the host <account>.dfs.core.windows.net"
        ))),
    }
}

fn bucket(scheme: Scheme, account: Option<String>, name: &str, prefix: &str, text: &str) -> Result<Place, UrlError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'$');
    if name.is_empty() || !name.bytes().all(legal) {
        let noun = if scheme == Scheme::Adls { "container" } else { "bucket" };
        return Err(UrlError(format!(
            "{text}: the {noun} name is missing or has a character that is not allowed"
        )));
    }
    let segments = checked_segments(prefix).map_err(|reason| UrlError(format!("{text}: {reason}")))?;
    Ok(Place::Bucket {
        scheme,
        account,
        bucket: name.to_owned(),
        prefix: segments.join("/"),
    })
}

fn refuse_secrets(scheme: Scheme, text: &str) -> Result<(), UrlError> {
    if text.contains(['@', '?', '#']) {
        // The text is not repeated: it may hold a password or a signature.
        return Err(UrlError(format!(
            "a {}:// URL holds `@`, `?` or `#`: credentials come from the environment or from storage.credentials, never from the URL",
            scheme.name()
        )));
    }
    Ok(())
}

/// The non-empty segments of a path; repeated and trailing slashes vanish.
fn checked_segments(path: &str) -> Result<Vec<&str>, &'static str> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return Err("`.` and `..` are not allowed in the path of a root");
    }
    if segments.iter().any(|segment| segment.chars().any(char::is_control)) {
        return Err("control characters are not allowed in the path of a root");
    }
    Ok(segments)
}

/// Resolves symbolic links of the longest existing part; the rest is kept as written.
fn resolve(path: &Path) -> PathBuf {
    let mut existing = path;
    loop {
        if let Ok(real) = std::fs::canonicalize(existing) {
            return match path.strip_prefix(existing) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
        match existing.parent() {
            Some(parent) => existing = parent,
            None => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn check(text: &str, scheme: Scheme, lexical: &str) {
        let url = StorageUrl::parse(text).unwrap();
        assert_eq!(
            (url.as_str(), url.scheme(), url.lexical().as_str()),
            (text, scheme, lexical)
        );
    }

    fn refused(text: &str, part: &str) {
        let message = StorageUrl::parse(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }

    #[test]
    fn a13_the_text_stays_and_aliases_fold_into_one_key() {
        check("file:///data/wal/", Scheme::File, "file:///data/wal");
        check("FILE:///data//wal", Scheme::File, "file:///data/wal");
        check("file:///a b/c#1?x", Scheme::File, "file:///a b/c#1?x");
        check("s3://b/p/", Scheme::S3, "s3://b/p");
        check("s3a://b", Scheme::S3, "s3://b");
        check("gs://b/p/q", Scheme::Gcs, "gcs://b/p/q");
        check("gcs://b/", Scheme::Gcs, "gcs://b");
        check("adls://Acc.dfs.core.windows.net/c/p", Scheme::Adls, "adls://acc/c/p");
        check("adls://acc.blob.core.windows.net/c", Scheme::Adls, "adls://acc/c");
        check("abfss://c@acc.dfs.core.windows.net/p", Scheme::Adls, "adls://acc/c/p");
        check("az://c/p", Scheme::Adls, "adls://c/p");
    }

    #[test]
    fn a14_b6_what_is_not_a_root_is_refused_with_advice() {
        refused("", "empty");
        refused("/data", "write file:///data");
        refused("data", "absolute path");
        refused("file://data", "three slashes");
        refused("file:///data/../etc", "`..`");
        refused("s3://b/../c", "`..`");
        refused(
            "ftp://host/x",
            "unknown scheme `ftp` in ftp://host/x: expected file, s3, gcs or adls",
        );
        refused("s3://", "bucket name is missing");
        refused("s3:///x", "bucket name is missing");
        refused("adls://acc.dfs.core.windows.net/", "container name is missing");
        refused("adls://acc.example.com/c", "expected the host");
    }

    #[test]
    fn secrets_in_a_url_are_refused_and_never_repeated() {
        for text in [
            "s3://AKIA:hunter2@bucket/p",
            "adls://a.blob.core.windows.net/c?sig=hunter2",
            "abfss://hunter2:x@a@b.dfs.core.windows.net/c",
            "https://bucket.example/?sig=hunter2",
            "hunter2@host",
        ] {
            let message = StorageUrl::parse(text).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn join_adds_one_segment_to_the_text_and_the_place() {
        let url = StorageUrl::parse("s3://b/p/").unwrap().join("wal");
        assert_eq!(
            (url.as_str(), url.bucket_and_prefix()),
            ("s3://b/p/wal", ("b", "p/wal"))
        );
        assert_eq!(StorageUrl::parse(url.as_str()).unwrap(), url);
        let url = StorageUrl::parse("file:///d").unwrap().join("wal");
        assert_eq!(url.local_path(), Some(Path::new("/d/wal")));
    }

    #[test]
    fn roots_are_the_same_nested_or_apart() {
        let overlap = |a: &str, b: &str| StorageUrl::parse(a).unwrap().overlaps(&StorageUrl::parse(b).unwrap());
        assert_eq!(overlap("s3://b/p/", "s3a://b/p"), Overlap::Same);
        assert_eq!(overlap("s3://b/p", "s3://b"), Overlap::Nested);
        assert_eq!(overlap("s3://b/p", "s3://b/pq"), Overlap::Apart);
        assert_eq!(overlap("s3://b/p", "gs://b/p"), Overlap::Apart);
        assert_eq!(overlap("file:///", "file:///x-does-not-exist"), Overlap::Nested);
    }

    #[test]
    fn a_symbolic_link_is_the_place_it_points_to_even_below_missing_parts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
        let url = |tail: &str| StorageUrl::parse(&format!("file://{}/{tail}", dir.path().display())).unwrap();
        assert_eq!(url("real").overlaps(&url("link")), Overlap::Same);
        assert_eq!(url("real/not/yet").overlaps(&url("link/not")), Overlap::Nested);
        assert_eq!(url("real/a").overlaps(&url("link/b")), Overlap::Apart);
    }
}
