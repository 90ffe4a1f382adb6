//! Kernels over `f32` vectors, chosen once at run time: AVX-512, AVX2 + FMA, NEON or plain Rust.
//!
//! Owns: all `unsafe` of the product. Does not own: what a score means (`metric`) or which rows to look at (`flat`, `ivf`).
//!
//! Every kernel is written once over `Lanes` and compiled once per instruction set, so the sets cannot drift apart.
//! A pair's result depends on the two vectors alone, never on its neighbours in the call: a row scored in a group of
//! four and the same row scored by itself give the same bits. So an answer stays the same when a row moves from
//! the memtable to a segment.

use std::sync::LazyLock;

use lanes::*;

pub(crate) mod codes;
mod lanes;

#[cfg(test)]
mod tests;

/// Rows scored together: each load of the query serves four rows, and 4 × 2 sums hide the latency of the additions.
const GROUP: usize = 4;
/// Floats of one cache line, the unit of a prefetch.
const LINE: usize = 16;

/// Name of the instruction set in use: `avx512`, `avx2`, `neon` or `plain`.
pub fn name() -> &'static str {
    KERNELS.name
}

/// Inner product of two vectors of equal length (asserted).
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    KERNELS.pair(KERNELS.dot, a, b)
}

/// Squared Euclidean distance of two vectors of equal length (asserted).
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    KERNELS.pair(KERNELS.l2_squared, a, b)
}

/// Sum of absolute differences of two vectors of equal length (asserted).
pub fn l1(a: &[f32], b: &[f32]) -> f32 {
    KERNELS.pair(KERNELS.l1, a, b)
}

/// [`dot`] of `query` with the rows `ids` of `data` (rows of the query's length, one after the other), into `out`.
pub(crate) fn dot_rows(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
    KERNELS.rows(KERNELS.dot, query, data, ids, out);
}

/// [`l2_squared`] of `query` with the rows `ids` of `data`, into `out`.
pub(crate) fn l2_squared_rows(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
    KERNELS.rows(KERNELS.l2_squared, query, data, ids, out);
}

/// [`l1`] of `query` with the rows `ids` of `data`, into `out`.
pub(crate) fn l1_rows(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
    KERNELS.rows(KERNELS.l1, query, data, ids, out);
}

/// Inner products of all rows of `a` with all rows of `b`: `out[i * rows of b + j]`. Up to three times as fast as
/// pair by pair, because each loaded value is used four times.
pub(crate) fn products(a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
    KERNELS.products(a, b, dim, out);
}

static KERNELS: LazyLock<Kernels> = LazyLock::new(Kernels::fastest);

/// Scores `ids.len()` rows of the second slice against the first.
type RowsKernel = unsafe fn(&[f32], &[f32], &[u32], &mut [f32]);
/// Fills the matrix of [`products`].
type ProductsKernel = unsafe fn(&[f32], &[f32], usize, &mut [f32]);

/// The kernels of one instruction set. A value exists only if this CPU has the set.
struct Kernels {
    name: &'static str,
    dot: RowsKernel,
    l2_squared: RowsKernel,
    l1: RowsKernel,
    products: ProductsKernel,
}

impl Kernels {
    fn fastest() -> Self {
        Self::available().swap_remove(0)
    }

    /// The kernels this CPU can run, fastest first; the plain ones are always the last.
    fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
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

    fn pair(&self, kernel: RowsKernel, a: &[f32], b: &[f32]) -> f32 {
        let mut out = [0.0];
        assert_eq!(a.len(), b.len(), "vectors of one space have one length");
        self.rows(kernel, a, b, &[0], &mut out);
        out[0]
    }

    fn rows(&self, kernel: RowsKernel, query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
        let Some(last) = ids.iter().max() else { return };
        // The kernel reads through raw pointers: these two checks are what makes that sound.
        let end = (*last as usize + 1).checked_mul(query.len());
        assert!(
            end.is_some_and(|end| end <= data.len()),
            "row {last} is beyond the data"
        );
        assert!(out.len() >= ids.len(), "no room for the scores");
        // SAFETY: every row named by `ids` lies within `data`, `out` has room for all scores (asserted above), and
        // a `Kernels` is made only after its instruction set was detected.
        unsafe { kernel(query, data, ids, out) }
    }

    fn products(&self, a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
        assert!(
            dim > 0 && a.len().is_multiple_of(dim) && b.len().is_multiple_of(dim),
            "whole rows"
        );
        assert!(
            out.len() >= (a.len() / dim) * (b.len() / dim),
            "no room for the products"
        );
        // SAFETY: both sides are whole rows of `dim` and `out` has room for all pairs (asserted above); the
        // instruction set was detected.
        unsafe { (self.products)(a, b, dim, out) }
    }
}

/// What one pair of coordinates adds to the sum.
trait Term {
    unsafe fn add<L: Lanes>(sum: L::Register, a: L::Register, b: L::Register) -> L::Register;
}

struct Product;
struct SquaredDifference;
struct AbsoluteDifference;

// SAFETY (all three): only register arithmetic of `L`, whose instruction set the caller vouches for.
impl Term for Product {
    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L::Register, a: L::Register, b: L::Register) -> L::Register {
        unsafe { L::mul_add(a, b, sum) }
    }
}

impl Term for SquaredDifference {
    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L::Register, a: L::Register, b: L::Register) -> L::Register {
        unsafe {
            let difference = L::sub(a, b);
            L::mul_add(difference, difference, sum)
        }
    }
}

impl Term for AbsoluteDifference {
    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L::Register, a: L::Register, b: L::Register) -> L::Register {
        unsafe { L::add(sum, L::abs(L::sub(a, b))) }
    }
}

/// The sums of `R` rows against the query, while the cache fetches `next`. The order of the additions is the same for every `R`.
///
/// # Safety
/// `dim` floats are readable behind `query` and each of `rows`; the instruction set of `L` is present.
#[inline(always)]
unsafe fn sums<L: Lanes, T: Term, const R: usize>(
    query: *const f32,
    rows: [*const f32; R],
    next: [*const f32; R],
    dim: usize,
) -> [f32; R] {
    // SAFETY: all reads are at `at` .. `at + step` ≤ `dim`; `wrapping_add` of a prefetch address is never read.
    unsafe {
        let mut even = [L::zero(); R];
        let mut odd = [L::zero(); R];
        let mut at = 0;
        while at + 2 * L::WIDTH <= dim {
            let (first, second) = (L::load(query.add(at)), L::load(query.add(at + L::WIDTH)));
            for r in 0..R {
                even[r] = T::add::<L>(even[r], first, L::load(rows[r].add(at)));
                odd[r] = T::add::<L>(odd[r], second, L::load(rows[r].add(at + L::WIDTH)));
                for line in (0..2 * L::WIDTH).step_by(LINE) {
                    L::prefetch(next[r].wrapping_add(at + line));
                }
            }
            at += 2 * L::WIDTH;
        }
        if at + L::WIDTH <= dim {
            let part = L::load(query.add(at));
            for r in 0..R {
                even[r] = T::add::<L>(even[r], part, L::load(rows[r].add(at)));
            }
            at += L::WIDTH;
        }
        if at < dim {
            let part = L::load_part(query.add(at), dim - at);
            for r in 0..R {
                odd[r] = T::add::<L>(odd[r], part, L::load_part(rows[r].add(at), dim - at));
            }
        }
        let mut out = [0.0; R];
        for r in 0..R {
            out[r] = L::sum(L::add(even[r], odd[r]));
        }
        out
    }
}

/// # Safety
/// All rows named by `ids` lie in `data`, `out` is as long as `ids`, the instruction set of `L` is present.
#[inline(always)]
unsafe fn rows<L: Lanes, T: Term>(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
    let dim = query.len();
    let row = |id: u32| data.as_ptr().wrapping_add(id as usize * dim);
    let (groups, rest) = ids.as_chunks::<GROUP>();
    for (index, group) in groups.iter().enumerate() {
        let next = groups.get(index + 1).unwrap_or(group);
        // SAFETY: promised by the caller.
        let scores = unsafe { sums::<L, T, GROUP>(query.as_ptr(), group.map(row), next.map(row), dim) };
        out[index * GROUP..][..GROUP].copy_from_slice(&scores);
    }
    for (index, &id) in rest.iter().enumerate() {
        // SAFETY: promised by the caller.
        let [score] = unsafe { sums::<L, T, 1>(query.as_ptr(), [row(id)], [row(id)], dim) };
        out[groups.len() * GROUP + index] = score;
    }
}

/// The inner products of `R` × `C` rows, each loaded value used `R` or `C` times.
///
/// # Safety
/// `dim` floats are readable behind each pointer; the instruction set of `L` is present.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const C: usize>(
    a: [*const f32; R],
    b: [*const f32; C],
    dim: usize,
) -> [[f32; C]; R] {
    // SAFETY: all reads are at `at` .. `at + step` ≤ `dim`.
    unsafe {
        let mut sum = [[L::zero(); C]; R];
        let mut at = 0;
        while at + L::WIDTH <= dim {
            let mut right = [L::zero(); C];
            for c in 0..C {
                right[c] = L::load(b[c].add(at));
            }
            for r in 0..R {
                let left = L::load(a[r].add(at));
                for c in 0..C {
                    sum[r][c] = L::mul_add(left, right[c], sum[r][c]);
                }
            }
            at += L::WIDTH;
        }
        if at < dim {
            for r in 0..R {
                let left = L::load_part(a[r].add(at), dim - at);
                for c in 0..C {
                    sum[r][c] = L::mul_add(left, L::load_part(b[c].add(at), dim - at), sum[r][c]);
                }
            }
        }
        let mut out = [[0.0; C]; R];
        for r in 0..R {
            for c in 0..C {
                out[r][c] = L::sum(sum[r][c]);
            }
        }
        out
    }
}

/// # Safety
/// `a` and `b` are whole rows of `dim`, `out` has room for all pairs, the instruction set of `L` is present.
#[inline(always)]
unsafe fn all_products<L: Lanes, const R: usize>(a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
    /// Rows of `a` that stay in the first cache levels while `b` streams past them.
    const BLOCK: usize = 32;
    let width = b.len() / dim;
    for (block, a) in a.chunks(BLOCK * dim).enumerate() {
        let height = a.len() / dim;
        let mut column = 0;
        while column < width {
            let columns = if width - column >= GROUP { GROUP } else { 1 };
            let right = |c: usize| b[(column + c) * dim..][..dim].as_ptr();
            let mut row = 0;
            while row < height {
                let rows = if height - row >= R { R } else { 1 };
                let left = |r: usize| a[(row + r) * dim..][..dim].as_ptr();
                let at = |r: usize| (block * BLOCK + row + r) * width + column;
                // SAFETY: every pointer comes from a slice of `dim` floats.
                unsafe {
                    if rows == R && columns == GROUP {
                        let tile = tile::<L, R, GROUP>(std::array::from_fn(left), std::array::from_fn(right), dim);
                        for (r, products) in tile.iter().enumerate() {
                            out[at(r)..][..GROUP].copy_from_slice(products);
                        }
                    } else {
                        for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                            out[at(r) + c] = tile::<L, 1, 1>([left(r)], [right(c)], dim)[0][0];
                        }
                    }
                }
                row += rows;
            }
            column += columns;
        }
    }
}

/// Compiles all kernels for one instruction set. `$tile` rows × 4 sums must fit its registers.
macro_rules! kernels {
    ($module:ident, $lanes:ident, $tile:literal $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            // SAFETY (all four): as the generic form; the instruction set is present or this table would not exist.
            $(#[target_feature(enable = $feature)])?
            unsafe fn dot(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
                unsafe { rows::<$lanes, Product>(query, data, ids, out) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn l2_squared(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
                unsafe { rows::<$lanes, SquaredDifference>(query, data, ids, out) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn l1(query: &[f32], data: &[f32], ids: &[u32], out: &mut [f32]) {
                unsafe { rows::<$lanes, AbsoluteDifference>(query, data, ids, out) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn products(a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
                unsafe { all_products::<$lanes, $tile>(a, b, dim, out) }
            }
            pub(super) fn kernels() -> Kernels {
                Kernels { name: stringify!($module), dot, l2_squared, l1, products }
            }
        }
    };
}

kernels!(plain, Plain, 1);
#[cfg(target_arch = "x86_64")]
kernels!(avx512, Avx512, 4, "avx512f");
#[cfg(target_arch = "x86_64")]
kernels!(avx2, Avx2, 2, "avx2,fma");
#[cfg(target_arch = "aarch64")]
kernels!(neon, Neon, 4, "neon");
