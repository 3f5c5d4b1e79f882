//! Calls of aggregate functions: `count(*) filter (where status >= 500)`, `quantile(latency_ms, 0.95)`.
//!
//! This file takes the call apart and compiles its arguments; what the functions mean is the window stage's.

use super::compile::{parse, require_boolean};
use super::{Compiler, Expression};
use crate::place::{Located, Problem};
use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr as Sql, Function, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator, Value,
};

/// One argument of an aggregate function.
#[derive(Debug, Clone)]
pub enum Argument {
    /// `*`
    Star,
    /// A number written out.
    Number(f64),
    Expression(Expression),
}

/// An aggregate function applied to arguments, perhaps filtered.
#[derive(Debug, Clone)]
pub struct AggregateCall {
    /// In lower case.
    pub function: String,
    /// `count(distinct x)`
    pub distinct: bool,
    pub arguments: Vec<Argument>,
    /// `filter (where …)`; boolean.
    pub filter: Option<Expression>,
}

impl Compiler {
    /// Compiles one call of an aggregate function over the columns of `schema`.
    ///
    /// # Errors
    /// When `sql` is not a single call, or an argument is wrong.
    pub fn aggregate(&self, sql: &Located<String>, schema: &SchemaRef) -> Result<AggregateCall, Vec<Problem>> {
        let Sql::Function(call) = parse(sql)? else {
            return Err(vec![
                sql.problem(format!("cannot use `{}` as an aggregate", sql.value))
                    .hint("write one function call here, as in `count(*)`, and arithmetic on results under `derive:`"),
            ]);
        };
        refuse_clauses(sql, &call)?;
        let (distinct, raw) = match &call.args {
            FunctionArguments::List(list) if list.clauses.is_empty() => {
                (list.duplicate_treatment == Some(DuplicateTreatment::Distinct), list.args.clone())
            }
            _ => return Err(vec![sql.problem(format!("cannot read the arguments of `{}`", sql.value))]),
        };
        let mut problems = Vec::new();
        let mut arguments = Vec::new();
        for argument in raw {
            match self.argument(sql, argument, schema) {
                Ok(argument) => arguments.push(argument),
                Err(more) => problems.extend(more),
            }
        }
        let filter = match call.filter.map(|f| self.plan(sql, *f, schema).and_then(|e| require_boolean(sql, e))) {
            Some(Ok(filter)) => Some(filter),
            Some(Err(more)) => {
                problems.extend(more);
                None
            }
            None => None,
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(AggregateCall { function: call.name.to_string().to_lowercase(), distinct, arguments, filter })
    }

    fn argument(
        &self,
        sql: &Located<String>,
        argument: FunctionArg,
        schema: &SchemaRef,
    ) -> Result<Argument, Vec<Problem>> {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => Ok(Argument::Star),
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => match number(&expr) {
                Some(number) => Ok(Argument::Number(number)),
                None => self.plan(sql, expr, schema).map(Argument::Expression),
            },
            other => Err(vec![sql.problem(format!("cannot use `{other}` as an argument"))]),
        }
    }
}

fn refuse_clauses(sql: &Located<String>, call: &Function) -> Result<(), Vec<Problem>> {
    if call.over.is_some() || call.null_treatment.is_some() || !call.within_group.is_empty() {
        return Err(vec![
            sql.problem(format!("cannot use `over`, `within group` or null treatment in `{}`", sql.value))
                .hint("the window is the one that this aggregate stands under"),
        ]);
    }
    Ok(())
}

fn number(expr: &Sql) -> Option<f64> {
    match expr {
        Sql::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        Sql::UnaryOp { op: UnaryOperator::Minus, expr } => number(expr).map(|n| -n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn compile(sql: &str) -> Result<AggregateCall, Vec<Problem>> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("status", DataType::Int64, true),
            Field::new("latency_ms", DataType::Float64, true),
        ]));
        Compiler::default().aggregate(&Located::nowhere(sql.to_owned()), &schema)
    }

    #[test]
    fn calls_are_taken_apart() {
        let call = compile("COUNT(*) filter (where status >= 500)").unwrap();
        assert_eq!(call.function, "count");
        assert!(matches!(call.arguments[..], [Argument::Star]));
        assert_eq!(call.filter.unwrap().columns(), ["status"]);
        let call = compile("quantile(latency_ms / 1000, 0.95)").unwrap();
        assert!(matches!(call.arguments[..], [Argument::Expression(_), Argument::Number(q)] if q == 0.95));
        assert!(compile("count(distinct status)").unwrap().distinct);
    }

    #[test]
    fn anything_else_is_refused() {
        for sql in ["status", "count(*) + 1", "sum(statsu)", "count(*) filter (where status)", "sum(status) over ()"] {
            assert!(compile(sql).is_err(), "{sql}");
        }
    }
}
