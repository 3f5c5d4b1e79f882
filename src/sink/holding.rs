//! What a receiver is to be told, and when: alerts are gathered into messages by `group_by`, and what is not told now is held. Pure.
//!
//! As Alertmanager: a group's first message waits for `group_wait`, so that what fails together is told together; later changes
//! wait until `group_interval` is over since the last message. Each change of state is in exactly one message, but for
//! repetitions that were asked for. An alert that fires while [`Quiet`] has a reason is held until that is over; when it is
//! resolved before that, neither is told.

use super::Route;
use super::quiet::Quiet;
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::time::clock::Monotonic;
use crate::time::{EventTime, Span};
use std::collections::{BTreeMap, HashMap};

/// Between two looks at what is held, while something is.
pub const LOOK: Span = Span::from_secs(1);

/// The times of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    wait: Span,
    interval: Span,
    repeat: Option<Span>,
}

impl Pace {
    /// Without `group_by`, all at once; with it, Alertmanager's defaults for what isn't said.
    fn of(route: &Route) -> Self {
        let or = |given: Option<Span>, seconds| match route.group_by {
            Some(_) => given.unwrap_or(Span::from_secs(seconds)),
            None => given.unwrap_or_default(),
        };
        Self { wait: or(route.group_wait, 30), interval: or(route.group_interval, 300), repeat: route.repeat_interval }
    }
}

/// Alerts that are told together.
#[derive(Debug, Default)]
struct Group {
    /// In the order in which they came.
    waiting: Vec<AlertEvent>,
    /// When the oldest of them came.
    since: Option<Monotonic>,
    /// When something was last told.
    sent: Option<Monotonic>,
    /// What fires and was told, where it is to be repeated.
    told: Vec<AlertEvent>,
}

/// What is to be told now.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// Changes of state, each by itself.
    Changes(Vec<AlertEvent>),
    /// A group's, in one message where the receiver can.
    Group(Vec<AlertEvent>),
    /// Alerts that go on firing.
    Again(Vec<AlertEvent>),
}

/// What one receiver has not been told yet.
#[derive(Debug)]
pub struct Holding {
    routes: Vec<Route>,
    quiet: Quiet,
    /// By the route's place and the values of its labels.
    groups: HashMap<(usize, Vec<String>), Group>,
    /// Whether the receiver wants to be told each change at once, whatever routes say.
    at_once: bool,
}

fn same(one: &AlertEvent, other: &AlertEvent) -> bool {
    one.labels == other.labels && one.starts_at == other.starts_at
}

impl Holding {
    pub fn new(routes: Vec<Route>, quiet: Quiet, at_once: bool) -> Self {
        Self { routes, quiet, groups: HashMap::new(), at_once }
    }

    fn place(&self, labels: &BTreeMap<String, String>) -> (usize, Vec<String>) {
        let at = super::route::first(&self.routes, labels).unwrap_or(self.routes.len());
        let values = |route: &Route| {
            let by = route.group_by.iter().flatten();
            by.map(|name| labels.get(name).cloned().unwrap_or_default()).collect()
        };
        (at, self.routes.get(at).map(values).unwrap_or_default())
    }

    fn pace(&self, route: usize) -> Pace {
        let at_once = Pace { wait: Span::default(), interval: Span::default(), repeat: None };
        match self.routes.get(route) {
            Some(route) if !self.at_once => Pace::of(route),
            _ => at_once,
        }
    }

    /// Takes a change of state. What comes back will never be told: an alert that began to fire and ended while there was a reason
    /// not to tell it, both changes of it.
    pub fn take(&mut self, event: AlertEvent, now: Monotonic, wall: EventTime) -> Vec<AlertEvent> {
        let place = self.place(&event.labels);
        let group = self.groups.entry(place).or_default();
        if event.status == AlertStatus::Resolved
            && let Some(at) = group.waiting.iter().position(|held| same(held, &event))
            && self.quiet.reason(&event.labels, wall).is_some()
        {
            return vec![group.waiting.remove(at), event];
        }
        group.since.get_or_insert(now);
        group.waiting.push(event);
        Vec::new()
    }

    /// An earlier run has told this, and it fires still.
    pub fn stand(&mut self, event: &AlertEvent, now: Monotonic) {
        let place = self.place(&event.labels);
        if self.pace(place.0).repeat.is_some() {
            let group = self.groups.entry(place).or_default();
            group.sent.get_or_insert(now);
            group.told.push(event.clone());
        }
    }

    /// The receiver has these.
    pub fn told(&mut self, events: &[AlertEvent]) {
        for event in events {
            let place = self.place(&event.labels);
            let repeats = self.pace(place.0).repeat.is_some();
            let group = self.groups.entry(place).or_default();
            group.told.retain(|known| !same(known, event));
            if repeats && event.status == AlertStatus::Firing {
                group.told.push(event.clone());
            }
        }
    }

    /// What is to be told now, message by message. With `all` nothing waits for others any more.
    pub fn due(&mut self, now: Monotonic, wall: EventTime, all: bool) -> Vec<Due> {
        let mut due = Vec::new();
        let mut places: Vec<(usize, Vec<String>)> = self.groups.keys().cloned().collect();
        places.sort_unstable();
        for place in places {
            let (pace, quiet) = (self.pace(place.0), &self.quiet);
            let grouped = !self.at_once && self.routes.get(place.0).is_some_and(|route| route.group_by.is_some());
            let Some(group) = self.groups.get_mut(&place) else { continue };
            let ready = |since: Monotonic| match group.sent {
                Some(sent) => now.since(sent) >= pace.interval,
                None => now.since(since) >= pace.wait,
            };
            if group.since.is_some_and(|since| all || ready(since)) {
                let told = group.pass(|event| quiet.reason(&event.labels, wall).is_none());
                if !told.is_empty() {
                    group.sent = Some(now);
                    due.push(if grouped { Due::Group(told) } else { Due::Changes(told) });
                }
            }
            let again = pace.repeat.is_some_and(|every| group.sent.is_some_and(|sent| now.since(sent) >= every));
            let over = |event: &AlertEvent| group.waiting.iter().any(|waiting| same(waiting, event));
            if again && !all {
                let fires = group.told.iter().filter(|e| !over(e) && quiet.reason(&e.labels, wall).is_none());
                let fires: Vec<AlertEvent> = fires.cloned().collect();
                if !fires.is_empty() {
                    group.sent = Some(now);
                    due.push(Due::Again(fires));
                }
            }
            // Kept until its interval is over, so that the next change waits for that.
            let rests = group.sent.is_none_or(|sent| now.since(sent) >= pace.interval);
            if group.waiting.is_empty() && group.told.is_empty() && rests {
                self.groups.remove(&place);
            }
        }
        due
    }

    /// Whether something waits, or is to be repeated.
    pub fn is_busy(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Changes that are held, and were not told.
    pub fn held(&self) -> usize {
        self.groups.values().map(|group| group.waiting.len()).sum()
    }
}

impl Group {
    /// Takes out what may be told: what `may` lets pass, and ends of what was told. Of an alert whose beginning is held all is.
    fn pass(&mut self, may: impl Fn(&AlertEvent) -> bool) -> Vec<AlertEvent> {
        let (mut told, mut held): (Vec<AlertEvent>, Vec<AlertEvent>) = (Vec::new(), Vec::new());
        for event in self.waiting.drain(..) {
            let behind_held = held.iter().any(|other| same(other, &event));
            if behind_held || (event.status == AlertStatus::Firing && !may(&event)) {
                held.push(event);
            } else {
                told.push(event);
            }
        }
        if held.is_empty() {
            self.since = None;
        }
        self.waiting = held;
        told
    }
}

#[cfg(test)]
#[path = "holding_tests.rs"]
mod tests;
