//! How a running pipeline shares windows with other daemons: where its partitions begin, what it takes over with them, and what it
//! writes for others.

use super::decoding::Extent;
use super::gathering::Outbox;
use super::merging::Messages;
use super::run::{RunError, Runner};
use super::storing::Work;
use crate::archive::{Claimed, Kind};
use crate::limits;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use tokio::sync::oneshot;

/// A claim that was asked for.
pub(super) struct AskedClaim {
    partitions: Vec<(String, String)>,
    answer: oneshot::Receiver<Claimed>,
}

/// How a partition begins that was claimed.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// `None`: at its beginning.
    pub(super) position: Option<u64>,
    /// What was kept of it.
    pub(super) state: Option<Vec<u8>>,
}

impl Runner {
    /// Asks the archive for partitions. The source is told behind us: when it begins to read we know where.
    pub(super) async fn claim(&mut self, partitions: Vec<(String, String)>, claimed: oneshot::Sender<Checkpoint>) {
        let (told, answer) = oneshot::channel();
        if self.stages.wants_beginnings() {
            self.claims.push_back(AskedClaim { partitions: partitions.clone(), answer });
        }
        self.store(Work::Claim { partitions, told, claimed }).await;
    }

    /// Takes note of claims that are done.
    pub(super) fn settle_claims(&mut self) {
        while let Some(asked) = self.claims.front_mut() {
            let claimed = match asked.answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                // The archive has failed, which is reported when its thread is joined.
                answer => answer.unwrap_or_default(),
            };
            let Some(AskedClaim { partitions, .. }) = self.claims.pop_front() else { return };
            for state in &claimed.inherited {
                self.inherit(state);
            }
            for (source, partition) in partitions {
                let position = claimed.checkpoint.find(&source, &partition).map(|known| known.position);
                let part = claimed.parts.iter().find(|part| part.source == source && part.partition == partition);
                let state = part.map(|part| part.bytes.clone());
                self.claimed.insert((source, partition), Beginning { position, state });
            }
            self.begin_claimed();
        }
    }

    /// Takes over what another daemon had sealed and may not have published.
    fn inherit(&mut self, state: &[u8]) {
        let flow = self.books.flow_of(state);
        match flow.map_err(|error| error.to_string()).and_then(|flow| Outbox::split(flow).map_err(|e| e.to_string())) {
            Ok((messages, _)) => self.stages.take_over(messages),
            Err(error) => {
                let pipeline = &self.pipeline;
                tracing::error!(
                    pipeline,
                    error,
                    "cannot read what another daemon has gathered; where it was not published, windows are provisional"
                );
            }
        }
    }

    /// Begins with claimed partitions that are open.
    pub(super) fn begin_claimed(&mut self) {
        if self.claimed.is_empty() {
            return;
        }
        let Self { claimed, partitions, stages, pipeline, .. } = self;
        claimed.retain(|(source, partition), beginning| {
            let is_it = |name: &crate::source::PartitionName| *name.source == **source && name.partition == *partition;
            let open = |known: &super::run::Partition| is_it(&known.name) && !known.ended && !known.begun;
            let Some(at) = partitions.iter().rposition(open) else { return true };
            partitions[at].begun = true;
            stages.begin(pipeline, PartitionId(at), &partitions[at].name, beginning);
            false
        });
    }

    /// Works off what others have gathered.
    pub(super) async fn partials(&mut self, extent: Extent, messages: Messages) {
        let outcome = match self.stages.partials(messages) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.failure.get_or_insert(RunError::Merge(error));
                return;
            }
        };
        let name = self.partitions[extent.partition.0].name.clone();
        let dead = outcome.dead.len() as u64;
        self.books.read(&name, extent.end, extent.records, extent.records - dead);
        self.count_partials(&name.source, extent, &outcome);
        if !outcome.dead.is_empty() && self.tables.contains(&Kind::Dead) {
            self.store(Work::Dead(name, outcome.dead)).await;
        }
        if let Some(storing) = &mut self.storing {
            storing.touch(self.surroundings.clock.monotonic());
        }
        self.alert(outcome.alerts).await;
    }

    /// Notes when what is sealed cannot be written any more.
    pub(super) async fn check_publishing(&mut self) {
        let failure = match &mut self.publishing {
            Some(publishing) => publishing.failure().await,
            None => None,
        };
        self.failure = self.failure.take().or(failure);
    }

    /// Writes what is sealed, and forgets what is written.
    pub(super) fn publish(&mut self) {
        if let (Some(publishing), Some(outbox)) = (&mut self.publishing, self.stages.outbox_mut()) {
            publishing.serve(outbox);
        }
    }

    /// Whether so much waits to be written that nothing more is to be worked off.
    pub(super) fn is_held(&self) -> bool {
        self.stages.outbox().is_some_and(|outbox| outbox.bytes() > limits::PARTIAL_OUTBOX_BYTES)
    }

    /// Waits until all that is sealed is written. True when something was: the seal says otherwise.
    pub(super) async fn end_publishing(&mut self) -> bool {
        let (Some(publishing), Some(outbox)) = (&mut self.publishing, self.stages.outbox_mut()) else { return false };
        let before = outbox.bytes();
        publishing.drain(outbox).await;
        let written = outbox.bytes() != before;
        self.check_publishing().await;
        written
    }
}
