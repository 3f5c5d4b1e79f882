//! One partition of a topic while it is read, and what a message does to it.

use super::broker::Key;
use super::offsets::Offsets;
use crate::record::raw::{Offset, PartitionId};
use crate::source::Outlet;
use crate::time::EventTime;
use crate::time::clock::Monotonic;
use rdkafka::message::{BorrowedMessage, Message};

/// One partition that is being read.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: Key,
    pub(super) id: PartitionId,
    pub(super) filling: Offsets,
    /// Where it ends when the source is bounded, exclusive.
    pub(super) end: Option<u64>,
    /// All that it shall bring was taken.
    pub(super) done: bool,
}

/// Puts a message into its lane. Returns the lane when it is bounded and has reached its end with this.
pub(super) fn take(
    message: &BorrowedMessage<'_>,
    lanes: &mut [Lane],
    last: &mut usize,
    outlet: &Outlet,
    since: &mut Option<Monotonic>,
) -> Option<usize> {
    let (topic, number) = (message.topic(), message.partition());
    let is_its = |lane: &Lane| lane.key.1 == number && lane.key.0 == topic;
    if !lanes.get(*last).is_some_and(is_its) {
        // Without a lane the partition was taken away while the message was on its way.
        *last = lanes.iter().position(is_its)?;
    }
    let lane = &mut lanes[*last];
    let position = message.offset().max(0) as u64;
    if lane.done {
        return None;
    }
    if lane.end.is_none_or(|end| position < end) {
        match message.payload() {
            // A tombstone deletes its key in a compacted topic; it is no record, as an empty line is none.
            None | Some([]) => outlet.count_tombstone(),
            Some(value) => {
                let millis = message.timestamp().to_millis();
                let time = millis.map(|millis| EventTime::from_micros(millis.saturating_mul(1_000)));
                if lane.filling.push(value, Offset { position, time }) {
                    since.get_or_insert_with(|| outlet.clock().monotonic());
                }
            }
        }
    }
    lane.end.is_some_and(|end| position + 1 >= end).then_some(*last)
}
