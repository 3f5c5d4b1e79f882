//! One partition of a stream: all of it, or the messages of one subject.

use super::deliveries::Deliveries;
use super::session::{Asking, Consumer, Retention, Session, StreamInfo, Wanted};
use crate::limits;
use crate::record::raw::{Offset, PartitionId};
use crate::record::receipt::Checkpoint;
use crate::source::nats::{NatsError, Server};
use crate::source::{Closed, Feed, Outlet, PartitionName};
use crate::time::Span;
use crate::time::clock::Monotonic;
use prometheus::IntCounterVec;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

/// What all partitions of a stream have in common.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) server: Server,
    /// How we are called there.
    pub(super) client: String,
    pub(super) name: String,
    /// The source's name in the pipeline file.
    pub(super) source: Arc<str>,
    pub(super) ack_wait: Span,
    pub(super) verbatim: bool,
    /// Whether an archive says where partitions go on.
    pub(super) archived: bool,
    pub(super) labels: [String; 2],
    pub(super) interruptions: IntCounterVec,
}

impl Stream {
    pub(super) fn unfit(&self, said: &str) -> NatsError {
        NatsError::Unfit { address: self.server.address(), stream: self.name.clone(), said: said.to_owned() }
    }
}

/// Why a partition is not read any more.
#[derive(Debug)]
pub(super) enum End {
    /// All that was there at the start was read.
    Complete,
    /// The pipeline takes no more.
    Closed,
}

/// Messages that wait for a seal.
#[derive(Debug)]
struct Unsealed {
    /// The sequence behind the last of them.
    end: u64,
    deliveries: Deliveries,
    /// When the server was told that they are worked on.
    told: Monotonic,
}

#[derive(Debug)]
pub(super) struct Lane {
    stream: Arc<Stream>,
    consumer: Consumer,
    name: PartitionName,
    /// The sequence to go on with.
    next: u64,
    /// Below it all is sealed.
    sealed: u64,
    /// The stream's last sequence at the start.
    last: u64,
    /// The consumer was made at least once.
    begun: bool,
}

impl Lane {
    /// A partition to be read from its beginning.
    pub(super) fn new(stream: &Arc<Stream>, info: &StreamInfo, consumer: Consumer) -> Self {
        let partition = match &consumer.subject {
            Some(subject) if consumer.is_shared() => format!("{}/{subject}", stream.name),
            _ => stream.name.clone(),
        };
        let name = PartitionName { source: Arc::clone(&stream.source), partition, identity: info.created.clone() };
        let last = info.state.last_seq;
        Self { stream: Arc::clone(stream), consumer, name, next: 1, sealed: 0, last, begun: false }
    }

    /// The subject that it is; empty where it is all of the stream.
    pub(super) fn subject(&self) -> &str {
        self.consumer.subject.as_deref().unwrap_or("")
    }

    pub(super) fn name(&self) -> &PartitionName {
        &self.name
    }

    /// The sequence to go on with.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Goes on where the archive is, or with `handed` where there is none.
    ///
    /// # Errors
    /// When the stream is another one than the archive has read from.
    pub(super) fn locate(&mut self, stored: &Checkpoint, info: &StreamInfo) -> Result<(), NatsError> {
        let known = stored.find(&self.name.source, &self.name.partition);
        if known.is_some_and(|known| known.identity != info.created) {
            return Err(self.not_the_same());
        }
        self.begun = false;
        let Some(known) = known else { return Ok(()) };
        (self.next, self.sealed) = (known.position, known.position);
        // With a subject, or where acknowledged messages go, nobody can tell what is missing.
        let is_whole = self.consumer.subject.is_none() && info.retention() == Retention::Limits;
        if is_whole && info.state.first_seq > self.next {
            let (source, from, to) = (&self.name.source, self.next, info.state.first_seq);
            tracing::warn!(%source, from, to, "messages were deleted from the stream before they were read");
        }
        Ok(())
    }

    /// Whether the stream, as it is now, goes up to where this goes on. One that was made anew doesn't, at first.
    pub(super) fn check(&self, info: &StreamInfo) -> Result<(), NatsError> {
        if self.next > info.state.last_seq + 1 { Err(self.not_the_same()) } else { Ok(()) }
    }

    fn not_the_same(&self) -> NatsError {
        self.stream.unfit("it is not the one that the archive has read from, it was made anew since")
    }

    /// Begins at `next`.
    pub(super) fn begin_at(&mut self, next: u64) {
        (self.next, self.begun) = (next, false);
    }

    /// Reads over one connection after another. May be dropped at any time: what was not handed on is read again.
    ///
    /// # Errors
    /// What waiting cannot heal.
    pub(super) async fn read(&mut self, id: PartitionId, bounded: bool, outlet: &Outlet) -> Result<End, NatsError> {
        let [least, most] = limits::NATS_BACKOFF;
        let mut pause = least;
        loop {
            let before = self.next;
            let error = match self.session(id, bounded, outlet).await {
                Err(error @ (NatsError::Unfit { .. } | NatsError::Taken { .. })) => return Err(error),
                Err(error) => error,
                Ok(end) => return Ok(end),
            };
            let [pipeline, source] = &self.stream.labels;
            self.stream.interruptions.with_label_values(&[pipeline.as_str(), source, "broken"]).inc();
            let partition = &self.name.partition;
            tracing::warn!(source, partition, %error, hint = error.hint(), "interrupted, connecting again");
            pause = if self.next > before { least } else { pause };
            tokio::time::sleep(pause.to_std()).await;
            pause = Span::from_micros(pause.micros() * 2).min(most);
        }
    }

    /// Reads over one connection. `self.next` says how far it came.
    async fn session(&mut self, id: PartitionId, bounded: bool, outlet: &Outlet) -> Result<End, NatsError> {
        let stream = Arc::clone(&self.stream);
        let mut session = Session::open(stream.server.connect(&stream.client).await?, &stream.name);
        let info = session.stream_info().await?;
        if info.created != self.name.identity {
            return Err(stream.unfit("it was deleted and made anew while it was read"));
        }
        self.check(&info)?;
        let (retention, ack_wait) = (info.retention(), stream.ack_wait);
        let wanted = Wanted { retention, next: self.next, ack_wait, claimed: !self.begun };
        let pending = session.make_consumer(&self.consumer, wanted).await?;
        self.begun = true;
        let (source, partition, from) = (&stream.source, &self.name.partition, self.next);
        let server = session.connection.address();
        tracing::info!(%source, partition, from, server, "reading a JetStream stream");
        if bounded && (pending == 0 || self.next > self.last) {
            return Ok(End::Complete);
        }
        let acknowledging = Acknowledging::new(retention, ack_wait);
        self.pull(session, acknowledging, id, bounded, outlet).await
    }

    async fn pull(
        &mut self,
        mut session: Session,
        mut acknowledging: Acknowledging,
        id: PartitionId,
        bounded: bool,
        outlet: &Outlet,
    ) -> Result<End, NatsError> {
        let sealed = outlet.sealed();
        let mut asked = 0;
        loop {
            // The next request is there before the one before is served, so that the server never waits for it.
            if asked <= limits::JETSTREAM_PULL / 2 {
                session.pull();
                asked += limits::JETSTREAM_PULL;
            }
            if let Some(known) = sealed.borrow().find(&self.name.source, &self.name.partition) {
                self.sealed = self.sealed.max(known.position);
            }
            acknowledging.settle(&mut session, self.sealed, outlet.clock().monotonic()).await?;
            let asking = Asking { next: self.next, bounded, asked, verbatim: self.stream.verbatim };
            let mut pulled = session.receive(asking, acknowledging.step(), outlet).await?;
            // Which request has ended isn't told. If it was not the last one, the server has one more than it needs.
            asked = if pulled.ended { 0 } else { asked.saturating_sub(pulled.received) };
            let is_last = |offset: &Offset| bounded && offset.position > self.last;
            let complete = pulled.cut(is_last) || (bounded && pulled.pending == Some(0));
            (0..pulled.tombstones).for_each(|_| outlet.count_tombstone());
            let end = pulled.next;
            acknowledging.took(&mut pulled, outlet.clock().monotonic());
            if let Some(batch) = pulled.batch(id, outlet) {
                let mut sending = pin!(outlet.send(Feed::Batch(batch)));
                let sent = loop {
                    tokio::select! {
                        sent = &mut sending => break sent,
                        () = tokio::time::sleep(acknowledging.step()) => {
                            acknowledging.settle(&mut session, self.sealed, outlet.clock().monotonic()).await?;
                            session.connection.flush().await?;
                        }
                    }
                };
                if sent == Err(Closed) {
                    return Ok(End::Closed);
                }
            }
            self.next = end;
            if complete || (bounded && self.next > self.last) {
                return Ok(End::Complete);
            }
        }
    }
}

/// What the server is told of messages.
#[derive(Debug)]
struct Acknowledging {
    retention: Retention,
    ack_wait: Span,
    /// What the subjects begin with by which messages are answered; empty until one has come.
    consumer: String,
    /// In the order in which they came.
    unsealed: VecDeque<Unsealed>,
}

impl Acknowledging {
    fn new(retention: Retention, ack_wait: Span) -> Self {
        Self { retention, ack_wait, consumer: String::new(), unsealed: VecDeque::new() }
    }

    /// How often to look at what waits.
    fn step(&self) -> std::time::Duration {
        Span::from_micros(self.ack_wait.micros() / 8).to_std()
    }

    /// Messages came.
    fn took(&mut self, pulled: &mut super::pulled::Pulled, told: Monotonic) {
        if self.consumer.is_empty() {
            self.consumer = std::mem::take(&mut pulled.consumer);
        }
        let mut deliveries = Deliveries::default();
        if self.retention != Retention::Limits {
            // What the archive has from an earlier session, and was not acknowledged then, is kept until it is.
            deliveries = std::mem::take(&mut pulled.passed);
        }
        deliveries.append(&mut pulled.deliveries);
        if !deliveries.is_empty() {
            self.unsealed.push_back(Unsealed { end: pulled.next, deliveries, told });
        }
    }

    /// Tells the server that everything below `sealed` is stored, and of what has waited for half of `ack_wait` that it is still
    /// worked on.
    async fn settle(&mut self, session: &mut Session, sealed: u64, now: Monotonic) -> Result<(), NatsError> {
        let mut last = None;
        while let Some(first) = self.unsealed.front_mut() {
            if self.retention == Retention::WorkQueue {
                if first.deliveries.begin_below(sealed) {
                    let done = first.deliveries.split_below(sealed);
                    session.answer(done.replies(&self.consumer), b"+ACK").await?;
                }
                if !first.deliveries.is_empty() {
                    break;
                }
            } else if first.end > sealed {
                break;
            }
            last = self.unsealed.pop_front();
        }
        if let Some(done) = last.filter(|_| self.retention != Retention::WorkQueue) {
            // All up to it at once.
            session.answer(done.deliveries.replies(&self.consumer).next_back().into_iter(), b"+ACK").await?;
        }
        let half = Span::from_micros(self.ack_wait.micros() / 2);
        for waiting in self.unsealed.iter_mut().filter(|waiting| now.since(waiting.told) >= half) {
            waiting.told = now;
            session.answer(waiting.deliveries.replies(&self.consumer), b"+WPI").await?;
        }
        Ok(())
    }
}
