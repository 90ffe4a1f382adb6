//! `import` and `export`: points between files and a running server, with a progress bar.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use super::client::{Client, encode_segment};
use super::formats::{self, Columns, FilePoint};

/// Points sent or asked for in one request: about 1.5 MB of JSON at 384 dimensions.
const BATCH_POINTS: usize = 256;
/// Requests in flight at once: the log gathers them into one sync.
const PARALLEL_REQUESTS: usize = 4;

/// What a transfer did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transferred {
    /// Points sent or received.
    pub points: u64,
    /// Points that `resume` found on the server and did not send again.
    pub skipped: u64,
    /// Seconds from start to end.
    pub seconds: f64,
}

impl Transferred {
    /// Points per second.
    pub fn rate(&self) -> f64 {
        self.points as f64 / self.seconds.max(1e-9)
    }

    /// As the answer of a command with `--json`.
    pub fn to_json(self) -> Value {
        json!({ "points": self.points, "skipped": self.skipped, "seconds": self.seconds, "points_per_second": self.rate() })
    }
}

/// Sends the points of a file to a collection, which is created from the first point if it is missing.
///
/// # Errors
/// A sentence that names the file and row, or the server's reason.
pub fn import(client: &Client, file: &Path, columns: &Columns, into: &Target) -> Result<Transferred, String> {
    let mut reader = formats::open(file, columns)?;
    let progress = progress_bar(reader.total);
    let started = Instant::now();
    let mut done = Transferred {
        points: 0,
        skipped: 0,
        seconds: 0.0,
    };
    let mut row = 0;
    loop {
        let mut batches: Vec<Vec<FilePoint>> = Vec::new();
        while batches.len() < PARALLEL_REQUESTS {
            let batch: Vec<FilePoint> = reader
                .points
                .by_ref()
                .take(BATCH_POINTS)
                .collect::<Result<_, _>>()
                .map_err(|reason| {
                    format!(
                        "{} after row {row}: {reason}; what was sent before is stored",
                        file.display()
                    )
                })?;
            if batch.is_empty() {
                break;
            }
            row += batch.len();
            batches.push(batch);
        }
        let Some(first) = batches.first().and_then(|batch| batch.first()) else {
            break;
        };
        if done.points + done.skipped == 0 {
            into.create_if_missing(client, first)?;
        }
        for sent in send_all(client, into, batches)? {
            done.points += sent.points;
            done.skipped += sent.skipped;
            progress.inc(sent.points + sent.skipped);
        }
    }
    progress.finish_and_clear();
    done.seconds = started.elapsed().as_secs_f64();
    Ok(done)
}

/// Writes all points of a collection to a file.
///
/// # Errors
/// A sentence that names the file, or the server's reason. The file is then incomplete.
pub fn export(client: &Client, collection: &str, file: &Path) -> Result<Transferred, String> {
    let path = format!("/collections/{}/points", encode_segment(collection));
    let total = client.post(&format!("{path}/count"), &json!({}))?["count"].as_u64();
    let mut writer = formats::create(file)?;
    let progress = progress_bar(total);
    let started = Instant::now();
    let mut done = Transferred {
        points: 0,
        skipped: 0,
        seconds: 0.0,
    };
    let mut offset = Value::Null;
    loop {
        let body = json!({ "limit": BATCH_POINTS, "offset": offset, "with_payload": true, "with_vector": true });
        let mut page = client.post(&format!("{path}/scroll"), &body)?;
        let Value::Array(points) = page["points"].take() else {
            return Err("the server answered without points".to_owned());
        };
        let points: Vec<FilePoint> = points.into_iter().map(from_answer).collect();
        writer
            .write(&points)
            .map_err(|reason| format!("{}: {reason}", file.display()))?;
        done.points += points.len() as u64;
        progress.inc(points.len() as u64);
        offset = page["next_page_offset"].take();
        if offset.is_null() {
            break;
        }
    }
    writer
        .finish()
        .map_err(|reason| format!("{}: {reason}", file.display()))?;
    progress.finish_and_clear();
    done.seconds = started.elapsed().as_secs_f64();
    Ok(done)
}

fn from_answer(mut point: Value) -> FilePoint {
    let payload = match point["payload"].take() {
        Value::Object(payload) => payload,
        _ => Map::new(),
    };
    FilePoint {
        id: point["id"].take(),
        vector: point["vector"].take(),
        payload,
    }
}

/// Where an import goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name of the collection.
    pub collection: String,
    /// Distance of the collection if it has to be created.
    pub distance: String,
    /// Skip points that the server already has.
    pub resume: bool,
}

impl Target {
    fn path(&self) -> String {
        format!("/collections/{}", encode_segment(&self.collection))
    }

    fn create_if_missing(&self, client: &Client, first: &FilePoint) -> Result<(), String> {
        if client.get(&format!("{}/exists", self.path()))?["exists"] == json!(true) {
            return Ok(());
        }
        let space =
            |vector: &Value| json!({ "size": vector.as_array().map_or(0, Vec::len), "distance": self.distance });
        let vectors = match &first.vector {
            Value::Object(named) => named
                .iter()
                .map(|(name, vector)| (name.clone(), space(vector)))
                .collect(),
            vector => space(vector),
        };
        client.put(&self.path(), &json!({ "vectors": vectors })).map(|_| ())
    }

    fn send(&self, client: &Client, mut batch: Vec<FilePoint>) -> Result<Transferred, String> {
        let all = batch.len() as u64;
        if self.resume {
            let ids: Vec<&Value> = batch.iter().map(|point| &point.id).collect();
            let found = client.post(
                &format!("{}/points", self.path()),
                &json!({ "ids": ids, "with_payload": false }),
            )?;
            let found: Vec<Value> = found
                .as_array()
                .map_or_else(Vec::new, |points| points.iter().map(|p| p["id"].clone()).collect());
            batch.retain(|point| !found.contains(&point.id));
        }
        if !batch.is_empty() {
            let points: Vec<Value> = batch.iter().map(FilePoint::to_json).collect();
            client.put(
                &format!("{}/points?wait=true", self.path()),
                &json!({ "points": points }),
            )?;
        }
        Ok(Transferred {
            points: batch.len() as u64,
            skipped: all - batch.len() as u64,
            seconds: 0.0,
        })
    }
}

/// Sends batches at once, each on a connection of its own.
fn send_all(client: &Client, into: &Target, batches: Vec<Vec<FilePoint>>) -> Result<Vec<Transferred>, String> {
    std::thread::scope(|scope| {
        let sending: Vec<_> = batches
            .into_iter()
            .map(|batch| scope.spawn(move || into.send(client, batch)))
            .collect();
        let finished = sending
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a sending thread failed".to_owned())?);
        finished.collect()
    })
}

/// A bar with rate and time left on a terminal; nothing when the output goes elsewhere.
fn progress_bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {human_pos}/{human_len} points  {per_sec}  {eta} left",
        ),
        None => (ProgressBar::no_length(), "{spinner} {human_pos} points  {per_sec}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
