//! Time as headrig uses it: [`EventTime`] is when something happened, [`Span`] is a length of time, and
//! [`watermark`] says how far a stream has come, [`zone`] when a day begins. Only [`clock`] reads the system's clocks; everything from
//! `decode` to `alert` takes time as an argument.

pub mod clock;
mod least;
pub mod watermark;
pub mod zone;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, negative before it, as Arrow and Parquet store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(i64);

impl EventTime {
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The start of the half-open interval of `width` that holds this time, counted from the epoch.
    pub const fn align_down(self, width: Span) -> Self {
        Self(self.0 - self.0.rem_euclid(width.0))
    }
}

impl Add<Span> for EventTime {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for EventTime {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Sub for EventTime {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC with exactly as many fraction digits as are needed (0, 3 or 6).
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(stamp) if self.0 % 1_000_000 == 0 => write!(f, "{stamp:.0}"),
            Ok(stamp) if self.0 % 1_000 == 0 => write!(f, "{stamp:.3}"),
            Ok(stamp) => write!(f, "{stamp:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// A length of time in microseconds. Written as `250ms`, `30s`, `5m`, `1h30m`, `7d`; never negative in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(i64);

/// Why a text is no length of time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot read {0:?} as a duration, expected a number with us, ms, s, m, h, d or w, as in 5m or 1h30m")]
pub struct SpanError(String);

impl Span {
    pub const ZERO: Self = Self(0);

    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000)
    }

    pub const fn micros(self) -> i64 {
        self.0
    }

    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// As the standard library's duration; zero when negative.
    pub fn to_std(self) -> Duration {
        Duration::from_micros(self.0.max(0) as u64)
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || SpanError(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(0));
        }
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: i64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
            let micros = match &rest[digits..unit_end] {
                "us" | "µs" => 1,
                "ms" => 1_000,
                "s" => 1_000_000,
                "m" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => 86_400_000_000,
                "w" => 604_800_000_000,
                _ => return Err(bad()),
            };
            total = number.checked_mul(micros).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
            rest = &rest[unit_end..];
        }
        if text.trim().is_empty() { Err(bad()) } else { Ok(Self(total)) }
    }
}

/// The shortest text that reads back as the same span.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(i64, &str); 6] = [
            (86_400_000_000, "d"),
            (3_600_000_000, "h"),
            (60_000_000, "m"),
            (1_000_000, "s"),
            (1_000, "ms"),
            (1, "us"),
        ];
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0.unsigned_abs() as i64;
        if self.0 < 0 {
            f.write_str("-")?;
        }
        for (micros, unit) in UNITS {
            if rest >= micros {
                write!(f, "{}{unit}", rest / micros)?;
                rest %= micros;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(0|([0-9]+(us|ms|s|m|h|d|w))+)$",
            "description": "a duration, as in 30s, 5m or 1h30m" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_trip() {
        for text in ["50ms", "30s", "5m", "1h30m", "7d", "1d2h3m4s5ms6us"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), text);
        }
        for text in ["", "5", "m", "-5m", "5x", "5 m", "99999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn alignment_holds_before_1970() {
        let minute = Span::from_secs(60);
        assert_eq!(EventTime(-1).align_down(minute), EventTime(-60_000_000));
        assert_eq!(EventTime(0).align_down(minute), EventTime(0));
        assert_eq!(EventTime(59_999_999).align_down(minute), EventTime(0));
    }

    #[test]
    fn times_print_as_rfc_3339() {
        assert_eq!(EventTime(1_778_045_731_000_000).to_string(), "2026-05-06T05:35:31Z");
        assert_eq!(EventTime(1_778_045_731_250_000).to_string(), "2026-05-06T05:35:31.250Z");
        assert_eq!(EventTime(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }
}
