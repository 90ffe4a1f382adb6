//! `proximadb storage`: reports, from the running server or from the files, and what only a running server can do.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use proximadb_db::config::Config;
use proximadb_db::root::StorageComponentType;
use serde_json::{Value, json};

use super::client::{Client, encode_segment};
use super::{Failure, offline, print, table};

/// How often `moves --watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub enum StorageCommand {
    /// Every root with its state, usage and latency.
    Roots,
    /// Where each component of each collection lives.
    Assignments,
    /// Totals per component and root.
    Stats,
    /// Take a further root into service.
    Add {
        /// Component whose files it is to hold: wal, viper, lsm, index or metadata.
        component: StorageComponentType,
        /// Where it is, such as file:///disk5/viper.
        root: String,
    },
    /// Empty a root: everything on it moves to the other roots of its component.
    Drain(RootArgs),
    /// End a drain: the root takes files again.
    Resume(RootArgs),
    /// Take an empty root out of service.
    Remove(RootArgs),
    /// Even out the roots; shows the plan first.
    Rebalance(RebalanceArgs),
    /// Move a component of a collection to another root.
    Move(MoveArgs),
    /// The moves since the start of the server, those under way first.
    Moves {
        /// Show the progress until all moves and drains are done.
        #[arg(long)]
        watch: bool,
    },
    /// Find out whether a bucket or directory can be a root: writes a few small files to it and deletes them.
    ///
    /// Uses the credentials that the configuration has for the URL, else those of the environment. The root may be in use.
    /// Exit code 1 if it does not keep what a root needs.
    Probe {
        /// Where, such as s3://bucket/prefix.
        url: String,
    },
    /// Check every file against its checksum, its manifest and its placement; the server must be stopped.
    ///
    /// Changes nothing. Exit code 3 if anything is damaged or missing, or could not be read. Duplicates (files of a
    /// collection outside of its home), orphans (files that nothing names) and strays (files of no known kind) are
    /// warnings: exit code 0.
    Verify,
}

#[derive(Args)]
pub struct RootArgs {
    /// Id or URL of the root.
    root: String,
}

#[derive(Args)]
pub struct RebalanceArgs {
    /// Only this component.
    #[arg(long)]
    component: Option<StorageComponentType>,
    /// Show the plan and end.
    #[arg(long)]
    dry_run: bool,
    /// Start without asking.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

#[derive(Args)]
pub struct MoveArgs {
    /// The collection.
    collection: String,
    /// The component: wal, viper, lsm, index or metadata.
    component: StorageComponentType,
    /// Id or URL of the root that it goes to.
    to: String,
    /// Id or URL of the root that it leaves; its home if not given.
    #[arg(long)]
    from: Option<String>,
}

/// Runs a command. Reports come from the running server if there is one, else from the files; `verify` always reads the
/// files, and changes need the server.
pub fn run(config: &Config, command: StorageCommand, as_json: bool) -> Result<(), Failure> {
    let server = server(config);
    let on_root = |args: &RootArgs| root_path(&server, &args.root);
    match command {
        StorageCommand::Verify => return verify(config, as_json),
        StorageCommand::Probe { url } => return probe(config, &url, as_json),
        StorageCommand::Roots => show(&report(config, "/storage/roots")?, "roots", as_json),
        StorageCommand::Assignments => show(&report(config, "/storage/assignments")?, "assignments", as_json),
        StorageCommand::Stats => show(&report(config, "/storage/stats")?, "components", as_json),
        StorageCommand::Add { component, root } => {
            let body = json!({ "component": component.name(), "url": root });
            show_row(&server.post("/storage/roots", &body)?, as_json);
        }
        StorageCommand::Drain(args) => {
            let path = format!("{}/drain", on_root(&args)?);
            show_row(&server.post(&path, &json!({}))?, as_json);
        }
        StorageCommand::Resume(args) => {
            let path = format!("{}/resume", on_root(&args)?);
            show_row(&server.post(&path, &json!({}))?, as_json);
        }
        StorageCommand::Remove(args) => {
            let removed = server.delete(&on_root(&args)?)?;
            print(as_json, &json!({ "removed": removed }), || {
                println!("{} is removed.", args.root)
            });
        }
        StorageCommand::Rebalance(args) => return rebalance(&server, &args, as_json),
        StorageCommand::Move(args) => {
            let (component, to) = (args.component.name(), args.to);
            let body = json!({ "collection": args.collection, "component": component, "to": to, "from": args.from });
            show_row(&server.post("/storage/moves", &body)?, as_json);
        }
        StorageCommand::Moves { watch: true } => return watch(&server, as_json),
        StorageCommand::Moves { watch: false } => show(&server.get("/storage/moves")?, "moves", as_json),
    }
    Ok(())
}

/// `viper clusters`.
pub fn clusters(config: &Config, collection: &str, as_json: bool) -> Result<(), Failure> {
    let path = format!("/collections/{}/clusters", encode_segment(collection));
    show(&server(config).get(&path)?, "clusters", as_json);
    Ok(())
}

/// What the server answers at `path`, or the files if there is none.
pub fn report(config: &Config, path: &str) -> Result<Value, Failure> {
    match server(config).get(path) {
        Ok(report) => Ok(report),
        Err(_) => Ok(offline::report(config, path)?),
    }
}

/// The server of a configuration.
fn server(config: &Config) -> Client {
    Client::new(&format!("http://{}", config.server.listen))
}

fn show(report: &Value, rows: &str, as_json: bool) {
    print(as_json, report, || table::print(&report[rows]));
}

fn show_row(row: &Value, as_json: bool) {
    print(as_json, row, || table::print(&json!([row])));
}

/// The path of the root that the server has by this id or URL.
fn root_path(server: &Client, name: &str) -> Result<String, Failure> {
    let report = server.get("/storage/roots")?;
    let roots = report["roots"].as_array().into_iter().flatten();
    let found = roots.into_iter().find(|root| root["id"] == name || root["url"] == name);
    let id = found.and_then(|root| root["id"].as_str());
    let missing = || format!("no root has the id or URL {name:?}; `proximadb storage roots` lists them");
    Ok(format!("/storage/roots/{}", id.ok_or_else(missing)?))
}

fn verify(config: &Config, as_json: bool) -> Result<(), Failure> {
    let verification = offline::verify(config)?;
    let report = offline::verification_json(config, &verification);
    print(as_json, &report, || print!("{}", offline::verification_text(&report)));
    if verification.damaged() > 0 {
        return Err(Failure::Damaged);
    }
    Ok(())
}

fn probe(config: &Config, url: &str, as_json: bool) -> Result<(), Failure> {
    let found = offline::probe(config, url)?;
    let (problem, advice) = (found.problem(), found.advice());
    let report =
        json!({ "url": url, "capabilities": found, "usable": problem.is_none(), "problem": problem, "advice": advice });
    print(as_json, &report, || {
        let capabilities = report["capabilities"].as_object().into_iter().flatten();
        let rows = capabilities.map(|(name, value)| json!({ "capability": name, "found": value }));
        table::print(&rows.collect());
        advice.iter().for_each(|advice| println!("note: {advice}"));
        if problem.is_none() {
            println!("{url} can be a root.");
        }
    });
    problem.map_or(Ok(()), |problem| Err(Failure::Failed(format!("{url}: {problem}"))))
}

/// Shows the plan and, if it is wanted, starts it.
fn rebalance(server: &Client, args: &RebalanceArgs, as_json: bool) -> Result<(), Failure> {
    let component = args.component.map(|of| format!("&component={of}")).unwrap_or_default();
    let start = |dry_run: bool| {
        let path = format!("/storage/rebalance?dry_run={dry_run}{component}");
        server.post(&path, &json!({}))
    };
    if !args.yes {
        let plan = start(true)?;
        print(as_json, &plan, || print_plan(&plan));
        let nothing_to_do = plan["moves"].as_array().is_none_or(Vec::is_empty);
        if args.dry_run || nothing_to_do {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            eprintln!("Nothing was started: `--yes` starts the moves.");
            return Ok(());
        }
        if !confirmed().map_err(|error| error.to_string())? {
            eprintln!("Nothing was started.");
            return Ok(());
        }
    }
    let started = start(false)?;
    print(as_json, &started, || {
        print_plan(&started);
        println!("Started; `proximadb storage moves --watch` shows the progress.");
    });
    Ok(())
}

fn print_plan(plan: &Value) {
    if plan["moves"].as_array().is_none_or(Vec::is_empty) {
        println!("Nothing to move: the roots are even, or no move would make them more so.");
        return;
    }
    table::print(&plan["moves"]);
    let count = plan["moves"].as_array().map_or(0, Vec::len);
    let bytes = table::bytes(plan["bytes"].as_u64().unwrap_or(0));
    println!(
        "{count} moves: {bytes}, {} files, about {} requests",
        plan["files"], plan["requests"]
    );
}

fn confirmed() -> std::io::Result<bool> {
    eprint!("Start these moves? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Shows the moves until none is under way and no root has anything left to drain: a bar on a terminal, else a line for
/// each change.
fn watch(server: &Client, as_json: bool) -> Result<(), Failure> {
    let bar = (!as_json && std::io::stdout().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{spinner} {msg}");
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
    });
    let mut shown = String::new();
    loop {
        let moves = server.get("/storage/moves")?;
        let line = if as_json { moves.to_string() } else { progress(&moves) };
        match &bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None if line != shown => {
                println!("{line}");
                shown = line;
            }
            None => {}
        }
        if is_over(&moves) && !is_draining(&server.get("/storage/roots")?) {
            break;
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
    if let Some(bar) = bar {
        bar.abandon();
    }
    Ok(())
}

fn is_over(moves: &Value) -> bool {
    ["queued", "running", "waiting"].iter().all(|state| moves[*state] == 0)
}

/// Whether a root that is drained still holds something.
fn is_draining(report: &Value) -> bool {
    let mut roots = report["roots"].as_array().into_iter().flatten();
    roots.any(|root| root["state"] == "draining" && root["collections"] != 0)
}

fn progress(moves: &Value) -> String {
    let left = table::bytes(moves["bytes_left"].as_u64().unwrap_or(0));
    let count = |state: &str| format!("{state} {}", moves[state]);
    let counts = ["running", "queued", "waiting", "done"].map(count).join(", ");
    let rows = moves["moves"].as_array().into_iter().flatten();
    let failed = rows.into_iter().find_map(|row| row["error"].as_str());
    let reason = failed
        .map(|reason| format!("; last failure: {reason}"))
        .unwrap_or_default();
    format!("{counts}; left: {left}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line_with_counts_bytes_and_the_first_reason() {
        let moves = json!({
            "queued": 1, "running": 2, "waiting": 1, "done": 3, "bytes_left": 2048,
            "moves": [{"error": null}, {"error": "root file:///x is full"}],
        });
        let line =
            "running 2, queued 1, waiting 1, done 3; left: 2,048 bytes (0.00 MB); last failure: root file:///x is full";
        assert_eq!(progress(&moves), line);
        assert!(!is_over(&moves));
        assert!(is_over(&json!({"queued": 0, "running": 0, "waiting": 0})));
    }
}
