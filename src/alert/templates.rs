//! Label and annotation texts: Go templates as Prometheus users write them.
//!
//! Inside, `$labels` are the group's columns, `$values` the other columns of the window's row, and `$value` is the
//! first column that `when` names. A value that isn't there reads "no data". A template that fails on a row doesn't
//! lose the alert: as with Prometheus, the text says what went wrong.

use super::humanize::{humanize_timestamp, title};
use crate::place::{Located, Problem, did_you_mean};
use crate::units::humanize::{humanize, humanize_duration, humanize_percentage, humanize1024};
use gotmpl::parse::{Expr, ListNode, Node, Parser, PipeNode, Pos};
use gotmpl::{FuncMap, Template, TemplateError, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What a missing value reads as.
const NO_DATA: &str = "no data";
/// Makes the variables; stands before the user's text, on its first line.
const PREFIX: &str = "{{$labels := .Labels}}{{$values := .Values}}{{$value := .Value}}";
/// Put behind a text to see that it is read to its end outside of all blocks: the parser takes a block that is not
/// closed, and stops without a word at an `end` too many.
const END: char = '\u{1}';
/// Loops that a text may run through; there is nothing long to loop over.
const LOOPS: u64 = 10_000;
/// The functions that Go's templates have by themselves.
const BUILT_IN: [&str; 21] = [
    "and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println", "urlquery", "eq",
    "ge", "gt", "le", "lt", "ne", "break", "continue",
];

/// The names that a template may use.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub(super) labels: Vec<&'a str>,
    pub(super) values: Vec<&'a str>,
}

/// A checked template; plain text is not even parsed again.
#[derive(Clone)]
pub(super) enum Text {
    Plain(String),
    Template(Arc<Template>),
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => write!(f, "Plain({text:?})"),
            Self::Template(_) => f.write_str("Template"),
        }
    }
}

impl Text {
    /// Parses `text` and looks all its names up.
    pub(super) fn compile(text: &Located<String>, names: &Names<'_>) -> Result<Self, Vec<Problem>> {
        if !text.value.contains("{{") {
            return Ok(Self::Plain(text.value.clone()));
        }
        let syntax = |error: TemplateError| vec![syntax_problem(text, &error)];
        let closed = format!("{}{END}", text.value);
        let (body, defines) = Parser::new(&closed, "{{", "}}").and_then(Parser::parse).map_err(syntax)?;
        if !matches!(body.nodes.last(), Some(Node::Text(last)) if last.text.ends_with(END)) {
            return Err(vec![
                text.problem("cannot read the template: its blocks and its `{{ end }}` don't match")
                    .hint("each if, range, with, block and define has one `{{ end }}`"),
            ]);
        }
        let mut check = Check { text, names, functions: functions(), declared: BTreeSet::new(), problems: Vec::new() };
        check.list(&body);
        defines.iter().for_each(|define| check.list(&define.body));
        if !check.problems.is_empty() {
            return Err(check.problems);
        }
        let template = Template::new("").funcs(check.functions).max_range_iters(LOOPS);
        let template = template.parse(&format!("{PREFIX}{}", text.value)).map_err(syntax)?;
        Ok(Self::Template(Arc::new(template)))
    }

    /// The text for one row.
    pub(super) fn render(&self, data: &Value) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Template(template) => {
                template.execute_to_string(data).unwrap_or_else(|error| format!("<error expanding template: {error}>"))
            }
        }
    }
}

/// What templates see of a row; a value that is `Nil` reads [`NO_DATA`].
pub(super) fn data(labels: BTreeMap<Arc<str>, Value>, values: BTreeMap<Arc<str>, Value>, value: Value) -> Value {
    let shown = |value: Value| if matches!(value, Value::Nil) { Value::from(NO_DATA) } else { value };
    let values: BTreeMap<Arc<str>, Value> = values.into_iter().map(|(name, value)| (name, shown(value))).collect();
    let parts: BTreeMap<Arc<str>, Value> = [
        ("Labels".into(), Value::from(labels)),
        ("Values".into(), Value::from(values)),
        ("Value".into(), shown(value)),
    ]
    .into();
    Value::from(parts)
}

type Humanizer = fn(f64) -> String;
type Recaser = fn(&str) -> String;

fn functions() -> FuncMap {
    let mut functions = FuncMap::new();
    let numeric: [(&str, Humanizer); 5] = [
        ("humanize", humanize),
        ("humanize1024", humanize1024),
        ("humanizePercentage", humanize_percentage),
        ("humanizeDuration", humanize_duration),
        ("humanizeTimestamp", humanize_timestamp),
    ];
    for (name, function) in numeric {
        functions.insert(name.into(), Arc::new(move |args: &[Value]| number_to_text(name, function, args)));
    }
    let textual: [(&str, Recaser); 3] = [("title", title), ("toUpper", upper), ("toLower", lower)];
    for (name, function) in textual {
        functions.insert(
            name.into(),
            Arc::new(move |args: &[Value]| match args {
                [value] => Ok(Value::from(function(&value.to_string()))),
                _ => Err(TemplateError::Exec(format!("{name} takes one argument"))),
            }),
        );
    }
    functions
}

fn upper(text: &str) -> String {
    text.to_uppercase()
}

fn lower(text: &str) -> String {
    text.to_lowercase()
}

fn number_to_text(name: &str, function: fn(f64) -> String, args: &[Value]) -> gotmpl::Result<Value> {
    let [value] = args else { return Err(TemplateError::Exec(format!("{name} takes one argument"))) };
    let number = match value {
        Value::Nil => return Ok(Value::from(NO_DATA)),
        Value::String(text) if &**text == NO_DATA => return Ok(value.clone()),
        Value::Int(int) => Some(*int as f64),
        Value::Uint(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match number {
        Some(number) => Ok(Value::from(function(number))),
        None => Err(TemplateError::Exec(format!("{name} needs a number, got {value}"))),
    }
}

fn syntax_problem(text: &Located<String>, error: &TemplateError) -> Problem {
    let (TemplateError::Parse { line, col, message, .. } | TemplateError::Lex { line, col, message, .. }) = error
    else {
        return text.problem(format!("cannot read the template: {error}"));
    };
    let place = match (*line as u32, *col as u32) {
        (0, _) | (_, 0) => text.place,
        (line, column) => text.inside(line - 1, column - 1),
    };
    Problem::new(place, format!("cannot read the template: {message}"))
}

/// Looks up the names in a template's tree.
struct Check<'a> {
    text: &'a Located<String>,
    names: &'a Names<'a>,
    functions: FuncMap,
    /// Variables of the template's own.
    declared: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn list(&mut self, list: &ListNode) {
        for node in &list.nodes {
            match node {
                Node::List(list) => self.list(list),
                Node::Action(action) => self.pipe(&action.pipe),
                Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                    self.pipe(&branch.pipe);
                    self.list(&branch.body);
                    branch.else_body.iter().for_each(|body| self.list(body));
                }
                Node::Template(call) => call.pipe.iter().for_each(|pipe| self.pipe(pipe)),
                Node::Define(define) => self.list(&define.body),
                Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
            }
        }
    }

    fn pipe(&mut self, pipe: &PipeNode) {
        pipe.commands.iter().flat_map(|command| &command.args).for_each(|part| self.expression(part));
        self.declared.extend(pipe.decl.iter().map(ToString::to_string));
    }

    fn expression(&mut self, part: &Expr) {
        match part {
            Expr::Variable(at, name, fields) => {
                let field = fields.first().map(|field| field.as_str());
                match (name.as_str(), field) {
                    ("$labels", Some(field)) => self.known(*at, "$labels.", field, &self.names.labels),
                    ("$values", Some(field)) => self.known(*at, "$values.", field, &self.names.values),
                    ("$" | "$labels" | "$values" | "$value", _) => {}
                    (own, _) if self.declared.contains(own) => {}
                    (own, _) => self.known(*at, "", own, &["$labels", "$values", "$value"]),
                }
            }
            Expr::Identifier(at, name) if !self.functions.contains_key(name.as_str()) => {
                let names: Vec<String> =
                    BUILT_IN.iter().map(ToString::to_string).chain(self.functions.keys().cloned()).collect();
                self.known(*at, "", name, &names.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Expr::Pipe(_, pipe) => self.pipe(pipe),
            Expr::Chain(_, inner, _) => self.expression(inner),
            _ => {}
        }
    }

    fn known(&mut self, at: Pos, prefix: &str, name: &str, known: &[&str]) {
        if known.contains(&name) {
            return;
        }
        let before = self.text.value.get(..at.offset).unwrap_or_default();
        let line = before.matches('\n').count() as u32;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u32;
        let hint = match did_you_mean(name, known.iter().copied()) {
            Some(close) => format!("did you mean `{prefix}{close}`?"),
            None if known.is_empty() => "the window has none of them".to_owned(),
            None => format!("there are {}", known.join(", ")),
        };
        let place = self.text.inside(line, column);
        self.problems.push(Problem::new(place, format!("cannot find `{prefix}{name}` in the template")).hint(hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: fn() -> Names<'static> =
        || Names { labels: vec!["path"], values: vec!["error_rate", "requests", "p95"] };

    fn check(text: &str, expected: &str) {
        let labels = [("path".into(), Value::from("/v1/x"))].into();
        let values = [
            ("error_rate".into(), Value::Float(0.3125)),
            ("requests".into(), Value::Int(412)),
            ("p95".into(), Value::Nil),
        ];
        let template = Text::compile(&Located::nowhere(text.to_owned()), &NAMES()).unwrap();
        assert_eq!(template.render(&data(labels, values.into(), Value::Float(0.3125))), expected, "{text}");
    }

    #[test]
    fn texts_render_as_prometheus_renders_them() {
        check("plain", "plain");
        check("{{ $labels.path }}: {{ $values.error_rate | humanizePercentage }} fail", "/v1/x: 31.25% fail");
        check("{{ $value }} of {{ $values.requests }}", "0.3125 of 412");
        check("{{ printf \"%.1f\" $value }}", "0.3");
        check("{{ if gt $values.requests 100 }}many{{ else }}few{{ end }}", "many");
        check("{{ with $x := $labels.path }}{{ toUpper $x }}{{ end }}", "/V1/X");
        check("p95 {{ $values.p95 }}, {{ $values.p95 | humanizeDuration }}", "p95 no data, no data");
        check(
            "{{ $labels.path | humanize }}",
            "<error expanding template: execution error: humanize needs a number, got /v1/x>",
        );
    }

    #[test]
    fn mistakes_are_found_at_their_place() {
        for (text, place, message) in [
            ("{{ $labels.pth }}", "1:4", "cannot find `$labels.pth`"),
            ("rate {{ $values.eror_rate | humanize }}", "1:9", "cannot find `$values.eror_rate`"),
            ("{{ $valu }}", "1:4", "cannot find `$valu`"),
            ("{{ $value | humanise }}", "1:13", "cannot find `humanise`"),
            ("{{ if $value }}", "1:1", "cannot read the template"),
            ("{{ if $value }}a{{ end }}b{{ end }}c", "1:1", "cannot read the template"),
            ("x {{ $value", "1:12", "cannot read the template"),
            ("a {{ $value | }}", "1:17", "cannot read the template"),
        ] {
            let problem = Text::compile(&Located::nowhere(text.to_owned()), &NAMES()).expect_err(text).remove(0);
            assert!(problem.message.starts_with(message), "{text}: {}", problem.message);
            assert_eq!(problem.place.to_string(), place, "{text}");
        }
    }
}
