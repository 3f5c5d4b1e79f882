//! What a JetStream server sends for one request: messages, and how the request ended. No I/O.

use super::deliveries::Deliveries;
use crate::limits;
use crate::record::raw::{Offset, PartitionId, Positions, RawBatch};
use crate::source::Outlet;
use crate::source::nats::Message;
use crate::time::EventTime;

/// Messages that came one after the other.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    bytes: Vec<u8>,
    records: Vec<std::ops::Range<u32>>,
    offsets: Vec<Offset>,
    /// The sequence behind the last message.
    pub(super) next: u64,
    /// The consumer's number of the message that comes next.
    pub(super) expected: u64,
    /// The messages that are taken, tombstones among them, …
    pub(super) deliveries: Deliveries,
    /// … and those that came before.
    pub(super) passed: Deliveries,
    /// What the subjects begin with by which they are acknowledged.
    pub(super) consumer: String,
    /// Messages without anything in them, as markers of deletions are.
    pub(super) tombstones: u64,
    /// Whether messages are bytes, and no lines with ends that don't matter.
    verbatim: bool,
    pub(super) received: usize,
    /// The request for messages has ended.
    pub(super) ended: bool,
    /// How many messages wait on the server behind the last one.
    pub(super) pending: Option<u64>,
}

/// Why no more can be taken from a consumer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// What the server says.
    Said(String),
    /// Messages of the consumer went to somebody else.
    Skipped,
}

impl Pulled {
    /// Nothing yet, to begin with sequence `next` and the consumer's number `expected`; `bytes` is an empty buffer.
    pub(super) fn new(next: u64, expected: u64, verbatim: bool, bytes: Vec<u8>) -> Self {
        Self { next, expected, verbatim, bytes, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.received == 0 && !self.ended
    }

    pub(super) fn is_full(&self) -> bool {
        self.ended || self.bytes.len() >= limits::BATCH_BYTES || self.records.len() >= limits::BATCH_RECORDS
    }

    /// Takes a message, or what the server says in place of one.
    pub(super) fn message(&mut self, message: &Message<'_>) -> Result<(), Trouble> {
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
                _ => Err(Trouble::Said(format!("{code} {text}"))),
            };
        }
        let Some(origin) = message.reply.and_then(Origin::parse) else {
            // The answer to a request that nobody waits for any more.
            return Ok(());
        };
        // A server that leads the consumer since a moment ago may count some again. What it leaves out has gone elsewhere,
        // whereas a stream leaves out what was deleted.
        if origin.number > self.expected {
            return Err(Trouble::Skipped);
        }
        self.expected = origin.number + 1;
        self.received += 1;
        self.pending = Some(origin.pending);
        if self.consumer.is_empty() {
            origin.consumer.clone_into(&mut self.consumer);
        }
        if origin.sequence < self.next {
            self.passed.push(origin.sequence, origin.number, origin.sent);
            return Ok(());
        }
        self.deliveries.push(origin.sequence, origin.number, origin.sent);
        self.next = origin.sequence + 1;
        if message.payload.is_empty() {
            self.tombstones += 1;
            return Ok(());
        }
        let start = self.bytes.len() as u32;
        let kept = if self.verbatim { message.payload } else { message.payload.trim_ascii_end() };
        self.bytes.extend_from_slice(&kept[..kept.len().min(limits::RECORD_BYTES + 1)]);
        self.records.push(start..self.bytes.len() as u32);
        self.offsets.push(Offset { position: origin.sequence, time: Some(origin.time) });
        Ok(())
    }

    /// Leaves out what stands from the first message on for which `beyond` holds; tells whether there is one.
    pub(super) fn cut(&mut self, beyond: impl Fn(&Offset) -> bool) -> bool {
        let Some(at) = self.offsets.iter().position(beyond) else { return false };
        self.next = self.offsets[at].position;
        self.deliveries = self.deliveries.split_below(self.next);
        self.offsets.truncate(at);
        self.records.truncate(at);
        true
    }

    /// The batch; `None` when there are no records.
    pub(super) fn batch(self, partition: PartitionId, outlet: &Outlet) -> Option<RawBatch> {
        if self.records.is_empty() {
            outlet.buffers().give_back(self.bytes);
            return None;
        }
        let (bytes, records, positions) = (self.bytes, self.records, Positions::Offsets(self.offsets));
        let arrival = outlet.clock().now();
        Some(RawBatch { partition, bytes, records, positions, end: self.next, broker_time: None, arrival })
    }
}

/// What the reply subject of a message says.
#[derive(Debug, PartialEq, Eq)]
struct Origin<'r> {
    /// All up to the consumer's name.
    consumer: &'r str,
    /// How often the message was sent.
    sent: u64,
    sequence: u64,
    /// The consumer's count of messages.
    number: u64,
    time: EventTime,
    pending: u64,
}

impl<'r> Origin<'r> {
    /// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMER_SEQUENCE.TIME_NS.PENDING`; newer servers have domain and account
    /// before the stream, and one more behind.
    fn parse(reply: &'r str) -> Option<Self> {
        let parts: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let names = match parts.len() {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let number = |at: usize| parts.get(names + at)?.parse::<u64>().ok();
        let consumer = "$JS.ACK.".len() + parts[..names].iter().map(|part| part.len() + 1).sum::<usize>() - 1;
        let time = EventTime::from_micros(i64::try_from(number(3)? / 1_000).ok()?);
        let (sent, sequence, pending) = (number(0)?, number(1)?, number(4)?);
        Some(Self { consumer: &reply[..consumer], sent, sequence, number: number(2)?, time, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_message_is_read_from_either_form() {
        for (consumer, more) in [("$JS.ACK.LOGS.headrig", ""), ("$JS.ACK.hub.AbC.LOGS.headrig", ".x")] {
            let reply = format!("{consumer}.1.42.40.1700000000000001999.7{more}");
            let time = EventTime::from_micros(1_700_000_000_000_001);
            let expected = Origin { consumer, sent: 1, sequence: 42, number: 40, time, pending: 7 };
            assert_eq!(Origin::parse(&reply), Some(expected));
        }
        assert_eq!(Origin::parse("$JS.ACK.LOGS.headrig.1.42"), None);
        assert_eq!(Origin::parse("_INBOX.a"), None);
    }

    fn take(pulled: &mut Pulled, sequence: u64, number: u64, payload: &[u8]) -> Result<(), Trouble> {
        let reply = format!("$JS.ACK.S.d.1.{sequence}.{number}.1700000000000000000.9");
        pulled.message(&Message { subject: "s", sid: 1, reply: Some(&reply), headers: b"", payload })
    }

    fn replies(deliveries: &Deliveries) -> Vec<String> {
        deliveries.replies("c").collect()
    }

    #[test]
    fn what_came_before_is_passed_over_and_what_came_after_the_end_is_left() {
        let mut pulled = Pulled::new(5, 1, false, Vec::new());
        for (number, sequence) in (1..).zip([3, 4, 5, 9, 12]) {
            take(&mut pulled, sequence, number, b"{}\n").unwrap();
        }
        assert_eq!((pulled.received, pulled.records.len(), pulled.next, pulled.expected), (5, 3, 13, 6));
        assert_eq!(replies(&pulled.passed), ["c.1.3.1.0.0", "c.1.4.2.0.0"]);
        assert!(!pulled.cut(|offset| offset.position > 12));
        assert!(pulled.cut(|offset| offset.position > 10));
        assert_eq!((pulled.records.len(), pulled.next), (2, 12));
        assert_eq!(replies(&pulled.deliveries), ["c.1.5.3.0.0", "c.1.9.4.0.0"]);
        assert_eq!((pulled.bytes.as_slice(), pulled.consumer.as_str()), (&b"{}{}{}"[..], "$JS.ACK.S.d"));
    }

    #[test]
    fn messages_that_are_deleted_are_no_loss_and_messages_that_others_got_are() {
        let mut pulled = Pulled::new(1, 1, true, Vec::new());
        take(&mut pulled, 7, 1, b"a\n").unwrap();
        take(&mut pulled, 90, 2, b"").unwrap();
        assert_eq!((pulled.records.len(), pulled.tombstones, pulled.next), (1, 1, 91));
        assert_eq!(pulled.bytes, b"a\n", "as it is");
        assert_eq!(take(&mut pulled, 92, 4, b"b"), Err(Trouble::Skipped));
        take(&mut pulled, 90, 2, b"").unwrap();
        assert_eq!(replies(&pulled.passed), ["c.1.90.2.0.0"], "the server counts again");
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
