//! Which path answers what. `HEAD` works wherever `GET` does.

use super::metrics::Turn;
use super::{Surface, alerts, health, metrics, seal, silences};
use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

const INDEX: &str = concat!(
    "headrig ",
    env!("CARGO_PKG_VERSION"),
    "\n\n/healthz  200 while the process answers\n/readyz   200 while it is ready, 503 and the reason while not\n\
     /metrics  metrics for Prometheus\n/api/v1/alerts  alerts that are pending or firing, as Prometheus shows them\n\
     /api/v2/silences  what is silenced, as Alertmanager shows it; POST adds, DELETE /api/v2/silence/ID ends\n\
     /api/v1/seal    POST: seals what was read so far, for `headrig query --live`\n"
);

pub(crate) fn router(surface: Surface) -> Router {
    Router::new()
        .route("/metrics", get(metrics::metrics).with_state((surface.clone(), Turn::new())))
        .route("/api/v1/alerts", get(alerts::alerts))
        .route("/api/v2/silences", get(silences::list).post(silences::post))
        .route("/api/v2/silence/{id}", get(silences::get).delete(silences::end))
        .route("/api/v1/seal", post(seal::seal))
        .route("/", get(|| async { text(StatusCode::OK, INDEX) }))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(|uri: Uri| async move {
            text(StatusCode::NOT_FOUND, format!("cannot find {}, the list of paths is at /\n", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            text(StatusCode::METHOD_NOT_ALLOWED, "cannot do that here, the list of paths and methods is at /\n")
        })
        .with_state(surface)
}

/// A plain text that nobody keeps or takes for a page.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.into()).into_response()
}
