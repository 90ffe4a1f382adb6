//! The registers of each instruction set, behind one interface.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// One register of an instruction set. All functions need the set to be present.
pub(super) trait Lanes {
    /// Floats of a register.
    const WIDTH: usize;
    type Register: Copy;
    unsafe fn zero() -> Self::Register;
    /// Reads `WIDTH` floats.
    unsafe fn load(from: *const f32) -> Self::Register;
    unsafe fn add(a: Self::Register, b: Self::Register) -> Self::Register;
    unsafe fn sub(a: Self::Register, b: Self::Register) -> Self::Register;
    unsafe fn abs(a: Self::Register) -> Self::Register;
    /// a × b + c
    unsafe fn mul_add(a: Self::Register, b: Self::Register, c: Self::Register) -> Self::Register;
    unsafe fn sum(a: Self::Register) -> f32;

    /// Reads `count` < `WIDTH` floats, the others are 0, which changes none of the three sums.
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self::Register {
        let mut padded = [0f32; 16];
        // SAFETY: the caller promises `count` readable floats, and `count` < `WIDTH` ≤ 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
            Self::load(padded.as_ptr())
        }
    }

    /// A hint that a cache line is needed soon. Any address is allowed.
    #[inline(always)]
    unsafe fn prefetch(_line: *const f32) {}
}

/// Eight floats in plain Rust, which the compiler turns into whatever the target's baseline offers.
pub(super) struct Plain;

// SAFETY: only `load` touches memory; its caller promises `WIDTH` readable floats.
impl Lanes for Plain {
    const WIDTH: usize = 8;
    type Register = [f32; 8];
    #[inline(always)]
    unsafe fn zero() -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn abs(a: [f32; 8]) -> [f32; 8] {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Not `f32::mul_add`: without the instruction it is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; 8]) -> f32 {
        ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]))
    }
}

/// Implements [`Lanes`] by one intrinsic per function.
macro_rules! lanes {
    ($lanes:ident, $register:ty, $width:literal, zero $zero:expr, load $load:ident, add $add:ident, sub $sub:ident,
     abs $abs:expr, mul_add $mul_add:expr, sum $sum:expr, $($more:item)*) => {
        pub(super) struct $lanes;

        // SAFETY: only `load`, `load_part` and `prefetch` take addresses, and their callers promise what is readable;
        // the instruction set is present, which every caller promises too.
        impl Lanes for $lanes {
            const WIDTH: usize = $width;
            type Register = $register;
            #[inline(always)]
            unsafe fn zero() -> $register { unsafe { $zero } }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> $register { unsafe { $load(from) } }
            #[inline(always)]
            unsafe fn add(a: $register, b: $register) -> $register { unsafe { $add(a, b) } }
            #[inline(always)]
            unsafe fn sub(a: $register, b: $register) -> $register { unsafe { $sub(a, b) } }
            #[inline(always)]
            unsafe fn abs(a: $register) -> $register { unsafe { $abs(a) } }
            #[inline(always)]
            unsafe fn mul_add(a: $register, b: $register, c: $register) -> $register { unsafe { $mul_add(a, b, c) } }
            #[inline(always)]
            unsafe fn sum(a: $register) -> f32 { unsafe { $sum(a) } }
            $($more)*
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(Avx512, __m512, 16, zero _mm512_setzero_ps(), load _mm512_loadu_ps, add _mm512_add_ps, sub _mm512_sub_ps,
    abs _mm512_abs_ps, mul_add _mm512_fmadd_ps, sum _mm512_reduce_add_ps,
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m512 {
        // Lanes that are masked out are not read at all.
        unsafe { _mm512_maskz_loadu_ps((1u16 << count) - 1, from) }
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
);

#[cfg(target_arch = "x86_64")]
lanes!(Avx2, __m256, 8, zero _mm256_setzero_ps(), load _mm256_loadu_ps, add _mm256_add_ps, sub _mm256_sub_ps,
    abs |a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a), mul_add _mm256_fmadd_ps,
    sum |a: __m256| {
        let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    },
    #[inline(always)]
    unsafe fn prefetch(line: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
);

#[cfg(target_arch = "aarch64")]
lanes!(Neon, float32x4_t, 4, zero vdupq_n_f32(0.0), load vld1q_f32, add vaddq_f32, sub vsubq_f32,
    abs vabsq_f32, mul_add |a, b, c| vfmaq_f32(c, a, b), sum vaddvq_f32,);
