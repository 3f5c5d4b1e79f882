//! Producers as partitions of the clock: by the roster alone, and by a flow with windows.

use super::Flow;
use super::producers::{Producers, Skew};
use super::roster::Roster;
use crate::config;
use crate::limits;
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::source::PartitionName;
use crate::time::{EventTime, Span};
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Second, instance, and how many seconds later it was taken in.
type Row = (i64, Option<&'static str>, i64);

fn name(partition: usize) -> PartitionName {
    PartitionName { source: "s".into(), partition: format!("logs/{partition}"), identity: String::new() }
}

fn rows(rows: &[Row]) -> RecordBatch {
    let times = |seconds: Vec<i64>| -> ArrayRef {
        let micros = seconds.into_iter().map(|second| second * 1_000_000);
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let texts: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>());
    let (stamps, ingest) = (rows.iter().map(|r| r.0).collect(), rows.iter().map(|r| r.0 + r.2).collect());
    let columns =
        [("ts", times(stamps)), ("ts_source", texts.clone()), ("ingest_ts", times(ingest)), ("instance", texts)];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn seconds(time: Option<EventTime>) -> Option<i64> {
    time.map(|time| time.micros() / 1_000_000)
}

fn opened(partitions: usize) -> Roster {
    let mut roster = Roster::new(vec![3]);
    (0..partitions).for_each(|at| roster.open(PartitionId(at), &name(at)));
    roster
}

fn read(roster: &mut Roster, partition: usize, batch: &[Row]) -> Vec<Option<i64>> {
    let mut readings = Vec::new();
    roster.observe(PartitionId(partition), &rows(batch), |reading| readings.push(seconds(reading)));
    readings
}

fn restarted(roster: &Roster) -> Roster {
    let (clock, producers) = (roster.save(), roster.save_producers());
    let bytes = crate::record::state::write(&(&clock, &producers));
    let next = Roster::resume(clock, producers, Producers::new(vec![3]));
    assert_eq!(crate::record::state::write(&(next.save(), next.save_producers())), bytes);
    next
}

#[test]
fn the_least_of_the_producers_counts() {
    let mut roster = opened(1);
    let first = [(100, Some("fast"), 0), (10, Some("a"), 0), (12, None, 0), (39, Some("a"), 0), (41, None, 0)];
    assert_eq!(read(&mut roster, 0, &first), [None; 5], "nobody has come 30 s far");
    let readings = read(&mut roster, 0, &[(40, Some("a"), 0), (50, None, 0), (90, Some("a"), 0), (95, None, 0)]);
    assert_eq!(
        readings,
        [Some(40), Some(40), Some(50), Some(90)],
        "the record with which a has come so far is the first"
    );
}

#[test]
fn who_is_silent_is_not_waited_for_and_forgotten_later() {
    let mut roster = opened(2);
    read(&mut roster, 0, &[(10, Some("a"), 0), (100, Some("b"), 0)]);
    read(&mut roster, 0, &[(40, Some("a"), 0)]);
    assert_eq!(seconds(roster.now()), None, "the second partition is silent");
    read(&mut roster, 1, &[(50, Some("a"), 0), (80, Some("a"), 0)]);
    assert_eq!(seconds(roster.now()), Some(40), "a of another partition is another one");
    roster.tick(limits::IDLE_AFTER);
    assert_eq!(seconds(roster.now()), Some(100), "all are silent: the furthest counts");
    read(&mut roster, 0, &[(110, Some("b"), 0), (120, Some("b"), 0)]);
    read(&mut roster, 1, &[(130, Some("a"), 0)]);
    assert_eq!(seconds(roster.now()), Some(120));
    assert_eq!(roster.save_producers().len(), 3);
    roster.tick(Span::from_secs(3_570));
    assert_eq!((roster.save_producers().len(), seconds(roster.now())), (2, Some(130)));
    read(&mut roster, 0, &[(20, Some("a"), 0), (140, Some("b"), 0)]);
    assert_eq!(seconds(roster.now()), Some(130), "it never goes back, also for one that was forgotten");
    roster.end(PartitionId(0));
    roster.end(PartitionId(1));
    assert_eq!((roster.save_producers().len(), seconds(roster.now())), (0, Some(140)));
}

#[test]
fn a_restart_waits_for_whom_it_waited_for() {
    let mut roster = opened(2);
    read(&mut roster, 0, &[(15, Some("slow"), 0), (100, Some("fast"), 0), (45, Some("slow"), 0)]);
    read(&mut roster, 1, &[(300, None, 0), (330, None, 0)]);
    let mut next = restarted(&roster);
    assert_eq!(next.awaited(), [name(0), name(1)]);
    next.open(PartitionId(0), &name(1));
    next.open(PartitionId(1), &name(0));
    assert_eq!(read(&mut next, 1, &[(200, Some("fast"), 0)]), [Some(45)], "slow has come to 45");
    assert_eq!(read(&mut next, 1, &[(150, Some("slow"), 0)]), [Some(150)]);
    let mut given_up = restarted(&roster);
    given_up.give_up();
    assert_eq!((given_up.awaited(), seconds(given_up.now())), (vec![], Some(330)));
    assert!(given_up.save_producers().is_empty());
}

#[test]
fn producers_beyond_the_cap_share_a_watermark() {
    let mut producers = Producers::new(vec![3]);
    producers.set_cap(2);
    let mut clock = crate::time::watermark::StreamClock::default();
    let base = clock.register_idle();
    let mut read = |batch: &[Row]| {
        let (rows, mut last) = (rows(batch), None);
        let stamps = crate::record::event::stamps(&rows).clone();
        producers.observe(&mut clock, base, &rows, &stamps, |reading| last = seconds(reading));
        (last, producers.overflow())
    };
    assert_eq!(read(&[(10, Some("a"), 0), (20, Some("b"), 0)]), (Some(10), 0));
    assert_eq!(read(&[(5, Some("c"), 0), (30, Some("d"), 0)]), (Some(10), 2));
    assert_eq!(read(&[(40, Some("a"), 0), (40, Some("b"), 0)]), (Some(30), 2));
}

#[test]
fn clocks_that_are_off_are_named() {
    let mut roster = opened(1);
    // All are read with an hour's delay; one is five minutes ahead, one five minutes behind, one is silent now.
    let delay = 3_600;
    let ahead = |of: i64| delay - of;
    read(
        &mut roster,
        0,
        &[
            (1_000, Some("a"), ahead(0)),
            (1_300, Some("fast"), ahead(300)),
            (1_000, Some("b"), ahead(0)),
            (700, Some("slow"), ahead(-300)),
            (10, Some("rare"), ahead(0)),
            (1_001, Some("a"), ahead(0)),
        ],
    );
    let skew = |producer: &str, seconds| Skew { producer: producer.to_owned(), skew: Span::from_secs(seconds) };
    let mut found = roster.take_skews();
    found.sort_by_key(|skew| skew.skew);
    assert_eq!(found, [skew("slow", -300), skew("fast", 300)]);
    assert_eq!(roster.take_skews(), [], "each is told of what came since");
}

fn flow(more: &str) -> Flow {
    let refused = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let yaml = format!(
        "pipeline: p\nsources: {{ s: {{ type: stdin }} }}\n{more}windows:\n  - {{ name: w, kind: tumbling, size: 10s, \
         lateness: 1s, group_by: [path], aggregate: {{ n: count(*) }} }}\n"
    );
    Flow::new(&mut config::load("pipeline.yaml", &yaml, &|_| None, &refused).unwrap())
}

fn lines(partition: PartitionId, records: &[(i64, &str)]) -> RawBatch {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for (second, instance) in records {
        let ts = EventTime::from_micros(second * 1_000_000);
        let line = format!(r#"{{"timestamp":"{ts}","path":"{instance}"}}"#);
        ranges.push(bytes.len() as u32..(bytes.len() + line.len()) as u32);
        bytes.extend_from_slice(line.as_bytes());
    }
    let (positions, arrival) = (Positions::Sequence { first: 0 }, EventTime::from_micros(1 << 50));
    RawBatch { partition, bytes, records: ranges, positions, end: 0, broker_time: None, arrival }
}

#[test]
fn one_hosts_fast_clock_makes_nobody_late() {
    for skew in [300, -300] {
        let first = [(1_000 + skew, "off")];
        let rest = (0..400).flat_map(|at| [(1_000 + at, "a"), (1_001 + at + skew, "off"), (1_000 + at, "b")]);
        let records: Vec<(i64, &str)> = first.into_iter().chain(rest).collect();
        let run = |more: &str| {
            let mut flow = flow(more);
            flow.open(PartitionId(0), &name(0));
            flow.batch(&lines(PartitionId(0), &records));
            while flow.finish_next().is_some() {}
            flow.late_totals()[0].1
        };
        assert_eq!(run("watermark_by: [path]\n"), 0, "{skew}");
        assert!(run("") > 300, "{skew}: else the one that is behind is late");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The model: the least of what each has come to, of those that delivered, never going back.
    #[test]
    fn readings_are_those_of_a_plain_search(
        batches in prop::collection::vec((0usize..2, prop::collection::vec((0i64..300, 0usize..5), 1..20), any::<bool>()), 1..12),
    ) {
        let names = [Some("a"), Some("b"), Some(""), None, Some("/")];
        let mut roster = opened(2);
        let mut largest: BTreeMap<(usize, usize), i64> = BTreeMap::new();
        let (mut current, mut released) = (None, [false; 2]);
        let mut first: BTreeMap<(usize, usize), i64> = BTreeMap::new();
        for (partition, records, restart) in batches {
            let batch: Vec<Row> = records.iter().map(|(second, who)| (*second, names[*who], 0)).collect();
            let readings = read(&mut roster, partition, &batch);
            let mut expected = Vec::new();
            for (second, who) in records {
                released[partition] |= second - *first.entry((partition, who)).or_insert(second) >= 30;
                let own = largest.entry((partition, who)).or_insert(second);
                *own = second.max(*own);
                let least = largest.values().min().copied().filter(|_| released == [true; 2]);
                current = current.max(least);
                expected.push(current);
            }
            prop_assert_eq!(readings, expected);
            if restart {
                roster = restarted(&roster);
                (0..2).for_each(|at| roster.open(PartitionId(at), &name(at)));
            }
        }
    }
}
