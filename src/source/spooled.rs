//! The way of records that cannot be read again: through a spool on disk into the pipeline.
//!
//! Two threads. The writer gathers what an [`Intake`] delivers for as long as `spool.sync` says and makes it durable at once;
//! all of a group has one time of arrival, which is stored with it. The reader hands on what is durable, group by group, and
//! deletes what the archive has sealed. So a run after a crash hands on the same records with the same numbers and times.
//!
//! When the spool is full, the writer waits for [`limits::SPOOL_HOLD`], and the sender with it. If nothing has been sealed
//! by then, what comes is thrown away and counted (`spool_full`), so that a server doesn't cut us off and it is known how
//! much was lost. The same when the disk is full.

use super::outlet::blocking;
use super::spool::{self, Extent, Opened, Reader, SpoolConfig, SpoolError, Writer};
use super::{Feed, Outlet, PartitionName, Setting, SourceError};
use crate::limits;
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::time::clock::Clock;
use crate::time::{EventTime, Span};
use prometheus::{IntCounter, IntGauge};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Records that came together, back to back.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Delivery {
    /// Adds a record; one of nothing but white space is none.
    pub(super) fn push(&mut self, record: &[u8]) {
        let record = record.trim_ascii_end();
        if !record.is_empty() {
            self.bytes.extend_from_slice(record);
            self.ends.push(self.bytes.len());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether it should be delivered before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= limits::BATCH_BYTES / 4
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

/// Where deliveries go. The spool is closed when it is dropped.
#[derive(Debug)]
pub(super) struct Intake(mpsc::Sender<Delivery>);

impl Intake {
    /// Hands a delivery to the writer, waiting while it is behind. False when it has failed.
    pub(super) async fn put(&self, delivery: Delivery) -> bool {
        self.0.send(delivery).await.is_ok()
    }
}

/// A source's spool that is open.
#[derive(Debug)]
pub(super) struct Spooled {
    name: PartitionName,
    opened: Opened,
    sync: Span,
    archived: bool,
    bytes: IntGauge,
    lost: IntCounter,
}

impl Spooled {
    /// Opens the spool of source `source`, to go on where the archive ends.
    ///
    /// # Errors
    /// Those of [`spool::open`].
    pub(super) fn open(
        source: &str,
        partition: &str,
        config: &SpoolConfig,
        stored: &Checkpoint,
        setting: &Setting<'_>,
        clock: &dyn Clock,
    ) -> Result<Self, SourceError> {
        let folder = setting.data_dir.join(setting.pipeline).join(source);
        let fresh = format!("spool-{}", clock.now().micros());
        let identity = spool::identify(&folder, &fresh)?;
        let known = stored.find(source, partition);
        let position = known.filter(|known| known.identity == identity).map(|known| known.position);
        if known.is_some() && position.is_none() {
            tracing::warn!(source, folder = %folder.display(), "the spool is not the one that the archive knows, beginning anew");
        }
        let opened = spool::open(&folder, config.size.0, position)?;
        if opened.cut_bytes > 0 {
            tracing::warn!(source, bytes = opened.cut_bytes, "cut a tail of the spool that was never accepted");
        }
        if opened.missing > 0 {
            tracing::error!(source, records = opened.missing, "records are neither in the archive nor in the spool");
        }
        opened.extent.release(position.unwrap_or(0))?;
        let labels = [setting.pipeline, source];
        let bytes = setting.telemetry.spool_bytes.with_label_values(&labels);
        bytes.set(opened.extent.bytes().cast_signed());
        Ok(Self {
            name: PartitionName { source: source.into(), partition: partition.to_owned(), identity },
            opened,
            sync: config.sync,
            archived: setting.archived,
            bytes,
            lost: setting.telemetry.dropped.with_label_values(&[setting.pipeline, "spool_full"]),
        })
    }

    pub(super) fn name(&self) -> &PartitionName {
        &self.name
    }

    /// Starts both threads. The future ends when the intake is gone and all is durable, or something failed; what is not
    /// handed on by the time the outlet is stopped is handed on by the next run.
    pub(super) fn start(
        self,
        id: PartitionId,
        outlet: &Outlet,
    ) -> (Intake, impl Future<Output = Result<(), SourceError>> + use<>) {
        let (sender, queue) = mpsc::channel(limits::SPOOL_QUEUE);
        let Self { name, opened: Opened { writer, reader, extent, .. }, sync, archived, bytes, lost } = self;
        let keeper = Keeper { writer, extent: extent.clone(), sync, bytes, lost, holding: true, missed: None };
        let hander = Hander { reader, extent, name, id, archived };
        let (writing, reading) = (outlet.clone(), outlet.clone());
        let done = async move {
            let (kept, handed) = futures::future::join(
                blocking(move || keeper.run(queue, &writing)),
                blocking(move || hander.run(&reading)),
            )
            .await;
            kept.and(handed).map_err(SourceError::Spool)
        };
        (Intake(sender), done)
    }
}

/// The writing thread.
struct Keeper {
    writer: Writer,
    extent: Extent,
    sync: Span,
    bytes: IntGauge,
    lost: IntCounter,
    /// Whether to wait when the spool is full. Once that was in vain, only after it had room again.
    holding: bool,
    /// How many records were thrown away since its disk is full and waiting was in vain; `None` while there is room.
    missed: Option<u64>,
}

impl Keeper {
    fn run(mut self, mut queue: mpsc::Receiver<Delivery>, outlet: &Outlet) -> Result<(), SpoolError> {
        let runtime = Handle::current();
        while let Some(first) = queue.blocking_recv() {
            let (arrival, started) = (outlet.clock().now(), outlet.clock().monotonic());
            let mut gathered = self.keep(&first, arrival, outlet)?;
            while gathered < limits::BATCH_BYTES {
                let left = self.sync.micros() - outlet.clock().monotonic().since(started).micros();
                if left <= 0 {
                    break;
                }
                let next = async { tokio::time::timeout(Span::from_micros(left).to_std(), queue.recv()).await };
                let Ok(Some(next)) = runtime.block_on(next) else { break };
                gathered += self.keep(&next, arrival, outlet)?;
            }
            self.make_durable(outlet)?;
            self.bytes.set(self.extent.bytes().cast_signed());
        }
        Ok(())
    }

    /// Makes durable what was appended. On a full disk it waits, and in the end throws it away.
    fn make_durable(&mut self, outlet: &Outlet) -> Result<(), SpoolError> {
        let since = outlet.clock().monotonic();
        let mut told = false;
        loop {
            let full = match self.writer.sync() {
                Ok(_) => {
                    if let Some(lost) = self.missed.take() {
                        tracing::warn!(lost, "the spool's disk has room again");
                    }
                    return Ok(());
                }
                Err(full) if full.is_no_room() => full,
                Err(error) => return Err(error),
            };
            let waited = outlet.clock().monotonic().since(since) >= limits::SPOOL_HOLD;
            if self.missed.is_some() || waited || outlet.stopped() {
                let lost = self.writer.discard()?;
                self.lost.inc_by(lost);
                if self.missed.is_none() {
                    tracing::error!(error = %full, hint = full.hint(), "what comes from now on is lost and counted, until there is room");
                }
                *self.missed.get_or_insert(0) += lost;
                return Ok(());
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(error = %full, hint = full.hint(), "the spool's disk is full, holding back who sends");
            }
            outlet.pause_blocking(self.sync);
        }
    }

    /// Appends what fits, and returns its bytes.
    fn keep(&mut self, delivery: &Delivery, arrival: EventTime, outlet: &Outlet) -> Result<usize, SpoolError> {
        for record in delivery.records() {
            match self.append(record, arrival, outlet) {
                Ok(()) => {}
                Err(full @ SpoolError::Full { .. }) => {
                    if self.holding {
                        tracing::error!(error = %full, "what comes from now on is lost and counted, until there is room");
                    }
                    self.holding = false;
                    self.lost.inc();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(delivery.bytes.len())
    }

    fn append(&mut self, record: &[u8], arrival: EventTime, outlet: &Outlet) -> Result<(), SpoolError> {
        let since = outlet.clock().monotonic();
        loop {
            let full = match self.writer.append(record, arrival) {
                Ok(_) => {
                    self.holding = true;
                    return Ok(());
                }
                Err(full @ SpoolError::Full { .. }) => full,
                Err(error) => return Err(error),
            };
            // What waits unsynced could not be handed on, sealed and deleted.
            self.make_durable(outlet)?;
            let waited = outlet.clock().monotonic().since(since) >= limits::SPOOL_HOLD;
            if !self.holding || waited || outlet.stopped() {
                return Err(full);
            }
            outlet.pause_blocking(self.sync);
        }
    }
}

/// The reading thread.
struct Hander {
    reader: Reader,
    extent: Extent,
    name: PartitionName,
    id: PartitionId,
    archived: bool,
}

impl Hander {
    fn run(mut self, outlet: &Outlet) -> Result<(), SpoolError> {
        let mut sealed = outlet.sealed();
        let wait = limits::BATCH_WAIT.to_std();
        while !outlet.stopped() {
            if sealed.has_changed().unwrap_or(false) {
                let position =
                    sealed.borrow_and_update().find(&self.name.source, &self.name.partition).map(mine(&self.name));
                self.extent.release(position.flatten().unwrap_or(0))?;
            }
            if !self.extent.wait_for(self.reader.next(), wait) {
                if self.extent.is_closed() {
                    break;
                }
                continue;
            }
            let group = self.reader.read(outlet.buffers().take())?;
            let Some(arrival) = group.arrival else { continue };
            let end = self.reader.next();
            let positions = Positions::Sequence { first: group.first };
            let (partition, bytes, records) = (self.id, group.bytes, group.records);
            let batch = RawBatch { partition, bytes, records, positions, end, broker_time: None, arrival };
            if outlet.send_blocking(Feed::Batch(batch)).is_err() {
                break;
            }
            if !self.archived {
                // Nobody will say that anything is sealed.
                self.extent.release(end)?;
            }
        }
        Ok(())
    }
}

fn mine(name: &PartitionName) -> impl Fn(&PartitionPosition) -> Option<u64> {
    move |entry| (entry.identity == name.identity).then_some(entry.position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::{clock, setting};
    use crate::telemetry::metrics::SelfMetrics;
    use std::path::Path;
    use tokio::sync::mpsc::Receiver;
    use tokio_util::sync::CancellationToken;

    const RECORD: usize = 1_000;

    struct Pipeline {
        runtime: tokio::runtime::Runtime,
        telemetry: SelfMetrics,
        stop: CancellationToken,
        outlet: Outlet,
        feeds: Receiver<Feed>,
        name: PartitionName,
        intake: Intake,
        done: tokio::task::JoinHandle<Result<(), SourceError>>,
    }

    fn start(folder: &Path, size: u64, stored: &Checkpoint) -> Pipeline {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let telemetry = SelfMetrics::new();
        let config = SpoolConfig { size: crate::units::ByteSize(size), ..SpoolConfig::default() };
        let spooled =
            Spooled::open("s", "logs.>", &config, stored, &setting(folder, &telemetry), clock().as_ref()).unwrap();
        let name = spooled.name().clone();
        let stop = CancellationToken::new();
        let (outlet, feeds) = Outlet::channel(2, 1, stop.clone(), clock());
        let (intake, done) = {
            let _entered = runtime.enter();
            spooled.start(PartitionId(0), &outlet)
        };
        let done = runtime.spawn(done);
        Pipeline { runtime, telemetry, stop, outlet, feeds, name, intake, done }
    }

    impl Pipeline {
        fn put(&self, records: usize) {
            let mut delivery = Delivery::default();
            (0..records).for_each(|_| delivery.push(&[b'x'; RECORD]));
            assert!(self.runtime.block_on(self.intake.put(delivery)));
        }

        /// Takes batches until record `end` was among them; their ends and times.
        fn take(&mut self, end: u64) -> Vec<(u64, EventTime)> {
            let mut taken = Vec::new();
            while taken.last().is_none_or(|(last, _)| *last < end) {
                let Some(Feed::Batch(batch)) = self.feeds.blocking_recv() else { panic!("a batch") };
                taken.push((batch.end, batch.arrival));
            }
            taken
        }

        fn stored(&self, position: u64) -> Checkpoint {
            let PartitionName { source, partition, identity } = self.name.clone();
            let entry = PartitionPosition { source: source.to_string(), partition, identity, position };
            Checkpoint { partitions: vec![entry] }
        }

        fn end(self) {
            self.stop.cancel();
            drop((self.intake, self.feeds));
            self.runtime.block_on(self.done).unwrap().unwrap();
        }
    }

    #[test]
    fn what_was_not_sealed_comes_again_with_the_same_numbers_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = start(folder.path(), 16_000_000, &Checkpoint::default());
        let mut before = Vec::new();
        for turn in 1..=3 {
            first.put(10);
            before.extend(first.take(turn * 10));
        }
        let stored = first.stored(10);
        first.end();
        let mut second = start(folder.path(), 16_000_000, &stored);
        let again = second.take(30);
        assert_eq!(again, before.into_iter().filter(|(end, _)| *end > 10).collect::<Vec<_>>());
        second.end();
    }

    #[test]
    fn what_a_full_spool_cannot_take_is_counted_until_something_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let mut pipeline = start(folder.path(), 100_000, &Checkpoint::default());
        let lost = pipeline.telemetry.dropped.with_label_values(&["p", "spool_full"]);
        for _ in 0..20 {
            pipeline.put(10);
        }
        // At most a hundred of them fit, so at least as many must be lost.
        while lost.get() < 200 - 100_000 / RECORD as u64 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        pipeline.put(1);
        let mut accepted = 0;
        while accepted + lost.get() < 201 {
            match pipeline.feeds.try_recv() {
                Ok(Feed::Batch(batch)) => accepted = batch.end,
                _ => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
        let sealed = pipeline.stored(accepted);
        pipeline.outlet.seals().send_replace(sealed);
        let before = lost.get();
        let mut sent = 0;
        while pipeline.feeds.try_recv().is_err() {
            pipeline.put(1);
            sent += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(lost.get() - before < sent, "some were taken again");
        pipeline.end();
    }
}
