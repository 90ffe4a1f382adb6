//! Request bodies that a handler has not read to their end.
//!
//! hyper closes a connection with an unread body, and a client that keeps connections open would fail its next request on it. So what
//! is left of a body when the answer is ready is read and thrown away first, whoever has answered and why.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use parking_lot::Mutex;

/// Most bytes that are read from a client that may have no right to send anything.
const MAX_BYTES: usize = 1 << 20;
/// Longest time for these.
const MAX_TIME: Duration = Duration::from_secs(5);

/// A body that goes back to its owner when it is dropped.
struct Lent {
    body: Body,
    owner: Arc<Mutex<Body>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.owner.lock() = std::mem::take(&mut self.body);
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Answers when nothing of the body is left.
pub async fn discard(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let owner = Arc::new(Mutex::new(Body::empty()));
    let lend = |body| Lent {
        body,
        owner: owner.clone(),
    };
    let response = next.run(request.map(|body| Body::new(lend(body)))).await;
    let mut left = std::mem::take(&mut *owner.lock()).into_data_stream();
    let mut seen = 0;
    let reading = async {
        while let Some(Ok(chunk)) = left.next().await {
            seen += chunk.len();
            if seen > MAX_BYTES {
                break;
            }
        }
    };
    // Whoever is slower than this loses the connection; nothing else is lost.
    let _ = tokio::time::timeout(MAX_TIME, reading).await;
    response
}
