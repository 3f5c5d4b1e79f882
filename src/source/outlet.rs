//! The bounded way from a source into the pipeline.

use super::{Feed, PartitionName};
use crate::limits;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::Span;
use crate::time::clock::Clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// The pipeline takes no more; the source returns as if it had been stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot hand on records, the pipeline is closed")]
pub struct Closed;

/// Buffers of batches that were worked off, for those to come: their memory is mapped and warm. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer; a new one without memory where none was given back.
    pub fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps a buffer to be taken again, unless [`limits::BUFFERS_KEPT`] wait already or it is far from a batch's size.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        if !(limits::BATCH_BYTES..=limits::BATCH_BYTES + limits::RECORD_BYTES).contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < limits::BUFFERS_KEPT {
            kept.push(buffer);
        }
    }
}

/// Where a source puts what it reads. All sources of a pipeline have clones of one outlet.
#[derive(Debug, Clone)]
pub struct Outlet {
    feeds: mpsc::Sender<Feed>,
    /// The next partition number. Held while `Opened` is queued, so that numbers arrive in order.
    next: Arc<Mutex<usize>>,
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
    buffers: Buffers,
    seals: Arc<watch::Sender<Checkpoint>>,
    tombstones: Arc<AtomicU64>,
}

impl Outlet {
    /// An outlet into a new queue of `capacity` feeds. Partitions that are opened later get numbers from
    /// `partitions` on, which is how many are registered already.
    pub fn channel(
        capacity: usize,
        partitions: usize,
        stop: CancellationToken,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::Receiver<Feed>) {
        let (feeds, receiver) = mpsc::channel(capacity);
        let (next, buffers) = (Arc::new(Mutex::new(partitions)), Buffers::default());
        let seals = Arc::new(watch::Sender::new(Checkpoint::default()));
        let tombstones = Arc::default();
        (Self { feeds, next, stop, clock, buffers, seals, tombstones }, receiver)
    }

    /// Where the pipeline tells what is sealed; it keeps this and not the outlet, whose end is the end of all feeds.
    pub fn seals(&self) -> Arc<watch::Sender<Checkpoint>> {
        Arc::clone(&self.seals)
    }

    /// What was sealed in this run, always the newest: only now may a broker be told that records have arrived. Empty
    /// until the first seal, and for ever where there is no archive.
    pub fn sealed(&self) -> watch::Receiver<Checkpoint> {
        self.seals.subscribe()
    }

    /// Hands `feed` on, waiting while the queue is full.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn send(&self, feed: Feed) -> Result<(), Closed> {
        self.feeds.send(feed).await.map_err(|_| Closed)
    }

    /// As [`Self::send`], for a blocking thread.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub fn send_blocking(&self, feed: Feed) -> Result<(), Closed> {
        self.feeds.blocking_send(feed).map_err(|_| Closed)
    }

    /// As [`Self::send_blocking`], but waits for no longer than `patience` and then gives the feed back.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub fn offer_blocking(&self, feed: Feed, patience: Span) -> Result<Option<Feed>, Closed> {
        let feed = match self.feeds.try_send(feed) {
            Ok(()) => return Ok(None),
            Err(TrySendError::Closed(_)) => return Err(Closed),
            Err(TrySendError::Full(feed)) => feed,
        };
        let reserved = Handle::current().block_on(async {
            tokio::select! {
                biased;
                permit = self.feeds.reserve() => Some(permit.map_err(|_| Closed)),
                () = tokio::time::sleep(patience.to_std()) => None,
                () = self.until_stopped() => None,
            }
        });
        match reserved {
            Some(permit) => {
                permit?.send(feed);
                Ok(None)
            }
            None => Ok(Some(feed)),
        }
    }

    /// Counts records without a value, which are no rows.
    pub fn count_tombstone(&self) {
        self.tombstones.fetch_add(1, Ordering::Relaxed);
    }

    /// Where they are counted, for the pipeline to tell.
    pub fn tombstones(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.tombstones)
    }

    /// Numbers and announces a partition that was not known before.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn open_partition(&self, name: PartitionName) -> Result<PartitionId, Closed> {
        let permit = self.feeds.reserve().await.map_err(|_| Closed)?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let id = PartitionId(*next);
        *next += 1;
        permit.send(Feed::Opened { id, name });
        Ok(id)
    }

    /// As [`Self::open_partition`], for a thread of [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    /// When the receiver is gone.
    pub fn open_partition_blocking(&self, name: PartitionName) -> Result<PartitionId, Closed> {
        Handle::current().block_on(self.open_partition(name))
    }

    /// Makes partitions of a shared source, by source and name, this daemon's. Returns where each goes on, of those that were
    /// read before. For a thread of [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    /// When the pipeline has ended meanwhile, as it does when the claim fails.
    pub fn claim_blocking(&self, partitions: Vec<(String, String)>) -> Result<Checkpoint, Closed> {
        let (claimed, answer) = oneshot::channel();
        self.send_blocking(Feed::Claim { partitions, claimed })?;
        answer.blocking_recv().map_err(|_| Closed)
    }

    /// Waits until all that was handed on is sealed, which is begun at once. For a thread of
    /// [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    /// When the pipeline has ended meanwhile, as it does when the seal fails.
    pub fn seal_blocking(&self) -> Result<(), Closed> {
        let (sealed, answer) = oneshot::channel();
        self.send_blocking(Feed::Seal(sealed))?;
        answer.blocking_recv().map_err(|_| Closed)
    }

    /// Whether the source shall stop.
    pub fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for the stop.
    pub async fn until_stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for `span` or the stop, whichever is first; for a thread of [`tokio::task::spawn_blocking`].
    pub fn pause_blocking(&self, span: Span) {
        // Running out of time is what a pause is for.
        let _ = Handle::current().block_on(async { tokio::time::timeout(span.to_std(), self.until_stopped()).await });
    }

    /// Where buffers for batches are to be had, and given back by whoever has worked a batch off.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }
}

/// Runs `work` on a thread where it may block; a panic there goes on here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
