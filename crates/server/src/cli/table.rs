//! JSON rows as a table for people: one line an object, one column a key, nested objects left out.

use serde_json::Value;

/// Prints a list of objects, or an object of objects whose keys become the first column.
pub fn print(rows: &Value) {
    let rows: Vec<(Option<&str>, &Value)> = match rows {
        Value::Array(rows) => rows.iter().map(|row| (None, row)).collect(),
        Value::Object(named) => named.iter().map(|(name, row)| (Some(name.as_str()), row)).collect(),
        _ => Vec::new(),
    };
    let Some((first_name, _)) = rows.first() else {
        println!("(nothing)");
        return;
    };
    let mut columns: Vec<&str> = Vec::new();
    for (_, row) in &rows {
        for (key, value) in row.as_object().into_iter().flatten() {
            if !value.is_object() && !columns.contains(&key.as_str()) {
                columns.push(key);
            }
        }
    }
    let name = first_name.map(|_| "name");
    let header: Vec<String> = name
        .into_iter()
        .chain(columns.iter().copied())
        .map(str::to_owned)
        .collect();
    let lines: Vec<Vec<String>> = rows.iter().map(|(name, row)| line(*name, row, &columns)).collect();
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

fn line(name: Option<&str>, row: &Value, columns: &[&str]) -> Vec<String> {
    let cells = columns.iter().map(|column| text(&row[*column]));
    name.map(str::to_owned).into_iter().chain(cells).collect()
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
