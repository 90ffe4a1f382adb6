//! Files that points come from and go to: Parquet, JSON lines, npy and fvecs, told apart by their extension.

mod parquet_file;
mod plain;

use std::path::Path;

use proximadb_db::point::PointId;
use serde_json::{Map, Value, json};

/// A point outside the server, as it stands in a request: id, vector (a list, or a map of named vectors) and payload.
#[derive(Debug, Clone, PartialEq)]
pub struct FilePoint {
    /// A number or a UUID string.
    pub id: Value,
    /// A list of numbers, or an object of named lists.
    pub vector: Value,
    /// JSON object.
    pub payload: Map<String, Value>,
}

impl FilePoint {
    /// The point as the API takes it.
    pub fn to_json(&self) -> Value {
        json!({ "id": self.id, "vector": self.vector, "payload": self.payload })
    }
}

/// Which columns or keys of a file are the id and the vector; all others are payload.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Column of the id. The column of the vector: there are no ids, and rows are numbered.
    pub id: String,
    /// Column of the vector.
    pub vector: String,
}

/// Points of a file in order, and how many there are if the format says so.
pub struct PointReader {
    /// Number of points, if known before reading.
    pub total: Option<u64>,
    /// The points; an error ends the file.
    pub points: Box<dyn Iterator<Item = Result<FilePoint, String>> + Send>,
}

/// A file that points are written to.
pub trait PointWriter {
    /// Appends points.
    ///
    /// # Errors
    /// A sentence that says what could not be written.
    fn write(&mut self, points: &[FilePoint]) -> Result<(), String>;

    /// Completes the file.
    ///
    /// # Errors
    /// A sentence that says what could not be written.
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// Opens a file of points.
///
/// # Errors
/// A sentence that names the file and what is wrong with it.
pub fn open(path: &Path, columns: &Columns) -> Result<PointReader, String> {
    let reader = match extension(path) {
        "parquet" | "vpr" => parquet_file::open(path, columns),
        "jsonl" | "ndjson" => plain::open_jsonl(path, columns),
        "npy" => plain::open_npy(path),
        "fvecs" => plain::open_fvecs(path),
        other => Err(unknown(other)),
    };
    let mut reader = reader.map_err(|reason| format!("{}: {reason}", path.display()))?;
    if columns.id == columns.vector {
        let number = |(row, point): (usize, Result<FilePoint, String>)| {
            Ok(FilePoint {
                id: json!(row),
                ..point?
            })
        };
        reader.points = Box::new(reader.points.enumerate().map(number));
    }
    Ok(reader)
}

/// The lists of row numbers in an .ivecs file.
///
/// # Errors
/// A sentence that names the file and what is wrong with it.
pub fn open_ivecs(path: &Path) -> Result<Vec<Vec<PointId>>, String> {
    plain::open_ivecs(path).map_err(|reason| format!("{}: {reason}", path.display()))
}

/// Creates a file of points.
///
/// # Errors
/// A sentence that names the file and what is wrong with it.
pub fn create(path: &Path) -> Result<Box<dyn PointWriter>, String> {
    let writer = match extension(path) {
        "parquet" => parquet_file::create(path),
        "jsonl" | "ndjson" => plain::create_jsonl(path),
        "npy" => plain::create_npy(path),
        "fvecs" => plain::create_fvecs(path),
        other => Err(unknown(other)),
    };
    writer.map_err(|reason| format!("{}: {reason}", path.display()))
}

fn extension(path: &Path) -> &str {
    path.extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
}

fn unknown(extension: &str) -> String {
    format!("unknown format `.{extension}`; use .parquet, .jsonl, .npy or .fvecs")
}

/// The numbers of an unnamed vector.
///
/// # Errors
/// For vectors by name.
pub fn numbers(vector: &Value) -> Result<Vec<f32>, String> {
    let list = vector
        .as_array()
        .ok_or("this format holds one unnamed vector a point; export named vectors to .jsonl")?;
    Ok(list
        .iter()
        .map(|number| number.as_f64().unwrap_or(f64::NAN) as f32)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns {
            id: "id".to_owned(),
            vector: "vector".to_owned(),
        }
    }

    fn check(extension: &str, points: &[FilePoint]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("points.{extension}"));
        let mut writer = create(&path).unwrap();
        writer.write(&points[..1]).unwrap();
        writer.write(&points[1..]).unwrap();
        writer.finish().unwrap();
        let columns = columns();
        let read: Vec<FilePoint> = open(&path, &columns).unwrap().points.map(Result::unwrap).collect();
        assert_eq!(read, points);
    }

    fn point(id: Value, vector: [f32; 2], payload: Value) -> FilePoint {
        let Value::Object(payload) = payload else {
            panic!("payload is an object")
        };
        FilePoint {
            id,
            vector: json!(vector),
            payload,
        }
    }

    #[test]
    fn every_format_reads_back_what_it_wrote() {
        let rich = [
            point(json!(7), [1.0, -2.5], json!({"name": "a", "n": 3, "list": [1, 2]})),
            point(json!("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), [0.0, 1.5], json!({})),
        ];
        check("parquet", &rich);
        check("jsonl", &rich);
        let bare = [
            point(json!(0), [1.0, -2.5], json!({})),
            point(json!(1), [0.0, 1.5], json!({})),
        ];
        check("npy", &bare);
        check("fvecs", &bare);
    }

    #[test]
    fn a_file_of_which_a_byte_is_wrong_is_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let columns = columns();
        for extension in ["parquet", "jsonl", "npy", "fvecs"] {
            let path = directory.path().join(format!("points.{extension}"));
            let mut writer = create(&path).unwrap();
            writer.write(&[point(json!(0), [1.0, -2.5], json!({}))]).unwrap();
            writer.finish().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0xff;
                std::fs::write(&path, damaged).unwrap();
                // Whatever it says, it must not end the program.
                let _ = open(&path, &columns).map(|reader| reader.points.take(100).count());
            }
        }
    }

    #[test]
    fn a_damaged_or_unknown_file_is_named_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let columns = columns();
        for name in ["x.parquet", "x.npy", "x.txt"] {
            let path = directory.path().join(name);
            std::fs::write(&path, b"garbage").unwrap();
            let error = open(&path, &columns).err().unwrap();
            assert!(error.contains(name), "{error}");
        }
    }
}
