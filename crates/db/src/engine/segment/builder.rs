//! Rows on their way into a segment, in any order.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;
use proximadb_index::Rows;

use crate::engine::segment::{PayloadColumn, SegmentData, VectorColumn};
use crate::error::{Error, Result};
use crate::point::{Point, PointId, Seq};
use crate::schema::Schema;

/// Collects rows in any order into [`SegmentData`].
#[derive(Debug)]
pub struct SegmentBuilder {
    data: SegmentData,
    payloads: PayloadBuilder,
    columns: BTreeMap<String, ColumnBuilder>,
}

/// One vector space while rows are added.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    dim: usize,
    floats: Vec<f32>,
    rows: usize,
    /// Rows without a vector.
    absent: Vec<usize>,
}

/// The payloads while rows are added.
#[derive(Debug)]
pub(crate) struct PayloadBuilder {
    text: Vec<u8>,
    offsets: Vec<usize>,
}

impl Default for PayloadBuilder {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            offsets: vec![0],
        }
    }
}

impl PayloadBuilder {
    /// Adds a row; `json` is an object.
    pub(crate) fn push(&mut self, json: &str) {
        self.text.extend_from_slice(json.as_bytes());
        self.offsets.push(self.text.len());
    }

    /// All rows.
    pub(crate) fn build(self) -> PayloadColumn {
        PayloadColumn {
            text: self.text.into(),
            offsets: self.offsets,
        }
    }
}

impl ColumnBuilder {
    /// No rows yet.
    pub(crate) fn new(dim: usize) -> Self {
        Self {
            dim,
            floats: Vec::new(),
            rows: 0,
            absent: Vec::new(),
        }
    }

    /// Whether a row may have this vector, or none.
    pub(crate) fn fits(&self, vector: Option<&[f32]>) -> bool {
        vector.is_none_or(|vector| vector.len() == self.dim)
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If the vector does not [fit](Self::fits).
    pub(crate) fn push(&mut self, vector: Option<&[f32]>) {
        assert!(self.fits(vector), "a vector of another dimension");
        match vector {
            Some(vector) => self.floats.extend_from_slice(vector),
            None => {
                self.absent.push(self.rows);
                self.floats.resize(self.floats.len() + self.dim, 0.0);
            }
        }
        self.rows += 1;
    }

    /// All rows.
    pub(crate) fn build(self) -> VectorColumn {
        let present = (!self.absent.is_empty()).then(|| {
            let mut present = FixedBitSet::with_capacity(self.rows);
            present.set_range(.., true);
            self.absent.iter().for_each(|row| present.set(*row, false));
            present
        });
        VectorColumn {
            rows: Rows::from_vec(self.dim, self.floats),
            present,
        }
    }
}

impl SegmentBuilder {
    /// No rows yet, with a column for each vector space of the schema.
    pub fn new(schema: &Schema) -> Self {
        let columns = schema
            .vectors
            .iter()
            .map(|(name, space)| (name.clone(), ColumnBuilder::new(space.size)))
            .collect();
        Self {
            data: SegmentData::default(),
            payloads: PayloadBuilder::default(),
            columns,
        }
    }

    /// Adds a point as the operation `seq` wrote it. The caller adds each id once.
    ///
    /// # Errors
    /// [`Error::Internal`] if a vector does not fit the schema (the caller has checked that) or the payload is no JSON.
    pub fn push(&mut self, seq: Seq, point: &Point) -> Result<()> {
        let unknown = point
            .vectors
            .iter()
            .find(|(space, _)| !self.columns.contains_key(*space));
        if let Some((space, _)) = unknown {
            return Err(Error::Internal(format!(
                "point {} has a vector {space:?} that the schema lacks",
                point.id
            )));
        }
        let json = serde_json::to_string(&point.payload)
            .map_err(|error| Error::Internal(format!("payload of point {}: {error}", point.id)))?;
        self.push_columns(point.id, seq, |space| point.vectors.get(space), &json)
    }

    /// Adds a row of another segment.
    ///
    /// # Errors
    /// [`Error::Internal`] if its vectors do not fit the schema.
    pub fn push_row(&mut self, data: &SegmentData, row: usize) -> Result<()> {
        self.push_columns(
            data.ids[row],
            data.seqs[row],
            |space| data.vector(space, row),
            data.payloads.raw(row),
        )
    }

    /// Adds a deletion.
    pub fn tombstone(&mut self, id: PointId, seq: Seq) {
        self.data.tombstones.push((id, seq));
    }

    /// The rows as added, not yet clustered; tombstones sorted by id.
    pub fn build(self) -> SegmentData {
        let mut data = self.data;
        data.tombstones.sort_unstable();
        data.payloads = self.payloads.build();
        data.vectors = self
            .columns
            .into_iter()
            .map(|(space, column)| (space, column.build()))
            .collect();
        data
    }

    /// Adds a row whose payload is JSON already.
    ///
    /// # Errors
    /// [`Error::Internal`] if its vectors do not fit the schema.
    pub(crate) fn push_columns<'a>(
        &mut self,
        id: PointId,
        seq: Seq,
        vector: impl Fn(&str) -> Option<&'a [f32]>,
        payload: &str,
    ) -> Result<()> {
        if let Some((space, _)) = self.columns.iter().find(|(space, column)| !column.fits(vector(space))) {
            return Err(Error::Internal(format!(
                "point {id}: its vector {space:?} has not the dimension of the schema"
            )));
        }
        self.columns
            .iter_mut()
            .for_each(|(space, column)| column.push(vector(space)));
        self.data.ids.push(id);
        self.data.seqs.push(seq);
        self.payloads.push(payload);
        Ok(())
    }
}
