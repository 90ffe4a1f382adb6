//! The listener: accepts connections until a signal, lets the running requests finish, and closes the database.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use proximadb_db::config::Config;
use proximadb_db::{Database, Error};

use crate::api::{App, AppState, Settings, router};
use crate::connections::Connections;
use crate::reload;

/// How long requests may finish after the signal. Changes that were accepted are completed.
const DRAIN: Duration = Duration::from_secs(10);
/// How long closing the database may take. Nothing is lost without it, and a disk that hangs would hold it up for good.
const CLOSE: Duration = Duration::from_secs(30);

/// Opens the database of `config` and serves it until a signal comes; at SIGHUP `load` reads the configuration again.
///
/// # Errors
/// [`Error::Config`] for a configuration that cannot be served; errors of the roots; [`Error::Internal`] if the address is taken.
pub fn run(
    config: &Config,
    load: impl Fn() -> Result<Config, Error> + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    block_on(async {
        let server = open(config).await?;
        let reloading = tokio::spawn(reload::at_hangup(server.app.clone(), config, load)?);
        let result = server.until(signalled().map_err(internal)?).await;
        reloading.abort();
        result
    })
}

/// The same, with `tour` running beside the server once it answers. `exit`: stop when the tour is over.
///
/// # Errors
/// As [`run`]; [`Error::Internal`] with the tour's own reason.
pub fn run_with(
    config: &Config,
    tour: impl FnOnce() -> Result<(), String> + Send + 'static,
    exit: bool,
) -> Result<(), Error> {
    block_on(async {
        let server = open(config).await?;
        let signal = signalled().map_err(internal)?;
        let (failed, failure) = tokio::sync::oneshot::channel();
        let tour = tokio::task::spawn_blocking(tour);
        let stop = async move {
            let result = tour.await.unwrap_or_else(|error| Err(error.to_string()));
            if result.is_ok() && !exit {
                signal.await;
            }
            // The receiver waits until the server has stopped.
            let _ = failed.send(result);
        };
        server.until(stop).await?;
        failure.await.unwrap_or(Ok(())).map_err(Error::Internal)
    })
}

/// A server that is bound to its address, with its database open.
struct Server {
    listener: TcpListener,
    app: AppState,
}

async fn open(config: &Config) -> Result<Server, Error> {
    let address = config.server.listen;
    let taken = |error| Error::Internal(format!("cannot listen on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let database = Database::open(config.clone()).await?;
    tracing::info!(%address, "ProximaDB {} is ready", env!("CARGO_PKG_VERSION"));
    Ok(Server {
        listener,
        app: App::new(database, Settings::from(&config.server)),
    })
}

impl Server {
    async fn until(self, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
        serve(self.listener, self.app, stop).await.map_err(internal)
    }
}

fn block_on(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(internal)?;
    let outcome = runtime.block_on(work);
    // What still runs is background work on roots; it is made to be cut off at any point.
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

fn internal(error: io::Error) -> Error {
    Error::Internal(error.to_string())
}

/// Serves `app` on `listener` until `stop` resolves. When this returns, the database is closed.
///
/// # Errors
/// If no threads can be started.
pub async fn serve(listener: TcpListener, app: AppState, stop: impl Future<Output = ()> + Send) -> io::Result<()> {
    let connections = Connections::start(&router(app.clone()), listener.local_addr()?)?;
    tokio::select! {
        () = stop => {}
        () = connections.hand_out(listener) => {}
    }
    tracing::info!("stopping: no new requests, the running ones finish");
    if !connections.finish(DRAIN).await {
        tracing::warn!("some requests did not finish within {DRAIN:?}; their connections are dropped");
    }
    if tokio::time::timeout(CLOSE, app.close()).await.is_err() {
        tracing::warn!("a root does not answer; the database is left as it is after {CLOSE:?}");
    }
    Ok(())
}

/// Resolves at the first SIGTERM or SIGINT.
///
/// # Errors
/// If the signals cannot be caught.
pub fn signalled() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
