//! `top`: a window's largest groups, and all others as one.
//!
//! Groups are counted exactly until the window closes; only then those beyond the first `keep` become the group [`OTHER`]. So which ones are
//! first doesn't depend on the order of records, and quantiles and distinct counts of the rest are those of its records.

use super::Config;
use super::plan::Plan;
use super::render::{Groups, Window, aggregate_column};
use super::state::State;
use crate::place::{Located, Problem, did_you_mean};
use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::row::RowConverter;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// What the rest is called, as a metric's series over its cap are.
const OTHER: &str = "_other_";

/// `top:` as written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Top {
    /// How many groups have rows of their own.
    pub keep: NonZeroUsize,
    /// The aggregate by which groups are the largest.
    pub by: Located<String>,
}

/// `top:` checked.
#[derive(Debug, Clone)]
pub(super) struct Largest {
    keep: usize,
    /// Number of the aggregate.
    by: usize,
}

impl Config {
    /// What `top` says of a window whose plan is `plan`.
    pub(super) fn largest(&self, plan: &Plan, problems: &mut Vec<Problem>) -> Option<Largest> {
        let top = self.top.as_ref()?;
        if plan.session.is_some() {
            let problem = top.by.problem("cannot keep the largest groups of a session window");
            problems.push(problem.hint("each session ends by itself: use a tumbling or a sliding window"));
        }
        let fields = plan.inner.fields();
        let groups = &fields[..plan.groups.len()];
        if let Some(field) = groups.iter().find(|field| field.data_type() != &DataType::Utf8) {
            let problem = top.by.problem(format!("cannot call other groups `{OTHER}`, `{}` is no text", field.name()));
            problems.push(problem.hint("make a text of it with `set:`"));
        } else if groups.is_empty() {
            let problem = top.by.problem("cannot keep the largest groups of a window that has none");
            problems.push(problem.hint("name columns in `group_by`"));
        }
        let aggregates = &fields[plan.groups.len()..plan.groups.len() + plan.outputs.len()];
        let Some(by) = aggregates.iter().position(|field| *field.name() == top.by.value) else {
            let names = || aggregates.iter().map(|field| field.name().as_str());
            let hint = match did_you_mean(&top.by.value, names()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("aggregates here: {}", names().collect::<Vec<_>>().join(", ")),
            };
            problems.push(top.by.problem(format!("cannot find the aggregate `{}`", top.by.value)).hint(hint));
            return None;
        };
        if !matches!(aggregates[by].data_type(), DataType::Int64 | DataType::Float64) {
            problems.push(top.by.problem(format!("cannot order groups by `{}`, it is no number", top.by.value)));
        }
        Some(Largest { keep: top.keep.get(), by })
    }
}

impl Largest {
    /// Makes one group of those that are not among the largest; `groups` are, and stay, in the order of their keys. Of two that are as
    /// large the one whose key comes first is kept; those without a value are the smallest.
    pub(super) fn apply(&self, plan: &Plan, converter: &RowConverter, window: Window, groups: &mut Groups) {
        if groups.len() <= self.keep {
            return;
        }
        let column = aggregate_column(&plan.outputs[self.by], groups, window);
        let values = cast(&column, &DataType::Float64).expect("it was planned as a number");
        let values = values.as_primitive::<Float64Type>();
        let value = |at: usize| if values.is_valid(at) { values.value(at) } else { f64::NEG_INFINITY };
        let other = other_key(plan, converter);
        // A group of that name is not told from the others.
        let mut order: Vec<usize> = (0..groups.len()).filter(|at| groups[*at].0 != other).collect();
        order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
        order.truncate(self.keep);
        order.sort_unstable();
        let mut kept: Groups = Vec::with_capacity(self.keep + 1);
        let mut rest: Option<Box<[State]>> = None;
        for (at, (key, states)) in std::mem::take(groups).into_iter().enumerate() {
            if order.binary_search(&at).is_ok() {
                kept.push((key, states));
            } else if let Some(rest) = &mut rest {
                rest.iter_mut().zip(&states).for_each(|(own, other)| own.merge(other));
            } else {
                rest = Some(states);
            }
        }
        if let Some(rest) = rest {
            let at = kept.partition_point(|(key, _)| *key < other);
            kept.insert(at, (other, rest));
        }
        *groups = kept;
    }
}

fn other_key(plan: &Plan, converter: &RowConverter) -> Box<[u8]> {
    let name: ArrayRef = Arc::new(StringArray::from(vec![OTHER]));
    let columns: Vec<ArrayRef> = plan.groups.iter().map(|_| Arc::clone(&name)).collect();
    let rows = converter.convert_columns(&columns).expect("the group columns were checked to be texts");
    rows.row(0).data().into()
}
