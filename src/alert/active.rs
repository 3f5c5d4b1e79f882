//! What is shown of alerts that are pending or firing. No state: a restart begins without, and the next window brings it.

use super::engine::{Group, Rule, State};
use super::plan::{ALERTNAME, Plan};
use super::row::Row;
use crate::record::alert::ActiveAlert;
use crate::time::EventTime;
use std::collections::BTreeMap;

/// Of the last window for which the condition was true.
#[derive(Debug)]
pub(super) struct Shown {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    value: Option<f64>,
    sql: String,
}

impl Shown {
    pub(super) fn of(plan: &Plan, labels: BTreeMap<String, String>, row: Row<'_>) -> Self {
        let data = row.template_data(plan);
        let annotations = plan.annotations.iter().map(|(name, text)| (name.clone(), text.render(&data)));
        Self {
            labels,
            annotations: annotations.collect(),
            value: plan.first_value.as_ref().and_then(|column| row.json(column).as_f64()),
            sql: sql(plan, row),
        }
    }
}

/// The records that the row's window has counted, late ones besides.
fn sql(plan: &Plan, row: Row<'_>) -> String {
    let (start, end) = (row.window.start, row.window.end);
    let mut sql = format!("select * from logs where ts >= '{start}' and ts < '{end}'");
    if let Some(condition) = &plan.records {
        sql.push_str(&format!(" and ({condition})"));
    }
    for column in &plan.group_by {
        let name = column.replace('"', "\"\"");
        match row.text(column) {
            Some(value) => sql.push_str(&format!(" and \"{name}\" = '{}'", value.replace('\'', "''"))),
            None => sql.push_str(&format!(" and \"{name}\" is null")),
        }
    }
    sql
}

/// The alerts of a rule, by group.
pub(super) fn of_rule(rule: &Rule) -> impl Iterator<Item = ActiveAlert> + '_ {
    rule.states.iter().map(|(group, state)| {
        let shown = rule.shown.get(group);
        let (firing, active_at, labels) = match state {
            State::Pending { since } => (false, *since, shown.map(|shown| shown.labels.clone())),
            State::Firing { starts_at, labels, .. } => (true, starts_at - rule.plan.hold, Some(labels.clone())),
        };
        ActiveAlert {
            labels: labels.unwrap_or_else(|| of_group(&rule.plan, group)),
            annotations: shown.map(|shown| shown.annotations.clone()).unwrap_or_default(),
            firing,
            active_at: EventTime::from_micros(active_at),
            value: shown.and_then(|shown| shown.value),
            sql: shown.map(|shown| shown.sql.clone()),
        }
    })
}

/// The labels that need no row.
fn of_group(plan: &Plan, group: &Group) -> BTreeMap<String, String> {
    let groups = plan.group_by.iter().cloned().zip(group.iter().cloned());
    groups.chain([(ALERTNAME.to_owned(), plan.name.clone())]).filter(|(_, value)| !value.is_empty()).collect()
}
