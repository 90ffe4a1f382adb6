//! docs/config.md is generated from the key table. `UPDATE_EXPECT=1 cargo test` writes it anew.

use std::fmt::Write;

use super::super::keys::{Default, Form, KEYS, Key};
use super::super::source::{split, variable_name};
use super::repository;

const INTRODUCTION: &str = include_str!("introduction.md");

#[test]
fn the_reference_in_docs_is_what_the_key_table_says() {
    let path = repository().join("docs/config.md");
    let expected = reference();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        written, expected,
        "docs/config.md is stale: run `UPDATE_EXPECT=1 cargo test -p proximadb-db config`"
    );
}

#[test]
fn every_key_is_documented_in_one_line() {
    for key in KEYS {
        assert!(
            !key.doc.is_empty() && !key.doc.ends_with('.') && !key.doc.contains(['\n', '|']),
            "{}",
            key.path
        );
        assert!(!key.reader.is_empty(), "{}", key.path);
    }
}

fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut section = String::new();
    for key in KEYS {
        let (table, name) = heading(key.path);
        if table != section {
            let _ = write!(
                text,
                "\n### `[{table}]`\n\n| Key | Type | Default | Meaning | Read by |\n| --- | --- | --- | --- | --- |\n"
            );
            section = table;
        }
        let kind = key.kind.expected();
        let _ = writeln!(
            text,
            "| {} | {kind} | {} | {} | `{}` |",
            names(key, &name),
            default(key),
            key.doc,
            key.reader
        );
    }
    text.push_str("\n## Variables\n\n| Key | Variable |\n| --- | --- |\n");
    for key in KEYS {
        let _ = writeln!(text, "| `{}` | `{}` |", key.path, variable_name(&split(key.path)));
    }
    text
}

/// The table and the name of a key, the patterns written as a user would.
fn heading(path: &str) -> (String, String) {
    let (table, name) = path.rsplit_once('.').unwrap();
    (table.replace("<url prefix>", "\"<url prefix>\""), name.to_owned())
}

fn names(key: &Key, name: &str) -> String {
    let aliases = key.aliases.iter().map(|alias| {
        let short = alias.path.rsplit_once('.').unwrap().1;
        match alias.form {
            Form::Same => format!("`{short}`"),
            Form::Single => format!("`{short}` (one string)"),
            Form::LegacyPath => format!("`{}` (deprecated: one path or URL)", alias.path),
        }
    });
    let also = aliases.collect::<Vec<_>>().join(", ");
    if also.is_empty() {
        format!("`{name}`")
    } else {
        format!("`{name}`; also {also}")
    }
}

fn default(key: &Key) -> String {
    match key.default {
        Default::Boolean(flag) => format!("`{flag}`"),
        Default::Integer(number) => format!("`{number}`"),
        Default::Cost(dollars) => format!("`{dollars}`"),
        Default::Text(text) => format!("`\"{text}\"`"),
        Default::Strategy(strategy) => format!("`\"{strategy}\"`"),
        Default::Variable(name) => format!("`\"{name}\"` where that variable is set"),
        Default::Directory(name) => {
            format!("`<url>/{name}` for each of `storage.urls`, else `./proximadb-data/{name}`")
        }
        Default::Replicas => "`2` with two or more metadata URLs, else `1`".to_owned(),
        Default::NoGroups => "`[]`".to_owned(),
        Default::Unset => "not set".to_owned(),
    }
}
