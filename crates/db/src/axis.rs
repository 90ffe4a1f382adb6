//! AXIS: the vector indexes of segments, as files on the index roots.
//!
//! Owns which segments get an index, how it is built, and its file. Everything here is derived: a lost, damaged or
//! stale file is built again from the segment, and until then the segment is searched exactly.
//!
//! File `<index root>/<collection id>/<shard>/<segment id>.ivf`, one for all vector spaces of the segment:
//!
//! ```text
//! "PXAXIS01" | header length: u32 | header: JSON | index of space 0 | index of space 1 | … | CRC-32 of all before: u32
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proximadb_index::{Ivf, VectorIndex};
use serde::{Deserialize, Serialize};

use crate::engine::segment::{SegmentData, SegmentId};
use crate::error::{Error, Result};
use crate::root::Root;
use crate::schema::{CollectionDescription, Schema};
use crate::sealed::crc32;

/// Vector indexes of one segment by vector space. Cheap to clone.
pub type SegmentIndexes = Arc<BTreeMap<String, Box<dyn VectorIndex>>>;

/// Segments with fewer rows are scanned: that is as fast as probing an index, and exact.
const ROWS_MIN: usize = 2_048;

const MAGIC: &[u8; 8] = b"PXAXIS01";

/// What an index file says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    collection: CollectionDescription,
    shard: String,
    segment: SegmentId,
    /// Vector space and length in bytes of its index, in order.
    spaces: Vec<(String, u64)>,
}

/// The index files of one shard.
pub struct Axis {
    root: Arc<Root>,
    directory: String,
}

/// Whether a segment is large enough to be indexed.
pub fn wants_index(data: &SegmentData) -> bool {
    data.len() >= ROWS_MIN && data.clustering.is_some()
}

/// Builds the indexes of a segment from the clusters that its rows are sorted by. CPU work; no I/O.
pub fn build(data: &SegmentData, schema: &Schema) -> SegmentIndexes {
    let indexable = data.vectors.iter().filter_map(|(name, column)| {
        let index = Ivf::build(
            schema.vectors.get(name)?.distance.metric(),
            &column.rows,
            &data.clusters(name)?,
        );
        Some((name.clone(), Box::new(index) as Box<dyn VectorIndex>))
    });
    Arc::new(indexable.collect())
}

impl Axis {
    /// The index files below `directory` (`<collection id>/<shard>`) of an index root.
    pub fn new(root: Arc<Root>, directory: String) -> Self {
        Self { root, directory }
    }

    /// Stores the indexes of a segment durably.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] or [`Error::StorageFull`] of the index root; the segment stays searchable.
    pub async fn save(&self, segment: SegmentId, of: &CollectionDescription, indexes: &SegmentIndexes) -> Result<()> {
        let encoded: Vec<(String, Vec<u8>)> = indexes
            .iter()
            .map(|(name, index)| (name.clone(), index.encode()))
            .collect();
        let header = Header {
            collection: of.clone(),
            shard: self.directory.rsplit('/').next().unwrap_or_default().to_owned(),
            segment,
            spaces: encoded
                .iter()
                .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
                .collect(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(format!("index header: {e}")))?;
        let mut file = MAGIC.to_vec();
        file.extend((header.len() as u32).to_le_bytes());
        file.extend(header);
        for (_, bytes) in encoded {
            file.extend(bytes);
        }
        file.extend(crc32(&file).to_le_bytes());
        self.root.write_atomic(&self.path(segment), file.into()).await
    }

    /// Loads the indexes of a segment. `None` if there is no file for it or the file cannot be used, which is logged.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if the index root cannot be read.
    pub async fn load(&self, segment: SegmentId) -> Result<Option<SegmentIndexes>> {
        let Some(file) = self.root.read_if_exists(&self.path(segment)).await? else {
            return Ok(None);
        };
        match decode(&file, &self.directory, segment) {
            Ok(indexes) => Ok(Some(indexes)),
            Err(reason) => {
                tracing::warn!(
                    root = self.root.url(),
                    file = self.path(segment),
                    reason,
                    "index file is damaged; it is built again"
                );
                Ok(None)
            }
        }
    }

    /// Deletes the index file of a segment; a missing one is fine.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if the index root cannot be written.
    pub async fn delete(&self, segment: SegmentId) -> Result<()> {
        self.root.delete(&self.path(segment)).await
    }

    /// Deletes the index files of all other segments: a crash may have come between the deletion of a segment and that of
    /// its index.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if the index root cannot be read or written.
    pub async fn keep_only(&self, segments: &[SegmentId]) -> Result<()> {
        for file in self.root.list(&self.directory).await? {
            let name = file
                .path
                .strip_prefix(&self.directory)
                .and_then(|rest| rest.strip_prefix('/'));
            let segment = name.and_then(|name| name.strip_suffix(".ivf")?.parse().ok());
            if segment.is_some_and(|segment| !segments.contains(&segment)) {
                self.root.delete(&file.path).await?;
            }
        }
        Ok(())
    }

    fn path(&self, segment: SegmentId) -> String {
        format!("{}/{segment}.ivf", self.directory)
    }
}

/// Whether the bytes are the index file of a segment below `directory` (`<collection id>/<shard>`).
///
/// # Errors
/// What is wrong with them.
pub fn check(file: &Bytes, directory: &str, segment: SegmentId) -> Result<(), String> {
    decode(file, directory, segment).map(|_| ())
}

fn decode(file: &Bytes, directory: &str, segment: SegmentId) -> Result<SegmentIndexes, String> {
    let (body, stored) = file.split_last_chunk::<4>().ok_or("shorter than its checksum")?;
    if crc32(body) != u32::from_le_bytes(*stored) {
        return Err("checksum does not match".to_owned());
    }
    let rest = body.strip_prefix(MAGIC).ok_or("not an index file of a known version")?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("cut in its header")?;
    let (header, mut rest) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or("cut in its header")?;
    let header: Header = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    if header.segment != segment {
        return Err(format!("belongs to segment {}", header.segment));
    }
    let place = format!("{}/{}", header.collection.id, header.shard);
    if place != directory {
        return Err(format!("belongs to {place}"));
    }
    let mut indexes = BTreeMap::new();
    for (name, length) in header.spaces {
        let (bytes, after) = rest.split_at_checked(length as usize).ok_or("cut in an index")?;
        indexes.insert(name, proximadb_index::decode(bytes).map_err(|e| e.to_string())?);
        rest = after;
    }
    Ok(Arc::new(indexes))
}
