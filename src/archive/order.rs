//! The order that rows of a file are in: by `app` and time, or by time alone where there is no `app`.
//!
//! A file is marked as sorted when all of it is. Parquet says it of row groups, but readers (DataFusion) take the first one's word
//! for the file; so one whose row groups are each in order, and not one behind the other, is not marked.

use super::ArchiveError;
use super::table::Kind;
use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{Row, RowConverter, Rows, SortField};
use parquet::file::metadata::SortingColumn;

/// Takes rows in order.
pub(super) type Sink<'s> = dyn FnMut(RecordBatch) -> Result<(), ArchiveError> + 's;

/// Columns that files of a table are in the order of, the first one first; `time` is the index of the table's time.
pub(super) fn columns(kind: Kind, schema: &SchemaRef, time: usize) -> Vec<usize> {
    let app = (kind == Kind::Data).then(|| schema.index_of("app").ok()).flatten();
    app.filter(|app| *schema.field(*app).data_type() == DataType::Utf8).into_iter().chain([time]).collect()
}

/// What a footer says of rows in the order of these columns.
pub(super) fn marks(columns: &[usize]) -> Vec<SortingColumn> {
    let mark = |index: &usize| SortingColumn { column_idx: *index as i32, descending: false, nulls_first: true };
    columns.iter().map(mark).collect()
}

/// An order by some columns, nulls first.
pub(super) struct Order {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl Order {
    /// # Errors
    /// For types that have no order, which no table has.
    pub(super) fn new(schema: &SchemaRef, columns: Vec<usize>) -> Result<Self, ArchiveError> {
        let fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
        Ok(Self { columns, converter: RowConverter::new(fields)? })
    }

    /// What rows are compared by.
    pub(super) fn keys(&self, batch: &RecordBatch) -> Result<Rows, ArchiveError> {
        let columns: Vec<_> = self.columns.iter().map(|index| batch.column(*index).clone()).collect();
        Ok(self.converter.convert_columns(&columns)?)
    }

    /// Hands rows to `sink` in order, at most `most` at a time. Rows that are equal stay as they came; what is in order already
    /// is handed on as it is.
    pub(super) fn sort(&self, batches: Vec<RecordBatch>, most: usize, sink: &mut Sink<'_>) -> Result<(), ArchiveError> {
        let keys = batches.iter().map(|batch| self.keys(batch)).collect::<Result<Vec<Rows>, _>>()?;
        if is_in_order(&keys) {
            drop(keys);
            for batch in batches {
                for start in (0..batch.num_rows()).step_by(most) {
                    sink(batch.slice(start, most.min(batch.num_rows() - start)))?;
                }
            }
            return Ok(());
        }
        let places =
            keys.iter().enumerate().flat_map(|(batch, keys)| (0..keys.num_rows()).map(move |row| (batch, row)));
        let mut places: Vec<(usize, usize)> = places.collect();
        // Logs come nearly in order, in runs, which this sort makes use of.
        places.sort_by(|a, b| keys[a.0].row(a.1).cmp(&keys[b.0].row(b.1)));
        drop(keys);
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        places.chunks(most).try_for_each(|places| sink(interleave_record_batch(&batches, places)?))
    }
}

/// Whether all of these follow each other.
pub(super) fn is_in_order(keys: &[Rows]) -> bool {
    let mut before: Option<Row<'_>> = None;
    keys.iter().flat_map(Rows::iter).all(|key| before.replace(key).is_none_or(|before| before <= key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;
    use std::sync::Arc;

    type Given = (Option<u8>, i64);

    fn batch(rows: &[Given], first: i64) -> RecordBatch {
        let apps: StringArray = rows.iter().map(|row| row.0.map(|app| format!("app-{app}"))).collect();
        let times: Int64Array = rows.iter().map(|row| Some(row.1)).collect();
        let numbers: Int64Array = (first..first + rows.len() as i64).map(Some).collect();
        let columns: [(&str, ArrayRef); 3] =
            [("app", Arc::new(apps)), ("ts", Arc::new(times)), ("n", Arc::new(numbers))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    /// Numbers of rows as they come out, and the sizes of batches.
    fn sort(parts: &[Vec<Given>], most: usize) -> (Vec<i64>, Vec<usize>) {
        let mut batches: Vec<RecordBatch> = Vec::new();
        for part in parts {
            let first = batches.iter().map(|batch| batch.num_rows() as i64).sum();
            batches.push(batch(part, first));
        }
        let order = Order::new(&batches[0].schema(), vec![0, 1]).unwrap();
        let (mut numbers, mut sizes) = (Vec::new(), Vec::new());
        let mut take = |rows: RecordBatch| {
            numbers.extend(rows.column(2).as_primitive::<Int64Type>().values());
            sizes.push(rows.num_rows());
            Ok(())
        };
        order.sort(batches, most, &mut take).unwrap();
        (numbers, sizes)
    }

    #[test]
    fn what_is_in_order_is_not_touched() {
        let parts = [vec![(None, 9), (Some(1), 1)], vec![(Some(1), 1), (Some(1), 5), (Some(2), 0)]];
        assert_eq!(sort(&parts, 2), (vec![0, 1, 2, 3, 4], vec![2, 2, 1]));
        assert_eq!(sort(&[parts[1].clone(), parts[0].clone()], 9), (vec![3, 0, 4, 1, 2], vec![5]));
    }

    proptest! {
        #[test]
        fn rows_come_in_order_and_equal_ones_as_they_came(
            parts in proptest::collection::vec(proptest::collection::vec((proptest::option::of(0u8..3), 0i64..5), 0..20), 1..8),
            most in 1usize..12,
        ) {
            let all = parts.concat();
            let mut expected: Vec<i64> = (0..all.len() as i64).collect();
            expected.sort_by_key(|number| all[*number as usize]);
            let (numbers, sizes) = sort(&parts, most);
            prop_assert_eq!(numbers, expected);
            prop_assert!(sizes.iter().all(|size| *size <= most));
        }
    }
}
