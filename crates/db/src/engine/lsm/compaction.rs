//! Compaction: SlateDB's compactor, run until it has nothing left to do and then stopped, so that an idle tree has none.
//!
//! Inputs and outputs lie in the tree's own directory. Commits go on meanwhile; the writer sees the result when it next
//! reads the manifest.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use slatedb::CompactorBuilder;
use slatedb::compactor::{
    CompactionScheduler, CompactionSchedulerSupplier, CompactionSpec, CompactionStatus, CompactorStateView,
    SizeTieredCompactionSchedulerSupplier, SourceId,
};
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions, GarbageCollectorOptions,
};
use tokio::sync::watch;

use super::files::Files;
use super::settings::{BLOCK_SIZE, NO_FILTER, RETRIES};

/// The compactor looks after its work this often, only while one runs.
const STEP: Duration = Duration::from_millis(50);
/// A compaction that shows no sign of life for so long was a killed process's, and is taken over.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// What to merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Tables of similar size, as long as there are enough of them.
    Tiered,
    /// Everything into one run.
    Full,
}

/// How a compaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Running,
    Done,
    Failed,
}

/// Merges tables of the tree. Returns whether all went well; a failure is in the log, and the tree as it was.
pub(super) async fn run(path: String, files: Files, extent: Extent) -> Result<bool, slatedb::Error> {
    let (sender, mut end) = watch::channel(End::Running);
    let supplier = Supplier {
        extent,
        end: Arc::new(sender),
    };
    let compactor = CompactorBuilder::new(path, Arc::new(files))
        .with_options(options())
        .with_sst_block_size(BLOCK_SIZE)
        .with_scheduler_supplier(Arc::new(supplier))
        .build();
    let outcome = tokio::select! {
        ended = compactor.run() => ended.map(|()| false),
        ended = end.wait_for(|end| *end != End::Running) => Ok(ended.is_ok_and(|end| *end == End::Done)),
    };
    let stopped = compactor.stop().await;
    let outcome = outcome?;
    stopped.map(|()| outcome)
}

/// Deletes what no manifest needs any more, the older manifests included. Only while nobody commits or compacts.
pub(super) async fn collect_garbage(path: String, files: Files) -> Result<(), slatedb::Error> {
    let all = Some(GarbageCollectorDirectoryOptions {
        interval: None,
        min_age: Duration::ZERO,
        dry_run: false,
    });
    let options = GarbageCollectorOptions {
        manifest_options: all,
        compacted_options: all,
        compactions_options: all,
        wal_options: None,
        wal_fence_options: None,
        detach_options: None,
        // They need conditional updates, which directories do not have, and guard against writers on other machines.
        boundary_files_enabled: false,
        object_store_max_retries: RETRIES,
        ..Default::default()
    };
    let admin = slatedb::admin::AdminBuilder::new(path, Arc::new(files)).build();
    admin.run_gc_once(options).await
}

fn options() -> CompactorOptions {
    CompactorOptions {
        poll_interval: STEP,
        commit_compacted_interval: STEP,
        max_concurrent_compactions: 1,
        // Whoever reads the tables keeps compactions from running meanwhile, so the replaced ones can go at once.
        checkpoint_lifetime: Duration::ZERO,
        worker_heartbeat_timeout: DEAD_AFTER,
        worker: Some(CompactionWorkerOptions {
            max_concurrent_compactions: 1,
            max_subcompactions: 1,
            compactions_poll_interval: STEP,
            heartbeat_interval: DEAD_AFTER / 5,
            min_filter_keys: NO_FILTER,
            object_store_max_retries: RETRIES,
            ..Default::default()
        }),
        object_store_max_retries: RETRIES,
        ..Default::default()
    }
}

struct Supplier {
    extent: Extent,
    end: Arc<watch::Sender<End>>,
}

impl CompactionSchedulerSupplier for Supplier {
    fn compaction_scheduler(&self, options: &CompactorOptions) -> Box<dyn CompactionScheduler + Send + Sync> {
        Box::new(Scheduler {
            extent: self.extent,
            tiered: SizeTieredCompactionSchedulerSupplier.compaction_scheduler(options),
            end: Arc::clone(&self.end),
            before: OnceLock::new(),
        })
    }
}

/// Proposes as its extent says, and tells when nothing is left.
struct Scheduler {
    extent: Extent,
    tiered: Box<dyn CompactionScheduler + Send + Sync>,
    end: Arc<watch::Sender<End>>,
    /// The last compaction of the runs before this one.
    before: OnceLock<Option<u128>>,
}

impl CompactionScheduler for Scheduler {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        let recent = || {
            let compactions = state.compactions().into_iter();
            compactions.flat_map(|compactions| compactions.recent_compactions())
        };
        if recent().any(|compaction| compaction.active()) {
            return Vec::new();
        }
        let last = recent().max_by_key(|compaction| compaction.id());
        let id = last.map(|last| last.id().0);
        let before = *self.before.get_or_init(|| id);
        // What failed in this run would be proposed again, and fail again.
        if id != before && last.is_some_and(|last| last.status() == CompactionStatus::Failed) {
            self.end.send_replace(End::Failed);
            return Vec::new();
        }
        let specs = match self.extent {
            Extent::Tiered => self.tiered.propose(state),
            Extent::Full => everything(state).into_iter().collect(),
        };
        if specs.is_empty() {
            self.end.send_replace(End::Done);
        }
        specs
    }
}

/// All tables, newest first, into one run; `None` when there is only one already.
fn everything(state: &CompactorStateView) -> Option<CompactionSpec> {
    let (fresh, runs) = (state.manifest().l0(), state.manifest().compacted());
    if fresh.is_empty() && runs.len() < 2 {
        return None;
    }
    let destination = runs.iter().map(|run| run.id).min().unwrap_or(0);
    let sources = fresh.iter().map(|table| SourceId::SstView(table.id));
    let sources = sources.chain(runs.iter().map(|run| SourceId::SortedRun(run.id)));
    Some(CompactionSpec::new(sources.collect(), destination))
}
