//! JSON rows as a table for people: one line an object, one column a key, nested objects left out.

use serde_json::Value;

/// Prints a list of objects, or an object of objects whose keys become the first column.
pub fn print(rows: &Value) {
    let rows: Vec<(Option<&str>, &Value)> = match rows {
        Value::Array(rows) => rows.iter().map(|row| (None, row)).collect(),
        Value::Object(named) => named.iter().map(|(name, row)| (Some(name.as_str()), row)).collect(),
        _ => Vec::new(),
    };
    let lines: Vec<Vec<String>> = rows.iter().map(|(name, row)| line(*name, row)).collect();
    let Some((_, first)) = rows.first() else {
        println!("(nothing)");
        return;
    };
    let mut header: Vec<String> = if rows[0].0.is_some() {
        vec!["name".to_owned()]
    } else {
        Vec::new()
    };
    header.extend(columns(first).map(|(key, _)| key.clone()));
    let width = |at: usize| {
        lines
            .iter()
            .chain([&header])
            .filter_map(|line| line.get(at))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..header.len()).map(|at| width(at).unwrap_or(0)).collect();
    for line in std::iter::once(&header).chain(&lines) {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

fn columns(row: &Value) -> impl Iterator<Item = (&String, &Value)> {
    row.as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_object())
}

fn line(name: Option<&str>, row: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    name.map(str::to_owned)
        .into_iter()
        .chain(columns(row).map(|(_, value)| text(value)))
        .collect()
}
