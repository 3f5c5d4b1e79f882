//! `p50(x)`, `p95(x)`, `p99(x)` and `quantile(x, q)`: exact, between the two nearest values where q falls between them.
//!
//! They are other names of `percentile_cont`, which keeps all values (8 bytes each, spilled to disk where there are many
//! groups); `approx_percentile_cont(x, q)` is the one that doesn't.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::functions_aggregate::percentile_cont::percentile_cont_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility, cast, lit};

/// One of the names.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Quantile {
    name: &'static str,
    aliases: Vec<String>,
    /// In percent; given as an argument where it isn't part of the name.
    percent: Option<u8>,
    signature: Signature,
}

/// All of them.
pub(super) fn all() -> Vec<AggregateUDF> {
    let fixed = |name, percent| make(name, Some(percent), 1, &[]);
    vec![
        fixed("p50", 50),
        fixed("p90", 90),
        fixed("p95", 95),
        fixed("p99", 99),
        make("quantile", None, 2, &["quantile_cont"]),
    ]
}

fn make(name: &'static str, percent: Option<u8>, arguments: usize, aliases: &[&str]) -> AggregateUDF {
    let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    AggregateUDF::from(Quantile { name, aliases, percent, signature: Signature::any(arguments, Volatility::Immutable) })
}

impl AggregateUDFImpl for Quantile {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match &arguments[0] {
            kind if kind.is_numeric() || kind.is_null() => Ok(DataType::Float64),
            kind => plan_err!("{}() expects numbers, not {kind}", self.name),
        }
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        plan_err!("{}() has no meaning over a moving window; use percentile_cont", self.name)
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let percent = self.percent;
        Some(Box::new(move |mut call, _| {
            let mut arguments = std::mem::take(&mut call.params.args).into_iter();
            let value = cast(arguments.next().unwrap_or_else(|| lit(0.0)), DataType::Float64);
            let quantile = percent.map(|percent| lit(f64::from(percent) / 100.0)).or_else(|| arguments.next());
            call.params.args = vec![value, quantile.unwrap_or_else(|| lit(0.5))];
            call.func = percentile_cont_udaf();
            Ok(Expr::AggregateFunction(call))
        }))
    }
}
