//! `POST /api/v1/seal`: seals what the pipelines have worked off, for whoever wants to read it now (`headrig query --live`).
//!
//! It returns when the rows are in the archive, where each is once; so a reader needs no rows from here. A seal a second at most is made for
//! it, and who asks meanwhile waits for the next one.

use super::Surface;
use super::routes::text;
use super::silences::{is_local, stranger};
use crate::limits;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

pub(crate) async fn seal(State(surface): State<Surface>, headers: HeaderMap) -> Response {
    // No web page may have small files made through a browser on this machine: see `silences`.
    if !is_local(&headers) || headers.contains_key(header::ORIGIN) {
        return stranger();
    }
    let patience = limits::LIVE_PATIENCE;
    match tokio::time::timeout(patience.to_std(), (surface.seal)()).await {
        Ok(Ok(pipelines)) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, json!({ "sealed": pipelines }).to_string()).into_response()
        }
        Ok(Err(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(_) => {
            let why = (surface.ready)().err().map(|why| format!(": {why}")).unwrap_or_default();
            text(StatusCode::SERVICE_UNAVAILABLE, format!("cannot seal within {patience}{why}\n"))
        }
    }
}
