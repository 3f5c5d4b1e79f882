//! Which columns anything reads. The decoder may leave the others out.

use super::Plan;
use crate::archive::Kind;
use std::collections::HashSet;

/// One value a column of the decoder's schema, true where it is needed: all where rows are archived, else the event time
/// and what producers, steps, metrics and windows read. Alerts read results of windows only.
///
/// Names decide, wherever along the steps they stand: a column that a step computes anew counts as needed although its
/// old values may not be. Too many is only slower; too few would be wrong.
pub(super) fn needed(plan: &Plan) -> Vec<bool> {
    let columns = &plan.decode.schema.columns;
    if plan.archive.as_ref().is_some_and(|archive| archive.tables.value.contains(&Kind::Data)) {
        return vec![true; columns.len()];
    }
    let mut read: HashSet<&str> = HashSet::from(["ts"]);
    read.extend(plan.transforms.iter().flat_map(|step| step.reads()));
    read.extend(plan.metrics.iter().flat_map(|metric| metric.reads()));
    read.extend(plan.windows.iter().flat_map(|window| window.reads()));
    read.extend(plan.watermark_by.iter().map(|at| columns[*at].name.as_str()));
    columns.iter().map(|column| read.contains(column.name.as_str())).collect()
}
