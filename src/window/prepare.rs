//! What a window definition needs of a batch, computed once on whole columns before its records are placed.

use super::function::Class;
use super::plan::{Plan, Slot};
use super::state::{Keep, Values};
use crate::expression::Expression;
use crate::record::event::stamps;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, Rows};

/// An argument of a batch: its values, and which rows count (not null, finite, and passing the filter).
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) values: Values,
    pub(super) selected: Option<BooleanBuffer>,
}

/// A batch as one definition sees it.
pub(super) struct Batch {
    /// Rows for which `where` is true; `None`: all.
    pub(super) condition: Option<BooleanBuffer>,
    /// Keys whose bytes are ordered as the groups are, null first; `None` without group columns.
    pub(super) keys: Option<Rows>,
    pub(super) slots: Vec<Prepared>,
}

impl Batch {
    /// `failed` is counted up by the values that an expression could not compute; they are null.
    pub(super) fn new(plan: &Plan, converter: &RowConverter, rows: &RecordBatch, failed: &mut u64) -> Self {
        let condition = plan.condition.as_ref().map(|condition| true_rows(condition, rows, failed));
        let keys = (!plan.groups.is_empty()).then(|| {
            let columns: Vec<ArrayRef> = plan.groups.iter().map(|at| rows.column(*at).clone()).collect();
            converter.convert_columns(&columns).expect("the group columns have the schema's types")
        });
        let slots = plan.slots.iter().map(|slot| prepare(slot, rows, failed)).collect();
        Self { condition, keys, slots }
    }

    /// The key of a row's group.
    pub(super) fn key(&self, row: usize) -> &[u8] {
        self.keys.as_ref().map_or(&[], |keys| keys.row(row).data())
    }
}

fn prepare(slot: &Slot, rows: &RecordBatch, failed: &mut u64) -> Prepared {
    let filter = slot.filter.as_ref().map(|filter| true_rows(filter, rows, failed));
    let Some((expression, class)) = &slot.argument else {
        return Prepared { values: Values::None, selected: filter };
    };
    let array = to_class(&evaluate(expression, rows, failed), *class);
    let present = match array.as_primitive_opt::<Float64Type>() {
        Some(floats) => {
            let finite = BooleanBuffer::collect_bool(floats.len(), |row| floats.value(row).is_finite());
            Some(NullBuffer::from(intersect(floats.nulls(), &finite)))
        }
        None => array.nulls().cloned(),
    };
    let selected = match (present, filter) {
        (present, Some(filter)) => Some(intersect(present.as_ref(), &filter)),
        (present, None) => present.map(NullBuffer::into_inner),
    };
    let mut values = values(&array, *class);
    if matches!(slot.keep, Keep::Edge(..)) {
        values = Values::At(stamps(rows).reinterpret_cast::<Int64Type>(), Box::new(values));
    }
    Prepared { values, selected }
}

fn intersect(first: Option<&NullBuffer>, second: &BooleanBuffer) -> BooleanBuffer {
    first.map_or_else(|| second.clone(), |first| first.inner() & second)
}

fn values(array: &ArrayRef, class: Class) -> Values {
    match class {
        Class::Int => Values::Int(array.as_primitive().clone()),
        Class::Time => Values::Int(array.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>()),
        Class::Float => Values::Float(array.as_primitive().clone()),
        Class::Bool => Values::Bool(array.as_boolean().clone()),
        Class::Text => Values::Text(array.as_string().clone()),
    }
}

/// `array` in its class's one type; what doesn't fit becomes null.
pub(super) fn to_class(array: &ArrayRef, class: Class) -> ArrayRef {
    if array.data_type() == &class.arrow() {
        return array.clone();
    }
    cast(array, &class.arrow()).unwrap_or_else(|_| new_null_array(&class.arrow(), array.len()))
}

/// The expression's values; those that it cannot compute are null and count in `failed`.
pub(super) fn evaluate(expression: &Expression, rows: &RecordBatch, failed: &mut u64) -> ArrayRef {
    let (values, more) = expression.evaluate_lenient(rows);
    *failed += more;
    values
}

/// The rows for which a condition is true (not false, not null).
fn true_rows(condition: &Expression, rows: &RecordBatch, failed: &mut u64) -> BooleanBuffer {
    let (mask, more) = condition.evaluate_mask_lenient(rows);
    *failed += more;
    intersect(mask.nulls(), mask.values())
}
