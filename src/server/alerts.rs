//! `/api/v1/alerts`: what is pending and firing, as Prometheus shows it (`web/api/v1`), and the SQL of the records behind.

use super::Surface;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub(crate) async fn alerts(State(surface): State<Surface>) -> Response {
    let alerts: Vec<Value> = (surface.alerts)()
        .iter()
        .map(|alert| {
            json!({
                "labels": alert.labels,
                "annotations": alert.annotations,
                "state": if alert.firing { "firing" } else { "pending" },
                "activeAt": alert.active_at.to_string(),
                "value": alert.value.map_or_else(|| "NaN".to_owned(), scientific),
                "sql": alert.sql,
            })
        })
        .collect();
    let body = json!({ "status": "success", "data": { "alerts": alerts } }).to_string();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

/// Go's `%e` with as many digits as are needed, as Prometheus writes an alert's value: `3.1e-01`.
fn scientific(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_prometheus_does() {
        for (value, text) in [
            (0.31, "3.1e-01"),
            (1.0, "1e+00"),
            (0.0, "0e+00"),
            (-12_345.5, "-1.23455e+04"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(scientific(value), text);
        }
    }
}
