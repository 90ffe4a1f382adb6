//! Search over HTTP against search in process: the same queries on the same collection, in one run, in interleaved rounds.
//! `cargo bench -p proximadb --bench search [-- FILE.parquet QUERIES.parquet]`; without files the product's sample, whose
//! rows are then the queries too. The data goes below `TMPDIR`.
//!
//! Server and clients share the machine, so HTTP pays for both ends. A client is a thread with a connection of its own
//! that writes a request prepared beforehand and reads the answer by its Content-Length; it parses no JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use proximadb::api::{App, Settings};
use proximadb::serve::serve;
use proximadb_db::config::Config;
use proximadb_db::point::{Point, PointId};
use proximadb_db::{Collection, Database};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[path = "../tests/it/packages.rs"]
mod packages;
use packages::{BATCH, LIMIT, NAME, SAMPLE, query, read, read_points, until_indexed, vector};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);
/// Upserts in flight: as many as `proximadb import` has.
const WRITERS: usize = 4;

fn ids(collection: &Collection, vector: &[f32], exact: bool) -> Vec<PointId> {
    let found = block_on(collection.query(query(vector, exact))).unwrap();
    found.iter().map(|hit| hit.id).collect()
}

/// Opens a database below `directory`, fills it with `points`, and waits until every vector is indexed.
async fn prepare(directory: &Path, points: Vec<Point>) -> (Arc<Database>, Arc<Collection>) {
    let dimensions = points[0].vectors.get("").unwrap().len();
    let (database, collection) = packages::open(directory, dimensions, &[]).await;
    let count = points.len();
    let batches: Vec<Vec<Point>> = points.chunks(BATCH).map(<[Point]>::to_vec).collect();
    let queue = Arc::new(parking_lot::Mutex::new(batches.into_iter()));
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (collection, queue) = (collection.clone(), queue.clone());
            tokio::spawn(async move {
                let next = || queue.lock().next();
                while let Some(batch) = next() {
                    collection.upsert(batch).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "import: {count} points in {seconds:.2} s, {:.0} points/s, each durable before its ack",
        count as f64 / seconds
    );

    let began = Instant::now();
    collection.flush().await.unwrap();
    collection.compact().await.unwrap();
    println!("flush and compaction: {:.2} s", began.elapsed().as_secs_f64());
    until_indexed(&collection).await;
    let info = collection.info().unwrap();
    println!(
        "indexed after {:.2} s: {} vectors of {dimensions} dimensions, {} segments",
        began.elapsed().as_secs_f64(),
        info.indexed_vectors,
        info.segments
    );
    (database, collection)
}

/// The bytes of the request for `vector`.
fn request(vector: &[f32]) -> Vec<u8> {
    let body = json!({ "query": vector, "limit": LIMIT }).to_string();
    let length = body.len();
    let head = "Host: localhost\r\nContent-Type: application/json";
    format!("POST /collections/{NAME}/points/query HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// One connection that is kept alive.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: vec![0; 64 << 10],
        }
    }

    /// Sends a request and returns the body of its answer, which must be a success.
    fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).unwrap();
        let mut end = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[end..]).unwrap();
            assert!(read > 0, "connection closed, or an answer larger than the buffer");
            end += read;
            let Some(head) = self.buffer[..end].windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.buffer[..head]).unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            if end >= head + 4 + length.parse::<usize>().unwrap() {
                return &self.buffer[head + 4..end];
            }
        }
    }
}

/// Who asks: threads that call the database, or clients with connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    InProcess(usize),
    Http(usize),
}

const LOADS: [Load; 5] = [
    Load::InProcess(1),
    Load::InProcess(2),
    Load::Http(1),
    Load::Http(2),
    Load::Http(8),
];

/// What all rounds share.
struct Bench {
    collection: Arc<Collection>,
    address: SocketAddr,
    queries: Vec<Vec<f32>>,
    requests: Vec<Vec<u8>>,
}

impl Bench {
    /// Asks for one round; returns queries per second, and adds the microseconds of every answer to `times`.
    fn round(&self, load: Load, times: &mut Vec<f64>) -> f64 {
        let (Load::InProcess(threads) | Load::Http(threads)) = load;
        let start = Barrier::new(threads);
        let asker = |thread: usize| {
            let mut client = matches!(load, Load::Http(_)).then(|| Client::connect(self.address));
            let mut ask = |at: usize| match &mut client {
                Some(client) => black_box(client.ask(&self.requests[at])).len(),
                None => black_box(block_on(self.collection.query(query(&self.queries[at], false))).unwrap()).len(),
            };
            let (mut micros, mut at) = (Vec::new(), thread * self.queries.len() / threads);
            start.wait();
            let began = Instant::now();
            while began.elapsed() < ROUND {
                let asked = Instant::now();
                assert!(ask(at % self.queries.len()) >= LIMIT);
                micros.push(asked.elapsed().as_secs_f64() * 1e6);
                at += 1;
            }
            (micros.len() as f64 / began.elapsed().as_secs_f64(), micros)
        };
        std::thread::scope(|scope| {
            let asker = &asker;
            let askers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || asker(thread))).collect();
            let mut rate = 0.0;
            for asker in askers {
                let (own, micros) = asker.join().unwrap();
                rate += own;
                times.extend(micros);
            }
            rate
        })
    }

    /// Both ways must find the same, or their speeds could not be compared.
    fn check(&self) {
        let mut client = Client::connect(self.address);
        for (vector, request) in self.queries.iter().zip(&self.requests) {
            let answer: Value = serde_json::from_slice(client.ask(request)).unwrap();
            let points = answer["result"]["points"].as_array().unwrap().iter();
            let found: Vec<PointId> = points
                .map(|point| serde_json::from_value(point["id"].clone()).unwrap())
                .collect();
            assert_eq!(found, ids(&self.collection, vector, false));
        }
    }

    fn print_recall(&self) {
        let began = Instant::now();
        let truth: Vec<_> = self
            .queries
            .iter()
            .map(|vector| ids(&self.collection, vector, true))
            .collect();
        let exact = began.elapsed().as_secs_f64() / truth.len() as f64;
        let found = self.queries.iter().map(|vector| ids(&self.collection, vector, false));
        let hits = |(found, truth): (Vec<PointId>, &Vec<PointId>)| truth.iter().filter(|id| found.contains(id)).count();
        let hits: usize = found.zip(&truth).map(hits).sum();
        let recall = hits as f64 / (truth.len() * LIMIT) as f64;
        println!(
            "recall@{LIMIT}: {recall:.4} over {} queries; exact search takes {:.0} us",
            truth.len(),
            exact * 1e6
        );
    }
}

/// CPU time of this process, in seconds: unlike rates it does not depend on what else the machine does.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    // utime and stime, fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks: f64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    percentile(&mut values, 0.5)
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

fn measure(bench: &Bench) {
    let mut rates: [Vec<f64>; LOADS.len()] = Default::default();
    let mut times: [Vec<f64>; LOADS.len()] = Default::default();
    let mut cpu = [0.0; LOADS.len()];
    for _ in 0..ROUNDS {
        for (at, &load) in LOADS.iter().enumerate() {
            let before = cpu_seconds();
            rates[at].push(bench.round(load, &mut times[at]));
            cpu[at] += cpu_seconds() - before;
        }
    }
    println!(
        "{ROUNDS} interleaved rounds of {ROUND:?} each; medians of rates, and of the rounds' ratios to threads in process\n"
    );
    let [qps, p50, p99, cpu_us] = ["QPS", "p50 us", "p99 us", "CPU us/q."];
    println!(
        "{:<14} {qps:>8} {p50:>8} {p99:>8} {cpu_us:>10} / 1 thread / 2 threads",
        ""
    );
    for (at, load) in LOADS.iter().enumerate() {
        let ratios = |of: usize| rates[at].iter().zip(&rates[of]).map(|(own, other)| own / other);
        let (to_one, to_two) = (median(ratios(0).collect()), median(ratios(1).collect()));
        let cpu_us = cpu[at] * 1e6 / times[at].len() as f64;
        let (p50, p99) = (percentile(&mut times[at], 0.5), percentile(&mut times[at], 0.99));
        let (name, rate) = (format!("{load:?}"), median(rates[at].clone()));
        println!("{name:<14} {rate:>8.0} {p50:>8.0} {p99:>8.0} {cpu_us:>10.1} {to_one:>10.2} {to_two:>11.2}");
    }
}

fn main() {
    let mut given = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .map(PathBuf::from);
    let file = given.next().unwrap_or_else(|| SAMPLE.into());
    let asked = given.next().unwrap_or_else(|| file.clone());
    // Files of queries need no ids; that of the sample data has the true neighbours in their place.
    let asked = read(&asked, "id").or_else(|_| read(&asked, "nearest100"));
    let queries: Vec<Vec<f32>> = asked.unwrap().map(|row| vector(&row)).collect();
    let points = read_points(&file);
    let directory = tempfile::tempdir().unwrap();
    println!("{} below {}", file.display(), directory.path().display());
    let runtime = Runtime::new().unwrap();
    let (database, collection) = runtime.block_on(prepare(directory.path(), points));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let bench = Bench {
        collection,
        address: listener.local_addr().unwrap(),
        requests: queries.iter().map(|vector| request(vector)).collect(),
        queries,
    };
    let settings = Settings::from(&Config::load(None, std::iter::empty()).unwrap().server);
    let app = App::new(database, settings);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = runtime.spawn(serve(listener, app, async { drop(stopped.await) }));
    bench.check();
    bench.print_recall();
    measure(&bench);
    drop(stop);
    runtime.block_on(server).unwrap().unwrap();
}
