//! [`Alerts`]: the states of all rules of a pipeline.

use super::active::{self, Shown};
use super::plan::{ALERTNAME, Plan};
use super::row::Row;
use super::saved::{self, Restoring, Resumed};
use super::templates::Text;
use crate::limits;
use crate::record::alert::{ActiveAlert, AlertEvent, AlertStatus};
use crate::record::sample::WindowRows;
use crate::record::state::{Damaged, SavedPart};
use crate::time::EventTime;
use arrow::array::BooleanArray;
use gotmpl::Value;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The values of a group's columns as texts. Null is the empty text: an alert has its labels for an identity, and to
/// Prometheus and Alertmanager an empty label is none.
pub(super) type Group = Vec<String>;

/// A group for which a rule is not inactive. Times are ends of windows, in µs.
///
/// It is saved as it is; another order of variants or fields needs another `topology::state::VERSION`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum State {
    Pending {
        since: i64,
    },
    /// The labels are kept, so that the alert is resolved under those under which it fired.
    Firing {
        starts_at: i64,
        last_true: i64,
        labels: BTreeMap<String, String>,
    },
}

impl State {
    /// Whether its times, if they were read from somewhere, can be compared with ends of windows without overflow.
    pub(super) fn is_sound(&self) -> bool {
        let near = |time: i64| time.unsigned_abs() <= 1 << 62;
        match self {
            Self::Pending { since } => near(*since),
            Self::Firing { starts_at, last_true, .. } => near(*starts_at) && near(*last_true),
        }
    }
}

/// What a window says of a group.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// Whether the condition is true.
    holds: bool,
    /// Whether a worse level of the same alert fires.
    outranked: bool,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) plan: Plan,
    pub(super) states: BTreeMap<Group, State>,
    /// Of groups that have a state.
    pub(super) shown: BTreeMap<Group, Shown>,
}

/// The alerts of one pipeline.
#[derive(Debug)]
pub struct Alerts {
    pipeline: String,
    pub(super) rules: Vec<Rule>,
    /// Most groups that one rule holds pending or firing.
    pub(super) group_cap: usize,
    overflow_total: u64,
    failed_total: u64,
    /// Whether [`Self::active`] may give something else than when it was asked last.
    changed: bool,
}

impl Alerts {
    /// Rules are evaluated in the order of `plans`.
    pub fn new(pipeline: &str, plans: Vec<Plan>) -> Self {
        let rules =
            plans.into_iter().map(|plan| Rule { plan, states: BTreeMap::new(), shown: BTreeMap::new() }).collect();
        let group_cap = limits::GROUPS_PER_WINDOW;
        Self { pipeline: pipeline.to_owned(), rules, group_cap, overflow_total: 0, failed_total: 0, changed: true }
    }

    /// Takes the rows of a closed window and returns the changes of state: rules in their order, rows in theirs.
    /// Windows of one name must come in the order of their ends.
    pub fn evaluate(&mut self, window: &WindowRows) -> Vec<AlertEvent> {
        let mut events = Vec::new();
        for number in 0..self.rules.len() {
            if self.rules[number].plan.window != window.window {
                continue;
            }
            let (before, rest) = self.rules.split_at_mut(number);
            let rule = &mut rest[0];
            let above = &before[number - rule.plan.above..];
            let (conditions, failed) = rule.plan.condition.evaluate_mask_lenient(&window.rows);
            self.failed_total += failed;
            for (group, at, holds) in verdicts(&rule.plan, window, &conditions) {
                if !rule.states.contains_key(&group) && rule.states.len() >= self.group_cap {
                    self.overflow_total += u64::from(holds);
                } else {
                    let row = Row { window, at };
                    self.changed |= holds || rule.states.contains_key(&group);
                    let fires = |rule: &Rule| matches!(rule.states.get(&group), Some(State::Firing { .. }));
                    let outranked = above.iter().any(fires);
                    events.extend(rule.step(&self.pipeline, group.clone(), row, Verdict { holds, outranked }));
                    rule.show(group, row, holds);
                }
            }
        }
        events
    }

    /// All that is needed to go on after a restart: one part for each rule with groups pending or firing.
    pub fn save(&self) -> Vec<SavedPart> {
        saved::save(&self.rules)
    }

    /// Reads what [`Self::save`] gave to an earlier run.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub fn read(&self, saved: &[SavedPart]) -> Result<Restoring, Damaged> {
        Restoring::read(self, saved)
    }

    /// Goes on where the earlier run was. To be called, with what was read for these rules, before any window is evaluated.
    pub fn resume(&mut self, restoring: Restoring) -> Resumed {
        restoring.apply(&mut self.rules)
    }

    /// All that are pending or firing, if that may have changed since the last call: rules in their order, groups in theirs.
    pub fn changed_active(&mut self) -> Option<Vec<ActiveAlert>> {
        self.take_changed().then(|| self.active().collect())
    }

    /// Whether [`Self::active`] may give something else than before the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All that are pending or firing.
    pub fn active(&self) -> impl Iterator<Item = ActiveAlert> + '_ {
        self.rules.iter().flat_map(active::of_rule)
    }

    /// How many alerts are pending, and how many are firing.
    pub fn counts(&self) -> (usize, usize) {
        let states = || self.rules.iter().flat_map(|rule| rule.states.values());
        let pending = states().filter(|state| matches!(state, State::Pending { .. })).count();
        (pending, states().count() - pending)
    }

    /// Rows so far whose condition was true and that were not followed because a rule had
    /// [`limits::GROUPS_PER_WINDOW`] groups pending or firing.
    pub fn overflow_count(&self) -> u64 {
        self.overflow_total
    }

    /// Conditions so far that could not be computed and counted as null.
    pub fn failed_count(&self) -> u64 {
        self.failed_total
    }
}

impl Rule {
    /// Keeps what is to be shown of `group` after this window.
    fn show(&mut self, group: Group, row: Row<'_>, holds: bool) {
        let labels = match self.states.get(&group) {
            None => {
                self.shown.remove(&group);
                return;
            }
            Some(_) if !holds => return,
            Some(State::Firing { labels, .. }) => labels.clone(),
            Some(State::Pending { .. }) => labels(&self.plan, &group, row),
        };
        self.shown.insert(group, Shown::of(&self.plan, labels, row));
    }

    /// Moves the state of `group` on by one window with this verdict.
    fn step(&mut self, pipeline: &str, group: Group, row: Row<'_>, verdict: Verdict) -> Option<AlertEvent> {
        let end = row.window.end.micros();
        let plan = &self.plan;
        let Verdict { holds, outranked } = verdict;
        match (self.states.get_mut(&group), holds) {
            (Some(State::Firing { starts_at, labels, .. }), _) if outranked => {
                let event = event(pipeline, plan, row, labels, *starts_at, Some(end));
                let since = *starts_at - plan.hold;
                self.states.remove(&group);
                if holds {
                    self.states.insert(group, State::Pending { since });
                }
                Some(event)
            }
            (Some(State::Firing { last_true, .. }), true) => {
                *last_true = end;
                None
            }
            (Some(State::Firing { starts_at, last_true, labels }), false) => {
                if end - *last_true < plan.keep_firing_for {
                    return None;
                }
                let event = event(pipeline, plan, row, labels, *starts_at, Some(end));
                self.states.remove(&group);
                Some(event)
            }
            (Some(State::Pending { .. }), false) => {
                self.states.remove(&group);
                None
            }
            (None, false) => None,
            (pending, true) => {
                let since = match pending {
                    Some(State::Pending { since }) => *since,
                    _ => end,
                };
                if end - since < plan.hold || outranked {
                    self.states.insert(group, State::Pending { since });
                    return None;
                }
                let labels = labels(plan, &group, row);
                let event = event(pipeline, plan, row, &labels, end, None);
                self.states.insert(group, State::Firing { starts_at: end, last_true: end, labels });
                Some(event)
            }
        }
    }
}

/// For each group its row and whether the condition holds there, in the order of the rows; nothing for null. Of rows
/// that are one group to an alert (null and the empty text) the first that holds counts, else the first.
fn verdicts(plan: &Plan, window: &WindowRows, conditions: &BooleanArray) -> Vec<(Group, usize, bool)> {
    let mut verdicts: Vec<(Group, usize, bool)> = Vec::new();
    let mut blank: BTreeMap<Group, usize> = BTreeMap::new();
    for (at, holds) in conditions.iter().enumerate().filter_map(|(at, holds)| Some((at, holds?))) {
        let row = Row { window, at };
        let group: Group = plan.group_by.iter().map(|column| row.text(column).unwrap_or_default()).collect();
        if group.iter().any(String::is_empty) {
            let number = *blank.entry(group.clone()).or_insert(verdicts.len());
            if let Some(known) = verdicts.get_mut(number) {
                if holds && !known.2 {
                    (known.1, known.2) = (at, true);
                }
                continue;
            }
        }
        verdicts.push((group, at, holds));
    }
    verdicts
}

/// Empty labels are left out: to Prometheus and Alertmanager, they are the same as none.
fn labels(plan: &Plan, group: &Group, row: Row<'_>) -> BTreeMap<String, String> {
    let data = row.template_data(plan);
    let own = plan.labels.iter().map(|(name, text)| (name.clone(), text.render(&data)));
    let groups = plan.group_by.iter().zip(group).map(|(name, value)| (name.clone(), value.clone()));
    let name = [(ALERTNAME.to_owned(), plan.name.clone())];
    own.chain(groups).chain(name).filter(|(_, value)| !value.is_empty()).collect()
}

fn event(
    pipeline: &str,
    plan: &Plan,
    row: Row<'_>,
    labels: &BTreeMap<String, String>,
    starts_at: i64,
    ends_at: Option<i64>,
) -> AlertEvent {
    let status = if ends_at.is_some() { AlertStatus::Resolved } else { AlertStatus::Firing };
    let data = row.template_data(plan);
    let render = |(name, text): &(String, Text), data: &Value| (name.clone(), text.render(data));
    AlertEvent {
        id: id(pipeline, labels, status, starts_at, ends_at),
        pipeline: pipeline.to_owned(),
        status,
        labels: labels.clone(),
        annotations: plan.annotations.iter().map(|annotation| render(annotation, &data)).collect(),
        values: plan.condition.columns().iter().map(|column| (column.clone(), row.json(column))).collect(),
        window_start: row.window.start,
        window_end: row.window.end,
        starts_at: EventTime::from_micros(starts_at),
        ends_at: ends_at.map(EventTime::from_micros),
    }
}

/// 32 hexadecimal digits over all that makes this change of state another than any other.
pub(super) fn id(
    pipeline: &str,
    labels: &BTreeMap<String, String>,
    status: AlertStatus,
    starts_at: i64,
    ends_at: Option<i64>,
) -> String {
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        // Lengths keep neighbours apart.
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    part(pipeline.as_bytes());
    part(&(labels.len() as u64).to_le_bytes());
    for (name, value) in labels {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(status.as_str().as_bytes());
    part(&starts_at.to_le_bytes());
    part(&ends_at.map(i64::to_le_bytes).map_or_else(Vec::new, |bytes| bytes.to_vec()));
    digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
