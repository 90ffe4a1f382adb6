//! Several processes on one directory. Each child is this test binary, told by its environment what to do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use proximadb_kv::{Expected, Store, Swap, open};

use crate::places::{Directory, is_full};

const ROLE: &str = "PROXIMADB_KV_CHILD";

fn spawn(role: &str, url: &str, count: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--nocapture"])
        .env(ROLE, format!("{role} {count} {url}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The lines that a child wrote after `told `.
fn told(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .map_while(Result::ok)
        .filter_map(|line| Some(line.split_once("told ")?.1.to_owned()))
}

/// Does nothing in the test process itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(order) = std::env::var(ROLE) else { return };
    let mut words = order.splitn(3, ' ');
    let (role, count, url) = (
        words.next().unwrap(),
        words.next().unwrap().parse().unwrap(),
        words.next().unwrap(),
    );
    let store = open(url, &BTreeMap::new()).await.unwrap();
    match role {
        "swap" => swap(&store, count).await,
        "race" => {
            let outcome = store
                .create_if_absent("race", Bytes::from(std::process::id().to_string()))
                .await
                .unwrap();
            println!("told {}", outcome.is_swapped());
        }
        "increment" => loop {
            println!("told {}", store.increment("n", 1).await.unwrap());
        },
        other => panic!("{other}"),
    }
}

/// Tries to change the key so often, from what it read each time; tells how often it did.
async fn swap(store: &dyn Store, count: usize) {
    let mut made = 0;
    let mut now = store.get_versioned("k").await.unwrap();
    for n in 0..count {
        let expected = now.map_or(Expected::Missing, |entry| Expected::Version(entry.version));
        let new = Bytes::from(format!("{} {n}", std::process::id()));
        match store.compare_and_swap("k", expected, Some(new)).await.unwrap() {
            Swap::Swapped(_) => {
                made += 1;
                now = store.get_versioned("k").await.unwrap();
            }
            Swap::Lost(entry) => now = entry,
        }
    }
    println!("told {made}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_m7_n1_processes_on_one_directory_win_as_often_as_the_key_changes() {
    let directory = Directory::new();
    let (processes, swaps) = if is_full() { (64, 1_000) } else { (6, 40) };
    let store = directory.open().await;
    let mut children: Vec<Child> = (0..processes).map(|_| spawn("swap", &directory.url(), swaps)).collect();
    let mut made = 0;
    for child in &mut children {
        made += told(child).map(|line| line.parse::<u64>().unwrap()).sum::<u64>();
        assert!(child.wait().unwrap().success());
    }
    // Each change has a number of its own.
    let version = store.get_versioned("k").await.unwrap().unwrap().version;
    assert_eq!(version.to_string().split('-').next().unwrap(), made.to_string());
    assert!(made >= swaps as u64);

    let mut racers: Vec<Child> = (0..processes).map(|_| spawn("race", &directory.url(), 0)).collect();
    let told: Vec<String> = racers.iter_mut().flat_map(told).collect();
    assert_eq!(
        (told.len(), told.iter().filter(|line| *line == "true").count()),
        (processes, 1)
    );
    racers
        .iter_mut()
        .for_each(|child| assert!(child.wait().unwrap().success()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_a_killed_writer_blocks_nobody_and_what_it_was_told_is_there() {
    let directory = Directory::new();
    let store = directory.open().await;
    let mut last = 0;
    for round in 0..5 {
        let mut child = spawn("increment", &directory.url(), 0);
        let mut lines = told(&mut child);
        for _ in 0..3 + round {
            last = lines.next().unwrap().parse().unwrap();
        }
        child.kill().unwrap();
        last = lines.map(|line| line.parse().unwrap()).max().unwrap_or(last);
        child.wait().unwrap();
        let next = store.increment("n", 1).await.unwrap();
        // At most the one change more that was not told.
        assert!(next == last + 1 || next == last + 2, "{next} after {last}");
    }
}
