//! SIGHUP: reads the configuration again and applies what changed in the lists of URLs.
//!
//! New URLs become roots, URLs that disappeared are drained and never dropped. Everything else needs a restart, and is
//! said in the log. A configuration that is wrong changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use proximadb_db::config::Config;
use proximadb_db::database::root_configs;
use proximadb_db::root::{Root, RootState, StorageComponentType};
use proximadb_db::{Database, Error};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::AppState;
use crate::failure::Failure;

/// A URL of a component's list.
type Listed = (StorageComponentType, String);

/// What a new configuration asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    added: BTreeSet<Listed>,
    gone: BTreeSet<Listed>,
    /// Keys that changed and are read at the start only.
    restart: Vec<String>,
}

/// Applies the configuration anew at every SIGHUP, until dropped.
///
/// # Errors
/// [`Error::Internal`] if the signal cannot be caught; [`Error::Config`] for a wrong URL.
pub fn at_hangup(
    app: AppState,
    config: &Config,
    load: impl Fn() -> Result<Config, Error> + Clone + Send + Sync + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::Internal(error.to_string()))?;
    let mut current = config.clone();
    let mut in_force = urls(config)?;
    let load = move || {
        let next = load()?;
        Ok::<_, Error>((urls(&next)?, next))
    };
    Ok(async move {
        while hangup.recv().await.is_some() {
            let loaded = tokio::task::spawn_blocking(load.clone()).await;
            match loaded.unwrap_or_else(|error| Err(Error::Internal(error.to_string()))) {
                Ok((listed, next)) => {
                    let difference = Difference::between(&in_force, &listed, &current, &next);
                    in_force = apply(&app, difference, listed).await;
                    current = next;
                }
                Err(error) => tracing::error!(%error, "reload: the configuration is wrong; nothing changes"),
            }
        }
    })
}

/// The URLs of a configuration.
fn urls(config: &Config) -> Result<BTreeSet<Listed>, Error> {
    let roots = root_configs(config)?.into_iter();
    Ok(roots
        .map(|root| (root.component, root.url.as_str().to_owned()))
        .collect())
}

impl Difference {
    fn between(before: &BTreeSet<Listed>, after: &BTreeSet<Listed>, current: &Config, next: &Config) -> Self {
        let settings = |config: &Config| {
            let fixed = config
                .settings()
                .iter()
                .filter(|setting| !setting.key.ends_with("urls"));
            let pairs = fixed.map(|setting| (setting.key.clone(), format!("{:?}", setting.value)));
            pairs.collect::<BTreeSet<_>>()
        };
        let (old, new) = (settings(current), settings(next));
        let changed: BTreeSet<String> = old.symmetric_difference(&new).map(|(key, _)| key.clone()).collect();
        Self {
            added: after.difference(before).cloned().collect(),
            gone: before.difference(after).cloned().collect(),
            restart: changed.into_iter().collect(),
        }
    }
}

/// Adds first, so that what is drained has somewhere to go. Returns the URLs that are in force: what failed is tried
/// again at the next SIGHUP.
async fn apply(app: &AppState, difference: Difference, mut in_force: BTreeSet<Listed>) -> BTreeSet<Listed> {
    for key in &difference.restart {
        tracing::warn!(key, "reload: this key changed and needs a restart");
    }
    for (component, url) in difference.added {
        let done = add(app, component, url.clone()).await;
        log("taken into service", component, &url, &done);
        if done.is_err() {
            in_force.remove(&(component, url));
        }
    }
    for (component, url) in difference.gone {
        let done = drain(app, component, url.clone()).await;
        log(
            "drained, because the configuration does not name it any more",
            component,
            &url,
            &done,
        );
        if done.is_err() {
            in_force.insert((component, url));
        }
    }
    tracing::info!("reload: done");
    in_force
}

fn log(what: &str, component: StorageComponentType, url: &str, done: &Result<(), Failure>) {
    match done {
        Ok(()) => tracing::info!(root = url, %component, "reload: root is {what}"),
        Err(failure) => {
            let reason = &failure.text;
            tracing::error!(root = url, %component, reason, "reload: root is not {what}; the next reload tries again");
        }
    }
}

fn found(database: &Database, component: StorageComponentType, url: &str) -> Option<Arc<Root>> {
    let mut roots = database.roots().of_component(component).into_iter();
    roots.find(|root| root.url() == url)
}

/// A root that is there already was added over HTTP, or is being drained because the last configuration left it out.
async fn add(app: &AppState, component: StorageComponentType, url: String) -> Result<(), Failure> {
    let database = app.database().clone();
    app.change(async move {
        match found(&database, component, &url) {
            Some(root) if root.state() == RootState::Draining => database.resume_root(root.id()).await,
            Some(_) => Ok(()),
            None => database.add_root(component, &url).await.map(drop),
        }
    })
    .await
}

async fn drain(app: &AppState, component: StorageComponentType, url: String) -> Result<(), Failure> {
    let database = app.database().clone();
    app.change(async move {
        match found(&database, component, &url) {
            Some(root) => database.drain_root(root.id()).await,
            // Removed over HTTP.
            None => Ok(()),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Config {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(None, variables.collect::<Vec<_>>().into_iter()).unwrap()
    }

    #[test]
    fn k4_a_reload_adds_new_urls_drains_lost_ones_and_names_the_keys_that_need_a_restart() {
        let wal = "PROXIMADB__STORAGE__WAL_CONFIG__WAL_URLS";
        let before = config(&[(wal, "file:///a/wal,file:///b/wal")]);
        let after = config(&[
            (wal, "file:///b/wal,file:///c/wal"),
            ("PROXIMADB__SERVER__MAX_REQUEST_SIZE_MB", "7"),
        ]);
        let difference = Difference::between(&urls(&before).unwrap(), &urls(&after).unwrap(), &before, &after);
        let listed = |url: &str| BTreeSet::from([(StorageComponentType::Wal, url.to_owned())]);
        assert_eq!(difference.added, listed("file:///c/wal"));
        assert_eq!(difference.gone, listed("file:///a/wal"));
        assert_eq!(difference.restart, ["server.max_request_size_mb"]);
        let same = Difference::between(&urls(&after).unwrap(), &urls(&after).unwrap(), &after, &after);
        assert_eq!(same, Difference::default());
    }
}
