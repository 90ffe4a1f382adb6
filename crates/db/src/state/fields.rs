//! Payload indexes of segments: derived, in memory, built when a filter first asks.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::segment::SegmentData;
use crate::error::Result;
use crate::filter::{FieldIndex, PayloadSource};
use crate::payload::JsonPath;
use crate::point::PointId;

/// Payload indexes of one segment, each built by the first filter that asks for its field.
#[derive(Default)]
pub struct FieldIndexes(Mutex<HashMap<JsonPath, Arc<FieldIndex>>>);

/// The payloads of a segment as a filter asks for them.
pub(super) struct SegmentPayloads<'a> {
    pub data: &'a SegmentData,
    pub fields: &'a FieldIndexes,
}

impl PayloadSource for SegmentPayloads<'_> {
    fn id(&self, row: usize) -> PointId {
        self.data.ids[row]
    }

    fn payload_text(&self, row: usize) -> &str {
        self.data.payloads.raw(row)
    }

    fn has_vector(&self, row: usize, name: &str) -> bool {
        self.data.vector(name, row).is_some()
    }

    fn field_index(&self, path: &JsonPath) -> Result<Arc<FieldIndex>> {
        if let Some(index) = self.fields.0.lock().get(path) {
            return Ok(index.clone());
        }
        // Built without the lock: two first uses may both build it, which costs time and nothing else.
        let texts = (0..self.data.len()).map(|row| self.data.payloads.raw(row));
        let index = Arc::new(FieldIndex::build(path, texts)?);
        self.fields.0.lock().insert(path.clone(), index.clone());
        Ok(index)
    }
}
