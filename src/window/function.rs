//! The aggregate functions: which there are, what they take and what they give.

use super::edge::{self, Side};
use super::state::Keep;
use crate::expression::{AggregateCall, Argument, Expression};
use crate::place::{Located, Problem, did_you_mean};
use crate::record::schema::ColumnType;
use arrow::datatypes::DataType;

/// All functions, for "did you mean" and for people.
const NAMES: [&str; 15] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "mean",
    "first",
    "last",
    "rate",
    "quantile",
    "median",
    "p50",
    "p95",
    "p99",
    "count_distinct",
];

/// How a result is read from a group's state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Read {
    Int,
    Float,
    Mean,
    Text,
    /// Per second of the window.
    Rate,
    Quantile(f64),
}

/// The representation that an argument is brought into before it is aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Int,
    Float,
    Time,
    Bool,
    Text,
}

impl Class {
    /// The class of values of an Arrow type; `None` for those that no column of headrig has.
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64 => Some(Self::Int),
            DataType::Float16
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => Some(Self::Float),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Some(Self::Time),
            DataType::Boolean => Some(Self::Bool),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            _ => None,
        }
    }

    /// The type of result columns of this class.
    pub(super) fn arrow(self) -> DataType {
        match self {
            Self::Int => ColumnType::Int.arrow(),
            Self::Float => ColumnType::Float.arrow(),
            Self::Time => ColumnType::Timestamp.arrow(),
            Self::Bool => ColumnType::Bool.arrow(),
            Self::Text => ColumnType::Text.arrow(),
        }
    }
}

/// An aggregate call that was found to make sense.
#[derive(Debug, Clone)]
pub(super) struct Aggregate {
    pub(super) keep: Keep,
    pub(super) read: Read,
    pub(super) argument: Option<(Expression, Class)>,
    pub(super) filter: Option<Expression>,
    /// Type of the result column.
    pub(super) result: Class,
}

/// Finds what `call`, written as `sql`, means.
pub(super) fn resolve(sql: &Located<String>, call: AggregateCall) -> Result<Aggregate, Vec<Problem>> {
    let name = function_name(sql, &call)?;
    let problem = |text: String| vec![sql.problem(text)];
    let mut arguments = call.arguments.into_iter();
    let first = arguments.next();
    let q = match (name, arguments.next(), arguments.next()) {
        ("quantile", Some(Argument::Number(q)), None) if (0.0..=1.0).contains(&q) => Some(q),
        ("quantile", ..) => {
            return Err(vec![
                sql.problem(format!("cannot use `{}`, quantile takes a value and a number from 0 to 1", sql.value))
                    .hint("as in `quantile(latency_ms, 0.95)`"),
            ]);
        }
        (_, None, None) => quantile_of(name),
        _ => return Err(problem(format!("cannot use `{}`, {name} takes one argument", sql.value))),
    };
    let argument = match first {
        Some(Argument::Star) if matches!(name, "count" | "rate") => None,
        Some(Argument::Expression(expression)) => match Class::of(expression.data_type()) {
            Some(class) => Some((expression, class)),
            None => {
                let data_type = expression.data_type();
                return Err(problem(format!("cannot aggregate `{}`, its type is {data_type}", expression.sql())));
            }
        },
        Some(Argument::Number(_)) => {
            return Err(vec![
                sql.problem(format!("cannot use a number as the argument of {name}"))
                    .hint("write a column or an expression over columns; `count(*)` counts records"),
            ]);
        }
        Some(Argument::Star) | None => {
            return Err(vec![sql.problem(format!("cannot use `{}`, {name} needs a value", sql.value)).hint(
                if name == "count" {
                    "write `count(*)`"
                } else if name == "rate" {
                    "write `rate(*)` for records a second"
                } else {
                    "name a column"
                },
            )]);
        }
    };
    let (keep, read, result) = meaning(name, argument.as_ref().map(|(_, class)| *class), q).ok_or_else(|| {
        let wanted = match name {
            "min" | "max" => "a number or a timestamp",
            "first" | "last" => "a number, a timestamp or a text",
            _ => "a number",
        };
        let given = argument.as_ref().map_or_else(String::new, |(e, _)| format!("`{}` is {}", e.sql(), e.data_type()));
        problem(format!("cannot use `{}`, {name} needs {wanted} and {given}", sql.value))
    })?;
    Ok(Aggregate { keep, read, argument, filter: call.filter, result })
}

/// The function's canonical name.
fn function_name(sql: &Located<String>, call: &AggregateCall) -> Result<&'static str, Vec<Problem>> {
    let name = match call.function.as_str() {
        "approx_distinct" => "count_distinct",
        "approx_median" => "median",
        "mean" => "avg",
        "count" if call.distinct => "count_distinct",
        given => match NAMES.into_iter().find(|known| *known == given) {
            Some(known) => known,
            None => {
                let hint = match did_you_mean(given, NAMES) {
                    Some(close) => format!("did you mean `{close}`?"),
                    None => format!("aggregates are {}", NAMES.join(", ")),
                };
                return Err(vec![sql.problem(format!("cannot find the aggregate function `{given}`")).hint(hint)]);
            }
        },
    };
    if call.distinct && call.function != "count" {
        return Err(vec![
            sql.problem(format!("cannot use `distinct` in {name}")).hint("only `count(distinct x)` is there"),
        ]);
    }
    Ok(name)
}

fn quantile_of(name: &str) -> Option<f64> {
    match name {
        "median" | "p50" => Some(0.5),
        "p95" => Some(0.95),
        "p99" => Some(0.99),
        _ => None,
    }
}

fn meaning(name: &str, argument: Option<Class>, q: Option<f64>) -> Option<(Keep, Read, Class)> {
    match (name, argument) {
        ("count", _) => Some((Keep::Count, Read::Int, Class::Int)),
        ("rate", None) => Some((Keep::Count, Read::Rate, Class::Float)),
        ("rate", Some(Class::Int)) => Some((Keep::IntTotal, Read::Rate, Class::Float)),
        ("rate", Some(Class::Float)) => Some((Keep::FloatTotal, Read::Rate, Class::Float)),
        ("first", Some(class)) => edge(Side::First, class),
        ("last", Some(class)) => edge(Side::Last, class),
        ("count_distinct", Some(_)) => Some((Keep::Distinct, Read::Int, Class::Int)),
        ("sum", Some(Class::Int)) => Some((Keep::IntTotal, Read::Int, Class::Int)),
        ("sum", Some(Class::Float)) => Some((Keep::FloatTotal, Read::Float, Class::Float)),
        ("avg", Some(Class::Int)) => Some((Keep::IntTotal, Read::Mean, Class::Float)),
        ("avg", Some(Class::Float)) => Some((Keep::FloatTotal, Read::Mean, Class::Float)),
        ("min", Some(class @ (Class::Int | Class::Time))) => Some((Keep::IntLeast, Read::Int, class)),
        ("max", Some(class @ (Class::Int | Class::Time))) => Some((Keep::IntGreatest, Read::Int, class)),
        ("min", Some(Class::Float)) => Some((Keep::FloatLeast, Read::Float, Class::Float)),
        ("max", Some(Class::Float)) => Some((Keep::FloatGreatest, Read::Float, Class::Float)),
        (_, Some(Class::Int | Class::Float)) => q.map(|q| (Keep::Quantiles, Read::Quantile(q), Class::Float)),
        _ => None,
    }
}

fn edge(side: Side, class: Class) -> Option<(Keep, Read, Class)> {
    let (kind, read) = match class {
        Class::Int | Class::Time => (edge::Kind::Int, Read::Int),
        Class::Float => (edge::Kind::Float, Read::Float),
        Class::Text => (edge::Kind::Text, Read::Text),
        Class::Bool => return None,
    };
    Some((Keep::Edge(side, kind), read, class))
}
