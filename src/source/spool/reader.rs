//! The reading end of a spool: durable records, in groups that are the same each time.

use super::frame::{self, HEAD, Head};
use super::writer::FILE_HEAD;
use super::{Extent, SpoolError};
use crate::limits::{BATCH_BYTES, BATCH_RECORDS};
use crate::time::EventTime;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

/// Bytes that are read ahead.
const READ_BYTES: usize = 256 << 10;

/// Records that came at one time, back to back.
#[derive(Debug, Default)]
pub(in crate::source) struct Group {
    pub(in crate::source) bytes: Vec<u8>,
    pub(in crate::source) records: Vec<Range<u32>>,
    /// The number of the first one.
    pub(in crate::source) first: u64,
    pub(in crate::source) arrival: Option<EventTime>,
}

/// Reads what is durable, from one number on.
#[derive(Debug)]
pub(in crate::source) struct Reader {
    extent: Extent,
    next: u64,
    open: Option<Open>,
    /// The head of record number `next`, when it was read already.
    ahead: Option<(Head, [u8; HEAD])>,
    /// As in the extent, when the file was last read.
    discards: u64,
}

#[derive(Debug)]
struct Open {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
    /// The number behind its last record is the first of the following segment.
    first: u64,
}

impl Reader {
    pub(super) fn new(extent: Extent, next: u64) -> Self {
        Self { extent, next, open: None, ahead: None, discards: 0 }
    }

    /// The number of the next record.
    pub(in crate::source) fn next(&self) -> u64 {
        self.next
    }

    /// The next durable records that have one time of arrival, at most a batch's worth, into `bytes`, which is empty. An
    /// empty group when nothing more is durable.
    ///
    /// # Errors
    /// When a file cannot be read, or what is there was not written by us.
    pub(in crate::source) fn read(&mut self, bytes: Vec<u8>) -> Result<Group, SpoolError> {
        let mut group = Group { bytes, first: self.next, ..Group::default() };
        let durable = self.durable()?;
        while self.next < durable && group.records.len() < BATCH_RECORDS && group.bytes.len() < BATCH_BYTES {
            let (head, start) = match self.ahead.take() {
                Some(ahead) => ahead,
                None => self.head()?,
            };
            if group.arrival.is_some_and(|arrival| arrival != head.arrival) {
                self.ahead = Some((head, start));
                break;
            }
            self.record(head, &start, &mut group)?;
        }
        Ok(group)
    }

    /// Up to where all is durable. What was read behind that and is not there any more is forgotten.
    fn durable(&mut self) -> Result<u64, SpoolError> {
        let (durable, discards) = {
            let segments = self.extent.lock();
            (segments.durable, segments.discards)
        };
        if std::mem::replace(&mut self.discards, discards) != discards
            && let Some(open) = &mut self.open
        {
            let head = if self.ahead.is_some() { HEAD as u64 } else { 0 };
            open.file.seek(SeekFrom::Start(open.offset + head)).map_err(SpoolError::file("read", &open.path))?;
        }
        Ok(durable)
    }

    fn head(&mut self) -> Result<(Head, [u8; HEAD]), SpoolError> {
        let number = self.next;
        let open = self.open_for(number)?;
        let mut start = [0; HEAD];
        open.file.read_exact(&mut start).map_err(SpoolError::file("read", &open.path))?;
        match frame::head(&start) {
            Some(head) if head.number == number => Ok((head, start)),
            _ => Err(open.corrupt()),
        }
    }

    fn record(&mut self, head: Head, start: &[u8; HEAD], group: &mut Group) -> Result<(), SpoolError> {
        let open = self.open.as_mut().expect("a head was read from it");
        let from = group.bytes.len();
        group.bytes.resize(from + head.length, 0);
        open.file.read_exact(&mut group.bytes[from..]).map_err(SpoolError::file("read", &open.path))?;
        if !frame::is_whole(&head, start, &group.bytes[from..]) {
            return Err(open.corrupt());
        }
        open.offset += (HEAD + head.length) as u64;
        group.records.push(from as u32..group.bytes.len() as u32);
        group.arrival = Some(head.arrival);
        self.next += 1;
        Ok(())
    }

    /// The segment that holds record `number`, positioned at it.
    fn open_for(&mut self, number: u64) -> Result<&mut Open, SpoolError> {
        let (segment, folder) = {
            let segments = self.extent.lock();
            let found = segments.files.iter().rev().find(|segment| segment.first <= number).cloned();
            (found, self.extent.0.folder.clone())
        };
        let segment = segment.ok_or(SpoolError::Missing { folder, first: number })?;
        if self.open.as_ref().is_none_or(|open| open.first != segment.first) {
            let failed = SpoolError::file("read", &segment.path);
            let mut file = BufReader::with_capacity(READ_BYTES, File::open(&segment.path).map_err(&failed)?);
            file.seek(SeekFrom::Start(FILE_HEAD as u64)).map_err(&failed)?;
            let mut open = Open { file, path: segment.path.clone(), offset: FILE_HEAD as u64, first: segment.first };
            for _ in segment.first..number {
                open.skip()?;
            }
            self.open = Some(open);
        }
        Ok(self.open.as_mut().expect("just opened"))
    }
}

impl Open {
    fn skip(&mut self) -> Result<(), SpoolError> {
        let mut start = [0; HEAD];
        self.file.read_exact(&mut start).map_err(SpoolError::file("read", &self.path))?;
        let head = frame::head(&start).ok_or_else(|| self.corrupt())?;
        self.file.seek_relative(head.length as i64).map_err(SpoolError::file("read", &self.path))?;
        self.offset += (HEAD + head.length) as u64;
        Ok(())
    }

    fn corrupt(&self) -> SpoolError {
        let what = "the record there is damaged";
        SpoolError::Corrupt { path: self.path.clone(), offset: self.offset, what }
    }
}
