//! Manifests, metadata records and segments (Parquet), raw and with right checksums. What is read can be written again.
#![no_main]

use std::panic;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proximadb_db::engine::manifest::Manifest;
use proximadb_db::engine::parquet;
use proximadb_db::metadata::CollectionRecord;
use proximadb_fuzz::{crc32, look, sealed_json};

fuzz_target!(init: allow_panics_of_the_library(), |input: &[u8]| {
    let Some((kind, content)) = input.split_first() else {
        return;
    };
    match kind {
        b'r' => {
            records(content);
            records(&sealed_json(content));
        }
        b's' => {
            segment(content);
            let mut sealed = content.to_vec();
            if let Some((head, covered)) = sealed.split_first_chunk_mut::<12>() {
                head[8..].copy_from_slice(&crc32(covered).to_le_bytes());
                segment(&sealed);
            }
        }
        _ => {}
    }
});

/// They are caught, and become errors.
fn allow_panics_of_the_library() {
    let abort = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |location| location.file());
        if !file.contains("/parquet-") && !file.contains("/arrow-") {
            abort(panic);
        }
    }));
}

fn records(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        let again = Manifest::decode(&manifest.encode().unwrap()).unwrap();
        assert_eq!(again, manifest);
        let schema = &manifest.description.schema;
        let _ = (schema.region(), schema.index(), schema.hnsw(""));
    }
    if let Ok(record) = CollectionRecord::decode(bytes) {
        let again = sealed_json(&serde_json::to_vec(&record).unwrap());
        assert_eq!(CollectionRecord::decode(&again), Ok(record));
    }
}

fn segment(bytes: &[u8]) {
    let Ok((footer, data)) = parquet::decode(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    look(&data);
    let written = parquet::encode(&footer, &data).unwrap();
    let (again, _) = parquet::decode(&written).unwrap();
    assert_eq!(again, footer);
}
