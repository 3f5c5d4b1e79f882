//! How partitions go from daemon to daemon.
//!
//! The group says who reads a partition. From where, the archive says, and only when the partition is *claimed*: from then on
//! nobody else can seal any of it. So a partition that the group gives is claimed first, then looked up on the broker (it
//! may have been cut or made anew), then read. One that the group takes away ends here, all that was handed on of it is
//! sealed, and only then the group is told, which gives it to the next one: so whoever claims it finds everything sealed, and
//! nothing of it is staged here.
//!
//! Both take as long as the pipeline takes, and other partitions are read meanwhile: nothing here waits. The group waits for
//! `max.poll.interval.ms` (5 minutes) at most. Partitions that are *lost* (this daemon was silent for longer than a
//! session) are let go at once, as others may read them already. What was handed on of them is sealed at once, too. When
//! another daemon has claimed them before that, the seal fails and this daemon ends with `cannot seal …: … has claimed …`:
//! what it has in memory and in windows holds records that are the other's now, and cannot be taken out. Its next start goes
//! on cleanly.
//!
//! Without an archive nothing is claimed or sealed; a partition that comes back goes on where it was handed on.

use super::broker::{self, BrokerError, Change, Key};
use super::lane::Lane;
use super::offsets::Offsets;
use super::partition_name;
use super::reading::{Halt, Reading};
use crate::record::receipt::Checkpoint;
use crate::source::{Closed, Feed};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// What the group has decided, while it is being done.
pub(super) enum Handover {
    /// Ours as soon as the archive agrees.
    Claiming { keys: Vec<Key>, answer: oneshot::Receiver<Checkpoint> },
    /// Ours; where to begin is known of the first ones.
    Locating { keys: Vec<Key>, claimed: Checkpoint, located: Vec<(Key, Option<u64>)> },
    /// The next one's as soon as all is sealed.
    Sealing { keys: Vec<Key>, answer: oneshot::Receiver<()> },
}

impl Reading<'_> {
    /// Does what the group has decided, as far as it can be done now.
    pub(super) fn serve_group(&mut self) -> Result<(), Halt> {
        self.changes.extend(self.kafka.client.context().take_changes());
        loop {
            self.handover = match self.handover.take() {
                Some(handover) => match self.go_on(handover)? {
                    Some(waiting) => {
                        self.handover = Some(waiting);
                        return Ok(());
                    }
                    None => None,
                },
                None => match self.changes.pop_front() {
                    Some(Change::Assigned(keys)) => Some(self.claim(keys)),
                    Some(Change::Revoked { keys, lost }) => self.give_away(keys, lost)?,
                    None => return Ok(()),
                },
            };
        }
    }

    /// Asks the archive for partitions.
    fn claim(&mut self, keys: Vec<Key>) -> Handover {
        let (claimed, answer) = oneshot::channel();
        let source = &self.kafka.source;
        let partitions = keys.iter().map(|key| (source.to_string(), partition_name(key))).collect();
        if keys.is_empty() {
            return Handover::Locating { keys, claimed: Checkpoint::default(), located: Vec::new() };
        }
        self.ready.push_back(Feed::Claim { partitions, claimed });
        Handover::Claiming { keys, answer }
    }

    /// Ends partitions, and asks that they be sealed.
    fn give_away(&mut self, keys: Vec<Key>, lost: bool) -> Result<Option<Handover>, Halt> {
        for key in &keys {
            let Some(at) = self.lanes.iter().position(|lane| lane.key == *key) else { continue };
            let lane = self.lanes.remove(at);
            tracing::info!(source = %self.kafka.source, partition = partition_name(key), lost, "partition goes to another reader");
            // What waits was not handed on; whoever has the partition next reads it.
            self.ready.retain(|feed| !matches!(feed, Feed::Batch(batch) if batch.partition == lane.id));
            self.ready.push_back(Feed::Ended(lane.id));
        }
        self.last = 0;
        let (sealed, answer) = oneshot::channel();
        self.ready.push_back(Feed::Seal(sealed));
        if lost {
            self.let_go(&keys)?;
            return Ok(None);
        }
        Ok(Some(Handover::Sealing { keys, answer }))
    }

    /// Goes on with a handover; gives it back when it has to wait.
    fn go_on(&mut self, handover: Handover) -> Result<Option<Handover>, Halt> {
        match handover {
            Handover::Claiming { keys, mut answer } => match answer.try_recv() {
                Ok(claimed) => self.go_on(Handover::Locating { keys, claimed, located: Vec::new() }),
                Err(TryRecvError::Empty) => Ok(Some(Handover::Claiming { keys, answer })),
                Err(TryRecvError::Closed) => Err(Halt::Closed),
            },
            Handover::Locating { keys, claimed, mut located } => {
                for key in &keys[located.len()..] {
                    let Some(position) = self.locate(key, &claimed)? else {
                        return Ok(Some(Handover::Locating { keys, claimed, located }));
                    };
                    located.push((key.clone(), position));
                }
                self.begin(located)?;
                Ok(None)
            }
            Handover::Sealing { keys, mut answer } => match answer.try_recv() {
                Err(TryRecvError::Closed) => Err(Halt::Closed),
                // Lost while it was sealed: the group doesn't wait any more.
                Err(TryRecvError::Empty) if !self.kafka.client.assignment_lost() => {
                    Ok(Some(Handover::Sealing { keys, answer }))
                }
                Ok(()) | Err(TryRecvError::Empty) => self.let_go(&keys).map(|()| None),
            },
        }
    }

    /// Where to begin with a partition that is ours; `None` when the broker cannot be asked for now.
    fn locate(&self, key: &Key, claimed: &Checkpoint) -> Result<Option<Option<u64>>, Halt> {
        if !self.kafka.archived
            && let Some(position) = self.handed.get(key)
        {
            return Ok(Some(Some(*position)));
        }
        let Ok((least, end)) = broker::extent(&self.kafka.client, key)? else { return Ok(None) };
        Ok(Some(self.kafka.first_position(claimed, key, least, end)?))
    }

    /// Has the group share out its partitions once more, behind the first that it gives.
    ///
    /// A member that is known by its name and starts again gets what it had, and nothing else happens (KIP-345). Where it was killed while
    /// it gave partitions away, it had them no more, and it never said that others may take them (KIP-429 does that by joining again):
    /// they would be nobody's until some other member comes or goes. So it joins again with what it has now. What others have stays
    /// with them, and is read on meanwhile.
    ///
    /// librdkafka joins again for a subscription that is made while partitions are being given, once they are taken.
    fn ask_anew(&mut self) -> Result<(), Halt> {
        if std::mem::take(&mut self.ask_anew) {
            self.kafka.subscribe()?;
        }
        Ok(())
    }

    /// Reads partitions from where they go on.
    fn begin(&mut self, located: Vec<(Key, Option<u64>)>) -> Result<(), Halt> {
        self.ask_anew()?;
        refused(broker::take_up(&self.kafka.client, &located, !self.kafka.bounded))?;
        if !located.is_empty() {
            let names: Vec<String> = located.iter().map(|(key, _)| partition_name(key)).collect();
            tracing::info!(source = %self.kafka.source, partitions = names.join(" "), "reading Kafka partitions");
        }
        let mut committed = TopicPartitionList::new();
        for (key, position) in located {
            if let Some(position) = position {
                // An offset that is none comes from no broker.
                let _ = committed.add_partition_offset(&key.0, key.1, Offset::Offset(position as i64));
            }
            self.open(key, position.unwrap_or(0))?;
        }
        self.commit(&committed);
        if self.paused {
            self.pause();
        }
        Ok(())
    }

    fn open(&mut self, key: Key, position: u64) -> Result<(), Closed> {
        let id = match self.registered.remove(&key) {
            Some(id) => id,
            None => self.outlet.open_partition_blocking(self.kafka.name(&key))?,
        };
        let filling = Offsets::new(id, position, self.outlet.buffers().clone());
        let known = self.kafka.known.iter().find(|known| known.key == key);
        let end = known.filter(|_| self.kafka.bounded).map(|known| known.end);
        self.lanes.push(Lane { key, id, filling, end, done: false });
        if end.is_some_and(|end| position >= end) {
            self.end(self.lanes.len() - 1);
        }
        Ok(())
    }

    fn let_go(&self, keys: &[Key]) -> Result<(), Halt> {
        refused(broker::give_up(&self.kafka.client, keys))
    }

    /// Ends the membership: a client that is dropped waits for whatever the group has asked for last.
    pub(super) fn close(&mut self) {
        let client = &self.kafka.client;
        client.context().close();
        self.changes.extend(client.context().take_changes());
        let half_done = self.handover.take().map(|handover| match handover {
            Handover::Claiming { keys, .. } | Handover::Locating { keys, .. } => Change::Assigned(keys),
            Handover::Sealing { keys, .. } => Change::Revoked { keys, lost: false },
        });
        if self.kafka.bounded {
            return;
        }
        for change in half_done.into_iter().chain(self.changes.drain(..)) {
            let done = match change {
                // Taken up only to be given back.
                Change::Assigned(keys) => {
                    let nowhere: Vec<_> = keys.into_iter().map(|key| (key, None)).collect();
                    broker::take_up(client, &nowhere, true)
                }
                Change::Revoked { keys, .. } => broker::give_up(client, &keys),
            };
            if let Err(error) = done {
                tracing::debug!(%error, "Kafka client refuses a change while it ends");
            }
        }
    }
}

fn refused(done: KafkaResult<()>) -> Result<(), Halt> {
    done.map_err(|error| BrokerError::Read { reason: error.to_string() }.into())
}
