//! NEON: as AVX-512, four rows at a time.

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
