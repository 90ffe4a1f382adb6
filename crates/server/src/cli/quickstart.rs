//! `quickstart`: what a newcomer wants to see within a minute. Three local roots per component, 5,000 real package
//! descriptions imported through the API, three searches with readable answers, where everything lives, what to try next.

use std::path::Path;

use serde_json::json;

use super::client::Client;
use super::formats::Columns;
use super::transfer::{self, Target};

/// The sample: descriptions of Debian packages with their all-MiniLM-L6-v2 embeddings, 5,000 × 384.
const SAMPLE: &[u8] = include_bytes!("../../../../data/packages-5k.parquet");
/// Name of the collection that the quickstart makes.
const COLLECTION: &str = "packages";
/// Number of local roots per component, as if they were three disks.
const ROOTS: usize = 3;
/// Components in the order in which they are shown, with the key of their list of URLs.
const SECTIONS: [(&str, &str); 5] = [
    ("wal", "wal_config"),
    ("viper", "viper_config"),
    ("lsm", "lsm_config"),
    ("index", "index_config"),
    ("metadata", "collection_metadata_config"),
];

/// The configuration of the quickstart, as a user would write it, below `directory` (absolute).
pub fn configuration(directory: &Path, listen: &str) -> String {
    let mut text = format!("[server]\nlisten = \"{listen}\"\n");
    for (component, section) in SECTIONS {
        let urls: Vec<String> = (1..=ROOTS)
            .map(|disk| format!("\"file://{}/disk{disk}/{component}\"", directory.display()))
            .collect();
        text += &format!("\n[storage.{section}]\nstorage_urls = [{}]\n", urls.join(", "));
    }
    text
}

/// Imports the sample into a running server and shows it around. Everything goes through the public API.
///
/// # Errors
/// A sentence with the server's reason.
pub fn tour(client: &Client, base: &str) -> Result<(), String> {
    import_sample(client)?;
    search_like(client, "postgresql", None)?;
    search_like(client, "firefox-esr", None)?;
    search_like(client, "postgresql", Some(("section", "libs")))?;
    show_homes(client)?;
    println!("\nWhat to try next (the server keeps running; stop it with Ctrl-C):");
    println!("  curl {base}/collections/{COLLECTION}");
    println!("  curl {base}/storage/roots");
    println!(
        "  curl -X POST {base}/collections/{COLLECTION}/points/query -d '{{\"query\": 42, \"limit\": 3, \"with_payload\": true}}'"
    );
    println!("  pip install qdrant-client, then QdrantClient(url=\"{base}\").query_points(\"{COLLECTION}\", query=42)");
    println!("  proximadb import your.parquet --collection yours --url {base}");
    Ok(())
}

fn import_sample(client: &Client) -> Result<(), String> {
    let directory = std::env::temp_dir().join(format!("proximadb-quickstart-{}", std::process::id()));
    let file = directory.join("packages-5k.parquet");
    let write = || std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, SAMPLE));
    write().map_err(|error| format!("{}: {error}", file.display()))?;
    let columns = Columns {
        id: "id".to_owned(),
        vector: "vector".to_owned(),
    };
    let target = Target {
        collection: COLLECTION.to_owned(),
        distance: "Cosine".to_owned(),
        resume: true,
    };
    let imported = transfer::import(client, &file, &columns, &target);
    let removed = std::fs::remove_dir_all(&directory);
    let imported = imported?;
    removed.map_err(|error| format!("{}: {error}", directory.display()))?;
    println!(
        "Imported {} package descriptions (384 dimensions) in {:.2} s: {:.0} points/s, each durable before it was acknowledged.",
        imported.points,
        imported.seconds,
        imported.rate()
    );
    if imported.skipped > 0 {
        println!("{} were here already from an earlier run.", imported.skipped);
    }
    Ok(())
}

/// Prints the packages nearest to the one called `name`, all or those whose payload field has the given value.
fn search_like(client: &Client, name: &str, only: Option<(&str, &str)>) -> Result<(), String> {
    let path = format!("/collections/{COLLECTION}/points");
    let matches = |key: &str, value: &str| json!({ "key": key, "match": { "value": value } });
    let named = client.post(
        &format!("{path}/scroll"),
        &json!({ "filter": { "must": [matches("name", name)] }, "limit": 1 }),
    )?;
    let id = &named["points"][0]["id"];
    let mut query = json!({ "query": id, "limit": 5, "with_payload": true });
    let mut title = format!("Packages like {name}");
    if let Some((key, value)) = only {
        query["filter"] = json!({ "must": [matches(key, value)] });
        title += &format!(", only {key} = {value}");
    }
    let found = client.post(&format!("{path}/query"), &query)?;
    println!("\n{title}:");
    for point in found["points"].as_array().map_or(&[][..], Vec::as_slice) {
        let text = |key: &str| point["payload"][key].as_str().unwrap_or_default();
        println!(
            "  {:.3}  {:<32} {}",
            point["score"].as_f64().unwrap_or_default(),
            text("name"),
            text("summary")
        );
    }
    Ok(())
}

/// Prints on which root each component of each collection lives.
fn show_homes(client: &Client) -> Result<(), String> {
    let assignments = client.get("/storage/assignments")?;
    println!("\nWhere it lives (any number of disks and buckets; here {ROOTS} directories per component):");
    println!(
        "  {:<14} {:<10} {:>6} {:>12}  root",
        "collection", "component", "files", "bytes"
    );
    for entry in assignments["assignments"].as_array().map_or(&[][..], Vec::as_slice) {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let number = |key: &str| entry[key].as_u64().unwrap_or_default();
        println!(
            "  {:<14} {:<10} {:>6} {:>12}  {}",
            text("collection"),
            text("component"),
            number("file_count"),
            number("total_size_bytes"),
            text("storage_url")
        );
    }
    Ok(())
}
