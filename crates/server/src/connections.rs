//! The threads that serve connections, one for each core, each with a scheduler of its own.
//!
//! Where threads share their work, a socket wakes one thread, and that wakes the next to look for more: as much time as a search
//! takes. Here a connection belongs to one thread from its first byte to its last, and searches are answered on it. What may take
//! longer is done elsewhere (`api::place`), so that it holds up no other connection of the thread.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use futures::future::join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

/// Accepted connections that a thread has not taken over yet. Further ones wait in the listener's own queue.
const WAITING_MAX: usize = 64;

/// The threads.
pub struct Connections {
    threads: Vec<Thread>,
    stop: watch::Sender<bool>,
}

/// What is left of a thread when it has started.
struct Thread {
    connections: mpsc::Sender<std::net::TcpStream>,
    /// Resolves when all of its connections are closed.
    ended: oneshot::Receiver<()>,
    /// Dropped, it ends without them.
    _wanted: oneshot::Sender<()>,
}

impl Connections {
    /// Starts the threads, to answer as `router` does at `address`.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(router: &Router, address: SocketAddr) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let cores = std::thread::available_parallelism()?.get();
        let threads = (0..cores).map(|_| start(router.clone(), address, stopped.clone(), cores));
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            stop,
        })
    }

    /// Accepts connections and gives them to the threads in turn, for ever.
    pub async fn hand_out(&self, mut listener: TcpListener) {
        for thread in self.threads.iter().cycle() {
            // Answers are written whole; waiting for more to send with them only delays them.
            let (stream, _) = Listener::accept(&mut listener).await;
            let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
            match stream {
                // Fails only if the thread has ended, which it does when told to.
                Ok(stream) => drop(thread.connections.send(stream).await),
                Err(error) => tracing::debug!("a connection is lost: {error}"),
            }
        }
    }

    /// Lets the running requests finish; false if some did not within `time`: their connections are dropped.
    pub async fn finish(self, time: Duration) -> bool {
        // Fails only if no thread waits any more.
        let _ = self.stop.send(true);
        let (ended, _wanted): (Vec<_>, Vec<_>) = self.threads.into_iter().map(|own| (own.ended, own._wanted)).unzip();
        tokio::time::timeout(time, join_all(ended)).await.is_ok()
    }
}

fn start(router: Router, address: SocketAddr, mut stopped: watch::Receiver<bool>, cores: usize) -> io::Result<Thread> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Searches that take long calculate all the time: more of them at once would not be sooner.
    let runtime = runtime.enable_all().max_blocking_threads(cores).build()?;
    let (sender, connections) = mpsc::channel(WAITING_MAX);
    let (end, ended) = oneshot::channel();
    let (wanted, unwanted) = oneshot::channel::<()>();
    let serving = async move {
        let stopped = async move {
            // A sender that is gone wants nothing any more.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        tokio::select! {
            // Never fails: whatever happens to a connection ends that only.
            _ = axum::serve(Given { connections, address }, router).with_graceful_shutdown(stopped) => {}
            _ = unwanted => {}
        }
    };
    std::thread::Builder::new()
        .name("connections".to_owned())
        .spawn(move || {
            runtime.block_on(serving);
            runtime.shutdown_background();
            // Fails only if nobody waits any more.
            let _ = end.send(());
        })?;
    Ok(Thread {
        connections: sender,
        ended,
        _wanted: wanted,
    })
}

/// The connections that a thread is given.
struct Given {
    connections: mpsc::Receiver<std::net::TcpStream>,
    address: SocketAddr,
}

impl Listener for Given {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        while let Some(stream) = self.connections.recv().await {
            match stream
                .peer_addr()
                .and_then(|peer| Ok((TcpStream::from_std(stream)?, peer)))
            {
                Ok(accepted) => return accepted,
                Err(error) => tracing::debug!("a connection is lost: {error}"),
            }
        }
        pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
