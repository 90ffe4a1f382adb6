//! Moving the index files of a shard from one root to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Axis;
use super::places::{Copy, key_of};
use crate::error::{Error, Result};
use crate::root::{Root, RootId};

impl Axis {
    /// Copies one more file from a root to another, reads it back, and returns its bytes. `None` when all are there: from then
    /// on `to` is a home in place of `from`, which is only read until it is [`clear`](Self::clear)ed.
    ///
    /// # Errors
    /// Errors of `to`. A file that no root has in good order is no error: it is built again.
    pub async fn move_next(&self, from: &Arc<Root>, to: &Arc<Root>) -> Result<Option<u64>> {
        let mut places = self.places.lock().await;
        if places.closed {
            return Err(Error::Overloaded(format!("shard {} is closed", self.directory)));
        }
        if places.homes.all().iter().all(|root| root.id() != to.id()) {
            places.homes.also.push(to.clone());
        }
        let has = |copies: &BTreeMap<RootId, Copy>, root: &Root| copies.get(&root.id()).is_some_and(|copy| !copy.bad);
        loop {
            let mut files = places.files.iter();
            let next = files.find(|(_, copies)| has(copies, from) && !has(copies, to));
            let Some((&key, _)) = next else {
                places.homes.replace(from, to);
                return Ok(None);
            };
            let Some(bytes) = self.read(&mut places, key, None).await else {
                places.mark_bad(key, from.id());
                continue;
            };
            self.write(&mut places, key, std::slice::from_ref(to), std::slice::from_ref(&bytes))
                .await?;
            if to.read(&self.path(key)).await? != bytes {
                places.mark_bad(key, to.id());
                let (url, path) = (to.url(), self.path(key));
                return Err(Error::Corruption(format!(
                    "{url}/{path} does not read back as it was written"
                )));
            }
            return Ok(Some(bytes.len() as u64));
        }
    }

    /// Deletes all index files of the shard from a root that is no home any more. Returns their bytes.
    ///
    /// # Errors
    /// Errors of the root; [`Error::Internal`] while it is a home.
    pub async fn clear(&self, from: &Arc<Root>) -> Result<u64> {
        let mut places = self.places.lock().await;
        if places.homes.is_home(from.id()) {
            return Err(Error::Internal(format!("{} is still an index home", from.url())));
        }
        let mut bytes = 0;
        for file in from.list(&self.directory).await? {
            let Some(key) = key_of(&self.directory, &file.path) else {
                continue;
            };
            from.delete(&file.path).await?;
            from.remove_usage(self.collection, file.size, 1);
            places.forget(key, from.id());
            bytes += file.size;
        }
        places.homes.also.retain(|root| root.id() != from.id());
        Ok(bytes)
    }
}
