//! Functions on single values that logs are asked with: `per`, `ip_mask`, `humanize`, and hex columns as text.

use crate::time::Span;
use datafusion::arrow::array::{Array, AsArray, StringViewBuilder, TimestampMicrosecondArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// `humanize(x)`: four digits and a letter for thousands, as in 1.235M.
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

/// The address may have a port, brackets, a zone or blanks around it, as in logs.
fn network(text: &str) -> Option<String> {
    let text = text.trim();
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let bare = bracketed.unwrap_or(text);
    let bare = bare.split_once('/').map_or(bare, |(address, _)| address);
    let unzoned = bare.split_once('%').map_or(bare, |(address, _)| address);
    let address = match unzoned.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    })
}

/// As Prometheus' `humanize`, and at most two letters long.
fn humanize(number: f64) -> String {
    const LETTERS: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
    const SMALL: [&str; 5] = ["", "m", "µ", "n", "p"];
    if number == 0.0 || !number.is_finite() {
        return format!("{number}");
    }
    let thousands = (number.abs().log10() / 3.0 + 1e-12).floor() as i32;
    let (power, letter) = if thousands >= 0 {
        let power = thousands.min(8);
        (power, LETTERS[power as usize])
    } else {
        let power = thousands.max(-4);
        (power, SMALL[power.unsigned_abs() as usize])
    };
    let scaled = number / 1000_f64.powi(power);
    let decimals = 3_usize.saturating_sub(scaled.abs().log10().floor().max(0.0) as usize);
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
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
    fn numbers_get_their_letters() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (999.0, "999"),
            (1_000.0, "1k"),
            (1_234_567.0, "1.235M"),
            (-12_345.0, "-12.35k"),
            (0.0123, "12.3m"),
            (8.5e30, "8500000Y"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(humanize(number), text, "{number}");
        }
    }

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
