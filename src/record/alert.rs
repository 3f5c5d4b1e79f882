//! Alert events: one for each change of state of an alert.

use crate::time::EventTime;
use serde::Serialize;
use std::collections::BTreeMap;

/// The state that an alert has changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    Firing,
    Resolved,
}

impl AlertStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// One change of state, as `schemas/alert-event.schema.json` describes it. Serialising it gives the same bytes on
/// every run over the same input: keys in order, nothing from a clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AlertEvent {
    /// Identifies this change of state; the same on every replay.
    pub id: String,
    pub pipeline: String,
    pub status: AlertStatus,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The values that the condition looked at; integers stay integers, "no data" is null.
    pub values: BTreeMap<String, serde_json::Value>,
    #[serde(serialize_with = "rfc3339")]
    pub window_start: EventTime,
    #[serde(serialize_with = "rfc3339")]
    pub window_end: EventTime,
    /// When it began to fire, in event time, `for` included.
    #[serde(serialize_with = "rfc3339")]
    pub starts_at: EventTime,
    /// When it was resolved; null while it fires.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub ends_at: Option<EventTime>,
}

/// An alert that is pending or firing, as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveAlert {
    pub labels: BTreeMap<String, String>,
    /// As of the last window for which its condition was true in this run; empty before the first.
    pub annotations: BTreeMap<String, String>,
    /// Whether it fires; else it is pending.
    pub firing: bool,
    /// Since when the condition has been true, in event time.
    pub active_at: EventTime,
    /// The first value that the condition names, where it is a number.
    pub value: Option<f64>,
    /// SQL for `headrig query` that gives the records behind it; none before the first such window.
    pub sql: Option<String>,
}

fn rfc3339<S: serde::Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn rfc3339_or_null<S: serde::Serializer>(time: &Option<EventTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}
