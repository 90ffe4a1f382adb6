//! Parquet as data tools write it: any columns; the id and vector columns are named, the others become payload.
//! Files written here carry `id`, `vector` and the payload as one JSON column, and read back as they were.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value, json};

use super::{Columns, FilePoint, PointReader, PointWriter, numbers};

/// Rows decoded at once: bounds memory with wide vectors.
const BATCH_ROWS: usize = 1_024;

/// The Parquet library panics over some damaged files.
fn careful<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("the file is damaged: the Parquet reader panicked".to_owned()))
}

pub fn open(path: &Path, columns: &Columns) -> Result<PointReader, String> {
    careful(|| open_unchecked(path, columns))
}

fn open_unchecked(path: &Path, columns: &Columns) -> Result<PointReader, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| e.to_string())?;
    for name in [&columns.id, &columns.vector] {
        if builder.schema().field_with_name(name).is_err() {
            let names: Vec<_> = builder
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            return Err(format!("no column `{name}`; the file has {}", names.join(", ")));
        }
    }
    let total = builder.metadata().file_metadata().num_rows() as u64;
    let mut reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| e.to_string())?;
    let columns = columns.clone();
    let next = move || careful(|| reader.next().transpose().map_err(|e| e.to_string())).transpose();
    let points = std::iter::from_fn(next).flat_map(move |batch| match batch {
        Ok(batch) => (0..batch.num_rows())
            .map(|row| point(&batch, row, &columns))
            .collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    });
    Ok(PointReader {
        total: Some(total),
        points: Box::new(points),
    })
}

fn point(batch: &RecordBatch, row: usize, columns: &Columns) -> Result<FilePoint, String> {
    let (mut id, mut vector, mut payload) = (Value::Null, Value::Null, Map::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let value = value(column, row).map_err(|reason| format!("column `{}`: {reason}", field.name()))?;
        if *field.name() == columns.vector {
            vector = value;
        } else if *field.name() == columns.id {
            // A column of text may hold numbers, because ids of both forms share it.
            id = value
                .as_str()
                .and_then(|text| text.parse::<u64>().ok())
                .map_or(value, Value::from);
        } else if field.name() == "payload" && matches!(column.data_type(), DataType::Utf8) {
            let text = value.as_str().unwrap_or("{}");
            payload.extend(
                serde_json::from_str::<Map<String, Value>>(text).map_err(|e| format!("payload of row {row}: {e}"))?,
            );
        } else if !value.is_null() {
            payload.insert(field.name().clone(), value);
        }
    }
    Ok(FilePoint { id, vector, payload })
}

/// A cell as JSON.
fn value(column: &ArrayRef, row: usize) -> Result<Value, String> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => json!(column.as_string::<i64>().value(row)),
        DataType::Utf8View => json!(column.as_string_view().value(row)),
        DataType::List(_) => list(&column.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(_, _) => list(
            &column
                .as_any()
                .downcast_ref::<FixedSizeListArray>()
                .ok_or("not a list")?
                .value(row),
        )?,
        DataType::Float32 => json!(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::UInt64 => json!(column.as_primitive::<UInt64Type>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Int8 => json!(column.as_primitive::<arrow_array::types::Int8Type>().value(row)),
        DataType::Int16 => json!(column.as_primitive::<arrow_array::types::Int16Type>().value(row)),
        DataType::Int32 => json!(column.as_primitive::<arrow_array::types::Int32Type>().value(row)),
        DataType::UInt8 => json!(column.as_primitive::<arrow_array::types::UInt8Type>().value(row)),
        DataType::UInt16 => json!(column.as_primitive::<arrow_array::types::UInt16Type>().value(row)),
        DataType::UInt32 => json!(column.as_primitive::<arrow_array::types::UInt32Type>().value(row)),
        other => {
            return Err(format!(
                "type {other} is not supported; cast it to text, a number, a boolean or a list of them"
            ));
        }
    })
}

fn list(values: &ArrayRef) -> Result<Value, String> {
    (0..values.len()).map(|row| value(values, row)).collect()
}

/// The schema is known with the first points: the vectors' length is part of nothing, but empty files need none.
struct ParquetFile {
    writer: ArrowWriter<File>,
    schema: Arc<Schema>,
}

pub fn create(path: &Path) -> Result<Box<dyn PointWriter>, String> {
    let item = Arc::new(Field::new("element", DataType::Float32, false));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("vector", DataType::List(item), false),
        Field::new("payload", DataType::Utf8, false),
    ]));
    let file = File::create(path).map_err(|e| e.to_string())?;
    let writer = ArrowWriter::try_new(file, schema.clone(), None).map_err(|e| e.to_string())?;
    Ok(Box::new(ParquetFile { writer, schema }))
}

impl PointWriter for ParquetFile {
    fn write(&mut self, points: &[FilePoint]) -> Result<(), String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let ids = StringArray::from_iter_values(points.iter().map(|point| text(&point.id)));
        let vectors: Vec<Vec<f32>> = points
            .iter()
            .map(|point| numbers(&point.vector))
            .collect::<Result<_, _>>()?;
        let offsets = arrow_buffer::OffsetBuffer::from_lengths(vectors.iter().map(Vec::len));
        let item = Arc::new(Field::new("element", DataType::Float32, false));
        let values: ArrayRef = Arc::new(Float32Array::from_iter_values(vectors.into_iter().flatten()));
        let vectors = ListArray::try_new(item, offsets, values, None).map_err(|e| e.to_string())?;
        let payloads = StringArray::from_iter_values(
            points
                .iter()
                .map(|point| Value::Object(point.payload.clone()).to_string()),
        );
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(vectors), Arc::new(payloads)];
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| e.to_string())?;
        self.writer.write(&batch).map_err(|e| e.to_string())
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        self.writer.close().map(|_| ()).map_err(|e| e.to_string())
    }
}
