//! Absence: rules over what doesn't come, a source or a group of a window's records.
//!
//! Absence runs on a clock of its own ([`Absences::tick`]): time in which this pipeline ran and nothing waited to be read. It doesn't move while the
//! daemon is down, while input waits, nor when the time of day is set. So the daemon's own downtime is not absence, and nothing is missed
//! that only wasn't read yet. The time of day is used for what an event tells, and for nothing else.
//!
//! The records of a source are silent from the start on, and so are groups that are `expected`; other groups from when they were first seen
//! until they have been absent for `forget_after`. An alert fires once, and is resolved when data is back.

use super::Config;
use super::engine::{Group, State, id};
use super::plan::{ALERTNAME, check_name, texts};
use super::templates::{self, Names, Text};
use crate::limits;
use crate::place::{Located, Problem, did_you_mean};
use crate::record::alert::{ActiveAlert, AlertEvent, AlertStatus};
use crate::record::sample::WindowSchema;
use crate::record::state::{Damaged, Fingerprint, SavedPart, read, write};
use crate::time::{EventTime, Span};
use gotmpl::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that carries a source's name.
const SOURCE: &str = "source";
/// The value that events and templates see: seconds without a record.
const SECONDS: &str = "absent_seconds";

/// Whose records are missed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Source(String),
    /// The groups of a window, by its `group_by` and its `where`.
    Groups(Arc<str>),
}

/// A rule, checked and compiled.
#[derive(Debug, Clone)]
pub struct Absence {
    name: String,
    target: Target,
    /// Labels that a group's values become.
    columns: Vec<String>,
    /// These groups and no others; empty: those that were seen.
    expected: Vec<Group>,
    /// Both in µs.
    absent_for: i64,
    forget_after: i64,
    labels: Vec<(String, Text)>,
    annotations: Vec<(String, Text)>,
    fingerprint: Fingerprint,
}

/// A group, or a source.
#[derive(Debug)]
struct Followed {
    /// When it was last seen, by the rule's clock in µs.
    seen: i64,
    firing: Option<Firing>,
}

#[derive(Debug)]
struct Firing {
    /// The time of day, in µs.
    starts_at: i64,
    labels: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Rule {
    plan: Absence,
    followed: BTreeMap<Group, Followed>,
}

/// The rules over absence of one pipeline.
#[derive(Debug)]
pub struct Absences {
    pipeline: String,
    rules: Vec<Rule>,
    /// Time in which nothing waited, in µs since this began.
    quiet: i64,
    group_cap: usize,
    overflow_total: u64,
    changed: bool,
}

/// State of an earlier run that was read and found to be sound, by number of the rule.
#[derive(Debug)]
pub struct RestoringAbsences(BTreeMap<usize, BTreeMap<Group, State>>);

impl Config {
    /// Checks and compiles a rule with `absent_for`.
    ///
    /// # Errors
    /// All mistakes that can be told apart: in the name, what it is on, its keys and each text.
    pub fn build_absence(&self, windows: &[WindowSchema], sources: &[&str]) -> Result<Absence, Vec<Problem>> {
        let mut problems = Vec::new();
        check_name(&self.alert, "an alert", &mut problems);
        let absent_for = self.absent_for.as_ref().map_or(Span::ZERO, |span| span.value);
        self.check_keys(absent_for, &mut problems);
        let window = windows.iter().find(|window| *window.window == *self.on.value);
        let (target, columns) = match (window, sources.contains(&self.on.value.as_str())) {
            (Some(window), false) => (Target::Groups(Arc::clone(&window.window)), window.group_by.clone()),
            (None, true) => (Target::Source(self.on.value.clone()), vec![SOURCE.to_owned()]),
            (Some(_), true) => {
                let problem =
                    self.on.problem(format!("cannot tell the window `{0}` from the source `{0}`", self.on.value));
                problems.push(problem.hint("give one of them another name"));
                return Err(problems);
            }
            (None, false) => {
                problems.push(unknown(&self.on, windows, sources));
                return Err(problems);
            }
        };
        let expected = self.expected(&target, columns.len(), &mut problems);
        let names = Names { labels: columns.iter().map(String::as_str).collect(), values: vec![SECONDS] };
        for (label, _) in &self.labels.0 {
            if label.value == ALERTNAME || columns.contains(&label.value) {
                problems
                    .push(label.problem(format!("cannot set the label `{}`, the alert has it by itself", label.value)));
            }
        }
        let labels = texts(&self.labels, "a label", &names, &mut problems);
        let annotations = texts(&self.annotations, "an annotation", &names, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let forget_after = self.forget_after.as_ref().map_or(limits::FORGET_AFTER, |span| span.value);
        let mut parts = vec![self.alert.value.clone(), format!("{target:?} by {columns:?}")];
        parts.push(format!("absent {} {} of {expected:?}", absent_for.micros(), forget_after.micros()));
        parts.push(format!("where {:?}", window.and_then(|window| window.condition.as_ref())));
        parts.extend(self.labels.0.iter().map(|(name, text)| format!("{:?}: {:?}", name.value, text.value)));
        Ok(Absence {
            name: self.alert.value.clone(),
            target,
            columns,
            expected,
            absent_for: absent_for.micros(),
            forget_after: forget_after.micros(),
            labels,
            annotations,
            fingerprint: Fingerprint::of(parts),
        })
    }

    /// Keys that such a rule doesn't have, and lengths that make no sense.
    fn check_keys(&self, absent_for: Span, problems: &mut Vec<Problem>) {
        let at = self.absent_for.as_ref().map_or(self.alert.place, |span| span.place);
        if absent_for < limits::LEAST_ABSENCE || absent_for > limits::WINDOW_SPAN {
            let text = format!("cannot wait {absent_for} for what is absent");
            let hint = format!("between {} and {}", limits::LEAST_ABSENCE, limits::WINDOW_SPAN);
            problems.push(Problem::new(at, text).hint(hint));
        }
        if let Some(when) = &self.when {
            let problem = when.problem("cannot use `when` beside `absent_for`: there is no row to look at");
            problems.push(problem.hint("make two alerts of it"));
        }
        if let Some(levels) = &self.levels {
            let problem = levels.problem("cannot use `levels` beside `absent_for`: there is no row to look at");
            problems.push(problem.hint("make two alerts of it"));
        }
        if self.hold > Span::ZERO || self.keep_firing_for > Span::ZERO {
            let problem = Problem::new(at, "cannot use `for` or `keep_firing_for` beside `absent_for`");
            problems
                .push(problem.hint("`absent_for` says how long nothing has come; it is resolved when data is back"));
        }
        if let Some(forget) = self.forget_after.as_ref().filter(|forget| forget.value <= absent_for) {
            let problem =
                forget.problem(format!("cannot forget after {} what is absent after {absent_for}", forget.value));
            problems.push(problem.hint("`forget_after` is longer than `absent_for`; its default is 1d"));
        }
    }

    fn expected(&self, target: &Target, columns: usize, problems: &mut Vec<Problem>) -> Vec<Group> {
        let Some(expected) = &self.expected else { return Vec::new() };
        if *target != Target::Groups(self.on.value.as_str().into()) {
            let problem = expected.problem("cannot expect groups of a source, it has none");
            problems.push(problem.hint("a source is expected by itself; groups are those of a window"));
        } else if columns != 1 {
            let text = format!("cannot expect groups of `{}`, it groups by {columns} columns", self.on.value);
            problems.push(expected.problem(text).hint("`expected` lists the values of the window's one group column"));
        } else if expected.value.is_empty() {
            problems.push(expected.problem("cannot expect nothing").hint("name the values of the group column"));
        } else if let Some(forget) = &self.forget_after {
            problems.push(forget.problem("cannot forget what is `expected`").hint("take one of the two out"));
        }
        let mut groups: Vec<Group> = expected.value.iter().map(|value| vec![value.clone()]).collect();
        groups.sort();
        groups.dedup();
        groups
    }
}

fn unknown(on: &Located<String>, windows: &[WindowSchema], sources: &[&str]) -> Problem {
    let names = || windows.iter().map(|window| &*window.window).chain(sources.iter().copied());
    let hint = match did_you_mean(&on.value, names()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("windows and sources here: {}", names().collect::<Vec<_>>().join(", ")),
    };
    on.problem(format!("cannot find a window or a source `{}`", on.value)).hint(hint)
}

impl Absence {
    /// The window whose groups it looks at.
    pub fn window(&self) -> Option<&Arc<str>> {
        match &self.target {
            Target::Groups(window) => Some(window),
            Target::Source(_) => None,
        }
    }

    fn always(&self) -> Vec<Group> {
        match &self.target {
            Target::Source(name) => vec![vec![name.clone()]],
            Target::Groups(_) => self.expected.clone(),
        }
    }

    fn follows_new(&self) -> bool {
        matches!(self.target, Target::Groups(_)) && self.expected.is_empty()
    }

    fn template_data(&self, group: &Group, silent: i64) -> Value {
        let labels = self.columns.iter().zip(group);
        let labels = labels.map(|(name, value)| (name.as_str().into(), Value::from(value.clone())));
        let seconds = seconds(silent);
        templates::data(labels.collect(), [(SECONDS.into(), Value::Float(seconds))].into(), Value::Float(seconds))
    }

    fn labels(&self, group: &Group, silent: i64) -> BTreeMap<String, String> {
        let data = self.template_data(group, silent);
        let own = self.labels.iter().map(|(name, text)| (name.clone(), text.render(&data)));
        let groups = self.columns.iter().cloned().zip(group.iter().cloned());
        let name = [(ALERTNAME.to_owned(), self.name.clone())];
        own.chain(groups).chain(name).filter(|(_, value)| !value.is_empty()).collect()
    }

    fn annotations(&self, group: &Group, silent: i64) -> BTreeMap<String, String> {
        let data = self.template_data(group, silent);
        self.annotations.iter().map(|(name, text)| (name.clone(), text.render(&data))).collect()
    }
}

fn seconds(micros: i64) -> f64 {
    (micros / 1_000) as f64 / 1e3
}

impl Absences {
    /// All that is expected counts as seen now.
    pub fn new(pipeline: &str, plans: Vec<Absence>) -> Self {
        let rule = |plan: Absence| {
            let followed = plan.always().into_iter().map(|group| (group, Followed { seen: 0, firing: None })).collect();
            Rule { plan, followed }
        };
        Self {
            pipeline: pipeline.to_owned(),
            rules: plans.into_iter().map(rule).collect(),
            quiet: 0,
            group_cap: limits::GROUPS_PER_WINDOW,
            overflow_total: 0,
            changed: false,
        }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Records of this source were read.
    pub fn saw_source(&mut self, source: &str) {
        for rule in &mut self.rules {
            if matches!(&rule.plan.target, Target::Source(name) if name == source) {
                rule.followed.values_mut().for_each(|followed| followed.seen = self.quiet);
            }
        }
    }

    /// Records of these groups of a window were read.
    pub fn saw_groups(&mut self, window: &str, groups: &[Vec<String>]) {
        let Self { rules, quiet, group_cap, overflow_total, .. } = self;
        for rule in rules.iter_mut().filter(|rule| rule.plan.window().is_some_and(|name| **name == *window)) {
            for group in groups {
                if let Some(followed) = rule.followed.get_mut(group) {
                    followed.seen = *quiet;
                } else if rule.plan.follows_new() && rule.followed.len() < *group_cap {
                    rule.followed.insert(group.clone(), Followed { seen: *quiet, firing: None });
                } else {
                    *overflow_total += u64::from(rule.plan.follows_new());
                }
            }
        }
    }

    /// It is `now`, and for another `quiet` nothing waited to be read. Returns what fires, and what is resolved: rules in their order,
    /// groups in theirs.
    pub fn tick(&mut self, now: EventTime, quiet: Span) -> Vec<AlertEvent> {
        self.quiet += quiet.micros().max(0);
        let mut events = Vec::new();
        for Rule { plan, followed } in &mut self.rules {
            let quiet = self.quiet;
            followed.retain(|group, followed| {
                let silent = quiet - followed.seen;
                let forgotten = plan.follows_new() && silent >= plan.forget_after;
                match &followed.firing {
                    None if silent >= plan.absent_for && !forgotten => {
                        let labels = plan.labels(group, silent);
                        events.push(event(&self.pipeline, plan, group, &labels, (silent, now), (now.micros(), None)));
                        followed.firing = Some(Firing { starts_at: now.micros(), labels });
                    }
                    Some(Firing { starts_at, labels }) if silent < plan.absent_for || forgotten => {
                        // The time of day may have been set back.
                        let ends_at = now.micros().max(*starts_at);
                        let times = (*starts_at, Some(ends_at));
                        events.push(event(&self.pipeline, plan, group, labels, (silent, now), times));
                        followed.firing = None;
                    }
                    _ => {}
                }
                !forgotten
            });
        }
        self.changed |= !events.is_empty();
        events
    }

    /// All that fire.
    pub fn active(&self) -> impl Iterator<Item = ActiveAlert> + '_ {
        self.rules.iter().flat_map(|Rule { plan, followed }| {
            followed.iter().filter_map(|(group, followed)| {
                let (silent, firing) = (self.quiet - followed.seen, followed.firing.as_ref()?);
                Some(ActiveAlert {
                    labels: firing.labels.clone(),
                    annotations: plan.annotations(group, silent),
                    firing: true,
                    active_at: EventTime::from_micros(firing.starts_at),
                    value: Some(seconds(silent)),
                    sql: None,
                })
            })
        })
    }

    /// Whether something has begun or ceased to fire since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How many fire.
    pub fn firing(&self) -> usize {
        self.rules.iter().flat_map(|rule| rule.followed.values()).filter(|followed| followed.firing.is_some()).count()
    }

    /// How often a group was seen that could not be followed because a rule had [`limits::GROUPS_PER_WINDOW`].
    pub fn overflow_count(&self) -> u64 {
        self.overflow_total
    }

    /// All that is needed to go on after a restart: one part for each rule that follows something. Times are told from now back.
    pub fn save(&self) -> Vec<SavedPart> {
        let state = |followed: &Followed| {
            let seen = followed.seen - self.quiet;
            match &followed.firing {
                None => State::Pending { since: seen },
                Some(Firing { starts_at, labels }) => {
                    State::Firing { starts_at: *starts_at, last_true: seen, labels: labels.clone() }
                }
            }
        };
        let part = |Rule { plan, followed }: &Rule| {
            let states: BTreeMap<&Group, State> = followed.iter().map(|(group, f)| (group, state(f))).collect();
            SavedPart { name: plan.name.clone(), definition: plan.fingerprint, body: write(&states) }
        };
        self.rules.iter().filter(|rule| !rule.followed.is_empty()).map(part).collect()
    }

    /// Whether [`Self::save`] of a run with these rules has made this part.
    pub fn knows(&self, part: &SavedPart) -> bool {
        self.rules.iter().any(|rule| rule.plan.fingerprint == part.definition)
    }

    /// Reads the parts that are [known](Self::knows).
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(&self, saved: &[SavedPart]) -> Result<RestoringAbsences, Damaged> {
        let mut restoring = BTreeMap::new();
        for (number, rule) in self.rules.iter().enumerate() {
            let Some(part) = saved.iter().find(|part| part.definition == rule.plan.fingerprint) else { continue };
            let states: BTreeMap<Group, State> = read(&part.body)?;
            let past = |state: &State| match state {
                State::Pending { since: seen } | State::Firing { last_true: seen, .. } => *seen <= 0,
            };
            let sound = states.values().all(|state| state.is_sound() && past(state));
            Damaged::unless(sound, "an alert was seen at a time that cannot be")?;
            let columns = rule.plan.columns.len();
            let always = rule.plan.always();
            let known = states.len() <= self.group_cap.max(always.len())
                && states.keys().all(|group| group.len() == columns)
                && (rule.plan.follows_new() || always.iter().eq(states.keys()));
            Damaged::unless(known, "an alert has groups that its rule cannot have")?;
            restoring.insert(number, states);
        }
        Ok(RestoringAbsences(restoring))
    }

    /// Goes on where the earlier run was: the time in between doesn't count.
    pub fn resume(&mut self, restoring: RestoringAbsences) {
        for (number, states) in restoring.0 {
            let quiet = self.quiet;
            let followed = |state| match state {
                State::Pending { since } => Followed { seen: quiet + since, firing: None },
                State::Firing { starts_at, last_true, labels } => {
                    Followed { seen: quiet + last_true, firing: Some(Firing { starts_at, labels }) }
                }
            };
            self.rules[number].followed = states.into_iter().map(|(group, state)| (group, followed(state))).collect();
        }
        self.changed = true;
    }
}

/// A change of state, of what has been silent for so long at this time of day; with its beginning and its end.
fn event(
    pipeline: &str,
    plan: &Absence,
    group: &Group,
    labels: &BTreeMap<String, String>,
    (silent, now): (i64, EventTime),
    (starts_at, ends_at): (i64, Option<i64>),
) -> AlertEvent {
    let status = if ends_at.is_some() { AlertStatus::Resolved } else { AlertStatus::Firing };
    AlertEvent {
        id: id(pipeline, labels, status, starts_at, ends_at),
        pipeline: pipeline.to_owned(),
        status,
        labels: labels.clone(),
        annotations: plan.annotations(group, silent),
        values: [(SECONDS.to_owned(), seconds(silent).into())].into(),
        window_start: now - Span::from_micros(silent),
        window_end: now,
        starts_at: EventTime::from_micros(starts_at),
        ends_at: ends_at.map(EventTime::from_micros),
    }
}
