//! Files of the write-ahead log, raw and with right checksums: read as by `wal dump`, then replayed from a disk.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use proximadb_db::root::{Root, RootConfig, Roots, StorageComponentType};
use proximadb_db::wal::{self, WalFile};
use proximadb_fuzz::{DIRECTORY, log, parts};
use proximadb_store::StorageUrl;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

fuzz_target!(|input: &[u8]| {
    read(input, "avro");
    let Some((format, content)) = input.split_first() else {
        return;
    };
    let parts = parts(content);
    let (mut file, name) = match format % 2 {
        0 => (log::avro(parts[0], &parts[1..]), "avro"),
        _ => (log::bincode(parts[0], &parts[1..]), "bincode"),
    };
    // A torn end.
    file.truncate(file.len() - usize::from(format / 2).min(file.len()));
    read(&file, name);
});

fn read(file: &[u8], format: &str) {
    let mut entries = 0;
    let Ok(summary) = wal::read_log_file("file", file, &mut |_, _| entries += 1) else {
        return;
    };
    assert_eq!(entries, summary.upserts + summary.deletes);
    let _ = wal::describe("file", file);
    PLACE.replay(&format!("{:020}.{format}", summary.first_seq), file);
}

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

/// A root for one log.
struct Place {
    runtime: Runtime,
    directory: TempDir,
    root: Arc<Root>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = RootConfig {
            component: StorageComponentType::Wal,
            url: StorageUrl::parse(&format!("file://{}", directory.path().display())).unwrap(),
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let roots = runtime.block_on(Roots::open(vec![config], false)).unwrap();
        std::fs::create_dir_all(directory.path().join(DIRECTORY)).unwrap();
        Self {
            root: roots.of_component(StorageComponentType::Wal).remove(0),
            runtime,
            directory,
        }
    }

    fn replay(&self, name: &str, file: &[u8]) {
        let path = self.directory.path().join(DIRECTORY).join(name);
        std::fs::write(&path, file).unwrap();
        let files = [WalFile {
            root: Arc::clone(&self.root),
            name: name.to_owned(),
            bytes: file.len() as u64,
        }];
        self.runtime.block_on(async {
            let _ = wal::check_file(DIRECTORY, &files[0]).await;
            let _ = wal::log_begins(DIRECTORY, &files).await;
            for after in [0, 3] {
                let _ = wal::check_sequence(DIRECTORY, &files, after).await;
            }
        });
        std::fs::remove_file(&path).unwrap();
    }
}
