//! A run that is interrupted and goes on with its state is the run that was not interrupted.

use super::state::{State, frame, unpack};
use super::{Flow, Restored, StateError};
use crate::alert::Abandoned;
use crate::config;
use crate::record::alert::AlertEvent;
use crate::record::frame::FrameError;
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::record::sample::{WindowRows, columns};
use crate::record::state::write;
use crate::source::PartitionName;
use crate::time::EventTime;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// (ms since the start, path, status, latency in µs)
type Record = (i64, u8, u8, u32);

/// 2026-01-01T00:00:00Z in ms
const START: i64 = 1_767_225_600_000;

fn flow(yaml: &str) -> Flow {
    let refused = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    Flow::new(&mut config::load("pipeline.yaml", yaml, &|_| None, &refused).unwrap())
}

fn name(partition: usize) -> PartitionName {
    PartitionName { source: "s".into(), partition: format!("logs/{partition}"), identity: "cluster".to_owned() }
}

fn batch(partition: PartitionId, records: &[Record]) -> RawBatch {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for (ms, path, status, latency) in records {
        let ts = EventTime::from_micros((START + ms) * 1_000);
        let path = if *path == 0 { String::new() } else { format!(r#""path":"/{path}","#) };
        let status = [200, 404, 500, 503][usize::from(*status) % 4];
        let latency = f64::from(*latency) / 1e3;
        let line = format!(r#"{{"timestamp":"{ts}",{path}"status":{status},"latency_ms":{latency}}}"#);
        ranges.push(bytes.len() as u32..(bytes.len() + line.len()) as u32);
        bytes.extend_from_slice(line.as_bytes());
    }
    let (positions, arrival) = (Positions::Sequence { first: 0 }, EventTime::from_micros(START * 1_000 + (1 << 40)));
    RawBatch { partition, bytes, records: ranges, positions, end: 0, broker_time: None, arrival }
}

/// A run over several partitions, which may be interrupted.
struct Run<'y> {
    yaml: &'y str,
    flow: Flow,
    /// Partitions that are open, by what they are called here.
    ids: BTreeMap<usize, PartitionId>,
    opened: usize,
    /// Partitions that have not ended, and whether they are idle.
    alive: BTreeMap<usize, bool>,
    alerts: Vec<String>,
    drained: Vec<(String, EventTime, RecordBatch)>,
}

impl<'y> Run<'y> {
    fn new(yaml: &'y str, partitions: usize) -> Self {
        let (ids, alive) = (BTreeMap::new(), BTreeMap::new());
        let mut run = Self { yaml, flow: flow(yaml), ids, opened: 0, alive, alerts: Vec::new(), drained: Vec::new() };
        for partition in 0..partitions {
            run.id(partition);
        }
        run
    }

    fn id(&mut self, partition: usize) -> PartitionId {
        if let Some(id) = self.ids.get(&partition) {
            return *id;
        }
        let id = PartitionId(self.opened);
        self.flow.open(id, &name(partition));
        self.opened += 1;
        self.ids.insert(partition, id);
        self.alive.entry(partition).or_insert(false);
        id
    }

    fn note(&mut self, events: &[AlertEvent]) {
        self.alerts.extend(events.iter().map(|event| serde_json::to_string(event).unwrap()));
    }

    fn step(&mut self, step: &Step) {
        let id = self.id(step.partition);
        let alerts = self.flow.batch(&batch(id, &step.records)).alerts;
        self.note(&alerts);
        self.alive.insert(step.partition, false);
        match step.then {
            Then::Nothing => {}
            Then::Drain => self.drain(),
            Then::Idle(partition) if self.alive.contains_key(&partition) => {
                let id = self.id(partition);
                let alerts = self.flow.idle(id);
                self.note(&alerts);
                self.alive.insert(partition, true);
            }
            Then::End(partition) if self.alive.contains_key(&partition) => {
                let id = self.id(partition);
                let alerts = self.flow.end(id);
                self.note(&alerts);
                self.alive.remove(&partition);
                self.ids.remove(&partition);
            }
            Then::Idle(_) | Then::End(_) => {}
        }
    }

    fn drain(&mut self) {
        let drained = self.flow.drain_windows();
        self.drained.extend(drained.into_iter().map(|w| (w.window.to_string(), w.start, w.rows)));
    }

    /// Another process takes over. Partitions are opened at once, in another order, or one by one as they are needed.
    fn restart(&mut self, at_once: bool) {
        let bytes = self.flow.save().unwrap();
        self.flow = flow(self.yaml);
        let restored = self.flow.restore(&bytes).unwrap();
        let windows_kept = vec!["tumbling".to_owned(), "sliding".to_owned(), "whole".to_owned(), "visits".to_owned()];
        assert_eq!(restored, Restored { windows_kept, ..Restored::default() });
        assert_eq!(self.flow.save().unwrap(), bytes, "saved, restored and saved again");
        self.ids.clear();
        self.opened = 0;
        if at_once {
            for (partition, idle) in self.alive.clone().into_iter().rev() {
                let id = self.id(partition);
                if idle {
                    // Silent as it was, before anything else comes.
                    assert_eq!(self.flow.idle(id), []);
                }
            }
        }
    }

    /// Ends the input and tells all that came out.
    fn end(mut self) -> Told {
        let saved = self.flow.save().unwrap();
        while let Some(alerts) = self.flow.finish_next() {
            self.note(&alerts);
        }
        self.drain();
        let late = self.flow.late_totals().into_iter().map(|(window, late)| (window.to_string(), late)).collect();
        (self.alerts, self.drained, late, saved, self.flow.save().unwrap())
    }
}

/// Alerts, drained windows, late records, and the state before and behind the end.
type Told = (Vec<String>, Vec<(String, EventTime, RecordBatch)>, Vec<(String, u64)>, Vec<u8>, Vec<u8>);

#[derive(Debug, Clone)]
struct Step {
    partition: usize,
    records: Vec<Record>,
    then: Then,
    /// Whether a restart comes behind it, and whether all partitions are opened at once then.
    restart: Option<bool>,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Drain,
    Idle(usize),
    End(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (-2_500i64..400, 0u8..4, 0u8..4, 1u32..5_000_000);
    let then = prop_oneof![
        6 => Just(Then::Nothing),
        2 => Just(Then::Drain),
        1 => (0usize..3).prop_map(Then::Idle),
        1 => (0usize..3).prop_map(Then::End),
    ];
    let step = (0usize..3, prop::collection::vec(record, 1..40), then, prop::option::weighted(0.4, any::<bool>()));
    prop::collection::vec(step, 1..25).prop_map(|steps| {
        let mut now = 0;
        let step = |(partition, mut records, then, restart): (usize, Vec<Record>, Then, Option<bool>)| {
            for record in &mut records {
                // Time moves on by 40 ms a record, shaken.
                now += 40;
                record.0 += now;
            }
            Step { partition, records, then, restart }
        };
        steps.into_iter().map(step).collect()
    })
}

/// Two windows over groups, one over all, and alerts on them.
fn pipeline() -> impl Strategy<Value = String> {
    let spans = |spans: &'static [&'static str]| prop::sample::select(spans);
    (
        (spans(&["1s", "2s", "700ms"]), spans(&["3s", "5s", "2500ms"]), spans(&["1s", "2s", "500ms"])),
        (spans(&["0s", "300ms", "1s"]), spans(&["0s", "1500ms"])),
        (spans(&["0s", "1s", "4s"]), spans(&["0s", "2s"]), 1..6),
    )
        .prop_map(|((size, long, every), (lateness, more), (hold, keep, n))| {
            format!(
                r#"
pipeline: restarts
sources: {{ s: {{ type: stdin }} }}
decode: {{ envelope: none, format: json, schema: access }}
windows:
  - name: tumbling
    kind: tumbling
    size: {size}
    lateness: {lateness}
    group_by: [path, status]
    aggregate:
      n: count(*)
      slow: count(*) filter (where latency_ms > 4000)
      total: sum(latency_ms)
      statuses: sum(status)
      least: min(latency_ms)
      last: max(ts)
    derive: {{ slow_rate: slow / n, any_slow: slow > 0, first_path: path }}
  - name: sliding
    kind: sliding
    size: {long}
    every: {every}
    lateness: {more}
    where: status <> 404
    group_by: [path]
    aggregate:
      n: count(*)
      errors: count(*) filter (where status >= 500)
      p95: quantile(latency_ms, 0.95)
      mean: avg(status)
      kinds: count_distinct(latency_ms)
    derive: {{ rate: errors / n }}
  - name: whole
    kind: tumbling
    size: 10s
    lateness: {more}
    aggregate: {{ p50: median(latency_ms), kinds: count_distinct(latency_ms), worst: max(status) }}
  - name: visits
    kind: session
    gap: {every}
    max: {long}
    lateness: {lateness}
    group_by: [path]
    aggregate: {{ n: count(*), p95: p95(latency_ms) }}
    derive: {{ double: n * 2 }}
alerts:
  - {{ alert: Errors, on: sliding, when: rate > 0.4 and n >= {n}, for: {hold}, keep_firing_for: {keep},
      labels: {{ area: "{{{{ $labels.path | toUpper }}}}" }}, annotations: {{ summary: "{{{{ $value }}}} fail" }} }}
  - {{ alert: Slow, on: tumbling, when: slow >= {n}, keep_firing_for: {keep} }}
  - {{ alert: Whole, on: whole, when: p50 > 2500, for: {hold} }}
  - {{ alert: Long, on: visits, when: n > {n}, for: {hold} }}
"#
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn restarts_change_nothing(yaml in pipeline(), partitions in 1usize..4, steps in steps()) {
        let told = |interrupted: bool| {
            let mut run = Run::new(&yaml, partitions);
            for step in &steps {
                run.step(step);
                if let Some(at_once) = step.restart.filter(|_| interrupted) {
                    run.restart(at_once);
                }
            }
            run.end()
        };
        let (whole, parts) = (told(false), told(true));
        prop_assert_eq!(whole.0, parts.0);
        prop_assert_eq!(whole.1, parts.1);
        prop_assert_eq!(whole.2, parts.2);
        prop_assert!(whole.3 == parts.3 && whole.4 == parts.4, "the state itself is another");
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut flow = flow(SMALL);
        prop_assert!(flow.restore(&bytes).is_err());
        prop_assert!(flow.restore(&[b"hrst\x01", bytes.as_slice()].concat()).is_err());
        prop_assert!(flow.restore(&frame(&bytes).unwrap()).is_err(), "with a checksum that is right");
    }
}

const SMALL: &str = r#"
pipeline: small
sources: { s: { type: stdin } }
decode: { envelope: none, format: json, schema: access }
windows:
  - name: w
    kind: sliding
    size: 4s
    every: 2s
    lateness: 1s
    group_by: [path]
    aggregate:
      n: count(*)
      p95: quantile(latency_ms, 0.95)
      kinds: count_distinct(latency_ms)
      total: sum(latency_ms)
    derive: { double: n * 2 }
alerts:
  - { alert: Many, on: w, when: n >= 2, labels: { severity: P1 }, annotations: { summary: many } }
"#;

/// One partition that has read records of three groups over twelve seconds, one of them late.
fn small() -> Flow {
    let mut flow = flow(SMALL);
    flow.open(PartitionId(0), &name(0));
    let mut records: Vec<Record> = (0..600).map(|number| (number * 20, (number % 4) as u8, 0, number as u32)).collect();
    records.push((1_000, 1, 0, 1));
    flow.batch(&batch(PartitionId(0), &records));
    flow
}

fn read_through(flow: &mut Flow) -> Vec<WindowRows> {
    flow.open(PartitionId(0), &name(0));
    flow.batch(&batch(PartitionId(0), &[(11_000, 1, 0, 5), (13_500, 1, 0, 5), (15_000, 2, 2, 7), (60_000, 3, 0, 1)]));
    while flow.finish_next().is_some() {}
    flow.drain_windows()
}

#[test]
fn damaged_bytes_are_refused() {
    let bytes = small().save().unwrap();
    let mut flow = flow(SMALL);
    for at in 0..bytes.len() {
        assert!(flow.restore(&bytes[..at]).is_err(), "cut at {at}");
        for bit in [1, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            assert!(flow.restore(&damaged).is_err(), "byte {at}");
        }
    }
    assert!(flow.restore(&[bytes.as_slice(), &[0]].concat()).is_err());
    let mut newer = bytes.clone();
    newer[4] += 1;
    assert!(matches!(flow.restore(&newer), Err(StateError::Read(FrameError::Version { found: 2, .. }))));
    assert!(flow.save().unwrap() == super::tests::flow(SMALL).save().unwrap(), "an error changes nothing");
    flow.restore(&bytes).unwrap();
}

/// Bytes that somebody has made, with a checksum that is right: whatever they say, nothing panics, now or later.
#[test]
fn hostile_bytes_are_refused_or_harmless() {
    let raw = write(&unpack::<State>(&small().save().unwrap()).unwrap());
    let (mut fresh, mut taken) = (flow(SMALL), 0);
    for at in 0..raw.len() {
        for to in [raw[at] ^ 1, raw[at] ^ 0x80, 0, 0xff] {
            let mut hostile = raw.clone();
            hostile[at] = to;
            if fresh.restore(&frame(&hostile).unwrap()).is_ok() {
                if at % 16 == 0 {
                    read_through(&mut fresh);
                    fresh.save().unwrap();
                    taken += 1;
                }
                fresh = flow(SMALL);
            }
        }
        assert!(fresh.restore(&frame(&raw[..at]).unwrap()).is_err(), "cut at {at}");
    }
    assert!(taken > 20, "{taken}");
}

/// Rows as (start in s, provisional, n), each start once.
fn starts(windows: &[WindowRows]) -> BTreeSet<(i64, bool)> {
    let rows = |w: &WindowRows| {
        let provisional = w.rows.column_by_name(columns::PROVISIONAL).unwrap().as_boolean().clone();
        let start = w.start.micros() / 1_000_000 - START / 1_000;
        provisional.values().iter().map(move |provisional| (start, provisional)).collect::<Vec<_>>()
    };
    windows.iter().flat_map(rows).collect()
}

#[test]
fn a_window_that_was_changed_begins_anew_and_says_so() {
    let mut earlier = small();
    let emitted = starts(&earlier.drain_windows());
    assert_eq!(emitted.last(), Some(&(6, false)), "11.98 s less lateness has passed the end at 10 s");
    let bytes = earlier.save().unwrap();
    for (from, to, anew) in [
        ("lateness: 1s", "lateness: 5s", true),
        ("size: 4s", "size: 6s", true),
        ("p95: quantile(latency_ms, 0.95)", "p95: quantile(latency_ms, 0.99)", true),
        ("group_by: [path]", "group_by: [status]", true),
        ("n: count(*)\n", "n: count(*) filter (where status = 200)\n", true),
        ("derive: { double: n * 2 }", "derive: { triple: n * 3 }", false),
        ("size: 4s\n    every: 2s", "every:  2s\n    size: 4000ms", false),
        ("annotations: { summary: many }", "annotations: { summary: very many }", false),
    ] {
        let mut flow = flow(&SMALL.replacen(from, to, 1));
        let restored = flow.restore(&bytes).unwrap();
        let w = vec!["w".to_owned()];
        let expected = if anew { (vec![], w.clone(), w) } else { (w, vec![], vec![]) };
        assert_eq!((restored.windows_kept, restored.windows_anew, restored.windows_dropped), expected, "{to}");
        // Of alerts only those that know groups by other columns are others.
        let dropped = if to.starts_with("group_by") { vec!["Many"] } else { vec![] };
        assert_eq!(restored.alerts_dropped, dropped, "{to}");
        let after = starts(&read_through(&mut flow));
        assert!(after.iter().all(|(start, _)| *start > 6 || (to == "size: 6s" && *start > 4)), "once: {after:?}");
        for (start, provisional) in &after {
            // The newest record of the earlier run was of 11.98 s.
            assert_eq!(*provisional, anew && *start < 12, "{to}: window at {start} s");
        }
        assert!(after.contains(&(8, anew)) && after.contains(&(12, false)), "{to}: {after:?}");
    }
}

#[test]
fn provisional_outlives_another_restart() {
    let changed = SMALL.replace("lateness: 1s", "lateness: 2s");
    let mut second = flow(&changed);
    second.restore(&small().save().unwrap()).unwrap();
    let mut third = flow(&changed);
    third.restore(&second.save().unwrap()).unwrap();
    assert!(starts(&read_through(&mut third)).is_superset(&[(10, true), (12, false)].into()));
    let mut without = flow(SMALL);
    without.begin_anew(EventTime::from_micros((START + 12_000) * 1_000));
    assert!(starts(&read_through(&mut without)).is_superset(&[(10, true), (12, true), (14, false)].into()));
}

#[test]
fn windows_that_come_and_go_are_told() {
    let bytes = small().save().unwrap();
    let mut flow = flow(&SMALL.replace("name: w\n", "name: v\n").replace("on: w", "on: v"));
    let restored = flow.restore(&bytes).unwrap();
    let (v, w) = (vec!["v".to_owned()], vec!["w".to_owned()]);
    assert_eq!((restored.windows_anew, restored.windows_dropped), (v, w));
    assert_eq!(restored.alerts_dropped, ["Many"]);
}

#[test]
fn a_firing_alert_whose_rule_is_gone_is_told() {
    let bytes = small().save().unwrap();
    for (from, to) in [("when: n >= 2", "when: n >= 3"), ("P1", "P2"), ("alert: Many", "alert: More")] {
        let restored = flow(&SMALL.replace(from, to)).restore(&bytes).unwrap();
        assert_eq!(restored.alerts_dropped, ["Many"], "{to}");
        // The group without a path is one of them.
        let paths: Vec<Option<&str>> =
            restored.abandoned.iter().map(|a| a.labels.get("path").map(String::as_str)).collect();
        assert_eq!(paths, [None, Some("/1"), Some("/2"), Some("/3")], "{to}");
        let Abandoned { alert, labels, starts_at } = &restored.abandoned[0];
        assert_eq!((alert.as_str(), labels["severity"].as_str()), ("Many", "P1"));
        assert_eq!(starts_at.micros(), (START + 2_000) * 1_000);
    }
}

#[test]
fn what_follows_a_complete_run_is_not_late() {
    let mut first = small();
    first.end(PartitionId(0));
    while first.finish_next().is_some() {}
    let emitted = starts(&first.drain_windows());
    assert_eq!(emitted.last(), Some(&(10, false)), "the end closes [10, 14) too");
    let mut second = flow(SMALL);
    second.restore(&first.save().unwrap()).unwrap();
    assert_eq!(second.awaited(), []);
    second.open(PartitionId(0), &name(0));
    second.batch(&batch(PartitionId(0), &[(13_000, 1, 0, 5), (14_000, 1, 0, 5), (15_000, 1, 0, 5)]));
    while second.finish_next().is_some() {}
    let drained = second.drain_windows();
    let n = |w: &WindowRows| w.rows.column_by_name("n").unwrap().as_primitive::<Int64Type>().value(0);
    let told: Vec<(i64, i64)> = drained.iter().map(|w| (w.start.micros() / 1_000_000 - START / 1_000, n(w))).collect();
    // [10, 14) is closed, so 13 s is late for it, and counts in [12, 16).
    assert_eq!(told, [(12, 3), (14, 2)]);
    assert_eq!(second.late_counts()[0].1, 1);
    assert_eq!(second.late_totals()[0].1, 2);
}

#[test]
fn partitions_that_are_not_back_yet_hold_the_clock() {
    let mut flow = small();
    flow.open(PartitionId(1), &name(1));
    flow.batch(&batch(PartitionId(1), &[(20_000, 1, 0, 5)]));
    let before = flow.now();
    let bytes = flow.save().unwrap();
    let mut flow = super::tests::flow(SMALL);
    flow.restore(&bytes).unwrap();
    assert_eq!((flow.awaited(), flow.now()), (vec![name(0), name(1)], before));
    flow.open(PartitionId(0), &name(1));
    flow.batch(&batch(PartitionId(0), &[(30_000, 1, 0, 5)]));
    assert_eq!((flow.awaited(), flow.now()), (vec![name(0)], before), "logs/0 is waited for");
    let resolved = flow.give_up();
    assert_eq!(flow.now(), Some(EventTime::from_micros((START + 30_000) * 1_000)));
    assert!(!resolved.is_empty(), "windows close, and alerts see them");
    let State { clock, .. } = unpack(&flow.save().unwrap()).unwrap();
    assert!(!format!("{clock:?}").contains("logs/0"), "who was given up is forgotten");
}
