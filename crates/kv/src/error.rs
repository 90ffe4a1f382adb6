//! What can go wrong, by what the caller does next.

use std::collections::BTreeMap;
use std::fmt;

use proximadb_store::{StoreError, redact};

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The key, the namespace, the value, the URL or the options are not acceptable: fix them. Nothing was changed.
    Invalid,
    /// Credentials or permissions are missing or refused. Nothing was changed.
    Denied,
    /// The store did not answer, or refused. Nothing was changed: try again later.
    Unavailable,
    /// The change may or may not have been made, or may still be made: read before deciding.
    Indeterminate,
    /// Other writers were faster every time. Nothing was changed: try again.
    Contended,
    /// What is stored is not what was written, each time that it was read: repair it.
    Corrupt,
}

/// A failed operation. "Missing" and "lost a swap" are results, not errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    url: String,
    key: String,
    reason: String,
}

/// What every operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the key `key` (empty for the store itself) in the store or namespace at `url`.
    pub fn new(kind: ErrorKind, url: &str, key: &str, reason: impl Into<String>) -> Self {
        Self {
            kind,
            url: url.to_owned(),
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    /// The error of an answer of the object store; the reason holds no credential.
    pub(crate) fn of_answer(url: &str, key: &str, error: &object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::PermissionDenied { .. } => Self::new(ErrorKind::Denied, url, key, "permission denied (403)"),
            E::Unauthenticated { .. } => Self::new(ErrorKind::Denied, url, key, "credentials missing or refused (401)"),
            E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::InvalidPath { .. }
            | E::UnknownConfigurationKey { .. } => Self::new(ErrorKind::Invalid, url, key, redact(&error.to_string())),
            _ => Self::new(ErrorKind::Unavailable, url, key, redact(&error.to_string())),
        }
    }

    /// The error of a place that was opened by its URL.
    pub(crate) fn of_place(url: &str, key: &str, error: &StoreError) -> Self {
        let kind = match error {
            StoreError::Config(_) => ErrorKind::Invalid,
            StoreError::Denied(_) => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, url, key, error.detail().reason.clone())
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What to do next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// URL of the store, with the namespace.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key; empty when the store as a whole failed.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The reason in one sentence.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ErrorKind::Invalid => "not acceptable",
            ErrorKind::Denied => "denied",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Indeterminate => "outcome unknown",
            ErrorKind::Contended => "contended",
            ErrorKind::Corrupt => "damaged",
        };
        write!(f, "{}", self.url)?;
        if !self.key.is_empty() {
            write!(f, ": key {:?}", self.key)?;
        }
        write!(f, ": {kind}: {}", self.reason)
    }
}

impl std::error::Error for Error {}

/// The keys of a batch that failed, each with its reason; all others of the batch are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchError {
    /// By key; never empty.
    pub failed: BTreeMap<String, Error>,
}

impl BatchError {
    /// `Ok` when nothing failed.
    pub(crate) fn check(failed: BTreeMap<String, Error>) -> Result<(), Self> {
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Self { failed })
        }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the keys failed", self.failed.len())?;
        match self.failed.values().next() {
            Some(first) => write!(f, ", first {first}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BatchError {}
