//! A rule with another threshold: the number that its condition compares a column with.

use super::plan::Plan;
use crate::expression::Compiler;
use crate::place::Located;
use crate::record::sample::WindowSchema;
use crate::time::Span;
use std::ops::Range;

/// Why a rule has no threshold that could be another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    #[error("cannot vary a threshold of {alert}: `{condition}` compares `{column}` with {count} numbers, not with one")]
    Several { alert: String, condition: String, column: String, count: usize },
    #[error("cannot compile {alert} with `{condition}`: {message}")]
    Condition { alert: String, condition: String, message: String },
}

impl Plan {
    /// The rule's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The window that it looks at.
    pub fn window(&self) -> &str {
        &self.window
    }

    /// The condition, as SQL.
    pub fn condition(&self) -> &str {
        self.condition.sql()
    }

    /// How long its state may have begun before it shows.
    pub fn patience(&self) -> Span {
        Span::from_micros(self.hold + self.keep_firing_for)
    }

    /// The number that the condition compares `column` with, as it stands there; `None` where it compares it with none.
    ///
    /// # Errors
    /// When there are several.
    pub fn threshold(&self, column: &str) -> Result<Option<&str>, ThresholdError> {
        let condition = self.condition.sql();
        match &thresholds(condition, column)[..] {
            [] => Ok(None),
            [one] => Ok(Some(&condition[one.clone()])),
            several => Err(ThresholdError::Several {
                alert: self.name.clone(),
                condition: condition.to_owned(),
                column: column.to_owned(),
                count: several.len(),
            }),
        }
    }

    /// The rule with the threshold `value`; as it is where it has none.
    ///
    /// # Errors
    /// As [`Self::threshold`]; and when the condition cannot be compiled with it.
    pub fn with_threshold(
        &self,
        column: &str,
        value: &str,
        window: &WindowSchema,
        compiler: &Compiler,
    ) -> Result<Self, ThresholdError> {
        let condition = self.condition.sql();
        let mut plan = self.clone();
        if self.threshold(column)?.is_some()
            && let [place] = &thresholds(condition, column)[..]
        {
            let sql = format!("{}{value}{}", &condition[..place.start], &condition[place.end..]);
            let compiled = compiler.predicate(&Located::nowhere(sql.clone()), &window.arrow);
            plan.condition = compiled.map_err(|problems| ThresholdError::Condition {
                alert: self.name.clone(),
                condition: sql,
                message: problems.first().map_or_else(String::new, |problem| problem.message.clone()),
            })?;
        }
        Ok(plan)
    }
}

/// Where the numbers stand that `column` is compared with.
fn thresholds(condition: &str, column: &str) -> Vec<Range<usize>> {
    let tokens = tokens(condition);
    let text = |at: usize| tokens.get(at).map_or("", |token: &Range<usize>| &condition[token.clone()]);
    let is_column = |at: usize| text(at).trim_matches('"') == column;
    let is_comparison = |at: usize| matches!(text(at), ">" | ">=" | "<" | "<=" | "=" | "<>" | "!=");
    let number = |at: usize| {
        let signed = usize::from(text(at) == "-");
        let digits = tokens.get(at + signed)?;
        let is_number = condition[digits.clone()].parse::<f64>().is_ok();
        // What goes on behind it is no bare number: `x > 3 * y`.
        let ends = !matches!(text(at + signed + 1), "*" | "/" | "+" | "-" | "%");
        (is_number && ends).then(|| tokens[at].start..digits.end)
    };
    let before = |at: usize| {
        let digits = tokens.get(at)?;
        let begins = at == 0 || !matches!(text(at - 1), "*" | "/" | "+" | "-" | "%");
        (begins && condition[digits.clone()].parse::<f64>().is_ok()).then(|| digits.clone())
    };
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if is_column(at) && is_comparison(at + 1) {
            found.extend(number(at + 2));
        } else if at >= 2 && is_column(at) && is_comparison(at - 1) {
            found.extend(before(at - 2));
        }
    }
    found
}

/// Names, numbers and operators; texts in quotes are one each.
fn tokens(sql: &str) -> Vec<Range<usize>> {
    let bytes = sql.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.') || byte >= 0x80;
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            quote @ (b'\'' | b'"') => {
                while at < bytes.len() && bytes[at] != quote {
                    at += 1;
                }
                at = (at + 1).min(bytes.len());
            }
            b'>' | b'<' | b'!' | b'=' => {
                while at < bytes.len() && matches!(bytes[at], b'=' | b'>') {
                    at += 1;
                }
            }
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
            _ => {}
        }
        tokens.push(start..at);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_column_is_compared_with_are_found() {
        for (condition, column, expected) in [
            ("error_rate > 0.02 AND requests >= 100", "error_rate", &["0.02"][..]),
            ("error_rate > 0.02 AND requests >= 100", "requests", &["100"]),
            ("100 <= requests", "requests", &["100"]),
            ("x > -5", "x", &["-5"]),
            ("\"x y\" > 5", "x y", &["5"]),
            ("x > 1 AND x < 9", "x", &["1", "9"]),
            ("x > 3 * y", "x", &[]),
            ("y = 'x > 3'", "x", &[]),
            ("x_total > 3", "x", &[]),
        ] {
            let found: Vec<&str> = thresholds(condition, column).into_iter().map(|place| &condition[place]).collect();
            assert_eq!(found, expected, "{condition}");
        }
    }
}
