//! Configurations: a TOML file, then lines of the environment as NAME=VALUE. What is shown loads to the same values.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use proximadb_db::config::Config;
use proximadb_fuzz::parts;
use tempfile::NamedTempFile;

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let environment: Vec<(String, String)> = parts[1..]
        .iter()
        .flat_map(|part| part.split(|byte| *byte == b'\n'))
        .filter_map(|line| {
            String::from_utf8_lossy(line)
                .split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
    let Ok(config) = load(parts[0], &environment) else {
        return;
    };
    for (_, component) in config.storage.components() {
        component.urls.iter().for_each(|url| drop(config.storage.for_url(url)));
    }
    let _ = (config.warnings(), config.show_json());
    let secrets: Vec<(String, String)> = environment
        .iter()
        .filter(|(name, _)| !name.starts_with("PROXIMADB__"))
        .cloned()
        .collect();
    let again = load(config.show().as_bytes(), &secrets).unwrap_or_else(|error| panic!("{error}\n{}", config.show()));
    for (before, after) in config.settings().iter().zip(again.settings()) {
        assert_eq!((&before.key, &before.value), (&after.key, &after.value));
    }
});

fn load(text: &[u8], environment: &[(String, String)]) -> proximadb_db::error::Result<Config> {
    let mut file = NamedTempFile::new_in("/dev/shm").unwrap();
    file.write_all(text).unwrap();
    Config::load(Some(file.path()), environment.iter().cloned())
}
