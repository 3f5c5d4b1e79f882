//! Rules over scripts of window results.

use super::{Alerts, Config, Level, Plan};
use crate::expression::Compiler;
use crate::place::{Entries, Located, Problem};
use crate::record::alert::AlertEvent;
use crate::record::sample::{WindowRows, WindowSchema};
use crate::record::schema::ColumnType;
use crate::time::{EventTime, Span};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Value, json};
use std::sync::Arc;

/// Groups and their error rates in one window.
type Rates<'a> = &'a [(Option<&'a str>, Option<f64>)];

const MINUTE: i64 = 60_000_000;

fn arrow() -> SchemaRef {
    let stamp = ColumnType::Timestamp.arrow();
    Arc::new(Schema::new(vec![
        Field::new("window_start", stamp.clone(), false),
        Field::new("window_end", stamp, false),
        Field::new("path", DataType::Utf8, true),
        Field::new("requests", DataType::Int64, true),
        Field::new("error_rate", DataType::Float64, true),
        Field::new("late", DataType::Int64, false),
        Field::new("provisional", DataType::Boolean, false),
    ]))
}

fn schema() -> WindowSchema {
    WindowSchema {
        window: "route_5m".into(),
        group_by: vec!["path".to_owned()],
        condition: Some("status IS NOT NULL".to_owned()),
        arrow: arrow(),
    }
}

/// The result of the window that ends at minute `end`.
fn window(end: i64, rates: Rates<'_>) -> WindowRows {
    let n = rates.len();
    let (start, end) = ((end - 5) * MINUTE, end * MINUTE);
    let stamps = |at: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from_value(at, n).with_timezone("UTC")) };
    let columns: Vec<ArrayRef> = vec![
        stamps(start),
        stamps(end),
        Arc::new(rates.iter().map(|r| r.0).collect::<StringArray>()),
        Arc::new(Int64Array::from_value(412, n)),
        Arc::new(rates.iter().map(|r| r.1).collect::<Float64Array>()),
        Arc::new(Int64Array::from_value(0, n)),
        Arc::new(BooleanArray::from(vec![false; n])),
    ];
    WindowRows {
        window: "route_5m".into(),
        start: EventTime::from_micros(start),
        end: EventTime::from_micros(end),
        rows: RecordBatch::try_new(arrow(), columns).unwrap(),
    }
}

fn located(text: &str) -> Located<String> {
    Located::nowhere(text.to_owned())
}

fn entries(pairs: &[(&str, &str)]) -> Entries<Located<String>> {
    Entries(pairs.iter().map(|(name, text)| (located(name), located(text))).collect())
}

fn config(hold: i64, keep_firing_for: i64) -> Config {
    Config {
        alert: located("HighErrorRate"),
        on: located("route_5m"),
        when: Some(located("error_rate > 0.02 and requests >= 20")),
        levels: None,
        absent_for: None,
        expected: None,
        forget_after: None,
        hold: Span::from_secs(hold * 60),
        keep_firing_for: Span::from_secs(keep_firing_for * 60),
        labels: entries(&[("severity", "P0"), ("area", "{{ $labels.path | toUpper }}")]),
        annotations: entries(&[("summary", "{{ $labels.path }}: {{ $values.error_rate | humanizePercentage }} fail")]),
    }
}

fn build(config: &Config) -> Result<Plan, Vec<Problem>> {
    config.build(&[schema()], &Compiler::default())
}

fn run(config: &Config, windows: &[(i64, Rates<'_>)]) -> (Vec<AlertEvent>, Alerts) {
    let mut alerts = Alerts::new("autonomath", vec![build(config).unwrap()]);
    let events = windows.iter().flat_map(|(end, rates)| alerts.evaluate(&window(*end, rates))).collect();
    (events, alerts)
}

/// Runs one group through windows a minute apart and expects events as `minute status`.
fn check(hold: i64, keep_firing_for: i64, rates: &[Option<f64>], expected: &[&str]) {
    let rows: Vec<[(Option<&str>, Option<f64>); 1]> = rates.iter().map(|rate| [(Some("/a"), *rate)]).collect();
    let windows: Vec<(i64, Rates<'_>)> = rows.iter().enumerate().map(|(at, row)| (at as i64, &row[..])).collect();
    let events = run(&config(hold, keep_firing_for), &windows).0;
    let shown: Vec<String> =
        events.iter().map(|e| format!("{} {}", e.window_end.micros() / MINUTE, e.status.as_str())).collect();
    assert_eq!(shown, expected, "for {hold}m, keep_firing_for {keep_firing_for}m, {rates:?}");
}

const BAD: Option<f64> = Some(0.5);
const GOOD: Option<f64> = Some(0.0);

#[test]
fn an_alert_fires_after_for_and_resolves() {
    check(0, 0, &[GOOD, BAD, BAD, GOOD, GOOD], &["1 firing", "3 resolved"]);
    check(2, 0, &[BAD, BAD, BAD, BAD, GOOD], &["2 firing", "4 resolved"]);
    check(2, 0, &[BAD, BAD, GOOD, BAD, BAD, GOOD], &[]);
}

#[test]
fn keep_firing_for_bridges_flapping() {
    check(0, 2, &[BAD, GOOD, BAD, GOOD, GOOD, GOOD], &["0 firing", "4 resolved"]);
    check(0, 0, &[BAD, GOOD, BAD, GOOD], &["0 firing", "1 resolved", "2 firing", "3 resolved"]);
}

#[test]
fn no_data_neither_fires_nor_resolves() {
    check(0, 0, &[None, BAD, None, None, GOOD, None], &["1 firing", "4 resolved"]);
    check(2, 0, &[BAD, None, BAD], &["2 firing"]);
}

/// Runs one group with levels at 0.5 (P0), 0.2 (P1) and 0.1 (P2) through windows a minute apart; `minute status severity`.
fn check_levels(hold: i64, keep_firing_for: i64, rates: &[f64], expected: &[&str]) {
    let run = |restart: Option<usize>| {
        let plans = || levels(hold, keep_firing_for, &[("0.5", "P0"), ("0.2", "P1"), ("0.1", "P2")]);
        let mut alerts = Alerts::new("p", plans().build_levels(&[schema()], &Compiler::default()).unwrap());
        let mut shown = Vec::new();
        for (at, rate) in rates.iter().enumerate() {
            let events = alerts.evaluate(&window(at as i64, &[(Some("/a"), Some(*rate))]));
            shown.extend(events.iter().map(|e| format!("{at} {} {}", e.status.as_str(), e.labels["severity"])));
            assert!(alerts.counts().1 <= 1, "one level fires");
            if restart == Some(at) {
                let mut next = Alerts::new("p", plans().build_levels(&[schema()], &Compiler::default()).unwrap());
                let restoring = next.read(&alerts.save()).unwrap();
                assert_eq!(next.resume(restoring), super::Resumed::default());
                alerts = next;
            }
        }
        shown
    };
    assert_eq!(run(None), expected, "for {hold}m, keep_firing_for {keep_firing_for}m, {rates:?}");
    (0..rates.len()).for_each(|at| assert_eq!(run(Some(at)), expected, "with a restart behind minute {at}"));
}

fn levels(hold: i64, keep_firing_for: i64, levels: &[(&str, &str)]) -> Config {
    let level = |(rate, severity): &(&str, &str)| Level {
        when: located(&format!("error_rate > {rate}")),
        labels: entries(&[("severity", severity)]),
    };
    let levels = Some(Located::nowhere(levels.iter().map(level).collect()));
    Config { when: None, levels, ..config(hold, keep_firing_for) }
}

#[test]
fn the_worst_level_is_told() {
    check_levels(
        0,
        0,
        &[0.15, 0.3, 0.15, 0.0],
        &["0 firing P2", "1 firing P1", "1 resolved P2", "2 resolved P1", "2 firing P2", "3 resolved P2"],
    );
    check_levels(0, 0, &[0.0, 0.9, 0.9, 0.0], &["1 firing P0", "3 resolved P0"]);
    // The lower level goes on firing until the worse one has held for as long as it must.
    check_levels(
        2,
        0,
        &[0.15, 0.15, 0.15, 0.9, 0.9, 0.9, 0.15, 0.0],
        &["2 firing P2", "5 firing P0", "5 resolved P2", "6 resolved P0", "6 firing P2", "7 resolved P2"],
    );
    // One spike doesn't count for the worse level, and doesn't disturb the lower one.
    check_levels(1, 0, &[0.15, 0.15, 0.9, 0.15, 0.0], &["1 firing P2", "4 resolved P2"]);
    check_levels(0, 2, &[0.9, 0.15, 0.15, 0.0, 0.0], &["0 firing P0", "2 resolved P0", "2 firing P2", "4 resolved P2"]);
}

#[test]
fn levels_that_make_no_sense_are_refused() {
    let build = |config: &Config| config.build_levels(&[schema()], &Compiler::default()).unwrap_err();
    let problem = build(&levels(0, 0, &[("0.5", "P0"), ("0.2", "P0")])).remove(0);
    assert!(problem.message.starts_with("cannot tell this level from one above it"), "{}", problem.message);
    let both = Config { when: Some(located("requests > 1")), ..levels(0, 0, &[("0.5", "P0")]) };
    assert!(build(&both)[0].message.starts_with("cannot use `when` beside `levels`"));
    assert!(build(&levels(0, 0, &[]))[0].message.starts_with("cannot use `levels` without a level"));
    let wrong = Config { on: located("route5m"), ..levels(0, 0, &[("0.5", "P0"), ("0.2", "P1")]) };
    assert_eq!(build(&wrong).len(), 1, "told once");
}

#[test]
fn groups_have_states_of_their_own() {
    let (events, alerts) = run(
        &config(0, 0),
        &[(10, &[(None, BAD), (Some("/a"), BAD), (Some("/b"), GOOD)]), (11, &[(Some("/a"), GOOD), (Some("/b"), BAD)])],
    );
    let labels: Vec<_> = events.iter().map(|e| e.labels.get("path").map(String::as_str)).collect();
    assert_eq!(labels, [None, Some("/a"), Some("/a"), Some("/b")]);
    assert!(!events[0].labels.contains_key("area"), "empty labels are left out");
    assert_eq!(alerts.counts(), (0, 2));
    let ids: std::collections::BTreeSet<_> = events.iter().map(|e| &e.id).collect();
    assert_eq!(ids.len(), events.len());
}

#[test]
fn null_and_the_empty_text_are_one_alert() {
    let (events, alerts) = run(
        &config(0, 0),
        &[
            (5, &[(None, Some(0.0)), (Some(""), Some(0.5))]),
            (6, &[(None, Some(0.7)), (Some(""), Some(0.0))]),
            (7, &[(None, Some(0.0)), (Some(""), None)]),
        ],
    );
    let said: Vec<_> = events.iter().map(|e| (e.status.as_str(), e.values["error_rate"].clone())).collect();
    assert_eq!(said, [("firing", json!(0.5)), ("resolved", json!(0.0))]);
    assert_eq!(events[0].labels.get("path"), None);
    assert_eq!(alerts.counts(), (0, 0));
}

#[test]
fn groups_over_the_cap_are_counted() {
    let mut alerts = Alerts::new("autonomath", vec![build(&config(0, 0)).unwrap()]);
    alerts.group_cap = 1;
    let rows: Rates<'_> = &[(Some("/a"), BAD), (Some("/b"), BAD), (Some("/c"), GOOD)];
    assert_eq!(alerts.evaluate(&window(1, rows)).len(), 1);
    assert_eq!((alerts.overflow_count(), alerts.counts()), (1, (0, 1)));
    assert_eq!(alerts.evaluate(&window(2, &[(Some("/a"), GOOD)])).len(), 1);
    assert_eq!(alerts.evaluate(&window(3, &[(Some("/b"), BAD)])).len(), 1);
}

#[test]
fn events_say_what_happened_in_the_same_bytes_each_time() {
    let windows: [(i64, Rates<'_>); 2] = [(10, &[(Some("/a"), Some(0.3125))]), (11, &[(Some("/a"), Some(0.01))])];
    let lines = || -> Vec<String> {
        run(&config(0, 0), &windows).0.iter().map(|e| serde_json::to_string(e).unwrap()).collect()
    };
    let first = lines();
    assert_eq!(first, lines());
    let mut event: Value = serde_json::from_str(&first[1]).unwrap();
    let id = event.as_object_mut().unwrap().remove("id").unwrap();
    assert!(id.as_str().is_some_and(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    assert_eq!(
        event,
        json!({
            "pipeline": "autonomath", "status": "resolved",
            "labels": { "alertname": "HighErrorRate", "area": "/A", "path": "/a", "severity": "P0" },
            "annotations": { "summary": "/a: 1% fail" },
            "values": { "error_rate": 0.01, "requests": 412 },
            "window_start": "1970-01-01T00:06:00Z", "window_end": "1970-01-01T00:11:00Z",
            "starts_at": "1970-01-01T00:10:00Z", "ends_at": "1970-01-01T00:11:00Z",
        })
    );
}

#[test]
fn the_published_schema_describes_the_events() {
    let text = include_str!("../../schemas/alert-event.schema.json");
    let published: Value = serde_json::from_str(text).unwrap();
    let event = &run(&config(0, 0), &[(10, &[(Some("/a"), BAD)])]).0[0];
    let event = serde_json::to_value(event).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(keys(&published["properties"]), keys(&event));
    let required = published["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
    assert_eq!(keys(&event), required);
    assert_eq!(published["additionalProperties"], json!(false));
    for (name, property) in published["properties"].as_object().unwrap() {
        let value = &event[name];
        let kind = match value {
            Value::Null => "null",
            Value::String(_) => "string",
            Value::Object(_) => "object",
            other => panic!("{name} is {other}"),
        };
        let allowed = &property["type"];
        assert!(allowed == kind || allowed.as_array().is_some_and(|all| all.contains(&json!(kind))), "{name}");
    }
}

#[test]
fn mistakes_are_refused_with_a_reason() {
    let ok = || config(0, 0);
    for (config, expected, hint) in [
        (
            Config { alert: located("High Rate"), ..ok() },
            "cannot use \"High Rate\" as the name of an alert",
            "names are",
        ),
        (Config { when: None, ..ok() }, "cannot build the alert `HighErrorRate` without `when`", "a condition, as in"),
        (
            Config { forget_after: Some(Located::nowhere(Span::from_secs(9))), ..ok() },
            "cannot use `forget_after` without `absent_for`",
            "that is for",
        ),
        (Config { on: located("route5m"), ..ok() }, "cannot find window `route5m`", "did you mean `route_5m`?"),
        (Config { when: Some(located("eror_rate > 1")), ..ok() }, "cannot find column `eror_rate`", "did you mean"),
        (Config { when: Some(located("requests")), ..ok() }, "cannot use `requests` as a condition", "a condition"),
        (Config { labels: entries(&[("a-b", "x")]), ..ok() }, "cannot use \"a-b\" as the name of a label", "names are"),
        (
            Config { annotations: entries(&[("s", "{{ $labels.pth }}")]), ..ok() },
            "cannot find `$labels.pth`",
            "did you",
        ),
    ] {
        let problem = build(&config).unwrap_err().remove(0);
        assert!(problem.message.starts_with(expected), "{expected}: {}", problem.message);
        assert!(problem.hint.as_deref().is_some_and(|h| h.starts_with(hint)), "{:?}", problem.hint);
    }
    for label in ["alertname", "path"] {
        let labels = entries(&[(label, "x")]);
        let problem = build(&Config { labels, ..ok() }).unwrap_err().remove(0);
        assert!(problem.message.starts_with(&format!("cannot set the label `{label}`")), "{}", problem.message);
    }
}

#[test]
fn what_is_active_is_shown_with_the_records_behind_it() {
    let mut alerts = Alerts::new("autonomath", vec![build(&config(1, 0)).unwrap()]);
    assert_eq!(alerts.changed_active(), Some(Vec::new()), "at first");
    assert_eq!(alerts.changed_active(), None);
    alerts.evaluate(&window(10, &[(Some("/it's"), BAD), (Some("/b"), GOOD)]));
    let active = alerts.changed_active().unwrap();
    assert_eq!(active.len(), 1);
    assert_eq!((active[0].firing, active[0].active_at.micros(), active[0].value), (false, 10 * MINUTE, Some(0.5)));
    assert_eq!(active[0].annotations["summary"], "/it's: 50% fail");
    assert_eq!(
        active[0].sql.as_deref(),
        Some(
            "select * from logs where ts >= '1970-01-01T00:05:00Z' and ts < '1970-01-01T00:10:00Z' \
             and (status IS NOT NULL) and \"path\" = '/it''s'"
        )
    );
    alerts.evaluate(&window(11, &[(Some("/it's"), Some(0.25))]));
    let active = alerts.changed_active().unwrap();
    assert_eq!((active[0].firing, active[0].active_at.micros(), active[0].value), (true, 10 * MINUTE, Some(0.25)));

    let mut next = Alerts::new("autonomath", vec![build(&config(1, 0)).unwrap()]);
    let restoring = next.read(&alerts.save()).unwrap();
    next.resume(restoring);
    let restored = next.changed_active().unwrap();
    assert_eq!(restored[0].labels, active[0].labels, "a restart knows who fires");
    assert!(restored[0].firing && restored[0].sql.is_none() && restored[0].annotations.is_empty());
    next.evaluate(&window(12, &[(Some("/it's"), GOOD)]));
    assert_eq!(next.changed_active(), Some(Vec::new()));
}
