//! A followed file: open while it gives lines, closed and hardly more than a name while it is silent.
//!
//! After each reading the head is looked at, so that a file that was truncated and has grown again since is noticed. What
//! was read in between belongs to the old file when the file is shorter than that by now; else nobody can tell, and it is
//! thrown away and read again from the new start.

use super::file::{Reader, Stamp};
use super::fingerprint::{self, FileId, Identity};
use super::known::{Entry, Placed};
use super::lines::Lines;
use super::{Closed, Feed, Outlet, SourceError};
use crate::limits::{FOLLOW_COLD, FOLLOW_HANDOVER, FOLLOW_ROTATED};
use crate::record::raw::PartitionId;
use crate::time::clock::Monotonic;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a follower goes no further.
#[derive(Debug)]
pub(super) enum Stop {
    Closed,
    Failed(SourceError),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

#[derive(Debug)]
pub(super) struct Tail {
    /// Where it lies, as far as is known.
    pub path: PathBuf,
    pub id: PartitionId,
    pub name: String,
    /// What the pipeline knows it by.
    pub identity: Identity,
    pub file_id: FileId,
    /// Where the first line starts that was not handed on.
    pub position: u64,
    pub stamp: Option<Stamp>,
    /// There may be more than was read.
    pub behind: bool,
    /// When it last gave something.
    pub active: Monotonic,
    /// The path at which it was before, and when it was gone from there.
    left: Option<(PathBuf, Monotonic)>,
    /// Whether a pattern finds it.
    pub listed: bool,
    /// Its partition has ended.
    pub ended: bool,
    reader: Option<Box<Reader>>,
}

/// What a visit to an open file has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// There is more to read at once.
    More,
    Idle,
    /// Something else has been written into it. What is left of the old content was handed on, but for a line without end.
    Rewritten,
}

/// What came of opening a file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Open,
    /// Something else has been written into it.
    Rewritten,
    /// It isn't where it was.
    Moved,
}

impl Tail {
    /// A file that is closed as yet.
    pub(super) fn new(placed: Placed, id: PartitionId, now: Monotonic) -> Self {
        Self {
            path: placed.look.path,
            id,
            name: placed.name.partition,
            identity: placed.identity,
            file_id: placed.look.file_id,
            position: placed.position,
            stamp: None,
            behind: placed.look.size > placed.position,
            active: now,
            left: None,
            listed: true,
            ended: false,
            reader: None,
        }
    }

    /// Takes note of what a closed file shows from outside.
    pub(super) fn see(&mut self, stamp: Stamp) {
        if !self.is_open() {
            self.behind |= match self.stamp.replace(stamp) {
                Some(before) => before != stamp,
                None => stamp.size != self.position,
            };
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    pub(super) fn entry(&self) -> Entry {
        Entry { name: self.name.clone(), identity: self.identity, position: self.position }
    }

    /// Notes that it isn't at its path any more, but at `path`, or where nobody looks.
    pub(super) fn leave(&mut self, path: Option<&Path>, now: Monotonic) {
        let before = match path {
            Some(path) => std::mem::replace(&mut self.path, path.to_owned()),
            None => self.path.clone(),
        };
        self.left = Some((before, now));
        self.listed = path.is_some();
    }

    /// Whether a new file at `path` should wait until this one, which was there before, has been read to its end.
    pub(super) fn comes_before(&self, path: &Path, now: Monotonic) -> bool {
        self.left.as_ref().is_some_and(|(left, since)| {
            left == path && (self.behind || (now.since(*since) < FOLLOW_HANDOVER && !self.is_rested(now)))
        })
    }

    /// Whether it has been silent for long enough since it left its path: its writer has noticed.
    pub(super) fn is_rested(&self, now: Monotonic) -> bool {
        let since = self.left.as_ref().map_or(self.active, |(_, left)| self.active.max(*left));
        !self.behind && now.since(since) >= FOLLOW_ROTATED
    }

    /// Opens the file at its path, if that is still it.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub(super) fn open(&mut self, outlet: &Outlet) -> Result<Opening, SourceError> {
        let opened = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.position))?;
            Ok((file.metadata()?, fingerprint::head(&file)?, file))
        });
        let (metadata, head, file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opening::Moved),
            Err(source) => return Err(SourceError::Open { path: self.path.clone(), source }),
        };
        if FileId::of(&metadata) != self.file_id {
            return Ok(Opening::Moved);
        }
        if metadata.len() < self.position || !self.identity.fits(&head) {
            return Ok(Opening::Rewritten);
        }
        let lines = Lines::new(self.id, self.position, outlet.buffers().clone());
        self.reader = Some(Box::new(Reader { path: self.path.clone(), id: self.id, file, lines }));
        Ok(Opening::Open)
    }

    /// Closes the file; what was read of a line without end is read again when it is opened.
    pub(super) fn close(&mut self) {
        self.reader = None;
    }

    /// Whether it may be closed, having been silent for long. A file that nobody would find again stays open.
    pub(super) fn is_cold(&self, now: Monotonic) -> bool {
        self.is_open() && self.listed && !self.behind && now.since(self.active) >= FOLLOW_COLD
    }

    /// Reads and hands on a batch at most.
    ///
    /// # Errors
    /// When the file cannot be read, or the pipeline is closed.
    pub(super) fn visit(&mut self, outlet: &Outlet, now: Monotonic) -> Result<Visit, Stop> {
        let Some(reader) = &mut self.reader else { return Ok(Visit::Idle) };
        let before = reader.lines.position();
        let more = reader.fill()?;
        let after = reader.lines.position();
        let failed = |source| SourceError::Read { path: self.path.clone(), position: after, source };
        let stamp = Stamp::of(&reader.file.metadata().map_err(failed)?);
        // What came after the end was read must not be taken for seen.
        self.behind = more || stamp.size > after;
        if after > before {
            self.active = now;
        }
        if after > before || self.stamp != Some(stamp) {
            let head = fingerprint::head(&reader.file).map_err(failed)?;
            if stamp.size < after || !self.identity.fits(&head) {
                self.save_rest(before, outlet)?;
                return Ok(Visit::Rewritten);
            }
            self.stamp = Some(stamp);
            self.identify(Identity::new(self.file_id, &head), outlet)?;
        }
        self.hand_on(outlet)?;
        Ok(if self.behind { Visit::More } else { Visit::Idle })
    }

    /// Hands on what belongs to the content that the file had, now that it has another. `before` is how far it was read
    /// when it was known to have the old one.
    fn save_rest(&mut self, before: u64, outlet: &Outlet) -> Result<(), Stop> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let after = reader.lines.position();
        // Truncated first and then read, it would be at least as long as what was read.
        let sound = after == before || reader.file.metadata().is_ok_and(|metadata| metadata.len() < after);
        if !sound {
            self.reader = None;
            return Ok(());
        }
        while self.reader.as_ref().is_some_and(|reader| reader.lines.full() || reader.lines.ready()) {
            self.hand_on(outlet)?;
        }
        Ok(())
    }

    fn hand_on(&mut self, outlet: &Outlet) -> Result<(), Closed> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        if reader.lines.full() || reader.lines.ready() {
            reader.hand_on(outlet)?;
        }
        self.position = reader.lines.resume();
        Ok(())
    }

    /// Tells the pipeline by what it shall know the file from now on, if that is something new.
    ///
    /// # Errors
    /// When the pipeline is closed.
    pub(super) fn identify(&mut self, identity: Identity, outlet: &Outlet) -> Result<(), Closed> {
        if self.identity != identity {
            self.identity = identity;
            outlet.send_blocking(Feed::Identified { id: self.id, identity: identity.to_string() })?;
        }
        Ok(())
    }

    /// Ends the partition; with `whole` what was read of a line without end becomes a record.
    ///
    /// # Errors
    /// When the pipeline is closed.
    pub(super) fn end(&mut self, whole: bool, outlet: &Outlet) -> Result<(), Closed> {
        self.ended = true;
        if let Some(mut reader) = self.reader.take().filter(|_| whole) {
            while let Some(batch) = reader.lines.finish(outlet.clock().now()) {
                self.position = batch.end;
                outlet.send_blocking(Feed::Batch(batch))?;
            }
        }
        outlet.send_blocking(Feed::Ended(self.id))
    }

    /// Whether the file is open and has no name any more.
    pub(super) fn is_deleted(&self) -> bool {
        let metadata = self.reader.as_ref().and_then(|reader| reader.file.metadata().ok());
        metadata.is_some_and(|metadata| metadata.nlink() == 0)
    }
}
