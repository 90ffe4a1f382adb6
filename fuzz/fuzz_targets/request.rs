//! Bodies of requests. The reader of JSON must agree with `serde_json` in every value and every error.
#![no_main]

use std::fmt::Debug;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proximadb::wire::collection::{CreateCollection, UpdateCollection, check_name};
use proximadb::wire::index::CreateIndex;
use proximadb::wire::json;
use proximadb::wire::points::{
    Count, DeletePayload, Retrieve, Scroll, SetPayload, UpdateBatch, UpdateOperation, Upsert,
};
use proximadb::wire::query::{QueryBatch, QueryRequest, SearchBatch, SearchRequest};
use proximadb::wire::selection::selection;
use proximadb_db::filter::Filter;
use proximadb_db::payload::{self, JsonPath};
use proximadb_db::point::{Payload, PointId};
use proximadb_db::schema::Schema;
use proximadb_db::{PayloadSelector, PointSelector};
use serde::de::DeserializeOwned;
use serde_json::Value;

static PAYLOAD: LazyLock<Payload> = LazyLock::new(|| {
    let text = include_str!("../payload.json");
    serde_json::from_str(text).unwrap()
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else {
        return;
    };
    match kind {
        b'u' => read::<Upsert>(text)
            .into_iter()
            .for_each(|body| drop(body.into_points())),
        b'b' => read::<UpdateBatch>(text)
            .into_iter()
            .flat_map(|body| body.operations)
            .for_each(update),
        b'q' => read::<QueryRequest>(text).into_iter().for_each(query),
        b'Q' => read::<QueryBatch>(text)
            .into_iter()
            .flat_map(|body| body.searches)
            .for_each(query),
        b's' => read::<SearchRequest>(text)
            .into_iter()
            .for_each(|body| query(body.into())),
        b'S' => read::<SearchBatch>(text)
            .into_iter()
            .flat_map(|body| body.searches)
            .for_each(|body| query(body.into())),
        b'r' => {
            if let Some(body) = read::<Retrieve>(text) {
                project(selection(body.with_payload, body.with_vector, true).payload);
            }
        }
        b'o' => {
            if let Some(body) = read::<Scroll>(text) {
                body.filter.iter().for_each(filter);
                project(selection(body.with_payload, body.with_vector, true).payload);
            }
        }
        b'n' => read::<Count>(text).and_then(|body| body.filter).iter().for_each(filter),
        b'f' => read::<Filter>(text).iter().for_each(filter),
        b'c' => drop(read::<CreateCollection>(text).map(|body| body.into_schema())),
        b'p' => patch(text),
        b'i' => drop(read::<CreateIndex>(text).map(|body| body.into_entry())),
        b'k' => {
            let text = String::from_utf8_lossy(text);
            let _ = (check_name(&text), text.parse::<PointId>());
            if let Ok(path) = text.parse::<JsonPath>() {
                assert_eq!(path.to_string().parse::<JsonPath>(), Ok(path));
            }
        }
        _ => drop(read::<Value>(text)),
    }
});

/// What a body is, by both readers.
fn read<T: DeserializeOwned + Debug>(text: &[u8]) -> Option<T> {
    let (ours, theirs) = (json::from_slice::<T>(text), serde_json::from_slice::<T>(text));
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(format!("{ours:?}"), format!("{theirs:?}")),
        (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
        _ => panic!("ours: {ours:?}, theirs: {theirs:?}"),
    }
    ours.ok()
}

fn query(body: QueryRequest) {
    if let Ok((_, query)) = body.split() {
        query.filter.iter().for_each(filter);
        project(query.select.payload);
    }
}

fn filter(filter: &Filter) {
    let matches = filter.matches(PointId::Num(7), &PAYLOAD, &|name| name.is_empty());
    // As text it means the same.
    if let Ok(text) = serde_json::to_value(filter) {
        let again = Filter::from_value(&text).unwrap();
        assert_eq!(
            again.matches(PointId::Num(7), &PAYLOAD, &|name| name.is_empty()),
            matches,
            "{text}"
        );
    }
}

fn project(selector: PayloadSelector) {
    match selector {
        PayloadSelector::Include(paths) => drop(payload::include(&PAYLOAD, &paths)),
        PayloadSelector::Exclude(paths) => drop(payload::exclude(&PAYLOAD, &paths)),
        PayloadSelector::All | PayloadSelector::None => {}
    }
}

fn patch(text: &[u8]) {
    let schema = r#"{"vectors":{"":{"size":4,"distance":"Dot"},"a":{"size":2,"distance":"Cosine"}}}"#;
    let mut schema: Schema = serde_json::from_str(schema).unwrap();
    if let Some(Ok(change)) = read::<UpdateCollection>(text).map(|body| body.into_change(&schema)) {
        change.apply(&mut schema);
        let _ = (schema.region(), schema.index(), schema.hnsw("a"));
    }
}

fn update(operation: UpdateOperation) {
    let selector = match operation {
        UpdateOperation::Upsert(body) => return drop(body.into_points()),
        UpdateOperation::UpdateVectors(body) => return drop(body.into_updates()),
        UpdateOperation::Delete(selector) | UpdateOperation::ClearPayload(selector) => selector,
        UpdateOperation::DeleteVectors(body) => body.selector,
        UpdateOperation::SetPayload(SetPayload { payload, key, selector })
        | UpdateOperation::OverwritePayload(SetPayload { payload, key, selector }) => {
            set(&payload, key.as_deref());
            selector
        }
        UpdateOperation::DeletePayload(DeletePayload { keys, selector }) => {
            let mut changed = PAYLOAD.clone();
            for path in keys.iter().filter_map(|key| key.parse().ok()) {
                payload::delete_at(&mut changed, &path);
            }
            selector
        }
    };
    if let Ok(PointSelector::Filter(of)) = selector.resolve() {
        filter(&of);
    }
}

/// What is set can be read again.
fn set(source: &Payload, key: Option<&str>) {
    let mut changed = PAYLOAD.clone();
    match key.map(str::parse) {
        None => payload::merge(&mut changed, source),
        Some(Ok(path)) => drop(payload::set_at(&mut changed, &path, source)),
        Some(Err(_)) => return,
    }
    let text = serde_json::to_string(&changed).unwrap();
    serde_json::from_str::<Payload>(&text).unwrap();
}
