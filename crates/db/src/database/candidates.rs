//! What placement needs to know about the roots: who they are, what lies on them, how fast they answer, and what they share.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use proximadb_store::Op;

use super::{Database, component_configs};
use crate::config::StorageConfig;
use crate::discovery::Discovery;
use crate::placement::{Candidate, StorageAssignmentConfig};
use crate::root::{Root, RootId, StorageComponentType};
use crate::schema::Schema;

/// How long the file system of a root may take to say which device it is on.
const DEVICE_DEADLINE: Duration = Duration::from_secs(2);

impl Database {
    /// How each component of a new collection is to be placed.
    pub(super) async fn assignment_configs(&self, schema: &Schema, usage: &Discovery) -> Vec<StorageAssignmentConfig> {
        let storage = &self.config.storage;
        let devices = self.devices().await;
        let components = component_configs(&self.config);
        let configs = components.map(|(of, component)| StorageAssignmentConfig {
            component: of,
            strategy: component.distribution_strategy,
            affinity: component.collection_affinity,
            copies: copies(storage, of),
            index_types: of == StorageComponentType::Index && storage.index.index_type_affinity,
            region: schema.region().map(str::to_owned),
            reserve_bytes: 0,
            candidates: self.candidates(of, usage, &devices),
        });
        configs.collect()
    }

    /// The roots of a component as placement sees them now; devices as [`devices`](Self::devices) found them.
    pub(super) fn candidates(
        &self,
        component: StorageComponentType,
        usage: &Discovery,
        devices: &HashMap<RootId, String>,
    ) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = self
            .roots
            .of_component(component)
            .iter()
            .map(|root| Candidate {
                cost_per_gb_month: self.config.storage.for_url(root.url()).cost_per_gb_month,
                latency_ms: self.latencies.of(root),
                device: devices.get(&root.id()).cloned(),
                ..Candidate::of(root, usage.bytes_on(root.id()))
            })
            .collect();
        tell_apart(&mut candidates);
        candidates
    }

    /// The devices of the roots that can be looked at, where a policy asks for them.
    pub(super) async fn devices(&self) -> HashMap<RootId, String> {
        if self.assignments.policies().is_empty() {
            return HashMap::new();
        }
        let roots = self.roots.all();
        let devices = roots.iter().filter(|root| root.available().is_ok()).map(|root| async {
            let device = tokio::time::timeout(DEVICE_DEADLINE, device_of(root)).await;
            Some((root.id(), device.ok().flatten()?))
        });
        join_all(devices).await.into_iter().flatten().collect()
    }
}

/// Copies of one component of a collection, as configured.
fn copies(storage: &StorageConfig, component: StorageComponentType) -> usize {
    let copies = match component {
        StorageComponentType::Metadata => storage.metadata.backup_replicas,
        StorageComponentType::Index => storage.index.backup_replicas,
        StorageComponentType::Wal | StorageComponentType::Viper | StorageComponentType::Lsm => 1,
    };
    usize::try_from(copies).unwrap_or(usize::MAX)
}

/// Gives roots of one hash key different ones: a root that was moved away keeps its key, and the next one at its old URL
/// starts with the same.
fn tell_apart(candidates: &mut [Candidate]) {
    let mut order: Vec<&mut Candidate> = candidates.iter_mut().collect();
    order.sort_by_key(|candidate| candidate.root_id);
    let mut seen = BTreeSet::new();
    for candidate in order {
        if !seen.insert(candidate.hash_key.clone()) {
            candidate.hash_key = candidate.root_id.to_string();
        }
    }
}

/// The tag `device`, else the device of the file system, else the host or bucket of the URL.
async fn device_of(root: &Root) -> Option<String> {
    if let Some(device) = root.tags().get("device") {
        return Some(device.clone());
    }
    let url = root.fs().url();
    let Some(path) = url.local_path().map(std::path::Path::to_owned) else {
        let place = url.lexical();
        let (scheme, rest) = place.split_once("://")?;
        return Some(format!("{scheme}://{}", rest.split('/').next().unwrap_or(rest)));
    };
    let number = root.fs().blocking(move || device_number(&path)).await.ok()?;
    number.map(|number| format!("device {number}"))
}

/// The device id of the nearest directory that exists.
fn device_number(path: &std::path::Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    path.ancestors()
        .find_map(|path| Some(std::fs::metadata(path).ok()?.dev()))
}

/// Moving averages of the latency of the roots, from what their meters count.
#[derive(Debug, Default)]
pub(super) struct Latencies(Mutex<HashMap<RootId, Latency>>);

#[derive(Debug, Clone, Copy)]
struct Latency {
    /// What the meter had counted at the last look.
    count: u64,
    total: Duration,
    /// `None` once nothing was measured for [`Latencies::AGE_MAX`].
    average_ms: Option<f64>,
    changed: Instant,
}

impl Latencies {
    /// The last 32 operations or so make up most of the average.
    const KEEP: f64 = 31.0 / 32.0;
    /// An average without an operation for so long is forgotten: a root that was slow once is tried again.
    const AGE_MAX: Duration = Duration::from_secs(600);

    fn of(&self, root: &Root) -> Option<f64> {
        let meter = root.fs().meter();
        // Syncs and small creates cost about the same everywhere; other writes take as long as they are large.
        let [create, sync, write] = [Op::Create, Op::Sync, Op::Write].map(|op| meter.stats(op));
        let (count, total) = match create.count + sync.count {
            0 => (write.count, write.total),
            count => (count, create.total + sync.total),
        };
        self.note(root.id(), count, total, Instant::now())
    }

    fn note(&self, root: RootId, count: u64, total: Duration, now: Instant) -> Option<f64> {
        let mut latencies = self.0.lock();
        let known = latencies.entry(root).or_insert(Latency {
            count: 0,
            total: Duration::ZERO,
            average_ms: None,
            changed: now,
        });
        // Fewer than before: the first sync came after writes, and is counted anew.
        let (new, took) = match count.checked_sub(known.count) {
            Some(new) => (new, total.saturating_sub(known.total)),
            None => (count, total),
        };
        if new > 0 {
            let mean = took.as_secs_f64() * 1000.0 / new as f64;
            let keep = Self::KEEP.powf(new as f64);
            let average = known
                .average_ms
                .map_or(mean, |average| average * keep + mean * (1.0 - keep));
            *known = Latency {
                count,
                total,
                average_ms: Some(average),
                changed: now,
            };
        } else if now.saturating_duration_since(known.changed) >= Self::AGE_MAX {
            known.average_ms = None;
        }
        known.average_ms
    }
}

#[cfg(test)]
mod tests;
