//! The spool: an append-only log on local disk for sources that cannot be read again. Accepted means: on disk here.
//!
//! Pure file code; threads, waiting and acknowledgement are `spooled`'s. A spool is a folder of its own with
//!
//! - `lock`: held while a process has the spool open;
//! - `id`: tells this spool from an earlier one in the same place; the identity in checkpoints;
//! - `00000000000000000042.spool`: a segment, whose first record is number 42. Numbers only grow, over restarts and
//!   deletions, and are the positions that the archive stores.
//!
//! [`Writer::append`] writes, [`Writer::sync`] makes all that was appended durable with one fsync, and only then does a
//! [`Reader`] see it: what the archive may have stored is never lost here, so no number is given twice. Segments that lie
//! wholly below the sealed position are deleted by [`Extent::release`]. At the size cap `append` refuses.
//!
//! What a crash leaves: a record that was cut short at the end, or a hole where a page of the last group was not written.
//! Each record says in its head up to which number everything was durable when it was appended. Behind a broken record, one
//! that vouches for it proves that accepted data is damaged: that is refused. Else the broken tail was never accepted, and
//! is cut. (Damage in the very last group, behind which nothing was appended, looks like a crash and is cut, too.)

mod frame;
mod reader;
mod recover;
mod writer;

pub(super) use reader::Reader;
pub(super) use writer::Writer;

use crate::limits;
use crate::time::Span;
use crate::units::ByteSize;
use rustix::fs::{FlockOperation, flock};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// `spool:` of a source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// How long a record waits for others to be made durable with it. Default 50ms.
    #[serde(default = "default_sync")]
    pub sync: Span,
    /// Bytes on disk; at least 16MB. Default 1GB.
    #[serde(default = "default_size")]
    pub size: ByteSize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { sync: default_sync(), size: default_size() }
    }
}

fn default_sync() -> Span {
    limits::SPOOL_SYNC
}

fn default_size() -> ByteSize {
    ByteSize(limits::SPOOL_BYTES)
}

/// What can go wrong with a spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("cannot take more records, the spool {folder:?} is full ({bytes} bytes)")]
    Full { folder: PathBuf, bytes: u64 },
    #[error("cannot {what} {path:?}: {source}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot use the spool {folder:?}, another headrig has it open")]
    Locked { folder: PathBuf },
    #[error("cannot read the spool file {path:?} at byte {offset}: {what}")]
    Corrupt { path: PathBuf, offset: u64, what: &'static str },
    #[error("cannot find the spool file that begins with record {first} in {folder:?}")]
    Missing { folder: PathBuf, first: u64 },
}

impl SpoolError {
    fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source }
    }

    /// Whether a disk is full.
    pub(super) fn is_no_room(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::File { source, .. } if full.contains(&source.kind()))
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Full { .. } => Some("make `spool: { size: … }` larger, or see why the archive is behind".to_owned()),
            Self::Locked { .. } => Some("stop it, or give this one another --data-dir".to_owned()),
            Self::Corrupt { path, .. } | Self::Missing { folder: path, .. } => {
                let folder = if path.extension().is_some() { path.parent().unwrap_or(path) } else { path };
                Some(format!(
                    "accepted records are damaged there: see to the disk; to go on without what is in the spool, move {} away",
                    folder.display()
                ))
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("let the user that headrig runs as write below --data-dir".to_owned())
            }
            Self::File { .. } if self.is_no_room() => {
                Some("free space on that disk, or give --data-dir another one".to_owned())
            }
            Self::File { .. } => None,
        }
    }
}

/// A file of records.
#[derive(Debug, Clone)]
struct Segment {
    /// The number of its first record.
    first: u64,
    path: PathBuf,
    bytes: u64,
}

#[derive(Debug)]
struct Segments {
    /// In the order of their numbers, without gaps; the last one is written to.
    files: VecDeque<Segment>,
    /// The number behind the last durable record.
    durable: u64,
    /// The writer is gone; nothing more becomes durable.
    closed: bool,
    /// How often the writer has thrown away what was not durable. Whoever has read ahead has read something else.
    discards: u64,
}

/// What writer, reader and whoever releases know of a spool together.
#[derive(Debug, Clone)]
pub(super) struct Extent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    segments: Mutex<Segments>,
    changed: Condvar,
    /// Held open for its lock.
    _lock: File,
}

impl Extent {
    fn lock(&self) -> MutexGuard<'_, Segments> {
        self.0.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().files.iter().map(|segment| segment.bytes).sum()
    }

    /// The number behind the last durable record.
    #[cfg(test)]
    fn durable(&self) -> u64 {
        self.lock().durable
    }

    /// Whether the writer is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until record number `next` is durable, the writer is gone, or `patience` is over. True when it is durable.
    pub(super) fn wait_for(&self, next: u64, patience: Duration) -> bool {
        let waiting = |segments: &mut Segments| segments.durable <= next && !segments.closed;
        let guard = self.0.changed.wait_timeout_while(self.lock(), patience, waiting);
        guard.unwrap_or_else(PoisonError::into_inner).0.durable > next
    }

    /// Deletes the segments whose records are all below `position`. The one that is written to stays.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn release(&self, position: u64) -> Result<(), SpoolError> {
        let mut segments = self.lock();
        while segments.files.len() > 1 && segments.files[1].first <= position {
            let path = segments.files[0].path.clone();
            fs::remove_file(&path).map_err(SpoolError::file("remove", &path))?;
            segments.files.pop_front();
        }
        Ok(())
    }
}

/// An open spool.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    pub(super) extent: Extent,
    /// Bytes of a tail that was never accepted, and was cut.
    pub(super) cut_bytes: u64,
    /// Records between the asked position and the oldest one that is there.
    pub(super) missing: u64,
}

/// The identity of the spool in `folder`, which is made where it isn't there. `fresh` becomes that of a new one.
///
/// # Errors
/// When the folder cannot be made or read.
pub(super) fn identify(folder: &Path, fresh: &str) -> Result<String, SpoolError> {
    fs::create_dir_all(folder).map_err(SpoolError::file("make the folder", folder))?;
    let path = folder.join("id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SpoolError::file("read", &path)(error)),
        _ => {}
    }
    let scratch = folder.join("id.new");
    File::create(&scratch)
        .and_then(|mut file| file.write_all(fresh.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&scratch, &path))
        .map_err(SpoolError::file("write", &path))?;
    // The folders above may be new, too.
    for above in folder.ancestors().take(4).filter(|above| !above.as_os_str().is_empty()) {
        sync_folder(above)?;
    }
    Ok(fresh.to_owned())
}

/// Opens the spool in `folder` to go on at record `position`, cutting what a crash left.
///
/// # Errors
/// When another process has it open, accepted records are damaged, or files cannot be read or written.
pub(super) fn open(folder: &Path, size: u64, position: Option<u64>) -> Result<Opened, SpoolError> {
    open_with(folder, size, limits::SPOOL_SEGMENT_BYTES.min(size / 8), position)
}

fn open_with(folder: &Path, size: u64, segment_bytes: u64, position: Option<u64>) -> Result<Opened, SpoolError> {
    fs::create_dir_all(folder).map_err(SpoolError::file("make the folder", folder))?;
    let lock = lock_folder(folder)?;
    let recovered = recover::recover(folder)?;
    let (mut files, mut next) = (recovered.files, recovered.next);
    let oldest = files.front().map_or(next, |segment| segment.first);
    // The archive is ahead when the spool was put back from a copy: its numbers must not be given again.
    let ahead = position.filter(|position| *position > next);
    if let Some(position) = ahead {
        next = position;
        files.iter().try_for_each(|segment| {
            fs::remove_file(&segment.path).map_err(SpoolError::file("remove", &segment.path))
        })?;
        files.clear();
    }
    let current = match files.back() {
        Some(segment) => {
            OpenOptions::new().append(true).open(&segment.path).map_err(SpoolError::file("open", &segment.path))?
        }
        None => {
            let (file, segment) = writer::create(folder, next)?;
            files.push_back(segment);
            file
        }
    };
    let at = position.unwrap_or(oldest).max(oldest);
    let missing = if ahead.is_some() { 0 } else { oldest.saturating_sub(position.unwrap_or(oldest)) };
    let segments = Segments { files, durable: next, closed: false, discards: 0 };
    let shared =
        Shared { folder: folder.to_owned(), segments: Mutex::new(segments), changed: Condvar::new(), _lock: lock };
    let extent = Extent(Arc::new(shared));
    Ok(Opened {
        writer: Writer::new(extent.clone(), current, next, size, segment_bytes),
        reader: Reader::new(extent.clone(), at),
        extent,
        cut_bytes: recovered.cut_bytes,
        missing,
    })
}

fn lock_folder(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(SpoolError::file("open", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::Locked { folder: folder.to_owned() }),
        Err(error) => Err(SpoolError::file("lock", &path)(error.into())),
    }
}

fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(SpoolError::file("sync the folder", folder))
}

#[cfg(test)]
mod tests;
