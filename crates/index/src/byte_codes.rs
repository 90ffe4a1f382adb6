//! Vectors with one byte a coordinate: precise enough that few rows are scored exactly in the end.
//!
//! ```text
//! row: u8 × coordinates (128 = 0) │ step: f32 │ added: f32          worth = step × Σ (byte − 128) × query + added
//! ```

use std::ops::Range;

use bytes::Bytes;

use crate::simd;
use crate::simd::codes;
use crate::space::Query;

/// The byte that stands for 0.
const ZERO: u8 = 128;
const FACTOR_BYTES: usize = 8;

/// Codes of rows, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct ByteCodes {
    coordinates: usize,
    data: Bytes,
}

impl ByteCodes {
    /// Bytes of a row.
    pub fn stride(coordinates: usize) -> usize {
        coordinates + FACTOR_BYTES
    }

    /// Appends the code of a placed vector, whose worth is its product with the query, and `added`.
    pub fn encode(placed: &[f32], added: f32, into: &mut Vec<u8>) {
        let mut bytes = vec![0; placed.len()];
        let step = codes::to_bytes(placed, &mut bytes);
        into.extend(bytes.iter().map(|byte| (*byte as u8).wrapping_add(ZERO)));
        // So long that the product with the vector itself is right: on average the product with a query is so, too.
        let decoded: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte)).collect();
        let (squared, product) = (simd::dot(placed, placed), simd::dot(placed, &decoded));
        let step = if product > 0.0 { squared / product } else { step };
        into.extend(step.to_le_bytes());
        into.extend(added.to_le_bytes());
    }

    /// Codes that were encoded.
    ///
    /// # Panics
    /// If they are not whole rows.
    pub fn of(coordinates: usize, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        assert!(
            data.len().is_multiple_of(Self::stride(coordinates)),
            "whole rows of byte codes"
        );
        Self { coordinates, data }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / Self::stride(self.coordinates)
    }

    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The codes of some rows that follow each other.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn range(&self, rows: Range<u32>) -> &[u8] {
        let stride = Self::stride(self.coordinates);
        &self.data[rows.start as usize * stride..rows.end as usize * stride]
    }

    /// The worths of some rows.
    ///
    /// # Panics
    /// If there is no such row, or no room.
    pub fn worths(&self, query: &Query, ids: &[u32], out: &mut [f32]) {
        const BATCH: usize = 64;
        let mut products = [0; BATCH];
        for (ids, out) in ids.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let products = &mut products[..ids.len()];
            self.products(query, ids, products);
            for ((id, product), worth) in ids.iter().zip(products).zip(out) {
                let [step, added] = self.factors(*id);
                *worth = query.step * step * *product as f32 + added;
            }
        }
    }

    /// A row as a query.
    pub fn as_query(&self, id: u32) -> Query {
        let code = &self.data[id as usize * Self::stride(self.coordinates)..][..self.coordinates];
        let bytes = code.iter().map(|byte| byte.wrapping_sub(ZERO) as i8);
        Query::of_bytes(bytes.collect(), self.factors(id)[0])
    }

    /// Products of the query's bytes with those of the rows: times both steps they are the products of the vectors.
    pub fn products(&self, query: &Query, ids: &[u32], out: &mut [i32]) {
        codes::byte_products(&query.bytes, &self.data, Self::stride(self.coordinates), ids, out);
        let zero = i32::from(ZERO) * query.sum;
        out.iter_mut().for_each(|product| *product -= zero);
    }

    /// `step` and `added` of a row.
    pub fn factors(&self, id: u32) -> [f32; 2] {
        let at = id as usize * Self::stride(self.coordinates) + self.coordinates;
        let float = |at: usize| {
            self.data[at..]
                .first_chunk()
                .map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
        };
        [float(at), float(at + 4)]
    }

    /// A hint that a row is needed soon.
    pub fn prefetch(&self, id: u32) {
        let stride = Self::stride(self.coordinates);
        codes::prefetch(&self.data, id as usize * stride, stride);
    }
}
