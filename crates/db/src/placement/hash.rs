//! Hash: weighted rendezvous hashing. Every root draws a number from the key and its own hash key; the lowest cost wins.
//! A root's hash key is written into its identity file when the root is initialised, from its URL: servers that are set up
//! with the same configuration place alike, and a root that is renamed or moved later keeps its key and its collections.
//!
//! Adding a root moves only the keys that it wins; removing one moves only its own. The position in the list plays no
//! part. The algorithm has a name and frozen test vectors, because another answer would scatter what was placed by it:
//!
//! ```text
//! rendezvous-xxh3-v2:  h = XXH3-64(hash key of the root ‖ 00 ‖ key)   UTF-8, seed 0
//!                      u = (2h + 1) / 2^65                            in (0, 1), never 0
//!                      cost = -log2(u) / weight                       in steps of 2^-46; least first
//! ```
//!
//! The least of exponential draws falls on each root in proportion to its weight. The logarithm is computed in
//! integers: a library's may differ in the last bit from one machine to the next, and so may the winner.

use std::cmp::Reverse;

use xxhash_rust::xxh3::xxh3_64;

use super::{Candidate, PlacementRequest, PlacementStrategy};

/// Name and version of the algorithm.
pub const RENDEZVOUS: &str = "rendezvous-xxh3-v2";

/// Bits after the point of a logarithm. 65 · 2^46 is below 2^53, so that an `f64` holds every result exactly.
const FRACTION_BITS: u32 = 46;

/// Weighted rendezvous hashing over the hash keys of the roots.
pub(super) struct Hash;

impl PlacementStrategy for Hash {
    fn rank(&self, request: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize> {
        let mut order: Vec<_> = candidates
            .iter()
            .enumerate()
            .map(|(position, candidate)| {
                let hash = draw(&candidate.hash_key, &request.key);
                (cost(hash, candidate.weight), Reverse(hash), candidate.root_id, position)
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
        order.into_iter().map(|(.., position)| position).collect()
    }
}

fn draw(root: &str, key: &str) -> u64 {
    let mut bytes = Vec::with_capacity(root.len() + 1 + key.len());
    bytes.extend_from_slice(root.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.as_bytes());
    xxh3_64(&bytes)
}

fn cost(hash: u64, weight: f64) -> f64 {
    assert!(
        weight.is_finite() && weight > 0.0,
        "the configuration accepts no weight of {weight}"
    );
    negative_log2(hash) as f64 / weight
}

/// `-log2((2·hash + 1) / 2^65)` in steps of 2^-[`FRACTION_BITS`], by squaring: the square of a number in [1, 2) is in
/// [1, 4), and whether it reached 2 is the next bit of its logarithm.
fn negative_log2(hash: u64) -> u64 {
    let odd = 2 * u128::from(hash) + 1;
    let whole = odd.ilog2();
    // The number scaled into [1, 2), with 63 bits after the point.
    let mut mantissa = if whole > 63 {
        odd >> (whole - 63)
    } else {
        odd << (63 - whole)
    };
    let mut log = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        let square = mantissa * mantissa;
        let bit = square >> 127;
        mantissa = square >> (63 + bit);
        log = (log << 1) | u64::from(bit == 1);
    }
    (65 << FRACTION_BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integer_logarithm_equals_the_real_one() {
        for hash in [
            0,
            1,
            2,
            3,
            1 << 20,
            1 << 63,
            u64::MAX / 3,
            u64::MAX - 1,
            u64::MAX,
            0x9E37_79B9_7F4A_7C15,
        ] {
            let real = -((hash as f64 + 0.5) / 2f64.powi(64)).log2();
            let ours = negative_log2(hash) as f64 / 2f64.powi(46);
            assert!((real - ours).abs() < 1e-12, "{hash}: {real} and {ours}");
        }
    }
}
