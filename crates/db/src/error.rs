//! The one error type of the database: its kind says what the caller does next, its message names the thing.

use thiserror::Error;

/// Result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it. Messages name the root URL, collection, file or field.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The request is wrong: fix the input. Nothing was written. HTTP 400.
    #[error("{0}")]
    InvalidInput(String),
    /// The named collection, point or root does not exist. HTTP 404.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken. HTTP 409.
    #[error("{0}")]
    AlreadyExists(String),
    /// The configuration is wrong: fix it and start again. Exit code 2.
    #[error("{0}")]
    Config(String),
    /// A root cannot be reached or is not what it should be: wait for it or repair it. HTTP 503.
    #[error("root {url} is unavailable: {reason}")]
    RootUnavailable {
        /// The URL of the root as configured.
        url: String,
        /// Why, in one sentence.
        reason: String,
    },
    /// The root has no space left: free some or add a root. Reads go on. HTTP 507.
    #[error("root {url} is full: {reason}")]
    StorageFull {
        /// The URL of the root as configured.
        url: String,
        /// The failed operation.
        reason: String,
    },
    /// Too much work is waiting: retry later. HTTP 429.
    #[error("{0}")]
    Overloaded(String),
    /// A search did not end in the time that its caller gave it: nothing is wrong with the data. HTTP 408.
    #[error("{0}")]
    Timeout(String),
    /// Bytes on a root are damaged: restore or repair; never skipped silently. HTTP 500.
    #[error("corruption: {0}")]
    Corruption(String),
    /// A defect of ProximaDB or of the machine. HTTP 500.
    #[error("internal error: {0}")]
    Internal(String),
}
