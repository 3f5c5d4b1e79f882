//! Problems as people (`file:line:col: cannot …`) and programs (JSON) read them.

use crate::place::Problem;
use serde_json::{Value, json};
use std::fmt::Write;

/// One `file:line:col: message` line a problem, each with its hint on a line below.
pub fn text(file: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let _ = writeln!(out, "{file}:{}: {}", problem.place, problem.message);
        if let Some(hint) = &problem.hint {
            let _ = writeln!(out, "  hint: {hint}");
        }
    }
    out
}

/// An array of `{file, line, column, message, hint}`, `hint` null where there is none.
pub fn json<'p>(files: impl IntoIterator<Item = (&'p str, &'p [Problem])>) -> Value {
    let of_file = |(file, problems): (&'p str, &'p [Problem])| problems.iter().map(move |problem| entry(file, problem));
    files.into_iter().flat_map(of_file).collect()
}

fn entry(file: &str, problem: &Problem) -> Value {
    json!({
        "file": file,
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
        let json = json([("a.yaml", &problems[..])]);
        assert_eq!(json[0], json!({"file": "a.yaml", "line": 3, "column": 7, "message": "cannot x", "hint": "do y"}));
        assert_eq!(json[1]["hint"], Value::Null);
    }
}
