//! The effective configuration for a reader: as TOML that loads to the same values, and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Map, json};

use super::Config;
use super::effective::Setting;
use super::source::{Origin, OriginKind, render};

impl Config {
    /// The effective configuration as TOML, each value with its origin in a comment. It holds no secret: only the
    /// names of the variables that do.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut section = String::new();
        for setting in by_table(self.settings()) {
            let (table, name) = setting.path.split_at(setting.path.len() - 1);
            let (table, name) = (render(table), render(name));
            if table != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{table}]");
                section = table;
            }
            let _ = writeln!(text, "# {}.", setting.doc);
            let _ = match &setting.value {
                Some(value) => writeln!(text, "{name} = {value}  # {}", describe(&setting.origin)),
                None => writeln!(text, "# {name} is not set"),
            };
        }
        text
    }

    /// The effective configuration as one JSON object: the dotted key, and for each its `value` (null when it is not
    /// set), its `origin` (`default`, `file`, `env` or `legacy`) and `from` (the file and key or the variable), its `doc` and the module it is `read_by`.
    pub fn show_json(&self) -> serde_json::Value {
        let entries = self
            .settings()
            .iter()
            .map(|setting| (setting.key.clone(), entry(setting)));
        serde_json::Value::Object(entries.collect::<Map<_, _>>())
    }
}

/// The settings with those of one table together: TOML opens a table once. Tables and keys keep their order.
fn by_table(settings: &[Setting]) -> Vec<&Setting> {
    let table = |setting: &Setting| setting.path.split_last().map(|(_, table)| table.to_vec());
    let mut tables: Vec<_> = settings.iter().map(table).collect();
    let mut seen = BTreeSet::new();
    tables.retain(|table| seen.insert(table.clone()));
    let members = |wanted| settings.iter().filter(move |setting| table(setting) == wanted);
    tables.into_iter().flat_map(members).collect()
}

fn entry(setting: &Setting) -> serde_json::Value {
    let (kind, from) = (setting.origin.kind, &setting.origin.from);
    json!({ "value": setting.value, "origin": kind, "from": from, "doc": setting.doc, "read_by": setting.reader })
}

fn describe(origin: &Origin) -> String {
    match origin.kind {
        OriginKind::Default => "default".to_owned(),
        OriginKind::File => format!("file {}", origin.from),
        OriginKind::Env => format!("env {}", origin.from),
        OriginKind::Legacy => format!("legacy {}", origin.from),
    }
}
