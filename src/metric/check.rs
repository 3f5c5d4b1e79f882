//! What `check` refuses in `metrics:`: names that Prometheus doesn't take, labels that would explode, odd buckets.

use super::{Config, Kind, Plan};
use crate::limits;
use crate::place::{Located, Problem, did_you_mean};
use crate::record::schema::{Column, ColumnType, Schema};
use std::collections::BTreeMap;

/// Names that two metrics of one pipeline would both expose: a name written twice, or `x_sum` beside a histogram `x`.
pub fn check_names(configs: &[Config]) -> Vec<Problem> {
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for config in configs {
        let name = config.name.value.as_str();
        let exposed = exposed_names(name, config.kind);
        match exposed.iter().find_map(|e| Some((e, *taken.get(e)?))) {
            Some((_, owner)) if owner == name => problems.push(
                config
                    .name
                    .problem(format!("cannot use the name `{name}` twice"))
                    .hint("give each metric its own name"),
            ),
            Some((clash, owner)) => problems.push(
                config
                    .name
                    .problem(format!("cannot use the name `{name}` beside `{owner}`, both expose `{clash}`"))
                    .hint("rename one of them"),
            ),
            None => taken.extend(exposed.into_iter().map(|e| (e, name))),
        }
    }
    problems
}

/// A name that two pipelines of one daemon use for different types of metrics.
///
/// The same name and type in several pipelines is fine: [`super::exposition::joined`] tells their series apart.
pub fn clash<'p>(pipelines: impl IntoIterator<Item = &'p [Plan]>) -> Option<&'p str> {
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    let plans = pipelines.into_iter().flatten();
    plans
        .map(|plan| (plan.name(), plan.kind))
        .find(|(name, kind)| kinds.entry(name).or_insert(*kind) != kind)
        .map(|(n, _)| n)
}

/// What stands in an exposition for a metric: its samples' names and, in OpenMetrics, its family's.
fn exposed_names(name: &str, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Counter => vec![name.to_owned(), name.strip_suffix("_total").unwrap_or(name).to_owned()],
        Kind::Gauge => vec![name.to_owned()],
        Kind::Histogram => ["", "_bucket", "_count", "_sum"].iter().map(|suffix| format!("{name}{suffix}")).collect(),
    }
}

pub(super) fn name(config: &Config) -> Option<Problem> {
    let (at, name) = (&config.name, config.name.value.as_str());
    if !is_name(name, true) {
        return Some(
            at.problem(format!("cannot use `{name}` as the name of a metric"))
                .hint("letters, digits, underscores and colons, not starting with a digit"),
        );
    }
    if let Some(prefix) = ["headrig_", "__"].iter().find(|p| name.starts_with(**p)) {
        return Some(
            at.problem(format!("cannot use `{name}` as the name of a metric, `{prefix}…` is reserved"))
                .hint("leave the prefix out"),
        );
    }
    let is_total = name.strip_suffix("_total").is_some_and(|base| !base.is_empty());
    (config.kind == Kind::Counter && !is_total).then(|| {
        at.problem(format!("cannot use `{name}` as the name of a counter, expected it to end in `_total`"))
            .hint(format!("call it `{}_total`", name.trim_end_matches("_total").trim_end_matches('_')))
    })
}

fn is_name(name: &str, colons: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

pub(super) fn help(config: &Config) -> Option<Problem> {
    config.help.trim().is_empty().then(|| {
        config
            .name
            .problem(format!("cannot use an empty help text for `{}`", config.name.value))
            .hint("say in a few words what is measured; it is shown beside the metric")
    })
}

pub(super) fn max_series(config: &Config) -> Option<Problem> {
    let most = limits::SERIES_PER_PIPELINE;
    let asked = config.max_series?.get();
    (asked > most).then(|| {
        config
            .name
            .problem(format!("cannot keep {asked} series of `{}`, expected at most {most}", config.name.value))
            .hint("labels tell kinds of requests apart, not single ones; use fewer or coarser labels")
    })
}

/// The column that a label stands for, by number.
pub(super) fn label<'s>(
    config: &Config,
    label: &Located<String>,
    schema: &'s Schema,
) -> Result<(usize, &'s Column), Problem> {
    let (text, metric) = (label.value.as_str(), config.name.value.as_str());
    let Some(number) = schema.columns.iter().position(|c| c.name == text) else {
        let problem = label.problem(format!("cannot find column `{text}`"));
        let close = did_you_mean(text, schema.columns.iter().map(|c| c.name.as_str()));
        return Err(match close {
            Some(close) => problem.hint(format!("did you mean `{close}`?")),
            None => problem.hint("labels are columns; compute one with `transform: - set:`"),
        });
    };
    let column = &schema.columns[number];
    if column.high_cardinality {
        return Err(label
            .problem(format!("cannot use `{text}` as a label of `{metric}`: high-cardinality"))
            .hint("leave it out and look it up in the archive, or `set:` a coarser column for it"));
    }
    if !matches!(column.kind, ColumnType::Text | ColumnType::Int | ColumnType::Bool) {
        return Err(label
            .problem(format!("cannot use `{text}` as a label of `{metric}`, it is {}", column.kind.as_str()))
            .hint("a label is text, int or bool; `set:` such a column for it"));
    }
    if !is_name(text, false) || text.starts_with("__") || text == "le" {
        return Err(label
            .problem(format!("cannot use `{text}` as the name of a label"))
            .hint("letters, digits and underscores, not starting with a digit or `__`, and not `le`"));
    }
    Ok((number, column))
}

/// The upper bounds of a histogram's buckets.
pub(super) fn buckets(config: &Config) -> Result<Vec<f64>, Problem> {
    let Some(buckets) = &config.buckets else {
        return Ok(prometheus::DEFAULT_BUCKETS.to_vec());
    };
    let (bounds, most) = (&buckets.value, limits::BUCKETS_PER_HISTOGRAM);
    if bounds.is_empty() {
        return Err(buckets
            .problem("cannot make a histogram without buckets")
            .hint("leave `buckets` out for 0.005 … 10 (seconds)"));
    }
    if bounds.len() > most {
        return Err(buckets
            .problem(format!("cannot use {} buckets, expected at most {most}", bounds.len()))
            .hint("each bucket is a series; 10 to 20 are usual"));
    }
    if let Some(odd) = bounds.iter().find(|b| !b.is_finite()) {
        return Err(buckets
            .problem(format!("cannot use {odd} as the bound of a bucket, expected a finite number"))
            .hint("leave +Inf out, every histogram has it"));
    }
    match bounds.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(buckets
            .problem(format!("cannot use buckets that do not ascend: {} stands before {}", pair[0], pair[1]))
            .hint("write the upper bounds from the least to the greatest, each once")),
        None => Ok(bounds.clone()),
    }
}
