//! Sessions: what belongs together, when it comes out, and what doesn't matter.

use super::definition::Caps;
use super::tests::{Feed, Record, at, build, entries, sessions, show, span};
use super::{Config, Windows};
use crate::limits::SESSION_PIECES;
use crate::record::sample::WindowRows;
use crate::time::EventTime;
use arrow::array::Int64Array;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn check(config: &Config, records: &[Record], closed: &[&str], at_end: &[&str]) -> Windows {
    let mut windows = Windows::new(vec![build(config).unwrap()]);
    assert_eq!(show(&windows.push(&Feed::default().batch(records))), closed, "closed by the clock");
    assert_eq!(show(&windows.finish()), at_end, "closed at the end");
    windows
}

fn with_lateness(lateness: &str, config: Config) -> Config {
    Config { lateness: span(lateness), ..config }
}

#[test]
fn a_session_ends_when_nothing_has_come_for_the_gap() {
    let ten = sessions("10s", None);
    check(&ten, &[at(0), at(9_999), at(19_998), at(29_998)], &["0..29998 /a 3 0"], &["29998..39998 /a 1 0"]);
    // The end is not in it: a record there begins another one.
    check(&ten, &[at(0), at(10_000)], &["0..10000 /a 1 0"], &["10000..20000 /a 1 0"]);
    check(&ten, &[at(-5_000), at(4_000)], &[], &["-5000..14000 /a 2 0"]);
}

#[test]
fn groups_have_sessions_of_their_own() {
    let b = |ms| (ms, Some("/b"), None, None);
    check(
        &sessions("1s", None),
        &[at(0), b(500), at(900), b(2_000), (2_000, None, None, None)],
        &["500..1500 /b 1 0", "0..1900 /a 2 0"],
        &["2000..3000  1 0", "2000..3000 /b 1 0"],
    );
}

#[test]
fn a_record_bridges_two_sessions() {
    let ten = with_lateness("30s", sessions("10s", None));
    check(&ten, &[at(0), at(15_000), at(8_000)], &[], &["0..25000 /a 3 0"]);
    check(&ten, &[at(0), at(18_000), at(9_000), at(27_000)], &[], &["0..37000 /a 4 0"]);
}

#[test]
fn a_late_record_is_counted_and_one_that_touches_an_open_session_belongs_to_it() {
    let ten = sessions("10s", None);
    let windows = check(
        &ten,
        &[at(0), at(15_000), at(4_000), at(6_000), at(20_000)],
        &["0..10000 /a 1 0"],
        &["6000..30000 /a 3 0"],
    );
    assert_eq!(windows.late_counts(), [("w".into(), 1)], "4 s is 11 s before 15 s");
}

#[test]
fn a_session_that_goes_on_is_cut_before_max() {
    let cut = sessions("10s", Some("40s"));
    let every_five: Vec<Record> = (0..20).map(|n| at(3_000 + n * 5_000)).collect();
    check(&cut, &every_five, &["3000..40000 /a 8 0", "43000..80000 /a 8 0"], &["83000..108000 /a 4 0"]);
    // Three quarters of it are never cut, wherever they lie.
    for start in (0..40_000).step_by(700) {
        let records: Vec<Record> = (0..7).map(|n| at(start + n * 5_000)).collect();
        let end = (start + 40_000).min(start - start.rem_euclid(10_000) + 40_000);
        check(&cut, &records, &[], &[&format!("{start}..{end} /a 7 0")]);
    }
}

#[test]
fn groups_and_states_over_the_cap_are_counted() {
    let plan = || vec![build(&sessions("1s", None)).unwrap()];
    let rows = [at(0), (1, Some("/b"), None, None), at(2)];
    let mut windows = Windows::with_caps(plan(), Caps { groups: 1, states: 9 });
    windows.push(&Feed::default().batch(&rows));
    assert_eq!(
        (windows.overflow_counts(), show(&windows.finish())),
        (vec![("w".into(), 1)], vec!["0..1002 /a 2 0".into()])
    );
    let plan = vec![build(&with_lateness("1h", sessions("1s", None))).unwrap()];
    let mut windows = Windows::with_caps(plan, Caps { groups: 9, states: 2 });
    windows.push(&Feed::default().batch(&[at(0), at(5_000), at(9_000), at(5_001)]));
    assert_eq!(windows.overflow_counts(), [("w".into(), 1)]);
    assert_eq!(show(&windows.finish()).len(), 2);
}

#[test]
fn the_clock_ends_sessions_and_rows_are_drained_once() {
    let mut windows = Windows::new(vec![build(&sessions("1s", None)).unwrap()]);
    windows.push(&Feed::default().batch(&[at(0), (100, Some("/b"), None, None)]));
    assert!(windows.advance(EventTime::from_micros(999_999)).is_empty());
    assert_eq!(show(&windows.advance(EventTime::from_micros(1_000_000))), ["0..1000 /a 1 0"]);
    assert_eq!(show(&windows.finish_next()), ["100..1100 /b 1 0"]);
    assert!(windows.finish_next().is_empty());
    assert_eq!(windows.waiting(), 4);
    let drained = windows.drain();
    assert_eq!((drained.len(), drained[0].rows.num_rows(), windows.waiting()), (1, 2, 0));
    assert!(windows.drain().is_empty());
}

/// The sessions of one group by the plain rule: from its first record on, up to the first gap or the cut.
fn model(mut times: Vec<i64>, gap: i64, max: i64) -> Vec<(i64, i64, i64)> {
    times.sort_unstable();
    let piece = max / SESSION_PIECES;
    let mut found: Vec<(i64, i64, i64)> = Vec::new();
    let (mut last, mut cut) = (i64::MIN, i64::MIN);
    for time in times {
        if time - last.max(-(1 << 50)) < gap && time < cut {
            let session = found.last_mut().unwrap();
            (session.1, session.2) = ((time + gap).min(cut), session.2 + 1);
        } else {
            cut = time - time.rem_euclid(piece) + SESSION_PIECES * piece;
            found.push((time, (time + gap).min(cut), 1));
        }
        last = time;
    }
    found
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let path = prop_oneof![Just(Some("/a")), Just(Some("/b")), Just(None)];
    let record = (-800i64..800, path, prop::option::of(0.0..1e4f64));
    (prop::collection::vec(record, 0..200), 20i64..300).prop_map(|(records, step)| {
        let shaken = records.into_iter().enumerate();
        shaken.map(|(at, (ms, path, latency))| (ms + at as i64 * step, path, Some(200), latency)).collect()
    })
}

fn full(gap: i64, max: i64, lateness: &str) -> Config {
    let config = sessions(&format!("{gap}ms"), Some(&format!("{max}ms")));
    let all = [
        ("n", "count(*)"),
        ("p95", "p95(latency_ms)"),
        ("total", "sum(latency_ms)"),
        ("kinds", "count_distinct(latency_ms)"),
    ];
    Config { aggregate: entries(&all), derive: entries(&[("mean", "total / n")]), ..with_lateness(lateness, config) }
}

fn lengths() -> impl Strategy<Value = (i64, i64)> {
    (100i64..900, 1i64..12).prop_map(|(gap, times)| (gap, (gap * times + 3) / 4 * 4))
}

fn sum(rows: &[WindowRows], column: &str) -> i64 {
    let values = |w: &WindowRows| {
        let column = w.rows.column_by_name(column).unwrap().clone();
        column.as_any().downcast_ref::<Int64Array>().unwrap().values().iter().sum::<i64>()
    };
    rows.iter().map(values).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn sessions_are_those_of_the_plain_rule(records in records(), (gap, max) in lengths(), lateness in 1_600i64..4_000) {
        // No record is more than 1,600 ms behind another one that came before it.
        let mut windows = Windows::new(vec![build(&full(gap, max, &format!("{lateness}ms"))).unwrap()]);
        let mut out = windows.push(&Feed::default().batch(&records));
        out.extend(windows.finish());
        prop_assert_eq!(windows.late_counts()[0].1, 0);
        let mut times: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        records.iter().for_each(|r| times.entry(r.1.unwrap_or("")).or_default().push(r.0));
        let mut expected = Vec::new();
        for (path, times) in times {
            expected.extend(model(times, gap, max).into_iter().map(|(start, end, n)| (end, start, path.to_owned(), n)));
        }
        expected.sort();
        let found: Vec<_> = show(&out).iter().map(|row| {
            let (start, rest) = row.split_once("..").unwrap();
            let words: Vec<&str> = rest.split(' ').collect();
            (words[0].parse::<i64>().unwrap(), start.parse::<i64>().unwrap(), words[1].to_owned(), words[2].parse::<i64>().unwrap())
        }).collect();
        prop_assert_eq!(&found, &expected);
        prop_assert!(found.iter().all(|(end, start, ..)| end - start <= max));
        prop_assert!(out.is_sorted_by_key(|window| window.end));
    }

    #[test]
    fn cuts_and_restarts_change_nothing(
        records in records(), (gap, max) in lengths(), lateness in prop::sample::select(vec!["0s", "300ms", "2s"]),
        cuts in prop::collection::vec((1usize..40, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let plan = || vec![build(&full(gap, max, lateness)).unwrap()];
        let run = |cuts: &[(usize, bool, bool)]| {
            let (mut windows, mut feed) = (Windows::new(plan()), Feed::default());
            let (mut out, mut drained, mut rest) = (Vec::new(), Vec::new(), &records[..]);
            for (cut, restart, drain) in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                out.extend(windows.push(&feed.batch(now)));
                if *drain {
                    drained.extend(windows.drain());
                }
                if *restart {
                    let saved = windows.save();
                    windows = Windows::new(plan());
                    let restoring = windows.read(&saved, None).unwrap();
                    assert_eq!(windows.resume(restoring).kept, ["w"]);
                    assert_eq!(windows.save(), saved, "saved, restored and saved again");
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            out.extend(windows.finish());
            drained.extend(windows.drain());
            (show(&out), show(&drained).len(), (sum(&out, "n"), sum(&drained, "n")), windows.late_totals(), windows.save())
        };
        let (whole, parts) = (run(&[(usize::MAX, false, false)]), run(&cuts));
        prop_assert_eq!(whole.2.0, whole.2.1);
        prop_assert_eq!(whole.2.0 + whole.3[0].1 as i64, records.len() as i64, "counted or late");
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn damaged_bytes_are_refused(records in records(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let plan = || vec![build(&full(300, 1_000, "1s")).unwrap()];
        let mut windows = Windows::new(plan());
        windows.push(&Feed::default().batch(&records));
        let mut saved = windows.save();
        let at = at.index(saved[0].body.len());
        saved[0].body[at] = with;
        let mut next = Windows::new(plan());
        // Another number may be read for what it is; nothing may panic, now or later.
        if let Ok(restoring) = next.read(&saved, None) {
            next.resume(restoring);
            next.finish();
        }
        saved[0].body.truncate(at);
        prop_assert!(Windows::new(plan()).read(&saved, None).is_err());
    }
}
