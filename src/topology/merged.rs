//! The windows and alerts of one partition of the topic through which daemons share windows. Pure.
//!
//! All that is here is a function of the partition's messages: who reads them, when and in how many runs doesn't matter. A
//! window closes when every source partition has come behind its end, by what the messages say, and an alert sees the rows
//! of its group one after the other, as all of one group is in one partition.

use super::state::{StateError, pack, unpack};
use crate::alert::{self, Alerts};
use crate::record::alert::AlertEvent;
use crate::record::partial::{Input, Partials};
use crate::record::sample::WindowRows;
use crate::record::state::{Damaged, SavedPart};
use crate::source::PartitionName;
use crate::time::EventTime;
use crate::time::watermark::{Standing, StreamClock};
use crate::window::{self, Windows};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A source partition, by source and name.
pub(super) type Name = (String, String);

/// What is made of the partials.
#[derive(Debug, Clone)]
pub(super) struct Definitions {
    /// The pipeline's name, as alerts have it.
    pub(super) pipeline: String,
    pub(super) windows: Vec<window::Plan>,
    pub(super) alerts: Vec<alert::Plan>,
    /// The source partitions that are known: windows wait for each of them.
    pub(super) inputs: Vec<Name>,
}

impl Definitions {
    /// Whether the partition is read, by somebody. One with a number may be newer than what is known of its topic; one with a
    /// name is one that the pipeline file names.
    fn reads(&self, (source, partition): &Name) -> bool {
        let numbered = |partition: &str| {
            let (topic, number) = partition.split_once('/')?;
            number.parse::<u32>().ok().map(|_| topic.to_owned())
        };
        let topic = numbered(partition);
        self.inputs.iter().any(|input| {
            input.0 == *source && (input.1 == *partition || (topic.is_some() && numbered(&input.1) == topic))
        })
    }
}

/// What of a source partition was merged.
#[derive(Debug)]
struct Known {
    /// Its number in the clock.
    number: usize,
    /// Up to where; `None` before the first record.
    position: Option<u64>,
}

/// Windows and alerts over all source partitions, for the groups of one partition of the topic.
#[derive(Debug)]
pub(super) struct Merged {
    windows: Windows,
    alerts: Alerts,
    clock: StreamClock,
    inputs: BTreeMap<Name, Known>,
    /// Seals of which some messages were merged and others are still to come, by the first stretch: the next message.
    begun: BTreeMap<(Name, u64), u32>,
}

/// What became of a message.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) alerts: Vec<AlertEvent>,
    /// All of it was merged before.
    pub(super) repeated: bool,
    /// Records of these source partitions are missing, as messages are.
    pub(super) missing: Vec<Name>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    reading: Option<i64>,
    inputs: Vec<SavedInput>,
    begun: Vec<((Name, u64), u32)>,
    windows: Vec<SavedPart>,
    alerts: Vec<SavedPart>,
}

#[derive(Serialize, Deserialize)]
struct SavedInput {
    name: Name,
    position: Option<u64>,
    largest: Option<i64>,
    idle: bool,
}

/// Whether it is a message's turn.
enum Turn {
    /// It is new.
    Next,
    /// It is known.
    Repeated,
    /// Others come before it.
    Early,
}

impl Merged {
    /// Without anything merged.
    pub(super) fn new(definitions: &Definitions) -> Self {
        let mut merged = Self {
            windows: Windows::new(definitions.windows.clone()),
            alerts: Alerts::new(&definitions.pipeline, definitions.alerts.clone()),
            clock: StreamClock::default(),
            inputs: BTreeMap::new(),
            begun: BTreeMap::new(),
        };
        merged.await_all(&definitions.inputs);
        merged
    }

    /// Goes on with what [`Self::save`] gave.
    ///
    /// # Errors
    /// When it is damaged, or of another version.
    pub(super) fn restore(
        definitions: &Definitions,
        bytes: &[u8],
    ) -> Result<(Self, window::Resumed, alert::Resumed), StateError> {
        let saved: Saved = unpack(bytes)?;
        let time = |micros: Option<i64>| micros.map(EventTime::from_micros);
        let mut merged = Self::new(&Definitions { inputs: Vec::new(), ..definitions.clone() });
        merged.clock = StreamClock::resume(time(saved.reading), None);
        for SavedInput { name, position, largest, idle } in saved.inputs {
            // Of a source or a topic that is read no longer nothing will come. What was merged of it stays known.
            let idle = idle || !definitions.reads(&name);
            let number = merged.clock.rejoin(Standing { largest: time(largest), idle });
            merged.inputs.insert(name, Known { number, position });
        }
        merged.await_all(&definitions.inputs);
        merged.begun = saved.begun.into_iter().collect();
        let windows = merged.windows.read(&saved.windows, merged.clock.newest())?;
        let alerts = merged.alerts.read(&saved.alerts)?;
        let (windows, alerts) = (merged.windows.resume(windows), merged.alerts.resume(alerts));
        Ok((merged, windows, alerts))
    }

    /// All that results depend on. Equal states are equal bytes.
    ///
    /// # Errors
    /// When it is too large to be kept.
    pub(super) fn save(&self) -> Result<Vec<u8>, StateError> {
        let input = |(name, known): (&Name, &Known)| {
            let standing = self.clock.standing(known.number);
            SavedInput {
                name: name.clone(),
                position: known.position,
                largest: standing.and_then(|standing| standing.largest).map(EventTime::micros),
                idle: standing.is_some_and(|standing| standing.idle),
            }
        };
        pack(&Saved {
            reading: self.clock.now().map(EventTime::micros),
            inputs: self.inputs.iter().map(input).collect(),
            begun: self.begun.iter().map(|(first, next)| (first.clone(), *next)).collect(),
            windows: self.windows.save(),
            alerts: self.alerts.save(),
        })
    }

    /// Merges a message, unless it was merged before.
    ///
    /// # Errors
    /// When what was gathered cannot be read, or is of records of which some were merged and others not; nothing has changed then.
    pub(super) fn merge(&mut self, partials: &Partials) -> Result<Outcome, Damaged> {
        let mut outcome = Outcome::default();
        match self.look_up(partials)? {
            Turn::Next => {}
            Turn::Repeated | Turn::Early => {
                outcome.repeated = true;
                return Ok(outcome);
            }
        }
        let gathered = self.windows.read_gathered(&partials.windows)?;
        let newest = partials.inputs.iter().filter_map(|input| input.largest).max().map(EventTime::from_micros);
        self.windows.merge(gathered, newest);
        if let Some(first) = first_of(partials) {
            if partials.chunk + 1 < partials.chunks {
                self.begun.insert(first, partials.chunk + 1);
                return Ok(outcome);
            }
            self.begun.remove(&first);
        }
        outcome.missing = self.follow(&partials.inputs);
        if !outcome.missing.is_empty() {
            // What is missing is not newer than what is there, so far as anybody knows.
            newest.into_iter().for_each(|newest| self.windows.provisional_through(newest));
        }
        outcome.alerts = self.advance();
        Ok(outcome)
    }

    /// All messages are there: closes the windows that are next in event time. `None` when all are closed.
    pub(super) fn finish_next(&mut self) -> Option<Vec<AlertEvent>> {
        let closed = self.windows.finish_next();
        (!closed.is_empty()).then(|| self.evaluate(&closed))
    }

    pub(super) fn windows(&self) -> &Windows {
        &self.windows
    }

    pub(super) fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// As [`Alerts::take_changed`].
    pub(super) fn take_changed(&mut self) -> bool {
        self.alerts.take_changed()
    }

    /// Window results that are not stored yet; they count as stored from now on.
    pub(super) fn drain(&mut self) -> Vec<WindowRows> {
        self.windows.drain()
    }

    /// The event-time clock's reading.
    pub(super) fn now(&self) -> Option<EventTime> {
        self.clock.now()
    }

    fn look_up(&self, partials: &Partials) -> Result<Turn, Damaged> {
        let known = |input: &Input| {
            let (start, end) = input.stretch()?;
            let known = self.inputs.get(&(input.source.clone(), input.partition.clone()));
            Some((known.and_then(|known| known.position), start, end))
        };
        let stretches: Vec<_> = partials.inputs.iter().filter_map(known).collect();
        let is_known = |(position, _, end): &(Option<u64>, Option<u64>, u64)| position.is_some_and(|p| p >= *end);
        let repeated = stretches.iter().filter(|stretch| is_known(stretch)).count();
        // A seal is merged as a whole, so whatever is known of it is all of it.
        Damaged::unless(repeated == 0 || repeated == stretches.len(), "some of its records are merged and others not")?;
        let overlaps = |(position, start, _): &(Option<u64>, Option<u64>, u64)| *position > *start;
        Damaged::unless(repeated > 0 || !stretches.iter().any(overlaps), "some of its records are merged already")?;
        let next = first_of(partials).and_then(|first| self.begun.get(&first).copied()).unwrap_or(0);
        Ok(match partials.chunk.cmp(&next) {
            _ if repeated > 0 => Turn::Repeated,
            std::cmp::Ordering::Less => Turn::Repeated,
            std::cmp::Ordering::Equal => Turn::Next,
            std::cmp::Ordering::Greater => Turn::Early,
        })
    }

    /// Moves source partitions on. Returns those of which records before these are missing.
    fn follow(&mut self, inputs: &[Input]) -> Vec<Name> {
        let name = |input: &Input| (input.source.clone(), input.partition.clone());
        let mut missing = Vec::new();
        // All of them are waited for again before any of them moves the clock, and silence comes last: the clock must not run
        // ahead of one that is named behind another.
        for input in inputs.iter().filter(|input| input.stretch().is_some()) {
            let number = self.know(&name(input)).number;
            self.clock.set_active(number);
        }
        for (input, (start, end)) in inputs.iter().filter_map(|input| Some((input, input.stretch()?))) {
            let Known { number, position } = *self.know(&name(input));
            if start != position {
                missing.push(name(input));
            }
            self.clock.observe(number, input.largest.map(EventTime::from_micros), |_| {});
            self.inputs.insert(name(input), Known { number, position: Some(end) });
            self.begun.retain(|(of, last), _| *of != name(input) || *last > end);
        }
        for input in inputs.iter().filter(|input| input.idle) {
            let Known { number, position } = *self.know(&name(input));
            // Silence is behind a position: of an older one it says nothing.
            if input.end == position {
                self.clock.set_idle(number);
            }
        }
        missing
    }

    /// Windows wait for these source partitions, whether or not anything was heard of them.
    fn await_all(&mut self, names: &[Name]) {
        for name in names {
            self.know(name);
        }
    }

    fn know(&mut self, name: &Name) -> &Known {
        let Self { inputs, clock, .. } = self;
        inputs.entry(name.clone()).or_insert_with(|| Known { number: clock.register(), position: None })
    }

    fn advance(&mut self) -> Vec<AlertEvent> {
        let Some(now) = self.clock.now() else { return Vec::new() };
        let closed = self.windows.advance(now);
        self.evaluate(&closed)
    }

    fn evaluate(&mut self, closed: &[WindowRows]) -> Vec<AlertEvent> {
        closed.iter().flat_map(|window| self.alerts.evaluate(window)).collect()
    }
}

/// What names the seal that a message is of.
fn first_of(partials: &Partials) -> Option<(Name, u64)> {
    let first = partials.inputs.iter().find(|input| input.stretch().is_some())?;
    Some(((first.source.clone(), first.partition.clone()), first.end?))
}

/// A source partition's name as windows wait for it.
pub(super) fn input_name(name: &PartitionName) -> Name {
    (name.source.to_string(), name.partition.clone())
}
