//! Sorting more rows than fit in memory: runs that are sorted go to files, and then they are merged.
//!
//! Rows that are equal in the columns that they are sorted by stay in the order in which they came, so the same rows give
//! the same file.

use super::ArchiveError;
use super::order::{Order, Sink};
use crate::limits;
use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{Row, Rows};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Rows that are being sorted. Runs are removed with it.
pub(super) struct Sorter<'s> {
    schema: SchemaRef,
    order: Order,
    scratch: &'s Path,
    /// Bytes of rows that are sorted at once.
    room: usize,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    runs: Vec<PathBuf>,
    begun: usize,
}

impl<'s> Sorter<'s> {
    /// Sorts by the columns `keys`, nulls first, in about `memory_bytes`.
    pub(super) fn new(
        schema: &SchemaRef,
        keys: Vec<usize>,
        scratch: &'s Path,
        memory_bytes: u64,
    ) -> Result<Self, ArchiveError> {
        let order = Order::new(schema, keys)?;
        // Rows that wait, their keys, and what is taken from them in order.
        let room = usize::try_from(memory_bytes / 3).unwrap_or(usize::MAX);
        let (waiting, runs) = (Vec::new(), Vec::new());
        let schema = SchemaRef::clone(schema);
        Ok(Self { schema, order, scratch, room, waiting, waiting_rows: 0, waiting_bytes: 0, runs, begun: 0 })
    }

    pub(super) fn push(&mut self, rows: RecordBatch) -> Result<(), ArchiveError> {
        self.waiting_rows += rows.num_rows();
        self.waiting_bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
        if self.waiting_bytes >= self.room { self.spill() } else { Ok(()) }
    }

    /// Hands all rows to `sink`, in order.
    pub(super) fn sorted(mut self, sink: &mut Sink<'_>) -> Result<(), ArchiveError> {
        if self.runs.is_empty() {
            return self.drain(sink);
        }
        self.spill()?;
        while self.runs.len() > limits::MERGE_RUNS {
            // Those that came first are merged first and stay first.
            let first: Vec<PathBuf> = self.runs.drain(..limits::MERGE_RUNS).collect();
            let (path, mut writer) = self.begin_run(&first[0])?;
            let failed = ArchiveError::encode;
            self.merge(&first, &mut |rows| writer.write(&rows).map_err(failed(&path)))?;
            writer.close().map_err(failed(&path))?;
            self.runs.insert(0, path);
            remove(&first);
        }
        let runs = self.runs.clone();
        self.merge(&runs, sink)
    }

    /// Hands the rows that wait to `sink`, in order.
    fn drain(&mut self, sink: &mut Sink<'_>) -> Result<(), ArchiveError> {
        let waiting = std::mem::take(&mut self.waiting);
        let row_bytes = self.waiting_bytes / self.waiting_rows.max(1);
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let most = (limits::UPKEEP_BATCH_BYTES / row_bytes.max(1)).clamp(1, limits::UPKEEP_BATCH_ROWS);
        self.order.sort(waiting, most, sink)
    }

    /// Writes the rows that wait as a run.
    fn spill(&mut self) -> Result<(), ArchiveError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let row_bytes = self.waiting_bytes / self.waiting_rows.max(1);
        let (path, mut writer) = self.begin_run_of(row_bytes)?;
        self.runs.push(path.clone());
        self.drain(&mut |rows| writer.write(&rows).map_err(ArchiveError::encode(&path)))?;
        writer.close().map_err(ArchiveError::encode(&path)).map(drop)
    }

    /// Begins a run with row groups as large as those of another one.
    fn begin_run(&mut self, like: &Path) -> Result<(PathBuf, ArrowWriter<File>), ArchiveError> {
        let run = open(like)?;
        let groups = run.metadata().row_groups();
        let (bytes, rows) = groups.first().map_or((0, 1), |group| (group.total_byte_size(), group.num_rows().max(1)));
        self.begin_run_of(usize::try_from(bytes / rows).unwrap_or(0))
    }

    fn begin_run_of(&mut self, row_bytes: usize) -> Result<(PathBuf, ArrowWriter<File>), ArchiveError> {
        let path = self.scratch.join(format!("run-{}-{}", std::process::id(), self.begun));
        self.begun += 1;
        let file = File::create(&path).map_err(ArchiveError::io("write", &path))?;
        let level = ZstdLevel::try_new(1).expect("the level is within zstd's range");
        // A run is read one row group at a time, side by side with the others.
        let rows = (limits::MERGE_BATCH_BYTES / row_bytes.max(1)).clamp(1, limits::MERGE_BATCH_ROWS);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_row_count(Some(rows));
        let writer = ArrowWriter::try_new(file, SchemaRef::clone(&self.schema), Some(properties.build()));
        Ok((path.clone(), writer.map_err(ArchiveError::encode(&path))?))
    }

    fn merge(&self, runs: &[PathBuf], sink: &mut Sink<'_>) -> Result<(), ArchiveError> {
        let mut cursors = Vec::new();
        for run in runs {
            let reader = open(run)?.with_batch_size(limits::MERGE_BATCH_ROWS).build();
            let reader = reader.map_err(ArchiveError::encode(run))?;
            cursors.extend(self.next(reader, cursors.len())?);
        }
        let mut picked =
            Picked { batches: cursors.iter().map(|cursor| cursor.batch.clone()).collect(), picks: Vec::new() };
        while let Some((least, end)) = stretch(&cursors) {
            let cursor = &mut cursors[least];
            picked.picks.extend((cursor.at..end).map(|row| (cursor.number, row)));
            cursor.at = end;
            if end == cursor.batch.num_rows() {
                let cursor = cursors.remove(least);
                if let Some(next) = self.next(cursor.reader, picked.batches.len())? {
                    picked.batches.push(next.batch.clone());
                    cursors.insert(least, next);
                }
            }
            if picked.picks.len() >= limits::MERGE_BATCH_ROWS || picked.batches.len() >= 2 * limits::MERGE_RUNS {
                picked.flush(&mut cursors, sink)?;
            }
        }
        picked.flush(&mut cursors, sink)
    }

    /// The next rows of a run, as batch `number` of those that are picked from.
    fn next(&self, mut reader: ParquetRecordBatchReader, number: usize) -> Result<Option<Cursor>, ArchiveError> {
        let Some(batch) = reader.next().transpose()? else { return Ok(None) };
        let rows = self.order.keys(&batch)?;
        Ok(Some(Cursor { reader, batch, rows, at: 0, number }))
    }
}

impl Drop for Sorter<'_> {
    fn drop(&mut self) {
        remove(&self.runs);
    }
}

/// Whoever comes next removes what this cannot.
fn remove(runs: &[PathBuf]) {
    for run in runs {
        let _ = fs::remove_file(run);
    }
}

fn open(run: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, ArchiveError> {
    let file = File::open(run).map_err(ArchiveError::io("read", run))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(ArchiveError::encode(run))
}

/// How far a run is read.
struct Cursor {
    reader: ParquetRecordBatchReader,
    batch: RecordBatch,
    /// Its keys.
    rows: Rows,
    at: usize,
    /// Which of the batches that are picked from this is.
    number: usize,
}

impl Cursor {
    fn key(&self, row: usize) -> Row<'_> {
        self.rows.row(row)
    }
}

/// The run whose row comes next, and the end of its rows that come before those of all others. Among equal ones those of
/// earlier runs come first.
fn stretch(cursors: &[Cursor]) -> Option<(usize, usize)> {
    let mut least: Option<usize> = None;
    let mut second: Option<usize> = None;
    for (index, cursor) in cursors.iter().enumerate() {
        let before = |other: usize| cursor.key(cursor.at) < cursors[other].key(cursors[other].at);
        if least.is_none_or(before) {
            second = least.replace(index);
        } else if second.is_none_or(before) {
            second = Some(index);
        }
    }
    let least = least?;
    let cursor = &cursors[least];
    let mut end = cursor.at + 1;
    while end < cursor.batch.num_rows() {
        let is_next = second.is_none_or(|second| {
            let (here, there) = (cursor.key(end), cursors[second].key(cursors[second].at));
            here < there || (here == there && least < second)
        });
        if !is_next {
            break;
        }
        end += 1;
    }
    Some((least, end))
}

/// Rows in order, by the batches that they are in.
struct Picked {
    batches: Vec<RecordBatch>,
    picks: Vec<(usize, usize)>,
}

impl Picked {
    fn flush(&mut self, cursors: &mut [Cursor], sink: &mut Sink<'_>) -> Result<(), ArchiveError> {
        if !self.picks.is_empty() {
            let batches: Vec<&RecordBatch> = self.batches.iter().collect();
            sink(interleave_record_batch(&batches, &self.picks)?)?;
        }
        self.picks.clear();
        self.batches.clear();
        for (number, cursor) in cursors.iter_mut().enumerate() {
            cursor.number = number;
            self.batches.push(cursor.batch.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::events;
    use arrow::array::AsArray;
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    /// Sorts rows by `path`, which has three values, in `memory` bytes; returns their numbers.
    fn sort(parts: &[Vec<i64>], memory: u64) -> (Vec<i64>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let schema = events(0, 1).schema();
        let keys = vec![schema.index_of("path").unwrap()];
        let mut sorter = Sorter::new(&schema, keys, folder.path(), memory).unwrap();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let rows: Vec<RecordBatch> = part.iter().map(|number| events(*number, 1)).collect();
            sorter.push(concat_batches(&schema, &rows).unwrap()).unwrap();
        }
        let (mut numbers, begun) = (Vec::new(), sorter.begun);
        sorter
            .sorted(&mut |rows| {
                numbers.extend(rows.column_by_name("status").unwrap().as_primitive::<Int64Type>().values());
                Ok(())
            })
            .unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no run is left");
        (numbers, begun)
    }

    /// Paths in turn are "/v1/x", "../../etc/passwd", "".
    fn expected(parts: &[Vec<i64>]) -> Vec<i64> {
        let mut all: Vec<i64> = parts.concat();
        all.sort_by_key(|number| [2, 1, 0][(*number % 3) as usize]);
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rows_come_in_order_and_equal_ones_as_they_came(
            parts in proptest::collection::vec(proptest::collection::vec(0i64..1_000, 0..20), 1..60)
        ) {
            let filled = parts.iter().filter(|part| !part.is_empty()).count();
            prop_assume!(filled > 0);
            let (in_memory, runs) = sort(&parts, u64::MAX);
            prop_assert_eq!(runs, 0);
            prop_assert_eq!(&in_memory, &expected(&parts));
            // Each part is a run, more of them than are merged at once.
            let (merged, runs) = sort(&parts, 3);
            prop_assert_eq!(runs, filled);
            prop_assert_eq!(merged, in_memory);
        }
    }
}
