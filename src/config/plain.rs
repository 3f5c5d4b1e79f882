//! What an unquoted scalar is: a number, a boolean or a text.

use serde::de::{self, Visitor};

/// A plain scalar by YAML's core schema; digits may be parted by `_`.
pub(super) fn visit_plain<'de, V: Visitor<'de>, E: de::Error>(text: &'de str, visitor: V) -> Result<V::Value, E> {
    match text {
        "true" | "True" | "TRUE" => return visitor.visit_bool(true),
        "false" | "False" | "FALSE" => return visitor.visit_bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return visitor.visit_f64(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return visitor.visit_f64(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return visitor.visit_f64(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return visitor.visit_borrowed_str(text);
    }
    let digits = without_separators(text);
    let whole = match (digits.strip_prefix("0x"), digits.strip_prefix("0o")) {
        (Some(hex), _) => i128::from_str_radix(hex, 16).ok(),
        (_, Some(octal)) => i128::from_str_radix(octal, 8).ok(),
        _ => digits.parse().ok(),
    };
    match whole {
        Some(number) if u64::try_from(number).is_ok() => visitor.visit_u64(number as u64),
        Some(number) if i64::try_from(number).is_ok() => visitor.visit_i64(number as i64),
        _ => match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => visitor.visit_borrowed_str(text),
        },
    }
}

/// `1_000_000` → `1000000`; only underscores between two digits go.
fn without_separators(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    text.char_indices()
        .filter(|(i, c)| *c != '_' || !digit(i.checked_sub(1)) || !digit(Some(i + 1)))
        .map(|(_, c)| c)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::value::Error;
    use serde_json::{Value, json};

    fn check(text: &str) -> Value {
        struct AsJson;
        impl<'de> Visitor<'de> for AsJson {
            type Value = Value;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("anything")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(format!("{value:?}").into())
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
        }
        visit_plain::<_, Error>(text, AsJson).unwrap()
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("12", json!(12)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("1_000_000", json!(1_000_000)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("18446744073709551615", json!(u64::MAX)),
            ("18446744073709551616", json!("1.8446744073709552e19")),
            ("1e3", json!("1000.0")),
            (".5", json!("0.5")),
            (".inf", json!("inf")),
            ("True", json!(true)),
            ("yes", json!("yes")),
            ("1_", json!("1_")),
            ("5xx", json!("5xx")),
            ("1e999", json!("1e999")),
            ("-", json!("-")),
            ("inf", json!("inf")),
            ("2026-05-06", json!("2026-05-06")),
        ] {
            assert_eq!(check(text), expected, "{text}");
        }
    }
}
