//! Measuring how far the searches of an inverted file have to look: rows are taken as queries, and what would find their true
//! neighbours is what searches allow for.

use std::cell::RefCell;

use fixedbitset::FixedBitSet;

use super::{Ivf, List, SPREAD, Tuning};
use crate::kmeans::Clusters;
use crate::parallel::in_parallel;
use crate::rows::{RowSlice, Rows};
use crate::simd::codes::{BLOCK_ROWS, Estimates, Terms, scan};
use crate::space::{Query, fits};
use crate::topk::Hit;
use crate::truth::{COVERED_BYTES, MARGIN_MIN, NEIGHBOURS, SAMPLED_QUERIES, Truth, quantile, sample_filter, truth};
use crate::vector_index::{SearchParams, VectorIndex};

/// At most one row in so many is taken as a query.
const SAMPLE_STEP_MIN: usize = 8;
/// Share of the neighbours that a search finds with effort 1. Queries that are no rows find a little less.
const TARGET: f64 = 0.99;
/// Share of the neighbours whose estimates may be less wrong than is allowed for.
const COVERED: f64 = 0.995;
/// How often the reach is raised at most, and by how much.
const WIDENINGS: usize = 6;
const WIDENING: f32 = 1.15;
const REACH_STEP: f32 = 0.002;
/// A reach beyond this is a fault of the numbers, not of the data.
const REACH_MAX: f32 = 1_000.0;
/// Bounds of the slack: too little trusts the sample too much, more than the most finds nothing more.
const SLACK_MIN: f32 = 0.5;
const SLACK_MAX: f32 = 16.0;

impl Ivf {
    /// Takes rows as queries, finds their true neighbours, and sets what lets `TARGET` of them be found.
    pub(super) fn tune(&mut self, rows: &Rows, clusters: &Clusters) {
        let assigned = clusters.assignment.len();
        let present = RowSlice::new(rows.dim(), &rows.as_slice()[..assigned * rows.dim()]);
        let step = (assigned / SAMPLED_QUERIES).max(SAMPLE_STEP_MIN);
        let sampled: Vec<&[f32]> = (0..assigned)
            .step_by(step)
            .map(|row| rows.get(row))
            .filter(|row| fits(row))
            .collect();
        let allowed = sample_filter(assigned);
        let truths = in_parallel(sampled.len(), |range| {
            truth(present, &sampled[range], &self.space, &allowed)
        });
        let truths: Vec<Truth> = truths.into_iter().flatten().collect();
        let needs = in_parallel(sampled.len(), |range| {
            let pairs = sampled[range.clone()].iter().zip(&truths[range]);
            let needs = pairs.map(|(query, truth)| self.needs(clusters, query, truth));
            needs.collect::<Vec<[Vec<Need>; 2]>>()
        });
        let needs: Vec<[Vec<Need>; 2]> = needs.into_iter().flatten().collect();
        let of = |filtered: usize| needs.iter().flat_map(move |needs| &needs[filtered]);
        let both = || of(0).chain(of(1));
        self.tuning = Tuning {
            slack: quantile(both().map(|need| need.slack), COVERED).clamp(SLACK_MIN, SLACK_MAX),
            margin: quantile(both().map(|need| need.margin), COVERED_BYTES).max(0.0) + MARGIN_MIN,
            reach: quantile(of(0).map(|need| need.reach), TARGET).clamp(0.0, REACH_MAX),
            reach_wide: quantile(of(1).map(|need| need.reach), TARGET).clamp(0.0, REACH_MAX),
            length: self.tuning.length,
        };
        self.widen(rows, &sampled, &truths, None);
        self.widen(rows, &sampled, &truths, Some(&allowed));
    }

    /// What a search would have to allow for to find each of the true neighbours, without a filter and with it.
    fn needs(&self, clusters: &Clusters, vector: &[f32], truth: &Truth) -> [Vec<Need>; 2] {
        let Some(query) = self.space.query(vector) else {
            return Default::default();
        };
        let table = self.bits.table(&query);
        let estimates = RefCell::new(Estimates::new());
        let unit = query.unit(self.tuning.length).max(f32::MIN_POSITIVE);
        let prospects = self.all_prospects(&query);
        let best = self.best_prospect((0..).zip(prospects.iter().copied()), NEIGHBOURS + 1);
        // Under a filter the same rows are asked of a worse threshold, from the middle of which the reach counts.
        let of = |hit: &Hit, last: f32, from: f32| {
            let list = clusters.assignment[hit.row as usize];
            let member = self.member(hit.row, list)?;
            let mut worth = [0.0];
            self.bytes.worths(&query, &[member], &mut worth);
            let (estimate, error) = self.estimate(
                &query,
                &table.entries,
                table.scale,
                list,
                member,
                &mut estimates.borrow_mut(),
            );
            Some(Need {
                slack: (last - estimate) / error.max(f32::MIN_POSITIVE),
                margin: (last - worth[0]) / unit,
                reach: (from - prospects[list as usize]) / unit,
            })
        };
        let all = truth.hits.iter().filter_map(|hit| of(hit, truth.last, best));
        let middle = best.midpoint(truth.last_filtered);
        let filtered = truth
            .filtered
            .iter()
            .filter_map(|hit| of(hit, truth.last_filtered, middle));
        [all.collect(), filtered.collect()]
    }

    /// The prospects of all lists.
    fn all_prospects(&self, query: &Query) -> Vec<f32> {
        let mut worths = vec![0.0; self.lists.len()];
        self.means.worths(query, &self.factors.numbers, &mut worths);
        let all = worths.iter().zip(&self.lists).zip(&self.factors.added);
        let prospect = |((worth, list), added): ((&f32, &List), &f32)| {
            let away = (query.squared - 2.0 * (worth - added) + list.squared).max(0.0).sqrt();
            worth + SPREAD * list.radius * away
        };
        all.map(prospect).collect()
    }

    /// The place of a row among the members; `None` for an outlier.
    fn member(&self, row: u32, list: u32) -> Option<u32> {
        if self.outliers.binary_search(&row).is_ok() {
            return None;
        }
        let Some(members) = &self.members else { return Some(row) };
        let List { start, end, .. } = self.lists[list as usize];
        let place = members[start as usize..end as usize].binary_search(&row).ok()?;
        Some(start + place as u32)
    }

    /// The estimate of a member and its error.
    fn estimate(
        &self,
        query: &Query,
        table: &[i8],
        scale: f32,
        list: u32,
        member: u32,
        out: &mut Estimates,
    ) -> (f32, f32) {
        let List {
            start, block, squared, ..
        } = self.lists[list as usize];
        let mut worth = [0.0];
        self.means.worths(query, &[list], &mut worth);
        let product = worth[0] - self.factors.added[list as usize];
        let away = (query.squared - 2.0 * product + squared).max(0.0).sqrt();
        let error = away / (self.space.padded() as f32).sqrt();
        let step = self.bits.block_bytes();
        let place = (member - start) as usize;
        let block = &self.blocks[(block as usize + place / BLOCK_ROWS) * step..][..step];
        scan(
            block,
            table,
            &Terms {
                base: product,
                scale,
                error,
                threshold: 0.0,
            },
            out,
        );
        let estimate = out.estimates[place % BLOCK_ROWS];
        (estimate, out.bounds[place % BLOCK_ROWS] - estimate)
    }

    /// Raises a reach until searches find `TARGET` of the neighbours: what each neighbour asks for is only about enough, because a
    /// search knows estimates where the measurement knew the truth.
    fn widen(&mut self, rows: &Rows, sampled: &[&[f32]], truths: &[Truth], allowed: Option<&FixedBitSet>) {
        for _ in 0..WIDENINGS {
            if self.found(rows, sampled, truths, allowed) >= TARGET {
                return;
            }
            let reach = if allowed.is_some() {
                &mut self.tuning.reach_wide
            } else {
                &mut self.tuning.reach
            };
            *reach = *reach * WIDENING + REACH_STEP;
            self.tuning.slack *= WIDENING.sqrt();
        }
    }

    /// The share of the neighbours that searches find.
    fn found(&self, rows: &Rows, sampled: &[&[f32]], truths: &[Truth], allowed: Option<&FixedBitSet>) -> f64 {
        // A query that is a row finds itself.
        let params = SearchParams::new(NEIGHBOURS + 1);
        let counts = in_parallel(sampled.len(), |range| {
            let pairs = sampled[range.clone()].iter().zip(&truths[range]);
            pairs.fold((0, 0), |(found, all), (query, truth)| {
                let hits = self.search(rows, query, &params, allowed);
                let truth = if allowed.is_some() {
                    &truth.filtered
                } else {
                    &truth.hits
                };
                let is_found = |hit: &&Hit| hits.iter().any(|other| other.row == hit.row);
                (found + truth.iter().filter(is_found).count(), all + truth.len())
            })
        });
        let (found, all) = counts
            .iter()
            .fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
        if all == 0 { 1.0 } else { found as f64 / all as f64 }
    }
}

/// What one true neighbour asks for.
struct Need {
    slack: f32,
    margin: f32,
    reach: f32,
}
