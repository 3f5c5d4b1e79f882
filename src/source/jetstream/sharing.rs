//! Takes partitions of a stream that daemons share, and gives them away.
//!
//! Who of them tries to read what, `group` decides; that it may, and from where, the archive says when the partition is *claimed*, as
//! with Kafka (`kafka/handover`): from then on nobody else can seal any of it. One that is given away ends here, all of it is
//! sealed, and only then the others hear that nobody reads it. One that another daemon has taken meanwhile (this one was silent for too
//! long) shows by its consumer, which is deleted: it is let go and what was handed on is sealed, which fails when the other one
//! has claimed it before, and ends this daemon.

use super::group::{Group, Membership, Others, Step, next_step};
use super::lane::{End, Lane, Stream};
use super::session::StreamInfo;
use crate::limits;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::source::nats::NatsError;
use crate::source::{Closed, Feed, Outlet, SourceError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A partition that is not read now.
struct Idle {
    lane: Lane,
    /// Its number, before it was read for the first time.
    registered: Option<PartitionId>,
    /// How far it was handed on by this daemon.
    handed: Option<u64>,
}

/// A partition that is read.
struct Active {
    id: PartitionId,
    stop: CancellationToken,
}

/// What became of a partition that was read.
type Left = (String, Lane, Option<Result<End, NatsError>>);

pub(super) struct Sharing {
    stream: Arc<Stream>,
    info: StreamInfo,
    /// By subject.
    idle: BTreeMap<String, Idle>,
    active: BTreeMap<String, Active>,
    reading: JoinSet<Left>,
    all: BTreeSet<String>,
    bounded: bool,
    outlet: Outlet,
}

/// Why it ends.
enum Halt {
    Closed,
    Failed(NatsError),
}

impl From<Closed> for Halt {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<NatsError> for Halt {
    fn from(error: NatsError) -> Self {
        Self::Failed(error)
    }
}

impl Sharing {
    pub(super) fn new(
        stream: Arc<Stream>,
        info: StreamInfo,
        lanes: Vec<Lane>,
        ids: &[PartitionId],
        outlet: Outlet,
    ) -> Self {
        let idle: BTreeMap<String, Idle> = lanes
            .into_iter()
            .zip(ids)
            .map(|(lane, id)| (lane.subject().to_owned(), Idle { lane, registered: Some(*id), handed: None }))
            .collect();
        let all = idle.keys().cloned().collect();
        Self { stream, info, idle, active: BTreeMap::new(), reading: JoinSet::new(), all, bounded: false, outlet }
    }

    pub(super) async fn run(mut self, group: Group, bounded: bool) -> Result<(), SourceError> {
        self.bounded = bounded;
        let done = if bounded {
            self.read_all().await
        } else {
            let membership = group.join(&self.outlet);
            let mut done = self.share(&membership).await;
            if !matches!(done, Err(Halt::Closed)) {
                // Whatever the reason: who has the partitions next finds all of it sealed.
                let end = self.leave_all().await;
                done = done.and(end);
            }
            membership.leave().await;
            done
        };
        match done {
            Ok(()) | Err(Halt::Closed) => Ok(()),
            Err(Halt::Failed(error)) => Err(error.into()),
        }
    }

    /// Reads all partitions to the end of the stream: what ends is not shared.
    async fn read_all(&mut self) -> Result<(), Halt> {
        self.take(self.all.iter().cloned().collect()).await?;
        let outlet = self.outlet.clone();
        while !self.active.is_empty() {
            let left = tokio::select! {
                () = outlet.until_stopped() => return Ok(()),
                Some(left) = self.reading.join_next() => joined(left),
            };
            self.left(left).await?;
        }
        Ok(())
    }

    /// Reads this daemon's share until it is stopped.
    async fn share(&mut self, membership: &Membership) -> Result<(), Halt> {
        let mut others = membership.others.clone();
        let outlet = self.outlet.clone();
        loop {
            let known: Others = others.borrow_and_update().clone();
            let step = known.map_or(Step::Nothing, |others| self.decide(&membership.daemon, &others));
            match step {
                Step::Nothing => tokio::select! {
                    () = outlet.until_stopped() => return Ok(()),
                    _ = others.changed() => {}
                    Some(left) = self.reading.join_next() => {
                        self.left(joined(left)).await?;
                        self.tell(membership);
                    }
                },
                Step::GiveAway(subjects) => {
                    self.give_away(&subjects).await?;
                    self.tell(membership);
                }
                Step::Take(subjects) => {
                    let mut reads: BTreeSet<String> = self.active.keys().cloned().collect();
                    reads.extend(subjects.iter().cloned());
                    membership.reads.send_replace(reads);
                    tokio::select! {
                        () = outlet.until_stopped() => return Ok(()),
                        () = tokio::time::sleep(limits::JETSTREAM_SETTLE.to_std()) => {}
                    }
                    // Others may have said the same; then those who come first in the order of names take it.
                    let said = others.borrow_and_update().clone();
                    let is_free = |subject: &String| {
                        said.as_ref().is_some_and(|others| {
                            let mut before = others.range(..membership.daemon.clone());
                            !before.any(|(_, reads)| reads.contains(subject))
                        })
                    };
                    let free = subjects.into_iter().filter(is_free).collect();
                    self.take(free).await?;
                    self.tell(membership);
                }
            }
        }
    }

    fn decide(&self, daemon: &str, others: &BTreeMap<String, BTreeSet<String>>) -> Step {
        next_step(daemon, &self.active.keys().cloned().collect(), &self.all, others)
    }

    fn tell(&self, membership: &Membership) {
        membership.reads.send_replace(self.active.keys().cloned().collect());
    }

    /// Claims partitions and begins to read them.
    async fn take(&mut self, subjects: Vec<String>) -> Result<(), Halt> {
        let names: Vec<(String, String)> = subjects
            .iter()
            .filter_map(|subject| self.idle.get(subject))
            .map(|idle| (idle.lane.name().source.to_string(), idle.lane.name().partition.clone()))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let (claimed, answer) = oneshot::channel();
        self.outlet.send(Feed::Claim { partitions: names, claimed }).await?;
        let claimed: Checkpoint = answer.await.map_err(|_| Closed)?;
        for subject in subjects {
            let Some(Idle { mut lane, registered, handed }) = self.idle.remove(&subject) else { continue };
            match handed.filter(|_| !self.stream.archived) {
                Some(next) => lane.begin_at(next),
                None => lane.locate(&claimed, &self.info)?,
            }
            let id = match registered {
                Some(id) => id,
                None => self.outlet.open_partition(lane.name().clone()).await?,
            };
            let partition = &lane.name().partition;
            tracing::info!(source = %self.stream.source, partition, from = lane.next(), "reading a partition of a JetStream stream");
            let stop = CancellationToken::new();
            self.active.insert(subject.clone(), Active { id, stop: stop.clone() });
            let (outlet, bounded) = (self.outlet.clone(), self.bounded);
            self.reading.spawn(async move {
                let end = tokio::select! {
                    () = stop.cancelled() => None,
                    end = lane.read(id, bounded, &outlet) => Some(end),
                };
                (subject, lane, end)
            });
        }
        Ok(())
    }

    /// Lets partitions go when all of them is sealed.
    async fn give_away(&mut self, subjects: &[String]) -> Result<(), Halt> {
        for subject in subjects {
            if let Some(active) = self.active.get(subject) {
                active.stop.cancel();
            }
        }
        while subjects.iter().any(|subject| self.active.contains_key(subject)) {
            let Some(left) = self.reading.join_next().await else { break };
            self.left(joined(left)).await?;
        }
        self.seal().await
    }

    /// Lets all go, as the source ends. They are not ended: they are this daemon's until somebody claims them.
    async fn leave_all(&mut self) -> Result<(), Halt> {
        self.active.values().for_each(|active| active.stop.cancel());
        while let Some(left) = self.reading.join_next().await {
            drop(joined(left));
        }
        self.seal().await
    }

    async fn seal(&self) -> Result<(), Halt> {
        let (sealed, answer) = oneshot::channel();
        self.outlet.send(Feed::Seal(sealed)).await?;
        answer.await.map_err(|_| Halt::Closed)
    }

    /// A partition isn't read any more.
    async fn left(&mut self, (subject, lane, end): Left) -> Result<(), Halt> {
        let Some(active) = self.active.remove(&subject) else { return Ok(()) };
        let next = lane.next();
        let partition = lane.name().partition.clone();
        self.idle.insert(subject, Idle { lane, registered: None, handed: Some(next) });
        let lost = match end {
            Some(Ok(End::Closed)) => return Err(Halt::Closed),
            Some(Ok(End::Complete)) => {
                self.outlet.send(Feed::Ended(active.id)).await?;
                return Ok(());
            }
            Some(Err(NatsError::Taken { .. })) => true,
            Some(Err(error)) => return Err(error.into()),
            None => false,
        };
        tracing::info!(source = %self.stream.source, partition, lost, "partition goes to another reader");
        self.outlet.send(Feed::Ended(active.id)).await?;
        if lost { self.seal().await } else { Ok(()) }
    }
}

fn joined(left: Result<Left, tokio::task::JoinError>) -> Left {
    left.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
