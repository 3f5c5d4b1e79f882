//! What rows come to, whatever their order and however they are spread over files.
//!
//! Two sets of rows have the same digest when they are the same; when they are not, they have another one but for a chance
//! of 2^-64. A null counts as nothing, so a column that only some files have doesn't matter. Digests of parts add up to
//! that of the whole.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use std::fmt;
use twox_hash::XxHash64;

/// A sum over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Adds rows. A column of a type that no table has counts with its name alone.
    pub(crate) fn add(&mut self, rows: &RecordBatch) {
        let mut sums = vec![0u64; rows.num_rows()];
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let seed = XxHash64::oneshot(0, field.name().as_bytes());
            add_column(&mut sums, seed, column.as_ref());
        }
        for sum in sums {
            self.0 = self.0.wrapping_add(XxHash64::oneshot(0, &sum.to_le_bytes()));
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// From what [`fmt::Display`] gives.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn add_column(sums: &mut [u64], seed: u64, column: &dyn Array) {
    let mut add = |row: usize, bytes: &[u8]| sums[row] = sums[row].wrapping_add(XxHash64::oneshot(seed, bytes));
    let there = |row: &usize| column.is_valid(*row);
    let rows = (0..column.len()).filter(there);
    match column.data_type() {
        DataType::Utf8 => rows.for_each(|row| add(row, column.as_string::<i32>().value(row).as_bytes())),
        DataType::Binary => rows.for_each(|row| add(row, column.as_binary::<i32>().value(row))),
        DataType::FixedSizeBinary(_) => rows.for_each(|row| add(row, column.as_fixed_size_binary().value(row))),
        DataType::Int64 => rows.for_each(|row| add(row, &column.as_primitive::<Int64Type>().value(row).to_le_bytes())),
        DataType::Timestamp(..) => {
            let stamps = column.as_primitive_opt::<TimestampMicrosecondType>();
            rows.for_each(|row| add(row, &stamps.map_or(0, |stamps| stamps.value(row)).to_le_bytes()));
        }
        DataType::Float64 => {
            rows.for_each(|row| add(row, &column.as_primitive::<Float64Type>().value(row).to_bits().to_le_bytes()));
        }
        DataType::Boolean => rows.for_each(|row| add(row, &[u8::from(column.as_boolean().value(row))])),
        _ => rows.for_each(|row| add(row, &[])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::events;
    use arrow::array::new_null_array;
    use arrow::compute::{concat_batches, take_record_batch};
    use arrow::datatypes::{Field, Schema};
    use std::sync::Arc;

    fn digest(rows: &RecordBatch) -> Digest {
        let mut digest = Digest::default();
        digest.add(rows);
        digest
    }

    #[test]
    fn order_and_spread_and_empty_columns_do_not_count_and_values_do() {
        let rows = events(0, 20);
        let (first, rest) = (rows.slice(0, 7), rows.slice(7, 13));
        let turned: arrow::array::UInt32Array = (0..20).rev().collect();
        let turned = take_record_batch(&rows, &turned).unwrap();
        assert_eq!(digest(&rows), digest(&turned));
        assert_eq!(digest(&rows), digest(&first).plus(digest(&rest)));
        let mut fields: Vec<_> = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new("more", DataType::Utf8, true)));
        let mut columns = rows.columns().to_vec();
        columns.push(new_null_array(&DataType::Utf8, 20));
        let wider = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        assert_eq!(digest(&rows), digest(&wider));
        assert_ne!(digest(&rows), digest(&events(1, 20)));
        assert_ne!(digest(&rows), digest(&first));
        let twice = concat_batches(&rows.schema(), [&rows, &rows]).unwrap();
        assert_ne!(digest(&twice), digest(&rows));
        assert_eq!(Digest::parse(&digest(&rows).to_string()), Some(digest(&rows)));
    }
}
