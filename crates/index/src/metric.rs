//! What a score means, and normalisation for cosine.

use crate::rows::RowSlice;
use crate::simd;

/// How two stored vectors compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Inner product; larger is better.
    Dot,
    /// Euclidean distance; smaller is better.
    Euclidean,
    /// Sum of absolute differences; smaller is better.
    Manhattan,
}

impl Metric {
    /// Whether a larger score is the better one.
    pub fn larger_is_better(self) -> bool {
        self == Self::Dot
    }

    /// The score of two vectors: inner product, Euclidean distance (not squared) or sum of absolute differences.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn score(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::Dot => simd::dot(a, b),
            Self::Euclidean => simd::l2_squared(a, b).sqrt(),
            Self::Manhattan => simd::l1(a, b),
        }
    }

    /// [`score`](Self::score) of `query` with the rows `ids`, bit for bit, into `out`.
    pub(crate) fn score_rows(self, query: &[f32], rows: RowSlice<'_>, ids: &[u32], out: &mut [f32]) {
        assert_eq!(query.len(), rows.dim(), "the query is a vector of the same space");
        match self {
            Self::Dot => simd::dot_rows(query, rows.as_slice(), ids, out),
            Self::Euclidean => {
                simd::l2_squared_rows(query, rows.as_slice(), ids, out);
                out.iter_mut().for_each(|score| *score = score.sqrt());
            }
            Self::Manhattan => simd::l1_rows(query, rows.as_slice(), ids, out),
        }
    }
}

/// Scales a vector to length 1, so that its inner product is the cosine. A vector of length 1 stays as it is, bit for
/// bit, and so does one without a direction (all 0, or not finite).
pub fn normalize(vector: &mut [f32]) {
    // Double precision: the squares of finite floats neither overflow nor vanish.
    let squared: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    // What rounding to f32 leaves of 1; scaling again would only change the last bits of a vector sent back to us.
    let is_unit = (squared - 1.0).abs() < 1e-6;
    if squared > 0.0 && squared.is_finite() && !is_unit {
        let scale = squared.sqrt().recip();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_what_their_names_say() {
        let (a, b) = ([0.0, 3.0], [4.0, 0.0]);
        assert_eq!(Metric::Dot.score(&[1.0, 2.0], &[3.0, 4.0]), 11.0);
        assert_eq!(Metric::Euclidean.score(&a, &b), 5.0);
        assert_eq!(Metric::Manhattan.score(&a, &b), 7.0);
    }

    fn check_normalize(input: &[f32], expected: &[f32]) {
        let mut vector = input.to_vec();
        normalize(&mut vector);
        assert!(
            vector.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{vector:?} != {expected:?}"
        );
        let once = vector.clone();
        normalize(&mut vector);
        assert_eq!(vector, once, "normalising again changes nothing");
    }

    #[test]
    fn a_normalised_vector_has_length_one() {
        check_normalize(&[3.0, 4.0], &[0.6, 0.8]);
        check_normalize(&[3e30, 4e30], &[0.6, 0.8]);
        check_normalize(&[3e-30, 4e-30], &[0.6, 0.8]);
        check_normalize(&[0.0, 0.0], &[0.0, 0.0]);
    }
}
