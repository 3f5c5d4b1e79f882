//! The writing end of a spool.

use super::frame::{self, HEAD};
use super::{Extent, Segment, SpoolError, sync_folder};
use crate::limits::RECORD_BYTES;
use crate::time::EventTime;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// What every segment starts with, before the number of its first record.
const FILE_MARK: [u8; 8] = *b"headrig1";
pub(super) const FILE_HEAD: usize = 16;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Appends records. There is one for each spool.
#[derive(Debug)]
pub(in crate::source) struct Writer {
    extent: Extent,
    file: File,
    /// What was appended and not written yet.
    buffer: Vec<u8>,
    /// The number of the next record.
    next: u64,
    /// As in [`Extent::durable`].
    durable: u64,
    /// What the file will have once the buffer is written, …
    file_bytes: u64,
    /// … what it has by now, …
    written_bytes: u64,
    /// … and what of that is durable.
    durable_bytes: u64,
    /// The other segments, and what they had when they were last counted.
    size: u64,
    segment_bytes: u64,
    syncs: u64,
}

impl Writer {
    pub(super) fn new(extent: Extent, file: File, next: u64, size: u64, segment_bytes: u64) -> Self {
        let file_bytes = extent.lock().files.back().map_or(0, |segment| segment.bytes);
        let (written_bytes, durable_bytes, durable) = (file_bytes, file_bytes, next);
        let buffer = Vec::new();
        Self {
            extent,
            file,
            buffer,
            next,
            durable,
            file_bytes,
            written_bytes,
            durable_bytes,
            size,
            segment_bytes,
            syncs: 0,
        }
    }

    /// Appends a record and returns its number. It is accepted only with the next [`Self::sync`]. Of one that is longer
    /// than `limits::RECORD_BYTES`, one byte more than that is kept, by which everybody can tell.
    ///
    /// # Errors
    /// [`SpoolError::Full`], with nothing appended; or the file's error, after which the spool must be opened anew.
    pub(in crate::source) fn append(&mut self, record: &[u8], arrival: EventTime) -> Result<u64, SpoolError> {
        let record = &record[..record.len().min(RECORD_BYTES + 1)];
        let more = (HEAD + record.len()) as u64;
        let before: u64 = {
            let segments = self.extent.lock();
            segments.files.iter().rev().skip(1).map(|segment| segment.bytes).sum()
        };
        if before + self.file_bytes + more > self.size {
            let folder = self.extent.0.folder.clone();
            return Err(SpoolError::Full { folder, bytes: before + self.file_bytes });
        }
        let number = self.next;
        frame::write(&mut self.buffer, number, self.durable, arrival, record);
        self.next += 1;
        self.file_bytes += more;
        if self.buffer.len() >= WRITE_BYTES {
            match self.write() {
                // Whoever makes it durable hears of it.
                Err(error) if error.is_no_room() => {}
                written => written?,
            }
        }
        Ok(number)
    }

    /// Whether something waits for [`Self::sync`].
    pub(in crate::source) fn has_unsynced(&self) -> bool {
        self.next > self.durable
    }

    /// Makes all that was appended durable, and shows it to the reader. Returns the number behind the last record.
    ///
    /// # Errors
    /// Those of the file. When its disk is full nothing has changed, and this may be called again; else what was appended may
    /// or may not be there, and the spool must be opened anew.
    pub(in crate::source) fn sync(&mut self) -> Result<u64, SpoolError> {
        if !self.has_unsynced() {
            return Ok(self.durable);
        }
        self.write()?;
        let path = self.path();
        self.file.sync_data().map_err(SpoolError::file("sync", &path))?;
        self.syncs += 1;
        (self.durable, self.durable_bytes) = (self.next, self.written_bytes);
        if self.file_bytes >= self.segment_bytes {
            match create(&self.extent.0.folder, self.next) {
                // It grows on, until there is room for another one.
                Err(error) if error.is_no_room() => {}
                Err(error) => return Err(error),
                Ok((file, segment)) => {
                    self.file = file;
                    self.file_bytes = segment.bytes;
                    (self.written_bytes, self.durable_bytes) = (segment.bytes, segment.bytes);
                    self.extent.lock().files.push_back(segment);
                }
            }
        }
        self.extent.lock().durable = self.durable;
        self.extent.0.changed.notify_all();
        Ok(self.durable)
    }

    /// Throws away what was appended and isn't durable. Returns how many records that were.
    ///
    /// # Errors
    /// Those of the file; the spool must be opened anew.
    pub(in crate::source) fn discard(&mut self) -> Result<u64, SpoolError> {
        let path = self.path();
        self.file.set_len(self.durable_bytes).map_err(SpoolError::file("cut", &path))?;
        self.buffer.clear();
        (self.file_bytes, self.written_bytes) = (self.durable_bytes, self.durable_bytes);
        {
            let mut segments = self.extent.lock();
            segments.discards += 1;
            if let Some(segment) = segments.files.back_mut() {
                segment.bytes = self.durable_bytes;
            }
        }
        let discarded = self.next - self.durable;
        self.next = self.durable;
        Ok(discarded)
    }

    /// How often the disk was asked to sync.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.syncs
    }

    fn path(&self) -> std::path::PathBuf {
        self.extent.lock().files.back().map(|segment| segment.path.clone()).unwrap_or_default()
    }

    pub(super) fn write(&mut self) -> Result<(), SpoolError> {
        let path = self.path();
        if let Err(error) = self.file.write_all(&self.buffer).map_err(SpoolError::file("write", &path)) {
            if error.is_no_room() {
                // What was written of it would stand before what is written next time.
                self.file.set_len(self.written_bytes).map_err(SpoolError::file("cut", &path))?;
            }
            return Err(error);
        }
        self.buffer.clear();
        self.written_bytes = self.file_bytes;
        if let Some(segment) = self.extent.lock().files.back_mut() {
            segment.bytes = self.file_bytes;
        }
        Ok(())
    }
}

impl Drop for Writer {
    /// Tells a waiting reader that nothing more comes. Makes nothing durable: who wants that calls [`Self::sync`].
    fn drop(&mut self) {
        self.extent.lock().closed = true;
        self.extent.0.changed.notify_all();
    }
}

pub(super) fn file_head(first: u64) -> [u8; FILE_HEAD] {
    let mut head = [0; FILE_HEAD];
    head[..8].copy_from_slice(&FILE_MARK);
    head[8..].copy_from_slice(&first.to_le_bytes());
    head
}

/// Makes a new segment, durably named in its folder.
pub(super) fn create(folder: &Path, first: u64) -> Result<(File, Segment), SpoolError> {
    let path = folder.join(format!("{first:020}.spool"));
    let file = OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(&file_head(first))?;
            file.sync_all()?;
            Ok(file)
        })
        .map_err(SpoolError::file("make", &path))
        .and_then(|file| sync_folder(folder).map(|()| file));
    match file {
        Ok(file) => Ok((file, Segment { first, path, bytes: FILE_HEAD as u64 })),
        Err(error) => {
            if error.is_no_room() {
                // Half a segment must not be in the way of the next try.
                std::fs::remove_file(&path).map_err(SpoolError::file("remove", &path))?;
            }
            Err(error)
        }
    }
}
