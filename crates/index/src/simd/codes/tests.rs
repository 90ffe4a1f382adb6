#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Blocks with random codes and small factors.
fn blocks(seed: u64, strips: usize, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for block in 0..count {
        all.extend(bytes(seed ^ block as u64, strips * STRIP_BYTES));
        let factors = bytes(!seed, 48).into_iter().map(|byte| f32::from(byte) / 64.0 - 2.0);
        all.extend(factors.flat_map(f32::to_le_bytes));
    }
    all
}

proptest! {
    #[test]
    fn every_instruction_set_scans_as_the_plain_one(seed: u64, strips in 0usize..20, count in 0usize..=CHUNK_BLOCKS, threshold in -50f32..50.0) {
        let blocks = blocks(seed, strips, count);
        let table: Vec<i8> = bytes(seed, strips * STRIP_TABLE).into_iter().map(|byte| byte as i8).collect();
        let terms = Terms { base: 0.5, scale: 0.01, error: 0.3, threshold };
        let all = Kernels::available();
        let mut want = Estimates::new();
        all.last().unwrap().scan(&blocks, &table, &terms, &mut want);
        for kernels in &all {
            let mut got = Estimates::new();
            kernels.scan(&blocks, &table, &terms, &mut got);
            for row in 0..count * BLOCK_ROWS {
                let (got_bound, want_bound) = (got.bounds[row], want.bounds[row]);
                prop_assert!((got.estimates[row] - want.estimates[row]).abs() < 1e-3, "{}", kernels.name);
                prop_assert!((got_bound - want_bound).abs() < 1e-3, "{}", kernels.name);
                let passes = got.passing[row / BLOCK_ROWS] >> (row % BLOCK_ROWS) & 1 == 1;
                prop_assert_eq!(passes, got_bound >= threshold, "{}", kernels.name);
            }
        }
    }

    #[test]
    fn every_instruction_set_multiplies_bytes_exactly(seed: u64, steps in 1usize..20, count in 1usize..23, extreme: bool) {
        let (dim, stride) = (steps * BYTE_STEP, steps * BYTE_STEP + 8);
        let fill = |random: u8, high: u8| if extreme { high } else { random };
        let data: Vec<u8> = bytes(seed, stride * count).into_iter().map(|byte| fill(byte, 255)).collect();
        let query: Vec<i8> = bytes(!seed, dim).into_iter().map(|byte| fill(byte, 127) as i8).collect();
        let ids: Vec<u32> = (0..count as u32).rev().collect();
        for kernels in Kernels::available() {
            let mut out = vec![0; count];
            kernels.products(&query, &data, stride, &ids, &mut out);
            for (id, got) in ids.iter().zip(out) {
                let row = &data[*id as usize * stride..][..dim];
                let want: i32 = row.iter().zip(&query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                prop_assert_eq!(got, want, "{}", kernels.name);
            }
        }
    }

    #[test]
    fn tables_hold_what_their_codes_stand_for(groups in 1usize..40, width in 0usize..3, seed: u64) {
        let bits = 1 << width;
        let float = |byte: u8| f32::from(byte) / 256.0 - 0.5;
        let values: Vec<f32> = bytes(seed, groups * 4 / bits).into_iter().map(float).collect();
        for kernels in Kernels::available() {
            let mut table = vec![0i8; groups * 16];
            // SAFETY: plain Rust; the instruction set was detected.
            let unit = unsafe { (kernels.fill_table)(&values, bits, &mut table) };
            for (at, got) in table.iter().enumerate() {
                let of = |place: usize| (2 * (((at % 16) >> (place * bits)) & ((1 << bits) - 1)) + 1) as f32 - (1 << bits) as f32;
                let sum: f32 = (0..4 / bits).map(|place| of(place) * values[at / 16 * (4 / bits) + place]).sum();
                prop_assert!((f32::from(*got) * unit - sum).abs() <= 0.51 * unit, "{}: {got} × {unit} != {sum}", kernels.name);
            }
        }
    }

    #[test]
    fn bytes_are_the_rounded_values(seed: u64, len in 0usize..70) {
        let values: Vec<f32> = bytes(seed, len).into_iter().map(|byte| f32::from(byte) - 100.0).collect();
        for kernels in Kernels::available() {
            let mut got = vec![0; len];
            // SAFETY: plain Rust; the instruction set was detected.
            let step = unsafe { (kernels.to_bytes)(&values, &mut got) };
            for (byte, value) in got.iter().zip(&values) {
                prop_assert!((f32::from(*byte) * step - value).abs() <= 0.51 * step, "{}", kernels.name);
            }
        }
    }
}

#[test]
#[should_panic(expected = "whole blocks")]
fn part_of_a_block_is_refused() {
    let terms = Terms {
        base: 0.0,
        scale: 1.0,
        error: 0.0,
        threshold: 0.0,
    };
    scan(&[0; 200], &[0; STRIP_TABLE], &terms, &mut Estimates::new());
}

#[test]
#[should_panic(expected = "beyond the codes")]
fn a_row_of_bytes_beyond_the_codes_is_refused() {
    byte_products(&[1; 16], &[0; 32], 16, &[2], &mut [0]);
}
