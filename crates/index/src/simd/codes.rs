//! Kernels over codes, chosen once at run time like those over floats: AVX-512 (VBMI, VNNI), AVX2, NEON or plain Rust.
//!
//! Bit codes of 16 rows stand in a block, so that a scan reads one stream of bytes:
//!
//! ```text
//! block: strip 0 │ strip 1 │ … │ slope: f32 × 16 │ constant: f32 × 16 │ error: f32 × 16
//! strip: 64 bytes = 16 rows × 4 bytes; byte b of a row: low nibble = group b, high nibble = group 4 + b of the strip
//! table: for each strip 8 groups × 16 entries: what a nibble of the group adds to the sum
//! ```
//!
//! A row's sum of table entries is exact in integers, so every instruction set finds the same one.

use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

/// Rows of a block.
pub(crate) const BLOCK_ROWS: usize = 16;
/// Bytes of a strip.
pub(crate) const STRIP_BYTES: usize = 64;
/// Table entries for a strip.
pub(crate) const STRIP_TABLE: usize = 128;
/// Bytes of the three factors of a block's rows.
pub(crate) const FACTOR_BYTES: usize = 3 * FACTOR;
/// Most blocks of one call of [`scan`].
pub(crate) const CHUNK_BLOCKS: usize = 16;

const FACTOR: usize = BLOCK_ROWS * size_of::<f32>();

/// What all rows of one call share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Added to every estimate.
    pub base: f32,
    /// What one unit of the table is worth.
    pub scale: f32,
    /// What a row's error counts.
    pub error: f32,
    /// Rows whose bound is less do not pass.
    pub threshold: f32,
}

/// What a scan found out about the rows of up to [`CHUNK_BLOCKS`] blocks.
#[derive(Debug, Clone)]
pub(crate) struct Estimates {
    /// base + slope × sum × scale + constant
    pub estimates: [f32; CHUNK_BLOCKS * BLOCK_ROWS],
    /// estimate + error × the row's error
    pub bounds: [f32; CHUNK_BLOCKS * BLOCK_ROWS],
    /// For each block the rows whose bound reaches the threshold, one bit each.
    pub passing: [u16; CHUNK_BLOCKS],
}

impl Estimates {
    pub(crate) fn new() -> Self {
        Self {
            estimates: [0.0; CHUNK_BLOCKS * BLOCK_ROWS],
            bounds: [0.0; CHUNK_BLOCKS * BLOCK_ROWS],
            passing: [0; CHUNK_BLOCKS],
        }
    }
}

/// Bytes of a block of this many strips.
pub(crate) const fn block_bytes(strips: usize) -> usize {
    strips * STRIP_BYTES + FACTOR_BYTES
}

/// Estimates the rows of whole blocks with `table.len() / STRIP_TABLE` strips each (asserted).
pub(crate) fn scan(blocks: &[u8], table: &[i8], terms: &Terms, out: &mut Estimates) {
    KERNELS.scan(blocks, table, terms, out);
}

/// Inner products of `query` with the rows `ids` of `data`, which begin every `stride` bytes, into `out`.
pub(crate) fn byte_products(query: &[i8], data: &[u8], stride: usize, ids: &[u32], out: &mut [i32]) {
    KERNELS.products(query, data, stride, ids, out);
}

/// Multiplies by each row of `factors` in turn and mixes: the first `window` values after the first, third … row, the last
/// `window` (a power of two, asserted) after the others.
pub(crate) fn rotate(values: &mut [f32], factors: &[f32], window: usize) {
    assert!(
        window.is_power_of_two() && window <= values.len(),
        "a window of the values"
    );
    // SAFETY: plain Rust; the instruction set was detected.
    unsafe { (KERNELS.rotate)(values, factors, window) }
}

/// Fills `table` for the values of a query, `bits` (1, 2 or 4) of the codes being a coordinate, and returns what one unit of its entries
/// is worth. A code with the bits of the number n stands for 2 n + 1 − 2^bits.
pub(crate) fn fill_table(values: &[f32], bits: usize, table: &mut [i8]) -> f32 {
    assert!(matches!(bits, 1 | 2 | 4), "codes of 1, 2 or 4 bits");
    // SAFETY: plain Rust; the instruction set was detected.
    unsafe { (KERNELS.fill_table)(values, bits, table) }
}

/// Whole numbers from -127 to 127 for all values, and what one is worth. `bytes` is as long as `values`.
pub(crate) fn to_bytes(values: &[f32], bytes: &mut [i8]) -> f32 {
    // SAFETY: plain Rust; the instruction set was detected.
    unsafe { (KERNELS.to_bytes)(values, bytes) }
}

/// A hint that the `len` values of `data` from `at` are needed soon. They need not exist.
#[inline]
pub(crate) fn prefetch<T>(data: &[T], at: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len * size_of::<T>()).step_by(64) {
        let address = data.as_ptr().wrapping_add(at).cast::<i8>().wrapping_add(line);
        // SAFETY: a prefetch reads nothing; any address is allowed.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at, len);
}

static KERNELS: LazyLock<Kernels> = LazyLock::new(|| Kernels::available().swap_remove(0));

type ScanKernel = unsafe fn(&[u8], &[i8], &Terms, &mut Estimates);
type ProductsKernel = unsafe fn(&[i8], &[u8], usize, &[u32], &mut [i32]);
type RotateKernel = unsafe fn(&mut [f32], &[f32], usize);
type TableKernel = unsafe fn(&[f32], usize, &mut [i8]) -> f32;
type BytesKernel = unsafe fn(&[f32], &mut [i8]) -> f32;

/// The kernels of one instruction set. A value exists only if this CPU has the set.
struct Kernels {
    #[cfg_attr(not(test), expect(dead_code, reason = "said by failing tests"))]
    name: &'static str,
    scan: ScanKernel,
    products: ProductsKernel,
    rotate: RotateKernel,
    fill_table: TableKernel,
    to_bytes: BytesKernel,
}

impl Kernels {
    /// The kernels this CPU can run, fastest first; the plain ones are always the last.
    fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if avx512 && is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vnni") {
                all.push(avx512::kernels());
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(avx2::kernels());
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(neon::kernels());
        }
        all.push(plain::kernels());
        all
    }

    fn scan(&self, blocks: &[u8], table: &[i8], terms: &Terms, out: &mut Estimates) {
        let block = block_bytes(table.len() / STRIP_TABLE);
        // The kernels read through raw pointers: these checks are what makes that sound.
        assert!(table.len().is_multiple_of(STRIP_TABLE), "whole strips");
        assert!(
            blocks.len().is_multiple_of(block) && blocks.len() / block <= CHUNK_BLOCKS,
            "whole blocks, and room for their estimates"
        );
        // SAFETY: every strip of every block and of the table is there, `out` has room (asserted above); the
        // instruction set was detected.
        unsafe { (self.scan)(blocks, table, terms, out) }
    }

    fn products(&self, query: &[i8], data: &[u8], stride: usize, ids: &[u32], out: &mut [i32]) {
        let Some(last) = ids.iter().max() else { return };
        let end = (*last as usize)
            .checked_mul(stride)
            .and_then(|at| at.checked_add(query.len()));
        assert!(
            end.is_some_and(|end| end <= data.len()),
            "row {last} is beyond the codes"
        );
        assert!(out.len() >= ids.len(), "no room for the products");
        assert!(query.len().is_multiple_of(BYTE_STEP), "codes are padded");
        // SAFETY: every row named by `ids` lies within `data`, `out` has room for all (asserted above); the instruction
        // set was detected.
        unsafe { (self.products)(query, data, stride, ids, out) }
    }
}

/// Rows of byte codes are a multiple of this long.
pub(crate) const BYTE_STEP: usize = 16;

#[inline(always)]
fn rotate_plain(values: &mut [f32], factors: &[f32], window: usize) {
    let len = values.len();
    for (round, factors) in factors.chunks_exact(len).enumerate() {
        for (value, factor) in values.iter_mut().zip(factors) {
            *value *= factor;
        }
        let start = if round % 2 == 0 { 0 } else { len - window };
        mix(&mut values[start..start + window]);
    }
}

/// The Hadamard transform, not normalised.
#[inline(always)]
fn mix(values: &mut [f32]) {
    let (sixteens, rest) = values.as_chunks_mut::<16>();
    let mut half = if sixteens.is_empty() { 1 } else { 16 };
    for chunk in sixteens {
        let mut now = *chunk;
        for half in [1, 2, 4, 8] {
            let before = now;
            for at in 0..16 {
                let other = before[at ^ half];
                now[at] = if at & half == 0 {
                    before[at] + other
                } else {
                    other - before[at]
                };
            }
        }
        *chunk = now;
    }
    assert!(rest.is_empty() || half == 1, "a power of two");
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// Adding this to a small float leaves its rounded value in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The largest number of a table, and of the bytes of a vector.
const BYTE_MAX: f32 = 127.0;

#[inline(always)]
fn fill_table_plain(values: &[f32], bits: usize, table: &mut [i8]) -> f32 {
    match bits {
        1 => fill_table_of::<1, 4>(values, table),
        2 => fill_table_of::<2, 2>(values, table),
        _ => fill_table_of::<4, 1>(values, table),
    }
}

/// `N` coordinates of `BITS` bits are a group.
#[inline(always)]
fn fill_table_of<const BITS: usize, const N: usize>(values: &[f32], table: &mut [i8]) -> f32 {
    let lowest = 1.0 - (1 << BITS) as f32;
    let groups = values.as_chunks::<N>().0;
    let largest = groups
        .iter()
        .fold(0f32, |max, group| max.max(group.iter().map(|value| value.abs()).sum()));
    let unit = largest * -lowest / BYTE_MAX;
    let scale = if unit > f32::MIN_POSITIVE { unit.recip() } else { 0.0 };
    for (group, entries) in groups.iter().zip(table.as_chunks_mut::<16>().0) {
        let mut sums = [0f32; 16];
        for (at, value) in group.iter().enumerate() {
            let value = value * scale;
            for (nibble, sum) in sums.iter_mut().enumerate() {
                let number = nibble >> (at * BITS) & ((1 << BITS) - 1);
                *sum += (2 * number) as f32 * value + lowest * value;
            }
        }
        *entries = sums.map(|sum| (sum + ROUND).to_bits() as i8);
    }
    unit
}

#[inline(always)]
fn to_bytes_plain(values: &[f32], bytes: &mut [i8]) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    // Sixteen maxima side by side: one after the other would wait for each.
    let mut maxima = [0f32; 16];
    for chunk in chunks {
        for (max, value) in maxima.iter_mut().zip(chunk) {
            let size = value.abs();
            *max = if size > *max { size } else { *max };
        }
    }
    let largest = maxima.iter().chain(rest).fold(0f32, |max, value| max.max(value.abs()));
    let step = largest / BYTE_MAX;
    let scale = if step > f32::MIN_POSITIVE { step.recip() } else { 0.0 };
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = (value * scale + ROUND).to_bits() as i8;
    }
    step
}

/// The estimates of a block from its sums, for instruction sets whose compiler does this well enough.
#[inline(always)]
fn estimate(factors: &[u8], sums: &[i32; BLOCK_ROWS], terms: &Terms, block: usize, out: &mut Estimates) {
    let factor = |at: usize| {
        factors[at..]
            .first_chunk::<4>()
            .map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
    };
    let mut passing = 0;
    for (row, sum) in sums.iter().enumerate() {
        let (slope, constant, error) = (factor(row * 4), factor(FACTOR + row * 4), factor(2 * FACTOR + row * 4));
        let estimate = slope * (*sum as f32 * terms.scale) + (constant + terms.base);
        let bound = estimate + error * terms.error;
        out.estimates[block * BLOCK_ROWS + row] = estimate;
        out.bounds[block * BLOCK_ROWS + row] = bound;
        passing |= u16::from(bound >= terms.threshold) << row;
    }
    out.passing[block] = passing;
}

mod plain {
    use super::*;

    // SAFETY (all): plain Rust, nothing to promise.
    unsafe fn scan(blocks: &[u8], table: &[i8], terms: &Terms, out: &mut Estimates) {
        let strips = table.len() / STRIP_TABLE * STRIP_BYTES;
        for (index, block) in blocks.chunks_exact(strips + FACTOR_BYTES).enumerate() {
            let (codes, factors) = block.split_at(strips);
            let mut sums = [0; BLOCK_ROWS];
            for (strip, table) in codes.chunks_exact(STRIP_BYTES).zip(table.chunks_exact(STRIP_TABLE)) {
                for (row, bytes) in strip.chunks_exact(4).enumerate() {
                    for (group, byte) in bytes.iter().enumerate() {
                        let (low, high) = (usize::from(byte & 15), usize::from(byte >> 4));
                        sums[row] += i32::from(table[group * 16 + low]) + i32::from(table[64 + group * 16 + high]);
                    }
                }
            }
            estimate(factors, &sums, terms, index, out);
        }
    }

    unsafe fn products(query: &[i8], data: &[u8], stride: usize, ids: &[u32], out: &mut [i32]) {
        for (id, product) in ids.iter().zip(out) {
            let row = &data[*id as usize * stride..][..query.len()];
            *product = row.iter().zip(query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        }
    }

    unsafe fn rotate(values: &mut [f32], factors: &[f32], window: usize) {
        rotate_plain(values, factors, window);
    }

    unsafe fn fill_table(values: &[f32], bits: usize, table: &mut [i8]) -> f32 {
        fill_table_plain(values, bits, table)
    }

    unsafe fn to_bytes(values: &[f32], bytes: &mut [i8]) -> f32 {
        to_bytes_plain(values, bytes)
    }

    pub(super) fn kernels() -> Kernels {
        Kernels {
            name: "plain",
            scan,
            products,
            rotate,
            fill_table,
            to_bytes,
        }
    }
}
