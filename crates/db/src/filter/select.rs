//! The fast form: a filter over the rows of a segment.
//!
//! Works on sets of rows that only shrink. First what field indexes, ids and vectors answer by bitset algebra; then what
//! needs the payloads (places, texts, nested objects), on the rows still possible, each payload read once per group.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::check::{Subject, condition_holds};
use super::{Condition, FieldIndex, FieldTest, Filter, Match, MinShould};
use crate::error::{Error, Result};
use crate::payload::{JsonPath, parse_keys};
use crate::point::PointId;

/// What a filter asks about the rows of a segment. Rows count from 0.
pub trait PayloadSource {
    /// Id of the point in `row`.
    fn id(&self, row: usize) -> PointId;

    /// JSON text of the payload in `row`; empty when there is none.
    fn payload_text(&self, row: usize) -> &str;

    /// Whether the point in `row` has the vector called `name` (the default vector's name is empty).
    fn has_vector(&self, row: usize, name: &str) -> bool;

    /// The index of the field at `path` over all rows. The owner builds it on the first call and keeps it.
    ///
    /// # Errors
    /// As [`FieldIndex::build`].
    fn field_index(&self, path: &JsonPath) -> Result<Arc<FieldIndex>>;
}

impl Filter {
    /// Whether payloads may have to be looked at, or field indexes be built of them.
    pub fn asks_payloads(&self) -> bool {
        self.conditions().any(|condition| match condition {
            Condition::Id(_) | Condition::HasVector(_) => false,
            Condition::Filter(filter) => filter.asks_payloads(),
            Condition::IsEmpty(_) | Condition::IsNull(_) | Condition::Nested(_) | Condition::Field(_) => true,
        })
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let counted = self.min_should.iter().flat_map(|clause| &clause.conditions);
        self.must
            .iter()
            .chain(&self.must_not)
            .chain(&self.should)
            .chain(counted)
    }

    /// The rows among `candidates` that match. Pass the live rows as candidates: dead ones are then never read.
    ///
    /// # Errors
    /// [`Error::Corruption`] when the text of a payload is not a JSON object.
    pub fn select(&self, source: &dyn PayloadSource, mut candidates: FixedBitSet) -> Result<FixedBitSet> {
        let should_reads = self.should.iter().any(reads_payloads);
        let min_should_reads = self
            .min_should
            .iter()
            .flat_map(|clause| &clause.conditions)
            .any(reads_payloads);
        for reading in [false, true] {
            if reading {
                candidates = self.scan_leaves(source, candidates)?;
            }
            for condition in self
                .must
                .iter()
                .filter(|own| reads_payloads(own) == reading && !scanned(own))
            {
                candidates = matching(condition, source, candidates)?;
            }
            for condition in self
                .must_not
                .iter()
                .filter(|own| reads_payloads(own) == reading && !scanned(own))
            {
                let hits = matching(condition, source, candidates.clone())?;
                candidates.difference_with(&hits);
            }
            if !self.should.is_empty() && should_reads == reading {
                candidates = matching_any(&self.should, source, candidates)?;
            }
            if let Some(clause) = self.min_should.as_ref().filter(|_| min_should_reads == reading) {
                candidates = matching_enough(clause, source, candidates)?;
            }
        }
        Ok(candidates)
    }

    /// Narrows by the conditions of `must` and `must_not` that only payloads answer, in one pass over the payloads.
    fn scan_leaves(&self, source: &dyn PayloadSource, candidates: FixedBitSet) -> Result<FixedBitSet> {
        let must: Vec<&Condition> = self.must.iter().filter(|own| scanned(own)).collect();
        let must_not: Vec<&Condition> = self.must_not.iter().filter(|own| scanned(own)).collect();
        if must.is_empty() && must_not.is_empty() {
            return Ok(candidates);
        }
        scan(source, candidates, &must, &must_not)
    }
}

/// Whether the condition itself is answered by payloads only.
fn scanned(condition: &Condition) -> bool {
    match condition {
        Condition::Nested(_) => true,
        Condition::Field(field) => matches!(
            field.test,
            FieldTest::Match(Match::Text(_) | Match::TextAny(_) | Match::Phrase(_))
                | FieldTest::GeoRadius(_)
                | FieldTest::GeoBoundingBox(_)
                | FieldTest::GeoPolygon(_)
        ),
        _ => false,
    }
}

/// Whether the condition or one inside it is answered by payloads only.
fn reads_payloads(condition: &Condition) -> bool {
    match condition {
        Condition::Filter(filter) => filter.conditions().any(reads_payloads),
        leaf => scanned(leaf),
    }
}

/// The candidates that match one condition.
fn matching(condition: &Condition, source: &dyn PayloadSource, mut candidates: FixedBitSet) -> Result<FixedBitSet> {
    // Also spares building a field index for nothing.
    if candidates.is_clear() {
        return Ok(candidates);
    }
    match condition {
        Condition::IsEmpty(field) => candidates.intersect_with(&source.field_index(&field.key)?.is_empty()),
        Condition::IsNull(field) => candidates.intersect_with(&source.field_index(&field.key)?.is_null()),
        Condition::Id(ids) => retain(&mut candidates, |row| ids.contains(&source.id(row))),
        Condition::HasVector(name) => retain(&mut candidates, |row| source.has_vector(row, name)),
        Condition::Filter(filter) => return filter.select(source, candidates),
        Condition::Field(field) if !scanned(condition) => {
            let passing = source.field_index(&field.key)?.rows_passing(&field.test);
            let passing = passing.ok_or_else(|| Error::Internal("a field index met a test it does not know".into()))?;
            candidates.intersect_with(&passing);
        }
        Condition::Field(_) | Condition::Nested(_) => return scan(source, candidates, &[condition], &[]),
    }
    Ok(candidates)
}

/// The candidates that match at least one condition; each condition sees only the rows that none before matched.
fn matching_any(
    conditions: &[Condition],
    source: &dyn PayloadSource,
    mut candidates: FixedBitSet,
) -> Result<FixedBitSet> {
    let mut matched = FixedBitSet::with_capacity(candidates.len());
    for reading in [false, true] {
        for condition in conditions.iter().filter(|own| reads_payloads(own) == reading) {
            let hits = matching(condition, source, candidates.clone())?;
            candidates.difference_with(&hits);
            matched.union_with(&hits);
        }
    }
    Ok(matched)
}

/// The candidates that match at least `min_count` conditions.
fn matching_enough(clause: &MinShould, source: &dyn PayloadSource, mut candidates: FixedBitSet) -> Result<FixedBitSet> {
    if clause.conditions.is_empty() {
        return Ok(candidates);
    }
    let mut counts = vec![0_usize; candidates.len()];
    for condition in &clause.conditions {
        for row in matching(condition, source, candidates.clone())?.ones() {
            if let Some(count) = counts.get_mut(row) {
                *count += 1;
            }
        }
    }
    retain(&mut candidates, |row| {
        counts.get(row).is_some_and(|count| *count >= clause.min_count)
    });
    Ok(candidates)
}

fn retain(rows: &mut FixedBitSet, keep: impl Fn(usize) -> bool) {
    let mut kept = FixedBitSet::with_capacity(rows.len());
    rows.ones().filter(|row| keep(*row)).for_each(|row| kept.insert(row));
    *rows = kept;
}

/// The candidates whose payloads satisfy all of `must` and none of `must_not`, which are all `scanned` conditions.
fn scan(
    source: &dyn PayloadSource,
    mut candidates: FixedBitSet,
    must: &[&Condition],
    must_not: &[&Condition],
) -> Result<FixedBitSet> {
    let keys: Vec<&str> = must
        .iter()
        .chain(must_not)
        .filter_map(|condition| first_key(condition))
        .collect();
    let mut dropped = Vec::new();
    for row in candidates.ones() {
        let payload = parse_keys(source.payload_text(row), &keys).map_err(|error| {
            Error::Corruption(format!(
                "payload of point {} is not a JSON object: {error}",
                source.id(row)
            ))
        })?;
        // These conditions ask neither the id nor the vectors.
        let subject = Subject::without_point(&payload);
        let holds = |condition: &&Condition| condition_holds(condition, &subject);
        if !must.iter().all(holds) || must_not.iter().any(holds) {
            dropped.push(row);
        }
    }
    dropped.into_iter().for_each(|row| candidates.remove(row));
    Ok(candidates)
}

/// The only top-level key that a scanned condition looks at.
fn first_key(condition: &Condition) -> Option<&str> {
    match condition {
        Condition::Field(field) => Some(field.key.first_key()),
        Condition::Nested(nested) => Some(nested.key.first_key()),
        _ => None,
    }
}
