//! Which messages were delivered, and how each of them is acknowledged: by a subject of its own, which is made of numbers. Pure.

/// Messages that came one after the other, each with the numbers behind those of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    sequence: u64,
    consumer: u64,
    /// How often it was sent by now, this time included.
    sent: u64,
    count: u64,
}

/// Messages in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deliveries {
    stretches: Vec<Stretch>,
}

impl Deliveries {
    /// Adds a message: its numbers in the stream and of the consumer, and how often it was sent.
    pub(super) fn push(&mut self, sequence: u64, consumer: u64, sent: u64) {
        match self.stretches.last_mut() {
            Some(last)
                if last.sent == sent
                    && last.sequence + last.count == sequence
                    && last.consumer + last.count == consumer =>
            {
                last.count += 1;
            }
            _ => self.stretches.push(Stretch { sequence, consumer, sent, count: 1 }),
        }
    }

    pub(super) fn append(&mut self, other: &mut Self) {
        self.stretches.append(&mut other.stretches);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Where to answer for each message. `consumer` is what the subjects begin with: `$JS.ACK.STREAM.CONSUMER`.
    pub(super) fn replies(&self, consumer: &str) -> impl DoubleEndedIterator<Item = String> {
        self.stretches.iter().flat_map(move |stretch| {
            let Stretch { sequence, consumer: number, sent, count } = *stretch;
            // Time and what waited then say nothing to the server.
            (0..count).map(move |at| format!("{consumer}.{sent}.{}.{}.0.0", sequence + at, number + at))
        })
    }

    /// Whether the first message is below `sequence`.
    pub(super) fn begin_below(&self, sequence: u64) -> bool {
        self.stretches.first().is_some_and(|first| first.sequence < sequence)
    }

    /// Takes out the messages below `sequence`.
    pub(super) fn split_below(&mut self, sequence: u64) -> Self {
        let mut below = Self::default();
        let mut kept = Self::default();
        for stretch in self.stretches.drain(..) {
            let first = sequence.saturating_sub(stretch.sequence).min(stretch.count);
            if first > 0 {
                below.stretches.push(Stretch { count: first, ..stretch });
            }
            if first < stretch.count {
                let (sequence, consumer) = (stretch.sequence + first, stretch.consumer + first);
                kept.stretches.push(Stretch { sequence, consumer, count: stretch.count - first, ..stretch });
            }
        }
        *self = kept;
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_its_own_reply_and_neighbours_take_no_room() {
        let mut deliveries = Deliveries::default();
        for (sequence, consumer, sent) in [(5, 1, 1), (6, 2, 1), (9, 3, 1), (10, 4, 2)] {
            deliveries.push(sequence, consumer, sent);
        }
        assert_eq!(deliveries.stretches.len(), 3);
        let replies: Vec<String> = deliveries.replies("$JS.ACK.S.d").collect();
        let expected = ["1.5.1", "1.6.2", "1.9.3", "2.10.4"].map(|numbers| format!("$JS.ACK.S.d.{numbers}.0.0"));
        assert_eq!(replies, expected);
        let below = deliveries.split_below(6);
        assert_eq!(below.replies("c").collect::<Vec<_>>(), ["c.1.5.1.0.0"]);
        assert_eq!(deliveries.replies("c").collect::<Vec<_>>(), ["c.1.6.2.0.0", "c.1.9.3.0.0", "c.2.10.4.0.0"]);
        assert_eq!(deliveries.split_below(0), Deliveries::default());
        assert_eq!(deliveries.split_below(100).replies("c").count(), 3);
        assert!(deliveries.is_empty());
    }
}
