//! Groups, reasons to hold, and repetitions, at times that are said.

use super::*;
use crate::place::Located;
use crate::record::alert::ActiveAlert;
use crate::sink::quiet::{Active, Inhibit};
use crate::sink::readable::tests::event;
use std::sync::Arc;

fn at(seconds: i64) -> Monotonic {
    Monotonic(Span::from_secs(seconds))
}

fn wall(seconds: i64) -> EventTime {
    EventTime::from_micros(seconds * 1_000_000)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn fires(name: &str, path: &str) -> AlertEvent {
    let labels = labels(&[("alertname", name), ("path", path)]);
    AlertEvent { id: format!("{name}{path}+"), labels, status: AlertStatus::Firing, ends_at: None, ..event() }
}

fn ends(name: &str, path: &str) -> AlertEvent {
    let fires = fires(name, path);
    let ends_at = Some(fires.starts_at + Span::from_secs(60));
    AlertEvent { id: format!("{name}{path}-"), status: AlertStatus::Resolved, ends_at, ..fires }
}

fn grouped(repeat: Option<i64>) -> Vec<Route> {
    vec![Route {
        matching: BTreeMap::new(),
        to: Vec::new(),
        group_by: Some(vec!["alertname".to_owned()]),
        group_wait: Some(Span::from_secs(30)),
        group_interval: Some(Span::from_secs(300)),
        repeat_interval: repeat.map(Span::from_secs),
    }]
}

/// Ids of what is due, message by message; repetitions begin with `again`.
fn due(holding: &mut Holding, seconds: i64) -> Vec<String> {
    let due = holding.due(at(seconds), wall(seconds), false);
    let ids = |events: &[AlertEvent]| events.iter().map(|e| e.id.clone()).collect::<Vec<_>>().join(" ");
    due.iter()
        .map(|one| match one {
            Due::Changes(events) | Due::Group(events) => ids(events),
            Due::Again(events) => format!("again {}", ids(events)),
        })
        .collect()
}

fn take(holding: &mut Holding, seconds: i64, event: AlertEvent) {
    assert!(holding.take(event, at(seconds), wall(seconds)).is_empty());
}

#[test]
fn without_groups_each_change_is_told_at_once_and_in_order() {
    let mut holding = Holding::new(Vec::new(), Quiet::default(), false);
    take(&mut holding, 0, fires("A", "/x"));
    take(&mut holding, 0, fires("B", "/x"));
    assert_eq!(due(&mut holding, 0), ["A/x+ B/x+"]);
    take(&mut holding, 1, ends("A", "/x"));
    assert_eq!(due(&mut holding, 1), ["A/x-"]);
    assert!(!holding.is_busy(), "nothing is kept");
}

#[test]
fn what_fails_together_is_told_together_and_changes_wait_for_the_interval() {
    let mut holding = Holding::new(grouped(None), Quiet::default(), false);
    take(&mut holding, 0, fires("A", "/x"));
    take(&mut holding, 10, fires("B", "/x"));
    take(&mut holding, 20, fires("A", "/y"));
    assert!(due(&mut holding, 29).is_empty());
    assert_eq!(due(&mut holding, 30), ["A/x+ A/y+"]);
    assert_eq!(due(&mut holding, 40), ["B/x+"], "another group");
    take(&mut holding, 50, ends("A", "/x"));
    assert!(due(&mut holding, 329).is_empty());
    take(&mut holding, 329, fires("A", "/z"));
    assert_eq!(due(&mut holding, 330), ["A/x- A/z+"]);
    assert!(due(&mut holding, 700).is_empty());
    assert!(!holding.is_busy(), "forgotten behind the interval");
    take(&mut holding, 701, ends("A", "/y"));
    assert!(due(&mut holding, 730).is_empty());
    assert_eq!(due(&mut holding, 731), ["A/y-"], "a new group waits again");
}

#[test]
fn a_receiver_that_groups_by_itself_is_told_at_once_and_an_end_waits_for_nobody() {
    let mut holding = Holding::new(grouped(Some(60)), Quiet::default(), true);
    take(&mut holding, 0, fires("A", "/x"));
    assert_eq!(due(&mut holding, 0), ["A/x+"]);
    let mut holding = Holding::new(grouped(None), Quiet::default(), false);
    take(&mut holding, 0, fires("A", "/x"));
    assert_eq!(holding.due(at(1), wall(1), true), [Due::Group(vec![fires("A", "/x")])]);
    assert_eq!(holding.held(), 0);
}

#[test]
fn what_goes_on_firing_is_repeated_until_it_ends() {
    let mut holding = Holding::new(grouped(Some(3_600)), Quiet::default(), false);
    holding.stand(&fires("A", "/w"), at(0));
    take(&mut holding, 0, fires("A", "/x"));
    take(&mut holding, 0, fires("A", "/y"));
    assert_eq!(due(&mut holding, 300), ["A/x+ A/y+"], "one of the last run has been told of the group");
    holding.told(&[fires("A", "/x"), fires("A", "/y")]);
    assert!(due(&mut holding, 3_899).is_empty());
    assert_eq!(due(&mut holding, 3_900), ["again A/w+ A/x+ A/y+"]);
    take(&mut holding, 4_000, ends("A", "/x"));
    assert_eq!(due(&mut holding, 4_200), ["A/x-"]);
    holding.told(&[ends("A", "/x")]);
    assert_eq!(due(&mut holding, 7_800), ["again A/w+ A/y+"]);
    for event in [ends("A", "/w"), ends("A", "/y")] {
        take(&mut holding, 7_900, event);
    }
    assert_eq!(due(&mut holding, 8_100), ["A/w- A/y-"]);
    holding.told(&[ends("A", "/w"), ends("A", "/y")]);
    assert!(due(&mut holding, 20_000).is_empty());
    assert!(!holding.is_busy());
}

/// `A` keeps `B` of the same path back.
fn inhibited() -> (Holding, Active) {
    let rule = Inhibit {
        source: Located::nowhere(labels(&[("alertname", "A")])),
        target: Located::nowhere(labels(&[("alertname", "B")])),
        equal: vec!["path".to_owned()],
    };
    let active = Active::default();
    let quiet = Quiet::new(vec![rule], Vec::new(), Arc::default(), Arc::clone(&active));
    (Holding::new(Vec::new(), quiet, false), active)
}

fn now_fire(active: &Active, events: &[AlertEvent]) {
    let alert = |event: &AlertEvent| ActiveAlert {
        labels: event.labels.clone(),
        annotations: BTreeMap::new(),
        firing: true,
        active_at: event.starts_at,
        value: None,
        sql: None,
    };
    *active.lock().unwrap() = events.iter().map(alert).collect();
}

#[test]
fn an_effect_is_told_when_its_cause_is_over_and_it_still_fires() {
    let (mut holding, active) = inhibited();
    now_fire(&active, &[fires("A", "/x"), fires("B", "/x"), fires("B", "/y")]);
    for event in [fires("A", "/x"), fires("B", "/x"), fires("B", "/y")] {
        take(&mut holding, 0, event);
    }
    assert_eq!(due(&mut holding, 0), ["A/x+ B/y+"]);
    assert!(due(&mut holding, 1_000).is_empty());
    assert_eq!(holding.held(), 1);
    now_fire(&active, &[fires("B", "/x"), fires("B", "/y")]);
    take(&mut holding, 1_001, ends("A", "/x"));
    assert_eq!(due(&mut holding, 1_001), ["B/x+ A/x-"]);
}

#[test]
fn an_effect_that_ends_before_its_cause_is_not_told_at_all_and_one_that_was_told_ends_for_all_to_see() {
    let (mut holding, active) = inhibited();
    take(&mut holding, 0, fires("B", "/y"));
    assert_eq!(due(&mut holding, 0), ["B/y+"]);
    now_fire(&active, &[fires("A", "/x"), fires("A", "/y"), fires("B", "/x"), fires("B", "/y")]);
    take(&mut holding, 1, fires("B", "/x"));
    assert!(due(&mut holding, 1).is_empty());
    assert_eq!(holding.take(ends("B", "/x"), at(2), wall(2)), [fires("B", "/x"), ends("B", "/x")]);
    take(&mut holding, 3, ends("B", "/y"));
    assert_eq!(due(&mut holding, 3), ["B/y-"], "an incident must not stay open");
}

#[test]
fn an_alert_that_ends_and_fires_again_while_it_is_held_is_in_order() {
    let (mut holding, active) = inhibited();
    now_fire(&active, &[fires("A", "/x")]);
    take(&mut holding, 0, fires("B", "/x"));
    assert!(due(&mut holding, 0).is_empty());
    now_fire(&active, &[]);
    // The reason is over in the moment in which it ends: both are told.
    take(&mut holding, 1, ends("B", "/x"));
    assert_eq!(due(&mut holding, 1), ["B/x+ B/x-"]);
}
