//! The coordinates that codes are made in: centred at the mean of the rows and rotated.
//!
//! Everything that codes estimate is a *worth*, of which more is better, whatever the metric:
//!
//! ```text
//! Dot                    worth = q·x − q·centre                   = q'·x' + offset(x)      offset = x'·centre
//! Euclidean, Manhattan   worth = (|q'|² − |q − x|²) / 2           = q'·x' + offset(x)      offset = −|x'|² / 2
//! ```
//!
//! where q' = q − centre and x' = x − centre, both rotated. Rows near by the sum of absolute differences are found among those near by
//! Euclidean distance; exact scores rank them in the end.

use crate::metric::Metric;
use crate::rotation::Rotation;
use crate::simd;
use crate::simd::codes::BYTE_STEP;

/// Vectors longer than this, whose squares come near the end of the floats, get no codes.
const LENGTH_MAX: f32 = 1e15;

/// Centre and rotation of the vectors of an index.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    metric: Metric,
    centre: Vec<f32>,
    /// The centre, rotated.
    rotated_centre: Vec<f32>,
    rotation: Rotation,
}

/// A query in the coordinates of a space.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// Centred and rotated.
    pub values: Vec<f32>,
    /// Squared length of the values.
    pub squared: f32,
    /// What an exact score is more than the worth says (Dot), or 0.
    shift: f32,
    /// The values as whole numbers of `step`.
    pub bytes: Vec<i8>,
    pub step: f32,
    /// Sum of the bytes.
    pub sum: i32,
}

impl Query {
    /// A query of which there is only the code.
    pub fn of_bytes(bytes: Vec<i8>, step: f32) -> Self {
        let (sum, squares) = bytes
            .iter()
            .map(|byte| i32::from(*byte))
            .fold((0, 0), |(sum, squares), byte| (sum + byte, squares + byte * byte));
        Self {
            values: Vec::new(),
            squared: step * step * squares as f32,
            shift: 0.0,
            bytes,
            step,
            sum,
        }
    }

    /// What reaches and margins are multiples of: the worths of two rows differ by about this much, whatever the unit of the data.
    /// `length` is the root of the mean squared length of the rows from the centre.
    pub fn unit(&self, length: f32) -> f32 {
        (self.squared.sqrt() + length) * length
    }
}

impl Space {
    /// A space around a centre.
    pub fn new(metric: Metric, centre: Vec<f32>) -> Self {
        let rotation = Rotation::new(padded(centre.len()));
        let mut space = Self {
            metric,
            rotated_centre: Vec::new(),
            centre,
            rotation,
        };
        space.rotated_centre = space.rotate(|_, centre| *centre);
        space
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.centre.len()
    }

    /// Coordinates of the codes.
    pub fn padded(&self) -> usize {
        self.rotation.dim()
    }

    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// A vector in the coordinates of the space.
    pub fn place(&self, vector: &[f32]) -> Vec<f32> {
        self.rotate(|at, centre| vector[at] - centre)
    }

    fn rotate(&self, value: impl Fn(usize, &f32) -> f32) -> Vec<f32> {
        let mut values = vec![0.0; self.padded()];
        for (at, (into, centre)) in values.iter_mut().zip(&self.centre).enumerate() {
            *into = value(at, centre);
        }
        self.rotation.apply(&mut values);
        values
    }

    /// What the worth of a placed vector has besides its product with the query.
    pub fn offset(&self, placed: &[f32]) -> f32 {
        match self.metric {
            Metric::Dot => simd::dot(placed, &self.rotated_centre),
            Metric::Euclidean | Metric::Manhattan => -simd::dot(placed, placed) / 2.0,
        }
    }

    /// A query in the coordinates of the space; `None` if its numbers are too large to calculate with, or not numbers.
    pub fn query(&self, vector: &[f32]) -> Option<Query> {
        if !fits(vector) {
            return None;
        }
        let values = self.place(vector);
        let shift = match self.metric {
            Metric::Dot => simd::dot(vector, &self.centre),
            Metric::Euclidean | Metric::Manhattan => 0.0,
        };
        let mut bytes = vec![0; values.len()];
        let step = simd::codes::to_bytes(&values, &mut bytes);
        Some(Query {
            squared: simd::dot(&values, &values),
            shift,
            sum: bytes.iter().map(|byte| i32::from(*byte)).sum(),
            values,
            bytes,
            step,
        })
    }

    /// The worth that belongs to a score: exactly for Dot and Euclidean; not for Manhattan.
    pub fn worth(&self, query: &Query, score: f32) -> f32 {
        match self.metric {
            Metric::Dot => score - query.shift,
            Metric::Euclidean | Metric::Manhattan => (query.squared - score * score) / 2.0,
        }
    }
}

/// Whether a vector is short enough to calculate with.
pub(crate) fn fits(vector: &[f32]) -> bool {
    simd::dot(vector, vector) < LENGTH_MAX * LENGTH_MAX
}

/// Coordinates of codes for vectors of a dimension: what the kernels and [`crate::bit_codes`] can divide.
fn padded(dim: usize) -> usize {
    let step = if dim < crate::bit_codes::ONE_BIT_FROM {
        BYTE_STEP
    } else {
        2 * BYTE_STEP
    };
    dim.next_multiple_of(step)
}
