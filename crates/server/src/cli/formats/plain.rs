//! JSON lines, npy (matrix of f4 or f8) and fvecs (dimension, then floats, for each vector).

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use npyz::WriterBuilder;
use proximadb_db::point::PointId;
use serde_json::{Map, Value, json};

use super::{Columns, FilePoint, PointReader, PointWriter, numbers};

/// A vector in an fvecs file has at most this many dimensions; more means the file is something else.
const DIM_MAX: usize = 65_535;

pub fn open_jsonl(path: &Path, columns: &Columns) -> Result<PointReader, String> {
    let lines = BufReader::new(File::open(path).map_err(|e| e.to_string())?).lines();
    let columns = columns.clone();
    let parse = move |(number, line): (usize, std::io::Result<String>)| {
        let line = line.map_err(|e| e.to_string())?;
        json_point(&line, &columns).map_err(|reason| format!("line {}: {reason}", number + 1))
    };
    Ok(PointReader {
        total: None,
        points: Box::new(lines.enumerate().map(parse)),
    })
}

/// One line: an object with the id, the vector, and either a `payload` object or the payload's fields beside them.
fn json_point(line: &str, columns: &Columns) -> Result<FilePoint, String> {
    let mut object: Map<String, Value> = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let mut take = |name: &str| object.remove(name).ok_or_else(|| format!("no `{name}`"));
    let (id, vector) = (take(&columns.id)?, take(&columns.vector)?);
    let payload = match object.remove("payload") {
        Some(Value::Object(payload)) => payload,
        Some(other) => return Err(format!("payload: expected an object, found {other}")),
        None => object,
    };
    Ok(FilePoint { id, vector, payload })
}

pub fn open_npy(path: &Path) -> Result<PointReader, String> {
    let open = || File::open(path).map(BufReader::new).map_err(|e| e.to_string());
    let file = npyz::NpyFile::new(open()?).map_err(|e| e.to_string())?;
    let &[rows, dim] = file.shape() else {
        return Err(format!("expected a matrix, found shape {:?}", file.shape()));
    };
    if file.order() != npyz::Order::C {
        return Err("expected row-major (C) order".to_owned());
    }
    let values: Box<dyn Iterator<Item = std::io::Result<f32>> + Send> = match file.data::<f32>() {
        Ok(values) => Box::new(values),
        Err(_) => {
            let file = npyz::NpyFile::new(open()?).map_err(|e| e.to_string())?;
            Box::new(
                file.data::<f64>()
                    .map_err(|e| e.to_string())?
                    .map(|value| value.map(|v| v as f32)),
            )
        }
    };
    let mut values = values;
    let read = move |row: u64| {
        let vector: Vec<f32> = values
            .by_ref()
            .take(dim as usize)
            .collect::<std::io::Result<_>>()
            .map_err(|e| e.to_string())?;
        Ok(bare_point(row, &vector))
    };
    Ok(PointReader {
        total: Some(rows),
        points: Box::new((0..rows).map(read)),
    })
}

pub fn open_fvecs(path: &Path) -> Result<PointReader, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let bytes = file.metadata().map_err(|e| e.to_string())?.len();
    let mut file = BufReader::new(file);
    let mut dim = None;
    let read = move |row: u64| match read_fvec(&mut file) {
        Ok(Some(vector)) if dim.is_none_or(|dim| dim == vector.len()) => {
            dim = Some(vector.len());
            Some(Ok(bare_point(row, &vector)))
        }
        Ok(Some(vector)) => Some(Err(format!(
            "vector {row} has {} dimensions, the first another number",
            vector.len()
        ))),
        Ok(None) => None,
        Err(reason) => Some(Err(format!("vector {row}: {reason}"))),
    };
    let first = read_fvec(&mut BufReader::new(File::open(path).map_err(|e| e.to_string())?))?;
    let total = first.map_or(0, |vector| bytes / (4 + 4 * vector.len() as u64));
    Ok(PointReader {
        total: Some(total),
        points: Box::new((0..).map_while(read)),
    })
}

/// The same with whole numbers, as data sets have the true neighbours.
pub fn open_ivecs(path: &Path) -> Result<Vec<Vec<PointId>>, String> {
    let mut file = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let mut lists = Vec::new();
    while let Some(words) = read_words(&mut file).map_err(|reason| format!("list {}: {reason}", lists.len()))? {
        lists.push(
            words
                .into_iter()
                .map(|word| PointId::Num(u32::from_le_bytes(word).into()))
                .collect(),
        );
    }
    Ok(lists)
}

fn read_fvec(file: &mut impl Read) -> Result<Option<Vec<f32>>, String> {
    let words = read_words(file)?;
    Ok(words.map(|words| words.into_iter().map(f32::from_le_bytes).collect()))
}

/// The words of a vector behind their number.
fn read_words(file: &mut impl Read) -> Result<Option<Vec<[u8; 4]>>, String> {
    let mut word = [0; 4];
    match file.read_exact(&mut word) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(|e| e.to_string())?,
    }
    let dim = u32::from_le_bytes(word) as usize;
    if !(1..=DIM_MAX).contains(&dim) {
        return Err(format!("{dim} is no number of dimensions"));
    }
    let mut bytes = vec![0; dim * 4];
    file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok(Some(words.to_vec()))
}

fn bare_point(row: u64, vector: &[f32]) -> FilePoint {
    FilePoint {
        id: json!(row),
        vector: json!(vector),
        payload: Map::new(),
    }
}

struct JsonLines(BufWriter<File>);

pub fn create_jsonl(path: &Path) -> Result<Box<dyn PointWriter>, String> {
    Ok(Box::new(JsonLines(BufWriter::new(
        File::create(path).map_err(|e| e.to_string())?,
    ))))
}

impl PointWriter for JsonLines {
    fn write(&mut self, points: &[FilePoint]) -> Result<(), String> {
        points
            .iter()
            .try_for_each(|point| writeln!(self.0, "{}", point.to_json()))
            .map_err(|e| e.to_string())
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        self.0.flush().map_err(|e| e.to_string())
    }
}

/// npy names its shape first, so the rows are kept until the number of them is known.
struct Npy {
    file: BufWriter<File>,
    dim: usize,
    values: Vec<f32>,
}

pub fn create_npy(path: &Path) -> Result<Box<dyn PointWriter>, String> {
    let file = BufWriter::new(File::create(path).map_err(|e| e.to_string())?);
    Ok(Box::new(Npy {
        file,
        dim: 0,
        values: Vec::new(),
    }))
}

impl PointWriter for Npy {
    fn write(&mut self, points: &[FilePoint]) -> Result<(), String> {
        for point in points {
            let vector = numbers(&point.vector)?;
            self.dim = vector.len();
            self.values.extend(vector);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        let Self { file, dim, values } = *self;
        let rows = values.len() / dim.max(1);
        let options = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[rows as u64, dim as u64])
            .writer(file);
        let mut writer = options.begin_nd().map_err(|e| e.to_string())?;
        writer.extend(values).map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())
    }
}

struct Fvecs(BufWriter<File>);

pub fn create_fvecs(path: &Path) -> Result<Box<dyn PointWriter>, String> {
    Ok(Box::new(Fvecs(BufWriter::new(
        File::create(path).map_err(|e| e.to_string())?,
    ))))
}

impl PointWriter for Fvecs {
    fn write(&mut self, points: &[FilePoint]) -> Result<(), String> {
        for point in points {
            let vector = numbers(&point.vector)?;
            let mut bytes = (vector.len() as u32).to_le_bytes().to_vec();
            bytes.extend(vector.iter().flat_map(|number| number.to_le_bytes()));
            self.0.write_all(&bytes).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        self.0.flush().map_err(|e| e.to_string())
    }
}
