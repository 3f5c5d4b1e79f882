//! A metric, checked and compiled: what `metrics:` says of one, against a schema.

use super::{Config, Kind, check};
use crate::expression::{Compiler, Expression, type_name};
use crate::limits;
use crate::place::{Located, Problem};
use crate::record::schema::Schema;
use arrow::array::{Array, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;

/// A metric that is ready to observe rows of the schema that it was built against.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) kind: Kind,
    /// Sorted by name, as they are exposed.
    pub(super) labels: Vec<Label>,
    /// None counts records.
    pub(super) value: Option<Expression>,
    pub(super) condition: Option<Expression>,
    /// Of a histogram; empty otherwise.
    pub(super) bounds: Vec<f64>,
    pub(super) max_series: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) name: String,
    /// The column's number.
    pub(super) column: usize,
}

impl Plan {
    /// The metric's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns that it reads; some may stand there more than once.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        let expressions = self.value.iter().chain(&self.condition).flat_map(Expression::columns).map(String::as_str);
        expressions.chain(self.labels.iter().map(|label| label.name.as_str()))
    }

    /// What the value of one series takes, in bytes.
    pub(super) fn state_bytes(&self) -> usize {
        (self.bounds.len() + 2) * size_of::<u64>()
    }

    /// For each row whether it is observed, None when all are; and how many conditions could not be computed.
    pub(super) fn observed(&self, rows: &RecordBatch) -> (Option<BooleanArray>, u64) {
        match &self.condition {
            Some(condition) => {
                let (mask, failed) = condition.evaluate_mask_lenient(rows);
                (Some(mask), failed)
            }
            None => (None, 0),
        }
    }

    /// For each row its value, None when each counts 1; and how many of the observed rows' could not be computed.
    pub(super) fn values(&self, rows: &RecordBatch, observed: Option<&BooleanArray>) -> (Option<Float64Array>, u64) {
        let Some(value) = &self.value else { return (None, 0) };
        let (values, failed) = value.evaluate_marking(rows);
        let floats = cast(&values, &DataType::Float64).expect("values were checked to be numeric");
        let floats = floats.as_any().downcast_ref::<Float64Array>().expect("they were just cast to it").clone();
        let failed = failed.into_iter().filter(|row| is_observed(observed, *row)).count();
        (Some(floats), failed as u64)
    }
}

/// Whether a row's condition is true.
pub(super) fn is_observed(observed: Option<&BooleanArray>, row: usize) -> bool {
    observed.is_none_or(|mask| mask.is_valid(row) && mask.value(row))
}

pub(super) fn build(config: &Config, schema: &Schema, compiler: &Compiler) -> Result<Plan, Vec<Problem>> {
    let mut problems: Vec<Problem> =
        [check::name(config), check::help(config), check::max_series(config)].into_iter().flatten().collect();
    let labels = labels(config, schema, &mut problems);
    let value = value(config, schema, compiler).unwrap_or_else(|more| {
        problems.extend(more);
        None
    });
    let condition = config.condition.as_ref().map(|sql| compiler.predicate(sql, &schema.arrow)).transpose();
    let condition = condition.unwrap_or_else(|more| {
        problems.extend(more);
        None
    });
    let bounds = bounds(config).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Plan {
        name: config.name.value.clone(),
        help: config.help.trim().to_owned(),
        kind: config.kind,
        labels,
        value,
        condition,
        bounds,
        max_series: config.max_series.map_or(limits::SERIES_PER_METRIC, std::num::NonZeroUsize::get),
    })
}

fn labels(config: &Config, schema: &Schema, problems: &mut Vec<Problem>) -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    for written in &config.labels {
        match check::label(config, written, schema) {
            Ok(_) if labels.iter().any(|known| known.name == written.value) => {
                problems.push(written.problem(format!("cannot use the label `{}` twice", written.value)));
            }
            Ok((column, _)) => labels.push(Label { name: written.value.clone(), column }),
            Err(problem) => problems.push(problem),
        }
    }
    labels.sort_by(|a, b| a.name.cmp(&b.name));
    labels
}

fn value(config: &Config, schema: &Schema, compiler: &Compiler) -> Result<Option<Expression>, Vec<Problem>> {
    let Some(sql) = &config.value else {
        return match config.kind {
            Kind::Counter => Ok(None),
            Kind::Gauge | Kind::Histogram => Err(vec![without_value(config)]),
        };
    };
    let expression = compiler.compile(sql, &schema.arrow)?;
    if !expression.data_type().is_numeric() {
        return Err(vec![not_a_number(sql, expression.data_type())]);
    }
    Ok(Some(expression))
}

fn without_value(config: &Config) -> Problem {
    let kind = if config.kind == Kind::Gauge { "gauge" } else { "histogram" };
    config
        .name
        .problem(format!("cannot make the {kind} `{}` without a value", config.name.value))
        .hint("add `value:` with a column or an expression, as in `value: latency_ms / 1000`")
}

fn not_a_number(sql: &Located<String>, found: &DataType) -> Problem {
    let shown = sql.value.trim();
    let hint = match found {
        DataType::Boolean => format!("write `case when {shown} then 1 else 0 end`, or a counter with `where: {shown}`"),
        _ => format!("cast it, as in `({shown})::double`"),
    };
    sql.problem(format!("cannot use `{shown}` as a value, its type is {}", type_name(found))).hint(hint)
}

fn bounds(config: &Config) -> Result<Vec<f64>, Problem> {
    match (config.kind, &config.buckets) {
        (Kind::Histogram, _) => check::buckets(config),
        (_, Some(buckets)) => Err(buckets
            .problem(format!("cannot use `buckets` with `{}`, only a histogram has them", config.name.value))
            .hint("leave them out, or write `type: histogram`")),
        (_, None) => Ok(Vec::new()),
    }
}
