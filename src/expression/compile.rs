//! SQL text → [`Expression`], with every mistake at its place.

use super::Expression;
use super::names::{check_names, readable_types, type_name};
use super::wording;
use crate::place::{Located, Problem};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, Volatility, cast, lit};
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::ast::{Expr as Sql, ExprWithAlias};

/// Compiles expressions. Making one registers DataFusion's functions (about a millisecond); share it.
pub struct Compiler {
    state: SessionState,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiler")
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Self { state: SessionStateBuilder::new().with_default_features().build() }
    }
}

impl Compiler {
    /// Compiles `sql` over the columns of `schema`.
    ///
    /// # Errors
    /// All unknown columns at once; else the first mistake of syntax, function or type.
    pub fn compile(&self, sql: &Located<String>, schema: &SchemaRef) -> Result<Expression, Vec<Problem>> {
        let parsed = parse(sql)?;
        self.plan(sql, parsed, schema)
    }

    /// As [`Self::compile`], and refuses what is not true or false.
    ///
    /// # Errors
    /// As [`Self::compile`]; and when the expression's type is not boolean.
    pub fn predicate(&self, sql: &Located<String>, schema: &SchemaRef) -> Result<Expression, Vec<Problem>> {
        let expression = self.compile(sql, schema)?;
        require_boolean(sql, expression)
    }

    /// Plans a part of `sql` that was parsed already.
    pub(super) fn plan(
        &self,
        sql: &Located<String>,
        parsed: Sql,
        schema: &SchemaRef,
    ) -> Result<Expression, Vec<Problem>> {
        let columns = check_names(sql, &parsed, schema, &self.state)?;
        let text = parsed.to_string();
        let failed = |error: DataFusionError| vec![from_datafusion(sql, &error)];
        let df_schema = DFSchema::try_from(schema.as_ref().clone()).map_err(failed)?;
        let logical = self
            .state
            .create_logical_expr_from_sql_expr(ExprWithAlias { expr: parsed, alias: None }, &df_schema)
            .map_err(failed)?;
        refuse_unmeant(sql, &logical)?;
        let logical = fractional_division(logical, &df_schema).map_err(failed)?;
        let physical = self.state.create_physical_expr(logical, &df_schema).map_err(failed)?;
        let data_type = physical.data_type(schema).map_err(failed)?;
        Ok(Expression { sql: text, physical, data_type, columns })
    }
}

pub(super) fn require_boolean(sql: &Located<String>, expression: Expression) -> Result<Expression, Vec<Problem>> {
    match expression.data_type {
        DataType::Boolean => Ok(expression),
        ref other => Err(vec![
            sql.problem(format!("cannot use `{}` as a condition, its type is {}", sql.value.trim(), type_name(other)))
                .hint("a condition is true or false: compare it with something, as in `status >= 500`"),
        ]),
    }
}

pub(super) fn parse(sql: &Located<String>) -> Result<Sql, Vec<Problem>> {
    DFParserBuilder::new(sql.value.as_str())
        .build()
        .and_then(|mut parser| parser.parse_into_expr())
        .map(|parsed| parsed.expr)
        .map_err(|error| vec![from_datafusion(sql, &error)])
}

fn is_comparison(op: Operator) -> bool {
    matches!(op, Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

fn is_null(part: &Expr) -> bool {
    matches!(part, Expr::Literal(value, _) if value.is_null())
}

/// Refuses what is sound SQL and yet never meant.
fn refuse_unmeant(sql: &Located<String>, logical: &Expr) -> Result<(), Vec<Problem>> {
    let mut problem = None;
    let _ = logical.apply(|part| {
        match part {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                problem = Some(
                    sql.problem(format!("cannot use {}(), its value changes from call to call", call.func.name()))
                        .hint("results must be the same when the same input is read again; compare with `ts`"),
                );
            }
            Expr::AggregateFunction(call) => {
                problem = Some(
                    sql.problem(format!("cannot use the aggregate {}() on single rows", call.func.name()))
                        .hint("aggregates stand under `windows: … aggregate:`"),
                );
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if is_comparison(*op) && (is_null(left) || is_null(right)) =>
            {
                problem = Some(
                    sql.problem("cannot compare with null, the result is never true")
                        .hint("write `… is null` or `… is not null`"),
                );
            }
            _ => {}
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    problem.map_or(Ok(()), |problem| Err(vec![problem]))
}

/// `left / right` as a division of floats, as DuckDB does it (`errors / requests` is a ratio); a division by zero is
/// null: 0/0 is no data.
pub fn fraction(left: Expr, right: Expr) -> Expr {
    let left = Box::new(cast(left, DataType::Float64));
    let right = Box::new(nullif(cast(right, DataType::Float64), lit(0.0)));
    Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right })
}

/// Makes each `/` between numbers a [`fraction`].
fn fractional_division(logical: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    logical
        .transform_up(|part| match part {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right })
                if left.get_type(schema)?.is_numeric() && right.get_type(schema)?.is_numeric() =>
            {
                Ok(Transformed::yes(fraction(*left, *right)))
            }
            other => Ok(Transformed::no(other)),
        })
        .map(|rewritten| rewritten.data)
}

/// DataFusion's message without its own prefixes, at the place that it names.
fn from_datafusion(sql: &Located<String>, error: &DataFusionError) -> Problem {
    let full = error.strip_backtrace();
    let (message, at) = wording::of_parser(wording::first_line(&full));
    let place = at.map(|at| sql.inside(at.line - 1, at.column - 1));
    let shown = sql.value.trim();
    let message = readable(&message);
    let problem = Problem::new(place.unwrap_or(sql.place), format!("cannot compile `{shown}`: {message}"));
    let of_types = ["coerce", "common", "expects", "requires", "only supports"].iter().any(|w| message.contains(w));
    if message.contains("PGOverlap") {
        let message = format!("cannot compile `{shown}`: `&&` is no operator here");
        Problem::new(problem.place, message).hint("write `and`")
    } else if shown.contains("filter (") && !shown.contains("filter (where") {
        problem.hint("a filter is written `filter (where …)`")
    } else if of_types {
        problem.hint("change a type with a cast, as in `status::text`; texts stand in '…'")
    } else {
        problem
    }
}

/// What a user needs of a planner's message: one signature's complaint, no internals, types by their names.
fn readable(message: &str) -> String {
    let mut text = wording::without_class(message);
    if let Some((_, errors)) = text.split_once("failed to match any signature, errors: ") {
        text = wording::without_class(errors.split(".,").next().unwrap_or(errors).trim_start());
        text = text.split(" (DataType:").next().unwrap_or(text);
    }
    wording::lower_first(&readable_types(wording::without_advice(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{Field, Schema};
    use std::sync::Arc;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("status", DataType::Int64, true),
            Field::new("latency_ms", DataType::Float64, true),
            Field::new("path", DataType::Utf8, true),
        ]))
    }

    fn rows() -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(200), Some(503), None])),
            Arc::new(Float64Array::from(vec![Some(12.5), None, Some(2000.0)])),
            Arc::new(StringArray::from(vec![Some("/a"), Some("/b"), None])),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn fails(sql: &str) -> Problem {
        Compiler::default().compile(&Located::nowhere(sql.to_owned()), &schema()).unwrap_err().remove(0)
    }

    #[test]
    fn predicates_follow_sql_null_rules() {
        let sql = Located::nowhere("status >= 500 or path = '/a'".to_owned());
        let mask = Compiler::default().predicate(&sql, &schema()).unwrap().evaluate_mask(&rows()).unwrap();
        assert_eq!(mask.iter().collect::<Vec<_>>(), [Some(true), Some(true), None]);
    }

    #[test]
    fn division_of_integers_is_a_ratio() {
        let sql = Located::nowhere("status / 1000".to_owned());
        let values = Compiler::default().compile(&sql, &schema()).unwrap().evaluate(&rows()).unwrap();
        let values = values.as_any().downcast_ref::<Float64Array>().unwrap();
        assert_eq!(values.value(0), 0.2);
        let sql = Located::nowhere("(status - status) / (latency_ms - latency_ms)".to_owned());
        let values = Compiler::default().compile(&sql, &schema()).unwrap().evaluate(&rows()).unwrap();
        assert_eq!(values.null_count(), 3, "0/0 is no data");
    }

    #[test]
    fn a_slip_is_found_at_its_place() {
        let problem = fails("path = '/a' and statsu > 3");
        assert_eq!(problem.place.to_string(), "1:17");
        assert_eq!(problem.hint.as_deref(), Some("did you mean `status`?"));
    }

    #[test]
    fn mistakes_are_refused_with_a_reason() {
        for (sql, expected) in [
            ("status >", "cannot compile"),
            ("nosuch(status)", "cannot find function `nosuch`"),
            ("now() > ts", "cannot find column"),
            ("random() > 0.5", "cannot use random()"),
            ("count(*) > 1", "cannot use the aggregate count()"),
            ("a.b = 1", "cannot resolve `a.b`"),
            ("status != null", "cannot compare with null"),
            ("path = 'x' or null = status", "cannot compare with null"),
            ("status > 1 && path = 'x'", "cannot compile `status > 1 && path = 'x'`: `&&` is no operator here"),
            ("path + 1 = 'x' - path", "cannot compile"),
        ] {
            let problem = fails(sql);
            assert!(problem.message.starts_with(expected), "{sql}: {}", problem.message);
        }
    }

    #[test]
    fn messages_speak_of_the_users_types() {
        for (sql, place, expected) in [
            ("lowr(path) = 'a'", "1:1", "cannot find function `lowr`"),
            (
                "path + 1",
                "1:1",
                "cannot compile `path + 1`: cannot coerce arithmetic expression text + int to valid types",
            ),
            ("abs(path)", "1:1", "cannot compile `abs(path)`: function 'abs' expects Numeric but received text"),
            ("status = 1 or path ~ '('", "1:22", "cannot read '(' as a regular expression: unclosed group"),
            ("regexp_like(path, '[')", "1:19", "cannot read '[' as a regular expression: unclosed character class"),
            (
                "round(path, 1)",
                "1:1",
                "cannot compile `round(path, 1)`: function 'round' requires Decimal, but received text",
            ),
        ] {
            let problem = fails(sql);
            assert_eq!((problem.place.to_string().as_str(), problem.message.as_str()), (place, expected));
        }
        assert_eq!(fails("lowr(path)").hint.as_deref(), Some("did you mean `lower`?"));
    }

    #[test]
    fn a_condition_must_be_boolean() {
        let sql = Located::nowhere("status + 1".to_owned());
        assert!(Compiler::default().predicate(&sql, &schema()).is_err());
    }
}
