//! A collection as its users see it: points go in checked and come out by id, filter or nearness.
//!
//! Owns the rules of input (dimensions, finite numbers, names of vector spaces, normalisation for cosine) and turns every
//! partial update into the full points that result. One shard today; paths and files carry the shard already.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use proximadb_index::metric::normalize;

use crate::engine::absent::{Absent, Miss};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::payload::{self, JsonPath};
use crate::point::{NamedVectors, Operation, Payload, Point, PointId, Seq};
use crate::schema::{CollectionDescription, Distance, VectorSpace};
use crate::search::{PointSelector, Query, Record, ScoredPoint, Selection};
use crate::shard::explain::Explanation;
use crate::shard::read::{Matching, ShardStats};
use crate::shard::{FlushCounters, Shard};
use crate::state::{Location, State};
use crate::wal::WalStats;

/// What a collection holds, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionInfo {
    /// Points.
    pub points: u64,
    /// Vectors that an index covers.
    pub indexed_vectors: u64,
    /// Bytes that the indexes hold in memory.
    pub index_memory_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of its log and segments.
    pub bytes: u64,
    /// Estimated bytes in memtables.
    pub memtable_bytes: u64,
}

/// An open collection. All methods may be called from many tasks at once.
pub struct Collection {
    shard: Arc<Shard>,
}

impl Collection {
    /// The collection that consists of `shard`.
    pub fn new(shard: Arc<Shard>) -> Self {
        Self { shard }
    }

    /// Id, name and schema.
    pub fn description(&self) -> Arc<CollectionDescription> {
        self.shard.description()
    }

    /// Takes over changed settings.
    pub(crate) async fn set_description(&self, description: Arc<CollectionDescription>) -> Result<()> {
        self.shard.set_description(description).await
    }

    /// Inserts points, replacing those with the same ids. All become durable and visible together.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a wrong vector; then nothing is written. Errors of the roots as [`Shard::write`].
    pub async fn upsert(&self, mut points: Vec<Point>) -> Result<Seq> {
        let description = self.description();
        for point in &mut points {
            check_vectors(&description.schema.vectors, &mut point.vectors)?;
        }
        self.shard
            .write(points.into_iter().map(Operation::Upsert).collect())
            .await
    }

    /// Deletes points; missing ones are fine.
    ///
    /// # Errors
    /// Errors of the roots as [`Shard::write`].
    pub async fn delete(&self, points: PointSelector) -> Result<Seq> {
        let plan = move |state: &State| Ok(existing(state, &points)?.into_keys().map(Operation::Delete).collect());
        self.shard.read_modify_write(plan).await
    }

    /// Merges `values` into the payloads, at `key` if one is given.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a missing id, [`Error::InvalidInput`] for a malformed key; errors of the roots.
    pub async fn set_payload(&self, values: Payload, key: Option<String>, points: PointSelector) -> Result<Seq> {
        let key = key.as_deref().map(parse_path).transpose()?;
        let change = move |point: &mut Point| match &key {
            Some(key) => {
                payload::set_at(&mut point.payload, key, &values).map_err(|e| Error::InvalidInput(e.to_string()))
            }
            None => {
                payload::merge(&mut point.payload, &values);
                Ok(())
            }
        };
        self.modify(points, change).await
    }

    /// Replaces the payloads.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a missing id; errors of the roots.
    pub async fn overwrite_payload(&self, values: Payload, points: PointSelector) -> Result<Seq> {
        let change = move |point: &mut Point| {
            point.payload = values.clone();
            Ok(())
        };
        self.modify(points, change).await
    }

    /// Removes the given paths from the payloads.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a missing id, [`Error::InvalidInput`] for a malformed key; errors of the roots.
    pub async fn delete_payload(&self, keys: Vec<String>, points: PointSelector) -> Result<Seq> {
        let keys = keys.iter().map(|key| parse_path(key)).collect::<Result<Vec<_>>>()?;
        let change = move |point: &mut Point| {
            for key in &keys {
                payload::delete_at(&mut point.payload, key);
            }
            Ok(())
        };
        self.modify(points, change).await
    }

    /// Removes the payloads.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a missing id; errors of the roots.
    pub async fn clear_payload(&self, points: PointSelector) -> Result<Seq> {
        let change = |point: &mut Point| {
            point.payload.clear();
            Ok(())
        };
        self.modify(points, change).await
    }

    /// Sets or replaces the given vectors of points, leaving their other vectors and payloads.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a wrong vector, [`Error::NotFound`] for a missing id; errors of the roots.
    pub async fn update_vectors(&self, mut updates: Vec<(PointId, NamedVectors)>) -> Result<Seq> {
        let description = self.description();
        for (_, vectors) in &mut updates {
            check_vectors(&description.schema.vectors, vectors)?;
        }
        let plan = move |state: &State| {
            let mut changed: BTreeMap<PointId, Point> = BTreeMap::new();
            let located = updates.iter().filter_map(|(id, _)| state.locate(*id));
            note_points(state, located)?;
            for (id, vectors) in &updates {
                let location = state.locate(*id).ok_or_else(|| no_point(*id))?;
                let point = match changed.entry(*id) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(state.point(*id, location)?),
                };
                for (name, vector) in vectors.iter() {
                    point.vectors.insert(name.to_owned(), vector.to_vec());
                }
            }
            Ok(changed.into_values().map(Operation::Upsert).collect())
        };
        self.shard.read_modify_write(plan).await
    }

    /// Removes the vectors of the given names.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for an unknown name, [`Error::NotFound`] for a missing id; errors of the roots.
    pub async fn delete_vectors(&self, names: Vec<String>, points: PointSelector) -> Result<Seq> {
        let description = self.description();
        for name in &names {
            self::space(&description, name)?;
        }
        let change = move |point: &mut Point| {
            names.iter().for_each(|name| point.vectors.remove(name));
            Ok(())
        };
        self.modify(points, change).await
    }

    /// The points with these ids, in the order asked; missing ones are left out.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn retrieve(&self, ids: &[PointId], select: &Selection) -> Result<Vec<Record>> {
        self.shard.retrieve(ids, select).await
    }

    /// Up to `limit` points in order of ids (numbers, then UUIDs) from `start` on, and the id of the next page.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn scroll(
        &self,
        filter: Option<&Filter>,
        start: Option<PointId>,
        limit: usize,
        select: &Selection,
    ) -> Result<(Vec<Record>, Option<PointId>)> {
        self.shard.scroll(filter, start, limit, select).await
    }

    /// Number of points that match.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn count(&self, filter: Option<&Filter>) -> Result<u64> {
        self.shard.count(filter).await
    }

    /// The points nearest to a vector, best first.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a wrong vector or an unknown vector space.
    pub async fn query(&self, mut query: Query) -> Result<Vec<ScoredPoint>> {
        let description = self.description();
        let space = self::space(&description, &query.using)?;
        check_vector(space, &mut query.vector)?;
        if query.limit == 0 {
            return Err(Error::InvalidInput("limit: must be 1 or larger".to_owned()));
        }
        self.shard.search(&query, space.distance.metric()).await
    }

    /// About how many numbers a search looks at; a million takes some 250 µs. 0 if it will fail.
    pub fn numbers_of(&self, query: &Query) -> usize {
        let description = self.description();
        let space = description.schema.vectors.get(&query.using);
        space.map_or(0, |space| self.shard.numbers_of(query, space.size))
    }

    /// What a search of this collection uses; with a query also what that did, source by source.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn explain(&self, query: Option<Query>) -> Result<Explanation> {
        let Some(mut query) = query else {
            return self.shard.explain(None).await;
        };
        let description = self.description();
        let space = self::space(&description, &query.using)?;
        check_vector(space, &mut query.vector)?;
        self.shard.explain(Some((&query, space.distance.metric()))).await
    }

    /// What the collection holds, in numbers.
    pub fn info(&self) -> CollectionInfo {
        let ShardStats {
            points,
            indexed_vectors,
            index_memory_bytes,
            segments,
            segment_bytes,
            memtable_bytes,
            ..
        } = self.shard.stats();
        CollectionInfo {
            points,
            indexed_vectors,
            index_memory_bytes,
            segments,
            bytes: segment_bytes + self.shard.wal_stats().bytes,
            memtable_bytes,
        }
    }

    /// For each indexed payload field the number of points that have it.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn payload_fields(&self) -> Result<BTreeMap<String, u64>> {
        let mut fields = BTreeMap::new();
        for path in self.description().schema.payload_indexes.keys() {
            let filled = serde_json::json!({ "must_not": [{ "is_empty": { "key": path } }] });
            let filter: Filter =
                serde_json::from_value(filled).map_err(|e| Error::Internal(format!("index {path}: {e}")))?;
            fields.insert(path.clone(), self.shard.count(Some(&filter)).await?);
        }
        Ok(fields)
    }

    /// What its log holds, in numbers.
    pub fn wal_stats(&self) -> WalStats {
        self.shard.wal_stats()
    }

    /// How often each reason led to a flush since the collection was opened.
    pub fn flushes(&self) -> &FlushCounters {
        &self.shard.flushes
    }

    /// Sequence number of the newest operation.
    pub fn version(&self) -> Seq {
        self.shard.applied_seq()
    }

    /// Moves everything from memory into segments; returns when it is durable.
    ///
    /// # Errors
    /// Errors of the roots.
    pub async fn flush(&self) -> Result<()> {
        self.shard.flush().await
    }

    /// Merges the segments, dropping what was deleted; returns when it is durable.
    ///
    /// # Errors
    /// Errors of the roots.
    pub async fn compact(&self) -> Result<()> {
        self.shard.compact().await
    }

    /// The shard that holds its points.
    pub(crate) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Stops its background work and closes its log.
    pub(crate) async fn close(&self) {
        self.shard.close().await;
    }

    async fn modify(&self, points: PointSelector, change: impl Fn(&mut Point) -> Result<()> + Send) -> Result<Seq> {
        let plan = move |state: &State| {
            if let PointSelector::Ids(ids) = &points
                && let Some(&missing) = ids.iter().find(|&&id| state.locate(id).is_none())
            {
                return Err(no_point(missing).into());
            }
            let points = existing(state, &points)?;
            note_points(state, points.values().copied())?;
            let changed = points.into_iter().map(|(id, location)| {
                let mut point = state.point(id, location)?;
                change(&mut point)?;
                Ok(Operation::Upsert(point))
            });
            changed.collect()
        };
        self.shard.read_modify_write(plan).await
    }
}

/// That these points can be looked at in full; or all that they lack.
fn note_points(state: &State, locations: impl Iterator<Item = Location>) -> Result<(), Miss> {
    let mut absent = Absent::default();
    locations.for_each(|location| state.note_absent(location, (true, true), &mut absent));
    absent.check()
}

/// The selected points that exist, each once.
fn existing(state: &State, points: &PointSelector) -> Result<BTreeMap<PointId, Location>, Miss> {
    Ok(match points {
        PointSelector::Ids(ids) => ids.iter().filter_map(|&id| Some((id, state.locate(id)?))).collect(),
        PointSelector::Filter(filter) => {
            let matching = Matching::new(state, filter)?;
            state
                .points_from(None)
                .filter(|&(_, location)| matching.contains(location))
                .collect()
        }
    })
}

fn no_point(id: PointId) -> Error {
    Error::NotFound(format!("No point with id {id} found"))
}

fn parse_path(text: &str) -> Result<JsonPath> {
    text.parse()
        .map_err(|error| Error::InvalidInput(format!("key `{text}`: {error}")))
}

fn space<'a>(description: &'a CollectionDescription, name: &str) -> Result<&'a VectorSpace> {
    let missing = || Error::InvalidInput(format!("Not existing vector name error: {name}"));
    description.schema.vectors.get(name).ok_or_else(missing)
}

fn check_vectors(spaces: &BTreeMap<String, VectorSpace>, vectors: &mut NamedVectors) -> Result<()> {
    for (name, vector) in vectors.iter_mut() {
        let missing = || Error::InvalidInput(format!("Not existing vector name error: {name}"));
        check_vector(spaces.get(name).ok_or_else(missing)?, vector)?;
    }
    Ok(())
}

/// Checks dimensions and numbers, and normalises for cosine.
fn check_vector(space: &VectorSpace, vector: &mut [f32]) -> Result<()> {
    if vector.len() != space.size {
        return Err(Error::InvalidInput(format!(
            "Vector dimension error: expected dim: {}, got {}",
            space.size,
            vector.len()
        )));
    }
    if let Some(at) = vector.iter().position(|number| !number.is_finite()) {
        return Err(Error::InvalidInput(format!("vector[{at}]: must be a finite number")));
    }
    if space.distance == Distance::Cosine {
        normalize(vector);
    }
    Ok(())
}
