//! Problems as people (`file:line:col: cannot …`) and programs (JSON) read them.

use crate::place::Problem;
use serde_json::{Value, json};
use std::fmt::Write;

/// What becomes of a file with a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can, and should be changed some day.
    Warning,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One `file:line:col: message` line a problem, each with its hint on a line below.
pub fn text(file: &str, problems: &[Problem]) -> String {
    lines(file, "", problems)
}

/// The same of what is no mistake: `file:line:col: warning: message`.
pub fn warnings(file: &str, notes: &[Problem]) -> String {
    lines(file, "warning: ", notes)
}

fn lines(file: &str, mark: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let _ = writeln!(out, "{file}:{}: {mark}{}", problem.place, problem.message);
        if let Some(hint) = &problem.hint {
            let _ = writeln!(out, "  hint: {hint}");
        }
    }
    out
}

/// An array of `{file, severity, line, column, message, hint}`, `hint` null where there is none.
pub fn json<'p>(files: impl IntoIterator<Item = (&'p str, Severity, &'p [Problem])>) -> Value {
    let of_file = |(file, severity, problems): (&'p str, Severity, &'p [Problem])| {
        problems.iter().map(move |problem| entry(file, severity, problem))
    };
    files.into_iter().flat_map(of_file).collect()
}

fn entry(file: &str, severity: Severity, problem: &Problem) -> Value {
    json!({
        "file": file,
        "severity": severity.as_str(),
        "line": problem.place.line,
        "column": problem.place.column,
        "message": problem.message,
        "hint": problem.hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[test]
    fn both_forms_have_place_message_and_hint() {
        let place = Place { line: 3, column: 7 };
        let problems = [Problem::new(place, "cannot x").hint("do y"), Problem::new(place, "cannot z")];
        assert_eq!(text("a.yaml", &problems), "a.yaml:3:7: cannot x\n  hint: do y\na.yaml:3:7: cannot z\n");
        assert_eq!(warnings("a.yaml", &problems[1..]), "a.yaml:3:7: warning: cannot z\n");
        let json = json([("a.yaml", Severity::Error, &problems[..]), ("a.yaml", Severity::Warning, &problems[..1])]);
        assert_eq!(json[2]["severity"], "warning");
        assert_eq!(
            json[0],
            json!({"file": "a.yaml", "severity": "error", "line": 3, "column": 7, "message": "cannot x", "hint": "do y"})
        );
        assert_eq!(json[1]["hint"], Value::Null);
    }
}
