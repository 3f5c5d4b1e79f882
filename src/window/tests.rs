//! Windows over small scripts of records: who is counted where, when it comes out, and what doesn't matter.

use super::definition::Caps;
use super::{Config, Kind, Plan, Top, Windows};
use crate::expression::Compiler;
use crate::place::{Entries, Located, Problem};
use crate::record::event::EventBatch;
use crate::record::raw::PartitionId;
use crate::record::sample::WindowRows;
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use crate::time::{EventTime, Span};
use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::util::pretty::pretty_format_batches;
use proptest::prelude::*;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// (ts in ms, path, status, latency)
pub(super) type Record = (i64, Option<&'static str>, Option<i64>, Option<f64>);

fn column(name: &str, kind: ColumnType) -> Column {
    Column::new(name, kind)
}

fn schema() -> Schema {
    let own = [("path", ColumnType::Text), ("status", ColumnType::Int), ("latency_ms", ColumnType::Float)];
    Schema::new("test", 1, BUILT_IN.into_iter().chain(own).map(|(name, kind)| column(name, kind)).collect())
}

pub(super) fn entries(pairs: &[(&str, &str)]) -> Entries<Located<String>> {
    let at = |text: &str| Located::nowhere(text.to_owned());
    Entries(pairs.iter().map(|(name, sql)| (at(name), at(sql))).collect())
}

pub(super) fn span(text: &str) -> Span {
    text.parse().unwrap()
}

pub(super) fn config(size: &str, every: Option<&str>, lateness: &str, aggregate: &[(&str, &str)]) -> Config {
    Config {
        name: Located::nowhere("w".to_owned()),
        kind: if every.is_some() { Kind::Sliding } else { Kind::Tumbling },
        size: Some(Located::nowhere(span(size))),
        every: every.map(|every| Located::nowhere(span(every))),
        zone: None,
        gap: None,
        max: None,
        top: None,
        lateness: span(lateness),
        condition: None,
        group_by: vec![Located::nowhere("path".to_owned())],
        aggregate: entries(aggregate),
        derive: Entries::default(),
    }
}

fn located_span(text: &str) -> Option<Located<Span>> {
    Some(Located::nowhere(span(text)))
}

pub(super) fn top(keep: usize, by: &str) -> Option<Top> {
    Some(Top { keep: NonZeroUsize::new(keep).unwrap(), by: Located::nowhere(by.to_owned()) })
}

pub(super) fn zone(name: &str) -> Option<Located<String>> {
    Some(Located::nowhere(name.to_owned()))
}

/// Session windows without lateness.
pub(super) fn sessions(gap: &str, max: Option<&str>) -> Config {
    let (gap, max) = (located_span(gap), max.and_then(located_span));
    Config { kind: Kind::Session, size: None, gap, max, ..config("1s", None, "0s", COUNT) }
}

pub(super) fn build(config: &Config) -> Result<Plan, Vec<Problem>> {
    config.build(&schema(), &Compiler::default())
}

/// Makes batches whose clock is the running maximum, as that of a single partition.
#[derive(Default)]
pub(super) struct Feed {
    clock: Option<i64>,
}

impl Feed {
    pub(super) fn batch(&mut self, records: &[Record]) -> EventBatch {
        let schema = schema();
        let stamps: Vec<i64> = records.iter().map(|r| r.0 * 1_000).collect();
        let mut columns: Vec<ArrayRef> =
            schema.arrow.fields().iter().map(|f| new_null_array(f.data_type(), records.len())).collect();
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(stamps.clone()).with_timezone("UTC"));
        columns[0] = times.clone();
        columns[1] = Arc::new(StringArray::from(vec!["event"; records.len()]));
        columns[2] = times;
        columns[12] = Arc::new(records.iter().map(|r| r.1).collect::<StringArray>());
        columns[13] = Arc::new(records.iter().map(|r| r.2).collect::<Int64Array>());
        columns[14] = Arc::new(records.iter().map(|r| r.3).collect::<Float64Array>());
        let clock: Int64Array = stamps
            .into_iter()
            .map(|stamp| {
                self.clock = self.clock.max(Some(stamp));
                self.clock
            })
            .collect();
        EventBatch {
            partition: PartitionId(0),
            rows: RecordBatch::try_new(schema.arrow, columns).unwrap(),
            clock,
            clock_after: self.clock.map(EventTime::from_micros),
            end: 0,
        }
    }
}

pub(super) fn at(ms: i64) -> Record {
    (ms, Some("/a"), Some(200), Some(1.0))
}

/// Rows as `start..end group value … late`, times in ms.
pub(super) fn show(windows: &[WindowRows]) -> Vec<String> {
    let mut lines = Vec::new();
    for window in windows {
        let text = pretty_format_batches(std::slice::from_ref(&window.rows)).unwrap().to_string();
        for line in text.lines().skip(3).filter(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let (start, end) = (window.start.micros() / 1_000, window.end.micros() / 1_000);
            lines.push(format!("{start}..{end} {}", cells[2..cells.len() - 1].join(" ")).trim_end().to_owned());
        }
    }
    lines
}

/// Runs `records` as one batch and expects these rows, first as they close and then at the end.
pub(super) fn check(config: &Config, records: &[Record], closed: &[&str], at_end: &[&str]) -> Windows {
    let mut windows = Windows::new(vec![build(config).unwrap()]);
    assert_eq!(show(&windows.push(&Feed::default().batch(records))), closed, "closed by the clock");
    assert_eq!(show(&windows.finish()), at_end, "closed at the end");
    windows
}

pub(super) const COUNT: &[(&str, &str)] = &[("n", "count(*)")];

#[test]
fn windows_are_half_open_and_close_at_their_end() {
    let tumbling = config("1s", None, "0s", COUNT);
    check(&tumbling, &[at(0), at(999), at(1_000)], &["0..1000 /a 2 0"], &["1000..2000 /a 1 0"]);
    let late = config("1s", None, "500ms", COUNT);
    check(&late, &[at(0), at(1_499), at(999)], &[], &["0..1000 /a 2 0", "1000..2000 /a 1 0"]);
    check(&late, &[at(0), at(1_500), at(999)], &["0..1000 /a 1 0"], &["1000..2000 /a 1 0"]);
}

#[test]
fn windows_before_1970_are_aligned_alike() {
    let tumbling = config("1s", None, "0s", COUNT);
    check(&tumbling, &[at(-1), at(0)], &["-1000..0 /a 1 0"], &["0..1000 /a 1 0"]);
}

#[test]
fn sliding_windows_overlap() {
    let sliding = config("2s", Some("1s"), "0s", COUNT);
    check(
        &sliding,
        &[at(500), at(1_500), at(2_000)],
        &["-1000..1000 /a 1 0", "0..2000 /a 2 0"],
        &["1000..3000 /a 2 0", "2000..4000 /a 1 0"],
    );
    let uneven = config("3s", Some("2s"), "0s", COUNT);
    check(&uneven, &[at(2_500)], &[], &["0..3000 /a 1 0", "2000..5000 /a 1 0"]);
}

#[test]
fn a_gap_of_years_is_jumped_over() {
    let sliding = config("2s", Some("1s"), "0s", COUNT);
    let later = 1_700_000_000_000;
    let closed = ["-1000..1000 /a 1 0", "0..2000 /a 1 0"];
    check(
        &sliding,
        &[at(0), at(later)],
        &closed,
        &["1699999999000..1700000001000 /a 1 0", "1700000000000..1700000002000 /a 1 0"],
    );
}

#[test]
fn a_window_that_closed_while_nothing_was_open_stays_closed() {
    let mut windows = Windows::new(vec![build(&config("2s", Some("1s"), "0s", COUNT)).unwrap()]);
    assert!(windows.advance(EventTime::from_micros(10_000_000)).is_empty());
    let mut feed = Feed { clock: Some(10_000_000) };
    // 9.5 s lies in [8, 10), which is closed, and in [9, 11).
    assert!(windows.push(&feed.batch(&[at(9_500)])).is_empty());
    assert_eq!(show(&windows.finish()), ["9000..11000 /a 1 0"]);
    assert_eq!(windows.late_counts(), [("w".into(), 1)]);
    assert_eq!(show(&windows.drain()), ["8000..10000 /a 0 1", "9000..11000 /a 1 0"]);
}

#[test]
fn a_late_record_is_counted_once_and_told_until_the_drain() {
    let mut windows = Windows::new(vec![build(&config("1s", None, "0s", COUNT)).unwrap()]);
    let mut feed = Feed::default();
    let closed = windows.push(&feed.batch(&[at(100), at(5_000), at(200), (300, None, None, None), at(4_100)]));
    assert_eq!(show(&closed), ["0..1000 /a 1 0"]);
    assert_eq!(windows.late_counts(), [("w".into(), 3)]);
    assert_eq!(show(&windows.drain()), ["0..1000  0 1", "0..1000 /a 1 1", "4000..5000 /a 0 1"]);
    windows.push(&feed.batch(&[at(400)]));
    assert_eq!(windows.late_counts(), [("w".into(), 4)]);
    assert!(windows.drain().is_empty(), "what was drained is only counted");
}

#[test]
fn sliding_lateness_counts_in_the_windows_that_are_open() {
    let mut windows = Windows::new(vec![build(&config("2s", Some("1s"), "0s", COUNT)).unwrap()]);
    let mut feed = Feed::default();
    let first = windows.push(&feed.batch(&[at(500), at(2_000), at(1_500)]));
    assert_eq!(show(&first), ["-1000..1000 /a 1 0", "0..2000 /a 1 0"]);
    assert_eq!(show(&windows.push(&feed.batch(&[at(3_000)]))), ["1000..3000 /a 2 0"]);
    assert_eq!(show(&windows.drain()), ["-1000..1000 /a 1 0", "0..2000 /a 1 1", "1000..3000 /a 2 0"]);
}

#[test]
fn the_clock_closes_windows_without_records() {
    let mut windows = Windows::new(vec![build(&config("1s", None, "0s", COUNT)).unwrap()]);
    windows.push(&Feed::default().batch(&[at(0)]));
    assert!(windows.advance(EventTime::from_micros(999_999)).is_empty());
    assert_eq!(windows.advance(EventTime::from_micros(1_000_000)).len(), 1);
    let filtered = EventBatch { clock_after: Some(EventTime::from_micros(3_000_000)), ..Feed::default().batch(&[]) };
    assert!(windows.push(&filtered).is_empty());
    windows.push(&Feed { clock: Some(3_000_000) }.batch(&[at(2_999)]));
    assert_eq!(windows.late_counts(), [("w".into(), 1)]);
}

#[test]
fn conditions_filters_and_derived_values() {
    let mut with = config(
        "1s",
        None,
        "0s",
        &[
            ("n", "count(*)"),
            ("errors", "count(*) filter (where status >= 500)"),
            ("seen", "count(latency_ms)"),
            ("total", "sum(latency_ms)"),
            ("worst", "max(status)"),
            ("mean_slow", "avg(latency_ms) filter (where latency_ms > 100)"),
            ("kinds", "count(distinct status)"),
        ],
    );
    with.condition = Some(Located::nowhere("path <> '/health'".to_owned()));
    with.derive = entries(&[("rate", "errors / n"), ("slow", "mean_slow > 1"), ("per_error", "errors / errors")]);
    let records = [
        (1, Some("/a"), Some(200), Some(2.0)),
        (2, Some("/a"), Some(503), None),
        (3, Some("/b"), None, Some(200.0)),
        (4, Some("/health"), Some(500), Some(1.0)),
        (5, None, Some(500), Some(1.0)),
    ];
    check(
        &with,
        &records,
        &[],
        &["0..1000 /a 2 1 1 2.0 503  2 0.5  1.0 0", "0..1000 /b 1 0 1 200.0  200.0 0 0.0 true  0"],
    );
}

#[test]
fn groups_over_the_cap_are_counted() {
    let plan = build(&config("1s", None, "0s", COUNT)).unwrap();
    let mut windows = Windows::with_caps(vec![plan], Caps { groups: 1, states: 9 });
    let rows = [at(0), (1, Some("/b"), None, None), at(2), (1_000, Some("/b"), None, None)];
    assert_eq!(show(&windows.push(&Feed::default().batch(&rows))), ["0..1000 /a 2 0"]);
    assert_eq!(windows.overflow_counts(), [("w".into(), 1)]);
    assert_eq!(show(&windows.finish()), ["1000..2000 /b 1 0"]);
}

#[test]
fn states_over_the_cap_are_counted() {
    // The clock never gets far enough to close anything, as when another source is silent.
    let plan = build(&config("1s", None, "1h", COUNT)).unwrap();
    let mut windows = Windows::with_caps(vec![plan], Caps { groups: 9, states: 2 });
    let rows = [at(0), at(1_000), at(2_000), (3, Some("/b"), None, None), at(1)];
    assert!(windows.push(&Feed::default().batch(&rows)).is_empty());
    assert_eq!(windows.overflow_counts(), [("w".into(), 2)]);
    assert_eq!(show(&windows.finish()), ["0..1000 /a 2 0", "1000..2000 /a 1 0"]);
    assert_eq!(windows.waiting(), 4);
    assert_eq!(windows.drain().len(), 2);
    assert_eq!(windows.waiting(), 0);
}

#[test]
fn a_definition_without_groups_has_one_row() {
    let mut whole = config("1s", None, "0s", &[("p95", "quantile(latency_ms, 0.95)"), ("last", "max(ts)")]);
    whole.group_by.clear();
    check(&whole, &[at(0), at(10)], &[], &["0..1000 1.0 1970-01-01T00:00:00.010Z 0"]);
}

#[test]
fn mistakes_are_refused_with_a_reason() {
    let with = |aggregate: &[(&str, &str)]| config("5m", None, "0s", aggregate);
    let named = |name: &str| Config { name: Located::nowhere(name.to_owned()), ..with(COUNT) };
    let grouped = |columns: &[&str]| Config {
        group_by: columns.iter().map(|c| Located::nowhere((*c).to_owned())).collect(),
        ..with(COUNT)
    };
    let sliding = |size: &str, every: &str| config(size, Some(every), "0s", COUNT);
    for (config, expected) in [
        (named("Route"), "cannot use \"Route\" as the name"),
        (with(&[]), "cannot build window `w` without aggregates"),
        (with(&[("n", "cuont(*)")]), "cannot find the aggregate function `cuont`"),
        (with(&[("n", "count()")]), "cannot use `count()`"),
        (with(&[("n", "rate()")]), "cannot use `rate()`"),
        (with(&[("n", "rate(path)")]), "cannot use `rate(path)`, rate needs a number and `path` is Utf8"),
        (
            with(&[("n", "last(status > 1)")]),
            "cannot use `last(status > 1)`, last needs a number, a timestamp or a text",
        ),
        (Config { top: top(2, "m"), ..with(COUNT) }, "cannot find the aggregate `m`"),
        (
            Config { top: top(2, "n"), ..grouped(&["path", "status"]) },
            "cannot call other groups `_other_`, `status` is no text",
        ),
        (Config { top: top(2, "n"), ..grouped(&[]) }, "cannot keep the largest groups of a window that has none"),
        (Config { top: top(2, "w"), ..with(&[("w", "last(path)")]) }, "cannot order groups by `w`, it is no number"),
        (Config { top: top(2, "n"), ..sessions("1m", None) }, "cannot keep the largest groups of a session window"),
        (with(&[("n", "sum(path)")]), "cannot use `sum(path)`, sum needs a number and `path` is Utf8"),
        (with(&[("n", "sum(distinct status)")]), "cannot use `distinct` in sum"),
        (with(&[("n", "quantile(latency_ms, 95)")]), "cannot use `quantile(latency_ms, 95)`"),
        (with(&[("late", "count(*)")]), "cannot name a column `late`"),
        (with(&[("date", "count(*)")]), "cannot name a column `date`, window results are partitioned by that name"),
        (with(&[("path", "count(*)")]), "cannot name a second column `path`"),
        (grouped(&["pth"]), "cannot find column `pth`"),
        (grouped(&["latency_ms"]), "cannot group by `latency_ms`"),
        (grouped(&["path", "path"]), "cannot group by `path` twice"),
        (sliding("5m", "6m"), "cannot start a window every 6m"),
        (sliding("5m", "7ms"), "cannot put a window of 5m together"),
        (Config { kind: Kind::Sliding, ..with(COUNT) }, "cannot build a sliding window without `every`"),
        (Config { kind: Kind::Tumbling, ..sliding("5m", "1m") }, "cannot use `every` in a tumbling window"),
        (config("0s", None, "0s", COUNT), "cannot use a window of no length"),
        (Config { size: None, ..with(COUNT) }, "cannot build a tumbling window without `size`"),
        (Config { gap: located_span("5m"), ..with(COUNT) }, "cannot use `gap` in a tumbling window"),
        (Config { kind: Kind::Session, ..with(COUNT) }, "cannot use `size` in a session window"),
        (Config { kind: Kind::Session, size: None, ..with(COUNT) }, "cannot build a session window without `gap`"),
        (sessions("0s", None), "cannot use a window of no gap"),
        (sessions("2d", None), "cannot cut sessions at 1d when they end after a gap of 2d"),
        (sessions("1us", Some("3us")), "cannot cut sessions at 3us, the least is 4us"),
        (Config { zone: zone("Asia/Tokyo"), ..sessions("1m", None) }, "cannot use `zone` in a session window"),
        (
            Config { zone: zone("Asia/Tokio"), ..config("1d", None, "0s", COUNT) },
            "cannot find time zone \"Asia/Tokio\"",
        ),
        (Config { zone: zone("Asia/Tokyo"), ..with(COUNT) }, "cannot begin a window of 5m at midnight in Asia/Tokyo"),
        (
            Config { zone: zone("Asia/Tokyo"), ..config("2d", Some("36h"), "0s", COUNT) },
            "cannot begin a window of 1d12h at midnight in Asia/Tokyo",
        ),
        (Config { derive: entries(&[("r", "m / n")]), ..with(COUNT) }, "cannot find column `m`"),
    ] {
        let problem = build(&config).unwrap_err().remove(0);
        assert!(problem.message.starts_with(expected), "{expected}: {}", problem.message);
    }
    let hint = build(&with(&[("n", "cuont(*)")])).unwrap_err().remove(0).hint;
    assert_eq!(hint.as_deref(), Some("did you mean `count`?"));
}

fn two_definitions() -> Vec<Plan> {
    let all = [
        ("n", "count(*)"),
        ("total", "sum(latency_ms)"),
        ("p50", "median(latency_ms)"),
        ("p95", "p95(latency_ms)"),
        ("kinds", "count_distinct(latency_ms)"),
        ("worst", "max(latency_ms) filter (where status >= 500)"),
        ("first", "first(status)"),
        ("last", "last(path) filter (where latency_ms > 100)"),
        ("rate", "rate(latency_ms)"),
    ];
    let mut sliding = config("3s", Some("2s"), "700ms", &all);
    sliding.derive = entries(&[("mean", "total / n")]);
    vec![build(&config("1s", None, "300ms", &all)).unwrap(), build(&sliding).unwrap()]
}

pub(super) fn records() -> impl Strategy<Value = Vec<Record>> {
    let path = prop_oneof![Just(Some("/a")), Just(Some("/b")), Just(None)];
    let status = prop_oneof![Just(Some(200)), Just(Some(500)), Just(None)];
    let record = (-800i64..800, path, status, prop::option::of(0.0..1e4f64));
    prop::collection::vec(record, 0..200).prop_map(|mut records| {
        // Time moves on by 50 ms a record, shaken.
        records.iter_mut().enumerate().for_each(|(number, record)| record.0 += number as i64 * 50);
        records
    })
}

#[test]
fn ending_step_by_step_comes_to_an_end_however_far_a_record_is() {
    let mut windows = Windows::new(two_definitions());
    windows.push(&Feed::default().batch(&[at(i64::MIN / 2_000), at(0), at(i64::MAX / 2_000)]));
    let steps = std::iter::from_fn(|| Some(windows.finish_next()).filter(|w| !w.is_empty())).count();
    assert!(steps > 0 && windows.finish_next().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cutting_the_input_changes_nothing(records in records(), cuts in prop::collection::vec(1usize..40, 1..20)) {
        let run = |cuts: &[usize]| {
            let (mut windows, mut feed) = (Windows::new(two_definitions()), Feed::default());
            let (mut out, mut rest) = (Vec::new(), &records[..]);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                out.extend(windows.push(&feed.batch(now)));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            out.extend(windows.finish());
            let drained = windows.drain();
            (out, drained, windows.late_counts())
        };
        let (whole, parts) = (run(&[usize::MAX]), run(&cuts));
        let all = |rows: &[WindowRows]| -> Vec<_> {
            rows.iter().map(|w| (w.window.clone(), w.start, w.rows.clone())).collect()
        };
        prop_assert_eq!(all(&whole.0), all(&parts.0));
        prop_assert_eq!(all(&whole.1), all(&parts.1));
        prop_assert_eq!(whole.2, parts.2);
    }

    #[test]
    fn ending_step_by_step_gives_what_ending_at_once_gives(records in records()) {
        let end = |finish: fn(&mut Windows) -> Vec<Vec<WindowRows>>| {
            let mut windows = Windows::new(two_definitions());
            windows.push(&Feed::default().batch(&records));
            let closed = finish(&mut windows);
            let steps = closed.len();
            let waiting = windows.waiting();
            let drained = windows.drain();
            assert!(waiting >= drained.iter().map(|w| w.rows.num_rows()).sum());
            assert_eq!(windows.waiting(), 0);
            (show(&closed.concat()), show(&drained), steps)
        };
        let at_once = end(|windows| vec![windows.finish()]);
        let in_steps = end(|windows| std::iter::from_fn(|| Some(windows.finish_next()).filter(|w| !w.is_empty())).collect());
        prop_assert_eq!(&at_once.0, &in_steps.0);
        prop_assert_eq!(&at_once.1, &in_steps.1);
        prop_assert!(in_steps.2 > 1 || at_once.0.len() < 5, "in steps");
    }

    #[test]
    fn every_record_is_counted_or_late(records in records()) {
        let mut windows = Windows::new(vec![build(&config("1s", None, "300ms", COUNT)).unwrap()]);
        windows.push(&Feed::default().batch(&records));
        windows.finish();
        let sum = |rows: &[WindowRows], column: &str| -> i64 {
            let values = |w: &WindowRows| {
                let column = w.rows.column_by_name(column).unwrap().clone();
                column.as_any().downcast_ref::<Int64Array>().unwrap().values().iter().sum::<i64>()
            };
            rows.iter().map(values).sum()
        };
        let drained = windows.drain();
        prop_assert_eq!(sum(&drained, "n") + sum(&drained, "late"), records.len() as i64);
        prop_assert_eq!(sum(&drained, "late"), windows.late_counts()[0].1 as i64);
    }

    #[test]
    fn sliding_windows_count_what_a_plain_search_counts(records in records()) {
        let mut sliding = config("3s", Some("2s"), "700ms", COUNT);
        sliding.group_by.clear();
        let mut windows = Windows::new(vec![build(&sliding).unwrap()]);
        let mut clock = i64::MIN;
        let stamped: Vec<(i64, i64)> = records.iter().map(|record| {
            clock = clock.max(record.0);
            (record.0, clock)
        }).collect();
        let first = -2_000 * 2;
        let starts = (0..).map(|number| first + number * 2_000).take_while(|start| *start <= clock);
        let expected: Vec<String> = starts.filter_map(|start| {
            let end = start + 3_000;
            let inside = |(stamp, clock): &&(i64, i64)| (start..end).contains(stamp) && clock - 700 < end;
            let n = stamped.iter().filter(inside).count();
            (n > 0).then(|| format!("{start}..{end} {n} 0"))
        }).collect();
        let mut out = windows.push(&Feed::default().batch(&records));
        out.extend(windows.finish());
        prop_assert_eq!(show(&out), expected);
    }
}
