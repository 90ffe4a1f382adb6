//! Stand-in for search, shard, collection and database while the server is built. Thrown away at the merge.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::point::{NamedVectors, Payload, Point, PointId, Seq};
use crate::schema::{CollectionDescription, CollectionId, Distance, Schema};

pub mod filter {
    use serde::{Deserialize, Serialize};
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Filter {
        #[serde(default)]
        pub must: Vec<Condition>,
        #[serde(default)]
        pub must_not: Vec<Condition>,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub enum Condition {
        HasId { has_id: Vec<crate::point::PointId> },
        Field { key: String, r#match: Match },
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Match {
        pub value: serde_json::Value,
    }
    impl Filter {
        pub fn matches(&self, point: &crate::point::Point) -> bool {
            let hit = |condition: &Condition| match condition {
                Condition::HasId { has_id } => has_id.contains(&point.id),
                Condition::Field { key, r#match } => point.payload.get(key) == Some(&r#match.value),
            };
            self.must.iter().all(hit) && !self.must_not.iter().any(hit)
        }
    }
}
use filter::Filter;

#[derive(Debug, Clone, PartialEq)]
pub enum PayloadSelector {
    None,
    All,
    Include(Vec<String>),
    Exclude(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum VectorSelector {
    None,
    All,
    Names(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    pub payload: PayloadSelector,
    pub vectors: VectorSelector,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub id: PointId,
    pub payload: Option<Payload>,
    pub vectors: Option<NamedVectors>,
}

#[derive(Debug, Clone)]
pub struct ScoredPoint {
    pub id: PointId,
    pub version: Seq,
    pub score: f32,
    pub payload: Option<Payload>,
    pub vectors: Option<NamedVectors>,
}

#[derive(Debug, Clone)]
pub struct Query {
    pub vector: Vec<f32>,
    pub using: String,
    pub filter: Option<Filter>,
    pub limit: usize,
    pub offset: usize,
    pub score_threshold: Option<f32>,
    pub exact: bool,
    pub hnsw_ef: Option<usize>,
    pub select: Selection,
}

#[derive(Debug, Clone)]
pub enum PointSelector {
    Ids(Vec<PointId>),
    Filter(Filter),
}

#[derive(Debug, Clone, Default)]
pub struct CollectionInfo {
    pub points: u64,
    pub indexed_vectors: u64,
    pub segments: u64,
    pub bytes: u64,
    pub payload_fields: BTreeMap<String, u64>,
}

/// What `/storage/roots` needs of one root.
#[derive(Debug, Clone)]
pub struct RootStatus {
    pub id: String,
    pub url: String,
    pub component: String,
    pub index: usize,
    pub state: String,
    pub reason: Option<String>,
    pub bytes: u64,
    pub files: u64,
    pub collections: u64,
    pub capacity_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// (operation, count, errors, bytes, p50 ms, p99 ms)
    pub operations: Vec<(String, u64, u64, u64, f64, f64)>,
}

/// The eight fields of D4, with the component and the root id.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub collection: String,
    pub component: String,
    pub resource_id: String,
    pub storage_url: String,
    pub root_id: String,
    pub directory_index: usize,
    pub assigned_at_ms: u64,
    pub last_accessed_ms: u64,
    pub file_count: u64,
    pub total_size_bytes: u64,
    pub resource_type: String,
}

#[derive(Default)]
pub struct Database {
    collections: RwLock<BTreeMap<String, Arc<Collection>>>,
}

pub struct Collection {
    description: RwLock<Arc<CollectionDescription>>,
    points: RwLock<(Seq, BTreeMap<PointId, Point>)>,
}

impl Database {
    pub async fn create_collection(&self, name: &str, schema: Schema) -> Result<()> {
        if self.exists(name) {
            return Err(Error::AlreadyExists(format!("Collection `{name}` already exists!")));
        }
        let id = CollectionId(uuid::Uuid::now_v7());
        let description = CollectionDescription {
            id,
            name: name.to_owned(),
            schema,
            created_at_ms: 1_700_000_000_000,
        };
        let collection = Collection {
            description: RwLock::new(Arc::new(description)),
            points: RwLock::default(),
        };
        self.collections.write().insert(name.to_owned(), Arc::new(collection));
        Ok(())
    }
    pub async fn update_schema(&self, name: &str, change: impl FnOnce(&mut Schema) + Send) -> Result<()> {
        let collection = self.collection(name).await?;
        let mut description = collection.description.write();
        change(&mut Arc::make_mut(&mut description).schema);
        Ok(())
    }
    pub async fn drop_collection(&self, name: &str) -> Result<bool> {
        Ok(self.collections.write().remove(name).is_some())
    }
    pub fn collection_names(&self) -> Vec<String> {
        self.collections.read().keys().cloned().collect()
    }
    pub fn exists(&self, name: &str) -> bool {
        self.collections.read().contains_key(name)
    }
    pub async fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        let found = self.collections.read().get(name).cloned();
        found.ok_or_else(|| Error::NotFound(format!("Collection `{name}` doesn't exist!")))
    }
    pub fn root_status(&self) -> Vec<RootStatus> {
        vec![RootStatus {
            id: "0193".into(),
            url: "file:///data/\"a\"".into(),
            component: "wal".into(),
            index: 0,
            state: "online".into(),
            reason: None,
            bytes: 10,
            files: 1,
            collections: 1,
            capacity_bytes: Some(1000),
            free_bytes: Some(500),
            operations: vec![("write".into(), 3, 0, 10, 0.5, 1.5)],
        }]
    }
    pub fn assignment_list(&self) -> Vec<Assignment> {
        let collections = self.collections.read();
        let entry = |(name, collection): (&String, &Arc<Collection>)| Assignment {
            collection: name.clone(),
            component: "wal".into(),
            resource_id: collection.description().id.to_string(),
            storage_url: "file:///data/\"a\"".into(),
            root_id: "0193".into(),
            directory_index: 0,
            assigned_at_ms: 1,
            last_accessed_ms: 1,
            file_count: 1,
            total_size_bytes: 10,
            resource_type: "collection".into(),
        };
        collections.iter().map(entry).collect()
    }
    pub async fn close(&self) {}
}

impl Collection {
    pub fn description(&self) -> Arc<CollectionDescription> {
        self.description.read().clone()
    }
    fn check(&self, vectors: &NamedVectors) -> Result<()> {
        let description = self.description();
        for (name, vector) in vectors.iter() {
            let Some(space) = description.schema.vectors.get(name) else {
                return Err(Error::InvalidInput(format!("Not existing vector name error: {name}")));
            };
            if space.size != vector.len() {
                let (size, got) = (space.size, vector.len());
                return Err(Error::InvalidInput(format!(
                    "Vector dimension error: expected dim: {size}, got {got}"
                )));
            }
            if vector.iter().any(|value| !value.is_finite()) {
                return Err(Error::InvalidInput("vector values must be finite".into()));
            }
        }
        Ok(())
    }
    fn change(&self, ids: &[PointId], edit: impl Fn(&mut Point)) -> Seq {
        let mut points = self.points.write();
        ids.iter().for_each(|id| {
            if let Some(point) = points.1.get_mut(id) {
                edit(point);
            }
        });
        points.0 += 1;
        points.0
    }
    fn ids(&self, selector: PointSelector) -> Vec<PointId> {
        match selector {
            PointSelector::Ids(ids) => ids,
            PointSelector::Filter(filter) => {
                let points = self.points.read();
                points
                    .1
                    .values()
                    .filter(|point| filter.matches(point))
                    .map(|point| point.id)
                    .collect()
            }
        }
    }
    pub async fn upsert(&self, new: Vec<Point>) -> Result<Seq> {
        for point in &new {
            self.check(&point.vectors)?;
        }
        let mut points = self.points.write();
        points.0 += new.len() as u64;
        points.1.extend(new.into_iter().map(|point| (point.id, point)));
        Ok(points.0)
    }
    pub async fn delete(&self, selector: PointSelector) -> Result<Seq> {
        let ids = self.ids(selector);
        let mut points = self.points.write();
        for id in ids {
            points.1.remove(&id);
        }
        points.0 += 1;
        Ok(points.0)
    }
    pub async fn set_payload(&self, payload: Payload, key: Option<String>, selector: PointSelector) -> Result<Seq> {
        assert!(key.is_none(), "the stub knows no sub-paths");
        Ok(self.change(&self.ids(selector), |point| point.payload.extend(payload.clone())))
    }
    pub async fn overwrite_payload(&self, payload: Payload, selector: PointSelector) -> Result<Seq> {
        Ok(self.change(&self.ids(selector), |point| point.payload = payload.clone()))
    }
    pub async fn delete_payload(&self, keys: Vec<String>, selector: PointSelector) -> Result<Seq> {
        Ok(self.change(&self.ids(selector), |point| {
            point.payload.retain(|key, _| !keys.contains(key))
        }))
    }
    pub async fn clear_payload(&self, selector: PointSelector) -> Result<Seq> {
        Ok(self.change(&self.ids(selector), |point| point.payload.clear()))
    }
    pub async fn update_vectors(&self, updates: Vec<(PointId, NamedVectors)>) -> Result<Seq> {
        let mut last = 0;
        for (id, vectors) in updates {
            self.check(&vectors)?;
            last = self.change(&[id], |point| {
                vectors
                    .iter()
                    .for_each(|(name, vector)| point.vectors.insert(name.to_owned(), vector.to_vec()))
            });
        }
        Ok(last)
    }
    pub async fn delete_vectors(&self, names: Vec<String>, selector: PointSelector) -> Result<Seq> {
        Ok(self.change(&self.ids(selector), |point| {
            names.iter().for_each(|name| point.vectors.remove(name))
        }))
    }
    fn record(point: &Point, select: &Selection) -> Record {
        let payload = match &select.payload {
            PayloadSelector::None => None,
            PayloadSelector::All => Some(point.payload.clone()),
            PayloadSelector::Include(keys) => {
                let kept = point.payload.iter().filter(|(key, _)| keys.contains(key));
                Some(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            PayloadSelector::Exclude(keys) => {
                let kept = point.payload.iter().filter(|(key, _)| !keys.contains(key));
                Some(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
        };
        let vectors = match &select.vectors {
            VectorSelector::None => None,
            VectorSelector::All => Some(point.vectors.clone()),
            VectorSelector::Names(names) => {
                let mut kept = NamedVectors::default();
                for (name, vector) in point
                    .vectors
                    .iter()
                    .filter(|(name, _)| names.iter().any(|own| own == name))
                {
                    kept.insert(name.to_owned(), vector.to_vec());
                }
                Some(kept)
            }
        };
        Record {
            id: point.id,
            payload,
            vectors,
        }
    }
    pub async fn retrieve(&self, ids: &[PointId], select: &Selection) -> Result<Vec<Record>> {
        let points = self.points.read();
        Ok(ids
            .iter()
            .filter_map(|id| points.1.get(id))
            .map(|point| Self::record(point, select))
            .collect())
    }
    pub async fn scroll(
        &self,
        filter: Option<Filter>,
        offset: Option<PointId>,
        limit: usize,
        select: &Selection,
    ) -> Result<(Vec<Record>, Option<PointId>)> {
        let points = self.points.read();
        let matching = points
            .1
            .values()
            .filter(|point| filter.as_ref().is_none_or(|filter| filter.matches(point)));
        let mut rest = matching.filter(|point| offset.is_none_or(|offset| point.id >= offset));
        let page = rest
            .by_ref()
            .take(limit)
            .map(|point| Self::record(point, select))
            .collect();
        Ok((page, rest.next().map(|point| point.id)))
    }
    pub async fn count(&self, filter: Option<&Filter>) -> Result<u64> {
        let points = self.points.read();
        Ok(points
            .1
            .values()
            .filter(|point| filter.is_none_or(|filter| filter.matches(point)))
            .count() as u64)
    }
    pub async fn query(&self, query: &Query) -> Result<Vec<ScoredPoint>> {
        let mut probe = NamedVectors::default();
        probe.insert(query.using.clone(), query.vector.clone());
        self.check(&probe)?;
        let description = self.description();
        let smaller = matches!(
            description.schema.vectors[&query.using].distance,
            Distance::Euclid | Distance::Manhattan
        );
        let points = self.points.read();
        let mut found: Vec<ScoredPoint> = (points.1.values())
            .filter(|point| query.filter.as_ref().is_none_or(|filter| filter.matches(point)))
            .filter_map(|point| {
                let vector = point.vectors.get(&query.using)?;
                let dot: f32 = vector.iter().zip(&query.vector).map(|(a, b)| a * b).sum();
                let square: f32 = vector.iter().zip(&query.vector).map(|(a, b)| (a - b) * (a - b)).sum();
                let score = if smaller { square.sqrt() } else { dot };
                let record = Self::record(point, &query.select);
                let (id, version) = (point.id, points.0);
                Some(ScoredPoint {
                    id,
                    version,
                    score,
                    payload: record.payload,
                    vectors: record.vectors,
                })
            })
            .collect();
        found.sort_by(|a, b| {
            if smaller {
                a.score.total_cmp(&b.score)
            } else {
                b.score.total_cmp(&a.score)
            }
        });
        Ok(found.into_iter().skip(query.offset).take(query.limit).collect())
    }
    pub fn info(&self) -> CollectionInfo {
        CollectionInfo {
            points: self.points.read().1.len() as u64,
            segments: 1,
            ..CollectionInfo::default()
        }
    }
    pub async fn flush(&self) -> Result<()> {
        Ok(())
    }
    pub async fn compact(&self) -> Result<()> {
        Ok(())
    }
}
