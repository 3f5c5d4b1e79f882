//! Windows of whole days in a zone.

use super::tests::{COUNT, Feed, Record, at, build, config, show, zone};
use super::{Config, Windows};
use crate::time::EventTime;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// 2026-03-28T00:00:00Z in ms, two days before the clocks go forward in Berlin.
const MARCH: i64 = 1_774_656_000_000;
/// 2026-10-24T00:00:00Z in ms.
const OCTOBER: i64 = 1_792_800_000_000;
const HOUR: i64 = 3_600_000;

fn in_zone(name: &str, size: &str, every: Option<&str>, lateness: &str) -> Config {
    Config { zone: zone(name), ..config(size, every, lateness, COUNT) }
}

/// Start and length in hours of each window, and how many records it has.
fn hours(from: i64, rows: &[String]) -> Vec<(i64, i64, i64)> {
    let parse = |row: &String| {
        let (start, rest) = row.split_once("..").unwrap();
        let mut words = rest.split(' ');
        let end: i64 = words.next().unwrap().parse().unwrap();
        let (start, n) = (start.parse::<i64>().unwrap(), words.nth(1).unwrap().parse().unwrap());
        ((start - from) / HOUR, (end - start) / HOUR, n)
    };
    rows.iter().map(parse).collect()
}

fn run(config: &Config, records: &[Record]) -> (Vec<String>, Vec<String>) {
    let mut windows = Windows::new(vec![build(config).unwrap()]);
    let closed = show(&windows.push(&Feed::default().batch(records)));
    (closed, show(&windows.finish()))
}

fn hourly(from: i64, days: i64) -> Vec<Record> {
    (0..days * 24).map(|hour| at(from + hour * HOUR)).collect()
}

#[test]
fn both_daylight_saving_days_in_two_zones() {
    for (name, from, expected) in [
        ("Europe/Berlin", MARCH, vec![(-1, 24, 23), (23, 23, 23), (46, 24, 24)]),
        ("Europe/Berlin", OCTOBER, vec![(-2, 24, 22), (22, 25, 25), (47, 24, 24)]),
        // 2026-03-08T05:00Z to 2026-03-09T04:00Z is a day in New York, 2026-11-01T04:00Z to 2026-11-02T05:00Z another.
        ("America/New_York", MARCH - 21 * 24 * HOUR, vec![(-19, 24, 5), (5, 24, 24), (29, 23, 23), (52, 24, 20)]),
        ("America/New_York", OCTOBER + 7 * 24 * HOUR, vec![(-20, 24, 4), (4, 24, 24), (28, 25, 25), (53, 24, 19)]),
    ] {
        let days = if name == "Europe/Berlin" { 4 } else { 3 };
        let (mut closed, rest) = run(&in_zone(name, "1d", None, "0s"), &hourly(from, days));
        closed.extend(rest);
        let found = hours(from, &closed);
        assert_eq!(found[..expected.len()], expected, "{name}");
    }
}

#[test]
fn a_day_closes_at_midnight_of_the_zone() {
    let midnight = OCTOBER + 47 * HOUR;
    let berlin = in_zone("Europe/Berlin", "1d", None, "1h");
    let (closed, _) = run(&berlin, &[at(midnight - 1), at(midnight + HOUR - 1), at(midnight - 25 * HOUR)]);
    assert!(closed.is_empty());
    let (closed, rest) = run(&berlin, &[at(midnight - 1), at(midnight + HOUR), at(midnight)]);
    assert_eq!(hours(OCTOBER, &closed), [(22, 25, 1)]);
    assert_eq!(hours(OCTOBER, &rest), [(47, 24, 2)]);
}

#[test]
fn a_record_behind_midnight_is_late_by_the_zone() {
    let mut windows = Windows::new(vec![build(&in_zone("Asia/Tokyo", "1d", None, "0s")).unwrap()]);
    let midnight = MARCH + 15 * HOUR;
    let closed = windows.push(&Feed::default().batch(&[at(midnight - 1), at(midnight), at(midnight - 2)]));
    assert_eq!(hours(MARCH, &show(&closed)), [(-9, 24, 1)]);
    assert_eq!(windows.late_counts(), [("w".into(), 1)]);
    let drained = windows.drain();
    assert_eq!(show(&drained), [format!("{}..{midnight} /a 1 1", midnight - 24 * HOUR)]);
}

#[test]
fn seven_days_are_a_week_and_days_may_slide() {
    // The 30th of March 2026 is a Monday; its midnight in Berlin is at 22:00 on the 29th.
    let monday = MARCH + 46 * HOUR;
    let (_, rest) = run(&in_zone("Europe/Berlin", "7d", None, "0s"), &[at(monday), at(monday + 167 * HOUR)]);
    assert_eq!(hours(MARCH, &rest), [(46, 168, 2)]);
    let (closed, rest) = run(&in_zone("Europe/Berlin", "2d", Some("1d"), "0s"), &hourly(MARCH, 2));
    let found = hours(MARCH, &[closed, rest].concat());
    assert_eq!(found, [(-25, 48, 23), (-1, 47, 46), (23, 47, 25), (46, 48, 2)]);
}

#[test]
fn a_restart_goes_on_and_another_zone_begins_behind_what_was_closed() {
    let tokyo = in_zone("Asia/Tokyo", "1d", None, "0s");
    let mut windows = Windows::new(vec![build(&tokyo).unwrap()]);
    let mut feed = Feed::default();
    windows.push(&feed.batch(&hourly(MARCH, 2)));
    let saved = windows.save();
    let newest = Some(EventTime::from_micros((MARCH + 47 * HOUR) * 1_000));
    let next = |config: &Config| {
        let mut next = Windows::new(vec![build(config).unwrap()]);
        let restoring = next.read(&saved, newest).unwrap();
        (next.resume(restoring), next)
    };
    let (resumed, mut same) = next(&tokyo);
    assert_eq!(resumed.kept, ["w"]);
    assert_eq!(same.save(), saved);
    assert_eq!(show(&same.finish()), show(&windows.finish()));
    let (resumed, mut epoch) = next(&config("1d", None, "0s", COUNT));
    assert_eq!((resumed.anew, resumed.dropped), (vec!["w".to_owned()], vec!["w".to_owned()]));
    // Tokyo's second day ended at 39 hours: the day from 24 to 48 hours ends behind it, that before it doesn't.
    epoch.push(&feed.batch(&[at(MARCH + 23 * HOUR), at(MARCH + 47 * HOUR)]));
    assert_eq!(epoch.late_counts(), [("w".into(), 1)]);
    assert_eq!(hours(MARCH, &show(&epoch.finish())), [(24, 24, 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The model: each record's local date, by the library, over zones in which no date is met twice.
    #[test]
    fn days_are_what_a_calendar_says(
        name in prop::sample::select(vec!["Europe/Berlin", "Asia/Kolkata", "America/New_York", "Pacific/Auckland", "UTC"]),
        hours in prop::collection::vec(0i64..24 * 365 * 60, 1..60),
    ) {
        // Minutes over a year, in any order: with a year of lateness nothing closes before the end.
        let records: Vec<Record> = hours.iter().map(|minute| at(MARCH + minute * 60_000)).collect();
        let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
        for record in &records {
            let stamp = jiff::Timestamp::from_millisecond(record.0).unwrap();
            let zoned = stamp.in_tz(name).unwrap();
            *expected.entry(zoned.start_of_day().unwrap().timestamp().as_millisecond()).or_default() += 1;
        }
        let (closed, rest) = run(&in_zone(name, "1d", None, "400d"), &records);
        prop_assert!(closed.is_empty());
        let found: Vec<(i64, i64)> = rest.iter().map(|row| {
            let (start, rest) = row.split_once("..").unwrap();
            (start.parse().unwrap(), rest.split(' ').nth(2).unwrap().parse().unwrap())
        }).collect();
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}
