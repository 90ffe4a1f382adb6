//! Vectors with 1, 2 or 4 bits a coordinate, after RaBitQ: estimates of products with a query, and how wrong they may be.
//!
//! A row is its list's mean and a residual, x' = m + r. The residual is kept as a vector v of few levels. Seen from v,
//!
//! ```text
//! r = slope × v + e,  e at a right angle to r,      slope = |r|² / (v·r),      |e|² = slope² |v|² − |r|²
//! worth = q'·x' + offset = m·q' + slope × (v·q') + constant − e·(q' − m),
//! constant = offset + r·m − slope × (v·m)
//! ```
//!
//! The rotation has made e a random direction, so e·(q' − m) is about |e| |q' − m| / √coordinates, and has no bias. The only thing
//! to calculate for each row is v·q': table lookups ([`codes`]), 16 rows at a time.

use crate::simd;
use crate::simd::codes::{self, BLOCK_ROWS, FACTOR_BYTES, STRIP_BYTES, STRIP_TABLE};
use crate::space::Query;

/// Dimension from which one bit a coordinate is enough: the error falls with the square root of the number of coordinates.
pub(crate) const ONE_BIT_FROM: usize = 256;
const TWO_BITS_FROM: usize = 64;

/// Bits of a coordinate in the shortest codes of vectors of a dimension.
pub fn bits_per_coordinate(dim: usize) -> usize {
    match dim {
        ..TWO_BITS_FROM => 4,
        TWO_BITS_FROM..ONE_BIT_FROM => 2,
        _ => 1,
    }
}

/// How the coordinates of a space become bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitCodes {
    bits: usize,
    coordinates: usize,
}

/// What a scan looks up for a query.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub entries: Vec<i8>,
    /// What one unit of the entries is worth.
    pub scale: f32,
}

/// A residual and what belongs to it.
pub(crate) struct Residual<'a> {
    pub values: &'a [f32],
    /// The mean it is a residual of.
    pub mean: &'a [f32],
    /// `offset` of the row.
    pub offset: f32,
}

impl BitCodes {
    /// The codes that suit vectors of a dimension, placed in so many coordinates.
    pub fn new(dim: usize, coordinates: usize) -> Self {
        let bits = bits_per_coordinate(dim);
        Self { bits, coordinates }
    }

    /// Bits of a coordinate.
    pub fn bits(self) -> usize {
        self.bits
    }

    fn strips(self) -> usize {
        self.coordinates * self.bits / 32
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        codes::block_bytes(self.strips())
    }

    /// Appends a block of up to 16 rows; places without a row never pass a threshold.
    ///
    /// # Panics
    /// If there are more rows than a block has.
    pub fn encode(self, rows: &[Option<Residual<'_>>], into: &mut Vec<u8>) {
        assert!(rows.len() <= BLOCK_ROWS, "rows of one block");
        let start = into.len();
        into.resize(start + self.block_bytes(), 0);
        let (strips, factors) = into[start..].split_at_mut(self.strips() * STRIP_BYTES);
        for place in 0..BLOCK_ROWS {
            let row = rows.get(place).and_then(Option::as_ref);
            let three = row.map_or([0.0, f32::NEG_INFINITY, 0.0], |row| self.encode_row(row, place, strips));
            for (factor, value) in three.into_iter().enumerate() {
                let at = factor * FACTOR_BYTES / 3 + place * 4;
                factors[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Sets the bits of a row; returns its slope, constant and error.
    fn encode_row(self, row: &Residual<'_>, place: usize, strips: &mut [u8]) -> [f32; 3] {
        let squared = simd::dot(row.values, row.values);
        let levels = 1i32 << self.bits;
        // Between levels, in units of the standard deviation: least error for a normal distribution.
        let width = [0.0, 1.0, 0.9957, 0.5860, 0.3352][self.bits] * (squared / self.coordinates as f32).sqrt();
        let per_unit = if width > f32::MIN_POSITIVE { width.recip() } else { 0.0 };
        let (mut with_row, mut with_mean, mut own) = (0f32, 0f32, 0f32);
        for (at, value) in row.values.iter().enumerate() {
            let scaled = value * per_unit;
            // Rounded down, without a call of the library.
            let level = (scaled as i32 - i32::from(scaled < 0.0) + levels / 2).clamp(0, levels - 1);
            let v = (2 * level - levels + 1) as f32;
            with_row += v * value;
            with_mean += v * row.mean[at];
            own += v * v;
            let bit = at * self.bits;
            // Groups of four bits; four low nibbles, then four high ones to a strip's four bytes of the row.
            let (strip, group) = (bit / 32, bit / 4 % 8);
            let byte = strip * STRIP_BYTES + place * 4 + group % 4;
            strips[byte] |= (level as u8) << (bit % 4) << (group / 4 * 4);
        }
        let slope = if with_row > 0.0 { squared / with_row } else { 0.0 };
        let error = (slope * slope * own - squared).max(0.0).sqrt();
        let constant = row.offset + simd::dot(row.values, row.mean) - slope * with_mean;
        [slope, constant, error]
    }

    /// The table for a query.
    pub fn table(self, query: &Query) -> Table {
        let mut entries = vec![0; self.strips() * STRIP_TABLE];
        let scale = codes::fill_table(&query.values, self.bits, &mut entries);
        Table { entries, scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::simd::codes::{Estimates, Terms, scan};
    use crate::space::Space;

    fn vector(seed: u64, dim: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..dim).map(|_| next()).collect()
    }

    /// Estimates of 13 rows are as wrong as their errors say, for every width and metric.
    #[test]
    fn estimates_are_as_wrong_as_their_errors_say() {
        for metric in [Metric::Dot, Metric::Euclidean] {
            for dim in [3, 40, 100, 128, 300, 384] {
                let space = Space::new(metric, vector(99, dim));
                let codes = BitCodes::new(dim, space.padded());
                let mean = space.place(&vector(5, dim));
                let vectors: Vec<Vec<f32>> = (0..13).map(|row| vector(row + 10, dim)).collect();
                let placed: Vec<Vec<f32>> = vectors.iter().map(|row| space.place(row)).collect();
                let residuals: Vec<Vec<f32>> = placed
                    .iter()
                    .map(|row| row.iter().zip(&mean).map(|(x, m)| x - m).collect())
                    .collect();
                let rows: Vec<Option<Residual<'_>>> = residuals
                    .iter()
                    .zip(&placed)
                    .map(|(values, placed)| {
                        Some(Residual {
                            values,
                            mean: &mean,
                            offset: space.offset(placed),
                        })
                    })
                    .collect();
                let mut block = Vec::new();
                codes.encode(&rows, &mut block);
                assert_eq!(block.len(), codes.block_bytes());
                let original = vector(1234, dim);
                let query = space.query(&original).unwrap();
                let table = codes.table(&query);
                let away: f32 = query.values.iter().zip(&mean).map(|(q, m)| (q - m) * (q - m)).sum();
                let terms = Terms {
                    base: simd::dot(&query.values, &mean),
                    scale: table.scale,
                    error: (away / space.padded() as f32).sqrt(),
                    threshold: f32::MIN,
                };
                let mut out = Estimates::new();
                scan(&block, &table.entries, &terms, &mut out);
                assert_eq!(out.passing[0], 0x1FFF, "13 rows, and three places without one");
                let mut wrong = 0f32;
                for (row, vector) in vectors.iter().enumerate() {
                    let worth = space.worth(&query, metric.score(&original, vector));
                    let error = out.bounds[row] - out.estimates[row];
                    // Rounding of the table comes on top: in few dimensions it is most of the error.
                    let rounding = query.squared.sqrt() * 0.05;
                    wrong = wrong.max((out.estimates[row] - worth).abs() / (error + rounding));
                }
                assert!(wrong < 4.0, "{metric:?} {dim}: {wrong} times the error");
            }
        }
    }
}
