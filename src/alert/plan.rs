//! An alert rule → a [`Plan`], with every mistake in it found at once.

use super::Config;
use super::templates::{Names, Text};
use crate::expression::{Compiler, Expression};
use crate::place::{Entries, Located, Problem, did_you_mean};
use crate::record::sample::WindowSchema;
use crate::record::state::Fingerprint;
use std::collections::HashSet;
use std::sync::Arc;

/// The label that carries the rule's name.
pub(super) const ALERTNAME: &str = "alertname";

/// A rule, checked and compiled.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) name: String,
    pub(super) window: Arc<str>,
    pub(super) group_by: Vec<String>,
    /// Which records its window counts, as SQL.
    pub(super) records: Option<String>,
    pub(super) condition: Expression,
    /// The column that templates see as `$value`.
    pub(super) first_value: Option<String>,
    /// Both in µs.
    pub(super) hold: i64,
    pub(super) keep_firing_for: i64,
    pub(super) labels: Vec<(String, Text)>,
    pub(super) annotations: Vec<(String, Text)>,
    /// How many rules before this one are levels of the same alert that outrank it.
    pub(super) above: usize,
    /// Of all but the annotations: what is pending or firing under another one is another alert.
    pub(super) fingerprint: Fingerprint,
}

impl Config {
    /// Checks and compiles this rule, which has a condition, over the results of `windows`.
    ///
    /// # Errors
    /// All mistakes that can be told apart: in the name, the window, the condition and each text.
    pub fn build(&self, windows: &[WindowSchema], compiler: &Compiler) -> Result<Plan, Vec<Problem>> {
        let mut problems = Vec::new();
        check_name(&self.alert, "an alert", &mut problems);
        let Some(window) = windows.iter().find(|window| *window.window == *self.on.value) else {
            problems.push(unknown_window(&self.on, windows));
            return Err(problems);
        };
        let Some(when) = &self.when else {
            let problem = self.alert.problem(format!("cannot build the alert `{}` without `when`", self.alert.value));
            problems.push(problem.hint("a condition, as in `when: errors > 10`; or `levels`, or `absent_for: 2m`"));
            return Err(problems);
        };
        for (key, place) in [
            ("expected", self.expected.as_ref().map(|list| list.place)),
            ("forget_after", self.forget_after.as_ref().map(|span| span.place)),
        ] {
            let problem = |at| Problem::new(at, format!("cannot use `{key}` without `absent_for`"));
            problems.extend(place.map(|at| problem(at).hint("that is for alerts over what doesn't come")));
        }
        let condition = compiler.predicate(when, &window.arrow).map_err(|more| problems.extend(more)).ok();
        let columns = || window.arrow.fields().iter().map(|field| field.name().as_str());
        let names = Names {
            labels: window.group_by.iter().map(String::as_str).collect(),
            values: columns().filter(|column| !window.group_by.iter().any(|group| group == column)).collect(),
        };
        for (label, _) in &self.labels.0 {
            if label.value == ALERTNAME {
                problems.push(label.problem("cannot set the label `alertname`, it is the rule's name"));
            } else if window.group_by.contains(&label.value) {
                problems
                    .push(label.problem(format!("cannot set the label `{}`, the window groups by it", label.value)));
            }
        }
        let labels = texts(&self.labels, "a label", &names, &mut problems);
        let annotations = texts(&self.annotations, "an annotation", &names, &mut problems);
        match condition {
            Some(condition) if problems.is_empty() => Ok(Plan {
                name: self.alert.value.clone(),
                window: window.window.clone(),
                group_by: window.group_by.clone(),
                records: window.condition.clone(),
                first_value: first_named(&when.value, &condition),
                fingerprint: self.fingerprint(window, &condition),
                condition,
                hold: self.hold.micros(),
                keep_firing_for: self.keep_firing_for.micros(),
                labels,
                annotations,
                above: 0,
            }),
            _ => Err(problems),
        }
    }

    fn fingerprint(&self, window: &WindowSchema, condition: &Expression) -> Fingerprint {
        let mut parts = vec![self.alert.value.clone(), window.window.to_string(), condition.sql().to_owned()];
        parts.push(format!("for {} keep {}", self.hold.micros(), self.keep_firing_for.micros()));
        parts.push(format!("by {:?}", window.group_by));
        parts.extend(self.labels.0.iter().map(|(name, text)| format!("{:?}: {:?}", name.value, text.value)));
        Fingerprint::of(parts)
    }
}

fn unknown_window(on: &Located<String>, windows: &[WindowSchema]) -> Problem {
    let names = || windows.iter().map(|window| &*window.window);
    let hint = match did_you_mean(&on.value, names()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if windows.is_empty() => "define one under `windows:`".to_owned(),
        None => format!("windows here: {}", names().collect::<Vec<_>>().join(", ")),
    };
    on.problem(format!("cannot find window `{}`", on.value)).hint(hint)
}

/// The column that stands first in the condition's text.
fn first_named(sql: &str, condition: &Expression) -> Option<String> {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_')
        .find_map(|word| condition.columns().iter().find(|column| column.eq_ignore_ascii_case(word)))
        .cloned()
}

pub(super) fn texts(
    entries: &Entries<Located<String>>,
    what: &str,
    names: &Names<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<(String, Text)> {
    let (mut texts, mut seen) = (Vec::new(), HashSet::new());
    for (name, text) in &entries.0 {
        check_name(name, what, problems);
        if !seen.insert(&name.value) {
            problems.push(name.problem(format!("cannot set `{}` twice", name.value)));
        }
        match Text::compile(text, names) {
            Ok(text) => texts.push((name.value.clone(), text)),
            Err(more) => problems.extend(more),
        }
    }
    texts
}

pub(super) fn check_name(name: &Located<String>, what: &str, problems: &mut Vec<Problem>) {
    let mut letters = name.value.chars();
    let valid = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        problems.push(
            name.problem(format!("cannot use {:?} as the name of {what}", name.value))
                .hint("names are letters, digits and `_`, and don't start with a digit"),
        );
    }
}
