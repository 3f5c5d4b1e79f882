//! `watermark_by`: each producer of a partition is a partition of its own to the event-time clock.
//!
//! Several hosts whose clocks differ write into one file or topic. By the partition's largest event time the host that is ahead would make
//! the others' records late; so the least of its producers' counts. A producer that was silent for
//! [`limits::IDLE_AFTER`] isn't waited for, by the same quiet time as partitions, and after [`limits::PRODUCER_FORGOTTEN`] it is forgotten.
//!
//! The first record of a partition may be of the host whose clock is ahead. So a partition holds the clock until one of its producers has come
//! [`limits::IDLE_AFTER`] far in event time: by then everybody was heard who is waited for.
//!
//! How far a clock is off is told by how far a producer's stamps are ahead of the time at which its records were taken in, compared with the median of
//! all producers: so neither a backlog nor a silent producer looks like a clock that is off.

use crate::limits;
use crate::time::watermark::{Standing, StreamClock};
use crate::time::{EventTime, Span};
use ahash::RandomState;
use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use hashbrown::{Equivalent, HashMap};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Position of `ingest_ts` in every schema.
const INGEST: usize = 2;
/// Begins the bytes of a value that is there; a null is [`NULL`].
const TEXT: u8 = 1;
const NULL: u8 = 0;

/// The number in the clock of the partition that a producer writes into, and its values as bytes. Those for which there was no room have none.
type Key = (usize, Box<[u8]>);

#[derive(Debug, Clone)]
struct Producer {
    /// Its number in the clock.
    number: usize,
    /// When it last delivered, by the quiet time in µs.
    seen: i64,
    idle: bool,
    /// The time of its first record in µs, while its partition holds the clock.
    first: Option<i64>,
}

/// A [`Key`] to look for.
#[derive(Hash)]
struct Sought<'k>(usize, &'k [u8]);

impl Equivalent<Key> for Sought<'_> {
    fn equivalent(&self, (partition, key): &Key) -> bool {
        self.0 == *partition && self.1 == &**key
    }
}

/// How far a producer's clock is off.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Skew {
    /// Its values, joined by `/`.
    pub(super) producer: String,
    /// Ahead of the median; negative behind it.
    pub(super) skew: Span,
}

/// A producer as it is kept. The time is in µs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct SavedProducer {
    /// Source, partition, identity.
    pub(super) partition: (String, String, String),
    key: Vec<u8>,
    largest: Option<i64>,
    first: Option<i64>,
    idle: bool,
}

/// The producers of a pipeline.
#[derive(Debug, Default)]
pub(super) struct Producers {
    /// Positions of the text columns that tell producers apart; none: there are no producers.
    columns: Vec<usize>,
    known: HashMap<Key, Producer, RandomState>,
    quiet: i64,
    /// Records so far of producers for which there was no room.
    overflow: u64,
    /// The bytes of a key that is looked for, and the producer of each record of a batch.
    buffer: Vec<u8>,
    records: Vec<(usize, EventTime)>,
    /// How far a producer's stamps were ahead of the times at which its records were taken in: most, in µs, since skews were last asked for; by
    /// its number in the clock.
    ahead: Vec<Option<i64>>,
    cap: usize,
}

impl Producers {
    pub(super) fn new(columns: Vec<usize>) -> Self {
        Self { columns, cap: limits::PRODUCERS, ..Self::default() }
    }

    /// With room for so many.
    #[cfg(test)]
    pub(super) fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// Whether partitions have no producers.
    pub(super) fn is_off(&self) -> bool {
        self.columns.is_empty()
    }

    /// Takes in the next rows of the partition with this number in the clock. See [`StreamClock::observe`].
    pub(super) fn observe(
        &mut self,
        clock: &mut StreamClock,
        partition: usize,
        rows: &RecordBatch,
        stamps: &TimestampMicrosecondArray,
        mut each: impl FnMut(Option<EventTime>),
    ) {
        let holds = clock.standing(partition).is_some_and(|standing| !standing.idle);
        let mut released = None;
        let ingest = rows.column(INGEST).as_primitive::<TimestampMicrosecondType>();
        let columns: Vec<&StringArray> = self.columns.iter().map(|at| rows.column(*at).as_string::<i32>()).collect();
        self.records.clear();
        let mut last: Option<(usize, usize)> = None;
        for row in 0..rows.num_rows() {
            let stamp = stamps.value(row);
            let ahead = stamp.saturating_sub(ingest.value(row));
            let same = last.filter(|(before, _)| columns.iter().all(|column| same(column, *before, row)));
            let number = match same {
                Some((_, number)) => number,
                None => self.find(clock, partition, &columns, row),
            };
            self.ahead[number] = self.ahead[number].max(Some(ahead));
            last = Some((row, number));
            if holds && released.is_none() && self.has_come_far(partition, &columns, row, stamp) {
                released = Some(row);
            }
            self.records.push((number, EventTime::from_micros(stamp)));
        }
        let (before, behind) = self.records.split_at(released.unwrap_or(self.records.len()));
        clock.observe_each(before.iter().copied(), &mut each);
        if released.is_some() {
            clock.hand_over(partition);
            let own = self.known.iter_mut().filter(|((of, _), _)| *of == partition);
            own.for_each(|(_, producer)| producer.first = None);
        }
        clock.observe_each(behind.iter().copied(), each);
    }

    /// Whether the producer of a row, which is known, has come far enough from its first record for its partition to let the clock go.
    fn has_come_far(&mut self, partition: usize, columns: &[&StringArray], row: usize, stamp: i64) -> bool {
        let Self { known, buffer, .. } = self;
        write_key(buffer, columns, row);
        let Some(producer) = known.get_mut(&Sought(partition, buffer)) else { return false };
        stamp.saturating_sub(*producer.first.get_or_insert(stamp)) >= limits::IDLE_AFTER.micros()
    }

    /// The number of the producer of a row, which is seen now.
    fn find(&mut self, clock: &mut StreamClock, partition: usize, columns: &[&StringArray], row: usize) -> usize {
        let Self { known, buffer, quiet, cap, overflow, ahead, .. } = self;
        write_key(buffer, columns, row);
        if known.len() >= *cap && !known.contains_key(&Sought(partition, buffer)) {
            *overflow += 1;
            buffer.clear();
        }
        if let Some(producer) = known.get_mut(&Sought(partition, buffer)) {
            (producer.seen, producer.idle) = (*quiet, false);
            return producer.number;
        }
        let number = clock.register_idle();
        known
            .insert((partition, buffer.as_slice().into()), Producer { number, seen: *quiet, idle: false, first: None });
        ahead.resize(ahead.len().max(number + 1), None);
        number
    }

    /// For another `passed` nothing waited: who was silent for long is not waited for, or forgotten.
    pub(super) fn tick(&mut self, clock: &mut StreamClock, passed: Span) {
        self.quiet += passed.micros();
        let quiet = self.quiet;
        self.known.retain(|_, producer| {
            let silent = quiet - producer.seen;
            if !producer.idle && silent >= limits::IDLE_AFTER.micros() {
                producer.idle = true;
                clock.set_idle(producer.number);
            }
            let forgotten = silent >= limits::PRODUCER_FORGOTTEN.micros();
            if forgotten {
                self.ahead[producer.number] = None;
                clock.forget(producer.number);
            }
            !forgotten
        });
    }

    /// Nobody waits for the partition any more.
    pub(super) fn idle(&mut self, clock: &mut StreamClock, partition: usize) {
        for (_, producer) in self.known.iter_mut().filter(|((of, _), _)| *of == partition) {
            producer.idle = true;
            clock.set_idle(producer.number);
        }
    }

    /// The partition has ended.
    pub(super) fn end(&mut self, clock: &mut StreamClock, partition: usize) {
        self.known.retain(|(of, _), producer| {
            if *of == partition {
                self.ahead[producer.number] = None;
                clock.forget(producer.number);
            }
            *of != partition
        });
    }

    /// Whether a producer of the partition is waited for.
    pub(super) fn holds(&self, partition: usize) -> bool {
        self.known.iter().any(|((of, _), producer)| *of == partition && !producer.idle)
    }

    /// Records so far of producers beyond [`limits::PRODUCERS`], which share one watermark in each partition.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    /// The producers whose clocks are off most, since the last call: at most [`limits::SKEWS_TOLD`], by a second or more.
    pub(super) fn take_skews(&mut self) -> Vec<Skew> {
        let mut all: Vec<(i64, &Key)> = Vec::new();
        for (key, producer) in &self.known {
            all.extend(self.ahead[producer.number].take().map(|ahead| (ahead, key)));
        }
        all.sort_unstable();
        // Of two the one that is less ahead: it is more often right.
        let Some(&(median, _)) = all.get(all.len().saturating_sub(1) / 2) else { return Vec::new() };
        let mut skews: BTreeMap<String, i64> = BTreeMap::new();
        for (ahead, (_, key)) in all {
            let skew = ahead - median;
            let told = skews.entry(shown(key)).or_default();
            if skew.abs() > told.abs() {
                *told = skew;
            }
        }
        let mut skews: Vec<Skew> = skews
            .into_iter()
            .filter(|(_, skew)| skew.abs() >= 1_000_000)
            .map(|(producer, skew)| Skew { producer, skew: Span::from_micros(skew) })
            .collect();
        skews.sort_by_key(|skew| std::cmp::Reverse(skew.skew.micros().abs()));
        skews.truncate(limits::SKEWS_TOLD);
        skews
    }

    /// What is kept of the producers of partitions that `name` knows, by their numbers.
    pub(super) fn save(
        &self,
        clock: &StreamClock,
        name: impl Fn(usize) -> Option<(String, String, String)>,
    ) -> Vec<SavedProducer> {
        let saved = self.known.iter().filter_map(|((of, key), producer)| {
            let standing = clock.standing(producer.number)?;
            Some(SavedProducer {
                partition: name(*of)?,
                key: key.to_vec(),
                largest: standing.largest.map(EventTime::micros),
                first: producer.first,
                idle: producer.idle,
            })
        });
        let mut saved: Vec<SavedProducer> = saved.collect();
        saved.sort_unstable();
        saved
    }

    /// Goes on with a producer of an earlier run, of the partition with this number. It is as if it had delivered now.
    pub(super) fn resume(&mut self, clock: &mut StreamClock, partition: usize, saved: SavedProducer) {
        if self.is_off() || self.known.len() >= self.cap {
            return;
        }
        let SavedProducer { key, largest, first, idle, .. } = saved;
        let number = clock.rejoin(Standing { largest: largest.map(EventTime::from_micros), idle });
        let producer = Producer { number, seen: self.quiet, idle, first };
        self.ahead.resize(self.ahead.len().max(number + 1), None);
        self.known.insert((partition, key.into_boxed_slice()), producer);
    }
}

fn same(column: &StringArray, a: usize, b: usize) -> bool {
    column.is_null(a) == column.is_null(b) && column.value(a) == column.value(b)
}

fn write_key(bytes: &mut Vec<u8>, columns: &[&StringArray], row: usize) {
    bytes.clear();
    columns.iter().for_each(|column| write_value(bytes, column, row));
}

fn write_value(bytes: &mut Vec<u8>, column: &StringArray, row: usize) {
    if column.is_null(row) {
        bytes.push(NULL);
        return;
    }
    let text = column.value(row).as_bytes();
    bytes.push(TEXT);
    // Lengths keep neighbours apart.
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text);
}

/// A producer's values for people, whatever the bytes are.
fn shown(key: &[u8]) -> String {
    let (mut rest, mut values) = (key, Vec::new());
    while let Some((kind, behind)) = rest.split_first() {
        let text = behind
            .split_at_checked(4)
            .filter(|_| *kind == TEXT)
            .and_then(|(length, behind)| behind.split_at_checked(u32::from_le_bytes(length.try_into().ok()?) as usize));
        let (text, behind) = text.unwrap_or((&[], behind));
        values.push(String::from_utf8_lossy(text).into_owned());
        rest = behind;
    }
    if key.is_empty() { "_other_".to_owned() } else { values.join("/") }
}
