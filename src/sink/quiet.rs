//! What is not told: alerts of which a graver one is the cause (`inhibit:`), work that was announced (`maintenance:`), and silences.
//!
//! Only that an alert fires is kept back, and told when the reason is over, if it fires then still. One that was told is also said to
//! be over, so that no incident stays open.

use super::silence::Silences;
use crate::place::{Located, Problem};
use crate::record::alert::ActiveAlert;
use crate::time::{EventTime, Span};
use cronexpr::{Crontab, MakeTimestamp};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Labels with the values that they must have.
type Labels = BTreeMap<String, String>;

/// One entry of `inhibit:`: while an alert with the labels of `source` fires, those with the labels of `target` are not told.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inhibit {
    /// Labels of the alert that is told instead.
    pub source: Located<Labels>,
    /// Labels of those that are not.
    pub target: Located<Labels>,
    /// Labels that both must have with the same value; both may lack one.
    #[serde(default)]
    pub equal: Vec<String>,
}

/// One entry of `maintenance:`: a time in which alerts are expected.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// For logs.
    pub name: Located<String>,
    /// Labels of the alerts that are not told. Empty: all.
    #[serde(default, rename = "match")]
    pub matching: Labels,
    /// The beginning of the only time, RFC 3339 with an offset, as in `2026-11-22T01:00:00+09:00`.
    pub from: Option<Located<String>>,
    /// Its end, exclusive.
    pub to: Option<Located<String>>,
    /// The beginnings of a time that comes again: minute, hour, day of month, month, day of week, as in `0 3 * * SUN`.
    pub cron: Option<Located<String>>,
    /// How long each of them takes.
    #[serde(rename = "for")]
    pub length: Option<Located<Span>>,
    /// The zone of `cron`, as in `Asia/Tokyo`. Default UTC.
    pub zone: Option<Located<String>>,
}

/// When it is.
#[derive(Debug)]
enum Times {
    Once { from: EventTime, to: EventTime },
    Again { starts: Box<Crontab>, length: Span },
}

impl Times {
    fn holds(&self, now: EventTime) -> bool {
        match self {
            Self::Once { from, to } => (*from..*to).contains(&now),
            Self::Again { starts, length } => {
                // The first beginning behind `now - length`; a time that no calendar has is in no maintenance.
                let Ok(since) = Timestamp::from_microsecond((now - *length).micros()) else { return false };
                let first = starts.find_next(MakeTimestamp(since));
                first.is_ok_and(|first| first.timestamp().as_microsecond() <= now.micros())
            }
        }
    }
}

fn stamp(written: &Located<String>) -> Result<EventTime, Problem> {
    let stamp: Result<Timestamp, _> = written.value.parse();
    stamp.map(|stamp| EventTime::from_micros(stamp.as_microsecond())).map_err(|_| {
        let problem = written.problem(format!("cannot read `{}` as a time", written.value));
        problem.hint("expected RFC 3339 with an offset, as in `2026-11-22T01:00:00+09:00` or `2026-11-21T16:00:00Z`")
    })
}

impl Maintenance {
    fn times(&self) -> Result<Times, Problem> {
        match (&self.from, &self.to, &self.cron, &self.length) {
            (Some(from), Some(to), None, None) => {
                let (start, end) = (stamp(from)?, stamp(to)?);
                if end <= start {
                    return Err(to.problem("cannot end a maintenance before it begins"));
                }
                if let Some(zone) = &self.zone {
                    return Err(zone.problem("cannot use `zone` here: `from` and `to` have their offsets"));
                }
                Ok(Times::Once { from: start, to: end })
            }
            (None, None, Some(cron), Some(length)) => {
                let zone = self.zone.as_ref().map_or("UTC", |zone| zone.value.as_str());
                if let Some(written) = self.zone.as_ref().filter(|_| TimeZone::get(zone).is_err()) {
                    let problem = written.problem(format!("cannot find the time zone `{zone}`"));
                    return Err(problem.hint("expected a name of IANA's database, as in `Asia/Tokyo`"));
                }
                if !(Span::from_secs(60)..=Span::from_secs(31 * 86_400)).contains(&length.value) {
                    return Err(length.problem("cannot have a maintenance of less than 1m or more than 31d"));
                }
                let starts = cronexpr::parse_crontab(&format!("{} {zone}", cron.value)).map_err(|_| {
                    let problem = cron.problem(format!("cannot read `{}` as times of a calendar", cron.value));
                    problem.hint("expected minute, hour, day of month, month, day of week, as in `0 3 * * SUN`")
                })?;
                Ok(Times::Again { starts: Box::new(starts), length: length.value })
            }
            _ => {
                let place = [&self.from, &self.to, &self.cron].iter().find_map(|text| Some(text.as_ref()?.place));
                let problem = Problem::new(place.unwrap_or(self.name.place), "cannot tell when this maintenance is");
                Err(problem.hint("give it `from` and `to`, or `cron` with `for`"))
            }
        }
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// All mistakes of both parts.
pub fn check(inhibit: &[Inhibit], maintenance: &[Maintenance]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for rule in inhibit {
        for side in [&rule.source, &rule.target].into_iter().filter(|side| side.value.is_empty()) {
            let problem = side.problem("cannot inhibit without labels: that would be every alert");
            problems.push(problem.hint("as in `source: { severity: P0 }` and `target: { severity: P1 }`"));
        }
    }
    problems.extend(maintenance.iter().filter_map(|one| one.times().err()));
    problems
}

/// Alerts that are pending or firing, as they are shown.
pub type Active = Arc<Mutex<Vec<ActiveAlert>>>;

/// Says what is not to be told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Quiet {
    inhibit: Arc<Vec<Inhibit>>,
    maintenance: Arc<Vec<(Labels, Times)>>,
    silences: Arc<Silences>,
    active: Active,
}

impl Quiet {
    /// Of settings that [`check`] has found nothing wrong with.
    pub fn new(inhibit: Vec<Inhibit>, maintenance: Vec<Maintenance>, silences: Arc<Silences>, active: Active) -> Self {
        let compiled = |one: Maintenance| Some((one.times().ok()?, one.matching));
        let maintenance = maintenance.into_iter().filter_map(compiled).map(|(times, labels)| (labels, times)).collect();
        Self { inhibit: Arc::new(inhibit), maintenance: Arc::new(maintenance), silences, active }
    }

    /// Why an alert that fires is not to be told now.
    pub fn reason(&self, labels: &Labels, now: EventTime) -> Option<&'static str> {
        if self.silences.silence(labels, now) {
            return Some("silenced");
        }
        if self.maintenance.iter().any(|(wanted, times)| has(labels, wanted) && times.holds(now)) {
            return Some("maintenance");
        }
        self.is_inhibited(labels).then_some("inhibited")
    }

    fn is_inhibited(&self, labels: &Labels) -> bool {
        let mut rules = self.inhibit.iter().filter(|rule| has(labels, &rule.target.value)).peekable();
        if rules.peek().is_none() {
            return false;
        }
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        rules.any(|rule| {
            let (source, target) = (&rule.source.value, &rule.target.value);
            // As Alertmanager: of alerts that are both, none keeps the other back, nor itself.
            let both = |alert: &Labels| has(alert, source) && has(alert, target);
            active.iter().any(|other| {
                other.firing
                    && has(&other.labels, source)
                    && rule.equal.iter().all(|name| other.labels.get(name) == labels.get(name))
                    && !(both(&other.labels) && both(labels))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn at(text: &str) -> EventTime {
        stamp(&Located::nowhere(text.to_owned())).unwrap()
    }

    fn text(text: &str) -> Option<Located<String>> {
        Some(Located::nowhere(text.to_owned()))
    }

    fn maintenance() -> Maintenance {
        let (from, to, cron, length, zone) = (None, None, None, None, None);
        Maintenance {
            name: Located::nowhere("m".to_owned()),
            matching: labels(&[("app", "web")]),
            from,
            to,
            cron,
            length,
            zone,
        }
    }

    fn quiet(one: Maintenance) -> Quiet {
        assert_eq!(check(&[], std::slice::from_ref(&one)), []);
        Quiet::new(Vec::new(), vec![one], Arc::default(), Active::default())
    }

    #[test]
    fn a_maintenance_holds_once_or_by_a_calendar_and_its_zone() {
        let once =
            Maintenance { from: text("2026-11-22T01:00:00+09:00"), to: text("2026-11-21T17:00:00Z"), ..maintenance() };
        let web = labels(&[("app", "web"), ("severity", "P0")]);
        let held = |quiet: &Quiet, time: &str| quiet.reason(&web, at(time)).is_some();
        let once = quiet(once);
        for (time, expected) in
            [("2026-11-21T15:59:59Z", false), ("2026-11-21T16:00:00Z", true), ("2026-11-21T17:00:00Z", false)]
        {
            assert_eq!(held(&once, time), expected, "{time}");
        }
        assert_eq!(once.reason(&labels(&[("app", "api")]), at("2026-11-21T16:00:00Z")), None, "another app");
        // Sundays from two to four in New York, where the clock goes from two to one on 1 November 2026.
        let length = Some(Located::nowhere(Span::from_secs(7_200)));
        let again =
            quiet(Maintenance { cron: text("0 2 * * SUN"), length, zone: text("America/New_York"), ..maintenance() });
        for (time, expected) in [
            ("2026-10-25T05:59:59Z", false),
            ("2026-10-25T06:00:00Z", true),
            ("2026-10-25T07:59:59Z", true),
            ("2026-10-25T08:00:00Z", false),
            ("2026-11-01T06:59:59Z", false),
            ("2026-11-01T07:00:00Z", true),
        ] {
            assert_eq!(held(&again, time), expected, "{time}");
        }
    }

    #[test]
    fn mistakes_are_told_with_what_is_expected() {
        let said = |one: Maintenance| check(&[], &[one])[0].message.clone();
        let minutes = |minutes: i64| Some(Located::nowhere(Span::from_secs(60 * minutes)));
        assert!(said(maintenance()).contains("when this maintenance is"));
        assert!(said(Maintenance { from: text("22 Nov"), to: text("x"), ..maintenance() }).contains("`22 Nov`"));
        let (from, to) = (text("2026-11-22T01:00:00Z"), text("2026-11-22T01:00:00Z"));
        assert!(said(Maintenance { from, to, ..maintenance() }).contains("before it begins"));
        let again = |cron: &str, length, zone: &str| {
            said(Maintenance { cron: text(cron), length, zone: text(zone), ..maintenance() })
        };
        assert!(again("0 2 * *", minutes(60), "UTC").contains("`0 2 * *`"));
        assert!(again("0 2 * * *", minutes(60), "Asia/Tokio").contains("Asia/Tokio"));
        assert!(again("0 2 * * *", minutes(0), "UTC").contains("less than 1m"));
        let rule = Inhibit {
            source: Located::nowhere(labels(&[])),
            target: Located::nowhere(labels(&[("severity", "P1")])),
            equal: Vec::new(),
        };
        assert_eq!(check(&[rule], &[]).len(), 1);
    }

    #[test]
    fn a_graver_alert_keeps_others_of_the_same_app_back_and_never_itself() {
        let rule = Inhibit {
            source: Located::nowhere(labels(&[("severity", "P0")])),
            target: Located::nowhere(labels(&[("team", "search")])),
            equal: vec!["app".to_owned()],
        };
        let active = Active::default();
        let quiet = Quiet::new(vec![rule], Vec::new(), Arc::default(), Arc::clone(&active));
        let now = at("2026-11-21T16:00:00Z");
        let minor = labels(&[("app", "web"), ("severity", "P1"), ("team", "search")]);
        let grave = labels(&[("app", "web"), ("severity", "P0"), ("team", "search")]);
        assert_eq!(quiet.reason(&minor, now), None, "nothing fires");
        let alert = |labels: &Labels, firing| ActiveAlert {
            labels: labels.clone(),
            annotations: BTreeMap::new(),
            firing,
            active_at: now,
            value: None,
            sql: None,
        };
        *active.lock().unwrap() = vec![alert(&grave, false)];
        assert_eq!(quiet.reason(&minor, now), None, "pending");
        *active.lock().unwrap() = vec![alert(&grave, true)];
        assert_eq!(quiet.reason(&minor, now), Some("inhibited"));
        assert_eq!(quiet.reason(&grave, now), None, "both sides match it");
        assert_eq!(quiet.reason(&labels(&[("app", "api"), ("team", "search")]), now), None, "another app");
    }
}
