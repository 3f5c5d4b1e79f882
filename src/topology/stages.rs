//! What a running pipeline does with what its sources bring: a [`Flow`] of records, or [`Merging`] of what others have gathered.

use super::decoding::Extent;
use super::flow::{Flow, Outcome};
use super::gathering::{Gathering, Outbox};
use super::merging::{self, MergeError, Merging, Messages};
use super::producers::Skew;
use super::sharing::Beginning;
use super::state::StateError;
use crate::archive::PartState;
use crate::decode::Decoded;
use crate::metric::Metrics;
use crate::record::alert::{ActiveAlert, AlertEvent};
use crate::record::partial::Message;
use crate::record::raw::PartitionId;
use crate::record::sample::WindowRows;
use crate::source::PartitionName;
use crate::time::{EventTime, Span};
use std::sync::{Arc, Mutex};

/// The pure part of a pipeline.
#[derive(Debug)]
pub(super) enum Stages {
    Records(Box<Flow>, Option<Sharing>),
    Partials(Box<Merging>),
}

/// What a flow that gathers for others needs besides.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) gathering: Gathering,
    pub(super) outbox: Outbox,
}

impl Stages {
    /// Adds a partition. See [`Flow::open`].
    pub(super) fn open(&mut self, partition: PartitionId, name: &PartitionName) {
        if let Self::Records(flow, _) = self {
            flow.open(partition, name);
        }
    }

    /// Whether it has to be told where partitions begin.
    pub(super) fn wants_beginnings(&self) -> bool {
        !matches!(self, Self::Records(_, None))
    }

    /// The partition is this daemon's, and begins so.
    pub(super) fn begin(
        &mut self,
        pipeline: &str,
        partition: PartitionId,
        name: &PartitionName,
        beginning: &Beginning,
    ) {
        match self {
            Self::Records(_, None) => {}
            Self::Records(_, Some(sharing)) => sharing.gathering.begin(partition, name, beginning.position),
            Self::Partials(merging) => match merging.begin(partition, name, beginning.state.as_deref()) {
                Ok(restored) => super::connect::tell(pipeline, &restored),
                Err(error) => {
                    let partition = &name.partition;
                    tracing::error!(pipeline, partition, %error, "its windows and alerts begin anew");
                }
            },
        }
    }

    /// The partition has another name by now.
    pub(super) fn identify(&mut self, partition: PartitionId, name: &PartitionName) {
        if let Self::Records(flow, _) = self {
            flow.identify(partition, name);
        }
    }

    /// Works off a batch of records.
    ///
    /// # Panics
    /// When this merges.
    pub(super) fn records(&mut self, extent: Extent, decoded: Decoded) -> Outcome {
        let Self::Records(flow, sharing) = self else { unreachable!("what merges reads no records") };
        let outcome = flow.decoded(extent, decoded);
        if let Some(sharing) = sharing {
            sharing.gathering.read(extent.partition, extent.end, outcome.newest);
        }
        outcome
    }

    /// Works off a batch of what others have gathered.
    ///
    /// # Errors
    /// As [`Merging::read`].
    ///
    /// # Panics
    /// When this doesn't merge.
    pub(super) fn partials(&mut self, messages: Messages) -> Result<merging::Outcome, MergeError> {
        let Self::Partials(merging) = self else { unreachable!("what reads records doesn't merge") };
        merging.read(messages)
    }

    /// The partition has been silent. Who merges is told of silence by messages.
    pub(super) fn idle(&mut self, partition: PartitionId) -> Vec<AlertEvent> {
        let Self::Records(flow, sharing) = self else { return Vec::new() };
        if let Some(sharing) = sharing {
            sharing.gathering.idle(partition);
        }
        flow.idle(partition)
    }

    /// See [`Flow::tick`].
    pub(super) fn tick(&mut self, now: EventTime, quiet: Span) -> Vec<AlertEvent> {
        if let Self::Records(flow, _) = self { flow.tick(now, quiet) } else { Vec::new() }
    }

    /// The producers whose clocks are off most, since the last call.
    pub(super) fn take_skews(&mut self) -> Vec<Skew> {
        if let Self::Records(flow, _) = self { flow.take_skews() } else { Vec::new() }
    }

    pub(super) fn producer_overflow(&self) -> u64 {
        if let Self::Records(flow, _) = self { flow.producer_overflow() } else { 0 }
    }

    /// The partition has no more, or goes to another daemon.
    pub(super) fn end(&mut self, partition: PartitionId) -> Vec<AlertEvent> {
        match self {
            Self::Records(flow, sharing) => {
                if let Some(sharing) = sharing {
                    sharing.gathering.end(partition);
                }
                flow.end(partition)
            }
            Self::Partials(merging) => {
                merging.end(partition);
                Vec::new()
            }
        }
    }

    pub(super) fn awaited(&self) -> Vec<PartitionName> {
        if let Self::Records(flow, _) = self { flow.awaited() } else { Vec::new() }
    }

    pub(super) fn give_up(&mut self) -> Vec<AlertEvent> {
        if let Self::Records(flow, _) = self { flow.give_up() } else { Vec::new() }
    }

    /// Closes the windows that are next in event time. `None` when all are closed.
    pub(super) fn finish_next(&mut self) -> Option<Vec<AlertEvent>> {
        match self {
            Self::Records(flow, _) => flow.finish_next(),
            Self::Partials(merging) => merging.finish_next(),
        }
    }

    pub(super) fn drain_windows(&mut self) -> Vec<WindowRows> {
        match self {
            Self::Records(flow, _) => flow.drain_windows(),
            Self::Partials(merging) => merging.drain(),
        }
    }

    pub(super) fn windows_waiting(&self) -> usize {
        match self {
            Self::Records(flow, _) => flow.windows_waiting(),
            Self::Partials(merging) => merging.waiting(),
        }
    }

    /// Whether there is something to seal that no record brings.
    pub(super) fn wants_seal(&self) -> bool {
        matches!(self, Self::Records(_, Some(sharing)) if sharing.gathering.wants_seal())
    }

    /// What a seal keeps: of the whole, and of single partitions. What was gathered until now goes into the outbox.
    ///
    /// # Errors
    /// When it is too large. That of a flow alone is left out then, and it is told that a restart would begin anew.
    pub(super) fn save(&mut self, pipeline: &str) -> Result<(Vec<u8>, Vec<PartState>), StateError> {
        match self {
            Self::Partials(merging) => Ok((Vec::new(), merging.save()?)),
            Self::Records(flow, sharing) => {
                let messages = sharing.as_mut().map(|Sharing { gathering, .. }| {
                    let gathered = flow.take_gathered(gathering.partitions());
                    gathering.hand_out(gathered)
                });
                let state = flow.save().unwrap_or_else(|error| {
                    tracing::error!(pipeline, %error, "a restart would begin with new windows and alerts");
                    Vec::new()
                });
                let Some(Sharing { outbox, .. }) = sharing else { return Ok((state, Vec::new())) };
                outbox.add(messages.transpose().map_err(StateError::Keep)?.unwrap_or_default());
                Ok((outbox.in_front_of(&state).map_err(StateError::Keep)?, Vec::new()))
            }
        }
    }

    /// Names the messages that the next seal has.
    pub(super) fn ticket(&self) -> u64 {
        self.outbox().map_or(0, Outbox::ticket)
    }

    /// The seal with these messages is done.
    pub(super) fn sealed(&mut self, ticket: u64) {
        if let Self::Records(_, Some(sharing)) = self {
            sharing.outbox.sealed(ticket);
        }
    }

    /// Messages that another daemon, or an earlier run, has sealed.
    pub(super) fn take_over(&mut self, messages: Vec<Message>) {
        if let Self::Records(_, Some(sharing)) = self {
            sharing.outbox.take_over(messages);
        }
    }

    pub(super) fn outbox(&self) -> Option<&Outbox> {
        if let Self::Records(_, Some(sharing)) = self { Some(&sharing.outbox) } else { None }
    }

    pub(super) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        if let Self::Records(_, Some(sharing)) = self { Some(&mut sharing.outbox) } else { None }
    }

    pub(super) fn now(&self) -> Option<EventTime> {
        match self {
            Self::Records(flow, _) => flow.now(),
            Self::Partials(merging) => merging.now(),
        }
    }

    pub(super) fn state_bytes(&self) -> u64 {
        match self {
            Self::Records(flow, sharing) => {
                flow.state_bytes() + sharing.as_ref().map_or(0, |sharing| sharing.outbox.bytes() as u64)
            }
            Self::Partials(merging) => merging.memory_bytes() as u64,
        }
    }

    /// The derived metrics; none of what merges.
    pub(super) fn metrics(&self) -> Arc<Mutex<Metrics>> {
        match self {
            Self::Records(flow, _) => flow.metrics(),
            Self::Partials(_) => Arc::new(Mutex::new(Metrics::new(Vec::new()))),
        }
    }

    pub(super) fn late_counts(&self) -> Vec<(Arc<str>, u64)> {
        match self {
            Self::Records(flow, _) => flow.late_counts(),
            Self::Partials(merging) => merging.late_counts(),
        }
    }

    pub(super) fn window_overflow(&self) -> u64 {
        match self {
            Self::Records(flow, _) => flow.window_overflow(),
            Self::Partials(merging) => merging.window_overflow(),
        }
    }

    pub(super) fn window_failures(&self) -> u64 {
        match self {
            Self::Records(flow, _) => flow.window_failures(),
            Self::Partials(merging) => merging.window_failures(),
        }
    }

    pub(super) fn alert_overflow(&self) -> u64 {
        match self {
            Self::Records(flow, _) => flow.alert_overflow(),
            Self::Partials(merging) => merging.alert_overflow(),
        }
    }

    pub(super) fn alert_failures(&self) -> u64 {
        match self {
            Self::Records(flow, _) => flow.alert_failures(),
            Self::Partials(merging) => merging.alert_failures(),
        }
    }

    /// What is pending and firing, if that may have changed since the last call.
    pub(super) fn changed_active(&mut self) -> Option<Vec<ActiveAlert>> {
        match self {
            Self::Records(flow, _) => flow.changed_active(),
            Self::Partials(merging) => merging.changed_active(),
        }
    }

    pub(super) fn alert_counts(&self) -> (usize, usize) {
        match self {
            Self::Records(flow, _) => flow.alert_counts(),
            Self::Partials(merging) => merging.alert_counts(),
        }
    }
}
