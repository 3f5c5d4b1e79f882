//! A script's text → its statements. One statement a line; what belongs to it stands below it, indented. docs/testing.md is the
//! language's reference.

use super::expect::{self, Expect};
use super::record::LoadLine;
use super::words::{When, Word, words};
use crate::time::Span;
use std::ops::Range;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// A variable of the pipeline file.
    Set(String, String),
    /// The pipeline, from a file or written below.
    Pipeline(PipelineText),
    /// What `@0s` is.
    Origin(When),
    Open(Vec<String>),
    End(Vec<String>),
    Load(Load),
    /// What was loaded comes once more.
    Replay,
    Advance(Span),
    /// By so many µs.
    StepClock(i64),
    Stall,
    Resume,
    Seal,
    Restart(Restart),
    Crash(Restart),
    Finish,
    Expect(Expect),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PipelineText {
    File(String),
    Inline(String),
}

/// What goes on after a restart.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Restart {
    pub(super) edit: Option<Edit>,
    /// Partitions that are not there any more.
    pub(super) without: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Edit {
    File(String),
    Replace(String, String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    pub(super) partition: Option<String>,
    /// When it is read; at the earliest.
    pub(super) at: Option<When>,
    /// In the order of the lines, and not of the times.
    pub(super) in_order: bool,
    pub(super) from: Loaded,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Loaded {
    File(String),
    /// Each with its line's number.
    Lines(Vec<(usize, LoadLine)>),
}

/// One statement and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    /// Index of its line.
    pub(super) line: usize,
    /// Indices of the lines below that belong to it.
    pub(super) block: Range<usize>,
    pub(super) act: Act,
}

/// Why a script cannot be read or played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    pub message: String,
}

impl Mistake {
    pub(super) fn at(index: usize, message: impl Into<String>) -> Self {
        Self { line: index + 1, message: message.into() }
    }
}

/// Reads a script.
///
/// # Errors
/// All lines that cannot be read.
pub(super) fn parse(text: &str) -> Result<Vec<Statement>, Vec<Mistake>> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut statements, mut mistakes, mut at) = (Vec::new(), Vec::new(), 0);
    while at < lines.len() {
        let line = at;
        at += 1;
        if is_blank(lines[line]) {
            continue;
        }
        if lines[line].starts_with(char::is_whitespace) {
            mistakes.push(Mistake::at(line, "cannot place an indented line, the statement above takes none"));
            continue;
        }
        let block = if takes_block(lines[line]) { block(&lines, at) } else { at..at };
        at = block.end;
        match act(lines[line], &lines, &block) {
            Ok(act) => statements.push(Statement { line, block, act }),
            Err(more) => {
                mistakes.extend(more.into_iter().map(|(at, message)| Mistake::at(at.unwrap_or(line), message)))
            }
        }
    }
    if mistakes.is_empty() { Ok(statements) } else { Err(mistakes) }
}

/// Whether there is nothing on a line but a comment.
fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

fn takes_block(line: &str) -> bool {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("load" | "pipeline") => true,
        Some("expect") => expect::takes_block(words.next().unwrap_or_default()),
        _ => false,
    }
}

/// The lines from `from` on that are indented, without blank ones at the end.
fn block(lines: &[&str], from: usize) -> Range<usize> {
    let belongs = |line: &&str| line.trim().is_empty() || line.starts_with(char::is_whitespace);
    let mut end = from + lines[from..].iter().take_while(|line| belongs(line)).count();
    while end > from && lines[end - 1].trim().is_empty() {
        end -= 1;
    }
    from..end
}

type Wrong = Vec<(Option<usize>, String)>;

fn act(line: &str, lines: &[&str], block: &Range<usize>) -> Result<Act, Wrong> {
    let one = |message: String| vec![(None, message)];
    let line = line.trim();
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let nothing = |act: Act| match rest {
        "" => Ok(act),
        rest => Err(one(format!("cannot read {rest:?} behind `{verb}`"))),
    };
    match verb {
        "set" => match rest.split_once('=') {
            Some((name, value)) => Ok(Act::Set(name.trim().to_owned(), value.trim().to_owned())),
            None => Err(one("cannot set a variable without a value, as in `set HOST=example.com`".to_owned())),
        },
        "pipeline" => Ok(Act::Pipeline(match rest {
            "" => PipelineText::Inline(unindented(&lines[block.clone()])),
            file => PipelineText::File(file.to_owned()),
        })),
        "origin" => When::parse(rest)
            .filter(|when| matches!(when, When::At(_)))
            .map(Act::Origin)
            .ok_or_else(|| one(format!("cannot read {rest:?} as a time, expected RFC 3339"))),
        "open" | "end" => {
            let names: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            match (verb, names.is_empty()) {
                (_, true) => Err(one(format!("cannot {verb} no partition, name one"))),
                ("open", _) => Ok(Act::Open(names)),
                _ => Ok(Act::End(names)),
            }
        }
        "load" => load(rest, lines, block).map(Act::Load),
        "replay" => nothing(Act::Replay),
        "advance" => rest.parse().map(Act::Advance).map_err(|error: crate::time::SpanError| one(error.to_string())),
        "step" => match rest.strip_prefix("clock").map(str::trim).and_then(When::parse) {
            Some(When::Offset(micros)) => Ok(Act::StepClock(micros)),
            _ => Err(one(format!("cannot step {rest:?}, as in `step clock -1h`"))),
        },
        "stall" => nothing(Act::Stall),
        "resume" => nothing(Act::Resume),
        "seal" => nothing(Act::Seal),
        "finish" => nothing(Act::Finish),
        "restart" => restart(rest).map(Act::Restart).map_err(one),
        "crash" => restart(rest).map(Act::Crash).map_err(one),
        "expect" => expect::parse(rest, &lines[block.clone()]).map(Act::Expect).map_err(one),
        other => {
            let known = [
                "set", "pipeline", "origin", "open", "end", "load", "replay", "advance", "step", "stall", "resume",
                "seal", "finish", "restart", "crash", "expect",
            ];
            let hint = match crate::place::did_you_mean(other, known) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            Err(one(format!("cannot read {other:?}, {hint}")))
        }
    }
}

/// `[FILE] [partition NAME] [at TIME] [in order]`
fn load(rest: &str, lines: &[&str], block: &Range<usize>) -> Result<Load, Wrong> {
    let (mut partition, mut at, mut in_order, mut file) = (None, None, false, None);
    let mut words = rest.split_whitespace();
    let one = |message: String| vec![(None, message)];
    while let Some(word) = words.next() {
        match (word, words.clone().next()) {
            ("partition", Some(name)) => partition = Some(name.to_owned()),
            ("at", Some(time)) => {
                let time = time.strip_prefix('@').unwrap_or(time);
                let read = When::parse(time).ok_or_else(|| one(format!("cannot read {time:?} as a time")))?;
                at = Some(read);
            }
            ("in", Some("order")) => in_order = true,
            ("file", Some(name)) => file = Some(name.to_owned()),
            (other, _) => {
                return Err(one(format!(
                    "cannot read {other:?} behind `load`, expected `file FILE`, `partition NAME`, `at TIME` or `in order`"
                )));
            }
        }
        words.next();
    }
    let (mut loaded, mut wrong) = (Vec::new(), Vec::new());
    for index in block.clone().filter(|index| !is_blank(lines[*index])) {
        match LoadLine::parse(lines[index].trim()) {
            Ok(line) => loaded.push((index, line)),
            Err(message) => wrong.push((Some(index), message)),
        }
    }
    match file {
        _ if !wrong.is_empty() => Err(wrong),
        Some(file) if loaded.is_empty() => Ok(Load { partition, at, in_order, from: Loaded::File(file) }),
        Some(_) => Err(one("cannot load a file and lines at once".to_owned())),
        None if loaded.is_empty() => Err(one("cannot load nothing, records stand below, indented".to_owned())),
        None => Ok(Load { partition, at, in_order, from: Loaded::Lines(loaded) }),
    }
}

/// `[with FILE | replacing "OLD" by "NEW"] [without PARTITION …]`
fn restart(rest: &str) -> Result<Restart, String> {
    let words = words(rest)?;
    let mut restart = Restart::default();
    let mut left = words.as_slice();
    loop {
        left = match left {
            [] => return Ok(restart),
            [Word::Bare(with), Word::Bare(file), rest @ ..] if with == "with" => {
                restart.edit = Some(Edit::File(file.clone()));
                rest
            }
            [Word::Bare(replacing), Word::Text(old), Word::Bare(by), Word::Text(new), rest @ ..]
                if replacing == "replacing" && by == "by" =>
            {
                restart.edit = Some(Edit::Replace(old.clone(), new.clone()));
                rest
            }
            [Word::Bare(without), rest @ ..] if without == "without" && !rest.is_empty() => {
                for word in rest {
                    let Word::Bare(name) = word else { return Err("cannot read a partition's name".to_owned()) };
                    restart.without.push(name.clone());
                }
                &[]
            }
            _ => {
                return Err(
                    "cannot read that, expected `with FILE`, `replacing \"OLD\" by \"NEW\"` or `without PARTITION …`"
                        .to_owned(),
                );
            }
        };
    }
}

/// Lines without the blanks that all of them begin with.
fn unindented(lines: &[&str]) -> String {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let least = lines.iter().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
    lines.iter().map(|line| format!("{}\n", line.get(least..).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_their_blocks_are_found() {
        let text = "# a comment\npipeline\n    a: 1\n      b: 2\n\nload partition x at 5m in order\n    @0s a=1\n\n    @1s a=2\nadvance 10m\nrestart replacing \"a b\" by \"c\" without x y\n";
        let statements = parse(text).unwrap();
        let lines: Vec<(usize, Range<usize>)> = statements.iter().map(|s| (s.line, s.block.clone())).collect();
        assert_eq!(lines, [(1, 2..4), (5, 6..9), (9, 10..10), (10, 11..11)]);
        assert_eq!(statements[0].act, Act::Pipeline(PipelineText::Inline("a: 1\n  b: 2\n".to_owned())));
        let Act::Load(load) = &statements[1].act else { panic!("it loads") };
        assert_eq!((load.partition.as_deref(), load.at, load.in_order), (Some("x"), When::parse("5m"), true));
        assert_eq!(statements[2].act, Act::Advance(Span::from_secs(600)));
        let edit = Some(Edit::Replace("a b".to_owned(), "c".to_owned()));
        assert_eq!(statements[3].act, Act::Restart(Restart { edit, without: vec!["x".to_owned(), "y".to_owned()] }));
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "laod\n  @0s a=1\nadvance soon\nload\n    soon a=1\n    @0s a\nstep clock\nopen\nload file f nowhere\nrestart now\n";
        let lines: Vec<usize> = parse(text).unwrap_err().iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [1, 2, 3, 5, 6, 7, 8, 9, 10]);
        assert!(parse("laod\n").unwrap_err()[0].message.contains("did you mean `load`?"));
    }
}
