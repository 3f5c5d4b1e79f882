//! The names in an expression: columns and functions looked up before a plan is made, types as users know them.

use crate::place::{Located, Place, Problem, did_you_mean};
use arrow::datatypes::{DataType, Schema};
use datafusion::execution::session_state::SessionState;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr as Sql, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Value,
    visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A type as a schema file calls it (`int`, `text`, …); Arrow's name for those that no column can have.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Boolean => "bool".into(),
        DataType::Timestamp(..) => "timestamp".into(),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".into(),
        DataType::Null => "null".into(),
        integer if integer.is_integer() => "int".into(),
        float if float.is_floating() => "float".into(),
        DataType::Dictionary(_, values) => type_name(values),
        other => other.to_string(),
    }
}

/// Puts the types' names as users know them into a message of DataFusion's.
pub(super) fn readable_types(message: &str) -> String {
    const NAMES: [(&str, &str); 15] = [
        ("Timestamp(µs, \"UTC\")", "timestamp"),
        ("Timestamp(µs)", "timestamp"),
        ("Timestamp(ns)", "timestamp"),
        ("LargeUtf8", "text"),
        ("Utf8View", "text"),
        ("Utf8", "text"),
        ("UInt64", "int"),
        ("Int64", "int"),
        ("Int32", "int"),
        ("Float64", "float"),
        ("Float32", "float"),
        ("Boolean", "bool"),
        ("Date32", "date"),
        ("Interval(MonthDayNano)", "interval"),
        ("received String", "received text"),
    ];
    NAMES.iter().fold(message.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

/// Looks every column and function up and returns the columns that are used.
pub(super) fn check_names(
    sql: &Located<String>,
    parsed: &Sql,
    schema: &Schema,
    state: &SessionState,
) -> Result<Vec<String>, Vec<Problem>> {
    let mut used = BTreeSet::new();
    let mut problems = Vec::new();
    let _ = visit_expressions(parsed, |part| {
        match part {
            Sql::Identifier(ident) => check_column(sql, ident, schema, &mut used, &mut problems),
            Sql::CompoundIdentifier(idents) => {
                if let Some(ident) = idents.first() {
                    problems.push(
                        Problem::new(place_of(sql, ident), format!("cannot resolve `{part}`, columns are not nested"))
                            .hint("use the column's name alone; fields of `attributes` are not columns"),
                    );
                }
            }
            Sql::Function(call) => {
                problems.extend(check_function(sql, call, state));
                problems.extend(pattern_of(call).and_then(|pattern| check_pattern(sql, pattern)));
            }
            Sql::BinaryOp { op, right, .. } if is_regex(op) => problems.extend(check_pattern(sql, right)),
            Sql::Subquery(_) | Sql::Exists { .. } | Sql::InSubquery { .. } => {
                problems.push(sql.problem("cannot use a subquery here, an expression sees one row at a time"));
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    if problems.is_empty() { Ok(used.into_iter().collect()) } else { Err(problems) }
}

fn check_column(
    sql: &Located<String>,
    ident: &Ident,
    schema: &Schema,
    used: &mut BTreeSet<String>,
    problems: &mut Vec<Problem>,
) {
    let name = match ident.quote_style {
        None => ident.value.to_lowercase(),
        Some(_) => ident.value.clone(),
    };
    if schema.field_with_name(&name).is_ok() {
        used.insert(name);
        return;
    }
    let names = || schema.fields().iter().map(|f| f.name().as_str());
    let hint = match did_you_mean(&name, names()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if ident.quote_style == Some('"') => {
            format!("\"…\" names a column; write '{}' for a text", ident.value)
        }
        None => format!("columns here: {}", names().collect::<Vec<_>>().join(", ")),
    };
    problems.push(Problem::new(place_of(sql, ident), format!("cannot find column `{}`", ident.value)).hint(hint));
}

fn check_function(sql: &Located<String>, call: &Function, state: &SessionState) -> Option<Problem> {
    let name = call.name.to_string().to_lowercase();
    if state.scalar_functions().contains_key(&name) || state.aggregate_functions().contains_key(&name) {
        return None;
    }
    let place = call.name.0.first().and_then(|part| part.as_ident()).map_or(sql.place, |ident| place_of(sql, ident));
    if state.window_functions().contains_key(&name) {
        return Some(Problem::new(place, format!("cannot use {name}(), an expression sees one row at a time")));
    }
    let hint = match did_you_mean(&name, state.scalar_functions().keys().map(String::as_str)) {
        Some(close) => format!("did you mean `{close}`?"),
        None => "functions are those of DataFusion's SQL: lower, substr, regexp_replace, coalesce, round, …".into(),
    };
    Some(Problem::new(place, format!("cannot find function `{name}`")).hint(hint))
}

fn is_regex(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::PGRegexMatch
            | BinaryOperator::PGRegexIMatch
            | BinaryOperator::PGRegexNotMatch
            | BinaryOperator::PGRegexNotIMatch
    )
}

fn pattern_of(call: &Function) -> Option<&Sql> {
    if !call.name.to_string().to_lowercase().starts_with("regexp_") {
        return None;
    }
    match &call.args {
        FunctionArguments::List(list) => match list.args.get(1)? {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(pattern)) => Some(pattern),
            _ => None,
        },
        _ => None,
    }
}

/// DataFusion would find a broken pattern only at the first row.
fn check_pattern(sql: &Located<String>, pattern: &Sql) -> Option<Problem> {
    let Sql::Value(value) = pattern else { return None };
    let Value::SingleQuotedString(text) = &value.value else { return None };
    let error = regex::Regex::new(text).err()?.to_string();
    let reason = error.lines().last().unwrap_or_default();
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    let place = place_at(sql, value.span);
    Some(
        Problem::new(place, format!("cannot read '{text}' as a regular expression: {reason}"))
            .hint("escape a character that stands for itself with a backslash"),
    )
}

fn place_of(sql: &Located<String>, ident: &Ident) -> Place {
    place_at(sql, ident.span)
}

fn place_at(sql: &Located<String>, span: Span) -> Place {
    match (span.start.line, span.start.column) {
        (0, _) | (_, 0) => sql.place,
        (line, column) => sql.inside(line as u32 - 1, column as u32 - 1),
    }
}
