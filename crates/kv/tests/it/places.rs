//! Where the tests store: each place can be opened any number of times, as by as many processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use proximadb_kv::{BatchOptions, Batched, Behaviour, CacheOptions, Cached, Compressed, ObjectKv, Store, open};
use tempfile::TempDir;

/// The long forms of the tests.
pub fn is_full() -> bool {
    std::env::var("PROXIMADB_KV_FULL").is_ok_and(|value| value == "1")
}

/// Memory that several stores share.
pub struct Memory(pub Arc<dyn ObjectStore>);

impl Memory {
    pub fn new() -> Self {
        Self(Arc::new(InMemory::new()))
    }

    pub fn open(&self) -> ObjectKv {
        ObjectKv::over(Arc::clone(&self.0), "memory://test", Behaviour::MEMORY)
    }
}

/// A directory of its own.
pub struct Directory(TempDir);

impl Directory {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn url(&self) -> String {
        format!("file://{}/kv", self.0.path().display())
    }

    pub async fn open(&self) -> ObjectKv {
        open(&self.url(), &BTreeMap::new()).await.unwrap()
    }
}

/// A layer of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Batch,
    Cache,
    Compress,
    /// Further layers are over a namespace of those below.
    Namespace,
}

/// Every order of every subset of the layers, the lowest first.
pub fn all_stacks() -> Vec<Vec<Layer>> {
    let all = [Layer::Batch, Layer::Cache, Layer::Compress, Layer::Namespace];
    let mut stacks = vec![Vec::new()];
    let mut at = 0;
    while let Some(stack) = stacks.get(at).cloned() {
        for layer in all.into_iter().filter(|layer| !stack.contains(layer)) {
            stacks.push([&stack[..], &[layer]].concat());
        }
        at += 1;
    }
    stacks
}

/// The layers over a store.
pub fn stack(store: Arc<dyn Store>, layers: &[Layer]) -> Arc<dyn Store> {
    layers.iter().fold(store, |inner, layer| match layer {
        Layer::Batch => Arc::new(Batched::new(inner, BatchOptions::default())) as Arc<dyn Store>,
        Layer::Cache => Arc::new(Cached::new(inner, CacheOptions::default())),
        Layer::Compress => Arc::new(Compressed::new(inner)),
        Layer::Namespace => inner.with_namespace("stacked").unwrap(),
    })
}
