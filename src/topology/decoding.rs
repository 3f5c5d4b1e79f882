//! The decode stage: several decoders side by side, whose batches come out in the order in which they went in.
//!
//! Decoding takes most of the time and needs nothing but its batch, so each of N threads has a decoder of its own;
//! a decoder learns from what it has seen, but what it returns never depends on that. Everything behind it (event time,
//! windows, alerts) needs the order of the source and stays on one thread. What is not a batch (a partition that opens or
//! ends, or what a source says of it besides) waits in the same row, so that the order among all feeds is that of arrival, whatever the number of threads.
//!
//! With one thread nothing is handed over: the batch is decoded where it is asked for.

use super::memory::{Charge, Memory, Stage};
use super::merging::Messages;
use crate::decode::{self, Decoded, Decoder};
use crate::limits;
use crate::record::raw::{PartitionId, RawBatch};
use crate::record::receipt::Checkpoint;
use crate::source::{Buffers, Feed, PartitionName};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use tokio::sync::{mpsc, oneshot};

/// What is left of a raw batch once it is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub partition: PartitionId,
    /// Where the record after the last one starts.
    pub end: u64,
    pub records: u64,
    pub bytes: u64,
}

impl Extent {
    pub fn of(raw: &RawBatch) -> Self {
        let (records, bytes) = (raw.records.len() as u64, raw.bytes.len() as u64);
        Self { partition: raw.partition, end: raw.end, records, bytes }
    }
}

/// What comes out of the stage.
#[derive(Debug)]
pub(super) enum Step {
    Opened(PartitionName),
    /// A decoded batch, which counts as held until the charge is dropped.
    Batch(Extent, Decoded, Charge),
    /// What others have gathered, likewise.
    Partials(Extent, Messages, Charge),
    Identified(PartitionId, String),
    Ended(PartitionId),
    Forgotten(PartitionName),
    Claim(Vec<(String, String)>, oneshot::Sender<Checkpoint>),
    Seal(oneshot::Sender<()>),
}

/// What has been taken from the sources and waits for its turn.
enum Waiting {
    Ready(Step),
    Decoding(oneshot::Receiver<Step>),
}

struct Job {
    raw: RawBatch,
    charge: Charge,
    done: oneshot::Sender<Step>,
}

pub(super) struct Decoding {
    feeds: mpsc::Receiver<Feed>,
    /// No source has more.
    drained: bool,
    waiting: VecDeque<Waiting>,
    way: Way,
    most: usize,
    memory: Arc<Memory>,
}

enum Way {
    Here(Box<Desk>),
    Threads(blocking::SyncSender<Job>),
}

/// What records are.
#[derive(Debug)]
pub(super) enum Reader {
    Lines(decode::Plan),
    /// What other daemons have gathered.
    Partials,
}

/// One decoder, where records are decoded, and what it needs.
struct Desk {
    decoder: Option<Decoder>,
    buffers: Buffers,
    memory: Arc<Memory>,
}

impl Desk {
    fn decode(&mut self, raw: RawBatch, charge: Charge) -> Step {
        let extent = Extent::of(&raw);
        let Some(decoder) = &mut self.decoder else { return Step::Partials(extent, Messages::read(raw), charge) };
        let decoded = decoder.decode(&raw);
        self.buffers.give_back(raw.bytes);
        drop(charge);
        let bytes = decoded.rows.get_array_memory_size() as u64;
        Step::Batch(extent, decoded, Memory::charge(&self.memory, Stage::Decoded, bytes))
    }
}

impl Decoding {
    /// Starts the threads, where there are several. They end with the value that is returned.
    pub(super) fn start(
        reader: &Reader,
        threads: NonZeroUsize,
        feeds: mpsc::Receiver<Feed>,
        buffers: &Buffers,
        memory: Arc<Memory>,
    ) -> Self {
        let decoder = || match reader {
            Reader::Lines(plan) => Some(Decoder::new(plan)),
            Reader::Partials => None,
        };
        let desk = || Desk { decoder: decoder(), buffers: buffers.clone(), memory: Arc::clone(&memory) };
        // A batch in each decoder's hands, and one more each that is done or waits.
        let most = 2 * threads.get();
        let way = if threads.get() == 1 {
            Way::Here(Box::new(desk()))
        } else {
            let (jobs, queue) = blocking::sync_channel(most);
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..threads.get() {
                let (queue, desk) = (Arc::clone(&queue), desk());
                // A panic drops the job's sender and goes on in `next`.
                drop(tokio::task::spawn_blocking(move || serve(desk, &queue)));
            }
            Way::Threads(jobs)
        };
        Self { feeds, drained: false, waiting: VecDeque::new(), way, most, memory }
    }

    /// The next step in the order of arrival; `None` when all sources have ended and everything is worked off. Nothing
    /// is lost when the future is dropped before it is ready.
    pub(super) async fn next(&mut self) -> Option<Step> {
        loop {
            // Keeping the decoders busy comes first; it takes no time.
            while self.has_room()
                && let Ok(feed) = self.feeds.try_recv()
            {
                self.take(feed);
            }
            let room = self.has_room();
            let more = room && !self.drained;
            match self.waiting.front_mut() {
                Some(Waiting::Ready(_)) => {
                    let Some(Waiting::Ready(step)) = self.waiting.pop_front() else { unreachable!("it was looked at") };
                    return Some(step);
                }
                Some(Waiting::Decoding(done)) => tokio::select! {
                    biased;
                    step = done => {
                        self.waiting.pop_front();
                        return Some(step.expect("a decoder answers each batch"));
                    }
                    feed = self.feeds.recv(), if more => self.receive(feed),
                },
                None if self.drained => return None,
                None => {
                    let feed = self.feeds.recv().await;
                    self.receive(feed);
                }
            }
        }
    }

    /// Whether no feed waits: only then silence is silence.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.feeds.is_empty()
    }

    /// Bytes that wait in front of the stage, about.
    pub(super) fn queued_bytes(&self) -> u64 {
        (self.feeds.len() * limits::BATCH_BYTES) as u64
    }

    /// Sources wait when as much is under way as may be, or when memory is short: what is under way goes first.
    fn has_room(&self) -> bool {
        match self.way {
            Way::Here(_) => self.waiting.is_empty(),
            Way::Threads(_) => {
                self.waiting.is_empty() || (self.waiting.len() < self.most && self.memory.has_room_for_a_batch())
            }
        }
    }

    fn receive(&mut self, feed: Option<Feed>) {
        match feed {
            Some(feed) => self.take(feed),
            None => self.drained = true,
        }
    }

    fn take(&mut self, feed: Feed) {
        let waiting = match feed {
            Feed::Opened { name, .. } => Waiting::Ready(Step::Opened(name)),
            Feed::Identified { id, identity } => Waiting::Ready(Step::Identified(id, identity)),
            Feed::Ended(partition) => Waiting::Ready(Step::Ended(partition)),
            Feed::Forgotten(name) => Waiting::Ready(Step::Forgotten(name)),
            Feed::Claim { partitions, claimed } => Waiting::Ready(Step::Claim(partitions, claimed)),
            Feed::Seal(sealed) => Waiting::Ready(Step::Seal(sealed)),
            Feed::Batch(raw) => {
                let charge = Memory::charge(&self.memory, Stage::Raw, raw.bytes.capacity() as u64);
                match &mut self.way {
                    Way::Here(desk) => Waiting::Ready(desk.decode(raw, charge)),
                    Way::Threads(jobs) => {
                        let (done, receiver) = oneshot::channel();
                        // The queue holds as many as may wait, so this never blocks.
                        jobs.send(Job { raw, charge, done }).expect("decoders end after their queue");
                        Waiting::Decoding(receiver)
                    }
                }
            }
        };
        self.waiting.push_back(waiting);
    }
}

fn serve(mut desk: Desk, queue: &Mutex<blocking::Receiver<Job>>) {
    loop {
        // One waits for a job, the others for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { raw, charge, done }) = job else { return };
        // Nobody waits any more when the pipeline has failed.
        let _ = done.send(desk.decode(raw, charge));
    }
}
