//! Vectors of one space, one after the other, owned (`Rows`) or borrowed (`RowSlice`).
//!
//! ```text
//! row 0: f32 × dim │ row 1: f32 × dim │ …      row r starts at r × dim
//! ```

use std::fmt;
use std::sync::Arc;

use crate::simd;

/// Where the floats of [`Rows`] live: a `Vec<f32>`, a memory map, a buffer of another crate.
pub type Floats = Arc<dyn AsRef<[f32]> + Send + Sync>;

/// `len` × `dim` floats, immutable and shared: a clone copies no data.
#[derive(Clone)]
pub struct Rows {
    dim: usize,
    data: Floats,
}

impl Rows {
    /// Rows over shared floats, for example a memory map.
    ///
    /// # Panics
    /// As [`RowSlice::new`].
    pub fn new(dim: usize, data: Floats) -> Self {
        let _checked = RowSlice::new(dim, (*data).as_ref());
        Self { dim, data }
    }

    /// Rows over a vector of their own.
    ///
    /// # Panics
    /// As [`RowSlice::new`].
    pub fn from_vec(dim: usize, data: Vec<f32>) -> Self {
        Self::new(dim, Arc::new(data))
    }

    /// A view of all rows.
    pub fn as_row_slice(&self) -> RowSlice<'_> {
        RowSlice {
            dim: self.dim,
            data: self.as_slice(),
        }
    }

    /// All floats.
    pub fn as_slice(&self) -> &[f32] {
        (*self.data).as_ref()
    }

    /// The vector of a row.
    ///
    /// # Panics
    /// If `row` ≥ `len`.
    pub fn get(&self, row: usize) -> &[f32] {
        self.as_row_slice().get(row)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.as_row_slice().len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floats of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({} × {})", self.len(), self.dim)
    }
}

impl<'a> From<&'a Rows> for RowSlice<'a> {
    fn from(rows: &'a Rows) -> Self {
        rows.as_row_slice()
    }
}

/// A view of rows that somebody else owns, for example a memtable that still grows.
#[derive(Clone, Copy)]
pub struct RowSlice<'a> {
    dim: usize,
    data: &'a [f32],
}

impl<'a> RowSlice<'a> {
    /// A view of `data` as rows of `dim` floats.
    ///
    /// # Panics
    /// If `dim` is 0, `data` is not a whole number of rows, or there are more than `u32` can number.
    pub fn new(dim: usize, data: &'a [f32]) -> Self {
        assert!(dim > 0, "a vector has at least one dimension");
        assert!(
            data.len().is_multiple_of(dim),
            "{} floats are not whole rows of {dim}",
            data.len()
        );
        assert!(data.len() / dim < u32::MAX as usize, "rows are numbered by u32");
        Self { dim, data }
    }

    /// All floats.
    pub fn as_slice(self) -> &'a [f32] {
        self.data
    }

    /// The vector of a row.
    ///
    /// # Panics
    /// If `row` ≥ `len`.
    pub fn get(self, row: usize) -> &'a [f32] {
        &self.data[row * self.dim..][..self.dim]
    }

    /// A hint that a row is needed soon; it need not exist.
    pub(crate) fn prefetch(self, row: u32) {
        simd::codes::prefetch(self.data, row as usize * self.dim, self.dim);
    }

    /// Number of rows.
    pub fn len(self) -> usize {
        self.data.len() / self.dim
    }

    /// Whether there are no rows.
    pub fn is_empty(self) -> bool {
        self.data.is_empty()
    }

    /// Floats of a row.
    pub fn dim(self) -> usize {
        self.dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_its_floats() {
        let rows = Rows::from_vec(2, vec![1.0, 2.0, 3.0, 4.0]);
        let clone = rows.clone();
        assert_eq!(clone.as_slice().as_ptr(), rows.as_slice().as_ptr());
        assert_eq!((clone.len(), clone.dim(), clone.get(1)), (2, 2, &[3.0, 4.0][..]));
        assert_eq!(format!("{clone:?}"), "Rows(2 × 2)");
    }

    #[test]
    fn rows_can_be_backed_by_anything_that_lends_floats() {
        let rows = Rows::new(3, Arc::new([1.0, 2.0, 3.0]));
        assert_eq!(rows.get(0), [1.0, 2.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "not whole rows")]
    fn half_a_row_is_refused() {
        Rows::from_vec(2, vec![1.0; 3]);
    }
}
