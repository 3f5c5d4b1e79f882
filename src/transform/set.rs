//! `set: { latency_s: latency_ms / 1000 }`: computes columns, new ones or in place of old ones.
//!
//! All expressions of a step see the columns from before it. A column has one type for ever, so a value put in its
//! place must have that type; a bare `null` has any. New columns stand behind the old ones, in written order.

use super::{Built, FIXED, Transform, TransformCounts};
use crate::expression::{Compiler, Expression, type_name};
use crate::place::{Entries, Located, Problem};
use crate::record::event::EventBatch;
use crate::record::schema::{Column, ColumnType, Schema};
use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use std::collections::BTreeSet;

#[derive(Debug)]
struct Set {
    steps: Vec<Assignment>,
    /// What the rows look like behind the step.
    after: SchemaRef,
}

#[derive(Debug)]
struct Assignment {
    /// The column's number behind the step.
    column: usize,
    expression: Expression,
}

pub(super) fn build(
    entries: &Entries<Located<String>>,
    schema: &Schema,
    compiler: &Compiler,
) -> Result<Built, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let mut columns = schema.columns.clone();
    let mut steps = Vec::new();
    for (name, sql) in &entries.0 {
        if !names.insert(name.value.as_str()) {
            problems.push(name.problem(format!("cannot set `{}` twice in one step", name.value)));
            continue;
        }
        match assignment(name, sql, schema, compiler) {
            Ok((expression, column)) => {
                let at = columns.iter().position(|c| c.name == column.name).unwrap_or(columns.len());
                columns.splice(at..(at + 1).min(columns.len()), [column]);
                steps.push(Assignment { column: at, expression });
            }
            Err(more) => problems.extend(more),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let after = Schema::new(schema.name.clone(), schema.version, columns);
    Ok((Box::new(Set { steps, after: after.arrow.clone() }), after))
}

fn assignment(
    name: &Located<String>,
    sql: &Located<String>,
    schema: &Schema,
    compiler: &Compiler,
) -> Result<(Expression, Column), Vec<Problem>> {
    check_name(name, schema).map_err(|problem| vec![problem])?;
    let expression = compiler.compile(sql, &schema.arrow)?;
    let column = column_of(name, sql, &expression, schema).map_err(|problem| vec![problem])?;
    Ok((expression, column))
}

fn check_name(name: &Located<String>, schema: &Schema) -> Result<(), Problem> {
    let text = name.value.as_str();
    if FIXED.contains(&text) {
        let hint = match text {
            "attributes" => "`mask` can change it: with `regex`, or with `redact` to empty it",
            _ => "compute a column of another name from it",
        };
        return Err(name.problem(format!("cannot set `{text}`, the engine keeps it")).hint(hint));
    }
    let well_formed = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !well_formed && schema.column(text).is_none() {
        return Err(name
            .problem(format!("cannot use `{text}` as the name of a column"))
            .hint("lower-case letters, digits and underscores, not starting with a digit"));
    }
    Ok(())
}

/// The column behind the step: the old one where there is one, else a new one of the expression's type.
fn column_of(
    name: &Located<String>,
    sql: &Located<String>,
    expression: &Expression,
    schema: &Schema,
) -> Result<Column, Problem> {
    let (text, shown) = (name.value.as_str(), sql.value.trim());
    let old = schema.column(text);
    if let (DataType::Null, Some(old)) = (expression.data_type(), old) {
        return Ok(old.clone());
    }
    let Some(kind) = column_type(expression.data_type()) else {
        let found = type_name(expression.data_type());
        let to = old.map_or("text", |old| sql_type(old.kind));
        return Err(sql
            .problem(format!("cannot keep `{shown}` in a column, its type is {found}"))
            .hint(format!("cast it, as in `({shown})::{to}`")));
    };
    match old {
        Some(old) if old.kind.arrow() == kind.arrow() => Ok(old.clone()),
        Some(old) => Err(sql
            .problem(format!(
                "cannot set `{text}`, a column of {}, to `{shown}` of {}",
                old.kind.as_str(),
                kind.as_str()
            ))
            .hint(format!("cast it, as in `({shown})::{}`, or give the new column another name", sql_type(old.kind)))),
        None => Ok(new_column(text, kind, expression, schema)),
    }
}

fn new_column(name: &str, kind: ColumnType, expression: &Expression, schema: &Schema) -> Column {
    // A copy under another name is as unfit for a label as what it copies.
    let copied = schema.column(expression.sql().trim_matches('"'));
    Column {
        unit: copied.and_then(|c| c.unit.clone()),
        dictionary: copied.is_some_and(|c| c.dictionary),
        high_cardinality: copied.is_some_and(|c| c.high_cardinality),
        ..Column::new(name, kind)
    }
}

/// The type of the column that values of an Arrow type are kept in; they are cast to it.
fn column_type(data_type: &DataType) -> Option<ColumnType> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(ColumnType::Text),
        DataType::Boolean => Some(ColumnType::Bool),
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Some(ColumnType::Timestamp),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => Some(ColumnType::Float),
        DataType::Dictionary(_, values) => column_type(values),
        integer if integer.is_integer() => Some(ColumnType::Int),
        _ => None,
    }
}

fn sql_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Timestamp => "timestamp",
        ColumnType::Int => "bigint",
        ColumnType::Float => "double",
        ColumnType::Bool => "boolean",
        ColumnType::Text | ColumnType::Json => "text",
    }
}

impl Transform for Set {
    fn reads(&self) -> Vec<&str> {
        self.steps.iter().flat_map(|step| step.expression.columns()).map(String::as_str).collect()
    }

    fn apply(&self, batch: EventBatch, counts: &mut TransformCounts) -> EventBatch {
        let length = batch.rows.num_rows();
        let mut columns = batch.rows.columns().to_vec();
        columns.resize_with(self.after.fields().len(), || new_null_array(&DataType::Null, 0));
        for Assignment { column, expression } in &self.steps {
            let (values, failed) = expression.evaluate_lenient(&batch.rows);
            let (values, unfit) = fitted(values, self.after.field(*column).data_type());
            counts.failed += failed + unfit;
            columns[*column] = values;
        }
        let rows = RecordBatch::try_new(self.after.clone(), columns).expect("the columns were typed when built");
        assert_eq!(rows.num_rows(), length, "an expression gives one value a row");
        EventBatch { rows, ..batch }
    }
}

/// Values as the column's type, and how many don't fit into it (an unsigned number above 2⁶³); those become null.
fn fitted(values: ArrayRef, to: &DataType) -> (ArrayRef, u64) {
    if values.data_type() == to {
        return (values, 0);
    }
    let nulls = values.logical_null_count();
    match cast(&values, to) {
        Ok(cast) => {
            let unfit = cast.null_count().saturating_sub(nulls) as u64;
            (cast, unfit)
        }
        Err(_) => (new_null_array(to, values.len()), (values.len() - nulls) as u64),
    }
}

#[cfg(test)]
mod tests {
    use crate::place::{Entries, Located, Problem};
    use crate::record::schema::{ColumnType, Schema};
    use crate::transform::tests::{batch, build, schema};
    use crate::transform::{Config, TransformCounts};
    use arrow::array::RecordBatch;
    use arrow::util::display::array_value_to_string;

    fn check(entries: &[(&str, &str)]) -> Result<(RecordBatch, Schema, TransformCounts), Problem> {
        let entry = |(n, s): &(&str, &str)| (Located::nowhere((*n).to_owned()), Located::nowhere((*s).to_owned()));
        let config = Config::Set(Entries(entries.iter().map(entry).collect()));
        let (step, after) = build(&config, &schema()).map_err(|mut problems| problems.remove(0))?;
        let mut counts = TransformCounts::default();
        let out = step.apply(batch(&[Some(503), None, Some(0)]), &mut counts);
        assert_eq!(out.rows.schema(), after.arrow);
        assert_eq!(out.clock.len(), 3);
        let _ = step.apply(batch(&[]), &mut counts);
        Ok((out.rows, after, counts))
    }

    fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
        let values = rows.column_by_name(column).unwrap();
        (0..rows.num_rows()).map(|row| array_value_to_string(values, row).unwrap()).collect()
    }

    #[test]
    fn columns_are_added_in_order_and_replaced_in_place() {
        let (rows, after, _) = check(&[("class", "status / 100"), ("status", "status + 1"), ("n", "status")]).unwrap();
        let names: Vec<_> = after.columns.iter().skip(12).map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["status", "client_ip", "ratio", "payload", "ok", "class", "n"]);
        assert_eq!(texts(&rows, "class"), ["5.03", "", "0.0"]);
        assert_eq!(texts(&rows, "status"), ["504", "", "1"]);
        assert_eq!(texts(&rows, "n"), ["503", "", "0"], "an expression sees the columns from before the step");
    }

    #[test]
    fn every_result_has_a_type_of_schemas() {
        for (sql, kind) in [
            ("length(client_ip)", ColumnType::Int),
            ("status::smallint", ColumnType::Int),
            ("ratio::real", ColumnType::Float),
            ("status::text", ColumnType::Text),
            ("upper(client_ip)", ColumnType::Text),
            ("status > 1", ColumnType::Bool),
            ("ts::date", ColumnType::Timestamp),
            ("date_trunc('minute', ts)", ColumnType::Timestamp),
            ("to_timestamp_nanos(status)", ColumnType::Timestamp),
            ("arrow_cast(client_ip, 'Dictionary(Int32, Utf8)')", ColumnType::Text),
            ("case when ok then 'a' end", ColumnType::Text),
        ] {
            let (_, after, _) = check(&[("x", sql)]).unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
            assert_eq!(after.column("x").unwrap().kind, kind, "{sql}");
        }
    }

    #[test]
    fn a_bare_null_empties_a_column() {
        let (rows, after, _) = check(&[("message", "null"), ("status", "NULL")]).unwrap();
        assert_eq!(texts(&rows, "message"), ["", "", ""]);
        assert_eq!(after, schema());
    }

    #[test]
    fn what_cannot_be_computed_is_null_and_counted() {
        let (rows, _, counts) = check(&[("x", "100 % status")]).unwrap();
        assert_eq!(texts(&rows, "x"), ["100", "", ""]);
        assert_eq!(counts, TransformCounts { dropped: 0, failed: 1 });
        let (rows, _, counts) = check(&[("x", "arrow_cast(18446744073709551615, 'UInt64')")]).unwrap();
        assert_eq!((texts(&rows, "x")[0].as_str(), counts.failed), ("", 3));
    }

    #[test]
    fn mistakes_are_refused() {
        for (name, sql, message) in [
            ("ts", "ts", "cannot set `ts`, the engine keeps it"),
            ("attributes", "null", "cannot set `attributes`, the engine keeps it"),
            ("Path", "1", "cannot use `Path` as the name of a column"),
            ("1a", "1", "cannot use `1a` as the name of a column"),
            ("status", "'a'", "cannot set `status`, a column of int, to `'a'` of text"),
            ("ratio", "status", "cannot set `ratio`, a column of float, to `status` of int"),
            ("x", "null", "cannot keep `null` in a column, its type is null"),
            ("x", "interval '1 day'", "cannot keep `interval '1 day'` in a column, its type is interval"),
            ("x", "statsu", "cannot find column `statsu`"),
        ] {
            assert_eq!(check(&[(name, sql)]).unwrap_err().message, message);
        }
        assert_eq!(check(&[("x", "1"), ("x", "2")]).unwrap_err().message, "cannot set `x` twice in one step");
    }
}
