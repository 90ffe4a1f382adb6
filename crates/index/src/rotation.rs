//! A rotation by random signs and Hadamard transforms: spreads what a vector has over all of its coordinates, so that every
//! coordinate says about as much as any other. Lengths and angles stay.
//!
//! ```text
//! round: every coordinate × a random sign, then a Hadamard transform of the first (next round: the last) 2^p coordinates
//! ```

use crate::simd::codes;

/// Rounds. Four mix all coordinates well also if their number is not a power of two.
const ROUNDS: usize = 4;
/// The signs are the same in every build of the product: they are part of the format of index files.
const SEED: u64 = 0x5052_4F58_494D_4144;

/// A fixed rotation of vectors with `dim` coordinates.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    dim: usize,
    window: usize,
    /// `ROUNDS` × `dim` signs, with the length of the transform divided out.
    factors: Vec<f32>,
}

impl Rotation {
    /// The rotation of this many coordinates, at least one.
    pub fn new(dim: usize) -> Self {
        let window = 1 << dim.max(1).ilog2();
        let mut state = SEED;
        let length = (window as f32).sqrt();
        let factor = |at: usize| {
            let (round, coordinate) = (at / dim, at % dim);
            let start = if round % 2 == 0 { 0 } else { dim - window };
            let size = if (start..start + window).contains(&coordinate) {
                1.0 / length
            } else {
                1.0
            };
            if splitmix(&mut state) >> 63 == 0 { size } else { -size }
        };
        let factors = (0..ROUNDS * dim).map(factor).collect();
        Self { dim, window, factors }
    }

    /// Coordinates.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rotates in place.
    ///
    /// # Panics
    /// If there is another number of values.
    pub fn apply(&self, values: &mut [f32]) {
        assert_eq!(values.len(), self.dim, "a vector of this rotation");
        codes::rotate(values, &self.factors, self.window);
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;

    #[test]
    fn lengths_and_angles_stay_and_one_coordinate_spreads_over_all() {
        for dim in [1, 2, 3, 8, 16, 48, 96, 128, 384, 1536] {
            let rotation = Rotation::new(dim);
            let mut a: Vec<f32> = (0..dim).map(|i| (i as f32).sin()).collect();
            let mut b = vec![0.0; dim];
            b[dim / 2] = 1.0;
            let before = [simd::dot(&a, &a), simd::dot(&a, &b), simd::dot(&b, &b)];
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            let after = [simd::dot(&a, &a), simd::dot(&a, &b), simd::dot(&b, &b)];
            for (after, before) in after.iter().zip(before) {
                assert!(
                    (after - before).abs() < 1e-3 * (1.0 + before.abs()),
                    "{dim}: {after} {before}"
                );
            }
            let largest = b.iter().fold(0f32, |max, x| max.max(x.abs()));
            assert!(dim < 16 || largest < 5.0 / (dim as f32).sqrt(), "{dim}: {largest}");
        }
    }
}
