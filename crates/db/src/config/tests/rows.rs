//! One test or more for each row of group A that loading decides.

use serde_json::json;

use super::super::keys::{self, KEYS, Kind};
use super::super::source::is_wildcard;
use super::super::{Config, DistributionStrategy};
use super::{load, load_with, refusal_with, refuse, repository, shown};

const SECTIONS: [(&str, &str, &str); 5] = [
    ("wal_config", "wal_urls", "WAL"),
    ("viper_config", "data_urls", "VIPER"),
    ("lsm_config", "storage_urls", "LSM"),
    ("index_config", "index_urls", "index"),
    ("collection_metadata_config", "metadata_urls", "metadata"),
];

#[test]
fn a1_one_file_with_all_sections_shows_every_value_and_its_origin() {
    let mut text = String::new();
    for (section, list, _) in SECTIONS {
        text += &format!("[storage.{section}]\n{list} = [\"file:///d/{section}\"]\n");
        text += "distribution_strategy = \"LoadBalanced\"\ncollection_affinity = false\n";
        text += if section == "wal_config" {
            "memory_flush_size_bytes = 1048576\n"
        } else {
            "cache_size_mb = 256\n"
        };
    }
    let config = load(&text);
    for (section, list, _) in SECTIONS {
        let key = |name: &str| format!("storage.{section}.{name}");
        assert_eq!(
            shown(&config, &key(list), "value"),
            json!([format!("file:///d/{section}")])
        );
        assert_eq!(
            shown(&config, &key("distribution_strategy"), "value"),
            json!("LoadBalanced")
        );
        assert_eq!(shown(&config, &key("collection_affinity"), "value"), json!(false));
        assert_eq!(shown(&config, &key(list), "origin"), json!("file"));
    }
    assert_eq!(
        shown(&config, "storage.wal_config.memory_flush_size_bytes", "origin"),
        json!("file")
    );
    assert_eq!(shown(&config, "storage.lsm_config.cache_size_mb", "value"), json!(256));
    assert_eq!(
        shown(&config, "storage.viper_config.segment_size_mb", "origin"),
        json!("default")
    );
    for key in KEYS.iter().filter(|key| !is_wildcard(key.path)) {
        assert!(config.show_json().get(key.path).is_some(), "{} is not shown", key.path);
    }
}

#[test]
fn a1_what_is_shown_as_toml_loads_to_the_same_values() {
    let prefixes = "[storage.roots.\"s3://b\"]\nweight = 2\ntags.region = \"eu\"\n[storage.roots.\"file:///m/x.y\"]\nweight = 0.5\n";
    let text = format!("[storage]\nurls = [\"s3://b/p/\", \"file:///m/x.y\"]\n{prefixes}");
    let first = load(&text);
    let again = load(&first.show());
    let values = |config: &Config| {
        config
            .settings()
            .iter()
            .map(|s| (s.key.clone(), s.value.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&first));
}

#[test]
fn a2_every_section_accepts_storage_urls_and_its_own_name() {
    for (section, list, _) in SECTIONS {
        for name in ["storage_urls", list] {
            let config = load(&format!(
                "[storage.{section}]\n{name} = [\"file:///mnt/a\", \"file:///mnt/b\"]"
            ));
            let urls = shown(&config, &format!("storage.{section}.{list}"), "value");
            assert_eq!(urls, json!(["file:///mnt/a", "file:///mnt/b"]), "{section} {name}");
        }
    }
}

#[test]
fn a2_both_names_of_a_list_are_an_error() {
    for (section, list, _) in SECTIONS.into_iter().filter(|(_, list, _)| *list != "storage_urls") {
        let text = format!("[storage.{section}]\n{list} = [\"file:///a\"]\nstorage_urls = [\"file:///b\"]");
        refuse(&text, &[list, "storage_urls", "keep one"]);
    }
}

#[test]
fn a2_an_unknown_key_is_named_with_the_nearest_one() {
    let checks = [
        (
            "[storage.wal_config]\nwal_urlz = []",
            "storage.wal_config.wal_urlz",
            "storage.wal_config.wal_urls",
        ),
        (
            "[storage.wal_confg]\nwal_urls = []",
            "storage.wal_confg.wal_urls",
            "storage.wal_config.wal_urls",
        ),
        (
            "[storage.viper_config]\nwal_urls = []",
            "storage.viper_config.wal_urls",
            "storage.viper_config.data_urls",
        ),
        (
            "[storage.viper_config]\nglobal_flush_threshold = 1",
            "storage.viper_config.global_flush_threshold",
            "storage.wal_config.global_flush_threshold",
        ),
        ("[server]\nlistn = 1", "server.listn", "server.listen"),
        ("[server.listen]\nport = 1", "server.listen.port", "server.listen"),
        ("[sever]", "sever", "server.listen"),
        (
            "[storage.roots.\"s3://b\"]\nwieght = 1",
            "storage.roots.\"s3://b\".wieght",
            "storage.roots.\"s3://b\".weight",
        ),
    ];
    for (text, key, nearest) in checks {
        refuse(
            text,
            &[
                "unknown key",
                &format!("`{key}`"),
                &format!("did you mean `{nearest}`?"),
            ],
        );
    }
    refuse(
        "[storage]\nwal_config = 3",
        &["`storage.wal_config` is a section", "[storage.wal_config]"],
    );
    refuse("[[server]]\nlisten = 1", &["`server` is a section"]);
}

#[test]
fn a3_an_empty_wal_section_has_the_documented_defaults() {
    let config = load("[storage.wal_config]");
    let wal = &config.storage.wal;
    assert_eq!(wal.component.distribution_strategy, DistributionStrategy::RoundRobin);
    assert!(wal.component.collection_affinity);
    assert_eq!(wal.memory_flush_size_bytes, 1_048_576);
    assert_eq!(wal.global_flush_threshold, 536_870_912);
    assert_eq!(
        shown(&config, "storage.wal_config.global_flush_threshold", "origin"),
        json!("default")
    );
}

#[test]
fn a4_no_configuration_stores_below_the_data_directory() {
    let config = Config::load(None, std::iter::empty()).unwrap();
    let data = std::env::current_dir().unwrap().join("proximadb-data");
    for (name, component) in config.storage.components() {
        assert_eq!(component.urls, [format!("file://{}/{name}", data.display())]);
    }
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:6333");
    assert_eq!(config.server.max_request_size_mb, 32);
    assert!(config.server.api_key.is_none());
}

#[test]
fn a5_wal_url_is_a_list_of_one() {
    let config = load("[storage.wal_config]\nwal_url = \"s3://bucket/wal\"");
    assert_eq!(config.storage.wal.component.urls, ["s3://bucket/wal"]);
    refuse(
        "[storage.wal_config]\nwal_url = \"s3://a\"\nwal_urls = [\"s3://b\"]",
        &["wal_url", "wal_urls", "keep one"],
    );
    refuse(
        "[storage.wal_config]\nwal_url = [\"s3://a\"]",
        &["wal_url must be a string"],
    );
}

#[test]
fn a6_a_plain_wal_dir_becomes_a_file_url_and_is_not_written_back() {
    let config = load("[storage]\nwal_dir = \"/data/wal\"");
    assert_eq!(config.storage.wal.component.urls, ["file:///data/wal"]);
    assert_eq!(shown(&config, "storage.wal_config.wal_urls", "origin"), json!("legacy"));
    assert!(config.show_json().get("storage.wal_dir").is_none());
}

#[test]
fn a6_a_wal_dir_with_a_scheme_is_kept_and_a_relative_one_is_made_absolute() {
    let kept = load("[storage]\nwal_dir = \"s3://bucket/wal/\"");
    assert_eq!(kept.storage.wal.component.urls, ["s3://bucket/wal/"]);
    let relative = load("[storage]\nwal_dir = \"./data/wal\"");
    let expected = std::env::current_dir().unwrap().join("data/wal");
    assert_eq!(
        relative.storage.wal.component.urls,
        [format!("file://{}", expected.display())]
    );
    refuse(
        "[storage]\nwal_dir = \"/a\"\n[storage.wal_config]\nwal_urls = [\"file:///b\"]",
        &["wal_dir", "keep one"],
    );
    refuse("[storage]\nwal_dir = \"\"", &["wal_dir is empty"]);
}

#[test]
fn a6_a_wal_dir_is_warned_about_once() {
    let warnings = load("[storage]\nwal_dir = \"/data/wal\"").warnings();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].ends_with("wal_dir is deprecated: write wal_urls = [\"file:///data/wal\"] in [storage.wal_config]")
    );
    let current = load("[storage.wal_config]\nwal_url = \"file:///data/wal\"");
    assert!(current.warnings().is_empty(), "only wal_dir is deprecated");
}

#[test]
fn a7_to_a10_the_other_sections_have_the_documented_defaults() {
    let config = load("");
    let storage = &config.storage;
    let strategies = storage
        .components()
        .map(|(_, component)| component.distribution_strategy.name());
    assert_eq!(
        strategies,
        ["RoundRobin", "Hash", "LoadBalanced", "LoadBalanced", "RoundRobin"]
    );
    assert!(
        storage
            .components()
            .iter()
            .all(|(_, component)| component.collection_affinity)
    );
    assert_eq!(storage.viper.segment_size_mb, 512);
    assert!(storage.index.index_type_affinity);
}

#[test]
fn a9_backup_replicas_default_to_two_where_two_roots_exist() {
    let replicas = |text: &str| {
        load(&format!("[storage.collection_metadata_config]\n{text}"))
            .storage
            .metadata
            .backup_replicas
    };
    assert_eq!(replicas(""), 1);
    assert_eq!(replicas("metadata_urls = [\"s3://a\", \"s3://b\"]"), 2);
    assert_eq!(replicas("metadata_urls = [\"s3://a\", \"s3://b\", \"s3://c\"]"), 2);
    assert_eq!(
        replicas("metadata_urls = [\"s3://a\", \"s3://b\"]\nbackup_replicas = 0"),
        0
    );
}

#[test]
fn a11_with_all_lists_configured_no_other_directory_appears() {
    let config = load("[storage]\nurls = [\"file:///only/here\"]");
    let shown = config.show_json().to_string();
    assert!(!shown.contains("proximadb-data"));
    for (name, component) in config.storage.components() {
        assert_eq!(component.urls, [format!("file:///only/here/{name}")]);
    }
}

#[test]
fn a12_any_number_of_wal_directories_loads() {
    for count in [1, 2, 4, 16] {
        let urls: Vec<String> = (0..count).map(|disk| format!("file:///mnt/disk{disk}/wal")).collect();
        let config = load(&format!("[storage.wal_config]\nwal_urls = {urls:?}"));
        assert_eq!(config.storage.wal.component.urls, urls);
    }
}

#[test]
fn a13_urls_stay_byte_identical() {
    let urls = [
        "s3://Bucket/a//b/",
        "s3a://b/p%20q",
        "adls://acc.dfs.core.windows.net/c/p",
        "abfss://c@acc.dfs.core.windows.net/q",
    ];
    let config = load(&format!("[storage.viper_config]\ndata_urls = {urls:?}"));
    assert_eq!(config.storage.viper.component.urls, urls);
    assert_eq!(shown(&config, "storage.viper_config.data_urls", "value"), json!(urls));
    for url in urls {
        assert!(config.show().contains(&format!("\"{url}\"")), "{}", config.show());
    }
}

#[test]
fn a14_an_empty_list_is_refused() {
    for (section, list, what) in SECTIONS {
        refuse(
            &format!("[storage.{section}]\n{list} = []"),
            &[list, &format!("No {what} URLs configured")],
        );
    }
    let message = refusal_with("", &[("PROXIMADB__STORAGE__WAL_CONFIG__WAL_URLS", "")]);
    assert!(message.contains("No WAL URLs configured"), "{message}");
}

#[test]
fn a14_a_duplicate_url_is_refused() {
    refuse(
        "[storage.wal_config]\nwal_urls = [\"s3://b/p\", \"s3://b/p/\"]",
        &["duplicate URL `s3://b/p/`", "wal"],
    );
    let text = "[storage.wal_config]\nwal_urls = [\"file:///d\"]\n[storage.viper_config]\ndata_urls = [\"file:///d\"]";
    refuse(text, &["duplicate URL `file:///d`", "wal and viper"]);
    refuse(
        "[storage]\nurls = [\"file:///d\", \"file:///d\"]",
        &["duplicate URL `file:///d/wal`"],
    );
    let aliases = "[storage.wal_config]\nwal_urls = [\"gs://b/p\", \"gcs://b//p\"]";
    refuse(aliases, &["duplicate URL `gcs://b//p`"]);
}

#[test]
fn a14_a_url_inside_another_is_refused() {
    let text =
        "[storage.wal_config]\nwal_urls = [\"file:///d\"]\n[storage.viper_config]\ndata_urls = [\"file:///d/x\"]";
    refuse(
        text,
        &["`file:///d` and `file:///d/x` lie in one another", "wal and viper"],
    );
}

#[test]
fn a14_c5_an_unknown_strategy_is_refused_with_the_names() {
    for name in ["roundrobin", "round_robin", "HASH", "", "LoadBalanced "] {
        let text = format!("[storage.lsm_config]\ndistribution_strategy = \"{name}\"");
        let names = "choose RoundRobin, Hash, LoadBalanced";
        refuse(
            &text,
            &["storage.lsm_config.distribution_strategy", &format!("`{name}`"), names],
        );
    }
    for strategy in DistributionStrategy::ALL {
        assert_eq!(strategy.name().parse(), Ok(strategy));
        assert_eq!(serde_json::to_value(strategy).unwrap(), json!(strategy.to_string()));
    }
}

#[test]
fn a14_an_unknown_scheme_or_a_path_is_refused_with_advice() {
    let checks = [
        ("ftp://host/d", "unknown scheme `ftp`"),
        ("/data/wal", "write file:///data/wal"),
        ("data/wal", "`data/wal` is not a URL"),
        ("file://data/wal", "needs an absolute path, as file:///"),
        ("file://./wal", "needs an absolute path"),
        ("s3://", "bucket name is missing"),
        ("", "is empty: write file://"),
    ];
    for (url, problem) in checks {
        refuse(
            &format!("[storage.wal_config]\nwal_urls = [\"{url}\"]"),
            &["storage.wal_config.wal_urls", problem],
        );
        refuse(&format!("[storage]\nurls = [\"{url}\"]"), &["storage.urls", problem]);
    }
}

#[test]
fn a14_credentials_in_a_url_are_refused_and_not_repeated() {
    let urls = [
        "s3://KEY:hunter2@bucket/p",
        "adls://acc/c?sig=hunter2",
        "s3://b/p#hunter2",
    ];
    for url in urls {
        let message = refusal_with(&format!("[storage.wal_config]\nwal_url = \"{url}\""), &[]);
        assert!(
            message.contains("never from the URL") && !message.contains("hunter2"),
            "{message}"
        );
    }
}

#[test]
fn a14_more_replicas_than_metadata_urls_are_refused() {
    let text = "[storage.collection_metadata_config]\nmetadata_urls = [\"s3://a\", \"s3://b\"]\nbackup_replicas = 3";
    refuse(text, &["backup_replicas = 3 needs 3 metadata URLs", "has 2"]);
    refuse("[storage.collection_metadata_config]\nbackup_replicas = 2", &["has 1"]);
    refuse(
        "[storage.collection_metadata_config]\nbackup_replicas = -1",
        &["backup_replicas", "whole number", "-1"],
    );
}

#[test]
fn a14_a_value_of_the_wrong_type_is_refused_by_key() {
    let checks = [
        (
            "[server]\nlisten = \"localhost\"",
            "server.listen must be an IP address and port",
        ),
        (
            "[server]\nmax_request_size_mb = 0",
            "server.max_request_size_mb must be a whole number from 1",
        ),
        (
            "[storage.wal_config]\nmemory_flush_size_bytes = \"1 MiB\"",
            "memory_flush_size_bytes must be a whole number of at least 1",
        ),
        (
            "[storage.wal_config]\ncollection_affinity = \"yes\"",
            "collection_affinity must be true or false, but is \"yes\"",
        ),
        (
            "[storage.wal_config]\nwal_urls = \"file:///a\"",
            "wal_urls must be a list of URLs",
        ),
        (
            "[storage.roots.\"s3://b\"]\nweight = 0",
            "weight must be a number above 0",
        ),
        (
            "[storage.roots.\"s3://b\"]\nweight = nan",
            "weight must be a number above 0",
        ),
        ("[storage", "line 1"),
        ("\n\na = b", "line 3"),
        ("[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", "line 3"),
    ];
    for (text, problem) in checks {
        refuse(text, &["proximadb.toml", problem]);
    }
    let missing = Config::load(Some(std::path::Path::new("/no/such.toml")), std::iter::empty()).unwrap_err();
    assert!(missing.to_string().contains("cannot read /no/such.toml"), "{missing}");
}

#[test]
fn a15_one_line_is_enough() {
    let config = load("[storage.wal_config]\nwal_urls = [\"file:///mnt/fast\"]");
    assert_eq!(config.storage.wal.component.urls, ["file:///mnt/fast"]);
    assert!(config.storage.viper.component.urls[0].ends_with("/proximadb-data/viper"));
    let config = load("storage.urls = [\"s3://b/p/\", \"file:///\"]");
    assert_eq!(config.storage.index.component.urls, ["s3://b/p/index", "file:///index"]);
    assert_eq!(
        shown(&config, "storage.index_config.index_urls", "origin"),
        json!("file")
    );
    assert!(
        shown(&config, "storage.index_config.index_urls", "from")
            .as_str()
            .unwrap()
            .ends_with(": storage.urls")
    );
}

#[test]
fn a16_every_sample_loads() {
    let sample = |name: &str| {
        let path = repository().join("config").join(format!("{name}.toml"));
        Config::load(Some(&path), std::iter::empty())
            .unwrap_or_else(|e| panic!("{e}"))
            .storage
    };
    assert_eq!(sample("single").viper.component.urls.len(), 1);
    let disks = sample("local-multi-disk");
    assert_eq!(
        (disks.viper.component.urls.len(), disks.metadata.backup_replicas),
        (3, 2)
    );
    assert_eq!(disks.for_url("file:///mnt/sata1/proximadb/viper").weight, 0.5);
    let cloud = sample("cloud-multi-region");
    assert_eq!(
        cloud.for_url("s3://proximadb-eu-west-1/viper").tags["region"],
        "eu-west-1"
    );
    assert_eq!(sample("hybrid-edge-cloud").metadata.backup_replicas, 2);
    let serverless = sample("serverless");
    assert_eq!(serverless.wal.memory_flush_size_bytes, 2_097_152);
    assert!(
        serverless
            .components()
            .iter()
            .all(|(_, c)| c.distribution_strategy == DistributionStrategy::Hash)
    );
    let samples = std::fs::read_dir(repository().join("config")).unwrap().count();
    assert_eq!(samples, 5, "a sample that this test does not load");
}

#[test]
fn a18_every_key_changes_the_typed_configuration() {
    let plain = without_settings(&load(TWO_METADATA_ROOTS));
    for key in KEYS {
        let (section, name) = key.path.rsplit_once('.').unwrap();
        let section = section.replace("<url prefix>", "\"s3://m1\"");
        let name = name.replace(['<', '>'], "");
        let text = if key.path == "storage.collection_metadata_config.metadata_urls" {
            "[storage.collection_metadata_config]\nmetadata_urls = [\"s3://other\", \"s3://m1\"]".to_owned()
        } else if key.path == "storage.index_config.backup_replicas" {
            format!("[{section}]\nindex_urls = [\"s3://i1\", \"s3://i2\"]\n{name} = 2\n{TWO_METADATA_ROOTS}")
        } else if section == "storage.collection_metadata_config" {
            format!("{TWO_METADATA_ROOTS}{name} = {}", other_value(key.kind, key.default))
        } else {
            format!(
                "[{section}]\n{name} = {}\n{TWO_METADATA_ROOTS}",
                other_value(key.kind, key.default)
            )
        };
        let changed = without_settings(&load_with(&text, &[("OTHER", "secret")]).unwrap());
        assert_ne!(changed, plain, "{} reaches nothing", key.path);
    }
}

#[test]
fn a18_every_key_is_overridden_by_its_variable() {
    let variables = [
        ("PROXIMADB__SERVER__LISTEN", "0.0.0.0:7000"),
        ("PROXIMADB__STORAGE__WAL_CONFIG__WAL_URLS", "file:///a, s3://b/p,"),
        (
            "PROXIMADB__STORAGE__VIPER_CONFIG__STORAGE_URLS",
            "[\"file:///a,b\", 's3://c']",
        ),
        ("PROXIMADB__STORAGE__INDEX_CONFIG__COLLECTION_AFFINITY", "false"),
        ("PROXIMADB__STORAGE__VIPER_CONFIG__SEGMENT_SIZE_MB", "64"),
        ("PROXIMADB__STORAGE__ROOTS__s3://c__WEIGHT", "3"),
        ("PROXIMADB_API_KEY", "no key of the table: one underscore"),
    ];
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n[storage.wal_config]\nstorage_urls = [\"s3://file\"]";
    let config = load_with(file, &variables).unwrap();
    assert_eq!(config.server.listen.port(), 7000);
    assert_eq!(config.storage.wal.component.urls, ["file:///a", "s3://b/p"]);
    assert_eq!(config.storage.viper.component.urls, ["file:///a,b", "s3://c"]);
    assert!(!config.storage.index.component.collection_affinity);
    assert_eq!(config.storage.viper.segment_size_mb, 64);
    assert_eq!(config.storage.for_url("s3://c").weight, 3.0);
    assert_eq!(shown(&config, "server.listen", "origin"), json!("env"));
    assert_eq!(
        shown(&config, "server.listen", "from"),
        json!("PROXIMADB__SERVER__LISTEN")
    );
}

#[test]
fn a18_an_unknown_or_wrong_variable_is_refused_by_name() {
    let unknown = refusal_with("", &[("PROXIMADB__STORAGE__WAL_CONFIG__WAL_URLZ", "x")]);
    assert!(
        unknown.contains("WAL_URLZ; did you mean PROXIMADB__STORAGE__WAL_CONFIG__WAL_URLS?"),
        "{unknown}"
    );
    let wrong = refusal_with("", &[("PROXIMADB__STORAGE__VIPER_CONFIG__SEGMENT_SIZE_MB", "big")]);
    assert!(
        wrong.starts_with("PROXIMADB__STORAGE__VIPER_CONFIG__SEGMENT_SIZE_MB must be a whole number"),
        "{wrong}"
    );
    let two = [
        ("PROXIMADB__STORAGE__WAL_CONFIG__WAL_URL", "s3://a"),
        ("PROXIMADB__STORAGE__WAL_DIR", "/b"),
    ];
    assert!(refusal_with("", &two).contains("keep one"));
}

#[test]
fn api_keys_come_from_the_variables_that_are_named() {
    let default = load_with("", &[("PROXIMADB_API_KEY", "hunter2")]).unwrap();
    assert_eq!(default.server.api_key.as_ref().unwrap().expose(), "hunter2");
    let named = load_with("[server]\nread_only_api_key_env = \"MINE\"", &[("MINE", "hunter2")]).unwrap();
    assert_eq!(named.server.read_only_api_key.as_ref().unwrap().expose(), "hunter2");
    for config in [default, named] {
        assert!(!format!("{config:?} {} {}", config.show(), config.show_json()).contains("hunter2"));
    }
    refuse(
        "[server]\napi_key_env = \"MINE\"",
        &["server.api_key_env", "empty or not set"],
    );
    assert!(refusal_with("", &[("PROXIMADB_API_KEY", "")]).contains("empty or not set"));
}

#[test]
fn credentials_name_variables_and_their_values_appear_nowhere() {
    let text = "[storage]\nurls = [\"s3://b/p\", \"s3://b2\"]\n[storage.credentials.\"s3://b\"]\naccess_key_id = \"ID\"\n\
                [storage.credentials.\"s3://b/p/wal\"]\naccess_key_id = \"WAL_ID\"";
    let config = load_with(text, &[("ID", "hunter2"), ("WAL_ID", "hunter3")]).unwrap();
    let id = |url: &str| config.storage.for_url(url).options.get("access_key_id").cloned();
    assert_eq!(id("s3://b/p/viper").as_deref(), Some("hunter2"));
    assert_eq!(
        id("s3://b/p/wal").as_deref(),
        Some("hunter3"),
        "the longest prefix counts"
    );
    assert_eq!(id("s3://b2/wal"), None, "a prefix ends at a slash");
    let labelled = format!("{text}\n[storage.roots.\"s3://b/p/viper\"]\nweight = 2");
    let config = load_with(&labelled, &[("ID", "hunter2"), ("WAL_ID", "hunter3")]).unwrap();
    let viper = config.storage.for_url("s3://b/p/viper");
    assert_eq!(viper.weight, 2.0);
    assert_eq!(
        viper.options.get("access_key_id").map(String::as_str),
        Some("hunter2"),
        "a label keeps the credentials"
    );
    let config = load_with(text, &[("ID", "hunter2"), ("WAL_ID", "hunter3")]).unwrap();
    assert!(!format!("{config:?} {} {}", config.show(), config.show_json()).contains("hunter"));
    let pasted = "[storage.credentials.\"s3://b\"]\nsecret_access_key = \"hunter2/+\"";
    let message = refusal_with(pasted, &[]);
    assert!(
        message.contains("the name of an environment variable") && !message.contains("hunter2"),
        "{message}"
    );
    let unset = refusal_with("[storage.credentials.\"s3://b\"]\nsecret_access_key = \"hunter2\"", &[]);
    assert!(
        unset.contains("empty or not set") && !unset.contains("hunter2"),
        "{unset}"
    );
    let prefix = refusal_with(
        "[storage.credentials.\"s3://k:hunter2@b\"]\naccess_key_id = \"ID\"",
        &[],
    );
    assert!(
        prefix.contains("never from the URL") && !prefix.contains("hunter2"),
        "{prefix}"
    );
    refuse(
        "[storage.roots.\"s3://c\"]\nweight = 2",
        &["no configured URL starts with the prefix `s3://c`"],
    );
}

const TWO_METADATA_ROOTS: &str =
    "[storage.collection_metadata_config]\nmetadata_urls = [\"s3://m1\", \"s3://m2\", \"s3://m3\"]\n";

/// A valid value that is not the default.
fn other_value(kind: Kind, default: keys::Default) -> String {
    match (kind, default) {
        (Kind::Address, _) => "\"127.0.0.1:1\"".to_owned(),
        (Kind::Variable | Kind::Text, _) => "\"OTHER\"".to_owned(),
        (Kind::Boolean, keys::Default::Boolean(flag)) => (!flag).to_string(),
        (Kind::Strategy, keys::Default::Strategy(DistributionStrategy::Hash)) => "\"RoundRobin\"".to_owned(),
        (Kind::Strategy, _) => "\"Hash\"".to_owned(),
        (Kind::Weight | Kind::Cost | Kind::Integer { .. }, _) => "3".to_owned(),
        (Kind::Word(words), _) => format!("\"{}\"", words.last().unwrap()),
        (Kind::Groups, _) => "[[\"wal\", \"viper\"]]".to_owned(),
        (Kind::Urls { .. }, _) => "[\"s3://other\"]".to_owned(),
        (Kind::Boolean, _) => panic!("a flag has a default"),
    }
}

/// What the modules below can see of a configuration.
fn without_settings(config: &Config) -> String {
    format!("{:?} {:?} {:?}", config.server, config.storage, config.cache)
}
