//! AVX-512 with VBMI (a lookup in four tables at once) and VNNI (four products and their sum at once).

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
        for (block, sum) in sums.iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            let codes = unsafe { _mm512_loadu_si512(blocks.add(block * step + strip * STRIP_BYTES).cast()) };
            // (codes & low) | select
            let first = _mm512_ternarylogic_epi32::<0xEA>(codes, low, select);
            let second = _mm512_ternarylogic_epi32::<0xEA>(_mm512_srli_epi16::<4>(codes), low, select);
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
