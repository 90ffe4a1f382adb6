//! How many requests a bucket gets at once: as many as it takes.
//!
//! Additive increase, multiplicative decrease: a request that is answered lets the limit grow by one per round of
//! requests; 429 and 503 halve it, once for all requests that were under way. Every attempt counts, retries too.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::traffic::{CountingConnector, Traffic};

/// Most requests at once: more than a disk-bound flush or a parallel replay makes, few enough for one process's sockets.
const MOST: usize = 64;

/// The limit of one bucket root.
#[derive(Debug)]
pub(crate) struct Pace {
    turns: Semaphore,
    state: Mutex<State>,
    traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct State {
    /// Requests that may be under way; grows by fractions.
    limit: f64,
    /// Turns that exist. More than the limit only while those under way are not back.
    turns: usize,
    /// Number of decreases so far: a request that began before the last one says nothing new.
    decreases: u64,
    throttled: u64,
}

/// A request's right to be under way.
struct Turn<'a> {
    pace: &'a Pace,
    permit: Option<SemaphorePermit<'a>>,
    began: u64,
}

impl Default for Pace {
    fn default() -> Self {
        let state = State {
            limit: MOST as f64,
            turns: MOST,
            decreases: 0,
            throttled: 0,
        };
        Self {
            turns: Semaphore::new(MOST),
            state: Mutex::new(state),
            traffic: Arc::default(),
        }
    }
}

impl Pace {
    /// Requests that may be under way now.
    pub(crate) fn limit(&self) -> usize {
        self.state.lock().limit as usize
    }

    /// Answers that asked for fewer requests (429, 503) since the start.
    pub(crate) fn throttled(&self) -> u64 {
        self.state.lock().throttled
    }

    /// What was sent, attempt by attempt.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Makes clients whose requests keep to this pace; those to the bucket are counted when they leave.
    pub(super) fn connector(self: &Arc<Self>, bucket: &str) -> Connector {
        Connector {
            counting: CountingConnector {
                traffic: self.traffic.clone(),
                bucket: bucket.to_owned(),
            },
            pace: self.clone(),
        }
    }

    async fn turn(&self) -> Result<Turn<'_>, HttpError> {
        let acquired = self.turns.acquire().await;
        let permit = acquired.map_err(|closed| HttpError::new(HttpErrorKind::Unknown, closed))?;
        Ok(Turn {
            pace: self,
            permit: Some(permit),
            began: self.state.lock().decreases,
        })
    }
}

impl Turn<'_> {
    /// Takes note of the answer.
    fn answered(&self, throttled: bool) {
        let mut state = self.pace.state.lock();
        if throttled {
            state.throttled += 1;
            if self.began == state.decreases {
                state.decreases += 1;
                state.limit = (state.limit / 2.0).max(1.0);
                let excess = state.turns.saturating_sub(state.limit as usize);
                state.turns -= self.pace.turns.forget_permits(excess);
            }
        } else {
            state.limit = (state.limit + 1.0 / state.limit).min(MOST as f64);
            while state.turns < state.limit as usize {
                state.turns += 1;
                self.pace.turns.add_permits(1);
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.pace.state.lock();
        if state.turns > state.limit as usize {
            state.turns -= 1;
            permit.forget();
        }
    }
}

/// Makes counting clients and sets the pace of their requests.
#[derive(Debug)]
pub(super) struct Connector {
    pace: Arc<Pace>,
    counting: CountingConnector,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Paced {
            client: self.counting.connect(options)?,
            pace: self.pace.clone(),
        }))
    }
}

#[derive(Debug)]
struct Paced {
    client: HttpClient,
    pace: Arc<Pace>,
}

#[async_trait]
impl HttpService for Paced {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let turn = self.pace.turn().await?;
        let answer = self.client.execute(request).await;
        if let Ok(answer) = &answer {
            turn.answered(matches!(answer.status().as_u16(), 429 | 503));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn throttling_halves_the_limit_once_for_all_requests_under_way() {
        let pace = Pace::default();
        let under_way = futures::future::join_all((0..MOST).map(|_| pace.turn())).await;
        assert_eq!(pace.turns.available_permits(), 0);
        for turn in &under_way {
            turn.as_ref().unwrap().answered(true);
        }
        assert_eq!((pace.limit(), pace.throttled()), (MOST / 2, MOST as u64));
        drop(under_way);
        assert_eq!(
            pace.turns.available_permits(),
            MOST / 2,
            "the others are gone with their requests"
        );
        pace.turn().await.unwrap().answered(true);
        assert_eq!(pace.limit(), MOST / 4, "a request of the new time counts again");
    }

    #[tokio::test]
    async fn the_limit_never_falls_below_one_and_grows_back_by_one_a_round() {
        let pace = Pace::default();
        for _ in 0..20 {
            pace.turn().await.unwrap().answered(true);
        }
        assert_eq!(pace.limit(), 1);
        assert_eq!(pace.turns.available_permits(), 1);
        pace.turn().await.unwrap().answered(false);
        assert_eq!((pace.limit(), pace.turns.available_permits()), (2, 2));
        for _ in 0..MOST * MOST {
            pace.turn().await.unwrap().answered(false);
        }
        assert_eq!((pace.limit(), pace.turns.available_permits()), (MOST, MOST));
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_gives_its_turn_back() {
        let pace = Pace::default();
        drop(pace.turn().await.unwrap());
        assert_eq!(pace.turns.available_permits(), MOST);
    }
}
