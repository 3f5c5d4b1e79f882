//! Pending and firing alerts ⇄ bytes, to go on after a restart.

use super::engine::{Alerts, Group, Rule, State};
use crate::record::state::{Damaged, SavedPart, read, write};
use crate::time::EventTime;
use std::collections::BTreeMap;

/// A firing alert whose rule is gone or is not what it was. Nothing evaluates it any more, so it is never resolved; a
/// receiver has to be told by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// The rule's name.
    pub alert: String,
    /// Those under which it fired.
    pub labels: BTreeMap<String, String>,
    /// When it began to fire.
    pub starts_at: EventTime,
}

/// What became of an earlier run's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Names of rules that are gone, or not what they were, and that had groups pending or firing.
    pub dropped: Vec<String>,
    /// Their firing alerts.
    pub abandoned: Vec<Abandoned>,
}

/// State of an earlier run that was read and found to be sound.
#[derive(Debug)]
pub struct Restoring {
    /// By number of the rule.
    states: BTreeMap<usize, BTreeMap<Group, State>>,
    resumed: Resumed,
}

/// Writes down the rules that have groups pending or firing.
pub(super) fn save(rules: &[Rule]) -> Vec<SavedPart> {
    let holding = rules.iter().filter(|rule| !rule.states.is_empty());
    let part = |rule: &Rule| SavedPart {
        name: rule.plan.name.clone(),
        definition: rule.plan.fingerprint,
        body: write(&rule.states),
    };
    holding.map(part).collect()
}

impl Restoring {
    pub(super) fn read(alerts: &Alerts, saved: &[SavedPart]) -> Result<Self, Damaged> {
        let mut restoring = Self { states: BTreeMap::new(), resumed: Resumed::default() };
        for part in saved {
            let states: BTreeMap<Group, State> = read(&part.body)?;
            let sound = states.values().all(State::is_sound);
            Damaged::unless(sound, "an alert has a time that no window ends at")?;
            match alerts.rules.iter().position(|rule| rule.plan.fingerprint == part.definition) {
                Some(number) => {
                    let columns = alerts.rules[number].plan.group_by.len();
                    let sound = states.len() <= alerts.group_cap && states.keys().all(|group| group.len() == columns);
                    Damaged::unless(sound, "an alert has groups that its rule cannot have")?;
                    restoring.states.insert(number, states);
                }
                None => {
                    restoring.resumed.dropped.push(part.name.clone());
                    restoring.resumed.abandoned.extend(states.into_values().filter_map(|s| abandoned(&part.name, s)));
                }
            }
        }
        Ok(restoring)
    }

    pub(super) fn apply(self, rules: &mut [Rule]) -> Resumed {
        for (number, states) in self.states {
            rules[number].states = states;
            rules[number].shown.clear();
        }
        self.resumed
    }
}

fn abandoned(rule: &str, state: State) -> Option<Abandoned> {
    match state {
        State::Pending { .. } => None,
        State::Firing { starts_at, labels, .. } => {
            Some(Abandoned { alert: rule.to_owned(), labels, starts_at: EventTime::from_micros(starts_at) })
        }
    }
}
