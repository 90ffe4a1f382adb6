#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Feature rows A1 to A18, as far as loading a configuration decides them.

mod placement_keys;
mod readers;
mod reference;
mod rows;

use std::path::PathBuf;

use super::Config;
use crate::error::Error;

/// Loads a configuration from text and variables.
fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proximadb.toml");
    std::fs::write(&path, text).unwrap();
    let variables = variables
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Config::load(Some(&path), variables)
}

fn load(text: &str) -> Config {
    load_with(text, &[]).unwrap()
}

/// The one line that refuses a configuration.
fn refusal_with(text: &str, variables: &[(&str, &str)]) -> String {
    match load_with(text, variables) {
        Err(Error::Config(message)) => {
            assert!(!message.contains('\n'), "more than one line: {message}");
            message
        }
        other => panic!("{text} must be refused as Error::Config, but: {other:?}"),
    }
}

/// Checks that the text is refused by a line with all of these parts.
fn refuse(text: &str, parts: &[&str]) {
    let message = refusal_with(text, &[]);
    assert!(
        parts.iter().all(|part| message.contains(part)),
        "{message} lacks one of {parts:?}"
    );
}

/// A field of a key in `config show --json`.
fn shown(config: &Config, key: &str, field: &str) -> serde_json::Value {
    config
        .show_json()
        .get(key)
        .and_then(|entry| entry.get(field))
        .cloned()
        .unwrap_or_else(|| panic!("no {key} {field}"))
}

/// The repository's top directory.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
