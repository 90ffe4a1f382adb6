//! Small segments for the tests of the engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proximadb_store::StorageUrl;
use serde_json::json;

use crate::engine::footer::SegmentFooter;
use crate::engine::segment::{SegmentBuilder, SegmentData, SegmentId};
use crate::point::{NamedVectors, Payload, Point, PointId, Seq};
use crate::root::{Root, RootConfig, Roots, StorageComponentType};
use crate::schema::CollectionDescription;

/// Two vector spaces (the default one of `dim` dimensions, `title` of 2) and three indexed fields.
pub fn description(dim: usize) -> CollectionDescription {
    serde_json::from_value(json!({
        "id": "0198c5b1-0000-7000-8000-000000000001", "name": "packages", "created_at_ms": 1,
        "schema": {
            "vectors": {"": {"size": dim, "distance": "Euclid"}, "title": {"size": 2, "distance": "Cosine"}},
            "payload_indexes": {"n": "integer", "a.b": {"type": "keyword"}, "at": "geo"},
        },
    }))
    .unwrap()
}

/// A point that differs from all others, sometimes without one of its vectors, sometimes without a payload.
pub fn point(number: u64, dim: usize) -> Point {
    let id = if number.is_multiple_of(3) {
        PointId::Uuid(uuid::Uuid::from_u128(u128::from(number) << 64))
    } else {
        PointId::Num(number)
    };
    let mut vectors = NamedVectors::default();
    if number % 7 != 6 {
        // Four groups far from each other.
        vectors.insert(
            String::new(),
            (0..dim as u64)
                .map(|axis| ((number % 4) * 100 + (number * 31 + axis * 17) % 10) as f32)
                .collect(),
        );
    }
    if number % 5 != 4 {
        vectors.insert("title".to_owned(), vec![number as f32, -0.5]);
    }
    let payload = match number % 4 {
        3 => Payload::new(),
        _ => json!({"n": number, "a": {"b": format!("word {}", number % 10)}, "at": {"lon": 1.5, "lat": number % 90}, "text": "ä\n\"quoted\""})
            .as_object()
            .cloned()
            .unwrap(),
    };
    Point { id, vectors, payload }
}

/// Rows `numbers`, each with its number as sequence number, and tombstones of absent ids.
pub fn data(
    description: &CollectionDescription,
    numbers: impl IntoIterator<Item = u64>,
    deleted: &[(u64, Seq)],
) -> SegmentData {
    let dim = description.schema.vectors[""].size;
    let mut builder = SegmentBuilder::new(&description.schema);
    numbers
        .into_iter()
        .for_each(|number| builder.push(number, &point(number, dim)).unwrap());
    deleted
        .iter()
        .for_each(|(id, seq)| builder.tombstone(PointId::Num(*id), *seq));
    builder.build()
}

/// The identity of a flushed segment of this data.
pub fn footer(description: &CollectionDescription, data: &SegmentData) -> SegmentFooter {
    let id = SegmentId::generate();
    let (min_seq, max_seq) = data.seq_range().unwrap_or_default();
    let description = description.clone();
    SegmentFooter {
        id,
        description,
        shard: "000".to_owned(),
        min_seq,
        max_seq,
        replaces: Vec::new(),
        outputs: vec![id],
    }
}

/// Rows and tombstones.
pub type Contents = (Vec<(Seq, Point)>, Vec<(PointId, Seq)>);

/// Everything of every row, and the tombstones, for comparison.
pub fn contents(data: &SegmentData) -> Contents {
    let row = |row| {
        (
            data.seqs[row],
            Point {
                id: data.ids[row],
                vectors: data.named_vectors(row),
                payload: data.payloads.get(row).unwrap(),
            },
        )
    };
    ((0..data.len()).map(row).collect(), data.tombstones.clone())
}

/// A Viper root in `directory`; the same directory gives the same root again.
pub async fn root(directory: &std::path::Path) -> Arc<Root> {
    let config = |component: StorageComponentType| RootConfig {
        component,
        url: StorageUrl::parse(&format!("file://{}/{component}", directory.display())).unwrap(),
        options: BTreeMap::new(),
        tags: BTreeMap::new(),
        weight: 1.0,
    };
    let configs = vec![
        config(StorageComponentType::Viper),
        config(StorageComponentType::Metadata),
    ];
    let roots = Roots::open(configs, false).await.unwrap();
    roots.of_component(StorageComponentType::Viper).remove(0)
}
