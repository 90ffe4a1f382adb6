#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

/// The definitions, in the plainest form and in double precision.
fn expected(a: &[f32], b: &[f32]) -> [f64; 3] {
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    [
        pairs().map(|(a, b)| a * b).sum(),
        pairs().map(|(a, b)| (a - b) * (a - b)).sum(),
        pairs().map(|(a, b)| (a - b).abs()).sum(),
    ]
}

/// What rounding may cost: the sum of the absolute terms sets the scale.
fn tolerance(a: &[f32], b: &[f32]) -> f64 {
    let scale: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(a.abs() + b.abs() + 1.0).powi(2))
        .sum();
    1e-6 * scale + 1e-12
}

fn vector(seed: u64, dim: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..dim).map(|_| next()).collect()
}

#[test]
fn every_instruction_set_equals_the_definition_at_every_dimension() {
    for kernels in Kernels::available() {
        for dim in (1..=70).chain([127, 128, 384, 385, 1536]) {
            let (a, b) = (vector(1, dim), vector(2, dim));
            let [dot, l2, l1] = expected(&a, &b);
            for (kernel, want) in [(kernels.dot, dot), (kernels.l2_squared, l2), (kernels.l1, l1)] {
                let got = f64::from(kernels.pair(kernel, &a, &b));
                assert!(
                    (got - want).abs() <= tolerance(&a, &b),
                    "{} dim {dim}: {got} != {want}",
                    kernels.name
                );
            }
        }
    }
}

#[test]
fn a_score_has_the_same_bits_wherever_its_row_stands_in_the_call() {
    for kernels in Kernels::available() {
        for dim in [1, 5, 31, 384, 387] {
            let (query, data) = (vector(3, dim), vector(4, dim * 23));
            let ids: Vec<u32> = (0..23).rev().chain([5, 5, 0]).collect();
            for kernel in [kernels.dot, kernels.l2_squared, kernels.l1] {
                let mut out = vec![f32::NAN; ids.len()];
                kernels.rows(kernel, &query, &data, &ids, &mut out);
                for (&id, score) in ids.iter().zip(out) {
                    let row = &data[id as usize * dim..][..dim];
                    assert_eq!(kernels.pair(kernel, &query, row).to_bits(), score.to_bits());
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn products_are_the_inner_products_of_all_pairs(dim in 1usize..70, a in 0usize..40, b in 0usize..11, seed: u64) {
        let (left, right) = (vector(seed, dim * a), vector(!seed, dim * b));
        for kernels in Kernels::available() {
            let mut out = vec![f32::NAN; a * b];
            kernels.products(&left, &right, dim, &mut out);
            for (index, got) in out.into_iter().enumerate() {
                let (x, y) = (&left[index / b * dim..][..dim], &right[index % b * dim..][..dim]);
                let want = expected(x, y)[0];
                prop_assert!((f64::from(got) - want).abs() <= tolerance(x, y), "{}: {got} != {want}", kernels.name);
            }
        }
    }
}

#[test]
#[should_panic(expected = "beyond the data")]
fn a_row_beyond_the_data_is_refused() {
    dot_rows(&[1.0, 2.0], &[0.0; 6], &[0, 3], &mut [0.0; 2]);
}

#[test]
#[should_panic(expected = "one length")]
fn vectors_of_different_length_are_refused() {
    dot(&[1.0, 2.0], &[0.0; 3]);
}
