//! `/api/v2/silences` and `/api/v2/silence/ID`, as Alertmanager has them (its `api/v2/openapi.yaml`), so that `amtool` and others work.
//!
//! These change something, and whoever may reach the listener may use them. So that no web page can do it through a
//! browser on this machine, a request must be for a loopback host (DNS rebinding), and a body must say that it is JSON (which a page
//! of another origin may not without being asked about first, and that is not answered).

use super::Surface;
use super::routes::text;
use crate::sink::{Matcher, Silence, SilenceError};
use crate::time::EventTime;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What is posted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Posted {
    id: Option<String>,
    matchers: Vec<Matcher>,
    starts_at: String,
    ends_at: String,
    created_by: String,
    comment: String,
}

impl Posted {
    fn silence(self) -> Result<Silence, String> {
        let micros = |name: &str, text: &str| {
            let stamp: Result<jiff::Timestamp, _> = text.parse();
            stamp.map(|stamp| stamp.as_microsecond()).map_err(|_| format!("cannot read {name} {text:?} as a time\n"))
        };
        Ok(Silence {
            starts_at: micros("startsAt", &self.starts_at)?,
            ends_at: micros("endsAt", &self.ends_at)?,
            id: self.id.unwrap_or_default(),
            matchers: self.matchers,
            updated_at: 0,
            created_by: self.created_by,
            comment: self.comment,
        })
    }
}

fn shown(silence: &Silence, now: EventTime) -> Value {
    let time = |micros: i64| EventTime::from_micros(micros).to_string();
    json!({
        "id": silence.id,
        "status": { "state": silence.state(now).as_str() },
        "matchers": silence.matchers,
        "startsAt": time(silence.starts_at),
        "endsAt": time(silence.ends_at),
        "updatedAt": time(silence.updated_at),
        "createdBy": silence.created_by,
        "comment": silence.comment,
    })
}

fn answer(body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body.to_string()).into_response()
}

fn refused(error: &SilenceError) -> Response {
    let status = match error {
        SilenceError::Unknown(_) => StatusCode::NOT_FOUND,
        SilenceError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    text(status, format!("{error}\n"))
}

/// Whether the request is for this machine by a name that no other one can have.
pub(super) fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

pub(super) fn stranger() -> Response {
    text(
        StatusCode::FORBIDDEN,
        "cannot change anything for a host that is not this machine: ask 127.0.0.1 or localhost\n",
    )
}

pub(crate) async fn list(State(surface): State<Surface>) -> Response {
    let now = (surface.now)();
    let all: Vec<Value> = surface.silences.list().iter().map(|silence| shown(silence, now)).collect();
    answer(&Value::Array(all))
}

pub(crate) async fn get(State(surface): State<Surface>, Path(id): Path<String>) -> Response {
    let found = surface.silences.list().into_iter().find(|silence| silence.id == id);
    found.map_or_else(|| refused(&SilenceError::Unknown(id)), |silence| answer(&shown(&silence, (surface.now)())))
}

pub(crate) async fn post(State(surface): State<Surface>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_local(&headers) {
        return stranger();
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "cannot take a silence that is not application/json\n");
    }
    let posted: Posted = match serde_json::from_slice(&body) {
        Ok(posted) => posted,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("cannot read the silence: {error}\n")),
    };
    let silence = match posted.silence() {
        Ok(silence) => silence,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let now = (surface.now)();
    // A few kB are written and synced.
    let put = tokio::task::spawn_blocking(move || surface.silences.put(silence, now)).await;
    match put.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        Ok(id) => answer(&json!({ "silenceID": id })),
        Err(error) => refused(&error),
    }
}

pub(crate) async fn end(State(surface): State<Surface>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    if !is_local(&headers) {
        return stranger();
    }
    let now = (surface.now)();
    let ended = tokio::task::spawn_blocking(move || surface.silences.end(&id, now)).await;
    match ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => refused(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_its() {
        let local = |host: &str| is_local(&[(header::HOST, host.parse().unwrap())].into_iter().collect());
        for host in ["localhost", "LOCALHOST:8686", "127.0.0.1", "127.0.0.1:8686", "[::1]:8686"] {
            assert!(local(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8686", "[fe80::1]", ""] {
            assert!(!local(host), "{host}");
        }
        assert!(!is_local(&HeaderMap::new()));
    }

    #[test]
    fn times_have_an_offset() {
        let text = r#"{"matchers":[{"name":"app","value":"web","isRegex":false}],"startsAt":"2026-11-22T01:00:00+09:00",
            "endsAt":"2026-11-21T17:00:00Z","createdBy":"me","comment":""}"#;
        let posted: Posted = serde_json::from_str(text).unwrap();
        let silence = posted.silence().unwrap();
        assert_eq!(silence.ends_at - silence.starts_at, 3_600_000_000);
        assert!(silence.matchers[0].is_equal, "as amtool leaves it out");
        let posted: Posted = serde_json::from_str(&text.replace("17:00:00Z", "17:00")).unwrap();
        assert!(posted.silence().unwrap_err().contains("endsAt"));
    }
}
