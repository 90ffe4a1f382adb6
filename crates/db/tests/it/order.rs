//! The list in `lib.rs` is the architecture: a module uses only modules above it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module of `lib.rs` that a file belongs to.
fn module(root: &Path, file: &Path) -> String {
    let first = file.strip_prefix(root).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let list = fs::read_to_string(root.join("lib.rs")).unwrap();
    let declared = list
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    let order: Vec<&str> = declared.collect();
    let position = |name: &str| order.iter().position(|module| *module == name);
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files
        .iter()
        .filter(|file| !file.ends_with("lib.rs") && !file.to_str().unwrap().contains("tests"))
    {
        let own = module(&root, file);
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let used = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| line.split("crate::").skip(1));
        for name in used {
            let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            if position(name) > position(&own) {
                wrong.push(format!("{} uses {name}, which is below {own}", file.display()));
            }
        }
    }
    assert!(order.len() > 10, "the list was read: {order:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
