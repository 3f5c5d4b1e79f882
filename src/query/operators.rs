//! What means something else here than in DataFusion: `->>`, `->`, `/`, and times without seconds.

use super::json;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF, cast, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use std::sync::Arc;

/// Plans them.
#[derive(Debug)]
pub(super) struct Operators {
    text: Arc<ScalarUDF>,
    json: Arc<ScalarUDF>,
}

impl Default for Operators {
    fn default() -> Self {
        Self { text: Arc::new(json::text()), json: Arc::new(json::json()) }
    }
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let call = |function: &Arc<ScalarUDF>, raw: RawBinaryExpr| {
            let args = vec![raw.left, raw.right];
            PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args)))
        };
        Ok(match raw.op {
            BinaryOperator::LongArrow => call(&self.text, raw),
            BinaryOperator::Arrow => call(&self.json, raw),
            // A fraction, as in DuckDB and in a pipeline's expressions: `errors / requests` is a ratio, and x/0 is no data.
            BinaryOperator::Divide if is_number(&raw.left, schema) && is_number(&raw.right, schema) => {
                let left = Box::new(cast(raw.left, DataType::Float64));
                let right = Box::new(nullif(cast(raw.right, DataType::Float64), lit(0.0)));
                PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }))
            }
            _ => PlannerResult::Original(raw),
        })
    }
}

fn is_number(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|kind| kind.is_numeric())
}

/// Times written to the minute, as in `ts >= '2026-05-06 05:30'`, get the seconds that DataFusion wants to see.
#[derive(Debug)]
pub(super) struct Times;

impl AnalyzerRule for Times {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            // A scan has no input; its filters are found in what is above it.
            if schema.fields().is_empty() {
                return Ok(Transformed::no(plan));
            }
            // Who refers to a column by what it was computed from finds it as it was written.
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| Ok(to_the_second(expr, &schema)))?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "times_to_the_second"
    }
}

fn to_the_second(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let is_time = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::Timestamp(..)));
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_time(&left) || is_time(&right) => {
            let (left, right) = (seconds(left), seconds(right));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_time(&expr) => {
            Transformed::yes(Expr::Between(Between { expr, negated, low: seconds(low), high: seconds(high) }))
        }
        expr => Transformed::no(expr),
    }
}

/// `'2026-05-06 05:30'` with `:00`; anything else as it is.
fn seconds(expr: Box<Expr>) -> Box<Expr> {
    let Expr::Literal(value, _) = expr.as_ref() else { return expr };
    let Some(Some(text)) = value.try_as_str() else { return expr };
    let is_short = text.len() == 16
        && text.bytes().zip("dddd-dd-dd dd:dd".bytes()).all(|(byte, pattern)| match pattern {
            b'd' => byte.is_ascii_digit(),
            b' ' => matches!(byte, b' ' | b'T'),
            other => byte == other,
        });
    if is_short { Box::new(Expr::Literal(ScalarValue::from(format!("{text}:00")), None)) } else { expr }
}
