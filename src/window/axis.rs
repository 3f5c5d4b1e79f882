//! The axis that windows are laid out on: event time itself, or the days of a zone.
//!
//! On an axis all windows are equally long, whatever they are on a clock. With a zone, each time of a day is where the day begins,
//! and each day takes 24 hours: so windows of whole days begin and end at midnight, on days of 23 and of 25 hours too. Only what comes in
//! (times, watermarks) and what goes out (starts and ends) is converted.

use crate::time::EventTime;
use crate::time::zone::{Calendar, Day};

/// How times become places on the axis. Both are µs.
#[derive(Debug, Clone)]
pub(super) enum Axis {
    Epoch,
    Days(Box<Calendar>),
}

impl Axis {
    /// Where `time` lies.
    pub(super) fn place(&self, time: i64) -> i64 {
        match self {
            Self::Epoch => time,
            Self::Days(calendar) => calendar.day(EventTime::from_micros(time)).count,
        }
    }

    /// The time at the place `at`, which with a zone is where a day begins.
    pub(super) fn time(&self, at: i64) -> i64 {
        match self {
            Self::Epoch => at,
            Self::Days(calendar) => calendar.start(at),
        }
    }
}

/// An axis that remembers the days that it was asked for last: records come in the order of their times, more or less.
#[derive(Debug)]
pub(super) struct Recent {
    days: [Option<Day>; 4],
    next: usize,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { days: [None; 4], next: 0 }
    }

    /// As [`Axis::place`].
    pub(super) fn place(&mut self, axis: &Axis, time: i64) -> i64 {
        let Axis::Days(calendar) = axis else { return time };
        let known = self.days.iter().flatten().find(|day| day.start <= time && time < day.end);
        if let Some(day) = known {
            return day.count;
        }
        let day = calendar.day(EventTime::from_micros(time));
        self.days[self.next] = Some(day);
        self.next = (self.next + 1) % self.days.len();
        day.count
    }
}
