//! Prometheus' template functions for times and titles, with its exact formats (`template/template.go`).

use crate::time::EventTime;
use crate::units::humanize::humanize;

/// Seconds since 1970, to the millisecond: `1435065584.128` → `2015-06-23 13:19:44.128 +0000 UTC`.
pub(super) fn humanize_timestamp(v: f64) -> String {
    if !v.is_finite() {
        return humanize(v);
    }
    let time = EventTime::from_micros(((v * 1e3) as i64).saturating_mul(1_000)).to_string();
    let Some((date, of_day)) = time.strip_suffix('Z').and_then(|time| time.split_once('T')) else { return time };
    let of_day = if of_day.contains('.') { of_day.trim_end_matches('0') } else { of_day };
    format!("{date} {of_day} +0000 UTC")
}

/// Each word's first letter in upper case, the others as they are.
pub(super) fn title(text: &str) -> String {
    let mut inside = false;
    let mut titled = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_alphanumeric() && !inside {
            titled.extend(letter.to_uppercase());
        } else {
            titled.push(letter);
        }
        inside = letter.is_alphanumeric() || (inside && matches!(letter, '\'' | '_'));
    }
    titled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_prometheus_writes_them() {
        for (seconds, expected) in [
            (1_435_065_584.128, "2015-06-23 13:19:44.128 +0000 UTC"),
            (0.0, "1970-01-01 00:00:00 +0000 UTC"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(humanize_timestamp(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn titles_start_each_word() {
        assert_eq!(title("aa bB CC /v1/x"), "Aa BB CC /V1/X");
    }
}
