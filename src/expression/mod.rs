//! SQL expressions over columns: compiled once against a schema, evaluated on whole batches.
//!
//! The parser, the types and the kernels are DataFusion's; this folder is the only place outside `query/` that
//! knows it. Two rules are headrig's own: every name is looked up before the plan is made, so that a slip is
//! reported at its place with "did you mean", and `/` between integers gives a fraction, as in DuckDB.
//!
//! A compiled expression is immutable and can be used from any thread. It reads neither clock nor session:
//! functions whose value changes from call to call (`now`, `random`, …) are refused.

mod aggregate;
mod compile;
mod lenient;
mod names;
pub mod wording;

pub use aggregate::{AggregateCall, Argument};
pub use compile::{Compiler, fraction};
pub use names::type_name;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expression {
    sql: String,
    physical: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    columns: Vec<String>,
}

/// Why an expression failed on a batch (a division of decimals, a cast that doesn't fit, …).
#[derive(Debug, thiserror::Error)]
#[error("cannot evaluate `{sql}`")]
pub struct EvaluateError {
    sql: String,
    #[source]
    source: datafusion::error::DataFusionError,
}

impl Expression {
    /// The text it was compiled from.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The columns that it reads, sorted, each once.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// One value per row of `rows`, which must have the schema that the expression was compiled against.
    ///
    /// # Errors
    /// When a kernel refuses a value.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, EvaluateError> {
        self.physical
            .evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
            .map_err(|source| EvaluateError { sql: self.sql.clone(), source })
    }

    /// As [`Self::evaluate`], of an expression made by [`Compiler::predicate`].
    ///
    /// # Errors
    /// When a kernel refuses a value.
    pub fn evaluate_mask(&self, rows: &RecordBatch) -> Result<BooleanArray, EvaluateError> {
        let mask = self.evaluate(rows)?;
        Ok(mask.as_any().downcast_ref::<BooleanArray>().expect("a predicate was checked to be boolean").clone())
    }
}
