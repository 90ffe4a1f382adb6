//! The listener: accepts connections until a signal, lets the running requests finish, and closes the database.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::{AppState, router};

/// How long requests may finish after the signal. Changes that were accepted are completed however long they take.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves `app` on `listener` until `stop` resolves. When this returns, the database is closed.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    app: AppState,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Answers are written whole; waiting for more to send with them only delays them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY is not set on a connection: {error}");
        }
    });
    let (stopping, mut stopped) = watch::channel(false);
    let stop = async move {
        stop.await;
        tracing::info!("stopping: no new requests, the running ones finish");
        // Fails only if nobody waits any more.
        let _ = stopping.send(true);
    };
    let serving = axum::serve(listener, router(app.clone())).with_graceful_shutdown(stop);
    let too_late = async move {
        // A closed channel means that serving ended; then the other branch is ready too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(DRAIN).await;
    };
    let result = tokio::select! {
        result = serving => result,
        () = too_late => {
            tracing::warn!("some requests did not finish within {DRAIN:?}; their connections are dropped");
            Ok(())
        }
    };
    app.close().await;
    result
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
