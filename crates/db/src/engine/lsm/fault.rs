//! SlateDB's errors as the database's: by what the caller does next, naming the root.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use slatedb::{CloseReason, ErrorKind};

use crate::error::Error;
use crate::root::Root;

/// The database's error of a failed operation on the tree in `directory`; also notes what it says about the root.
pub(super) fn database_error(root: &Root, directory: &str, error: &slatedb::Error) -> Error {
    let message = format!("{}/{directory}: LSM tree: {error}", root.url());
    let causes = Causes::of(error);
    if causes.is_damage {
        return Error::Corruption(message);
    }
    if let Some(cause) = causes.request {
        return root.map_error(root.fs().explain(directory, cause));
    }
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

/// What a reader of damaged bytes says.
const DAMAGE: [io::ErrorKind; 2] = [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData];

/// What lies below an error.
#[derive(Default)]
struct Causes<'a> {
    /// The failed request: the innermost, which says what the disk or the bucket said.
    request: Option<&'a object_store::Error>,
    /// A file is shorter than another file says, or its checksum is wrong.
    is_damage: bool,
}

impl<'a> Causes<'a> {
    fn of(error: &'a (dyn StdError + 'static)) -> Self {
        let mut found = Self::default();
        let mut next = Some(error);
        while let Some(error) = next {
            let shared = error.downcast_ref::<Arc<object_store::Error>>().map(Arc::as_ref);
            let request = error.downcast_ref().or(shared);
            found.request = request.or(found.request);
            next = match error.downcast_ref::<io::Error>() {
                // It shows the source of what it wraps, and not what it wraps.
                Some(error) => {
                    found.is_damage |= DAMAGE.contains(&error.kind());
                    error.get_ref().map(|error| error as &(dyn StdError + 'static))
                }
                None => request.map_or_else(|| error.source(), StdError::source),
            };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use proximadb_store::{FilesystemFactory, StorageUrl};
    use slatedb_common::retry::NonRetryable;

    use super::*;

    fn request(source: Box<dyn StdError + Send + Sync>) -> object_store::Error {
        object_store::Error::Generic { store: "test", source }
    }

    #[test]
    fn a_full_disk_is_found_below_every_layer() {
        let url = StorageUrl::parse("file:///disk").unwrap();
        let fs = FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap();
        let disk = request(Box::new(io::Error::from(io::ErrorKind::StorageFull)));
        let shown = Arc::new(request(Box::new(NonRetryable(Box::new(disk)))));
        let layers = io::Error::other(io::Error::other(shown));
        let causes = Causes::of(&layers);
        assert!(!causes.is_damage);
        assert!(fs.explain("x", causes.request.unwrap()).is_full());
    }

    #[test]
    fn a_wrong_checksum_is_found_below_every_layer() {
        let disk = request(Box::new(io::Error::new(io::ErrorKind::InvalidData, "checksum")));
        let shown = Arc::new(request(Box::new(NonRetryable(Box::new(disk)))));
        assert!(Causes::of(&io::Error::other(shown)).is_damage);
    }
}
