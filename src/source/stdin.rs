//! `type: stdin`: lines from standard input, until it ends.
//!
//! Read on a thread of its own with poll(2) before each read, so that a slow pipe's lines are handed on after
//! `limits::BATCH_WAIT` and a stop is noticed as soon. Never resumes: a later run's input is another one.

use super::lines::Lines;
use super::outlet::blocking;
use super::{Closed, Feed, Outlet, PartitionName, Source, SourceError};
use crate::limits::BATCH_WAIT;
use crate::record::raw::PartitionId;
use futures::future::BoxFuture;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Stdin {
    source: Arc<str>,
    /// A descriptor of our own for the same input: the standard library's reader would keep bytes back that poll(2) then
    /// knows nothing of.
    input: File,
    total: Option<u64>,
}

impl Stdin {
    /// # Errors
    /// When standard input is closed.
    pub(super) fn connect(source: &str) -> Result<Self, SourceError> {
        match io::stdin().as_fd().try_clone_to_owned() {
            Ok(descriptor) => Ok(Self::over(source, File::from(descriptor))),
            Err(source) => Err(SourceError::Stdin { position: 0, source }),
        }
    }

    fn over(source: &str, mut input: File) -> Self {
        // A redirected file has a size, a pipe has none.
        let total = match input.metadata() {
            Ok(metadata) if metadata.is_file() => {
                input.stream_position().ok().map(|position| metadata.len().saturating_sub(position))
            }
            _ => None,
        };
        Self { source: source.into(), input, total }
    }

    fn read(self, id: PartitionId, outlet: &Outlet) -> Result<Result<(), Closed>, SourceError> {
        let mut lines = Lines::new(id, 0, outlet.buffers().clone());
        // When the oldest record that waits in `lines` came.
        let mut since = None;
        loop {
            let failed = |source| SourceError::Stdin { position: lines.position(), source };
            if outlet.stopped() {
                // What was read cannot be read again by anybody, so all of it goes on, a line without its end as well.
                return Ok(hand_on_rest(&mut lines, outlet));
            }
            let readable = wait(&self.input).map_err(failed)?;
            if readable {
                match lines.fill(|buffer| Ok(rustix::io::read(&self.input, spare_capacity(buffer))?)) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if is_passing(&error) => {}
                    Err(source) => return Err(SourceError::Stdin { position: lines.position(), source }),
                }
            }
            let now = outlet.clock().monotonic();
            let waited = lines.ready() && now.since(*since.get_or_insert(now)) >= BATCH_WAIT;
            if !readable || lines.full() || waited {
                since = None;
                if let Err(closed) = hand_on(&mut lines, outlet) {
                    return Ok(Err(closed));
                }
            }
        }
        if let Err(closed) = hand_on_rest(&mut lines, outlet) {
            return Ok(Err(closed));
        }
        Ok(outlet.send_blocking(Feed::Ended(id)))
    }
}

/// Hands on everything that was read.
fn hand_on_rest(lines: &mut Lines, outlet: &Outlet) -> Result<(), Closed> {
    while let Some(batch) = lines.finish(outlet.clock().now()) {
        outlet.send_blocking(Feed::Batch(batch))?;
    }
    Ok(())
}

/// Hands on complete lines; all that the buffer holds when it is full several times over.
fn hand_on(lines: &mut Lines, outlet: &Outlet) -> Result<(), Closed> {
    loop {
        if let Some(batch) = lines.take(outlet.clock().now()) {
            outlet.send_blocking(Feed::Batch(batch))?;
        }
        if !lines.full() {
            return Ok(());
        }
    }
}

/// Waits until there is something to read, or the end, or `BATCH_WAIT` has passed (false).
fn wait(input: &File) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: BATCH_WAIT.micros() * 1_000 };
    match poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Interrupted by a signal; or nothing there after all, where somebody made the input non-blocking.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

impl Source for Stdin {
    fn partitions(&self) -> Vec<PartitionName> {
        vec![PartitionName { source: Arc::clone(&self.source), partition: "stdin".to_owned(), identity: String::new() }]
    }

    fn total_bytes(&self) -> Option<u64> {
        self.total
    }

    fn finite(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), 1, "standard input is one partition");
        Box::pin(blocking(move || self.read(ids[0], &outlet).map(|_closed| ())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::start;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    fn texts(feed: &Feed) -> Vec<&[u8]> {
        match feed {
            Feed::Batch(batch) => (0..batch.records.len()).map(|index| batch.record(index)).collect(),
            other => panic!("a batch was expected, not {other:?}"),
        }
    }

    #[test]
    fn lines_of_a_slow_pipe_do_not_wait_for_more() {
        let (reader, mut writer) = io::pipe().unwrap();
        let source = Stdin::over("pipe", File::from(OwnedFd::from(reader)));
        assert_eq!(source.total_bytes(), None);
        let (_, mut running) = start(Box::new(source));
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(texts(&running.feeds.blocking_recv().unwrap()), [b"one"]);
        writer.write_all(b"o\n\xff\0\nlast").unwrap();
        assert_eq!(texts(&running.feeds.blocking_recv().unwrap()), [&b"two"[..], b"\xff\0"]);
        drop(writer);
        assert_eq!(texts(&running.feeds.blocking_recv().unwrap()), [b"last"]);
        assert!(matches!(running.feeds.blocking_recv(), Some(Feed::Ended(PartitionId(0)))));
        assert!(running.feeds.blocking_recv().is_none());
        running.runtime.block_on(running.task).unwrap().unwrap();
    }

    #[test]
    fn a_stop_ends_a_silent_pipe() {
        let (reader, _writer) = io::pipe().unwrap();
        let (_, mut running) = start(Box::new(Stdin::over("pipe", File::from(OwnedFd::from(reader)))));
        running.stop.cancel();
        assert!(running.feeds.blocking_recv().is_none(), "no partition ended");
        running.runtime.block_on(running.task).unwrap().unwrap();
    }

    #[test]
    fn a_redirected_file_has_a_size() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\n").unwrap();
        file.rewind().unwrap();
        assert_eq!(Stdin::over("pipe", file).total_bytes(), Some(8));
    }
}
