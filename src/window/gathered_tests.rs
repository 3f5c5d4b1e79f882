//! Windows that several daemons gather and one merges: what comes out is what one alone would have had.

use super::tests::{COUNT, Feed, Record, at, build, config, entries, records, show};
use super::{Plan, Windows};
use crate::record::sample::WindowRows;
use crate::record::state::SavedPart;
use crate::time::EventTime;
use proptest::prelude::*;
use std::num::NonZeroU32;

const ALL: [(&str, &str); 6] = [
    ("n", "count(*) filter (where status < 500)"),
    ("total", "sum(latency_ms)"),
    ("p50", "median(latency_ms)"),
    ("p95", "p95(latency_ms)"),
    ("kinds", "count_distinct(latency_ms)"),
    ("worst", "max(latency_ms) filter (where status >= 500)"),
];

/// Grouped and not, tumbling and sliding. The records are up to 1.6 s out of order.
fn plans() -> Vec<Plan> {
    let mut sliding = config("3s", Some("2s"), "2s", &ALL);
    sliding.name.value = "sliding".to_owned();
    sliding.derive = entries(&[("mean", "total / n")]);
    sliding.group_by.clear();
    vec![build(&config("1s", None, "2s", &ALL)).unwrap(), build(&sliding).unwrap()]
}

fn shared() -> Vec<Plan> {
    plans().into_iter().map(Plan::shared).collect()
}

fn partitions(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

fn sorted(rows: &[WindowRows]) -> Vec<String> {
    let mut lines: Vec<String> = rows
        .iter()
        .flat_map(|w| show(std::slice::from_ref(w)).into_iter().map(|line| format!("{} {line}", w.window)))
        .collect();
    lines.sort();
    lines
}

/// A daemon that gathers, and how far it has told that it has come.
struct Gatherer {
    windows: Windows,
    feed: Feed,
    newest: Option<EventTime>,
}

fn merge(into: &mut Windows, parts: &[SavedPart]) {
    let gathered = into.read_gathered(parts).unwrap();
    into.merge(gathered, None);
}

/// Deals `records` to as many daemons as there are `dealt` numbers, merges what they have gathered at each of the `cuts`, and closes
/// windows by the slowest of them.
fn run(records: &[Record], dealt: &[usize], cuts: &[usize], merging: u32, most: usize) -> Vec<String> {
    let daemons = dealt.iter().max().map_or(1, |most| most + 1);
    let mut gatherers: Vec<Gatherer> = (0..daemons)
        .map(|_| Gatherer { windows: Windows::new(shared()), feed: Feed::default(), newest: None })
        .collect();
    let mut mergers: Vec<Windows> = (0..merging).map(|_| Windows::new(shared())).collect();
    let mut rows = Vec::new();
    let (mut done, mut cuts) = (0, cuts.iter().cycle());
    while done < records.len() {
        let end = records.len().min(done + cuts.next().unwrap());
        for (at, record) in records.iter().enumerate().take(end).skip(done) {
            let gatherer = &mut gatherers[dealt[at % dealt.len()]];
            gatherer.windows.gather(&gatherer.feed.batch(&[*record]));
            gatherer.newest = gatherer.newest.max(Some(EventTime::from_micros(record.0 * 1_000)));
        }
        // One of them seals; the others go on.
        let sealing = end % daemons;
        let all = gatherers[sealing].windows.take_gathered(partitions(merging), most);
        assert_eq!(gatherers[sealing].windows.gathered(), 0);
        mergers.iter_mut().zip(&all).for_each(|(merger, parts)| merge(merger, parts));
        done = end;
    }
    for gatherer in &mut gatherers {
        let all = gatherer.windows.take_gathered(partitions(merging), most);
        mergers.iter_mut().zip(&all).for_each(|(merger, parts)| merge(merger, parts));
    }
    let clock = gatherers.iter().filter_map(|gatherer| gatherer.newest).min();
    for merger in &mut mergers {
        rows.extend(clock.map(|clock| merger.advance(clock)).unwrap_or_default());
        // Goes on in another process.
        let mut next = Windows::new(shared());
        let restoring = next.read(&merger.save(), None).unwrap();
        assert_eq!(next.resume(restoring).kept.len(), 2);
        rows.extend(next.finish());
        assert_eq!(next.late_totals().iter().map(|(_, late)| late).sum::<u64>(), 0);
    }
    sorted(&rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whoever_gathers_what_and_whenever_the_rows_are_those_of_one(
        records in records(),
        dealt in prop::collection::vec(0usize..4, 1..30),
        cuts in prop::collection::vec(1usize..60, 1..10),
        merging in 1u32..5,
        most in prop_oneof![Just(1usize), Just(300), Just(1 << 20)],
    ) {
        let mut alone = Windows::new(plans());
        let mut expected = alone.push(&Feed::default().batch(&records));
        expected.extend(alone.finish());
        prop_assert_eq!(alone.late_totals()[0].1, 0, "nothing is as late as that");
        prop_assert_eq!(sorted(&expected), run(&records, &dealt, &cuts, merging, most));
    }

    #[test]
    fn damaged_parts_are_refused_and_change_nothing(records in records(), at in 0.0..1.0f64, bit in 0u8..8) {
        let mut gatherer = Windows::new(shared());
        gatherer.gather(&Feed::default().batch(&records));
        let mut parts = gatherer.take_gathered(partitions(1), 1 << 20).remove(0);
        for part in &mut parts {
            let at = (part.body.len() as f64 * at) as usize;
            // A part without records may have no byte.
            part.body.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
        }
        let merger = Windows::new(shared());
        // Whether it is still readable is chance; that nothing breaks is what counts.
        if let Ok(gathered) = merger.read_gathered(&parts) {
            let mut merger = Windows::new(shared());
            merger.merge(gathered, None);
            merger.finish();
        }
    }
}

#[test]
fn what_comes_behind_the_end_of_its_window_is_late_with_all_its_records() {
    let plan = || vec![build(&config("1s", None, "0s", COUNT)).unwrap().shared()];
    let (mut gatherer, mut merger) = (Windows::new(plan()), Windows::new(plan()));
    gatherer.gather(&Feed::default().batch(&[at(100), at(1_100), at(200)]));
    assert_eq!(gatherer.gathered(), 2);
    merge(&mut merger, &gatherer.take_gathered(partitions(1), 1 << 20)[0]);
    assert_eq!(show(&merger.advance(EventTime::from_micros(1_100_000))), ["0..1000 /a 2 0"]);
    gatherer.gather(&Feed::default().batch(&[at(300), at(1_200), at(400)]));
    merge(&mut merger, &gatherer.take_gathered(partitions(1), 1 << 20)[0]);
    assert_eq!(merger.late_totals(), [("w".into(), 2)]);
    assert_eq!(show(&merger.finish()), ["1000..2000 /a 2 0"]);
    assert_eq!(show(&merger.drain()), ["0..1000 /a 2 2", "1000..2000 /a 2 0"]);
}

#[test]
fn a_group_has_one_home_and_null_the_same_as_the_empty_text() {
    let owner = |path: Option<&'static str>, partitions_: u32| {
        let mut gatherer = Windows::new(shared());
        gatherer.gather(&Feed::default().batch(&[(0, path, None, None)]));
        let sizes: Vec<usize> = gatherer
            .take_gathered(partitions(partitions_), 1 << 20)
            .iter()
            .map(|parts| parts.iter().filter(|part| part.name == "w").map(|part| part.body.len()).sum())
            .collect();
        let most = sizes.iter().max().copied();
        sizes.iter().position(|size| Some(*size) == most).unwrap()
    };
    assert_eq!(owner(None, 64), owner(Some(""), 64));
    assert_eq!(owner(Some("/a"), 64), owner(Some("/a"), 64));
    // Which one it is is part of what is stored: another one would split open windows in two.
    assert_eq!([owner(Some("/a"), 64), owner(Some("/b"), 64), owner(Some("/c"), 64)], OWNERS);
}

const OWNERS: [usize; 3] = [58, 53, 27];

#[test]
fn another_definition_of_the_name_is_not_merged_and_told() {
    let other = |lateness| vec![build(&config("1s", None, lateness, COUNT)).unwrap().shared()];
    let (mut gatherer, mut merger) = (Windows::new(other("1s")), Windows::new(other("2s")));
    gatherer.gather(&Feed::default().batch(&[at(100), at(1_500)]));
    let parts = gatherer.take_gathered(partitions(1), 1 << 20).remove(0);
    let gathered = merger.read_gathered(&parts).unwrap();
    merger.merge(gathered, Some(EventTime::from_micros(1_500_000)));
    assert!(merger.finish().is_empty());
    let mut same = Windows::new(other("2s"));
    same.gather(&Feed::default().batch(&[at(1_600), at(2_600)]));
    merge(&mut merger, &same.take_gathered(partitions(1), 1 << 20)[0]);
    let provisional: Vec<bool> = merger
        .finish()
        .iter()
        .map(|w| {
            w.rows.columns().last().unwrap().as_any().downcast_ref::<arrow::array::BooleanArray>().unwrap().value(0)
        })
        .collect();
    assert_eq!(provisional, [true, false], "of 1..2 s one record is missing");
}
