//! Building an inverted file from clusters.

use super::{Factors, Ivf, List, Tuning};
use crate::bit_codes::{BitCodes, Residual};
use crate::byte_codes::ByteCodes;
use crate::graph::Graph;
use crate::kmeans::Clusters;
use crate::metric::Metric;
use crate::parallel::in_parallel;
use crate::rows::{RowSlice, Rows};
use crate::simd;
use crate::simd::codes::BLOCK_ROWS;
use crate::space::{Space, fits};
use crate::truth::quantile;

/// Rows of a list of a hybrid index, about. Measured: shorter ones are more to route to and to fetch, longer ones more to read.
const HYBRID_ROWS_PER_LIST: usize = 64;
/// Neighbours of a list on the upper levels of the graph, and lists in sight when they are looked for. A walk visits several lists in any
/// case: more neighbours make it longer and find nothing more.
const GRAPH_M: usize = 8;
const GRAPH_EF: usize = 100;
/// A row further from the mean than so many times the list's radius is an outlier …
const OUTLIER_RADII: f32 = 3.0;
/// … and so is one that is so many times as long as half of the rows: alone in its list, it would still move the centre …
const OUTLIER_LENGTHS: f32 = 10.0;
/// … but at most one row in so many: every search scores them all.
const ROWS_PER_OUTLIER: usize = 400;

impl Ivf {
    /// An index over rows and their clusters. Fastest if the rows are sorted by cluster. Rows beyond the assignment (without a vector,
    /// say) are in no list: only an exact search is sure to find them. Uses all cores.
    ///
    /// # Panics
    /// If the clusters are of another dimension, or assign more rows than there are.
    pub fn build(metric: Metric, rows: &Rows, clusters: &Clusters) -> Self {
        Self::build_routed(metric, rows, clusters, false)
    }

    /// A hybrid index: the clusters are split into lists of about 64 rows, and a graph leads to those near a query.
    /// Otherwise as [`build`](Self::build).
    ///
    /// # Panics
    /// As [`build`](Self::build).
    pub fn hybrid(metric: Metric, rows: &Rows, clusters: &Clusters) -> Self {
        Self::build_routed(metric, rows, &clusters.split(metric, rows, HYBRID_ROWS_PER_LIST), true)
    }

    fn build_routed(metric: Metric, rows: &Rows, clusters: &Clusters, routed: bool) -> Self {
        assert_eq!(clusters.centroids.dim(), rows.dim(), "clusters of the same space");
        assert!(clusters.assignment.len() <= rows.len(), "clusters of these rows");
        let order = clusters.order();
        let (groups, outliers, centre) = measure(rows.as_row_slice(), &order, &clusters.offsets());
        let space = Space::new(metric, centre);
        let bits = BitCodes::new(rows.dim(), space.padded());
        let counted: usize = groups.iter().map(|group| group.count).sum();
        let encoder = Encoder {
            rows: rows.as_row_slice(),
            order: &order,
            space: &space,
            bits,
            outliers: &outliers,
        };
        let parts = in_parallel(groups.len(), |range| encoder.encode(&groups[range]));
        let (mut means, mut blocks, mut bytes, mut lists) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut block, mut squared) = (0, 0.0);
        for part in parts {
            squared += part.squared;
            means.extend(part.means);
            blocks.extend(part.blocks);
            bytes.extend(part.bytes);
            for list in part.lists {
                lists.push(List { block, ..list });
                block += (list.end - list.start).div_ceil(BLOCK_ROWS as u32);
            }
        }
        let members = (!clusters.assignment.is_sorted()).then_some(order);
        let means = ByteCodes::of(space.padded(), means);
        let mut index = Self {
            rows: rows.len(),
            factors: Factors::new(&means, &lists),
            router: routed.then(|| {
                let all: Vec<u32> = (0..lists.len() as u32).collect();
                Graph::build(&means, &all, GRAPH_M, GRAPH_EF)
            }),
            means,
            lists,
            members,
            bits,
            blocks: blocks.into(),
            bytes: ByteCodes::of(space.padded(), bytes),
            outliers,
            tuning: Tuning {
                length: (squared / counted.max(1) as f32).sqrt(),
                ..Tuning::default()
            },
            space,
            presence: None,
        };
        index.tune(rows, clusters);
        index
    }
}

/// Rows of one list, before they are encoded.
struct Group {
    start: u32,
    end: u32,
    /// Of the rows that are no outliers.
    mean: Vec<f32>,
    /// Number of these rows.
    count: usize,
}

/// The groups, the outliers (sorted), and the mean of all other rows.
fn measure(rows: RowSlice<'_>, order: &[u32], offsets: &[u32]) -> (Vec<Group>, Vec<u32>, Vec<f32>) {
    let squares: Vec<f32> = (0..rows.len())
        .map(|row| simd::dot(rows.get(row), rows.get(row)))
        .collect();
    let long = quantile(squares.iter().copied(), 0.5) * OUTLIER_LENGTHS * OUTLIER_LENGTHS;
    let mut far: Vec<(f32, u32)> = Vec::new();
    let mut unfit = Vec::new();
    for bounds in offsets.windows(2) {
        let members = &order[bounds[0] as usize..bounds[1] as usize];
        let unfit_here: Vec<u32> = members
            .iter()
            .copied()
            .filter(|row| !fits(rows.get(*row as usize)))
            .collect();
        let mean = mean(rows, members, &unfit_here).0;
        unfit.extend(unfit_here);
        let away: Vec<f32> = members
            .iter()
            .map(|row| simd::l2_squared(rows.get(*row as usize), &mean))
            .collect();
        let usual = away.iter().filter(|away| away.is_finite()).sum::<f32>() / away.len().max(1) as f32;
        let wide = usual * OUTLIER_RADII * OUTLIER_RADII;
        for (row, away) in members.iter().zip(away) {
            let ratio = times(away, wide).max(times(squares[*row as usize], long));
            if ratio > 1.0 && ratio.is_finite() {
                far.push((ratio, *row));
            }
        }
    }
    far.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut outliers = unfit;
    outliers.extend(far.iter().take(order.len() / ROWS_PER_OUTLIER).map(|(_, row)| *row));
    outliers.sort_unstable();
    outliers.dedup();
    let mut groups = Vec::with_capacity(offsets.len() - 1);
    let (mut centre, mut total) = (vec![0f64; rows.dim()], 0);
    for bounds in offsets.windows(2) {
        let (mean, count) = mean(rows, &order[bounds[0] as usize..bounds[1] as usize], &outliers);
        centre
            .iter_mut()
            .zip(&mean)
            .for_each(|(sum, x)| *sum += f64::from(*x) * count as f64);
        total += count;
        groups.push(Group {
            start: bounds[0],
            end: bounds[1],
            mean,
            count,
        });
    }
    let centre = centre.iter().map(|sum| (sum / total.max(1) as f64) as f32).collect();
    (groups, outliers, centre)
}

/// How many times `limit` a value is; never, if there is no limit.
fn times(value: f32, limit: f32) -> f32 {
    if limit > 0.0 { value / limit } else { 0.0 }
}

/// The mean of some rows without others (sorted), and how many there are.
fn mean(rows: RowSlice<'_>, members: &[u32], without: &[u32]) -> (Vec<f32>, usize) {
    let mut mean = vec![0f32; rows.dim()];
    let mut count = 0;
    for row in members.iter().filter(|row| without.binary_search(row).is_err()) {
        mean.iter_mut()
            .zip(rows.get(*row as usize))
            .for_each(|(sum, x)| *sum += x);
        count += 1;
    }
    mean.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
    (mean, count)
}

/// Makes the codes of lists.
struct Encoder<'a> {
    rows: RowSlice<'a>,
    order: &'a [u32],
    space: &'a Space,
    bits: BitCodes,
    outliers: &'a [u32],
}

/// Lists and their codes.
#[derive(Default)]
struct Part {
    /// Sum of the squared lengths of the rows.
    squared: f32,
    lists: Vec<List>,
    means: Vec<u8>,
    blocks: Vec<u8>,
    bytes: Vec<u8>,
}

impl Encoder<'_> {
    fn encode(&self, groups: &[Group]) -> Part {
        let mut part = Part::default();
        groups.iter().for_each(|group| self.encode_group(group, &mut part));
        part
    }

    fn encode_group(&self, group: &Group, part: &mut Part) {
        let mean = self.space.place(&group.mean);
        let (mut offsets, mut spread) = (0f32, 0f32);
        let members = &self.order[group.start as usize..group.end as usize];
        for rows in members.chunks(BLOCK_ROWS) {
            let mut block = Vec::with_capacity(BLOCK_ROWS);
            for row in rows {
                if self.outliers.binary_search(row).is_ok() {
                    ByteCodes::encode(&vec![0.0; self.space.padded()], f32::MIN, &mut part.bytes);
                    block.push(None);
                    continue;
                }
                let mut placed = self.space.place(self.rows.get(*row as usize));
                let offset = self.space.offset(&placed);
                ByteCodes::encode(&placed, offset, &mut part.bytes);
                part.squared += simd::dot(&placed, &placed);
                placed.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
                spread += simd::dot(&placed, &placed);
                offsets += offset;
                block.push(Some((placed, offset)));
            }
            let residuals: Vec<Option<Residual<'_>>> = block
                .iter()
                .map(|row| {
                    row.as_ref().map(|(values, offset)| Residual {
                        values,
                        mean: &mean,
                        offset: *offset,
                    })
                })
                .collect();
            self.bits.encode(&residuals, &mut part.blocks);
        }
        let count = group.count.max(1) as f32;
        ByteCodes::encode(&mean, offsets / count, &mut part.means);
        part.lists.push(List {
            start: group.start,
            end: group.end,
            block: 0,
            squared: simd::dot(&mean, &mean),
            radius: (spread / count).sqrt(),
        });
    }
}
