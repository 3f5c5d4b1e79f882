//! What a pipeline has to remember between two seals: positions, counts, and alert events on their way. Pure.
//!
//! An alert event goes to its receivers only when it is in a seal: then no crash can make it unsaid, and what is told again
//! after a crash has the same id. It stays in the *outbox*, which is part of each seal's state, until its receivers have
//! it; the seal after that says so. What a start finds in the outbox is sent (again).
//!
//! Some receivers forget what they are not told again. Of what they have, the firing alerts *stand* in the state, too, until they
//! are resolved, so that a later run can go on telling them.

use crate::archive::{Identified, Sealing};
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::source::PartitionName;
use crate::time::EventTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// An alert event on its way, and who has not said yet that they have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    pub event: AlertEvent,
    /// Indices of receivers, in the order of the pipeline's.
    pub to: Vec<usize>,
}

#[derive(Debug)]
struct Waiting {
    /// Counts up from the first event of this run.
    number: u64,
    outgoing: Outgoing,
    sent: bool,
}

/// An outbox that this version cannot read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the alert events that were kept with the newest seal: {0}")]
pub struct OutboxError(String);

/// Names the events that one seal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// The books of one running pipeline.
#[derive(Debug, Default)]
pub struct Books {
    receivers: Vec<String>,
    checkpoint: Checkpoint,
    identified: Vec<Identified>,
    records: u64,
    filtered: u64,
    /// By number. A receiver may hold an event for days, and those behind it go.
    outbox: VecDeque<Waiting>,
    /// The next event's number.
    next: u64,
    /// Number of the first event that is in no seal.
    unsealed: u64,
    /// Whether events were delivered since the last seal.
    delivered: bool,
    /// Receivers that have to be told again.
    repeating: Vec<usize>,
    /// Firing alerts that those of them have that are named.
    standing: Vec<Outgoing>,
}

impl Books {
    /// Books of a pipeline with these receivers that goes on at `checkpoint`.
    pub fn new(receivers: Vec<String>, checkpoint: Checkpoint) -> Self {
        Self { receivers, checkpoint, ..Self::default() }
    }

    /// Names the receivers that have to be told again. To be called before [`Self::restore`].
    pub fn repeat_to(&mut self, receivers: Vec<usize>) {
        self.repeating = receivers;
    }

    /// Firing alerts that receivers have and have to be told again.
    pub fn standing(&self) -> &[Outgoing] {
        &self.standing
    }

    /// The alert has no rule any more that could resolve it.
    pub fn abandon(&mut self, labels: &BTreeMap<String, String>, starts_at: EventTime) {
        self.standing.retain(|Outgoing { event, .. }| event.labels != *labels || event.starts_at != starts_at);
    }

    /// Takes up the outbox of an earlier run's last seal, and returns the rest of that state. Its events are due at once. One for a receiver
    /// that is no more goes to the others only.
    ///
    /// # Errors
    /// When `state` is none that [`Self::sealing`] made.
    pub fn restore<'s>(&mut self, state: &'s [u8]) -> Result<(Vec<Outgoing>, &'s [u8]), OutboxError> {
        if state.is_empty() {
            return Ok((Vec::new(), state));
        }
        let (outbox, flow) = parts(state)?;
        let outbox: Vec<Saved> = serde_json::from_slice(outbox).map_err(|error| OutboxError(error.to_string()))?;
        for mut saved in outbox {
            let names = std::mem::take(&mut saved.standing);
            let mut outgoing = saved.restore(&self.receivers);
            if !outgoing.to.is_empty() {
                self.put(outgoing.clone(), true);
            }
            let indices = names.iter().filter_map(|name| self.receivers.iter().position(|receiver| receiver == name));
            outgoing.to = indices.filter(|index| self.repeating.contains(index)).collect();
            if !outgoing.to.is_empty() {
                self.standing.push(outgoing);
            }
        }
        self.unsealed = self.next;
        Ok((self.outbox.iter().map(|waiting| waiting.outgoing.clone()).collect(), flow))
    }

    /// What a seal's state, which may be another daemon's, has of its flow.
    ///
    /// # Errors
    /// When `state` is none that [`Self::sealing`] made.
    pub(super) fn flow_of<'s>(&self, state: &'s [u8]) -> Result<&'s [u8], OutboxError> {
        if state.is_empty() { Ok(state) } else { parts(state).map(|(_, flow)| flow) }
    }

    /// Records of a partition were worked off, up to the one that starts at `end`.
    pub fn read(&mut self, name: &PartitionName, end: u64, records: u64, filtered: u64) {
        self.checkpoint.set(PartitionPosition {
            source: name.source.to_string(),
            partition: name.partition.clone(),
            identity: name.identity.clone(),
            position: end,
        });
        self.records += records;
        self.filtered += filtered;
    }

    /// A partition's identity says more by now; it is the same partition.
    pub fn identify(&mut self, name: &PartitionName, identity: &str) {
        self.checkpoint.identify(&name.source, &name.partition, &name.identity, identity);
        self.identified.push(Identified {
            source: name.source.to_string(),
            partition: name.partition.clone(),
            before: name.identity.clone(),
            after: identity.to_owned(),
        });
    }

    /// Nobody will ask for the partition's position again.
    pub fn forget(&mut self, name: &PartitionName) {
        self.checkpoint.forget(&name.source, &name.partition, &name.identity);
    }

    /// Puts an event into the outbox.
    pub fn alert(&mut self, event: AlertEvent, to: Vec<usize>) {
        if !to.is_empty() {
            self.put(Outgoing { event, to }, false);
        }
    }

    fn put(&mut self, outgoing: Outgoing, sent: bool) {
        self.outbox.push_back(Waiting { number: self.next, outgoing, sent });
        self.next += 1;
    }

    /// Whether events wait for a seal: to be sent, or to be forgotten.
    pub fn wants_seal(&self) -> bool {
        self.delivered || self.next > self.unsealed
    }

    /// What the next seal shall say, with the state of the flow. The ticket is for when it is done.
    pub fn sealing(&mut self, watermark: Option<EventTime>, flow: &[u8]) -> (Ticket, Sealing) {
        let through = self.next;
        self.unsealed = through;
        self.delivered = false;
        let sealing = Sealing {
            checkpoint: self.checkpoint.clone(),
            watermark,
            state: self.state(flow),
            parts: Vec::new(),
            identified: std::mem::take(&mut self.identified),
            records: std::mem::take(&mut self.records),
            filtered: std::mem::take(&mut self.filtered),
            at: None,
        };
        (Ticket(through), sealing)
    }

    fn state(&self, flow: &[u8]) -> Vec<u8> {
        if self.outbox.is_empty() && self.standing.is_empty() && flow.is_empty() {
            return Vec::new();
        }
        let save = |waiting: &Waiting| Saved::of(&waiting.outgoing, &self.receivers);
        let stand = |outgoing: &Outgoing| {
            let mut saved = Saved::of(outgoing, &self.receivers);
            saved.standing = std::mem::take(&mut saved.to);
            saved
        };
        let saved: Vec<Saved> = self.outbox.iter().map(save).chain(self.standing.iter().map(stand)).collect();
        let outbox = serde_json::to_vec(&saved).expect("events are JSON");
        let length = (outbox.len() as u64).to_le_bytes();
        [&length, outbox.as_slice(), flow].concat()
    }

    /// A seal is done: its events may be sent now, in this order.
    pub fn sealed(&mut self, Ticket(through): Ticket) -> Vec<Outgoing> {
        let sealed = self.outbox.iter_mut().take_while(|waiting| waiting.number < through);
        let unsent = sealed.filter(|waiting| !waiting.sent);
        unsent
            .map(|waiting| {
                waiting.sent = true;
                waiting.outgoing.clone()
            })
            .collect()
    }

    /// A receiver has an event, or will never take it.
    pub fn delivered(&mut self, receiver: usize, id: &str) {
        let its = |waiting: &Waiting| waiting.outgoing.event.id == id && waiting.outgoing.to.contains(&receiver);
        let Some(at) = self.outbox.iter().position(its) else { return };
        let waiting = &mut self.outbox[at];
        waiting.outgoing.to.retain(|to| *to != receiver);
        self.delivered = true;
        if self.repeating.contains(&receiver) {
            stand(&mut self.standing, &waiting.outgoing.event, receiver);
        }
        if self.outbox[at].outgoing.to.is_empty() {
            self.outbox.remove(at);
        }
    }
}

/// What `receiver` has by now, after this event.
fn stand(standing: &mut Vec<Outgoing>, event: &AlertEvent, receiver: usize) {
    let of = |other: &AlertEvent| other.labels == event.labels && other.starts_at == event.starts_at;
    match (event.status, standing.iter_mut().find(|outgoing| of(&outgoing.event))) {
        (AlertStatus::Firing, Some(known)) if known.to.contains(&receiver) => {}
        (AlertStatus::Firing, Some(known)) => known.to.push(receiver),
        (AlertStatus::Firing, None) => standing.push(Outgoing { event: event.clone(), to: vec![receiver] }),
        (AlertStatus::Resolved, Some(known)) => {
            known.to.retain(|to| *to != receiver);
            standing.retain(|outgoing| !outgoing.to.is_empty());
        }
        (AlertStatus::Resolved, None) => {}
    }
}

/// The outbox in a seal's state, and what is behind it.
fn parts(state: &[u8]) -> Result<(&[u8], &[u8]), OutboxError> {
    let short = || OutboxError("it is cut off".to_owned());
    let (length, rest) = state.split_at_checked(8).ok_or_else(short)?;
    let length = u64::from_le_bytes(length.try_into().expect("these are eight bytes"));
    usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)).ok_or_else(short)
}

/// An event as it is kept: floating-point numbers bit by bit, for a text may come back as a neighbour.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    id: String,
    pipeline: String,
    firing: bool,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    values: BTreeMap<String, SavedValue>,
    /// In µs since 1970, as those below.
    window_start: i64,
    window_end: i64,
    starts_at: i64,
    ends_at: Option<i64>,
    to: Vec<String>,
    /// Receivers that have it and have to be told again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    standing: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedValue {
    Float(u64),
    Other(serde_json::Value),
}

impl Saved {
    fn of(Outgoing { event, to }: &Outgoing, receivers: &[String]) -> Self {
        let value = |value: &serde_json::Value| match value.as_f64().filter(|_| value.is_f64()) {
            Some(float) => SavedValue::Float(float.to_bits()),
            None => SavedValue::Other(value.clone()),
        };
        Self {
            id: event.id.clone(),
            pipeline: event.pipeline.clone(),
            firing: event.status == AlertStatus::Firing,
            labels: event.labels.clone(),
            annotations: event.annotations.clone(),
            values: event.values.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
            window_start: event.window_start.micros(),
            window_end: event.window_end.micros(),
            starts_at: event.starts_at.micros(),
            ends_at: event.ends_at.map(EventTime::micros),
            to: to.iter().filter_map(|index| receivers.get(*index).cloned()).collect(),
            standing: Vec::new(),
        }
    }

    fn restore(self, receivers: &[String]) -> Outgoing {
        let value = |value| match value {
            SavedValue::Float(bits) => f64::from_bits(bits).into(),
            SavedValue::Other(value) => value,
        };
        let index = |name: &String| receivers.iter().position(|receiver| receiver == name);
        Outgoing {
            to: self.to.iter().filter_map(index).collect(),
            event: AlertEvent {
                id: self.id,
                pipeline: self.pipeline,
                status: if self.firing { AlertStatus::Firing } else { AlertStatus::Resolved },
                labels: self.labels,
                annotations: self.annotations,
                values: self.values.into_iter().map(|(name, v)| (name, value(v))).collect(),
                window_start: EventTime::from_micros(self.window_start),
                window_end: EventTime::from_micros(self.window_end),
                starts_at: EventTime::from_micros(self.starts_at),
                ends_at: self.ends_at.map(EventTime::from_micros),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> AlertEvent {
        let at = EventTime::from_micros;
        AlertEvent {
            id: id.to_owned(),
            pipeline: "p".to_owned(),
            status: AlertStatus::Resolved,
            labels: [("path".to_owned(), "/x".to_owned())].into(),
            annotations: BTreeMap::new(),
            values: [
                ("rate".to_owned(), 0.1f64.next_up().into()),
                ("n".to_owned(), 3.into()),
                ("x".to_owned(), serde_json::Value::Null),
            ]
            .into(),
            window_start: at(1),
            window_end: at(2),
            starts_at: at(3),
            ends_at: Some(at(4)),
        }
    }

    fn ids(outgoing: &[Outgoing]) -> Vec<&str> {
        outgoing.iter().map(|outgoing| outgoing.event.id.as_str()).collect()
    }

    fn books() -> Books {
        Books::new(vec!["ops".to_owned(), "page".to_owned()], Checkpoint::default())
    }

    #[test]
    fn an_event_is_sent_behind_its_seal_and_forgotten_behind_its_delivery() {
        let mut books = books();
        books.alert(event("a"), vec![0, 1]);
        assert!(books.wants_seal());
        let (first, _) = books.sealing(None, b"");
        books.alert(event("b"), vec![1]);
        assert!(books.wants_seal(), "b came behind the seal");
        assert_eq!(ids(&books.sealed(first)), ["a"]);
        let (second, sealing) = books.sealing(None, b"flow");
        assert_eq!(ids(&books.sealed(second)), ["b"], "nothing is sent twice");
        books.delivered(0, "a");
        assert!(books.wants_seal());
        books.delivered(1, "b");
        let (_, later) = books.sealing(None, b"flow");

        let mut next = self::books();
        let (due, flow) = next.restore(&sealing.state).unwrap();
        assert_eq!((ids(&due), flow), (vec!["a", "b"], &b"flow"[..]));
        assert_eq!(due[0].event, event("a"), "to the last bit");
        assert!(!next.wants_seal());
        let mut next = Books::new(vec!["page".to_owned()], Checkpoint::default());
        let (due, _) = next.restore(&later.state).unwrap();
        assert_eq!(due, [Outgoing { event: event("a"), to: vec![0] }]);
        next.delivered(0, "a");
        assert_eq!(next.sealing(None, b"").1.state, b"");
    }

    #[test]
    fn one_that_is_held_keeps_none_behind_it() {
        let mut books = books();
        books.alert(event("held"), vec![0]);
        for number in 0..100 {
            let id = number.to_string();
            books.alert(event(&id), vec![0, 1]);
            let (ticket, _) = books.sealing(None, b"");
            assert_eq!(books.sealed(ticket).last().map(|sent| sent.event.id.clone()), Some(id.clone()));
            books.delivered(0, &id);
            books.delivered(1, &id);
        }
        let (_, sealing) = books.sealing(None, b"");
        assert_eq!(ids(&self::books().restore(&sealing.state).unwrap().0), ["held"]);
    }

    #[test]
    fn what_a_forgetful_receiver_has_stands_until_it_is_resolved() {
        let fires = || AlertEvent { status: AlertStatus::Firing, ends_at: None, ..event("fires") };
        let restored = |state: &[u8]| {
            let mut next = self::books();
            next.repeat_to(vec![1]);
            let (due, flow) = next.restore(state).map(|(due, flow)| (due, flow.to_vec())).unwrap();
            (next, due, flow)
        };
        let mut books = books();
        books.repeat_to(vec![1]);
        books.alert(fires(), vec![0, 1]);
        books.delivered(0, "fires");
        assert!(books.standing().is_empty(), "that one remembers");
        books.delivered(1, "fires");
        assert!(books.wants_seal());
        let (mut next, due, flow) = restored(&books.sealing(None, b"flow").1.state);
        assert_eq!((due, flow.as_slice()), (Vec::new(), &b"flow"[..]));
        assert_eq!(next.standing(), [Outgoing { event: fires(), to: vec![1] }], "to the last bit");
        next.alert(event("over"), vec![0, 1]);
        next.delivered(1, "over");
        assert!(next.standing().is_empty());

        let (mut abandoned, ..) = restored(&books.sealing(None, b"").1.state);
        abandoned.abandon(&event("").labels, event("").starts_at);
        assert!(abandoned.standing().is_empty());
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let mut books = books();
        books.alert(event("a"), vec![0]);
        let (_, sealing) = books.sealing(None, b"");
        for length in 1..sealing.state.len() {
            assert!(self::books().restore(&sealing.state[..length]).is_err(), "{length}");
        }
    }
}
