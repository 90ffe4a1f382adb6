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
    name.map(str::to_owned)
        .into_iter()
        .chain(columns(row).map(|(_, value)| text(value)))
        .collect()
}

/// A value without JSON's quotes; `-` for none.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A size as `3,178,106 bytes (3.03 MB)`, an MB being 1,048,576 bytes.
pub fn bytes(bytes: u64) -> String {
    let digits = bytes.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} bytes ({:.2} MB)", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_grouped_by_thousands_and_given_in_mb() {
        let check = |size, expected: &str| assert_eq!(bytes(size), expected);
        check(0, "0 bytes (0.00 MB)");
        check(999, "999 bytes (0.00 MB)");
        check(1_000, "1,000 bytes (0.00 MB)");
        check(3_178_106, "3,178,106 bytes (3.03 MB)");
        check(12_345_678_901, "12,345,678,901 bytes (11773.76 MB)");
    }
}
