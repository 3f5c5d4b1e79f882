//! `filter: status >= 500`: keeps the rows for which the condition is true.
//!
//! Null goes, as in SQL. A row on which the condition cannot be computed stays and is counted as failed: a mistake in
//! a condition must not lose records.

use super::{Built, Transform, TransformCounts};
use crate::expression::{Compiler, Expression};
use crate::place::{Located, Problem};
use crate::record::event::EventBatch;
use crate::record::schema::Schema;
use arrow::array::{Array, BooleanArray};
use arrow::buffer::BooleanBuffer;

#[derive(Debug)]
struct Filter {
    condition: Expression,
}

pub(super) fn build(condition: &Located<String>, schema: &Schema, compiler: &Compiler) -> Result<Built, Vec<Problem>> {
    let condition = compiler.predicate(condition, &schema.arrow)?;
    Ok((Box::new(Filter { condition }), schema.clone()))
}

impl Transform for Filter {
    fn apply(&self, batch: EventBatch, counts: &mut TransformCounts) -> EventBatch {
        let (mask, failed) = self.condition.evaluate_mask_marking(&batch.rows);
        counts.failed += failed.len() as u64;
        let mask = if failed.is_empty() { mask } else { keeping(&mask, &failed) };
        let dropped = mask.len() - mask.true_count();
        if dropped == 0 {
            return batch;
        }
        counts.dropped += dropped as u64;
        batch.filter(&mask).expect("a mask has one value a row")
    }

    fn reads(&self) -> Vec<&str> {
        self.condition.columns().iter().map(String::as_str).collect()
    }
}

/// `mask` with true for the rows `failed`, which are ascending.
fn keeping(mask: &BooleanArray, failed: &[usize]) -> BooleanArray {
    let mut failed = failed.iter().copied().peekable();
    BooleanArray::from(BooleanBuffer::collect_bool(mask.len(), |row| {
        failed.next_if_eq(&row).is_some() || (mask.is_valid(row) && mask.value(row))
    }))
}

#[cfg(test)]
mod tests {
    use crate::place::Located;
    use crate::transform::tests::{batch, built, schema};
    use crate::transform::{Config, TransformCounts};
    use proptest::prelude::*;

    fn check(sql: &str, statuses: &[Option<i64>]) -> (Vec<i64>, TransformCounts) {
        let (step, _) = built(&Config::Filter(Located::nowhere(sql.into())), &schema());
        let mut counts = TransformCounts::default();
        let kept = step.apply(batch(statuses), &mut counts);
        assert_eq!(kept.rows.num_rows(), kept.clock.len());
        assert_eq!(kept.end, batch(statuses).end, "a filter never changes how far the input was read");
        (kept.clock.values().to_vec(), counts)
    }

    #[test]
    fn null_goes_and_what_cannot_be_computed_stays() {
        let statuses = [Some(200), None, Some(0), Some(7)];
        assert_eq!(check("status >= 200", &statuses), (vec![0], TransformCounts { dropped: 3, failed: 0 }));
        assert_eq!(
            check("100 % status = 0", &statuses),
            (vec![2], TransformCounts { dropped: 3, failed: 1 }),
            "100 % 200 is 100, of null null, of 7 is 2; by 0 it cannot be computed"
        );
        assert_eq!(check("true", &statuses).0, [0, 1, 2, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_filter_and_its_opposite_part_the_rows(
            statuses in prop::collection::vec(prop::option::of(0i64..4), 0..60),
        ) {
            let nulls: Vec<i64> = (0i64..).zip(&statuses).filter(|(_, s)| s.is_none()).map(|(i, _)| i).collect();
            let mut rows = [check("status > 1", &statuses).0, check("not (status > 1)", &statuses).0, nulls].concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..statuses.len() as i64).collect::<Vec<_>>());
        }
    }
}
