//! A log on temporary roots.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proximadb_store::StorageUrl;

use super::*;
use crate::root::{RootConfig, Roots, StorageComponentType};

/// Roots in a temporary directory and what was applied to "memory" there.
pub(super) struct Place {
    pub(super) directory: tempfile::TempDir,
    pub(super) roots: Vec<Arc<Root>>,
    /// How many of the roots, from the first on, are written side by side.
    pub(super) lanes: usize,
    pub(super) format: WalFormat,
    pub(super) applied: Arc<Mutex<Entries>>,
    pub(super) options: WalOptions,
    pub(super) spare: Option<Spare>,
}

impl Place {
    pub(super) async fn new() -> Self {
        Self::with(WalOptions::default()).await
    }

    pub(super) async fn with(options: WalOptions) -> Self {
        Self::with_roots(1, options).await
    }

    pub(super) async fn with_roots(roots: usize, options: WalOptions) -> Self {
        Self::over(tempfile::tempdir().unwrap(), roots, options).await
    }

    /// A place over what lies in a directory.
    pub(super) async fn over(directory: tempfile::TempDir, roots: usize, options: WalOptions) -> Self {
        let config = |at: usize| RootConfig {
            component: StorageComponentType::Wal,
            url: StorageUrl::parse(&format!("file://{}/r{at}", directory.path().display())).unwrap(),
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
        };
        let roots = Roots::open((0..roots).map(config).collect(), false).await.unwrap();
        Self {
            directory,
            roots: roots.of_component(StorageComponentType::Wal),
            lanes: 1,
            format: WalFormat::Avro,
            applied: Arc::default(),
            options,
            spare: None,
        }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.path().join("r0")
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.directory_on(0)
    }

    pub(super) fn directory_on(&self, root: usize) -> PathBuf {
        self.directory.path().join(format!("r{root}/{COLLECTION}/000"))
    }

    /// The files of the log by root and name, as listings show them.
    pub(super) fn files(&self) -> Vec<WalFile> {
        (0..self.roots.len()).flat_map(|root| self.files_on(root)).collect()
    }

    pub(super) fn files_on(&self, root: usize) -> Vec<WalFile> {
        let Ok(entries) = std::fs::read_dir(self.directory_on(root)) else {
            return Vec::new();
        };
        let mut files: Vec<WalFile> = entries
            .map(|entry| entry.unwrap())
            .map(|entry| WalFile {
                root: self.roots[root].clone(),
                name: entry.file_name().into_string().unwrap(),
                bytes: entry.metadata().unwrap().len(),
                content: None,
            })
            .filter(|file| !file.name.contains('#'))
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    pub(super) fn path(&self, at: usize) -> PathBuf {
        self.directory().join(&self.files()[at].name)
    }

    pub(super) fn start(&self, after: Seq) -> WalStart {
        WalStart {
            files: self.files(),
            ..self.start_without_files(after)
        }
    }

    pub(super) fn start_without_files(&self, after: Seq) -> WalStart {
        let applied = Arc::clone(&self.applied);
        WalStart {
            lanes: self.roots[..self.lanes].to_vec(),
            spare: self.spare.clone(),
            directory: format!("{COLLECTION}/000"),
            description: format!(r#"{{"id":"{COLLECTION}","name":"packages"}}"#),
            files: Vec::new(),
            roots: self.roots.clone(),
            after,
            format: self.format,
            options: self.options,
            apply: Arc::new(move |operations| applied.lock().extend(operations)),
            confirm: None,
        }
    }

    /// Opens the log as after a restart.
    pub(super) async fn open(&self, after: Seq) -> Result<(Wal, Entries)> {
        let mut replayed = Vec::new();
        self.applied.lock().clear();
        let wal = Wal::open(self.start(after), &mut |seq, op| replayed.push((seq, op))).await?;
        Ok((wal, replayed))
    }

    /// What a restart finds, as numbers.
    pub(super) async fn replayed(&self, after: Seq) -> Vec<Seq> {
        self.open(after)
            .await
            .unwrap()
            .1
            .into_iter()
            .map(|(seq, _)| seq)
            .collect()
    }
}
