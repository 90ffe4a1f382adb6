//! One payload field of many rows, turned around: from values to rows.
//!
//! Derived from the payloads and kept in memory only. Answers every test of a field except places and texts, which it
//! does not hold: texts would cost as much memory as the payloads, and places are rare.

use std::collections::HashMap;
use std::hash::Hash;

use fixedbitset::FixedBitSet;
use serde_json::Value;

use super::check::{count, elements, has_null, is_empty};
use super::{AnyOf, Bounds, Datetime, FieldTest, Match, MatchValue, Range};
use crate::error::{Error, Result};
use crate::payload::{JsonPath, parse_keys, values_at};

/// The values of one field in `rows` rows.
#[derive(Debug)]
pub struct FieldIndex {
    rows: usize,
    keywords: Postings<Box<str>>,
    integers: Postings<i64>,
    /// Rows with `false`, rows with `true`.
    flags: [FixedBitSet; 2],
    /// All numbers, ascending.
    numbers: Vec<(f64, u32)>,
    /// The keywords that are dates, ascending, with their positions in `keywords`.
    datetimes: Vec<(Datetime, usize)>,
    /// Rows with an element that is neither `null` nor a keyword.
    other_than_keyword: FixedBitSet,
    /// Rows with an element that is neither `null` nor an integer of 64 bits.
    other_than_integer: FixedBitSet,
    /// Rows by the number of values.
    counts: Postings<u64>,
    /// Rows without any value.
    absent: FixedBitSet,
    /// Rows with a value that is `null` or `[]`, and with one that is neither.
    empty: FixedBitSet,
    filled: FixedBitSet,
    /// Rows with a value that is `null`.
    null: FixedBitSet,
    /// Rows with a value that is or holds `null`, and with one that is and does not.
    with_null: FixedBitSet,
    without_null: FixedBitSet,
}

impl FieldIndex {
    /// Reads the field at `path` from the JSON texts of the payloads of rows 0, 1, 2, ….
    ///
    /// # Errors
    /// [`Error::Corruption`] when a text is not a JSON object.
    pub fn build<'t>(path: &JsonPath, texts: impl ExactSizeIterator<Item = &'t str>) -> Result<Self> {
        let mut builder = Builder::new(texts.len());
        for (row, text) in texts.enumerate() {
            let payload = parse_keys(text, &[path.first_key()])
                .map_err(|error| Error::Corruption(format!("payload of row {row} is not a JSON object: {error}")))?;
            let row = u32::try_from(row).map_err(|_| Error::Internal("more than 2^32 rows in one index".into()))?;
            builder.add(row, &values_at(&payload, path));
        }
        Ok(builder.finish())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of rows that have a value other than `null` and `[]`.
    pub fn filled_rows(&self) -> usize {
        self.filled.count_ones(..)
    }

    /// Approximate size in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        /// The bitsets of this struct.
        const BITSETS: usize = 10;
        self.keywords.memory_bytes(|keyword| keyword.len())
            + self.integers.memory_bytes(|_| 0)
            + self.counts.memory_bytes(|_| 0)
            + size_of_val(self.numbers.as_slice())
            + size_of_val(self.datetimes.as_slice())
            + BITSETS * self.rows.div_ceil(8)
    }

    /// Rows whose values are all `null` or `[]`, or that have none.
    pub(super) fn is_empty(&self) -> FixedBitSet {
        let mut rows = self.filled.clone();
        rows.toggle_range(..);
        rows
    }

    /// Rows with a value that is `null`.
    pub(super) fn is_null(&self) -> FixedBitSet {
        self.null.clone()
    }

    /// Rows that pass `test`; `None` when the index cannot tell.
    pub(super) fn rows_passing(&self, test: &FieldTest) -> Option<FixedBitSet> {
        let mut rows = FixedBitSet::with_capacity(self.rows);
        match test {
            FieldTest::Match(Match::Value(wanted)) => self.add_equal(wanted, &mut rows),
            FieldTest::Match(Match::Any(list)) => self.add_listed(list, &mut rows),
            FieldTest::Match(Match::Except(list)) => self.add_unlisted(list, &mut rows),
            FieldTest::Range(Range::Number(bounds)) => {
                for (_, row) in bounds.slice(&self.numbers, |(number, _)| number) {
                    rows.insert(*row as usize);
                }
            }
            FieldTest::Range(Range::Datetime(bounds)) => {
                for (_, position) in bounds.slice(&self.datetimes, |(datetime, _)| datetime) {
                    self.keywords.add_rows(*position, &mut rows);
                }
            }
            FieldTest::ValuesCount(bounds) => self.add_counted(bounds, &mut rows),
            FieldTest::IsEmpty(true) => union(&mut rows, [&self.absent, &self.empty]),
            FieldTest::IsEmpty(false) => union(&mut rows, [&self.filled]),
            FieldTest::IsNull(true) => union(&mut rows, [&self.with_null]),
            FieldTest::IsNull(false) => union(&mut rows, [&self.absent, &self.without_null]),
            FieldTest::Match(Match::Text(_) | Match::TextAny(_) | Match::Phrase(_))
            | FieldTest::GeoRadius(_)
            | FieldTest::GeoBoundingBox(_)
            | FieldTest::GeoPolygon(_) => return None,
        }
        Some(rows)
    }

    fn add_equal(&self, wanted: &MatchValue, rows: &mut FixedBitSet) {
        match wanted {
            MatchValue::Keyword(keyword) => self.keywords.add_rows_of(keyword.as_str(), rows),
            MatchValue::Integer(integer) => self.integers.add_rows_of(integer, rows),
            MatchValue::Bool(flag) => {
                let [with_false, with_true] = &self.flags;
                rows.union_with(if *flag { with_true } else { with_false });
            }
        }
    }

    fn add_listed(&self, list: &AnyOf, rows: &mut FixedBitSet) {
        match list {
            AnyOf::Keywords(keywords) => keywords
                .iter()
                .for_each(|own| self.keywords.add_rows_of(own.as_str(), rows)),
            AnyOf::Integers(integers) => integers.iter().for_each(|own| self.integers.add_rows_of(own, rows)),
        }
    }

    fn add_unlisted(&self, list: &AnyOf, rows: &mut FixedBitSet) {
        match list {
            AnyOf::Keywords(listed) => {
                rows.union_with(&self.other_than_keyword);
                self.keywords
                    .add_rows_where(|keyword| !listed.contains(&**keyword), rows);
            }
            AnyOf::Integers(listed) => {
                rows.union_with(&self.other_than_integer);
                self.integers.add_rows_where(|integer| !listed.contains(integer), rows);
            }
        }
    }

    fn add_counted(&self, bounds: &Bounds<u64>, rows: &mut FixedBitSet) {
        self.counts.add_rows_where(|count| bounds.contains(count), rows);
    }
}

fn union<const N: usize>(rows: &mut FixedBitSet, parts: [&FixedBitSet; N]) {
    parts.into_iter().for_each(|part| rows.union_with(part));
}

/// Rows by key: the keys ascending, the rows of key `i` at `offsets[i]..offsets[i + 1]`.
#[derive(Debug)]
struct Postings<K> {
    keys: Vec<K>,
    offsets: Vec<usize>,
    rows: Vec<u32>,
}

impl<K: Ord> Postings<K> {
    fn new(gathered: HashMap<K, Vec<u32>>) -> Self {
        let mut entries: Vec<(K, Vec<u32>)> = gathered.into_iter().collect();
        entries.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let mut postings = Self {
            keys: Vec::with_capacity(entries.len()),
            offsets: vec![0],
            rows: Vec::new(),
        };
        for (key, rows) in entries {
            postings.keys.push(key);
            postings.rows.extend(rows);
            postings.offsets.push(postings.rows.len());
        }
        postings
    }

    /// Adds the rows of the key at `position`.
    fn add_rows(&self, position: usize, rows: &mut FixedBitSet) {
        if let (Some(start), Some(end)) = (self.offsets.get(position), self.offsets.get(position + 1)) {
            for row in self.rows.get(*start..*end).unwrap_or_default() {
                rows.insert(*row as usize);
            }
        }
    }

    fn add_rows_of<Q: Ord + ?Sized>(&self, key: &Q, rows: &mut FixedBitSet)
    where
        K: std::borrow::Borrow<Q>,
    {
        if let Ok(position) = self.keys.binary_search_by(|own| own.borrow().cmp(key)) {
            self.add_rows(position, rows);
        }
    }

    fn add_rows_where(&self, wanted: impl Fn(&K) -> bool, rows: &mut FixedBitSet) {
        for (position, key) in self.keys.iter().enumerate() {
            if wanted(key) {
                self.add_rows(position, rows);
            }
        }
    }

    fn memory_bytes(&self, beside: impl Fn(&K) -> usize) -> usize {
        let keys: usize = self.keys.iter().map(|key| size_of::<K>() + beside(key)).sum();
        keys + size_of_val(self.offsets.as_slice()) + size_of_val(self.rows.as_slice())
    }
}

/// Gathers rows in ascending order. Value lists become postings when all are in.
struct Builder {
    index: FieldIndex,
    keywords: HashMap<Box<str>, Vec<u32>>,
    integers: HashMap<i64, Vec<u32>>,
    counts: HashMap<u64, Vec<u32>>,
}

impl Builder {
    fn new(rows: usize) -> Self {
        let none = || FixedBitSet::with_capacity(rows);
        let index = FieldIndex {
            rows,
            keywords: Postings::new(HashMap::new()),
            integers: Postings::new(HashMap::new()),
            flags: [none(), none()],
            numbers: Vec::new(),
            datetimes: Vec::new(),
            other_than_keyword: none(),
            other_than_integer: none(),
            counts: Postings::new(HashMap::new()),
            absent: none(),
            empty: none(),
            filled: none(),
            null: none(),
            with_null: none(),
            without_null: none(),
        };
        Self {
            index,
            keywords: HashMap::new(),
            integers: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    fn add(&mut self, row: u32, values: &[&Value]) {
        let at = row as usize;
        self.index.absent.set(at, values.is_empty());
        for value in values {
            let index = &mut self.index;
            if is_empty(value) {
                index.empty.insert(at)
            } else {
                index.filled.insert(at)
            }
            if has_null(value) {
                index.with_null.insert(at)
            } else {
                index.without_null.insert(at)
            }
            if value.is_null() {
                index.null.insert(at);
            }
            post(&mut self.counts, count(value), row);
            elements(value)
                .iter()
                .for_each(|element| self.add_element(row, element));
        }
    }

    fn add_element(&mut self, row: u32, element: &Value) {
        let at = row as usize;
        let integer = element.as_i64();
        if let Value::String(keyword) = element {
            // Looked up first: most keywords are known, and a known one needs no allocation.
            match self.keywords.get_mut(keyword.as_str()) {
                Some(rows) => push(rows, row),
                None => post(&mut self.keywords, keyword.as_str().into(), row),
            }
        } else if !element.is_null() {
            self.index.other_than_keyword.insert(at);
        }
        match integer {
            Some(integer) => post(&mut self.integers, integer, row),
            None if !element.is_null() => self.index.other_than_integer.insert(at),
            None => {}
        }
        match element {
            Value::Bool(false) => self.index.flags[0].insert(at),
            Value::Bool(true) => self.index.flags[1].insert(at),
            Value::Number(number) => self.index.numbers.extend(number.as_f64().map(|number| (number, row))),
            _ => {}
        }
    }

    fn finish(mut self) -> FieldIndex {
        self.index.keywords = Postings::new(self.keywords);
        self.index.integers = Postings::new(self.integers);
        self.index.counts = Postings::new(self.counts);
        self.index
            .numbers
            .sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
        let keywords = self.index.keywords.keys.iter().enumerate();
        self.index.datetimes = keywords
            .filter_map(|(position, keyword)| Some((Datetime::parse(keyword)?, position)))
            .collect();
        self.index.datetimes.sort_unstable();
        self.index
    }
}

fn post<K: Eq + Hash>(postings: &mut HashMap<K, Vec<u32>>, key: K, row: u32) {
    push(postings.entry(key).or_default(), row);
}

/// Adds a row that is not below the last one; a row is kept once.
fn push(rows: &mut Vec<u32>, row: u32) {
    if rows.last() != Some(&row) {
        rows.push(row);
    }
}
