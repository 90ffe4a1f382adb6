//! SlateDB's errors as the database's: by what the caller does next, naming the root.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use slatedb::{CloseReason, ErrorKind};

use crate::error::Error;
use crate::root::Root;

/// The database's error of a failed operation on the tree in `directory`; also notes what it says about the root.
pub(super) fn database_error(root: &Root, directory: &str, error: &slatedb::Error) -> Error {
    if let Some(cause) = store_cause(error) {
        return root.map_error(root.fs().explain(directory, cause));
    }
    let message = format!("{}/{directory}: LSM tree: {error}", root.url());
    match error.kind() {
        ErrorKind::Data => Error::Corruption(message),
        ErrorKind::Unavailable | ErrorKind::Closed(CloseReason::Fenced) => {
            let error = Error::RootUnavailable {
                url: root.url().to_owned(),
                reason: format!("{directory}: LSM tree: {error}"),
            };
            root.note_failure(&error);
            error
        }
        _ => Error::Internal(message),
    }
}

/// The failed request below an error: the innermost, which says what the disk or the bucket said.
fn store_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a object_store::Error> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        let shared = error.downcast_ref::<Arc<object_store::Error>>().map(Arc::as_ref);
        found = error.downcast_ref().or(shared).or(found);
        next = match error.downcast_ref::<io::Error>() {
            // It shows the source of what it wraps, and not what it wraps.
            Some(error) => error.get_ref().map(|error| error as &(dyn StdError + 'static)),
            None => match shared {
                Some(shared) => shared.source(),
                None => error.source(),
            },
        };
    }
    found
}
