//! What can be seen of a rehearsal at one moment.

use crate::record::alert::{ActiveAlert, AlertEvent, AlertStatus};
use crate::record::sample::{WindowRows, WindowSchema};
use crate::time::EventTime;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What came instead of what was expected, as an expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Came {
    /// What stands behind `expect`.
    Line(String),
    /// What stands below it.
    Block(Vec<String>),
}

/// One look.
#[derive(Debug)]
pub(super) struct View {
    pub(super) origin: EventTime,
    pub(super) schemas: Vec<WindowSchema>,
    /// All that have closed, in the order of their storing.
    pub(super) windows: Vec<WindowRows>,
    pub(super) events: Vec<AlertEvent>,
    pub(super) active: Vec<ActiveAlert>,
    pub(super) late: Vec<(Arc<str>, u64)>,
    pub(super) now: Option<EventTime>,
    pub(super) dead: u64,
    /// Events that the receiver has, each once, and how often it was told one again.
    pub(super) told: u64,
    pub(super) repeated: u64,
    pub(super) abandoned: u64,
}

type Standing = (&'static str, EventTime, Vec<(String, Value)>);

/// From when to when a row's window is: of sessions, several come together.
pub(super) fn times(window: &WindowRows, row: usize) -> (EventTime, EventTime) {
    let time = |column: usize| {
        let column = window.rows.column(column).as_primitive::<TimestampMicrosecondType>();
        EventTime::from_micros(column.value(row))
    };
    (time(0), time(1))
}

impl View {
    /// # Errors
    /// When there is no window of that name.
    pub(super) fn known(&self, window: Option<&str>) -> Result<(), String> {
        let names: Vec<&str> = self.schemas.iter().map(|schema| &*schema.window).collect();
        match window {
            Some(window) if !names.contains(&window) => {
                Err(format!("cannot find window {window:?}, there are: {}", names.join(", ")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn range(&self, window: &WindowRows, row: usize) -> String {
        let shown = |time| super::words::shown(time, self.origin);
        let (start, end) = times(window, row);
        format!("{}..{}", shown(start), shown(end))
    }

    pub(super) fn is_group(&self, window: &WindowRows, column: &str) -> bool {
        let schema = self.schemas.iter().find(|schema| schema.window == window.window);
        schema.is_some_and(|schema| schema.group_by.iter().any(|group| group == column))
    }

    pub(super) fn is_a_group(&self, column: &str) -> bool {
        self.schemas.iter().any(|schema| schema.group_by.iter().any(|group| group == column))
    }

    /// The columns of a row, without the window's times.
    pub(super) fn cells(&self, window: &WindowRows, row: usize) -> Vec<(String, Value)> {
        let schema = window.rows.schema_ref();
        let fields = schema.fields().iter().enumerate().skip(2);
        fields
            .map(|(index, field)| (field.name().clone(), self.cell(window.rows.column(index).as_ref(), row)))
            .collect()
    }

    fn cell(&self, array: &dyn Array, row: usize) -> Value {
        if array.is_null(row) {
            return Value::Null;
        }
        match array.data_type() {
            DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
            DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
            DataType::Boolean => array.as_boolean().value(row).into(),
            DataType::Utf8 => array.as_string::<i32>().value(row).into(),
            DataType::Timestamp(..) => {
                let time = EventTime::from_micros(array.as_primitive::<TimestampMicrosecondType>().value(row));
                super::words::shown(time, self.origin).into()
            }
            other => format!("({other})").into(),
        }
    }

    /// How the alerts with such labels stand: those that fire or are pending first, and then what was resolved, the newest first.
    pub(super) fn standing(&self, is_it: impl Fn(&BTreeMap<String, String>) -> bool) -> Vec<Standing> {
        let values = |event: &AlertEvent| event.values.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        let newest = |labels: &BTreeMap<String, String>| self.events.iter().rev().find(|event| event.labels == *labels);
        let active = self.active.iter().filter(|alert| is_it(&alert.labels)).map(|alert| {
            let event = newest(&alert.labels).filter(|event| alert.firing && event.status == AlertStatus::Firing);
            let since = event.map_or(alert.active_at, |event| event.starts_at);
            (if alert.firing { "firing" } else { "pending" }, since, event.map(values).unwrap_or_default())
        });
        let still = |labels: &BTreeMap<String, String>| self.active.iter().any(|alert| alert.labels == *labels);
        let gone = self.events.iter().rev().filter(|event| is_it(&event.labels) && !still(&event.labels));
        let gone = gone.filter_map(|event| Some(("resolved", event.ends_at?, values(event))));
        active.chain(gone).collect()
    }
}
