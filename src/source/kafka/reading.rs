//! The loop that reads: records into batches, batches into the pipeline.
//!
//! One thread polls librdkafka's consumer and fills a batch per partition. `BaseConsumer` and not `StreamConsumer`:
//! rebalances are served within `poll`, on the thread that also knows what is handed on, so neither can overtake the
//! other. When the pipeline takes nothing for [`limits::KAFKA_STALL`], all partitions are paused and polling goes on, so
//! that the group sees a slow daemon and not a dead one.

use super::broker::{self, BrokerError, Change, Client, Key};
use super::handover::Handover;
use super::lane::{Lane, take};
use super::{Kafka, partition_name};
use crate::limits;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::source::{Closed, Feed, Outlet, SourceError};
use crate::time::Span;
use crate::time::clock::Monotonic;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for a record; bounds how late a stop, a seal or a full batch is noticed.
const POLL: Duration = Duration::from_millis(50);

/// How long the pipeline is waited for between two polls, once the partitions are paused.
const PAUSED: Span = Span::from_micros(250_000);

pub(super) struct Reading<'o> {
    pub(super) kafka: Kafka,
    pub(super) outlet: &'o Outlet,
    sealed: watch::Receiver<Checkpoint>,
    /// Numbers of partitions that are registered and were not assigned yet.
    pub(super) registered: HashMap<Key, PartitionId>,
    /// The partitions that are read.
    pub(super) lanes: Vec<Lane>,
    /// The lane of the last record; most often the next one's, too.
    pub(super) last: usize,
    /// What is complete and waits for the pipeline, in order.
    pub(super) ready: VecDeque<Feed>,
    /// What the group has decided and nobody has looked at yet.
    pub(super) changes: VecDeque<Change>,
    /// What the group has decided and is being done.
    pub(super) handover: Option<Handover>,
    /// Whether the group is yet to be asked anew, see [`Reading::ask_anew`].
    pub(super) ask_anew: bool,
    /// How far each partition was handed on: without an archive that is where it goes on when it comes back.
    pub(super) handed: HashMap<Key, u64>,
    /// Bytes that are being filled in, at most, over all lanes.
    filling: usize,
    /// When the oldest record that is being filled in came.
    since: Option<Monotonic>,
    pub(super) paused: bool,
    /// Whether the cluster's trouble was told.
    troubled: bool,
    /// Ends that librdkafka has told of, by partition number.
    arrivals: BTreeMap<i32, usize>,
}

/// Why reading stops: the pipeline takes no more, or an error.
pub(super) enum Halt {
    Closed,
    Failed(SourceError),
}

impl From<Closed> for Halt {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<BrokerError> for Halt {
    fn from(error: BrokerError) -> Self {
        Self::Failed(error.into())
    }
}

impl<'o> Reading<'o> {
    /// Joins the group, or takes all partitions when the source is bounded: what ends is not shared.
    pub(super) fn start(kafka: Kafka, ids: &[PartitionId], outlet: &'o Outlet) -> Result<Self, SourceError> {
        assert_eq!(ids.len(), kafka.known.len(), "each partition has its number");
        let registered = kafka.known.iter().map(|known| known.key.clone()).zip(ids.iter().copied()).collect();
        let mut changes = VecDeque::new();
        if kafka.bounded {
            changes.push_back(Change::Assigned(kafka.known.iter().map(|known| known.key.clone()).collect()));
        } else {
            kafka.subscribe()?;
        }
        Ok(Self {
            ask_anew: kafka.named && !kafka.bounded,
            kafka,
            outlet,
            sealed: outlet.sealed(),
            registered,
            lanes: Vec::new(),
            last: 0,
            ready: VecDeque::new(),
            changes,
            handover: None,
            handed: HashMap::new(),
            filling: 0,
            since: None,
            paused: false,
            troubled: false,
            arrivals: BTreeMap::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<(), SourceError> {
        let read = self.read();
        if !matches!(read, Err(Halt::Closed)) && !self.kafka.bounded {
            // Before the group is left, and whatever the reason: who has the partitions next finds all of it sealed. That
            // the pipeline is closed meanwhile is told by the pipeline.
            let _ = self.outlet.seal_blocking();
        }
        self.close();
        match read {
            Ok(()) | Err(Halt::Closed) => Ok(()),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    fn read(&mut self) -> Result<(), Halt> {
        while !self.outlet.stopped() {
            self.hand_on()?;
            if self.is_complete() {
                return Ok(());
            }
            self.poll()?;
            self.serve_group()?;
            self.complete();
            if self.sealed.has_changed().unwrap_or(false) {
                self.commit_sealed();
            }
        }
        Ok(())
    }

    /// Whether a bounded source has handed on all that it shall.
    fn is_complete(&self) -> bool {
        let settled = self.changes.is_empty() && self.handover.is_none() && self.ready.is_empty();
        self.kafka.bounded && settled && self.lanes.iter().all(|lane| lane.done)
    }

    /// Takes what comes next, if something comes.
    fn poll(&mut self) -> Result<(), Halt> {
        // The message borrows the client, whose place in `self` is not touched by what happens to the message.
        let Self { kafka, lanes, last, outlet, filling, since, troubled, .. } = self;
        let patience = if self.paused { Duration::ZERO } else { POLL };
        let (mut reached, mut ended) = (None, None);
        match kafka.client.poll(patience) {
            None => {}
            Some(Ok(message)) => {
                if std::mem::take(troubled) {
                    tracing::info!(source = %kafka.source, "Kafka delivers again");
                }
                *filling += message.payload_len();
                reached = take(&message, lanes, last, outlet, since);
            }
            Some(Err(KafkaError::PartitionEOF(number))) => ended = Some(number),
            Some(Err(error)) => {
                let reason = broker::passing(&error, kafka.client.context())?;
                if !std::mem::replace(troubled, true) {
                    tracing::warn!(source = %kafka.source, reason, "cannot read from Kafka for now, trying again");
                }
            }
        }
        if let Some(at) = reached {
            self.end(at);
            self.settle(self.lanes[at].key.1);
        }
        if let Some(number) = ended.filter(|_| self.kafka.bounded) {
            *self.arrivals.entry(number).or_default() += 1;
            self.settle(number);
        }
        Ok(())
    }

    /// Ends all partitions of this number once as many have come to their ends as are open: librdkafka doesn't say of
    /// which topic an end is. (A topic that ends in the marks of a transaction and gets new records meanwhile can count
    /// twice; then another topic's partition ends early, and the next run reads the rest.)
    fn settle(&mut self, number: i32) {
        let is_open = |lane: &Lane| lane.key.1 == number && !lane.done;
        let open = self.lanes.iter().filter(|lane| is_open(lane)).count();
        if self.arrivals.get(&number).is_some_and(|arrivals| *arrivals >= open) {
            for at in 0..self.lanes.len() {
                if is_open(&self.lanes[at]) {
                    self.end(at);
                }
            }
        }
    }

    /// Ends a lane of a bounded source. Nothing more of it is asked for.
    pub(super) fn end(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.done = true;
        self.ready.extend(lane.filling.take(self.outlet.clock().now()).map(Feed::Batch));
        self.ready.push_back(Feed::Ended(lane.id));
        self.client_does("pause", |lane| lane.done, Client::pause);
    }

    /// Moves batches that are full, or have waited long enough, to those that are ready.
    fn complete(&mut self) {
        let Some(since) = self.since else { return };
        let now = self.outlet.clock().monotonic();
        let all = now.since(since) >= limits::BATCH_WAIT;
        let short = self.filling > limits::KAFKA_FILLING_BYTES;
        // Only the lane of the last record can have become full; there may be many.
        if !all && !short && !self.lanes.get(self.last).is_some_and(|lane| lane.filling.is_full()) {
            return;
        }
        let most = self.lanes.iter().map(|lane| lane.filling.bytes()).max().unwrap_or(0);
        for lane in &mut self.lanes {
            if all || lane.filling.is_full() || (short && lane.filling.bytes() == most) {
                self.ready.extend(lane.filling.take(self.outlet.clock().now()).map(Feed::Batch));
            }
        }
        self.filling = self.lanes.iter().map(|lane| lane.filling.bytes()).sum();
        if self.filling == 0 {
            self.since = None;
        }
    }

    /// Gives the pipeline what is ready, and pauses reading when it takes nothing for long.
    fn hand_on(&mut self) -> Result<(), Closed> {
        while let Some(feed) = self.ready.pop_front() {
            let reached = match &feed {
                Feed::Batch(batch) => Some((batch.partition, batch.end)),
                _ => None,
            };
            let patience = if self.paused { PAUSED } else { limits::KAFKA_STALL };
            if let Some(feed) = self.outlet.offer_blocking(feed, patience)? {
                self.ready.push_front(feed);
                if !self.paused {
                    tracing::debug!(source = %self.kafka.source, "the pipeline takes nothing, pausing");
                    self.paused = true;
                    self.pause();
                }
                return Ok(());
            }
            if let Some((id, end)) = reached
                && let Some(lane) = self.lanes.iter().find(|lane| lane.id == id)
            {
                self.handed.insert(lane.key.clone(), end);
            }
        }
        if std::mem::take(&mut self.paused) {
            self.client_does("resume", |lane| !lane.done, Client::resume);
        }
        Ok(())
    }

    pub(super) fn pause(&self) {
        self.client_does("pause", |_| true, Client::pause);
    }

    fn client_does(
        &self,
        what: &str,
        chosen: impl Fn(&Lane) -> bool,
        act: impl Fn(&Client, &TopicPartitionList) -> Result<(), KafkaError>,
    ) {
        let mut all = TopicPartitionList::new();
        for lane in self.lanes.iter().filter(|lane| chosen(lane)) {
            all.add_partition(&lane.key.0, lane.key.1);
        }
        if let Err(error) = act(&self.kafka.client, &all) {
            // A partition that went away in this moment; the others are paused, or will be at the next stall.
            tracing::debug!(%error, what, "Kafka client refuses");
        }
    }

    /// Tells the group what is sealed.
    fn commit_sealed(&mut self) {
        let mut offsets = TopicPartitionList::new();
        {
            let sealed = self.sealed.borrow_and_update();
            for lane in &self.lanes {
                if let Some(known) = sealed.find(&self.kafka.source, &partition_name(&lane.key)) {
                    // An offset that is none comes from no broker.
                    let _ =
                        offsets.add_partition_offset(&lane.key.0, lane.key.1, Offset::Offset(known.position as i64));
                }
            }
        }
        self.commit(&offsets);
    }

    pub(super) fn commit(&self, offsets: &TopicPartitionList) {
        // Who reads beside the group may not speak for a member, which may be this daemon's own ghost: the broker would fence it.
        if offsets.count() > 0
            && !self.kafka.bounded
            && let Err(error) = self.kafka.client.commit(offsets, CommitMode::Async)
        {
            tracing::debug!(%error, "cannot commit offsets to the Kafka group");
        }
    }
}
