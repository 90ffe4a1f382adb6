//! A18: a key nobody reads fails a test. Each key is a field of the typed configuration, and some code outside this
//! module, in the database or the server, must name that field.

use std::path::{Path, PathBuf};

use super::super::keys::KEYS;
use super::repository;

#[test]
fn a18_every_key_is_read_outside_the_configuration() {
    let mut source = String::new();
    for directory in ["crates/db/src", "crates/server/src"] {
        collect(&repository().join(directory), &mut source);
    }
    for key in KEYS {
        let field = expression(key.path);
        let mut uses = source.split(&field).skip(1);
        let read = uses.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        assert!(read, "nobody reads `{}` as `{field}`", key.path);
    }
}

/// How code gets at the value of a key, from the part that owns it.
fn expression(path: &str) -> String {
    let (section, name) = path.rsplit_once('.').unwrap();
    match name {
        "cloud" => "storage.prices_of".to_owned(),
        _ if section.starts_with("storage.prices") => "storage.prices_of".to_owned(),
        "weight" | "<tag>" | "<option>" | "cost_per_gb_month" | "region" | "device" => "storage.for_url".to_owned(),
        "distribution_strategy" | "collection_affinity" => format!("component.{name}"),
        _ if name.ends_with("urls") => "storage.components".to_owned(),
        _ => {
            let part = section.trim_start_matches("storage.").trim_start_matches("collection_");
            let part = part.trim_start_matches("placement.");
            format!("{}.{}", part.trim_end_matches("_config"), name.trim_end_matches("_env"))
        }
    }
}

/// Appends all Rust code below a directory, but for this module's own and for tests.
fn collect(directory: &Path, source: &mut String) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let own = path.file_stem().is_some_and(|stem| stem == "config" || stem == "tests");
        if own {
            continue;
        } else if path.is_dir() {
            collect(&path, source);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            source.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
