//! Which partitions have been silent for so long that nobody waits for them any more. Pure: a monotonic clock is an argument.
//!
//! Silence counts only while nothing waits to be worked off, and only as long as somebody looks: where an output pushes back, the
//! loop that looks stands still, and what passes meanwhile is nobody's silence.

use crate::limits;
use crate::record::raw::PartitionId;
use crate::time::Span;
use crate::time::clock::Monotonic;

/// The silence of the partitions of one run.
#[derive(Debug)]
pub struct Idleness {
    started: Monotonic,
    looked: Monotonic,
    /// By partition; `None` where it has ended.
    silence: Vec<Option<Span>>,
}

/// What one look has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Partitions that have fallen idle since the last look.
    pub idle: Vec<PartitionId>,
    /// How much quiet time has passed since then: while nothing waited, and somebody looked.
    pub quiet: Span,
}

impl Idleness {
    pub fn start(now: Monotonic) -> Self {
        Self { started: now, looked: now, silence: Vec::new() }
    }

    /// Adds a partition.
    pub fn open(&mut self) {
        self.silence.push(Some(Span::ZERO));
    }

    /// Something came from the partition.
    pub fn heard(&mut self, partition: PartitionId) {
        self.silence[partition.0] = Some(Span::ZERO);
    }

    /// The partition has no more.
    pub fn end(&mut self, partition: PartitionId) {
        self.silence[partition.0] = None;
    }

    /// How long ago somebody looked.
    pub fn unseen(&self, now: Monotonic) -> Span {
        now.since(self.looked)
    }

    /// Looks, and says what is to be seen. `quiet`: nothing waits to be worked off.
    pub fn look(&mut self, now: Monotonic, quiet: bool) -> Looked {
        let passed = self.unseen(now).min(Span::from_micros(2 * limits::TICK.micros()));
        self.looked = now;
        let passed = if quiet { passed } else { Span::ZERO };
        let mut idle = Vec::new();
        for (number, silence) in self.silence.iter_mut().enumerate() {
            let Some(silence) = silence else { continue };
            let before = std::mem::replace(silence, Span::from_micros(silence.micros() + passed.micros()));
            if before < limits::IDLE_AFTER && *silence >= limits::IDLE_AFTER {
                idle.push(PartitionId(number));
            }
        }
        Looked { idle, quiet: passed }
    }

    /// Whether partitions of an earlier run that have not been opened in this one were waited for long enough.
    pub fn gives_up(&self, now: Monotonic) -> bool {
        now.since(self.started) >= limits::IDLE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Monotonic {
        Monotonic(Span::from_micros(micros))
    }

    /// Looks once a tick from `from` on until somebody falls idle or `ticks` have passed.
    fn look(idleness: &mut Idleness, from: i64, ticks: i64, quiet: bool) -> Vec<PartitionId> {
        let look = |tick| idleness.look(at(from + tick * limits::TICK.micros()), quiet).idle;
        (1..=ticks).flat_map(look).collect()
    }

    #[test]
    fn silence_is_told_once_and_ends_with_a_record() {
        let ticks = limits::IDLE_AFTER.micros() / limits::TICK.micros();
        let mut idleness = Idleness::start(at(0));
        idleness.open();
        idleness.open();
        assert_eq!(look(&mut idleness, 0, ticks - 1, true), []);
        idleness.heard(PartitionId(1));
        let from = (ticks - 1) * limits::TICK.micros();
        assert_eq!(look(&mut idleness, from, 5, true), [PartitionId(0)]);
        idleness.end(PartitionId(1));
        assert_eq!(look(&mut idleness, 2 * from, 2 * ticks, true), []);
    }

    #[test]
    fn what_waits_and_who_does_not_look_are_no_silence() {
        let ticks = limits::IDLE_AFTER.micros() / limits::TICK.micros();
        let mut idleness = Idleness::start(at(0));
        idleness.open();
        assert_eq!(look(&mut idleness, 0, 3 * ticks, false), []);
        let hour = 3_600_000_000;
        let looked = idleness.look(at(hour), true);
        let two = Span::from_micros(2 * limits::TICK.micros());
        assert_eq!(looked, Looked { idle: vec![], quiet: two }, "an hour in which nobody looked is two ticks");
        assert_eq!(look(&mut idleness, hour, ticks - 3, true), []);
        assert_eq!(look(&mut idleness, 2 * hour, 1, true), [PartitionId(0)]);
    }
}
