//! All rows of a tree as segments in memory.

use super::Lsm;
use super::codec::{self, StoredPoint};
use super::tree::{Tree, read_row};
use crate::engine::cluster::sort_by_cluster;
use crate::engine::segment::{SegmentBuilder, SegmentData};
use crate::engine::viper::cpu;
use crate::error::Result;
use crate::point::{PointId, Seq};
use crate::schema::{CollectionDescription, Schema};

/// Bytes of a row besides its vectors and payload, as a segment estimates them.
const ROW_OVERHEAD: usize = 64;

/// What a tree holds.
#[derive(Debug)]
pub struct LsmContents {
    /// The collection when the last commit was made.
    pub description: CollectionDescription,
    /// Every operation up to this one is in the rows.
    pub flushed_seq: Seq,
    /// All points, each id once, in pieces that are each sorted by cluster. No tombstones: what is deleted is not there.
    pub segments: Vec<SegmentData>,
}

impl Lsm {
    /// All rows, in pieces of about `max_bytes`, ready for search and for the building of indexes. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Corruption`](crate::error::Error::Corruption) when files are damaged; errors of the root.
    pub async fn load(&self, max_bytes: usize) -> Result<LsmContents> {
        let _compacting = self.compacting.lock().await;
        let tree = self.tree().await?;
        let contents = contents(&tree, max_bytes).await;
        tree.close().await;
        contents
    }
}

async fn contents(tree: &Tree<'_>, max_bytes: usize) -> Result<LsmContents> {
    let marker = tree.required_marker().await?;
    let schema = &marker.description.schema;
    let mut rows = tree.scan(codec::point_keys()).await?;
    let mut segments = Vec::new();
    let (mut builder, mut bytes) = (SegmentBuilder::new(schema), 0);
    while let Some(row) = rows.next().await.map_err(|error| tree.error(&error))? {
        let (id, point) = read_row(&row).map_err(|reason| tree.corrupt(&reason))?;
        let size = weight(&point);
        if bytes > 0 && bytes + size > max_bytes {
            let full = std::mem::replace(&mut builder, SegmentBuilder::new(schema));
            segments.push(clustered(full, schema).await?);
            bytes = 0;
        }
        bytes += size;
        push(&mut builder, schema, id, &point).map_err(|reason| tree.corrupt(&reason))?;
    }
    if bytes > 0 {
        segments.push(clustered(builder, schema).await?);
    }
    Ok(LsmContents {
        description: marker.description,
        flushed_seq: marker.flushed_seq,
        segments,
    })
}

fn push(builder: &mut SegmentBuilder, schema: &Schema, id: PointId, point: &StoredPoint<'_>) -> Result<(), String> {
    let unknown = |(name, _): &&(&str, Vec<f32>)| !schema.vectors.contains_key(*name);
    if let Some((name, _)) = point.vectors.iter().find(unknown) {
        return Err(format!("point {id} has a vector {name:?} that the schema lacks"));
    }
    builder
        .push_columns(id, point.seq, |name| point.vector(name), point.payload)
        .map_err(|error| error.to_string())
}

async fn clustered(builder: SegmentBuilder, schema: &Schema) -> Result<SegmentData> {
    let schema = schema.clone();
    cpu(move || sort_by_cluster(&schema, &builder.build()).0).await
}

/// About the bytes of a row in memory.
fn weight(point: &StoredPoint<'_>) -> usize {
    let vectors: usize = point
        .vectors
        .iter()
        .map(|(_, vector)| size_of_val(vector.as_slice()))
        .sum();
    vectors + point.payload.len() + ROW_OVERHEAD
}
