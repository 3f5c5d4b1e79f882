//! Evaluation that goes on when single rows fail.
//!
//! A kernel refuses a batch for one bad value (`'x'::int`, `n % 0`). Such a row gets null and is counted; all others
//! get what they would get alone, so that results don't depend on how the input was cut into batches.

use super::Expression;
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_empty_array, new_null_array};
use arrow::compute::concat;

impl Expression {
    /// As [`Self::evaluate`], with null for the rows whose value cannot be computed, and how many those are.
    pub fn evaluate_lenient(&self, rows: &RecordBatch) -> (ArrayRef, u64) {
        let (values, failed) = self.evaluate_marking(rows);
        (values, failed.len() as u64)
    }

    /// As [`Self::evaluate_lenient`], of an expression made by [`super::Compiler::predicate`].
    pub fn evaluate_mask_lenient(&self, rows: &RecordBatch) -> (BooleanArray, u64) {
        let (mask, failed) = self.evaluate_mask_marking(rows);
        (mask, failed.len() as u64)
    }

    /// As [`Self::evaluate_lenient`], with the numbers of the rows that failed, ascending.
    pub fn evaluate_marking(&self, rows: &RecordBatch) -> (ArrayRef, Vec<usize>) {
        match self.evaluate(rows) {
            Ok(values) => (values, Vec::new()),
            Err(_) => self.evaluate_in_pieces(rows),
        }
    }

    /// As [`Self::evaluate_marking`], of an expression made by [`super::Compiler::predicate`].
    pub fn evaluate_mask_marking(&self, rows: &RecordBatch) -> (BooleanArray, Vec<usize>) {
        let (mask, failed) = self.evaluate_marking(rows);
        (mask.as_any().downcast_ref::<BooleanArray>().expect("a predicate was checked to be boolean").clone(), failed)
    }

    /// Halves what fails until single rows are left: few bad rows cost few evaluations.
    fn evaluate_in_pieces(&self, rows: &RecordBatch) -> (ArrayRef, Vec<usize>) {
        let mut pieces: Vec<ArrayRef> = Vec::new();
        let mut failed = Vec::new();
        // The next piece is on top; at most one waits for each halving, so 64 is more than can be.
        let mut waiting = vec![(0, rows.num_rows())];
        while let Some((start, length)) = waiting.pop() {
            match self.evaluate(&rows.slice(start, length)) {
                Ok(values) => pieces.push(values),
                Err(_) if length <= 1 => {
                    pieces.push(new_null_array(&self.data_type, length));
                    failed.extend((length == 1).then_some(start));
                }
                Err(_) => {
                    let half = length / 2;
                    waiting.push((start + half, length - half));
                    waiting.push((start, half));
                }
            }
        }
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        if pieces.is_empty() {
            return (new_empty_array(&self.data_type), failed);
        }
        (concat(&pieces).expect("an expression gives one type"), failed)
    }
}

#[cfg(test)]
mod tests {
    use crate::expression::Compiler;
    use crate::place::Located;
    use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(texts: &[Option<String>]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("t", DataType::Utf8, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(texts.to_vec()))]).unwrap()
    }

    fn check(sql: &str, texts: &[Option<String>]) -> (Vec<Option<i64>>, Vec<usize>) {
        let rows = batch(texts);
        let expression = Compiler::default().compile(&Located::nowhere(sql.into()), &rows.schema()).unwrap();
        let (values, failed) = expression.evaluate_marking(&rows);
        (values.as_any().downcast_ref::<Int64Array>().unwrap().iter().collect(), failed)
    }

    #[test]
    fn a_bad_row_is_null_and_the_others_stay() {
        let texts = ["1", "x", "3"].map(|t| Some(t.to_owned()));
        assert_eq!(check("t::bigint", &texts), (vec![Some(1), None, Some(3)], vec![1]));
        let texts = ["1", "0"].map(|t| Some(t.to_owned()));
        assert_eq!(check("7 % t::bigint", &texts), (vec![Some(0), None], vec![1]));
        assert_eq!(check("7 % t::bigint", &[]), (vec![], vec![]));
    }

    #[test]
    fn a_mask_has_null_where_the_condition_fails() {
        let rows = batch(&["1", "x", "3"].map(|t| Some(t.to_owned())));
        let sql = Located::nowhere("t::bigint > 2".to_owned());
        let expression = Compiler::default().predicate(&sql, &rows.schema()).unwrap();
        let (mask, failed) = expression.evaluate_mask_lenient(&rows);
        assert_eq!((mask.iter().collect::<Vec<_>>(), failed), (vec![Some(false), None, Some(true)], 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_row_gets_what_it_would_get_alone(
            texts in prop::collection::vec(prop::option::of("[0-9]{1,3}|x"), 0..40),
        ) {
            let sql = "case when t <> '5' then 100 % t::bigint else 1 end";
            let (values, failed) = check(sql, &texts);
            for (row, text) in texts.iter().enumerate() {
                let (alone, bad) = check(sql, std::slice::from_ref(text));
                prop_assert_eq!(values[row], alone[0]);
                prop_assert_eq!(failed.contains(&row), !bad.is_empty());
            }
        }
    }
}
