//! What can go wrong with bytes in a place, by what the caller does next.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::url::StorageUrl;

mod answer;

pub use answer::redact;

/// Where it happened and why; never holds a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// URL of the root as configured.
    pub root: String,
    /// Path below the root; empty for the root itself.
    pub path: String,
    /// The reason in one sentence.
    pub reason: String,
}

/// A failed operation on a root. "Missing" and "could not look" are different kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The file does not exist; the root was looked at.
    NotFound(Detail),
    /// No space or quota left: free some, or use another root.
    Full(Detail),
    /// The root does not accept writes.
    ReadOnly(Detail),
    /// The root does not answer, or its directory is gone: wait for it. It says nothing about what it holds.
    Unavailable(Detail),
    /// Credentials or permissions are missing or refused.
    Denied(Detail),
    /// The request or the options are wrong: fix them.
    Config(Detail),
    /// A create may or may not have happened and could not be read back: read again before deciding.
    Indeterminate(Detail),
    /// Any other failure of the disk or the bucket.
    Io(Detail),
}

impl StoreError {
    /// Where it happened and why.
    pub fn detail(&self) -> &Detail {
        match self {
            Self::NotFound(d) | Self::Full(d) | Self::ReadOnly(d) | Self::Unavailable(d) => d,
            Self::Denied(d) | Self::Config(d) | Self::Indeterminate(d) | Self::Io(d) => d,
        }
    }

    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Whether the root has no space left.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Whether the root itself cannot be used now, whatever file is asked for.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Denied(_))
    }

    /// The error of a local file operation below `url`.
    pub fn from_io(url: &StorageUrl, path: &str, error: &io::Error) -> Self {
        let detail = detail(url, path, error.to_string());
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(detail),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(detail),
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(detail),
            io::ErrorKind::PermissionDenied => Self::Denied(detail),
            io::ErrorKind::InvalidInput => Self::Config(detail),
            io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
            | io::ErrorKind::StaleNetworkFileHandle
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Self::Unavailable(detail),
            _ => Self::Io(detail),
        }
    }

    /// The error of an object store operation.
    pub(crate) fn from_object_store(url: &StorageUrl, path: &str, error: &object_store::Error) -> Self {
        use object_store::Error as E;
        if url.local_path().is_none() {
            return answer::of_bucket(url, path, error);
        }
        match error {
            E::NotFound { .. } => Self::NotFound(detail(url, path, "no such file".to_owned())),
            E::NotSupported { .. } | E::NotImplemented { .. } | E::InvalidPath { .. } => {
                Self::Config(detail(url, path, error.to_string()))
            }
            E::Generic { source, .. } => match cause::<io::Error>(source.as_ref()) {
                Some(cause) => Self::from_io(url, path, cause),
                None => Self::Io(detail(url, path, error.to_string())),
            },
            _ => Self::Io(detail(url, path, error.to_string())),
        }
    }
}

pub(crate) fn detail(url: &StorageUrl, path: &str, reason: String) -> Detail {
    Detail {
        root: url.as_str().to_owned(),
        path: path.to_owned(),
        reason,
    }
}

/// The first error of this type in the chain of causes.
fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<E>() {
            return Some(cause);
        }
        next = error.source();
    }
    None
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { root, path, reason } = self.detail();
        let kind = match self {
            Self::NotFound(_) => "not found",
            Self::Full(_) => "no space left",
            Self::ReadOnly(_) => "read-only",
            Self::Unavailable(_) => "unavailable",
            Self::Denied(_) => "denied",
            Self::Config(_) => "wrong request",
            Self::Indeterminate(_) => "outcome unknown",
            Self::Io(_) => "failed",
        };
        let slash = if path.is_empty() || root.ends_with('/') {
            ""
        } else {
            "/"
        };
        write!(f, "{root}{slash}{path}: {kind}: {reason}")
    }
}

impl StdError for StoreError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_kind_follows_the_cause_of_the_disk() {
        let url = StorageUrl::parse("file:///d").unwrap();
        let kind = |errno| StoreError::from_io(&url, "x", &io::Error::from_raw_os_error(errno));
        assert!(kind(rustix::io::Errno::NOSPC.raw_os_error()).is_full());
        assert!(kind(rustix::io::Errno::DQUOT.raw_os_error()).is_full());
        assert!(matches!(
            kind(rustix::io::Errno::ROFS.raw_os_error()),
            StoreError::ReadOnly(_)
        ));
        assert!(kind(rustix::io::Errno::NOENT.raw_os_error()).is_not_found());
        assert!(kind(rustix::io::Errno::ACCESS.raw_os_error()).is_unavailable());
        assert!(matches!(kind(rustix::io::Errno::IO.raw_os_error()), StoreError::Io(_)));
    }
}
