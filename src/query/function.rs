//! Functions on single values that logs are asked with: `per`, `ip_mask`, `humanize`, and hex columns as text.

use crate::record::address;
use crate::time::Span;
use crate::units::humanize::humanize;
use datafusion::arrow::array::{Array, AsArray, StringViewBuilder, TimestampMicrosecondArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::fmt::Write;
use std::sync::Arc;

/// Those that a query may name.
pub(super) fn all() -> Vec<ScalarUDF> {
    let same = |udf: Arc<ScalarUDF>, alias| (*udf).clone().with_aliases([alias]);
    vec![
        make("per", 2, Work::Per),
        make("ip_mask", 1, Work::IpMask),
        make("humanize", 1, Work::Humanize),
        super::json::text(),
        super::json::json(),
        // What DuckDB calls them.
        same(datafusion::functions::datetime::date_bin(), "time_bucket"),
        same(datafusion::functions::regex::regexp_like(), "regexp_matches"),
    ]
}

/// Bytes as hex digits in small letters.
pub(super) fn hex() -> ScalarUDF {
    make("hex_text", 1, Work::Hex)
}

/// One of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    name: &'static str,
    work: Work,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// `per('5m', ts)`: the beginning of the span that `ts` lies in; spans begin with 1970 in UTC.
    Per,
    /// `ip_mask(ip)`: the network of an address, 24 bits of IPv4 and 48 of IPv6.
    IpMask,
    /// `humanize(x)`: four digits and a letter for thousands, as in 1.235M, as Prometheus writes it.
    Humanize,
    Hex,
}

fn make(name: &'static str, arguments: usize, work: Work) -> ScalarUDF {
    ScalarUDF::from(Function { name, work, signature: Signature::any(arguments, Volatility::Immutable) })
}

fn stamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let name = self.name;
        match (self.work, &arguments[arguments.len() - 1]) {
            (Work::Per, DataType::Timestamp(..) | DataType::Date32 | DataType::Null) => Ok(stamp()),
            (Work::Per, kind) => plan_err!("{name}() expects a span and a time, as in per('5m', ts), not {kind}"),
            (Work::Humanize, kind) if !kind.is_numeric() && !kind.is_null() => {
                plan_err!("{name}() expects a number, not {kind}")
            }
            _ => Ok(DataType::Utf8View),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let value = args.args[args.args.len() - 1].to_array(rows)?;
        let done: Arc<dyn Array> = match self.work {
            Work::Per => per(span(&args.args[0])?, value.as_ref())?,
            Work::IpMask => {
                let value = cast(&value, &DataType::Utf8View)?;
                texts(value.len(), value.as_string_view().iter().map(|ip| network(ip?)))
            }
            Work::Humanize => {
                let value = cast(&value, &DataType::Float64)?;
                texts(value.len(), value.as_primitive::<Float64Type>().iter().map(|x| Some(humanize(x?))))
            }
            Work::Hex => hex_texts(value.as_ref())?,
        };
        match scalar {
            true => ScalarValue::try_from_array(&done, 0).map(ColumnarValue::Scalar),
            false => Ok(ColumnarValue::Array(done)),
        }
    }
}

fn texts(rows: usize, values: impl Iterator<Item = Option<String>>) -> Arc<dyn Array> {
    let mut out = StringViewBuilder::with_capacity(rows);
    values.for_each(|value| out.append_option(value));
    Arc::new(out.finish())
}

fn span(argument: &ColumnarValue) -> Result<i64> {
    let ColumnarValue::Scalar(value) = argument else {
        return exec_err!("a span has to be written out, as in per('5m', ts)");
    };
    let Some(Some(text)) = value.try_as_str() else {
        return exec_err!("a span is a text, as in per('5m', ts)");
    };
    match text.parse::<Span>() {
        Ok(span) if span.micros() > 0 => Ok(span.micros()),
        Ok(_) => exec_err!("a span has to be longer than nothing, as in per('5m', ts)"),
        Err(error) => exec_err!("{error}"),
    }
}

fn per(width: i64, times: &dyn Array) -> Result<Arc<dyn Array>> {
    let times = cast(times, &stamp())?;
    let floor = |micros: i64| micros.div_euclid(width).saturating_mul(width);
    let floored: TimestampMicrosecondArray = times.as_primitive::<TimestampMicrosecondType>().unary(floor);
    Ok(Arc::new(floored.with_timezone("UTC")))
}

/// The network of an address as it stands in a log; of a network, its own.
fn network(text: &str) -> Option<String> {
    let bare = text.split_once('/').map_or(text, |(address, _)| address);
    let mut out = String::new();
    address::write_network(&mut out, address::parse(bare)?).ok()?;
    Some(out)
}

fn hex_texts(value: &dyn Array) -> Result<Arc<dyn Array>> {
    let Some(bytes) = value.as_fixed_size_binary_opt() else {
        return exec_err!("hex_text() expects bytes of one length, not {}", value.data_type());
    };
    let text = |bytes: &[u8]| {
        bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a text takes all");
            text
        })
    };
    Ok(texts(bytes.len(), bytes.iter().map(|bytes| bytes.map(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_networks() {
        for (ip, expected) in [
            ("203.0.113.77", Some("203.0.113.0/24")),
            ("203.0.113.77:8080", Some("203.0.113.0/24")),
            ("203.0.113.0/24", Some("203.0.113.0/24")),
            ("2001:db8:85a3::8a2e:370:7334", Some("2001:db8:85a3::/48")),
            ("[2001:db8::1]:443", Some("2001:db8::/48")),
            ("nobody", None),
        ] {
            assert_eq!(network(ip).as_deref(), expected, "{ip}");
        }
    }
}
