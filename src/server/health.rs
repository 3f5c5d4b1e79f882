//! `/healthz`: the process answers. `/readyz`: it does its work; 503 with the reason where not.

use super::Surface;
use super::routes::text;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

pub(crate) async fn healthz() -> Response {
    text(StatusCode::OK, "ok\n")
}

pub(crate) async fn readyz(State(surface): State<Surface>) -> Response {
    match (surface.ready)() {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}
