//! What is absent, when it is told, and what is no absence.

use super::{Absence, Absences, Config};
use crate::expression::Compiler;
use crate::place::{Entries, Located, Problem};
use crate::record::alert::AlertEvent;
use crate::record::sample::WindowSchema;
use crate::time::{EventTime, Span};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn located(text: &str) -> Located<String> {
    Located::nowhere(text.to_owned())
}

fn span(text: &str) -> Option<Located<Span>> {
    Some(Located::nowhere(text.parse().unwrap()))
}

fn windows() -> Vec<WindowSchema> {
    let window = |name: &str, columns: &[&str]| WindowSchema {
        window: name.into(),
        group_by: columns.iter().map(|column| (*column).to_owned()).collect(),
        condition: None,
        arrow: Arc::new(Schema::new(columns.iter().map(|c| Field::new(*c, DataType::Utf8, true)).collect::<Vec<_>>())),
    };
    vec![window("by_host", &["host"]), window("by_two", &["host", "app"]), window("same", &["host"])]
}

fn config(on: &str) -> Config {
    Config {
        alert: located("Gone"),
        on: located(on),
        when: None,
        levels: None,
        absent_for: span("2m"),
        expected: None,
        forget_after: None,
        hold: Span::ZERO,
        keep_firing_for: Span::ZERO,
        labels: Entries(vec![(located("severity"), located("P0"))]),
        annotations: Entries(vec![(
            located("summary"),
            located("{{ $labels.host }} silent for {{ $value | humanizeDuration }}"),
        )]),
    }
}

fn of_source() -> Config {
    let annotations =
        Entries(vec![(located("summary"), located("{{ $labels.source }}: {{ $values.absent_seconds }} s"))]);
    Config { annotations, ..config("fly") }
}

fn expecting(hosts: &[&str]) -> Config {
    Config { expected: Some(Located::nowhere(hosts.iter().map(|h| (*h).to_owned()).collect())), ..config("by_host") }
}

fn build(config: &Config) -> Result<Absence, Vec<Problem>> {
    config.build_absence(&windows(), &["fly", "same"])
}

/// Rules with a clock: the time of day is the quiet time behind 1970.
struct Run {
    absences: Absences,
    day: i64,
}

impl Run {
    fn new(config: &Config) -> Self {
        Self { absences: Absences::new("p", vec![build(config).unwrap()]), day: 0 }
    }

    fn see(&mut self, hosts: &[&str]) {
        let groups: Vec<Vec<String>> = hosts.iter().map(|host| vec![(*host).to_owned()]).collect();
        self.absences.saw_groups("by_host", &groups);
    }

    /// `seconds` of quiet in steps of a second; what happens as `second status who`.
    fn quiet(&mut self, seconds: i64) -> Vec<String> {
        (0..seconds).flat_map(|_| self.tick(1)).collect()
    }

    fn tick(&mut self, quiet: i64) -> Vec<String> {
        self.day += 1;
        let now = EventTime::from_micros(self.day * 1_000_000);
        let events = self.absences.tick(now, Span::from_secs(quiet));
        events.iter().map(|event| show(event, self.day)).collect()
    }

    fn restart(&mut self, config: &Config) {
        let saved = self.absences.save();
        let mut next = Absences::new("p", vec![build(config).unwrap()]);
        assert!(saved.iter().all(|part| next.knows(part)));
        let restoring = next.read(&saved).unwrap();
        next.resume(restoring);
        assert_eq!(next.save(), saved, "saved, restored and saved again");
        self.absences = next;
    }
}

fn show(event: &AlertEvent, day: i64) -> String {
    let who = event.labels.get("host").or(event.labels.get("source")).unwrap();
    format!("{day} {} {who}", event.status.as_str())
}

#[test]
fn a_source_fires_once_and_is_resolved_when_data_is_back() {
    let mut run = Run::new(&of_source());
    assert!(run.quiet(119).is_empty());
    assert_eq!(run.quiet(300), ["120 firing fly"], "from the start on, and once");
    run.absences.saw_source("another");
    assert!(run.quiet(1).is_empty());
    run.absences.saw_source("fly");
    assert_eq!(run.quiet(100), ["421 resolved fly"]);
    run.absences.saw_source("fly");
    assert_eq!(run.quiet(200), ["640 firing fly"]);
}

#[test]
fn input_that_waits_is_no_absence() {
    let mut run = Run::new(&of_source());
    assert!((0..600).all(|_| run.tick(0).is_empty()), "the clock stands still while nothing is quiet");
    assert_eq!(run.quiet(120).len(), 1);
    run.absences.saw_source("fly");
    assert_eq!(run.tick(0), ["721 resolved fly"], "data is back, whether or not more of it waits");
}

#[test]
fn groups_are_followed_from_when_they_are_seen() {
    let mut run = Run::new(&config("by_host"));
    assert!(run.quiet(1_000).is_empty(), "nobody was ever seen");
    run.see(&["a", "b"]);
    run.quiet(60);
    run.see(&["b"]);
    assert_eq!(run.quiet(60), ["1120 firing a"]);
    run.see(&["a", "c"]);
    assert_eq!(run.quiet(60), ["1121 resolved a", "1180 firing b"]);
    assert_eq!(run.absences.firing(), 1);
    let active: Vec<_> = run.absences.active().collect();
    assert_eq!((active.len(), active[0].firing, active[0].active_at.micros()), (1, true, 1_180_000_000));
    assert_eq!(active[0].annotations["summary"], "b silent for 2m 0s");
}

#[test]
fn what_is_expected_is_missed_though_it_never_came() {
    let mut run = Run::new(&expecting(&["b", "a", "b"]));
    run.see(&["a", "x"]);
    assert_eq!(run.quiet(120), ["120 firing a", "120 firing b"]);
    assert!(run.quiet(3 * 86_400).is_empty(), "it is never forgotten, and nobody else is followed");
    assert_eq!(run.absences.overflow_count(), 0);
    run.see(&["b"]);
    assert_eq!(run.quiet(1), ["259321 resolved b"]);
}

#[test]
fn a_group_that_is_gone_for_good_is_forgotten() {
    let mut run = Run::new(&Config { forget_after: span("10m"), ..config("by_host") });
    run.see(&["a"]);
    assert_eq!(run.quiet(10_000), ["120 firing a", "600 resolved a"]);
    assert!(run.absences.save().is_empty(), "nothing is left of it");
    run.see(&["a"]);
    assert_eq!(run.quiet(120).len(), 1, "until it comes again");
}

#[test]
fn downtime_is_no_absence_and_a_restart_goes_on() {
    let config = config("by_host");
    let mut run = Run::new(&config);
    run.see(&["a", "b"]);
    run.quiet(100);
    run.see(&["b"]);
    run.day += 86_400;
    run.restart(&config);
    assert_eq!(run.quiet(20), ["86520 firing a"], "100 s before and 20 s behind");
    run.restart(&config);
    assert!(run.quiet(90).is_empty(), "it doesn't fire again");
    run.restart(&config);
    assert_eq!(run.quiet(10), ["86620 firing b"]);
    run.restart(&config);
    run.see(&["a", "b"]);
    let resolved = run.absences.tick(EventTime::from_micros(86_700_000_000), Span::ZERO);
    assert_eq!(resolved.len(), 2);
    assert_eq!(resolved[0].starts_at.micros(), 86_520_000_000, "as it was told when it fired");
}

#[test]
fn the_time_of_day_may_jump() {
    let mut run = Run::new(&of_source());
    let at = |day: i64| EventTime::from_micros(day * 1_000_000);
    assert!(run.absences.tick(at(1 << 32), Span::from_secs(60)).is_empty(), "a leap forward is no absence");
    let fired = run.absences.tick(at(5_000), Span::from_secs(60));
    assert_eq!((fired[0].starts_at, fired[0].window_start, fired[0].window_end), (at(5_000), at(4_880), at(5_000)));
    assert_eq!(fired[0].values["absent_seconds"], 120.0);
    assert_eq!(fired[0].annotations["summary"], "fly: 120 s");
    run.absences.saw_source("fly");
    let resolved = run.absences.tick(at(10), Span::ZERO);
    assert_eq!(
        (resolved[0].starts_at, resolved[0].ends_at),
        (at(5_000), Some(at(5_000))),
        "it doesn't end before it began"
    );
    assert_ne!(fired[0].id, resolved[0].id);
    assert_eq!(fired[0].labels, resolved[0].labels);
}

#[test]
fn mistakes_are_refused_with_a_reason() {
    let list = |values: &[&str]| Some(Located::nowhere(values.iter().map(|v| (*v).to_owned()).collect()));
    for (config, expected, hint) in [
        (config("by_hst"), "cannot find a window or a source `by_hst`", "did you mean `by_host`?"),
        (config("same"), "cannot tell the window `same` from the source `same`", "give one"),
        (Config { absent_for: span("10ms"), ..config("by_host") }, "cannot wait 10ms for what is absent", "between 1s"),
        (
            Config { when: Some(located("n > 1")), ..config("by_host") },
            "cannot use `when` beside `absent_for`",
            "make two",
        ),
        (
            Config { hold: Span::from_secs(1), ..config("by_host") },
            "cannot use `for` or `keep_firing_for`",
            "`absent_for` says",
        ),
        (
            Config { forget_after: span("2m"), ..config("by_host") },
            "cannot forget after 2m what is absent after 2m",
            "`forget_after` is",
        ),
        (Config { forget_after: span("1h"), ..expecting(&["a"]) }, "cannot forget what is `expected`", "take one"),
        (Config { expected: list(&["a"]), ..of_source() }, "cannot expect groups of a source", "a source is"),
        (
            Config { expected: list(&["a"]), annotations: Entries::default(), ..config("by_two") },
            "cannot expect groups of `by_two`, it groups by 2 columns",
            "`expected` lists",
        ),
        (expecting(&[]), "cannot expect nothing", "name the"),
        (
            Config { labels: Entries(vec![(located("host"), located("x"))]), ..config("by_host") },
            "cannot set the label `host`",
            "",
        ),
        (
            Config { annotations: Entries(vec![(located("s"), located("{{ $values.n }}"))]), ..config("by_host") },
            "cannot find `$values.n` in the template",
            "there are absent_seconds",
        ),
    ] {
        let problem = build(&config).unwrap_err().remove(0);
        assert!(problem.message.starts_with(expected), "{expected}: {}", problem.message);
        assert!(problem.hint.as_deref().unwrap_or_default().starts_with(hint), "{:?}", problem.hint);
    }
    let absent = config("by_host");
    assert!(absent.build(&windows(), &Compiler::default()).is_err(), "it has no condition");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The model: of each group the seconds since it was seen, whatever restarts there are.
    #[test]
    fn a_group_fires_when_it_was_silent_and_only_then(
        steps in prop::collection::vec((0usize..4, 0i64..200, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let config = Config { forget_after: span("5m"), ..config("by_host") };
        let mut run = Run::new(&config);
        let mut model: BTreeMap<&str, (i64, bool)> = BTreeMap::new();
        for (host, quiet, waits, restart) in steps {
            let host = ["a", "b", "c", "d"][host];
            run.see(&[host]);
            model.entry(host).or_default().0 = 0;
            let found = run.tick(if waits { 0 } else { quiet });
            let mut expected = Vec::new();
            model.retain(|host, (silent, firing)| {
                *silent += if waits { 0 } else { quiet };
                let forgotten = *silent >= 300;
                let fires = *silent >= 120 && !forgotten;
                if fires != *firing {
                    expected.push(format!("{} {} {host}", run.day, if fires { "firing" } else { "resolved" }));
                }
                *firing = fires;
                !forgotten
            });
            prop_assert_eq!(found, expected);
            if restart {
                run.restart(&config);
            }
        }
    }
}
