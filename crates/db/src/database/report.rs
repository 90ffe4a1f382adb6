//! What operators ask: the roots and the assignments, with the files and bytes that lie there right now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proximadb_store::{Histogram, Op, TrafficStats};
use serde::Serialize;

use super::{Database, SHARD};
use crate::collection::Collection;
use crate::discovery::{self, Discovery};
use crate::error::{Error, Result};
use crate::placement::{Assignment, RootUse, StorageAssignment};
use crate::root::{LastError, RootId, RootState, StorageComponentType, Usage};
use crate::schema::CollectionId;

/// One root, as it is now.
#[derive(Debug, Clone)]
pub struct RootReport {
    /// Identity.
    pub id: String,
    /// URL as configured.
    pub url: String,
    /// Component.
    pub component: StorageComponentType,
    /// Position in the configured list; information only.
    pub index: usize,
    /// State.
    pub state: RootState,
    /// Why it is not online.
    pub reason: Option<String>,
    /// Since when its state is what it is, ms since 1970 UTC.
    pub since_ms: u64,
    /// Its last failed operation, whatever its state is now.
    pub last_error: Option<LastError>,
    /// Bytes of collections' files.
    pub bytes: u64,
    /// Their number.
    pub files: u64,
    /// Collections with files there.
    pub collections: u64,
    /// Collections that are assigned to it, with or without files.
    pub assignments: u64,
    /// Total and free bytes of the file system as last seen; `None` for a bucket.
    pub capacity: Option<(u64, u64)>,
    /// Requests that a bucket gets at once now; `None` for a disk.
    pub request_limit: Option<u64>,
    /// How often the bucket asked for fewer since the start; `None` for a disk.
    pub throttled: Option<u64>,
    /// Requests since the start, by operation.
    pub operations: BTreeMap<&'static str, OperationReport>,
    /// What the bucket was sent since the start, by what it bills; nothing for a disk.
    pub traffic: TrafficStats,
    /// What that costs, in US dollars.
    pub cost_usd: f64,
}

/// What is listed for a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Every root.
    All,
    /// Directories of this machine only: a report that comes often must not be billed.
    Disks,
}

/// Requests of one kind to one root.
#[derive(Debug, Clone)]
pub struct OperationReport {
    /// Number.
    pub count: u64,
    /// Failed ones.
    pub errors: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile of the latency.
    pub p99: Duration,
    /// All latencies in buckets.
    pub latency: Histogram,
}

/// Where one component of one collection lives, with what the assignment belongs to.
#[derive(Debug, Clone, Serialize)]
pub struct AssignmentReport {
    /// Name of the collection.
    pub collection: String,
    /// Component.
    pub component: StorageComponentType,
    /// The assignment.
    #[serde(flatten)]
    pub assignment: StorageAssignment,
}

/// A cluster of similar rows in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// Number of the cluster within its segment.
    pub cluster: usize,
    /// The vector space whose similarity made it.
    pub space: String,
    /// The segment.
    pub segment: String,
    /// Its file, relative to the root.
    pub file: String,
    /// Identity of the root.
    pub root_id: RootId,
    /// URL of the root as configured.
    pub url: String,
    /// Rows of the cluster, dead ones included.
    pub rows: u64,
}

impl Database {
    /// The collections that are open, by name. Opens none, and does not count as a use.
    pub async fn open_collections(&self) -> Vec<(String, Arc<Collection>)> {
        let entries: Vec<_> = self
            .catalog
            .read()
            .iter()
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect();
        let mut open = Vec::new();
        for (name, entry) in entries {
            open.extend(entry.opened().await.map(|collection| (name, collection)));
        }
        open
    }

    /// The clusters of a collection: which segment, file and root holds each.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of opening the collection.
    pub async fn cluster_report(self: &Arc<Self>, name: &str) -> Result<Vec<ClusterReport>> {
        let collection = self.collection(name).await?;
        let id = collection.description().id;
        let usage = self.usage(Duration::ZERO).await;
        let mut reports = Vec::new();
        for segment in collection.shard().segments() {
            let Some(clustering) = &segment.data.clustering else {
                continue;
            };
            let root_id = segment.meta.root_id;
            let prefix = format!("{id}/{SHARD}/{}.", segment.meta.id);
            let files = usage.files(root_id, id).map_or(&[][..], |found| &found.files);
            let Some(file) = files.iter().find(|file| file.path.starts_with(&prefix)) else {
                // Merged away or moved since the listing.
                continue;
            };
            let url = self
                .roots
                .by_id(root_id)
                .map_or_else(|_| root_id.to_string(), |root| root.url().to_owned());
            let report = |(cluster, bounds): (usize, &[u32])| ClusterReport {
                cluster,
                space: clustering.space.clone(),
                segment: segment.meta.id.to_string(),
                file: file.path.clone(),
                root_id,
                url: url.clone(),
                rows: u64::from(bounds[1] - bounds[0]),
            };
            reports.extend(clustering.offsets.windows(2).enumerate().map(report));
        }
        Ok(reports)
    }

    /// Every configured root. Lists the roots, so that the numbers are those of the disks; a root that does not answer soon is
    /// shown with the last known ones.
    pub async fn root_reports(&self, listing: Listing) -> Vec<RootReport> {
        match listing {
            Listing::All => drop(self.usage(Duration::ZERO).await),
            Listing::Disks => discovery::refresh_disks(&self.roots).await,
        }
        let assigned = self.assignments.get_assignment_stats().components;
        let mut reports = Vec::new();
        for root in self.roots.all() {
            let usage = root.usage();
            let of_component = assigned.get(&root.component());
            let traffic = root.fs().traffic().stats();
            let operations = Op::ALL.into_iter().map(|op| {
                let stats = root.fs().meter().stats(op);
                let (count, errors, bytes) = (stats.count, stats.errors, stats.bytes);
                (
                    op.name(),
                    OperationReport {
                        count,
                        errors,
                        bytes,
                        p50: stats.p50,
                        p99: stats.p99,
                        latency: root.fs().meter().histogram(op),
                    },
                )
            });
            reports.push(RootReport {
                id: root.id().to_string(),
                url: root.url().to_owned(),
                component: root.component(),
                index: root.index(),
                state: root.state(),
                reason: root.reason(),
                since_ms: root.since_ms(),
                last_error: root.last_error(),
                bytes: usage.bytes,
                files: usage.files,
                collections: root.collections() as u64,
                assignments: of_component
                    .and_then(|of| of.roots.get(&root.id()))
                    .copied()
                    .unwrap_or(0),
                capacity: root
                    .last_capacity()
                    .map(|capacity| (capacity.total_bytes, capacity.free_bytes)),
                request_limit: root.fs().request_limit().map(|limit| limit as u64),
                throttled: root.fs().throttled(),
                operations: operations.collect(),
                traffic,
                cost_usd: traffic.cost(&self.config.storage.prices_of(root.fs().url())),
            });
        }
        reports
    }

    /// Where every component of every collection lives, by name and component.
    pub async fn assignment_reports(&self) -> Vec<AssignmentReport> {
        let usage = self.usage(Duration::ZERO).await;
        let entries: Vec<_> = self.catalog.read().values().cloned().collect();
        let mut reports = Vec::new();
        for record in entries.iter().map(|entry| entry.record.read().clone()) {
            let id = record.description.id;
            for (&component, placement) in &record.placement {
                let known = self.assignments.get_assignment(id, component);
                let last_accessed_ms = known.map_or(placement.assigned_at_ms, |assignment| assignment.last_accessed_ms);
                let assignment = Assignment {
                    placement: placement.clone(),
                    last_accessed_ms,
                };
                let views =
                    StorageAssignment::views(id, component, &assignment, |root| self.root_use(root, id, &usage));
                let collection = &record.description.name;
                let report = |assignment| AssignmentReport {
                    collection: collection.clone(),
                    component,
                    assignment,
                };
                reports.extend(views.into_iter().map(report));
            }
        }
        reports
    }

    /// What a collection has on a root.
    fn root_use(&self, root_id: RootId, collection: CollectionId, usage: &Discovery) -> RootUse {
        let (url, directory_index) = match self.roots.by_id(root_id) {
            Ok(root) => (root.url().to_owned(), Some(root.index())),
            Err(Error::RootUnavailable { url, .. }) => (url, None),
            Err(_) => (root_id.to_string(), None),
        };
        let usage = usage
            .files(root_id, collection)
            .map_or_else(Usage::default, |files| files.usage);
        RootUse {
            url,
            directory_index,
            file_count: usage.files,
            total_size_bytes: usage.bytes,
        }
    }
}
