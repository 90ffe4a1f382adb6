//! Vectors in memory.
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
