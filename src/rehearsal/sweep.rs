//! `NAME=LO..HI[:STEP]`: thresholds to try.

use std::str::FromStr;

/// Thresholds that one sweep may have.
const MOST: usize = 1_000;

/// Thresholds for the column of this name, from low to high.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    pub column: String,
    pub thresholds: Vec<f64>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("cannot read {text:?}, expected NAME=LOW..HIGH or NAME=LOW..HIGH:STEP, as in error_rate=0.01..0.05")
        };
        let (column, range) = text.split_once('=').ok_or_else(wanted)?;
        let (range, step) = range.split_once(':').map_or((range, None), |(range, step)| (range, Some(step)));
        let (low, high) = range.split_once("..").ok_or_else(wanted)?;
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(wanted);
        let (low, high) = (number(low)?, number(high)?);
        let step = step.map_or_else(|| Ok(usual_step(high - low)), number)?;
        if column.is_empty() || high < low || step <= 0.0 {
            return Err(wanted());
        }
        // A step that doesn't fit the range ends below its end.
        let count = ((high - low) / step + 1e-9).floor();
        if count >= MOST as f64 {
            return Err(format!("cannot try {} thresholds, at most {MOST}", count + 1.0));
        }
        let threshold = |number: usize| exact(low + step * number as f64);
        Ok(Self { column: column.to_owned(), thresholds: (0..=count as usize).map(threshold).collect() })
    }
}

/// A round step that makes about eight of a range.
fn usual_step(range: f64) -> f64 {
    let raw = range / 8.0;
    if raw <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(raw.log10().floor());
    let off = |step: &f64| (step - raw).abs();
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power);
    steps.into_iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(raw)
}

/// Without what adding up floats leaves: 0.03 and not 0.030000000000000002.
fn exact(value: f64) -> f64 {
    format!("{value:.12}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let check = |text: &str| text.parse::<Sweep>().map(|sweep| (sweep.column, sweep.thresholds));
        assert_eq!(
            check("error_rate=0.01..0.05:0.01"),
            Ok(("error_rate".to_owned(), vec![0.01, 0.02, 0.03, 0.04, 0.05]))
        );
        assert_eq!(
            check("p95_ms=100..900").unwrap().1,
            [100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0]
        );
        assert_eq!(check("x=1..1").unwrap().1, [1.0]);
        assert_eq!(check("x=-1..1:0.75").unwrap().1, [-1.0, -0.25, 0.5]);
        for broken in ["x", "x=1", "x=2..1", "x=1..2:0", "=1..2", "x=1..2:-1", "x=0..1:0.0001", "x=nan..1"] {
            assert!(check(broken).is_err(), "{broken}");
        }
    }
}
