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
