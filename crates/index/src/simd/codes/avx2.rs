//! AVX2: sixteen entries are looked up at a time, for the bytes of one group.

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
