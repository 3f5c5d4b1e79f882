//! States of groups → the rows of a closed window.

use super::function::{Class, Read};
use super::plan::{Output, Plan};
use super::prepare::{evaluate, to_class};
use super::state::State;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{Float64Type, Schema};
use arrow::row::RowConverter;
use std::sync::Arc;

/// The groups of one window, sorted by key, with what was kept of each.
pub(super) type Groups = Vec<(Box<[u8]>, Box<[State]>)>;

/// A window, as its rows tell of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// In µs.
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) provisional: bool,
}

impl Window {
    /// The window that starts at the place `at` of the plan's axis; provisional when that is at or before `provisional`.
    pub(super) fn of(plan: &Plan, at: i64, provisional: Option<i64>) -> Self {
        let (start, end) = (plan.axis.time(at), plan.axis.time(at + plan.size));
        Self { start, end, provisional: provisional.is_some_and(|through| at <= through) }
    }
}

/// Builds the rows of a window, in the order of `groups`, none of them late.
pub(super) fn render(
    plan: &Plan,
    converter: &RowConverter,
    window: Window,
    groups: &Groups,
    failed: &mut u64,
) -> RecordBatch {
    let mut columns = key_columns(plan, converter, groups.iter().map(|(key, _)| &**key));
    columns.extend(plan.outputs.iter().map(|output| aggregate_column(output, groups, window)));
    complete(plan, window, columns, groups.len(), failed)
}

/// Builds the `count` rows of a window whose group columns and aggregates are `columns`.
pub(super) fn complete(
    plan: &Plan,
    window: Window,
    mut columns: Vec<ArrayRef>,
    count: usize,
    failed: &mut u64,
) -> RecordBatch {
    for (number, expression) in plan.derive.iter().enumerate() {
        let field = plan.inner.field(plan.inner.fields().len() - plan.derive.len() + number);
        let class = Class::of(field.data_type()).expect("a derived column was planned with its class");
        let seen = Arc::new(Schema::new(plan.inner.fields()[..columns.len()].to_vec()));
        let rows = batch(seen, columns.clone(), count);
        columns.push(finite(&to_class(&evaluate(expression, &rows, failed), class)));
    }
    let stamps = |time: i64| {
        let times = TimestampMicrosecondArray::from_value(time, count).with_timezone("UTC");
        Arc::new(times) as ArrayRef
    };
    let mut all = vec![stamps(window.start), stamps(window.end)];
    all.append(&mut columns);
    all.push(Arc::new(Int64Array::from_value(0, count)));
    let provisional = if window.provisional { BooleanBuffer::new_set(count) } else { BooleanBuffer::new_unset(count) };
    all.push(Arc::new(BooleanArray::new(provisional, None)));
    batch(plan.schema.clone(), all, count)
}

fn batch(schema: Arc<Schema>, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options).expect("the plan fixed the columns' types")
}

/// The group columns of rows that have these keys.
pub(super) fn key_columns<'k>(
    plan: &Plan,
    converter: &RowConverter,
    keys: impl Iterator<Item = &'k [u8]>,
) -> Vec<ArrayRef> {
    if plan.groups.is_empty() {
        return Vec::new();
    }
    let parser = converter.parser();
    converter.convert_rows(keys.map(|key| parser.parse(key))).expect("the keys were made by this converter")
}

/// The values of an aggregate of a window, one for each group.
pub(super) fn aggregate_column(output: &Output, groups: &Groups, window: Window) -> ArrayRef {
    let seconds = (window.end - window.start) as f64 / 1e6;
    let states = groups.iter().map(|(_, states)| &states[output.slot]);
    match output.read {
        Read::Int if output.result == Class::Time => {
            let times: TimestampMicrosecondArray = states.map(State::int).collect();
            Arc::new(times.with_timezone("UTC"))
        }
        Read::Int => Arc::new(states.map(State::int).collect::<Int64Array>()),
        Read::Text => Arc::new(states.map(State::text).collect::<StringArray>()),
        Read::Rate => {
            let rate = |state: &State| state.total().map(|total| total / seconds);
            finite(&(Arc::new(states.map(rate).collect::<Float64Array>()) as ArrayRef))
        }
        Read::Float => Arc::new(states.map(State::float).collect::<Float64Array>()),
        Read::Mean => Arc::new(states.map(State::mean).collect::<Float64Array>()),
        Read::Quantile(q) => Arc::new(states.map(|state| state.quantile(q)).collect::<Float64Array>()),
    }
}

/// Makes NaN and infinities null: 0/0 is no data.
fn finite(array: &ArrayRef) -> ArrayRef {
    let Some(floats) = array.as_primitive_opt::<Float64Type>() else { return array.clone() };
    let finite = NullBuffer::new(BooleanBuffer::collect_bool(floats.len(), |row| floats.value(row).is_finite()));
    let nulls = NullBuffer::union(floats.nulls(), Some(&finite));
    Arc::new(Float64Array::new(floats.values().clone(), nulls))
}
