//! The database: names to collections, and the life of a collection from create to drop.
//!
//! Owns the order in which durable things come and go. Creating: one metadata record with all homes, then the first log
//! file and manifest. Dropping: the record says `dropping`, then the files go, then the record. A crash between any two
//! steps is finished at the next start. Collections are opened when they are first used, so that thousands of idle ones cost nothing.

mod caches;
mod candidates;
mod entry;
mod mover;
mod operate;
mod recovery;
mod report;
mod spare;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use proximadb_store::StorageUrl;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, RwLock as AsyncRwLock};
use uuid::Uuid;

use crate::collection::Collection;
use crate::config::{ComponentConfig, Config};
use crate::discovery::{self, Discovery};
use crate::error::{Error, Result};
use crate::metadata::{CollectionRecord, CollectionState, MetadataStore};
use crate::placement::{AssignmentService, Policies};
use crate::root::{RootConfig, Roots, StorageComponentType};
use crate::schema::{CollectionDescription, CollectionId, Schema};
use crate::shard::bucket_memory::BucketMemory;
use crate::shard::budget::MemoryBudget;
use crate::shard::building::BuildMemory;

use caches::Caches;
use candidates::Latencies;
use entry::Entry;
pub(crate) use entry::SHARD;
use mover::Mover;
pub use mover::{MoveReport, MoveState};
pub use report::{AssignmentReport, Listing, OperationReport, RootReport};

/// How old the measured usage of the roots may be when a new collection is placed by it.
const USAGE_AGE_MAX: Duration = Duration::from_secs(10);

/// An open database.
pub struct Database {
    config: Config,
    roots: Arc<Roots>,
    caches: Caches,
    assignments: AssignmentService,
    metadata: MetadataStore,
    budget: Arc<MemoryBudget>,
    build_memory: Arc<BuildMemory>,
    bucket_memory: Arc<BucketMemory>,
    catalog: RwLock<BTreeMap<String, Arc<Entry>>>,
    usage: Mutex<Usage>,
    latencies: Latencies,
    /// Creating and dropping happen one at a time.
    changing: AsyncMutex<()>,
    /// How often that was begun.
    changes: AtomicU64,
    /// Held shared by changes of records, exclusively at the end.
    records: AsyncRwLock<()>,
    mover: Mover,
    /// Logs that went on at another root since the start.
    failovers: AtomicU64,
    closed: AtomicBool,
    /// Where its tasks run.
    runtime: Handle,
}

/// What the roots held when they were last listed.
struct Usage {
    measured: Instant,
    discovery: Arc<Discovery>,
}

impl Database {
    /// Opens the database: roots, discovery, records; finishes what a crash interrupted. Collections whose roots cannot be
    /// reached are known but unavailable.
    ///
    /// # Errors
    /// [`Error::Config`] if the roots are not what the configuration says.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let roots = Arc::new(Roots::open(root_configs(&config)?, true).await?);
        let caches = Caches::open(&config).await?;
        roots.all().iter().for_each(|root| caches.attach(root));
        let discovery = Arc::new(discovery::discover(&roots).await);
        let metadata = MetadataStore::new(roots.clone());
        let policies = Policies::new(&config.storage.policies)?;
        let moves = &config.storage.moves;
        let mover = Mover::new(moves.max_bytes_per_second, moves.parallel as usize);
        let database = Arc::new(Self {
            budget: MemoryBudget::new(config.storage.wal.global_flush_threshold),
            build_memory: BuildMemory::new(config.storage.index.build_memory_mb << 20),
            bucket_memory: BucketMemory::new(config.storage.index.cache_size_mb << 20),
            config,
            roots,
            caches,
            assignments: AssignmentService::with_policies(policies),
            metadata,
            catalog: RwLock::default(),
            usage: Mutex::new(Usage {
                measured: Instant::now(),
                discovery: discovery.clone(),
            }),
            latencies: Latencies::default(),
            changing: AsyncMutex::default(),
            changes: AtomicU64::new(0),
            records: AsyncRwLock::default(),
            mover,
            failovers: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            runtime: Handle::current(),
        });
        database.recover(&discovery).await?;
        database.resume_moves();
        tokio::spawn(upkeep::probe_roots(Arc::downgrade(&database)));
        tokio::spawn(upkeep::keep_house(Arc::downgrade(&database)));
        Ok(database)
    }
}

impl Database {
    /// Creates a collection; it is durable and usable when this returns.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::InvalidInput`] for a bad name; errors of the roots, and then it does not exist.
    pub async fn create_collection(self: &Arc<Self>, name: &str, schema: Schema) -> Result<()> {
        check_name(name)?;
        let _one_change_at_a_time = self.change().await?;
        if self.exists(name) {
            return Err(Error::AlreadyExists(format!("Collection `{name}` already exists!")));
        }
        let id = CollectionId(Uuid::now_v7());
        let description = CollectionDescription {
            id,
            name: name.to_owned(),
            schema,
            created_at_ms: now_ms(),
        };
        let usage = self.usage(USAGE_AGE_MAX).await;
        let configs = self.assignment_configs(&description.schema, &usage).await;
        // Dropped on an error below, which takes the placement back: no counter moves without a collection.
        let reserved = self.assignments.assign_storage_url(id, &configs, now_ms())?;
        let record = self.metadata.create(description, reserved.placements().clone()).await?;
        reserved.record();
        self.log_placement(&record);
        let entry = self.insert(record, None);
        let Err(error) = self.open_entry(&entry).await else {
            return Ok(());
        };
        // Refused means that it is not there; a drop that cannot finish now is finished at the next start.
        if let Err(error) = self.drop_entry(name, &entry).await {
            tracing::warn!(collection = name, %error, "a collection that could not be created leaves something behind");
        }
        Err(error)
    }

    /// Changes the settings of a collection (never its vector spaces).
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of the metadata roots, and then nothing changed.
    pub async fn update_schema(&self, name: &str, change: impl FnOnce(&mut Schema) + Send) -> Result<()> {
        let entry = self.entry(name)?;
        let change = |record: &mut CollectionRecord| {
            change(&mut record.description.schema);
            Ok(())
        };
        self.change_record(&entry, change).await?;
        // The newest, whoever changed it last.
        let description = entry.record.read().description.clone();
        entry.set_description(Arc::new(description)).await
    }

    /// Drops a collection with all of its files. False if there is none of that name.
    ///
    /// # Errors
    /// Errors of the roots; the drop is finished at the next start.
    pub async fn drop_collection(&self, name: &str) -> Result<bool> {
        let _one_change_at_a_time = self.change().await?;
        match self.entry(name) {
            Ok(entry) => self.drop_entry(name, &entry).await.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    async fn drop_entry(&self, name: &str, entry: &Entry) -> Result<()> {
        let end = |record: &mut CollectionRecord| {
            record.state = CollectionState::Dropping;
            Ok(())
        };
        let record = self.change_record(entry, end).await?;
        self.catalog.write().remove(name);
        entry.end(missing(name)).await;
        self.finish_drop(&record).await?;
        tracing::info!(collection = name, id = %record.description.id, "collection dropped");
        Ok(())
    }

    /// The runtime that it was opened in, where its tasks run.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Names of the collections, sorted.
    pub fn collection_names(&self) -> Vec<String> {
        self.catalog.read().keys().cloned().collect()
    }

    /// Whether there is a collection of that name.
    pub fn exists(&self, name: &str) -> bool {
        self.catalog.read().contains_key(name)
    }

    /// The collection of that name, opened if it is not.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::RootUnavailable`] if one of its roots cannot be used; [`Error::Corruption`].
    pub async fn collection(self: &Arc<Self>, name: &str) -> Result<Arc<Collection>> {
        let entry = self.entry(name)?;
        self.touch(&entry);
        self.open_entry(&entry).await
    }

    /// All roots.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// Where everything lives.
    pub fn assignments(&self) -> &AssignmentService {
        &self.assignments
    }

    /// Memory of all memtables, in bytes.
    pub fn memtable_bytes(&self) -> u64 {
        self.budget.used()
    }

    /// How often a log went on at another root since the start.
    pub fn log_failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Closes all collections: logs are cut to their true length and synced. Nothing is lost without it.
    pub async fn close(&self) {
        let _one_change_at_a_time = self.changing.lock().await;
        self.closed.store(true, Ordering::Release);
        // Changes that began before are waited for; later ones are refused.
        drop(self.records.write().await);
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        // At the same time, so that one root that does not answer holds up no other.
        join_all(entries.iter().map(|entry| entry.end(closed()))).await;
        self.caches.settle().await;
        self.roots.close();
    }

    /// Waits for the change that is under way, if any; refuses all once the database is closed.
    async fn change(&self) -> Result<MutexGuard<'_, ()>> {
        let change = self.changing.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(change)
    }

    fn entry(&self, name: &str) -> Result<Arc<Entry>> {
        self.catalog.read().get(name).cloned().ok_or_else(|| missing(name))
    }

    fn insert(&self, record: CollectionRecord, unavailable: Option<Error>) -> Arc<Entry> {
        let name = record.description.name.clone();
        let entry = Arc::new(Entry::new(record, self.roots.clone(), unavailable));
        let id = entry.record.read().description.id;
        let hidden = self.catalog.write().insert(name.clone(), entry.clone());
        if let Some(other) = hidden
            .map(|hidden| hidden.record.read().description.id)
            .filter(|other| *other != id)
        {
            // Created while the root of the other's record was away. The newer one keeps the name.
            tracing::error!(collection = name, %id, hidden = %other, "two collections have one name; drop this one to see the other after a restart");
        }
        entry
    }

    fn entry_of(&self, id: CollectionId) -> Option<Arc<Entry>> {
        let catalog = self.catalog.read();
        catalog
            .values()
            .find(|entry| entry.record.read().description.id == id)
            .cloned()
    }

    /// What was on the roots when they were last listed.
    fn known_usage(&self) -> Arc<Discovery> {
        self.usage.lock().discovery.clone()
    }

    /// What is on the roots, listed again if the last listing is older than `age_max`.
    async fn usage(&self, age_max: Duration) -> Arc<Discovery> {
        let known = {
            let usage = self.usage.lock();
            if usage.measured.elapsed() <= age_max {
                return usage.discovery.clone();
            }
            usage.discovery.clone()
        };
        let discovery = Arc::new(discovery::refresh(&self.roots, &known).await);
        *self.usage.lock() = Usage {
            measured: Instant::now(),
            discovery: discovery.clone(),
        };
        discovery
    }

    fn log_placement(&self, record: &CollectionRecord) {
        for (component, placement) in &record.placement {
            let urls: Vec<String> = placement
                .roots
                .iter()
                .filter_map(|id| self.roots.by_id(*id).ok())
                .map(|root| root.url().to_owned())
                .collect();
            tracing::info!(collection = record.description.name, id = %record.description.id, %component, ?urls, "collection placed");
        }
    }
}

/// The components with their configuration, in one order everywhere.
fn component_configs(config: &Config) -> impl Iterator<Item = (StorageComponentType, &ComponentConfig)> {
    StorageComponentType::ALL
        .into_iter()
        .zip(config.storage.components().map(|(_, component)| component))
}

/// The roots that a configuration names.
///
/// # Errors
/// [`Error::Config`] for a URL that cannot be used.
pub fn root_configs(config: &Config) -> Result<Vec<RootConfig>> {
    let mut roots = Vec::new();
    for (component, section) in component_configs(config) {
        for url in &section.urls {
            roots.push(root_config(config, component, url)?);
        }
    }
    Ok(roots)
}

/// A root with what the configuration says of its URL.
fn root_config(config: &Config, component: StorageComponentType, url: &str) -> Result<RootConfig> {
    let of_url = config.storage.for_url(url);
    let url = StorageUrl::parse(url).map_err(|error| Error::Config(error.to_string()))?;
    Ok(RootConfig {
        component,
        url,
        options: of_url.options,
        tags: of_url.tags,
        weight: of_url.weight,
    })
}

fn missing(name: &str) -> Error {
    Error::NotFound(format!("Collection `{name}` doesn't exist!"))
}

fn closed() -> Error {
    Error::Overloaded("the database is closed; try again when it is started".to_owned())
}

fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty() || name.len() > 255 || name.contains('/') || name.chars().any(char::is_control);
    if bad {
        let rule = "collection name: 1 to 255 bytes, without `/` and control characters";
        return Err(Error::InvalidInput(rule.to_owned()));
    }
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
