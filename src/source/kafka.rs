//! `type: kafka`: topics of a Kafka cluster, as a member of a consumer group.
//!
//! Each partition of a topic is a partition here, named `TOPIC/NUMBER`. Positions are Kafka's offsets, and they come from
//! the archive: the group decides who reads which partition, never from where. The group's own offsets are committed
//! after seals, for tools that show lag. The identity of a partition is its cluster's id; that a topic was made anew shows
//! when its end lies before the stored position.
//!
//! One thread polls librdkafka's consumer and fills a batch per partition. `BaseConsumer` and not `StreamConsumer`:
//! rebalances are served within `poll`, on the thread that also knows what is handed on, so neither can overtake the
//! other. When the pipeline takes nothing for [`limits::KAFKA_STALL`], all partitions are paused and polling goes on, so
//! that the group sees a slow daemon and not a dead one.
//!
//! A partition that the group takes away ends here at once (event time must not wait for it), and what was not handed on
//! is thrown away. Should it come back, it is opened anew and read on from where it was handed on, not from the last
//! seal: what lies between is on its way into this daemon's own archive. With one daemon per archive (which holds a lock)
//! this is exact. Several daemons on one archive need to hand over at a seal: the one that loses a partition has to seal
//! (or to void its claim) before `rebalance` returns, and the one that gets it has to ask the archive's claims for the
//! position, in `Desk::offset`. Nothing else here knows where positions come from.

use super::broker::{self, BrokerError, Change, Client, Key};
use super::lane::{Lane, take};
use super::offsets::Offsets;
use super::outlet::blocking;
use super::{Closed, Feed, KafkaConfig, Outlet, PartitionName, Source, SourceError, Start};
use crate::limits;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::Span;
use crate::time::clock::{Clock, Monotonic};
use futures::future::BoxFuture;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for a record; bounds how late a stop, a seal or a full batch is noticed.
const POLL: Duration = Duration::from_millis(50);

/// How long the pipeline is waited for between two polls, once the partitions are paused.
const PAUSED: Span = Span::from_micros(250_000);

/// A partition as it was found when the source was connected.
#[derive(Debug)]
struct Known {
    key: Key,
    /// Where it ended then, exclusive.
    end: u64,
}

/// A cluster that was reached, and where to go on.
pub(super) struct Kafka {
    source: Arc<str>,
    identity: String,
    topics: Vec<String>,
    known: Vec<Known>,
    client: Client,
    bounded: bool,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("source", &self.source).field("known", &self.known).finish_non_exhaustive()
    }
}

impl Kafka {
    /// Reaches the cluster and finds where each partition goes on.
    ///
    /// # Errors
    /// When the cluster cannot be reached, refuses us, has no such topic, or has another one under its name.
    pub(super) fn connect(
        config: &KafkaConfig,
        name: &str,
        stored: &Checkpoint,
        clock: &dyn Clock,
    ) -> Result<Self, SourceError> {
        let client = broker::client(config)?;
        let mut known = Vec::new();
        for topic in &config.topics {
            for number in broker::partitions(&client, &config.brokers.value, &topic.value, clock)? {
                known.push((topic.value.clone(), number));
            }
        }
        let patience = limits::KAFKA_CONNECT.to_std();
        let identity = client.client().fetch_cluster_id(patience).unwrap_or_default();
        let mut kafka = Self {
            source: name.into(),
            identity,
            topics: config.topics.iter().map(|topic| topic.value.clone()).collect(),
            known: Vec::new(),
            client,
            bounded: false,
        };
        for key in known {
            let marks = kafka.client.fetch_watermarks(&key.0, key.1, patience);
            let (least, end) = marks.map_err(|error| BrokerError::Read { reason: error.to_string() })?;
            let (least, end) = (least.max(0) as u64, end.max(0) as u64);
            if let Some(position) = kafka.first_position(config.start, stored, &key, least, end)? {
                kafka.client.context().set_position(key.clone(), position);
            }
            kafka.known.push(Known { key, end });
        }
        Ok(kafka)
    }

    /// Where to begin with a partition that now goes from `least` to `end`; `None` for its start.
    fn first_position(
        &self,
        start: Start,
        stored: &Checkpoint,
        key: &Key,
        least: u64,
        end: u64,
    ) -> Result<Option<u64>, BrokerError> {
        let partition = partition_name(key);
        let Some(known) = stored.find(&self.source, &partition) else {
            return Ok((start == Start::Latest).then_some(end));
        };
        if known.identity != self.identity && !known.identity.is_empty() && !self.identity.is_empty() {
            let (stored, found) = (known.identity.clone(), self.identity.clone());
            return Err(BrokerError::OtherCluster { partition, stored, found });
        }
        if known.position > end {
            return Err(BrokerError::Recreated { partition, position: known.position, end });
        }
        if known.position < least {
            let (stored, missing) = (known.position, least - known.position);
            tracing::warn!(partition, stored, oldest = least, missing, "records were deleted before they were read");
            return Ok(Some(least));
        }
        Ok(Some(known.position))
    }

    fn name(&self, key: &Key) -> PartitionName {
        let (source, identity) = (Arc::clone(&self.source), self.identity.clone());
        PartitionName { source, partition: partition_name(key), identity }
    }
}

fn partition_name((topic, number): &Key) -> String {
    format!("{topic}/{number}")
}

impl Source for Kafka {
    fn partitions(&self) -> Vec<PartitionName> {
        self.known.iter().map(|known| self.name(&known.key)).collect()
    }

    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn finite(&self) -> bool {
        self.bounded
    }

    fn bound(&mut self) {
        self.bounded = true;
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(blocking(move || Reading::start(*self, &ids, &outlet)?.run()))
    }
}

struct Reading<'o> {
    kafka: Kafka,
    outlet: &'o Outlet,
    sealed: watch::Receiver<Checkpoint>,
    /// Numbers of partitions that are registered and were not assigned yet.
    registered: HashMap<Key, PartitionId>,
    /// The partitions that are ours.
    lanes: Vec<Lane>,
    /// The lane of the last record; most often the next one's, too.
    last: usize,
    /// What is complete and waits for the pipeline, in order.
    ready: VecDeque<Feed>,
    /// Bytes that are being filled in, at most, over all lanes.
    filling: usize,
    /// When the oldest record that is being filled in came.
    since: Option<Monotonic>,
    paused: bool,
    /// Whether the cluster's trouble was told.
    troubled: bool,
    /// Ends that librdkafka has told of, by partition number.
    arrivals: BTreeMap<i32, usize>,
}

/// Why reading stops: the pipeline takes no more, or an error.
enum Halt {
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
    fn start(kafka: Kafka, ids: &[PartitionId], outlet: &'o Outlet) -> Result<Self, SourceError> {
        assert_eq!(ids.len(), kafka.known.len(), "each partition has its number");
        let registered = kafka.known.iter().map(|known| known.key.clone()).zip(ids.iter().copied()).collect();
        let mut reading = Self {
            kafka,
            outlet,
            sealed: outlet.sealed(),
            registered,
            lanes: Vec::new(),
            last: 0,
            ready: VecDeque::new(),
            filling: 0,
            since: None,
            paused: false,
            troubled: false,
            arrivals: BTreeMap::new(),
        };
        let failed = |error: KafkaError| BrokerError::Read { reason: error.to_string() };
        if reading.kafka.bounded {
            let mut all = TopicPartitionList::new();
            for known in &reading.kafka.known {
                let offset = reading.kafka.client.context().offset(&known.key);
                all.add_partition_offset(&known.key.0, known.key.1, offset).map_err(failed)?;
            }
            reading.kafka.client.assign(&all).map_err(failed)?;
            let keys = reading.kafka.known.iter().map(|known| known.key.clone()).collect();
            // Nothing is handed on yet, so nobody can have closed the pipeline; if so, `run` sees it at once.
            let _ = reading.assigned(keys);
        } else {
            let topics: Vec<&str> = reading.kafka.topics.iter().map(String::as_str).collect();
            reading.kafka.client.subscribe(&topics).map_err(failed)?;
        }
        Ok(reading)
    }

    fn run(mut self) -> Result<(), SourceError> {
        match self.read() {
            Ok(()) | Err(Halt::Closed) => Ok(()),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    fn read(&mut self) -> Result<(), Halt> {
        while !self.outlet.stopped() {
            self.hand_on()?;
            if self.kafka.bounded && self.ready.is_empty() && self.lanes.iter().all(|lane| lane.done) {
                return Ok(());
            }
            self.poll()?;
            for change in self.kafka.client.context().take_changes() {
                self.change(change)?;
            }
            self.complete();
            if self.sealed.has_changed().unwrap_or(false) {
                self.commit_sealed();
            }
        }
        Ok(())
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

    /// Does what the group has decided.
    fn change(&mut self, change: Change) -> Result<(), Halt> {
        match change {
            Change::Assigned(keys) => self.assigned(keys)?,
            Change::Revoked(keys) => self.revoked(&keys),
            Change::Failed(error) => return Err(BrokerError::Read { reason: error.to_string() }.into()),
        }
        Ok(())
    }

    fn assigned(&mut self, keys: Vec<Key>) -> Result<(), Closed> {
        if !keys.is_empty() {
            let names: Vec<String> = keys.iter().map(partition_name).collect();
            tracing::info!(source = %self.kafka.source, partitions = names.join(" "), "reading Kafka partitions");
        }
        let mut committed = TopicPartitionList::new();
        for key in keys {
            let id = match self.registered.remove(&key) {
                Some(id) => id,
                None => self.outlet.open_partition_blocking(self.kafka.name(&key))?,
            };
            let position = self.kafka.client.context().position(&key);
            if let Some(position) = position {
                // An offset that is none comes from no broker.
                let _ = committed.add_partition_offset(&key.0, key.1, KafkaOffset::Offset(position as i64));
            }
            let filling = Offsets::new(id, position.unwrap_or(0), self.outlet.buffers().clone());
            let known = self.kafka.known.iter().find(|known| known.key == key);
            let end = known.filter(|_| self.kafka.bounded).map(|known| known.end);
            let done = end.is_some_and(|end| position.unwrap_or(0) >= end);
            self.lanes.push(Lane { key, id, filling, end, done: false });
            if done {
                self.end(self.lanes.len() - 1);
            }
        }
        self.commit(&committed);
        if self.paused {
            self.pause();
        }
        Ok(())
    }

    fn revoked(&mut self, keys: &[Key]) {
        for key in keys {
            let Some(at) = self.lanes.iter().position(|lane| lane.key == *key) else { continue };
            let lane = self.lanes.remove(at);
            tracing::info!(source = %self.kafka.source, partition = partition_name(key), "partition went to another reader");
            // What waits was not handed on; whoever has the partition next reads it.
            self.ready.retain(|feed| !matches!(feed, Feed::Batch(batch) if batch.partition == lane.id));
            self.ready.push_back(Feed::Ended(lane.id));
        }
        self.last = 0;
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
    fn end(&mut self, at: usize) {
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
                Feed::Opened { .. }
                | Feed::Identified { .. }
                | Feed::Ended(_)
                | Feed::Forgotten(_)
                | Feed::Claim { .. }
                | Feed::Seal(_) => None,
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
                self.kafka.client.context().set_position(lane.key.clone(), end);
            }
        }
        if std::mem::take(&mut self.paused) {
            self.client_does("resume", |lane| !lane.done, Client::resume);
        }
        Ok(())
    }

    fn pause(&self) {
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
                    let _ = offsets.add_partition_offset(
                        &lane.key.0,
                        lane.key.1,
                        KafkaOffset::Offset(known.position as i64),
                    );
                }
            }
        }
        self.commit(&offsets);
    }

    fn commit(&self, offsets: &TopicPartitionList) {
        if offsets.count() > 0
            && let Err(error) = self.kafka.client.commit(offsets, CommitMode::Async)
        {
            tracing::debug!(%error, "cannot commit offsets to the Kafka group");
        }
    }
}
