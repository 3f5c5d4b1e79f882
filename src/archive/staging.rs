//! Files being filled: one encoder per table and partition, in a folder that no reader looks at.

use super::columns::FileColumns;
use super::crew::Crew;
use super::error::ArchiveError;
use super::filling::{Filling, Written};
use super::hex;
use super::lines::Compression;
use super::partition::{self, Part};
use super::patience::{Patience, PatientFile};
use super::store::name_of;
use super::table::{Kind, Table};
use crate::limits;
use crate::record::schema::ATTRIBUTES;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use hashbrown::HashMap;
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A whole file in the staging folder, and where it belongs. Part of a seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedFile {
    /// Key of the object while no reader sees it.
    pub(crate) staged: String,
    /// Where it goes, relative to the archive.
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Least and largest value of the table's time column, in µs since 1970.
    pub(crate) min_us: i64,
    pub(crate) max_us: i64,
    /// Wall clock in µs since 1970 when it was sealed; of older versions not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealed_us: Option<i64>,
    /// What its rows come to in any order (`digest.rs`), in hexadecimal digits; of files that upkeep wrote or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    /// SHA-256 of its bytes, in hexadecimal digits; of an archive with `audit: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// URL of the archive that it was moved to; `None`: it is in this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cold: Option<String>,
    /// Of JSON Lines, the object that says what their columns are (`columns.rs`); of older versions none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) columns: Option<String>,
}

impl StagedFile {
    /// The folder that readers find it in, relative to the archive.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Number of the seal that named it first, which its name says; 0 when it doesn't.
    pub(crate) fn seal_number(&self) -> u64 {
        seal_number(name_of(&self.staged)).unwrap_or(0)
    }

    /// Whether it is Parquet, and not JSON Lines.
    pub(crate) fn is_parquet(&self) -> bool {
        !is_lines(&self.path)
    }
}

/// Whether a file's name or key says that it is JSON Lines, however they are packed.
pub(super) fn is_lines(key: &str) -> bool {
    Compression::ALL.iter().any(|packed| key.strip_suffix(packed.suffix()).is_some_and(|key| key.ends_with(".jsonl")))
}

/// The number of a seal in the name of a file that was staged for it, `TAG-000000000007-0.parquet` or `….jsonl.zst`.
pub(super) fn seal_number(name: &str) -> Option<u64> {
    let (mut parts, last) = (name.rsplit('-'), name.rsplit('-').next()?);
    let is_ours = last.ends_with(".parquet") || is_lines(last);
    parts.nth(1).filter(|_| is_ours)?.parse().ok()
}

struct OpenFile {
    encoder: Filling,
    file: StagedFile,
    /// Number of the write that used it last.
    used: u64,
}

/// What files are called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Beginning of their keys while they are staged.
    pub(crate) home: String,
    /// Beginning of a staged file's name: nothing where a lock keeps other writers out, else the writer.
    pub(crate) tag: String,
    /// Beginning of a placed file's name: the pipeline's and the chain's.
    pub(crate) prefix: String,
    /// Says their end.
    pub(crate) written: Written,
    /// Folder of objects that say what columns files have.
    pub(crate) columns: String,
}

/// What has been staged since the last seal.
pub(crate) struct Staging {
    /// Where files are filled; on local disk.
    folder: PathBuf,
    names: Names,
    crew: Arc<Crew>,
    pub(super) patience: Arc<Patience>,
    /// Number of the seal that is being filled.
    number: u64,
    /// By final folder.
    open: HashMap<String, OpenFile>,
    closed: Vec<StagedFile>,
    /// What objects have to say of the columns of these files, by key.
    described: BTreeMap<String, Vec<u8>>,
    /// Files begun for this seal.
    begun: u32,
    writes: u64,
    rows: u64,
    /// Values that went to `attributes`, as they didn't fit their hex columns.
    misfits: u64,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("number", &self.number).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Staging {
    pub(crate) fn new(folder: PathBuf, names: Names, crew: Arc<Crew>, patience: Arc<Patience>, number: u64) -> Self {
        let (open, closed, described) = (HashMap::new(), Vec::new(), BTreeMap::new());
        Self {
            folder,
            names,
            crew,
            patience,
            number,
            open,
            closed,
            described,
            begun: 0,
            writes: 0,
            rows: 0,
            misfits: 0,
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// What staged files' names begin with.
    pub(crate) fn tag(&self) -> &str {
        &self.names.tag
    }

    pub(crate) fn misfits(&self) -> u64 {
        self.misfits
    }

    /// Encoded bytes, estimated for what is still in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let open = self.open.values().map(|open| open.encoder.bytes() as u64);
        self.closed.iter().map(|c| c.bytes).sum::<u64>() + open.sum::<u64>()
    }

    /// Memory of the row groups that are being built, and of rows that wait for that.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.open.values().map(|open| open.encoder.memory_bytes() as u64).sum()
    }

    /// Ends the largest row groups until the others take at most `target` bytes; returns how many it ended.
    pub(crate) fn relieve(&mut self, target: u64) -> Result<u64, ArchiveError> {
        let mut flushed = 0;
        let mut held = self.memory_bytes();
        while held > target {
            let Some(open) = self.open.values_mut().max_by_key(|open| open.encoder.memory_bytes()) else { break };
            let before = open.encoder.memory_bytes() as u64;
            if before == 0 {
                break;
            }
            open.encoder.relieve(&self.crew)?;
            held = held.saturating_sub(before);
            flushed += 1;
        }
        Ok(flushed)
    }

    /// Encodes rows of `table` into the files of their partitions.
    pub(crate) fn write(&mut self, table: &Table, rows: &RecordBatch) -> Result<(), ArchiveError> {
        for part in partition::split(rows, table.time, &table.levels)? {
            self.write_part(table, &part)?;
        }
        Ok(())
    }

    fn write_part(&mut self, table: &Table, part: &Part) -> Result<(), ArchiveError> {
        let folder = match part.folder() {
            below if below.is_empty() => table.folder.clone(),
            below => format!("{}/{below}", table.folder),
        };
        let bounds = bounds(&part.rows, table.time);
        let rows = self.arrange(table, &part.rows)?;
        self.writes += 1;
        if !self.open.contains_key(&folder) {
            self.make_room()?;
            let file = self.begin(table, part, &folder, bounds.0)?;
            self.open.insert(folder.clone(), file);
        }
        let waiting: usize = self.open.values().map(|open| open.encoder.waiting_bytes()).sum();
        let open = self.open.get_mut(&folder).expect("it was begun above");
        open.used = self.writes;
        open.file.rows += rows.num_rows() as u64;
        open.file.min_us = open.file.min_us.min(bounds.0);
        open.file.max_us = open.file.max_us.max(bounds.1);
        self.rows += rows.num_rows() as u64;
        open.encoder.push(rows);
        // Once many files together hold as much as may wait, each is encoded as it is written to.
        if open.encoder.is_due() || waiting >= limits::ENCODE_WAITING_BYTES {
            open.encoder.encode(&self.crew)?;
        }
        Ok(())
    }

    /// Rows as the table's files have them.
    fn arrange(&mut self, table: &Table, rows: &RecordBatch) -> Result<RecordBatch, ArchiveError> {
        if table.hex.is_empty() {
            return Ok(rows.project(&table.columns)?);
        }
        let (columns, misfits) = hex::store(rows, &table.hex, ATTRIBUTES)?;
        self.misfits += misfits;
        let columns = table.columns.iter().map(|index| columns[*index].clone()).collect();
        Ok(RecordBatch::try_new(table.arrow.clone(), columns)?)
    }

    fn begin(&mut self, table: &Table, part: &Part, folder: &str, first: i64) -> Result<OpenFile, ArchiveError> {
        let name = format!("{:012}-{}.{}", self.number, self.begun, self.names.written.extension());
        let staged = format!("{}{name}", self.names.tag);
        let path = self.folder.join(&staged);
        self.begun += 1;
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = self.patience.keep(|| create().map_err(ArchiveError::io("write", &path)))?;
        let file = PatientFile { file, path: path.clone(), patience: Arc::clone(&self.patience) };
        let mut encoder = Filling::begin(file, path, table, self.names.written)?;
        let values: BTreeMap<_, _> = part.values.iter().cloned().collect();
        let values = serde_json::to_string(&values).expect("a map of texts is JSON");
        encoder.note(KeyValue::new("headrig.partition".to_owned(), values));
        let file = StagedFile {
            path: format!("{folder}/{}-{name}", self.names.prefix),
            staged: format!("{}/{staged}", self.names.home),
            kind: table.kind,
            rows: 0,
            bytes: 0,
            min_us: first,
            max_us: first,
            sealed_us: None,
            digest: None,
            sha256: None,
            cold: None,
            columns: self.describe(table),
        };
        Ok(OpenFile { encoder, file, used: 0 })
    }

    /// The object that says what columns the table's files have, where they don't say it themselves.
    fn describe(&mut self, table: &Table) -> Option<String> {
        if self.names.written == Written::Parquet {
            return None;
        }
        let text = FileColumns::of(table).text();
        let key = FileColumns::key(&self.names.columns, &text);
        self.described.insert(key.clone(), text);
        Some(key)
    }

    /// Objects that have to be there before files that were begun for this seal are in it.
    pub(crate) fn described(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.described
    }

    /// Closes the file that was written to least recently when as many are open as may be. Its footer lacks what only
    /// the seal knows.
    fn make_room(&mut self) -> Result<(), ArchiveError> {
        if self.open.len() < limits::OPEN_WRITERS {
            return Ok(());
        }
        let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(folder, _)| folder.clone());
        match oldest.and_then(|folder| self.open.remove(&folder)) {
            Some(open) => self.finish(open, &[]),
            None => Ok(()),
        }
    }

    fn finish(&mut self, mut open: OpenFile, footer: &[KeyValue]) -> Result<(), ArchiveError> {
        let path = self.local(&open.file);
        for entry in footer {
            open.encoder.note(entry.clone());
        }
        let file = open.encoder.finish(&self.crew)?;
        let synced = file.sync_all().and_then(|()| file.metadata());
        open.file.bytes = synced.map_err(ArchiveError::io("sync", &path))?.len();
        self.closed.push(open.file);
        Ok(())
    }

    /// Ends all files and makes them durable; `footer` goes into those that are still open.
    pub(crate) fn finish_all(&mut self, footer: &[KeyValue]) -> Result<Vec<StagedFile>, ArchiveError> {
        let mut open: Vec<OpenFile> = self.open.drain().map(|(_, open)| open).collect();
        open.sort_unstable_by(|a, b| a.file.path.cmp(&b.file.path));
        for open in open {
            self.finish(open, footer)?;
        }
        Ok(self.closed.clone())
    }

    /// Where a staged file is filled.
    pub(crate) fn local(&self, file: &StagedFile) -> PathBuf {
        self.folder.join(name_of(&file.staged))
    }

    /// Gives the space of all that is staged back, as far as that can be done.
    pub(crate) fn discard(&mut self) {
        let open = self.open.drain().map(|(_, open)| open.file);
        let staged: Vec<StagedFile> = open.chain(self.closed.drain(..)).collect();
        staged.iter().for_each(|file| self.remove_local(file));
    }

    fn remove_local(&self, file: &StagedFile) {
        let path = self.local(file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a staged file is left behind until the next start");
            }
            _ => {}
        }
    }

    /// Begins seal `number`; what was staged belongs to an earlier one. A folder's files are in their places by now; of a bucket's, which have
    /// gone up, the local ones go.
    pub(crate) fn next(&mut self, number: u64) {
        std::mem::take(&mut self.closed).iter().for_each(|file| self.remove_local(file));
        let (crew, patience) = (Arc::clone(&self.crew), Arc::clone(&self.patience));
        *self = Self::new(std::mem::take(&mut self.folder), self.names.clone(), crew, patience, number);
    }
}

/// Removes all files in the staging folder.
pub(crate) fn clear(folder: &Path) -> Result<(), ArchiveError> {
    let listing = std::fs::read_dir(folder).map_err(ArchiveError::io("list", folder))?;
    for entry in listing {
        let path = entry.map_err(ArchiveError::io("list", folder))?.path();
        std::fs::remove_file(&path).map_err(ArchiveError::io("remove", &path))?;
    }
    Ok(())
}

fn bounds(rows: &RecordBatch, time: usize) -> (i64, i64) {
    let stamps = rows.column(time).as_primitive::<TimestampMicrosecondType>();
    debug_assert_eq!(stamps.null_count(), 0, "a table's time is never null");
    stamps.values().iter().fold((i64::MAX, i64::MIN), |(low, high), stamp| (low.min(*stamp), high.max(*stamp)))
}
