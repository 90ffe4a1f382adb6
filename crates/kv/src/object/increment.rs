//! Group commit of increments: while one change of a counter is under way the others gather, and the next change makes them all.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ObjectKv;
use super::commit::Decision;
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::record::Record;
use crate::store::add;

/// Increments that no change has taken yet, by key name.
pub(super) type Waiting = Mutex<HashMap<String, Vec<Increment>>>;

/// One caller's increment, and where its answer goes.
pub(super) struct Increment {
    delta: i64,
    answer: oneshot::Sender<Result<i64>>,
}

impl ObjectKv {
    /// Adds `delta` to a counter in one change with whatever else waits for it in this process. The first to wait starts the
    /// task that makes the change: a caller that gives up takes nothing from the others.
    pub(super) async fn increment_with_others(&self, key: &str, delta: i64) -> Result<i64> {
        let name = self.name(key)?;
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.shared.increments.lock();
            let queue = waiting.entry(name.as_str().to_owned()).or_default();
            queue.push(Increment { delta, answer });
            queue.len() == 1
        };
        if is_first {
            let (store, key) = (self.clone(), key.to_owned());
            tokio::spawn(async move { store.make_increments(&key, &name).await });
        }
        answered.await.unwrap_or_else(|_| {
            let reason = "the process stops";
            Err(Error::new(ErrorKind::Indeterminate, &self.url, key, reason))
        })
    }

    /// Makes one change of all increments that wait when its turn comes, in the order of their calls.
    async fn make_increments(&self, key: &str, name: &KeyName) {
        let _turn = self.turn(name).await;
        let taken = self.shared.increments.lock().remove(name.as_str());
        let taken = taken.unwrap_or_default();
        let mut sums = Vec::new();
        let increment = |head: Option<&Record>| {
            let mut value = head.and_then(|record| record.value.clone());
            let each = taken.iter().map(|increment| {
                let sum = add(&self.url, key, value.as_ref(), increment.delta)?;
                value = Some(Bytes::from(sum.to_string()));
                Ok(sum)
            });
            sums = each.collect::<Vec<Result<i64>>>();
            match sums.iter().all(Result::is_err) {
                true => Ok(Decision::Stop),
                false => Ok(Decision::Write(value)),
            }
        };
        let changed = self.change_in_turn(key, name, increment).await;
        let answers = changed.map_or_else(|error| vec![Err(error); taken.len()], |_| sums);
        for (increment, answer) in taken.into_iter().zip(answers) {
            // Whoever has given up does not listen.
            let _ = increment.answer.send(answer);
        }
    }
}
