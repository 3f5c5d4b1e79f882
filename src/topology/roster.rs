//! Which partition has which number in the event-time clock, and whom the clock waits for after a restart.
//!
//! Partitions are numbered anew in each run; what is kept of them stands under their names. A partition that ended is
//! forgotten (the largest event time of all those that ended is not), so rotated files and partitions that went to another daemon
//! leave nothing behind. One that comes back is a new one.

use super::producers::{Producers, SavedProducer, Skew};
use crate::record::event::stamps;
use crate::record::raw::PartitionId;
use crate::source::PartitionName;
use crate::time::watermark::{Standing, StreamClock};
use crate::time::{EventTime, Span};
use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Source, partition, identity.
type Key = (Arc<str>, String, String);

/// The event-time clock with the names of its partitions.
#[derive(Debug, Default)]
pub(super) struct Roster {
    clock: StreamClock,
    /// The number in the clock, by `PartitionId`.
    numbers: Vec<usize>,
    /// The names of partitions of this run that have not ended, by number in the clock.
    names: BTreeMap<usize, PartitionName>,
    /// Partitions of an earlier run that have not been opened in this one, with their numbers in the clock.
    unopened: BTreeMap<Key, usize>,
    /// With `watermark_by`.
    producers: Producers,
}

/// The clock as it is kept. Times are in µs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedClock {
    reading: Option<i64>,
    ended: Option<i64>,
    /// In the order of their names.
    partitions: Vec<SavedPartition>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct SavedPartition {
    source: String,
    partition: String,
    identity: String,
    largest: Option<i64>,
    idle: bool,
}

impl Roster {
    /// The clock of an earlier run. Partitions that were active in it hold it back until they are opened or given up.
    pub(super) fn resume(saved: SavedClock, saved_producers: Vec<SavedProducer>, mut producers: Producers) -> Self {
        let time = |micros: Option<i64>| micros.map(EventTime::from_micros);
        let mut clock = StreamClock::resume(time(saved.reading), time(saved.ended));
        let unopened = saved.partitions.into_iter().map(|partition| {
            let number = clock.rejoin(Standing { largest: time(partition.largest), idle: partition.idle });
            ((partition.source.into(), partition.partition, partition.identity), number)
        });
        let unopened: BTreeMap<Key, usize> = unopened.collect();
        for saved in saved_producers {
            let (source, partition, identity) = saved.partition.clone();
            if let Some(number) = unopened.get(&(source.into(), partition, identity)) {
                producers.resume(&mut clock, *number, saved);
            }
        }
        Self { clock, numbers: Vec::new(), names: BTreeMap::new(), unopened, producers }
    }

    /// A clock to which each combination of these columns' values is a partition of its own.
    pub(super) fn new(watermark_by: Vec<usize>) -> Self {
        Self { producers: Producers::new(watermark_by), ..Self::default() }
    }

    /// The producers of all partitions that have not ended.
    pub(super) fn save_producers(&self) -> Vec<SavedProducer> {
        let unopened: BTreeMap<usize, &Key> = self.unopened.iter().map(|(key, number)| (*number, key)).collect();
        self.producers.save(&self.clock, |number| {
            let opened = self.names.get(&number);
            let opened = opened.map(|name| (name.source.to_string(), name.partition.clone(), name.identity.clone()));
            opened.or_else(|| unopened.get(&number).map(|key| (key.0.to_string(), key.1.clone(), key.2.clone())))
        })
    }

    pub(super) fn save(&self) -> SavedClock {
        let micros = |time: Option<EventTime>| time.map(EventTime::micros);
        let open =
            self.names.iter().map(|(number, name)| (*number, (&*name.source, &*name.partition, &*name.identity)));
        let unopened = self.unopened.iter().map(|((source, partition, identity), number)| {
            (*number, (&**source, partition.as_str(), identity.as_str()))
        });
        let saved = |(number, (source, partition, identity)): (usize, (&str, &str, &str))| {
            let standing = self.clock.standing(number)?;
            Some(SavedPartition {
                source: source.to_owned(),
                partition: partition.to_owned(),
                identity: identity.to_owned(),
                largest: micros(standing.largest),
                idle: standing.idle,
            })
        };
        let mut partitions: Vec<_> = open.chain(unopened).filter_map(saved).collect();
        partitions.sort_unstable();
        SavedClock { reading: micros(self.clock.now()), ended: micros(self.clock.ended()), partitions }
    }

    /// Adds a partition; the clock waits for it. One that an earlier run had open has come as far as it had then.
    ///
    /// # Panics
    /// When partitions are not opened in the order of their numbers.
    pub(super) fn open(&mut self, partition: PartitionId, name: &PartitionName) {
        assert_eq!(self.numbers.len(), partition.0, "partitions are opened in the order of their numbers");
        let key: Key = (Arc::clone(&name.source), name.partition.clone(), name.identity.clone());
        let number = match self.unopened.remove(&key) {
            Some(number) => {
                // While nobody read it, data may have come. Its producers hold the clock where they were.
                if !self.producers.holds(number) {
                    self.clock.set_active(number);
                }
                number
            }
            None => self.clock.register(),
        };
        // Others of that name are no more: another file lies there now.
        let first = (key.0.clone(), key.1.clone(), String::new());
        let same = |other: &Key| (&other.0, &other.1) == (&key.0, &key.1);
        let replaced: Vec<Key> =
            self.unopened.range(first..).map(|(other, _)| other.clone()).take_while(same).collect();
        for other in replaced {
            if let Some(number) = self.unopened.remove(&other) {
                self.producers.end(&mut self.clock, number);
                self.clock.set_ended(number);
            }
        }
        self.numbers.push(number);
        self.names.insert(number, name.clone());
    }

    /// Renames a partition that has not ended.
    pub(super) fn identify(&mut self, partition: PartitionId, name: &PartitionName) {
        if let Some(known) = self.names.get_mut(&self.numbers[partition.0]) {
            known.clone_from(name);
        }
    }

    /// Takes in the next rows of a partition, which have a pipeline's schema. See [`StreamClock::observe`].
    pub(super) fn observe(&mut self, partition: PartitionId, rows: &RecordBatch, each: impl FnMut(Option<EventTime>)) {
        let (number, stamps) = (self.numbers[partition.0], stamps(rows));
        if self.producers.is_off() {
            let times = stamps.values().iter().map(|micros| EventTime::from_micros(*micros));
            self.clock.observe(number, times, each);
        } else if rows.num_rows() > 0 {
            self.producers.observe(&mut self.clock, number, rows, stamps, each);
        }
    }

    /// For another `quiet` nothing waited to be read.
    pub(super) fn tick(&mut self, quiet: Span) {
        if !self.producers.is_off() {
            self.producers.tick(&mut self.clock, quiet);
        }
    }

    /// See [`Producers::take_skews`].
    pub(super) fn take_skews(&mut self) -> Vec<Skew> {
        self.producers.take_skews()
    }

    /// See [`Producers::overflow`].
    pub(super) fn producer_overflow(&self) -> u64 {
        self.producers.overflow()
    }

    pub(super) fn idle(&mut self, partition: PartitionId) {
        let number = self.numbers[partition.0];
        self.producers.idle(&mut self.clock, number);
        self.clock.set_idle(number);
    }

    pub(super) fn end(&mut self, partition: PartitionId) {
        let number = self.numbers[partition.0];
        self.names.remove(&number);
        self.producers.end(&mut self.clock, number);
        self.clock.set_ended(number);
    }

    /// The source of a partition of this run that has not ended, as it was opened.
    ///
    /// # Panics
    /// When it has ended.
    pub(super) fn source(&self, partition: PartitionId) -> &str {
        &self.names[&self.numbers[partition.0]].source
    }

    /// The clock's reading.
    pub(super) fn now(&self) -> Option<EventTime> {
        self.clock.now()
    }

    /// The newest event time that was ever read, also by earlier runs.
    pub(super) fn newest(&self) -> Option<EventTime> {
        self.clock.newest()
    }

    /// How many partitions were opened in this run.
    pub(super) fn opened(&self) -> usize {
        self.numbers.len()
    }

    /// Partitions of an earlier run that hold the clock back and have not been opened.
    pub(super) fn awaited(&self) -> Vec<PartitionName> {
        let waited = |number: usize| self.clock.standing(number).is_some_and(|standing| !standing.idle);
        let holds = |number: usize| waited(number) || self.producers.holds(number);
        let awaited = self.unopened.iter().filter(|(_, number)| holds(**number));
        let name = |(source, partition, identity): &Key| PartitionName {
            source: Arc::clone(source),
            partition: partition.clone(),
            identity: identity.clone(),
        };
        awaited.map(|(key, _)| name(key)).collect()
    }

    /// Ends and forgets all partitions that were not opened.
    pub(super) fn give_up(&mut self) {
        for number in std::mem::take(&mut self.unopened).into_values() {
            self.producers.end(&mut self.clock, number);
            self.clock.set_ended(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};

    fn name(partition: &str, identity: &str) -> PartitionName {
        PartitionName { source: "kafka".into(), partition: partition.to_owned(), identity: identity.to_owned() }
    }

    fn at(second: i64) -> EventTime {
        EventTime::from_micros(second * 1_000_000)
    }

    /// Rows with these times, and of these instances.
    fn rows(stamps: &[(i64, &str)]) -> RecordBatch {
        let times = |ahead: i64| -> ArrayRef {
            let micros = stamps.iter().map(|(second, _)| (second - ahead) * 1_000_000);
            Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
        };
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(stamps.iter().map(|(_, instance)| instance)));
        let columns = [("ts", times(0)), ("ts_source", texts.clone()), ("ingest_ts", times(0)), ("instance", texts)];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn read(roster: &mut Roster, partition: usize, second: i64) -> Option<EventTime> {
        roster.observe(PartitionId(partition), &rows(&[(second, "")]), |_| {});
        roster.now()
    }

    fn resume(saved: SavedClock) -> Roster {
        Roster::resume(saved, Vec::new(), Producers::default())
    }

    /// Three partitions at 100, 50 and 10 s, of which the second is idle and the last has ended at `ended`.
    fn saved(ended: i64) -> SavedClock {
        let mut roster = Roster::default();
        for (number, partition) in ["logs/0", "logs/1", "logs/2"].into_iter().enumerate() {
            roster.open(PartitionId(number), &name(partition, "c"));
        }
        for (partition, second) in [(2, ended), (1, 50), (0, 100)] {
            read(&mut roster, partition, second);
        }
        roster.idle(PartitionId(1));
        roster.end(PartitionId(2));
        assert_eq!(roster.now(), Some(at(100)));
        roster.save()
    }

    #[test]
    fn partitions_are_awaited_until_they_are_opened_or_given_up() {
        let mut roster = resume(saved(10));
        assert_eq!(roster.now(), Some(at(100)), "it never goes back");
        assert_eq!(roster.awaited(), [name("logs/0", "c")], "who was idle or ended holds nothing back");
        roster.open(PartitionId(0), &name("logs/7", "c"));
        assert_eq!(read(&mut roster, 0, 400), Some(at(100)), "logs/0 has come to 100");
        roster.open(PartitionId(1), &name("logs/1", "c"));
        roster.open(PartitionId(2), &name("logs/0", "c"));
        assert_eq!(roster.awaited(), []);
        assert_eq!(read(&mut roster, 2, 300), Some(at(100)), "what is opened again is waited for, idle or not");
        assert_eq!(read(&mut roster, 1, 200), Some(at(200)));

        let mut roster = resume(saved(10));
        roster.open(PartitionId(0), &name("logs/7", "c"));
        read(&mut roster, 0, 400);
        roster.give_up();
        assert_eq!((roster.awaited(), roster.now()), (vec![], Some(at(400))));
        assert_eq!(roster.save().partitions.len(), 1, "who was given up is forgotten");
    }

    #[test]
    fn what_ended_is_forgotten_but_for_its_time() {
        let mut roster = resume(saved(900));
        assert_eq!(roster.newest(), Some(at(900)));
        roster.give_up();
        assert_eq!(roster.now(), Some(at(900)), "nobody is waited for: the furthest counts, as it would have");
    }

    #[test]
    fn another_file_of_the_name_takes_the_place() {
        let mut roster = resume(saved(10));
        roster.open(PartitionId(0), &name("logs/0", "another"));
        assert_eq!(roster.awaited(), []);
        assert_eq!(read(&mut roster, 0, 150), Some(at(150)));
    }

    #[test]
    fn the_order_of_opening_leaves_no_trace() {
        let bytes = |order: [&str; 2]| {
            let mut roster = resume(saved(10));
            let before = crate::record::state::write(&roster.save());
            for (number, partition) in order.into_iter().enumerate() {
                roster.open(PartitionId(number), &name(partition, "c"));
            }
            (before, crate::record::state::write(&roster.save()))
        };
        assert_eq!(bytes(["logs/0", "logs/1"]), bytes(["logs/1", "logs/0"]));
        assert_eq!(bytes(["logs/0", "logs/1"]).0, crate::record::state::write(&saved(10)));
    }
}
