//! One Parquet file being encoded: rows wait until there are enough of them, then each column is encoded by itself.
//!
//! Columns of a row group have nothing in common, so a [`Crew`] encodes them side by side; where a row group ends is
//! decided between two such rounds, by counts that don't depend on who encoded what. So a file's bytes are the same
//! with any number of threads.
//!
//! Rows of a file that is ended before [`limits::ENCODE_BYTES`] of them have come are put in order first, and the file says so. Of
//! a larger one those that came first are written by the time that the last ones come; compaction puts its rows in order.

use super::ArchiveError;
use super::crew::Crew;
use super::dictionary::{DictionaryColumn, SAMPLE, has_few_values};
use super::order::{self, Order};
use super::patience::PatientFile;
use super::table::{Coding, Table};
use crate::limits;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many batches of fewer than so many rows each, one behind the other, are made one.
const SMALL_BATCHES: usize = 64;
const SMALL_ROWS: usize = 256;

/// A Parquet file that rows are written to.
pub(super) struct Encoder {
    path: PathBuf,
    output: Output,
    properties: WriterProperties,
    schema: SchemaRef,
    codings: Arc<[Coding]>,
    zstd_level: i32,
    /// Columns that rows are put in the order of, and whether they come so.
    order: Vec<usize>,
    in_order: bool,
    /// Rows that are not encoded yet.
    waiting: Vec<RecordBatch>,
    /// How many of the last ones of these are small.
    small: usize,
    waiting_rows: usize,
    /// Their size as Arrow arrays, which doesn't depend on who made them, …
    waiting_bytes: usize,
    /// … and what they take of memory, which is more where there are few rows in an array or room is left behind them.
    waiting_memory: usize,
    group: Option<Group>,
}

/// Where encoded rows go.
enum Output {
    /// Nothing was written yet, and these stand in the footer.
    Empty(PatientFile, Vec<KeyValue>),
    Begun(Box<SerializedFileWriter<PatientFile>>, Box<ArrowRowGroupWriterFactory>),
    /// It couldn't be begun.
    Failed,
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
    pub(super) fn begin(file: PatientFile, path: PathBuf, table: &Table) -> Self {
        Self {
            path,
            output: Output::Empty(file, Vec::new()),
            properties: table.properties.clone(),
            schema: table.arrow.clone(),
            codings: table.codings.clone(),
            zstd_level: table.zstd_level,
            order: table.order.clone(),
            in_order: table.in_order,
            waiting: Vec::new(),
            small: 0,
            waiting_rows: 0,
            waiting_bytes: 0,
            waiting_memory: 0,
            group: None,
        }
    }

    /// Adds an entry to the footer.
    pub(super) fn note(&mut self, entry: KeyValue) {
        match &mut self.output {
            Output::Empty(_, notes) => notes.push(entry),
            Output::Begun(writer, _) => writer.append_key_value_metadata(entry),
            Output::Failed => {}
        }
    }

    /// Takes rows in. They are encoded by [`encode`](Self::encode) and [`finish`](Self::finish).
    pub(super) fn push(&mut self, rows: RecordBatch) {
        self.waiting_rows += rows.num_rows();
        self.waiting_bytes += bytes_of(&rows);
        self.waiting_memory += rows.get_array_memory_size();
        self.small = if rows.num_rows() < SMALL_ROWS { self.small + 1 } else { 0 };
        self.waiting.push(rows);
        if self.small == SMALL_BATCHES {
            self.put_together();
        }
    }

    /// Makes one of many small batches, which take much more memory than their rows need.
    fn put_together(&mut self) {
        let small = self.waiting.split_off(self.waiting.len() - self.small);
        // Where they can't be one, they stay many.
        let together = concat_batches(&self.schema, &small).map_or(small, |one| vec![one]);
        self.small = usize::from(together.last().is_some_and(|one| one.num_rows() < SMALL_ROWS));
        self.waiting.extend(together);
        self.waiting_memory = self.waiting.iter().map(RecordBatch::get_array_memory_size).sum();
    }

    /// Whether enough rows wait that it pays to go from column to column once more; of a file that they are the first of, that they
    /// can't all be put in order.
    pub(super) fn is_due(&self) -> bool {
        let gathers = !self.in_order && matches!(self.output, Output::Empty(..));
        (!gathers && self.waiting_rows >= limits::ENCODE_ROWS) || self.waiting_bytes >= limits::ENCODE_BYTES
    }

    /// Bytes of waiting rows.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes of the file so far; estimated for what is not written yet.
    pub(super) fn bytes(&self) -> usize {
        let (rows, bytes) = self.group.as_ref().map_or((0, 0), |group| (group.rows, group.bytes));
        // What waits will be as large a row as what was encoded before it, or else at most as large as it is.
        let waiting = (self.waiting_rows * bytes).checked_div(rows).unwrap_or(self.waiting_bytes);
        let written = if let Output::Begun(writer, _) = &self.output { writer.bytes_written() } else { 0 };
        written + bytes + waiting
    }

    /// Memory of the row group that is being built and of the rows that wait for it.
    pub(super) fn memory_bytes(&self) -> usize {
        self.waiting_memory + self.group.as_ref().map_or(0, |group| group.memory)
    }

    /// Encodes and writes what is in memory, as a row group that may be smaller than others.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) fn relieve(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        self.encode_rows(crew, 0)?;
        self.end_group(crew)
    }

    /// Encodes the rows that wait; row groups that are full are written. A few that would begin a new one go on waiting, as how its columns
    /// are encoded is decided by its first rows.
    ///
    /// # Errors
    /// When a value cannot be encoded or the file not be written.
    pub(super) fn encode(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        self.encode_rows(crew, SAMPLE)
    }

    /// Encodes rows; behind a row group that is full by now, only if there are `least` of them to begin another one with.
    fn encode_rows(&mut self, crew: &Crew, least: usize) -> Result<(), ArchiveError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        (self.waiting_rows, self.waiting_bytes, self.waiting_memory, self.small) = (0, 0, 0, 0);
        if !waiting.is_empty() {
            self.begin_output(self.in_order)?;
        }
        let mut ended = false;
        while !waiting.is_empty() {
            if ended && waiting.iter().map(RecordBatch::num_rows).sum::<usize>() < least {
                waiting.into_iter().for_each(|rows| self.push(rows));
                break;
            }
            if self.group.is_none() {
                self.group = Some(self.begin_group(&waiting).map_err(ArchiveError::encode(&self.path))?);
            }
            let Some(group) = &mut self.group else { break };
            let rest = split_off(&mut waiting, group.room());
            group.write(crew, &self.schema, waiting);
            ended = group.room() == 0;
            if ended {
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
        if matches!(self.output, Output::Empty(..)) {
            self.sort()?;
            self.begin_output(true)?;
        }
        self.encode_rows(crew, 0)?;
        self.end_group(crew)?;
        let path = &self.path;
        let (writer, _) = self.output.begun().map_err(ArchiveError::encode(path))?;
        writer.finish().map_err(ArchiveError::encode(path))?;
        Ok(&writer.inner().file)
    }

    /// Puts the rows that wait, all of the file, in order.
    fn sort(&mut self) -> Result<(), ArchiveError> {
        if self.in_order || self.waiting.is_empty() {
            return Ok(());
        }
        let order = Order::new(&self.schema, self.order.clone())?;
        let mut sorted = Vec::new();
        order.sort(std::mem::take(&mut self.waiting), limits::ENCODE_ROWS, &mut |rows| {
            sorted.push(rows);
            Ok(())
        })?;
        self.waiting = sorted;
        Ok(())
    }

    /// Writes the file's head; the footer will say that rows are in order, if `sorted`.
    fn begin_output(&mut self, sorted: bool) -> Result<(), ArchiveError> {
        let (file, notes) = match std::mem::replace(&mut self.output, Output::Failed) {
            Output::Empty(file, notes) => (file, notes),
            begun => {
                self.output = begun;
                return Ok(());
            }
        };
        let marks = sorted.then(|| order::marks(&self.order));
        let properties = self.properties.clone().into_builder().set_sorting_columns(marks).build();
        let writer = ArrowWriter::try_new(file, self.schema.clone(), Some(properties));
        let (mut writer, factory) =
            writer.and_then(ArrowWriter::into_serialized_writer).map_err(ArchiveError::encode(&self.path))?;
        notes.into_iter().for_each(|note| writer.append_key_value_metadata(note));
        self.output = Output::Begun(Box::new(writer), Box::new(factory));
        Ok(())
    }

    /// Begins a row group whose first rows are `rows`.
    fn begin_group(&mut self, rows: &[RecordBatch]) -> Result<Group, ParquetError> {
        let (codings, level) = (&self.codings, self.zstd_level);
        let (writer, factory) = self.output.begun()?;
        let writers = factory.create_column_writers(writer.flushed_row_groups().len())?;
        let order = (0..writers.len()).collect();
        let of: &SerializedFileWriter<PatientFile> = writer;
        let column = |(index, writer)| {
            let own = begin_column(of, codings[index], (index, level), rows);
            let state = State::Open(own.unwrap_or_else(|| ColumnWriter::Other(Box::new(writer))));
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

    fn end_group(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        group.close(crew);
        let mut write = || {
            let (writer, _) = self.output.begun()?;
            let mut row_group = writer.next_row_group()?;
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

impl Output {
    fn begun(&mut self) -> Result<(&mut SerializedFileWriter<PatientFile>, &ArrowRowGroupWriterFactory), ParquetError> {
        match self {
            Self::Begun(writer, factory) => Ok((writer, factory)),
            Self::Empty(..) | Self::Failed => Err(ParquetError::General("the file was not begun".to_owned())),
        }
    }
}

/// A writer of our own, where a dictionary suits what comes.
fn begin_column(
    writer: &SerializedFileWriter<PatientFile>,
    coding: Coding,
    (index, zstd_level): (usize, i32),
    rows: &[RecordBatch],
) -> Option<ColumnWriter> {
    let dictionary = match coding {
        Coding::Other => false,
        Coding::Dictionary => true,
        Coding::BySample { few_expected } => {
            let texts = rows.iter().map(|rows| rows.column(index).as_string::<i32>());
            has_few_values(texts).unwrap_or(few_expected)
        }
    };
    let column = writer.schema_descr().column(index);
    let bloom = writer.properties().bloom_filter_properties(column.path()).is_some();
    dictionary.then(|| ColumnWriter::Dictionary(Box::new(DictionaryColumn::new(column, zstd_level, bloom))))
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

/// The bytes of rows, and not of the buffers that they lie in.
fn bytes_of(rows: &RecordBatch) -> usize {
    let bytes =
        |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    rows.columns().iter().map(bytes).sum()
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
