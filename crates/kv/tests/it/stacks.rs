//! The suite over every backend of this machine and every stack of layers.

use std::sync::Arc;

use proximadb_kv::Store;

use crate::places::{Directory, Memory, all_stacks, stack};
use crate::recorder::Recorder;
use crate::suite::conforms;

#[tokio::test]
async fn m11_s8_every_stack_conforms_in_memory() {
    for layers in all_stacks() {
        let stack = stack(Arc::new(Memory::new().open()), &layers);
        println!("{stack:?}");
        conforms(&stack, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_m11_s8_a_directory_conforms_alone_and_below_all_layers() {
    use crate::places::Layer::{Batch, Cache, Compress, Namespace};
    for layers in [
        &[][..],
        &[Compress, Cache, Batch, Namespace],
        &[Namespace, Batch, Cache, Compress],
    ] {
        let directory = Directory::new();
        let stack = stack(Arc::new(directory.open().await), layers);
        conforms(&stack, 20).await;
        // Another process, later, sees all of it.
        let again = crate::places::stack(Arc::new(directory.open().await), layers);
        assert_eq!(
            again.with_namespace("swaps").unwrap().get("k").await.unwrap().unwrap(),
            "7"
        );
    }
}

#[tokio::test]
async fn m12_a_foreign_adapter_conforms_below_every_stack() {
    for layers in all_stacks() {
        let stack = stack(Arc::new(Recorder::new()) as Arc<dyn Store>, &layers);
        conforms(&stack, 50).await;
    }
}
