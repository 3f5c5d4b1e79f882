//! The only place that reads the system's clocks. Whoever needs the time of day or a monotonic time is handed
//! a [`Clock`], so that tests can hand in another.

use super::{EventTime, Span};
use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A reading of a monotonic clock; only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub Span);

impl Monotonic {
    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Span {
        Span::from_micros((self.0.micros() - earlier.0.micros()).max(0))
    }
}

/// Tells the time of day and a monotonic time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time of day. It may jump, in both directions.
    fn now(&self) -> EventTime;
    /// A time that never goes back, for intervals and deadlines.
    fn monotonic(&self) -> Monotonic;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this file is where the clock is read")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this file is where the clock is read")]
    fn now(&self) -> EventTime {
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_micros() as i64,
            Err(before) => -(before.duration().as_micros() as i64),
        };
        EventTime::from_micros(micros)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(Span::from_micros(self.started.elapsed().as_micros() as i64))
    }
}
