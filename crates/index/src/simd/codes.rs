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

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::*;

    /// # Safety
    /// `B` blocks are readable behind `blocks`, `strips` strips of the table behind `table`; the instruction set is present.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    unsafe fn sums<const B: usize>(blocks: *const u8, table: *const i8, strips: usize) -> [__m512i; B] {
        let step = block_bytes(strips);
        let low = _mm512_set1_epi8(15);
        // Which of the four tables of a half strip a byte is looked up in.
        let select = _mm512_set1_epi32(0x3020_1000);
        let ones = _mm512_set1_epi8(1);
        let mut sums = [[_mm512_setzero_si512(); 2]; B];
        for strip in 0..strips {
            // SAFETY: promised by the caller.
            let halves = unsafe {
                let at = table.add(strip * STRIP_TABLE);
                [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())]
            };
            for block in 0..B {
                // SAFETY: promised by the caller.
                let codes = unsafe { _mm512_loadu_si512(blocks.add(block * step + strip * STRIP_BYTES).cast()) };
                // (codes & low) | select
                let first = _mm512_ternarylogic_epi32::<0xEA>(codes, low, select);
                let second = _mm512_ternarylogic_epi32::<0xEA>(_mm512_srli_epi16::<4>(codes), low, select);
                let sum = &mut sums[block];
                sum[0] = _mm512_dpbusd_epi32(sum[0], ones, _mm512_permutexvar_epi8(first, halves[0]));
                sum[1] = _mm512_dpbusd_epi32(sum[1], ones, _mm512_permutexvar_epi8(second, halves[1]));
            }
        }
        sums.map(|[a, b]| _mm512_add_epi32(a, b))
    }

    /// # Safety
    /// As promised by [`Kernels::scan`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    unsafe fn some<const B: usize>(blocks: *const u8, table: &[i8], terms: &Terms, first: usize, out: &mut Estimates) {
        let strips = table.len() / STRIP_TABLE;
        // SAFETY: promised by the caller; factors follow the strips of each block, and `out` has room for every block.
        unsafe {
            for (index, sum) in sums::<B>(blocks, table.as_ptr(), strips).into_iter().enumerate() {
                let factors = blocks
                    .add(index * block_bytes(strips) + strips * STRIP_BYTES)
                    .cast::<f32>();
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(terms.scale));
                let constant = _mm512_add_ps(_mm512_loadu_ps(factors.add(16)), _mm512_set1_ps(terms.base));
                let estimate = _mm512_fmadd_ps(_mm512_loadu_ps(factors), scaled, constant);
                let error = _mm512_loadu_ps(factors.add(32));
                let bound = _mm512_fmadd_ps(error, _mm512_set1_ps(terms.error), estimate);
                let block = first + index;
                _mm512_storeu_ps(out.estimates.as_mut_ptr().add(block * BLOCK_ROWS), estimate);
                _mm512_storeu_ps(out.bounds.as_mut_ptr().add(block * BLOCK_ROWS), bound);
                out.passing[block] = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(bound, _mm512_set1_ps(terms.threshold));
            }
        }
    }

    /// # Safety
    /// As promised by [`Kernels::scan`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    unsafe fn scan(blocks: &[u8], table: &[i8], terms: &Terms, out: &mut Estimates) {
        let step = block_bytes(table.len() / STRIP_TABLE);
        let count = blocks.len() / step;
        let mut block = 0;
        // Two at a time: each load of the table serves both.
        while block + 2 <= count {
            // SAFETY: both blocks lie in `blocks`.
            unsafe { some::<2>(blocks.as_ptr().add(block * step), table, terms, block, out) };
            block += 2;
        }
        if block < count {
            // SAFETY: the block lies in `blocks`.
            unsafe { some::<1>(blocks.as_ptr().add(block * step), table, terms, block, out) };
        }
    }

    /// # Safety
    /// `dim` bytes are readable behind the query and each row; the instruction set is present.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn rows<const R: usize>(query: *const i8, rows: [*const u8; R], dim: usize) -> [i32; R] {
        let mut sums = [_mm512_setzero_si512(); R];
        let mut at = 0;
        // SAFETY: all reads are below `dim`; lanes that are masked out are not read.
        unsafe {
            while at + 64 <= dim {
                let part = _mm512_loadu_si512(query.add(at).cast());
                for r in 0..R {
                    sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_loadu_si512(rows[r].add(at).cast()), part);
                }
                at += 64;
            }
            if at < dim {
                let mask = (1u64 << (dim - at)) - 1;
                let part = _mm512_maskz_loadu_epi8(mask, query.add(at));
                for r in 0..R {
                    let row = _mm512_maskz_loadu_epi8(mask, rows[r].add(at).cast());
                    sums[r] = _mm512_dpbusd_epi32(sums[r], row, part);
                }
            }
        }
        sums.map(|sum| _mm512_reduce_add_epi32(sum))
    }

    /// # Safety
    /// As promised by [`Kernels::products`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn products(query: &[i8], data: &[u8], stride: usize, ids: &[u32], out: &mut [i32]) {
        let row = |id: u32| data.as_ptr().wrapping_add(id as usize * stride);
        let (groups, rest) = ids.as_chunks::<4>();
        for (index, group) in groups.iter().enumerate() {
            // SAFETY: promised by the caller.
            let sums = unsafe { rows::<4>(query.as_ptr(), group.map(row), query.len()) };
            out[index * 4..][..4].copy_from_slice(&sums);
        }
        for (index, id) in rest.iter().enumerate() {
            // SAFETY: promised by the caller.
            let [sum] = unsafe { rows::<1>(query.as_ptr(), [row(*id)], query.len()) };
            out[groups.len() * 4 + index] = sum;
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn rotate(values: &mut [f32], factors: &[f32], window: usize) {
        rotate_plain(values, factors, window);
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn fill_table(values: &[f32], bits: usize, table: &mut [i8]) -> f32 {
        fill_table_plain(values, bits, table)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn to_bytes(values: &[f32], bytes: &mut [i8]) -> f32 {
        to_bytes_plain(values, bytes)
    }

    pub(super) fn kernels() -> Kernels {
        Kernels {
            name: "avx512",
            scan,
            products,
            rotate,
            fill_table,
            to_bytes,
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::*;

    /// The sums of eight rows.
    ///
    /// # Safety
    /// `strips` half strips are readable behind `codes`, one every `STRIP_BYTES`, and as much of the table; the instruction set
    /// is present.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn sums(codes: *const u8, table: *const i8, strips: usize) -> __m256i {
        let low = _mm256_set1_epi8(15);
        let mut sum = _mm256_setzero_si256();
        for strip in 0..strips {
            // SAFETY: promised by the caller.
            let codes = unsafe { _mm256_loadu_si256(codes.add(strip * STRIP_BYTES).cast()) };
            for half in 0..2 {
                let shifted = if half == 0 {
                    codes
                } else {
                    _mm256_srli_epi16::<4>(codes)
                };
                let nibbles = _mm256_and_si256(shifted, low);
                let mut entries = _mm256_setzero_si256();
                for group in 0..4 {
                    // A set high bit makes the lookup 0: only the bytes of this group are looked up.
                    let others = _mm256_set1_epi32((0x8080_8080u32 & !(0xFF << (8 * group))) as i32);
                    // SAFETY: promised by the caller.
                    let entry = unsafe {
                        let at = table.add(strip * STRIP_TABLE + half * 64 + group * 16);
                        _mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast()))
                    };
                    entries = _mm256_or_si256(entries, _mm256_shuffle_epi8(entry, _mm256_or_si256(nibbles, others)));
                }
                let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), entries);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
        sum
    }

    /// # Safety
    /// As promised by [`Kernels::scan`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn scan(blocks: &[u8], table: &[i8], terms: &Terms, out: &mut Estimates) {
        let strips = table.len() / STRIP_TABLE;
        for (index, block) in blocks.chunks_exact(block_bytes(strips)).enumerate() {
            let mut all = [0; BLOCK_ROWS];
            for half in 0..2 {
                // SAFETY: the strips of the block and of the table are there; `all` has room for both halves.
                unsafe {
                    let sums = sums(block.as_ptr().add(half * 32), table.as_ptr(), strips);
                    _mm256_storeu_si256(all.as_mut_ptr().add(half * 8).cast(), sums);
                }
            }
            estimate(&block[strips * STRIP_BYTES..], &all, terms, index, out);
        }
    }

    /// # Safety
    /// As promised by [`Kernels::products`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn products(query: &[i8], data: &[u8], stride: usize, ids: &[u32], out: &mut [i32]) {
        for (id, product) in ids.iter().zip(out) {
            let row = &data[*id as usize * stride..][..query.len()];
            let mut sum = _mm256_setzero_si256();
            for (a, b) in row
                .as_chunks::<BYTE_STEP>()
                .0
                .iter()
                .zip(query.as_chunks::<BYTE_STEP>().0)
            {
                // SAFETY: both are 16 bytes.
                let (a, b) = unsafe { (_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast())) };
                // Widened first: pairs of byte products could exceed 16 bits.
                let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(a), _mm256_cvtepi8_epi16(b));
                sum = _mm256_add_epi32(sum, products);
            }
            let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
            *product = _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)));
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn rotate(values: &mut [f32], factors: &[f32], window: usize) {
        rotate_plain(values, factors, window);
    }

    #[target_feature(enable = "avx2,fma")]
    fn fill_table(values: &[f32], bits: usize, table: &mut [i8]) -> f32 {
        fill_table_plain(values, bits, table)
    }

    #[target_feature(enable = "avx2,fma")]
    fn to_bytes(values: &[f32], bytes: &mut [i8]) -> f32 {
        to_bytes_plain(values, bytes)
    }

    pub(super) fn kernels() -> Kernels {
        Kernels {
            name: "avx2",
            scan,
            products,
            rotate,
            fill_table,
            to_bytes,
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::*;

    /// The sums of four rows.
    ///
    /// # Safety
    /// `strips` quarters of strips are readable behind `codes`, one every `STRIP_BYTES`, and as much of the table.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sums(codes: *const u8, table: *const i8, strips: usize) -> int32x4_t {
        let select = vreinterpretq_u8_u32(vdupq_n_u32(0x3020_1000));
        let mut sum = vdupq_n_s32(0);
        for strip in 0..strips {
            // SAFETY: promised by the caller.
            let (codes, first, second) = unsafe {
                let at = table.add(strip * STRIP_TABLE).cast::<u8>();
                (
                    vld1q_u8(codes.add(strip * STRIP_BYTES)),
                    vld1q_u8_x4(at),
                    vld1q_u8_x4(at.add(64)),
                )
            };
            let low = vorrq_u8(vandq_u8(codes, vdupq_n_u8(15)), select);
            let high = vorrq_u8(vshrq_n_u8::<4>(codes), select);
            for entries in [vqtbl4q_u8(first, low), vqtbl4q_u8(second, high)] {
                sum = vpadalq_s16(sum, vpaddlq_s8(vreinterpretq_s8_u8(entries)));
            }
        }
        sum
    }

    /// # Safety
    /// As promised by [`Kernels::scan`].
    #[target_feature(enable = "neon")]
    unsafe fn scan(blocks: &[u8], table: &[i8], terms: &Terms, out: &mut Estimates) {
        let strips = table.len() / STRIP_TABLE;
        for (index, block) in blocks.chunks_exact(block_bytes(strips)).enumerate() {
            let mut all = [0; BLOCK_ROWS];
            for quarter in 0..4 {
                // SAFETY: the strips of the block and of the table are there; `all` has room for all quarters.
                unsafe {
                    let sums = sums(block.as_ptr().add(quarter * 16), table.as_ptr(), strips);
                    vst1q_s32(all.as_mut_ptr().add(quarter * 4), sums);
                }
            }
            estimate(&block[strips * STRIP_BYTES..], &all, terms, index, out);
        }
    }

    /// # Safety
    /// As promised by [`Kernels::products`].
    #[target_feature(enable = "neon")]
    unsafe fn products(query: &[i8], data: &[u8], stride: usize, ids: &[u32], out: &mut [i32]) {
        for (id, product) in ids.iter().zip(out) {
            let row = &data[*id as usize * stride..][..query.len()];
            let mut sum = vdupq_n_s32(0);
            for (a, b) in row
                .as_chunks::<BYTE_STEP>()
                .0
                .iter()
                .zip(query.as_chunks::<BYTE_STEP>().0)
            {
                // SAFETY: both are 16 bytes.
                let (a, b) = unsafe { (vld1q_u8(a.as_ptr()), vld1q_s8(b.as_ptr())) };
                let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
                let high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(a)));
                let (left, right) = (vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b)));
                sum = vmlal_s16(sum, vget_low_s16(low), vget_low_s16(left));
                sum = vmlal_s16(sum, vget_high_s16(low), vget_high_s16(left));
                sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(right));
                sum = vmlal_s16(sum, vget_high_s16(high), vget_high_s16(right));
            }
            *product = vaddvq_s32(sum);
        }
    }

    #[target_feature(enable = "neon")]
    fn rotate(values: &mut [f32], factors: &[f32], window: usize) {
        rotate_plain(values, factors, window);
    }

    #[target_feature(enable = "neon")]
    fn fill_table(values: &[f32], bits: usize, table: &mut [i8]) -> f32 {
        fill_table_plain(values, bits, table)
    }

    #[target_feature(enable = "neon")]
    fn to_bytes(values: &[f32], bytes: &mut [i8]) -> f32 {
        to_bytes_plain(values, bytes)
    }

    pub(super) fn kernels() -> Kernels {
        Kernels {
            name: "neon",
            scan,
            products,
            rotate,
            fill_table,
            to_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
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
                    let of = |place: usize| (2 * (at % 16 >> (place * bits) & ((1 << bits) - 1)) + 1) as f32 - (1 << bits) as f32;
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
}
