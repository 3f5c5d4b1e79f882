//! What is open of a definition, whatever its kind: panes, or sessions.

use super::definition::{Caps, Closed, Definition};
use super::plan::Plan;
use super::session::Sessions;
use crate::record::event::EventBatch;

/// One definition's open windows.
#[derive(Debug)]
pub(super) enum Open {
    Panes(Box<Definition>),
    Sessions(Box<Sessions>),
}

/// Totals since the state began that a definition goes on with; `late_before` of them were counted by earlier runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) late: u64,
    pub(super) late_before: u64,
    pub(super) overflow: u64,
    pub(super) failed: u64,
}

impl Open {
    pub(super) fn new(plan: Plan, caps: Caps) -> Self {
        match plan.session {
            Some((gap, piece)) => Self::Sessions(Box::new(Sessions::new(plan, gap, piece, caps))),
            None => Self::Panes(Box::new(Definition::new(plan, caps))),
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        match self {
            Self::Panes(panes) => &panes.plan,
            Self::Sessions(sessions) => &sessions.plan,
        }
    }

    /// Places the records of `batch` one by one.
    pub(super) fn push(&mut self, batch: &EventBatch, closed: &mut Vec<Closed>) {
        match self {
            Self::Panes(panes) => panes.push(batch, closed),
            Self::Sessions(sessions) => sessions.push(batch, closed),
        }
    }

    /// The stream's clock has come to `clock` (µs).
    pub(super) fn advance(&mut self, clock: i64, closed: &mut Vec<Closed>) {
        match self {
            Self::Panes(panes) => panes.advance(clock, closed),
            Self::Sessions(sessions) => sessions.advance(clock, closed),
        }
    }

    /// Closes all.
    pub(super) fn finish(&mut self, closed: &mut Vec<Closed>) {
        match self {
            Self::Panes(panes) => panes.finish(closed),
            Self::Sessions(sessions) => sessions.finish(closed),
        }
    }

    /// What the clock has to show for the next window to close, `None` without an open one.
    pub(super) fn next_close(&mut self) -> Option<i64> {
        match self {
            Self::Panes(panes) => panes.next_close(),
            Self::Sessions(sessions) => sessions.next_close(),
        }
    }

    pub(super) fn drain(&mut self) -> Vec<Closed> {
        match self {
            Self::Panes(panes) => panes.drain(),
            Self::Sessions(sessions) => sessions.drain(),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Panes(panes) => panes.waiting(),
            Self::Sessions(sessions) => sessions.waiting(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Panes(panes) => panes.memory_bytes(),
            Self::Sessions(sessions) => sessions.memory_bytes(),
        }
    }

    /// All up to the event time `newest` (µs) was read before this definition was there.
    pub(super) fn provisional_through(&mut self, newest: i64) {
        match self {
            Self::Panes(panes) => panes.provisional_through(newest),
            Self::Sessions(sessions) => sessions.provisional_through(newest),
        }
    }

    /// All windows that end at or before this time (µs) are closed.
    pub(super) fn closed_through(&mut self, time: Option<i64>) {
        match self {
            Self::Panes(panes) => panes.closed_through(time),
            Self::Sessions(sessions) => sessions.closed_through(time),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::Panes(panes) => Counts {
                late: panes.late_total,
                late_before: panes.late_before,
                overflow: panes.overflow_total,
                failed: panes.failed_total,
            },
            Self::Sessions(sessions) => sessions.counts(),
        }
    }

    /// The panes of a definition that several daemons gather.
    ///
    /// # Panics
    /// When it has sessions, which `check` refuses there.
    pub(super) fn panes(&self) -> &Definition {
        match self {
            Self::Panes(panes) => panes,
            Self::Sessions(_) => unreachable!("sessions are not shared"),
        }
    }

    /// As [`Self::panes`].
    pub(super) fn panes_mut(&mut self) -> &mut Definition {
        match self {
            Self::Panes(panes) => panes,
            Self::Sessions(_) => unreachable!("sessions are not shared"),
        }
    }
}
