//! The keys of moves, copies, policies and of what a root costs and where it is.

use serde_json::json;

use super::super::{Config, WalFormat};
use super::{load, load_with, refusal_with, refuse, shown};

#[test]
fn a3_the_format_of_the_log_is_avro_or_bincode_by_its_exact_name() {
    assert_eq!(load("").storage.wal.format, WalFormat::Avro);
    for format in WalFormat::ALL {
        let config = load(&format!("[storage.wal_config]\nformat = \"{format}\""));
        assert_eq!(config.storage.wal.format, format);
        assert_eq!(format.name().parse(), Ok(format));
    }
    for name in ["Avro", "binary", ""] {
        let text = format!("[storage.wal_config]\nformat = \"{name}\"");
        refuse(&text, &["storage.wal_config.format", "one of avro, bincode"]);
        assert!(name.parse::<WalFormat>().is_err());
    }
}

#[test]
fn a14_more_replicas_than_index_urls_are_refused() {
    assert_eq!(load("").storage.index.backup_replicas, 1);
    let urls = "[storage.index_config]\nindex_urls = [\"s3://a\", \"s3://b\"]\n";
    for copies in [0, 1, 2] {
        let config = load(&format!("{urls}backup_replicas = {copies}"));
        assert_eq!(config.storage.index.backup_replicas, copies);
    }
    refuse(
        &format!("{urls}backup_replicas = 3"),
        &["backup_replicas = 3 needs 3 index URLs", "storage.index_config has 2"],
    );
}

#[test]
fn a18_the_budget_of_moves_has_defaults_and_limits() {
    let moves = load("").storage.moves;
    assert_eq!((moves.max_bytes_per_second, moves.parallel), (67_108_864, 2));
    let variables = [
        ("PROXIMADB__STORAGE__MOVES__PARALLEL", "7"),
        ("PROXIMADB__STORAGE__MOVES__MAX_BYTES_PER_SECOND", "0"),
    ];
    let moves = load_with("[storage.moves]\nparallel = 3", &variables)
        .unwrap()
        .storage
        .moves;
    assert_eq!((moves.max_bytes_per_second, moves.parallel), (0, 7));
    refuse(
        "[storage.moves]\nparallel = 0",
        &["storage.moves.parallel", "from 1 to 64"],
    );
    refuse(
        "[storage.moves]\nmax_bytes_per_second = -1",
        &["max_bytes_per_second", "at least 0"],
    );
}

#[test]
fn d12_policies_are_groups_of_components() {
    let text = "[storage.placement.policies]\nsame_device = [[\"wal\", \"viper\"]]\n";
    let policies = load(text).storage.policies;
    assert_eq!(policies.same_device, [["wal", "viper"]]);
    assert!(policies.different_device.is_empty());
    let name = "PROXIMADB__STORAGE__PLACEMENT__POLICIES__DIFFERENT_DEVICE";
    let config = load_with(text, &[(name, "[[\"wal\", \"index\"], [\"lsm\", \"metadata\"]]")]).unwrap();
    assert_eq!(
        config.storage.policies.different_device,
        [["wal", "index"], ["lsm", "metadata"]]
    );
    let key = "storage.placement.policies.different_device";
    assert_eq!(
        shown(&config, key, "value"),
        json!([["wal", "index"], ["lsm", "metadata"]])
    );
    assert_eq!(shown(&config, key, "from"), json!(name));
    for wrong in [
        "\"wal\"",
        "[\"wal\"]",
        "[[\"wal\"]]",
        "[[\"wal\", \"wal\"]]",
        "[[\"wal\", \"disk\"]]",
        "[[1, 2]]",
    ] {
        let text = format!("[storage.placement.policies]\nsame_device = {wrong}");
        refuse(
            &text,
            &["policies.same_device must be a list of groups", "wal, viper, lsm"],
        );
    }
    assert!(refusal_with("", &[(name, "wal,index")]).contains("must be a list of groups"));
}

#[test]
fn d12_policies_that_contradict_each_other_are_refused() {
    let text = "[storage.placement.policies]\nsame_device = [[\"wal\", \"viper\"], [\"viper\", \"lsm\"]]\n\
                different_device = [[\"index\", \"lsm\", \"wal\"]]";
    refuse(text, &["storage.placement.policies", "lsm", "wal", "same device"]);
}

#[test]
fn c9_c10_a_root_has_a_price_a_region_and_a_device() {
    let config = load(
        "[storage.roots.\"file:///d\"]\ncost_per_gb_month = 0\nregion = \"eu\"\ndevice = \"sda\"\ntags.tier = \"hot\"\n\
         [storage.wal_config]\nwal_urls = [\"file:///d/wal\"]",
    );
    let of_root = config.storage.for_url("file:///d/wal");
    assert_eq!(of_root.cost_per_gb_month, Some(0.0));
    let tags: Vec<(&str, &str)> = of_root
        .tags
        .iter()
        .map(|(tag, text)| (tag.as_str(), text.as_str()))
        .collect();
    assert_eq!(tags, [("device", "sda"), ("region", "eu"), ("tier", "hot")]);
    assert_eq!(config.storage.for_url("file:///other").cost_per_gb_month, None);
    for cost in ["-1", "nan", "inf", "\"1\""] {
        let text = format!("[storage.roots.\"s3://b\"]\ncost_per_gb_month = {cost}");
        refuse(&text, &["cost_per_gb_month must be a number of at least 0"]);
    }
    refuse(
        "[storage]\nurls = [\"s3://b\"]\n[storage.roots.\"s3://b\"]\nregion = \"eu\"\ntags.region = \"us\"",
        &["region", "same setting: keep one"],
    );
}

#[test]
fn a1_tables_of_several_prefixes_are_shown_as_toml_that_loads_to_the_same_values() {
    let text = "[storage]\nurls = [\"s3://a\", \"s3://b\"]\n[storage.placement.policies]\nsame_device = [[\"wal\", \"viper\"]]\n\
                [storage.roots.\"s3://a\"]\nweight = 2\nregion = \"eu\"\ntags.tier = \"hot\"\ncost_per_gb_month = 0.023\n\
                [storage.roots.\"s3://b\"]\nweight = 3\ndevice = \"x\"\ntags.tier = \"cold\"\ncost_per_gb_month = 1";
    let first = load(text);
    let again = load(&first.show());
    let values = |config: &Config| -> Vec<_> {
        let settings = config.settings().iter();
        settings
            .map(|setting| (setting.key.clone(), setting.value.clone()))
            .collect()
    };
    assert_eq!(values(&again), values(&first));
    let price = "storage.roots.\"s3://a\".cost_per_gb_month";
    assert_eq!(shown(&first, price, "value"), json!(0.023));
    assert_eq!(shown(&first, price, "origin"), json!("file"));
}
