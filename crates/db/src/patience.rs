//! How every test of this crate waits for work in the background: it looks, sleeps, and looks again. A wait that spun would
//! take the core from the very work that it waits for.

use std::time::Duration;

/// Long enough for a machine whose cores all belong to somebody else.
const DEADLINE: Duration = Duration::from_secs(60);

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Waits until `done` answers yes.
///
/// # Panics
///
/// Panics after a minute, naming `what` did not happen.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !done().await {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, looking).await;
    assert!(in_time.is_ok(), "{what} did not happen within {DEADLINE:?}");
}
