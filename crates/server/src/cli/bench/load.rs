//! Those who ask: threads that call the database, and clients with a connection each that write a request prepared beforehand and read
//! the answer by its Content-Length; they parse no JSON.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use proximadb_db::point::PointId;
use proximadb_db::{Collection, Query};
use serde_json::{Value, json};

use super::super::formats::Columns;

/// Number of points that every query asks for.
pub const LIMIT: usize = 10;
/// Longest answer that is read.
const ANSWER_BYTES: usize = 64 << 10;

/// How a query is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    InProcess,
    Http,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in process",
            Self::Http => "HTTP",
        }
    }
}

/// A query of some effort (`hnsw_ef`); of none: by comparison with every point.
pub fn query(vector: &[f32], hnsw_ef: Option<usize>) -> Query {
    Query {
        exact: hnsw_ef.is_none(),
        hnsw_ef,
        ..Query::nearest(vector.to_vec(), LIMIT)
    }
}

/// Whom to ask.
pub struct Asked {
    pub columns: Columns,
    pub collection_name: &'static str,
    pub address: SocketAddr,
}

impl Asked {
    /// Queries of one effort, ready to be asked in any way.
    pub fn prepare<'a>(&self, collection: &'a Arc<Collection>, vectors: &'a [Vec<f32>], ef: usize) -> Prepared<'a> {
        Prepared {
            collection,
            address: self.address,
            vectors,
            ef,
            requests: vectors.iter().map(|vector| self.request(vector, ef)).collect(),
        }
    }

    fn request(&self, vector: &[f32], ef: usize) -> Vec<u8> {
        let body = json!({ "query": vector, "limit": LIMIT, "params": { "hnsw_ef": ef } }).to_string();
        let (name, length) = (self.collection_name, body.len());
        let head = "Host: localhost\r\nContent-Type: application/json";
        format!("POST /collections/{name}/points/query HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }
}

/// Queries of one effort.
pub struct Prepared<'a> {
    collection: &'a Arc<Collection>,
    address: SocketAddr,
    vectors: &'a [Vec<f32>],
    ef: usize,
    requests: Vec<Vec<u8>>,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Round {
    qps: f64,
    /// Of every answer.
    micros: Vec<f64>,
    cpu_s: f64,
}

impl Prepared<'_> {
    /// The ids that each query finds.
    ///
    /// # Errors
    /// If asking in one way finds other points than in the other: then their speeds could not be compared.
    pub fn answers(&self) -> Result<Vec<Vec<PointId>>, String> {
        let mut client = Client::connect(self.address)?;
        let mut answers = Vec::with_capacity(self.vectors.len());
        for (vector, request) in self.vectors.iter().zip(&self.requests) {
            let found = self.find(vector)?;
            let answer: Value = serde_json::from_slice(client.ask(request)?).map_err(|error| error.to_string())?;
            let points = answer["result"]["points"].as_array().into_iter().flatten();
            let over_http = points.map(|point| serde_json::from_value(point["id"].clone()));
            if over_http.collect::<Result<Vec<PointId>, _>>().ok().as_ref() != Some(&found) {
                return Err("a query finds other points over HTTP than in process".to_owned());
            }
            answers.push(found);
        }
        Ok(answers)
    }

    fn find(&self, vector: &[f32]) -> Result<Vec<PointId>, String> {
        let found = block_on(self.collection.query(query(vector, Some(self.ef))));
        Ok(found
            .map_err(|error| error.to_string())?
            .iter()
            .map(|hit| hit.id)
            .collect())
    }

    /// `clients` ask at once, each as fast as it is answered, for some time.
    ///
    /// # Errors
    /// If a query is not answered.
    pub fn round(&self, way: Way, clients: usize, time: Duration) -> Result<Round, String> {
        let (start, cpu) = (Barrier::new(clients), cpu_seconds());
        let ask = |client: usize| {
            let mut connection = match way {
                Way::Http => Some(Client::connect(self.address)),
                Way::InProcess => None,
            }
            .transpose();
            let (mut micros, mut at) = (Vec::new(), client * self.vectors.len() / clients);
            start.wait();
            let began = Instant::now();
            while began.elapsed() < time {
                let asked = Instant::now();
                match connection.as_mut().map_err(|error| error.clone())? {
                    Some(connection) => drop(black_box(connection.ask(&self.requests[at])?.len())),
                    None => drop(black_box(self.find(&self.vectors[at])?)),
                }
                micros.push(asked.elapsed().as_secs_f64() * 1e6);
                at = (at + 1) % self.vectors.len();
            }
            Ok((micros.len() as f64 / began.elapsed().as_secs_f64(), micros))
        };
        let answered = std::thread::scope(|scope| {
            let ask = &ask;
            let threads: Vec<_> = (0..clients).map(|client| scope.spawn(move || ask(client))).collect();
            let answered = threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| "a client failed".to_owned())?);
            answered.collect::<Result<Vec<(f64, Vec<f64>)>, String>>()
        })?;
        Ok(Round {
            qps: answered.iter().map(|(qps, _)| qps).sum(),
            micros: answered.into_iter().flat_map(|(_, micros)| micros).collect(),
            cpu_s: cpu_seconds() - cpu,
        })
    }
}

/// What several rounds say together.
pub struct Measured {
    /// The median.
    pub qps: f64,
    /// Of all answers.
    pub p50_us: f64,
    /// Of all answers.
    pub p99_us: f64,
    /// Of the whole process, so over HTTP that of both ends.
    pub cpu_us: f64,
}

impl Measured {
    pub fn of(rounds: Vec<Round>) -> Self {
        let mut rates: Vec<f64> = rounds.iter().map(|round| round.qps).collect();
        let cpu_s: f64 = rounds.iter().map(|round| round.cpu_s).sum();
        let mut micros: Vec<f64> = rounds.into_iter().flat_map(|round| round.micros).collect();
        Self {
            qps: quantile(&mut rates, 0.5),
            cpu_us: cpu_s * 1e6 / micros.len().max(1) as f64,
            p50_us: quantile(&mut micros, 0.5),
            p99_us: quantile(&mut micros, 0.99),
        }
    }
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * share) as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// One connection that is kept alive.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            buffer: vec![0; ANSWER_BYTES],
        })
    }

    /// Sends a request and returns the body of its answer.
    fn ask(&mut self, request: &[u8]) -> Result<&[u8], String> {
        self.stream.write_all(request).map_err(|error| error.to_string())?;
        let mut end = 0;
        loop {
            let room = self.buffer.get_mut(end..).unwrap_or_default();
            let read = self.stream.read(room).map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the connection was closed, or an answer is too long".to_owned());
            }
            end += read;
            let complete = head(self.buffer.get(..end).unwrap_or_default())?;
            if let Some((start, _)) = complete.filter(|(start, length)| end >= start + length) {
                return Ok(self.buffer.get(start..end).unwrap_or_default());
            }
        }
    }
}

/// Where the body of an answer starts and how long it is; nothing until the head is complete.
fn head(answer: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(answer.get(..end).unwrap_or_default());
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length.and_then(|length| length.parse().ok()) {
        Some(length) if text.starts_with("HTTP/1.1 200") => Ok(Some((end + 4, length))),
        _ => Err(format!("a query was answered with {text}")),
    }
}

/// CPU time of this process, in seconds: unlike rates it does not depend on what else the machine does.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit_once(')')
        .map_or("", |(_, fields)| fields)
        .split_whitespace();
    // utime and stime, fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// Memory that this process has in RAM.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
