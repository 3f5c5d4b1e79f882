//! `/metrics`: what the pipelines count and what headrig counts about itself.

use super::Surface;
use super::routes::text;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Lets one scrape at a time gather, so that many scrapers don't multiply its memory.
#[derive(Debug, Clone)]
pub(crate) struct Turn(Arc<Semaphore>);

impl Turn {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

pub(crate) async fn metrics(State((surface, turn)): State<(Surface, Turn)>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).map(str::to_owned);
    // The permit goes along: a scraper that leaves early doesn't end the work that it began.
    let Ok(permit) = turn.0.acquire_owned().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the server ends\n");
    };
    let work = move || {
        let _permit = permit;
        (surface.encode)(accept.as_deref(), &(surface.gather)())
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => {
            ([(header::CONTENT_TYPE, found.content_type), (header::VARY, "accept")], found.body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot gather metrics");
            text(StatusCode::INTERNAL_SERVER_ERROR, "cannot gather metrics, see the log\n")
        }
    }
}
