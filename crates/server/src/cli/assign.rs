//! `proximadb assign`: where each component of each collection lives, and how evenly.

use clap::Subcommand;
use proximadb_db::config::Config;
use proximadb_db::placement::StorageAssignment;
use proximadb_db::root::StorageComponentType;
use serde_json::{Value, json};

use super::storage::report;
use super::{Failure, print, table};

#[derive(Subcommand)]
pub enum AssignCommand {
    /// All assignments.
    List {
        /// Only this component: wal, viper, lsm, index or metadata.
        #[arg(long)]
        component: Option<StorageComponentType>,
        /// The logs only, with the fields of the WAL view.
        #[arg(long, conflicts_with = "component")]
        wal_view: bool,
    },
    /// The assignments of one collection.
    Show {
        /// The collection.
        collection: String,
    },
    /// How many collections, files and bytes are on each root, by component.
    Stats,
}

/// Runs a command, on the running server if there is one, else on the files.
pub fn run(config: &Config, command: AssignCommand, as_json: bool) -> Result<(), Failure> {
    let rows = match command {
        AssignCommand::Stats => return stats(config, as_json),
        AssignCommand::List {
            component,
            wal_view: false,
        } => {
            let wanted = |row: &Value| component.is_none_or(|component| row["component"] == component.name());
            assignments(config)?.into_iter().filter(wanted).collect()
        }
        AssignCommand::List { wal_view: true, .. } => wal_view(assignments(config)?)?,
        AssignCommand::Show { collection } => {
            let mut rows = assignments(config)?;
            rows.retain(|row| row["collection"] == collection.as_str());
            if rows.is_empty() {
                return Err(Failure::Failed(format!("Collection `{collection}` doesn't exist!")));
            }
            rows
        }
    };
    let shown = json!({ "assignments": rows });
    print(as_json, &shown, || table::print(&shown["assignments"]));
    Ok(())
}

fn assignments(config: &Config) -> Result<Vec<Value>, Failure> {
    let report = report(config, "/storage/assignments")?;
    Ok(report["assignments"].as_array().cloned().unwrap_or_default())
}

/// The logs among the assignments, in their own view.
fn wal_view(rows: Vec<Value>) -> Result<Vec<Value>, Failure> {
    let mut views = Vec::new();
    for row in rows {
        let assignment: StorageAssignment = serde_json::from_value(row).map_err(|error| error.to_string())?;
        views.extend(assignment.wal_view().map(|view| json!(view)));
    }
    Ok(views)
}

/// Totals by component, and one row for each root.
fn stats(config: &Config, as_json: bool) -> Result<(), Failure> {
    let report = report(config, "/storage/stats")?;
    let components = &report["components"];
    print(as_json, components, || {
        let mut rows = Vec::new();
        for (component, totals) in components.as_object().into_iter().flatten() {
            for (url, collections) in totals["collections_by_root"].as_object().into_iter().flatten() {
                let bytes = &totals["bytes_by_root"][url];
                rows.push(json!({ "component": component, "url": url, "collections": collections, "bytes": bytes }));
            }
        }
        table::print(components);
        println!();
        table::print(&json!(rows));
    });
    Ok(())
}
