//! One Parquet file being encoded: rows wait until there are enough of them, then each column is encoded by itself.
//!
//! Columns of a row group have nothing in common, so a [`Crew`] encodes them side by side; where a row group ends is
//! decided between two such rounds, by counts that don't depend on who encoded what. So a file's bytes are the same
//! with any number of threads.

use super::ArchiveError;
use super::crew::Crew;
use super::dictionary::{DictionaryColumn, has_few_values};
use super::patience::PatientFile;
use super::table::{Coding, Table};
use crate::limits;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A Parquet file that rows are written to.
pub(super) struct Encoder {
    path: PathBuf,
    writer: SerializedFileWriter<PatientFile>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    codings: Arc<[Coding]>,
    zstd_level: i32,
    /// Rows that are not encoded yet.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    /// Their size as Arrow arrays.
    waiting_bytes: usize,
    group: Option<Group>,
}

/// The row group that is being built.
struct Group {
    columns: Arc<[Mutex<Column>]>,
    rows: usize,
    /// Encoded, estimated for what is in no page yet.
    bytes: usize,
    /// What its columns take of memory.
    memory: usize,
    /// Columns, those first that take longest.
    order: Arc<[usize]>,
}

/// One column of a row group, encoded by whoever locks it.
struct Column {
    state: State,
    /// As [`Group::bytes`] and [`Group::memory`].
    bytes: usize,
    memory: usize,
}

enum State {
    Open(ColumnWriter),
    Closed(Box<Chunk>),
    Failed(ParquetError),
    /// Written to the file, or being worked on.
    Gone,
}

enum ColumnWriter {
    Dictionary(Box<DictionaryColumn>),
    Other(Box<ArrowColumnWriter>),
}

/// An encoded column.
enum Chunk {
    Dictionary(Bytes, ColumnCloseResult),
    Other(ArrowColumnChunk),
}

impl Encoder {
    /// Begins `file`, which is at `path`.
    ///
    /// # Errors
    /// When the file's head cannot be written.
    pub(super) fn begin(file: PatientFile, path: PathBuf, table: &Table) -> Result<Self, ArchiveError> {
        let writer = ArrowWriter::try_new(file, table.arrow.clone(), Some(table.properties.clone()));
        let (writer, factory) =
            writer.and_then(ArrowWriter::into_serialized_writer).map_err(ArchiveError::encode(&path))?;
        let schema = table.arrow.clone();
        let (codings, zstd_level, waiting) = (table.codings.clone(), table.zstd_level, Vec::new());
        let (waiting_rows, waiting_bytes) = (0, 0);
        Ok(Self {
            path,
            writer,
            factory,
            schema,
            codings,
            zstd_level,
            waiting,
            waiting_rows,
            waiting_bytes,
            group: None,
        })
    }

    /// Adds an entry to the footer.
    pub(super) fn note(&mut self, entry: KeyValue) {
        self.writer.append_key_value_metadata(entry);
    }

    /// Takes rows in. They are encoded by [`encode`](Self::encode) and [`finish`](Self::finish).
    pub(super) fn push(&mut self, rows: RecordBatch) {
        self.waiting_rows += rows.num_rows();
        self.waiting_bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
    }

    /// Whether enough rows wait that it pays to go from column to column once more.
    pub(super) fn is_due(&self) -> bool {
        self.waiting_rows >= limits::ENCODE_ROWS || self.waiting_bytes >= limits::ENCODE_BYTES
    }

    /// Bytes that waiting rows take in memory.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes of the file so far; estimated for what is not written yet.
    pub(super) fn bytes(&self) -> usize {
        let (rows, bytes) = self.group.as_ref().map_or((0, 0), |group| (group.rows, group.bytes));
        // What waits will be as large a row as what was encoded before it, or else at most as large as it is.
        let waiting = (self.waiting_rows * bytes).checked_div(rows).unwrap_or(self.waiting_bytes);
        self.writer.bytes_written() + bytes + waiting
    }

    /// Memory of the row group that is being built and of the rows that wait for it.
    pub(super) fn memory_bytes(&self) -> usize {
        self.waiting_bytes + self.group.as_ref().map_or(0, |group| group.memory)
    }

    /// Encodes and writes what is in memory, as a row group that may be smaller than others.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) fn relieve(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        self.encode(crew)?;
        self.end_group(crew)
    }

    /// Encodes all rows that wait; row groups that are full are written.
    ///
    /// # Errors
    /// When a value cannot be encoded or the file not be written.
    pub(super) fn encode(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        while !waiting.is_empty() {
            if self.group.is_none() {
                self.group = Some(self.begin_group(&waiting).map_err(ArchiveError::encode(&self.path))?);
            }
            let Some(group) = &mut self.group else { break };
            let rest = split_off(&mut waiting, group.room());
            group.write(crew, &self.schema, waiting);
            if group.room() == 0 {
                self.end_group(crew)?;
            }
            waiting = rest;
        }
        Ok(())
    }

    /// Encodes and writes all, and the footer; returns the file, which is not synced yet.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) fn finish(&mut self, crew: &Crew) -> Result<&File, ArchiveError> {
        self.encode(crew)?;
        self.end_group(crew)?;
        self.writer.finish().map_err(ArchiveError::encode(&self.path))?;
        Ok(&self.writer.inner().file)
    }

    /// Begins a row group whose first rows are `rows`.
    fn begin_group(&self, rows: &[RecordBatch]) -> Result<Group, ParquetError> {
        let writers = self.factory.create_column_writers(self.writer.flushed_row_groups().len())?;
        let order = (0..writers.len()).collect();
        let column = |(index, writer)| {
            let state =
                State::Open(self.begin_column(index, rows).unwrap_or_else(|| ColumnWriter::Other(Box::new(writer))));
            Mutex::new(Column { state, bytes: 0, memory: 0 })
        };
        Ok(Group {
            columns: writers.into_iter().enumerate().map(column).collect(),
            rows: 0,
            bytes: 0,
            memory: 0,
            order,
        })
    }

    /// A writer of our own, where a dictionary suits what comes.
    fn begin_column(&self, index: usize, rows: &[RecordBatch]) -> Option<ColumnWriter> {
        let dictionary = match self.codings[index] {
            Coding::Other => false,
            Coding::Dictionary => true,
            Coding::BySample { few_expected } => {
                let texts = rows.iter().map(|rows| rows.column(index).as_string::<i32>());
                has_few_values(texts).unwrap_or(few_expected)
            }
        };
        let column = self.writer.schema_descr().column(index);
        let bloom = self.writer.properties().bloom_filter_properties(column.path()).is_some();
        dictionary.then(|| ColumnWriter::Dictionary(Box::new(DictionaryColumn::new(column, self.zstd_level, bloom))))
    }

    fn end_group(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        group.close(crew);
        let mut write = || {
            let mut row_group = self.writer.next_row_group()?;
            for column in group.columns.iter() {
                match std::mem::replace(&mut lock(column).state, State::Gone) {
                    State::Closed(chunk) => chunk.append(&mut row_group)?,
                    State::Failed(error) => return Err(error),
                    State::Open(_) | State::Gone => unreachable!("all columns were closed above"),
                }
            }
            row_group.close().map(drop)
        };
        write().map_err(ArchiveError::encode(&self.path))
    }
}

impl Group {
    /// Rows that the group can take before it reaches one of its limits; 0 when it has.
    fn room(&self) -> usize {
        let by_rows = limits::ROW_GROUP_ROWS.saturating_sub(self.rows);
        let by_bytes = limits::ROW_GROUP_BYTES.saturating_sub(self.bytes);
        // At the bytes that a row took so far. Before the first, nothing is known, and what waits is bounded anyway.
        match (by_bytes * self.rows).checked_div(self.bytes) {
            Some(fitting) => by_rows.min(fitting),
            None => by_rows,
        }
    }

    fn write(&mut self, crew: &Crew, schema: &SchemaRef, rows: Vec<RecordBatch>) {
        self.rows += rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        let (columns, order, schema) = (Arc::clone(&self.columns), Arc::clone(&self.order), Arc::clone(schema));
        let work = move |part: usize| {
            let index = order[part];
            lock(&columns[index]).write(schema.field(index), index, &rows);
        };
        crew.run(self.columns.len(), Box::new(work));
        let sizes: Vec<usize> = self.columns.iter().map(|column| lock(column).bytes).collect();
        self.bytes = sizes.iter().sum();
        self.memory = self.columns.iter().map(|column| lock(column).memory).sum();
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        // Many bytes take long, and a long one that is begun last would be waited for by all.
        order.sort_by_key(|index| std::cmp::Reverse(sizes[*index]));
        self.order = order.into();
    }

    fn close(&self, crew: &Crew) {
        let (columns, order) = (Arc::clone(&self.columns), Arc::clone(&self.order));
        crew.run(self.columns.len(), Box::new(move |part| lock(&columns[order[part]]).close()));
    }
}

impl Column {
    fn write(&mut self, field: &Field, index: usize, rows: &[RecordBatch]) {
        let State::Open(writer) = &mut self.state else { return };
        match writer.write(field, index, rows) {
            Ok(bytes) => (self.bytes, self.memory) = (bytes, writer.memory_bytes()),
            Err(error) => self.state = State::Failed(error),
        }
    }

    fn close(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Open(writer) => writer.close().map_or_else(State::Failed, |chunk| State::Closed(Box::new(chunk))),
            other => other,
        };
    }
}

impl ColumnWriter {
    /// Encodes the column at `index`; returns its bytes so far.
    fn write(&mut self, field: &Field, index: usize, rows: &[RecordBatch]) -> Result<usize, ParquetError> {
        let columns = rows.iter().map(|rows| rows.column(index));
        match self {
            Self::Dictionary(writer) => {
                for column in columns {
                    writer.write(column.as_string())?;
                }
                Ok(writer.bytes())
            }
            Self::Other(writer) => {
                for column in columns {
                    for leaf in compute_leaves(field, column)? {
                        writer.write(&leaf)?;
                    }
                }
                Ok(writer.get_estimated_total_bytes())
            }
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Dictionary(writer) => writer.bytes(),
            Self::Other(writer) => writer.memory_size(),
        }
    }

    fn close(self) -> Result<Chunk, ParquetError> {
        Ok(match self {
            Self::Dictionary(writer) => {
                let (bytes, close) = writer.close()?;
                Chunk::Dictionary(bytes, close)
            }
            Self::Other(writer) => Chunk::Other(writer.close()?),
        })
    }
}

impl Chunk {
    fn append(self, group: &mut SerializedRowGroupWriter<'_, PatientFile>) -> Result<(), ParquetError> {
        match self {
            Self::Dictionary(bytes, close) => group.append_column(&bytes, close),
            Self::Other(chunk) => chunk.append_to_row_group(group),
        }
    }
}

/// A column whose encoder panicked stays as it was then; the panic itself went to the caller.
fn lock(column: &Mutex<Column>) -> MutexGuard<'_, Column> {
    column.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves the first `rows` rows in `batches` and returns those behind them.
fn split_off(batches: &mut Vec<RecordBatch>, rows: usize) -> Vec<RecordBatch> {
    let mut room = rows;
    for index in 0..batches.len() {
        let count = batches[index].num_rows();
        if count > room {
            let mut rest = batches.split_off(index);
            if room > 0 {
                batches.push(rest[0].slice(0, room));
                rest[0] = rest[0].slice(room, count - room);
            }
            return rest;
        }
        room -= count;
    }
    Vec::new()
}
