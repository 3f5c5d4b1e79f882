//! What is asked of each stage when a pipeline is checked: one small function a stage.
//!
//! Everything that needs no more than the vocabulary is checked: that SQL compiles, that names exist.

use crate::expression::{AggregateCall, Argument, Compiler, Expression};
use crate::place::{Located, Place, Problem, did_you_mean};
use crate::record::sample::{WindowSchema, columns};
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use crate::{alert, archive, decode, metric, sink, source, transform, window};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use std::sync::Arc;

pub type Step = transform::Config;
pub type Metric = metric::Config;
pub type Window = window::Config;
pub type Alert = alert::Config;

type Checked<T> = Result<T, Vec<Problem>>;

pub(super) fn decode(config: &decode::Config) -> Vec<Problem> {
    let mut problems: Vec<Problem> = config.time_formats.iter().filter_map(time_format).collect();
    if let Some(zone) = config.zone.as_ref().filter(|zone| jiff::tz::TimeZone::get(&zone.value).is_err()) {
        let problem = zone.problem(format!("cannot find the time zone `{}`", zone.value));
        problems.push(problem.hint("expected an IANA name, as in Asia/Tokyo or UTC"));
    }
    problems
}

fn time_format(format: &Located<String>) -> Option<Problem> {
    if matches!(format.value.as_str(), "rfc3339" | "epoch") || format.value.contains('%') {
        return None;
    }
    let problem = format.problem(format!("cannot read `{}` as a time format", format.value));
    Some(problem.hint("expected rfc3339, epoch, or a strptime pattern as in \"%Y-%m-%d %H:%M:%S\""))
}

/// A problem of the source as a whole has the place 0:0.
pub(super) fn source(config: &source::Config) -> Vec<Problem> {
    match config {
        source::Config::File(file) if file.paths.is_empty() => {
            let problem = Problem::new(Place::default(), "cannot read from no files, `paths` is empty");
            vec![problem.hint("expected paths or globs, as in paths: [\"/var/log/app/*.log\"]")]
        }
        source::Config::File(_) | source::Config::Stdin(_) | source::Config::Generate(_) => Vec::new(),
    }
}

pub(super) fn sink(config: &sink::Config) -> Vec<Problem> {
    match config {
        sink::Config::File(file) if file.path.value.is_empty() => {
            vec![file.path.problem("cannot write to a file without a name")]
        }
        sink::Config::File(_) | sink::Config::Stdout(_) => Vec::new(),
    }
}

pub(super) fn archive(config: &archive::Config, schema: &Schema) -> Vec<Problem> {
    let columns = config.partition_by.iter().filter(|name| !matches!(name.value.as_str(), "date" | "hour"));
    columns
        .filter_map(|name| match column(name, schema) {
            Ok(found) if found.kind == ColumnType::Text => None,
            Ok(found) => {
                let kind = found.kind.as_str();
                let problem = name.problem(format!("cannot partition by `{}`, its type is {kind}", found.name));
                Some(problem.hint("expected date, hour or a text column"))
            }
            Err(more) => more.into_iter().next(),
        })
        .collect()
}

/// The step, and the schema that it leaves.
pub(super) fn transform(step: &Step, schema: &Schema, compiler: &Compiler) -> Checked<(Step, Schema)> {
    let columns = match step {
        transform::Config::Filter(sql) => {
            compiler.predicate(sql, &schema.arrow)?;
            schema.columns.clone()
        }
        transform::Config::Set(entries) => set(&entries.0, schema, compiler)?,
        transform::Config::Drop(names) => {
            all(names.iter().map(|name| droppable(name, schema)))?;
            schema.columns.iter().filter(|c| names.iter().all(|n| n.value != c.name)).cloned().collect()
        }
        transform::Config::Mask(mask) => {
            self::mask(mask, schema)?;
            schema.columns.clone()
        }
    };
    Ok((step.clone(), Schema::new(&schema.name, schema.version, columns)))
}

fn set(entries: &[(Located<String>, Located<String>)], schema: &Schema, compiler: &Compiler) -> Checked<Vec<Column>> {
    let mut columns = schema.columns.clone();
    let made = all(entries.iter().map(|(name, sql)| {
        let expression = compiler.compile(sql, &schema.arrow)?;
        let kind = column_type(sql, expression.data_type())?;
        if BUILT_IN.iter().any(|(built_in, built_in_kind)| *built_in == name.value && *built_in_kind != kind) {
            return Err(vec![name.problem(format!("cannot make `{}` {}, it is built in", name.value, kind.as_str()))]);
        }
        Ok(computed(&name.value, kind, &expression, schema))
    }))?;
    for column in made {
        match columns.iter_mut().find(|c| c.name == column.name) {
            Some(old) => *old = column,
            None => columns.push(column),
        }
    }
    Ok(columns)
}

fn computed(name: &str, kind: ColumnType, expression: &Expression, schema: &Schema) -> Column {
    // A copy of a column has as many values as the column itself.
    let is_copy = expression.columns().len() == 1 && expression.sql() == expression.columns()[0];
    let copied = is_copy.then(|| schema.column(expression.sql())).flatten();
    Column {
        name: name.to_owned(),
        kind,
        from: Vec::new(),
        unit: copied.and_then(|column| column.unit.clone()),
        dictionary: copied.is_some_and(|column| column.dictionary),
        bloom: false,
        required: false,
        high_cardinality: copied.is_some_and(|column| column.high_cardinality),
        description: None,
    }
}

fn column_type(sql: &Located<String>, data_type: &DataType) -> Checked<ColumnType> {
    match data_type {
        DataType::Int64 | DataType::Int32 | DataType::Int16 | DataType::Int8 => Ok(ColumnType::Int),
        DataType::UInt64 | DataType::UInt32 | DataType::UInt16 | DataType::UInt8 => Ok(ColumnType::Int),
        DataType::Float64 | DataType::Float32 => Ok(ColumnType::Float),
        DataType::Boolean => Ok(ColumnType::Bool),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Ok(ColumnType::Text),
        DataType::Timestamp(_, _) => Ok(ColumnType::Timestamp),
        other => Err(vec![
            sql.problem(format!("cannot keep `{}` in a column, its type is {other}", sql.value))
                .hint("cast it, as in cast(… as double)"),
        ]),
    }
}

fn droppable(name: &Located<String>, schema: &Schema) -> Checked<()> {
    if BUILT_IN.iter().any(|(built_in, _)| *built_in == name.value) {
        return Err(vec![name.problem(format!("cannot drop `{}`, every schema has it", name.value))]);
    }
    column(name, schema).map(|_| ())
}

fn mask(mask: &transform::MaskConfig, schema: &Schema) -> Checked<()> {
    let mut problems = Vec::new();
    match column(&mask.column, schema) {
        Ok(found) if found.kind != ColumnType::Text => problems.push(
            mask.column
                .problem(format!("cannot mask `{}`, its type is {}", found.name, found.kind.as_str()))
                .hint("only text can be masked; `drop` removes a column"),
        ),
        Ok(_) => {}
        Err(more) => problems.extend(more),
    }
    if let Some(pattern) = &mask.pattern {
        problems.extend(invalid_pattern(pattern));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The mistake in a pattern, at its place inside.
fn invalid_pattern(pattern: &Located<String>) -> Option<Problem> {
    let error = regex::Regex::new(&pattern.value).err()?;
    // regex's own text draws the pattern with a caret below; its last line says what is wrong.
    let text = error.to_string();
    let caret = text.lines().find_map(|line| line.find('^').filter(|_| line.trim().chars().all(|c| c == '^')));
    // The drawing is indented by four columns.
    let column = caret.and_then(|at| at.checked_sub(4)).unwrap_or(0) as u32;
    let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    let problem =
        Problem::new(pattern.inside(0, column), format!("cannot read `{}` as a pattern: {why}", pattern.value));
    Some(problem.hint("the syntax is that of Rust's regex crate, without look-around and back references"))
}

pub(super) fn metric(config: &Metric, schema: &Schema, compiler: &Compiler) -> Checked<Metric> {
    let mut problems: Vec<Problem> = config.labels.iter().filter_map(|l| label(l, schema).err()).flatten().collect();
    if let Some(sql) = &config.value {
        problems.extend(
            compiler.compile(sql, &schema.arrow).and_then(|value| numeric(sql, &value)).err().into_iter().flatten(),
        );
    } else if config.kind != metric::Kind::Counter {
        let problem = config.name.problem(format!("cannot make the metric `{}` without a value", config.name.value));
        problems
            .push(problem.hint("add `value:` with the expression to be set or observed; a counter alone counts rows"));
    }
    if let Some(sql) = &config.condition {
        problems.extend(compiler.predicate(sql, &schema.arrow).err().into_iter().flatten());
    }
    if problems.is_empty() { Ok(config.clone()) } else { Err(problems) }
}

/// Names that stand twice.
pub(super) fn metric_names(configs: &[metric::Config]) -> Vec<Problem> {
    let twice = |at: usize| configs[..at].iter().any(|before| before.name.value == configs[at].name.value);
    let problem = |at: usize| {
        let name = &configs[at].name;
        name.problem(format!("cannot use the name `{}` twice", name.value)).hint("give each metric its own name")
    };
    (0..configs.len()).filter(|at| twice(*at)).map(problem).collect()
}

fn label(label: &Located<String>, schema: &Schema) -> Checked<()> {
    let found = column(label, schema)?;
    if found.high_cardinality {
        return Err(vec![
            label
                .problem(format!(
                    "cannot use `{}` as a label, the schema {} marks it as high-cardinality: each of its values would be a series",
                    found.name, schema.name
                ))
                .hint("remove it from `labels`; query the archive for single values"),
        ]);
    }
    Ok(())
}

fn numeric(sql: &Located<String>, value: &Expression) -> Checked<()> {
    if value.data_type().is_numeric() {
        return Ok(());
    }
    Err(vec![
        sql.problem(format!("cannot use `{}` as a metric's value, its type is {}", sql.value, value.data_type()))
            .hint("a value is a number: cast it, as in cast(… as double)"),
    ])
}

/// The window, and what its result rows look like.
pub(super) fn window(config: &Window, schema: &Schema, compiler: &Compiler) -> Checked<(Window, WindowSchema)> {
    let mut problems = Vec::new();
    if let Some(sql) = &config.condition {
        problems.extend(compiler.predicate(sql, &schema.arrow).err().into_iter().flatten());
    }
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields =
        vec![Field::new(columns::WINDOW_START, stamp.clone(), false), Field::new(columns::WINDOW_END, stamp, false)];
    for name in &config.group_by {
        match column(name, schema) {
            Ok(found) => fields.push(Field::new(&found.name, found.kind.arrow(), true)),
            Err(more) => problems.extend(more),
        }
    }
    for (name, sql) in &config.aggregate.0 {
        match compiler.aggregate(sql, &schema.arrow) {
            Ok(call) => fields.push(Field::new(&name.value, result_type(&call), true)),
            Err(more) => problems.extend(more),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    for (name, sql) in &config.derive.0 {
        match compiler.compile(sql, &result(&fields)) {
            Ok(value) => fields.push(Field::new(&name.value, value.data_type().clone(), true)),
            Err(more) => problems.extend(more),
        }
    }
    fields.push(Field::new(columns::LATE, DataType::Int64, false));
    fields.push(Field::new(columns::PROVISIONAL, DataType::Boolean, false));
    if !problems.is_empty() {
        return Err(problems);
    }
    let window = Arc::from(config.name.value.as_str());
    let group_by = config.group_by.iter().map(|name| name.value.clone()).collect();
    Ok((config.clone(), WindowSchema { window, group_by, arrow: result(&fields) }))
}

fn result(fields: &[Field]) -> SchemaRef {
    Arc::new(ArrowSchema::new(fields.to_vec()))
}

fn result_type(call: &AggregateCall) -> DataType {
    match (call.function.as_str(), call.arguments.first()) {
        ("count" | "count_distinct", _) => DataType::Int64,
        ("sum" | "min" | "max", Some(Argument::Expression(argument))) => argument.data_type().clone(),
        _ => DataType::Float64,
    }
}

/// The rule, checked against the result columns of its window.
pub(super) fn alert(config: &Alert, windows: &[WindowSchema], compiler: &Compiler) -> Checked<Alert> {
    let Some(window) = windows.iter().find(|window| *window.window == *config.on.value) else {
        let names = windows.iter().map(|window| &*window.window);
        return Err(vec![not_found("window", &config.on, names)]);
    };
    compiler.predicate(&config.when, &window.arrow)?;
    Ok(config.clone())
}

fn column<'s>(name: &Located<String>, schema: &'s Schema) -> Checked<&'s Column> {
    let names = || schema.columns.iter().map(|column| column.name.as_str());
    schema.column(&name.value).ok_or_else(|| vec![not_found("column", name, names())])
}

/// `cannot find the window `x``, with the closest name or all names.
pub(super) fn not_found<'n>(what: &str, name: &Located<String>, names: impl Iterator<Item = &'n str>) -> Problem {
    let names: Vec<&str> = names.collect();
    let hint = match did_you_mean(&name.value, names.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if names.is_empty() => format!("there is no {what} here"),
        None => format!("{what}s here: {}", names.join(", ")),
    };
    name.problem(format!("cannot find the {what} `{}`", name.value)).hint(hint)
}

/// All results, or all problems.
fn all<T>(results: impl Iterator<Item = Checked<T>>) -> Checked<Vec<T>> {
    let (mut values, mut problems) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(more) => problems.extend(more),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}
