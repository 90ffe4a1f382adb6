//! What is done with the files while no block is written: ending them, beginning new ones, moving to other roots.
//!
//! Writers queue meanwhile. No step waits for a root longer than its patience, and none holds the log's lock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::error::{Error, Result};
use crate::root::Root;

use super::Home;
use super::block::Header;
use super::fence::Refusal;
use super::file::ActiveFile;
use super::flight::Lane;
use super::log::{FileKind, Log, SealedFile};
use super::queue::Queue;
use super::writer::Shared;

/// While it lives no new block is taken from the queue.
pub(super) struct Still {
    shared: Arc<Shared>,
    _only: OwnedMutexGuard<()>,
}

impl Drop for Still {
    fn drop(&mut self) {
        self.shared.log.lock().paused = false;
        self.shared.kick();
    }
}

impl Shared {
    /// Waits until `reached` holds; looks after hung roots meanwhile.
    pub(super) async fn until(self: &Arc<Self>, reached: impl Fn(&Log, &Queue) -> bool) {
        let tick = self.tick();
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if reached(&self.log.lock(), &self.queue.lock()) {
                return;
            }
            if tokio::time::timeout(tick, progress).await.is_err() {
                self.watch();
            }
        }
    }

    /// How often those who wait look whether a root hangs.
    pub(super) fn tick(&self) -> Duration {
        self.stall / 4
    }

    /// How long a root may take where the log can go on without it.
    pub(super) fn patience(&self) -> Duration {
        if self.spare.is_some() || self.log.lock().lane_roots().len() > 1 {
            self.stall
        } else {
            Duration::MAX
        }
    }

    /// Lets the blocks under way come to their end and takes no new ones.
    pub(super) async fn still(self: &Arc<Self>) -> Still {
        let only = Arc::clone(&self.only).lock_owned().await;
        let still = Still {
            shared: Arc::clone(self),
            _only: only,
        };
        self.log.lock().paused = true;
        self.until(|log, _| log.is_still()).await;
        still
    }

    /// Ends the files that are written, if they hold at least `min_bytes` of entries together; whether it did.
    pub(super) async fn end_files(self: &Arc<Self>, min_bytes: u64) -> bool {
        let (files, durable) = {
            let mut log = self.log.lock();
            let written = log.lanes.iter().flat_map(|lane| &lane.file);
            let written: Vec<&ActiveFile> = written.filter(|file| !file.is_empty()).collect();
            if written.is_empty() || written.iter().map(|file| file.end).sum::<u64>() < min_bytes {
                return false;
            }
            let durable = log.durable;
            (log.take_files(), durable)
        };
        self.seal(files, durable).await;
        true
    }

    /// Ends files at their true length.
    pub(super) async fn seal(self: &Arc<Self>, files: Vec<ActiveFile>, durable: u64) {
        for mut file in files {
            let home = file.home.clone();
            let sealed = home.run(self.patience(), move || {
                file.seal(durable);
                file.as_sealed()
            });
            // Otherwise it ends where it is.
            if let Ok(sealed) = sealed.await {
                self.log.lock().correct(sealed);
            }
        }
    }

    /// Creates a file with a header only on the first lane on a disk, if there is one, and keeps no handle of it.
    pub(super) async fn begin_file(self: &Arc<Self>) -> Result<()> {
        let on_disk = |lane: &Lane| lane.home.is_local();
        let (home, header) = {
            let log = self.log.lock();
            let first = self.queue.lock().first_queued();
            let Some(lane) = log.lanes.iter().find(|lane| on_disk(lane)) else {
                return Ok(());
            };
            (lane.home.clone(), log.header(&lane.home, first))
        };
        let file = self.create(&home, header).await?;
        let mut log = self.log.lock();
        if let Some(lane) = log.lanes.iter_mut().find(|lane| on_disk(lane)) {
            lane.file = Some(file);
        }
        Ok(())
    }

    /// Creates a file with a header only. An ended file of this name goes if it is as empty: the log has left the root and
    /// comes back before anything was written.
    async fn create(&self, home: &Home, header: Header) -> Result<ActiveFile> {
        let name = super::file_name(header.first_seq, header.format);
        let (place, faults, same) = {
            let log = self.log.lock();
            (home.clone(), log.faults.clone(), log.ended_as(home, &name))
        };
        let replaces = same.as_ref().is_some_and(|same| same.last < same.first);
        let first = header.first_seq;
        let created = home.run(self.patience(), move || {
            if replaces {
                ActiveFile::discard(&place, &header);
            }
            ActiveFile::create(&place, &header, &faults)
        });
        let created = created.await.inspect_err(|_| {
            // It may come into being yet, so the name is used up here.
            let (home, last, bytes) = (home.clone(), first, 0);
            let name = name.clone();
            self.log.lock().end_file(SealedFile {
                home,
                name,
                first,
                last,
                bytes,
                kind: FileKind::Entries,
            });
        });
        let mut file = created?.map_err(|error| home.io_error(&name, &error))?;
        if let Some(same) = same {
            self.log.lock().forget(&same);
        }
        file.handle = None;
        Ok(file)
    }

    /// The lanes become these roots; a file on the first of them is there when it returns.
    pub(super) async fn continue_on(self: &Arc<Self>, roots: &[Arc<Root>]) -> Result<()> {
        let directory = Arc::clone(&self.log.lock().directory);
        let homes: Vec<Home> = roots.iter().map(|root| Home::new(root, &directory)).collect();
        let first = homes.first().cloned().ok_or_else(no_lane)?;
        let still = self.still().await;
        for home in homes.iter().filter(|home| !home.is_local()) {
            self.arrive(home).await.map_err(Refusal::into_error)?;
        }
        let (next, header) = {
            let mut log = self.log.lock();
            let next = self.queue.lock().first_queued();
            let width = std::mem::replace(&mut log.width, homes.len() as u32);
            let header = log.header(&first, next);
            log.width = width;
            (next, header)
        };
        let kept = self.log.lock().take_empty_file(&first, next);
        let file = match kept {
            Some(file) => Some(file),
            None if first.is_local() => Some(self.create(&first, header).await?),
            None => None,
        };
        let (old, durable) = {
            let mut log = self.log.lock();
            let old = log.take_files();
            log.set_lanes(homes);
            self.queue.lock().lanes = log.shares();
            if let Some(lane) = log.lanes.first_mut() {
                lane.file = file;
            }
            (old, log.durable)
        };
        // From here on it cannot fail, and the old roots are not waited for.
        drop(still);
        self.seal(old, durable).await;
        Ok(())
    }
}

impl Log {
    /// The files of the lanes, which are not written any more.
    pub(super) fn take_files(&mut self) -> Vec<ActiveFile> {
        let files: Vec<ActiveFile> = self.lanes.iter_mut().filter_map(|lane| lane.file.take()).collect();
        for file in &files {
            self.end_file(file.as_sealed());
        }
        files
    }

    /// The file of a lane on the same root that is still empty and has the name that the next one would get.
    fn take_empty_file(&mut self, home: &Home, next: u64) -> Option<ActiveFile> {
        let same = |lane: &&mut super::flight::Lane| {
            let file = lane.file.as_ref().filter(|file| file.is_empty() && file.first == next);
            file.is_some_and(|file| file.home.root.id() == home.root.id())
        };
        self.lanes.iter_mut().find(same)?.file.take()
    }
}

fn no_lane() -> Error {
    Error::Internal("a log needs a root".to_owned())
}
