//! What a JetStream server sends for one request: messages, and how the request ended. No I/O.

use super::Outlet;
use super::nats::Message;
use crate::limits;
use crate::record::raw::{Offset, PartitionId, Positions, RawBatch};
use crate::time::EventTime;

/// Messages that came one after the other.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    bytes: Vec<u8>,
    records: Vec<std::ops::Range<u32>>,
    offsets: Vec<Offset>,
    /// The sequence behind the last message.
    pub(super) next: u64,
    /// How to acknowledge the last one.
    reply: String,
    pub(super) received: usize,
    /// The request for messages has ended.
    pub(super) ended: bool,
    /// How many messages wait on the server behind the last one.
    pub(super) pending: Option<u64>,
}

impl Pulled {
    /// Nothing yet, to begin with sequence `next`; `bytes` is an empty buffer.
    pub(super) fn new(next: u64, bytes: Vec<u8>) -> Self {
        Self { next, bytes, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.received == 0 && !self.ended
    }

    pub(super) fn is_full(&self) -> bool {
        self.ended || self.bytes.len() >= limits::BATCH_BYTES || self.records.len() >= limits::BATCH_RECORDS
    }

    /// Takes a message, or what the server says in place of one.
    pub(super) fn message(&mut self, message: &Message<'_>) -> Result<(), String> {
        if let Some((code, text)) = message.status() {
            return match code {
                // A heartbeat, or flow control.
                100 => Ok(()),
                404 | 408 => {
                    self.ended = true;
                    Ok(())
                }
                // All that the request allows has come, or another server leads the stream now.
                409 if ["MaxBytes", "Batch Completed", "Leadership Change"].iter().any(|end| text.contains(end)) => {
                    self.ended = true;
                    Ok(())
                }
                _ => Err(format!("{code} {text}")),
            };
        }
        let Some(origin) = message.reply.and_then(Origin::parse) else {
            // The answer to a request that nobody waits for any more.
            return Ok(());
        };
        self.received += 1;
        if origin.sequence < self.next {
            return Ok(());
        }
        let start = self.bytes.len() as u32;
        let kept = message.payload.trim_ascii_end();
        self.bytes.extend_from_slice(&kept[..kept.len().min(limits::RECORD_BYTES + 1)]);
        self.records.push(start..self.bytes.len() as u32);
        self.offsets.push(Offset { position: origin.sequence, time: Some(origin.time) });
        self.next = origin.sequence + 1;
        self.pending = Some(origin.pending);
        message.reply.unwrap_or("").clone_into(&mut self.reply);
        Ok(())
    }

    /// Leaves out what stands from the first message on for which `beyond` holds; tells whether there is one.
    pub(super) fn cut(&mut self, beyond: impl Fn(&Offset) -> bool) -> bool {
        let Some(at) = self.offsets.iter().position(beyond) else { return false };
        self.offsets.truncate(at);
        self.records.truncate(at);
        self.next = self.offsets.last().map_or(0, |offset| offset.position + 1);
        true
    }

    /// The batch, and how to acknowledge it; `None` when there are no records.
    pub(super) fn batch(self, partition: PartitionId, outlet: &Outlet) -> Option<(RawBatch, String)> {
        if self.records.is_empty() {
            outlet.buffers().give_back(self.bytes);
            return None;
        }
        let (bytes, records, positions) = (self.bytes, self.records, Positions::Offsets(self.offsets));
        let arrival = outlet.clock().now();
        Some((
            RawBatch { partition, bytes, records, positions, end: self.next, broker_time: None, arrival },
            self.reply,
        ))
    }
}

/// What the reply subject of a message says.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    sequence: u64,
    time: EventTime,
    pending: u64,
}

impl Origin {
    /// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMER_SEQUENCE.TIME_NS.PENDING`; newer servers have domain and account
    /// before the stream, and one more behind.
    fn parse(reply: &str) -> Option<Self> {
        let parts: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let numbers = match parts.len() {
            7 => &parts[2..7],
            9.. => &parts[4..9],
            _ => return None,
        };
        let number = |at: usize| numbers.get(at)?.parse::<u64>().ok();
        let time = EventTime::from_micros(i64::try_from(number(3)? / 1_000).ok()?);
        Some(Self { sequence: number(1)?, time, pending: number(4)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_message_is_read_from_either_form() {
        let expected = Origin { sequence: 42, time: EventTime::from_micros(1_700_000_000_000_001), pending: 7 };
        for reply in [
            "$JS.ACK.LOGS.headrig.1.42.40.1700000000000001999.7",
            "$JS.ACK.hub.AbC.LOGS.headrig.1.42.40.1700000000000001999.7.x",
        ] {
            assert_eq!(Origin::parse(reply), Some(Origin { ..expected }));
        }
        assert_eq!(Origin::parse("$JS.ACK.LOGS.headrig.1.42"), None);
        assert_eq!(Origin::parse("_INBOX.a"), None);
    }

    fn message(sequence: u64) -> String {
        format!("$JS.ACK.S.d.1.{sequence}.1.1700000000000000000.9")
    }

    #[test]
    fn what_came_before_is_passed_over_and_what_came_after_the_end_is_left() {
        let mut pulled = Pulled { next: 5, ..Pulled::default() };
        for sequence in [3, 4, 5, 9, 12] {
            let reply = message(sequence);
            let message = Message { subject: "s", sid: 1, reply: Some(&reply), headers: b"", payload: b"{}\n" };
            pulled.message(&message).unwrap();
        }
        assert_eq!((pulled.received, pulled.records.len(), pulled.next), (5, 3, 13));
        assert!(!pulled.cut(|offset| offset.position > 12));
        assert!(pulled.cut(|offset| offset.position > 10));
        assert_eq!((pulled.records.len(), pulled.next), (2, 10));
    }

    #[test]
    fn the_end_of_a_request_is_no_error_but_a_lost_consumer_is() {
        let say = |head: &str| {
            let headers = format!("NATS/1.0 {head}\r\n\r\n");
            let mut pulled = Pulled::default();
            let message = Message { subject: "s", sid: 1, reply: None, headers: headers.as_bytes(), payload: b"" };
            pulled.message(&message).map(|()| pulled.ended)
        };
        assert_eq!(say("408 Request Timeout"), Ok(true));
        assert_eq!(say("404 No Messages"), Ok(true));
        assert_eq!(say("100 Idle Heartbeat"), Ok(false));
        assert_eq!(say("409 Message Size Exceeds MaxBytes"), Ok(true));
        assert!(say("409 Consumer Deleted").is_err());
    }
}
