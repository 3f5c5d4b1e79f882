//! Plays a script: statement after statement, and each expectation that is not met is told and the script goes on.

use super::daemon::Daemon;
use super::expect::Seen;
use super::record::Shape;
use super::script::{self, Act, Edit, Load, Loaded, Mistake, PipelineText, Restart, Statement};
use super::view::Came;
use crate::config::{self, Plan};
use crate::time::EventTime;
use std::collections::BTreeMap;
use std::io;

/// 2026-01-01T00:00:00Z: what `@0s` is where a script doesn't say it.
const ORIGIN: i64 = 1_767_225_600_000_000;

/// Files and variables, which this folder doesn't touch by itself.
pub trait Files {
    /// The bytes of a file that a script names.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
    /// The text of a schema file that a pipeline names.
    ///
    /// # Errors
    /// When it cannot be read.
    fn schema(&self, path: &str) -> io::Result<String>;
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// How a script ended.
#[derive(Debug, Default)]
pub struct Played {
    /// How many expectations were looked at.
    pub expectations: usize,
    /// Those that were not met.
    pub unmet: Vec<Unmet>,
    /// Why it ended early, or could not begin.
    pub mistakes: Vec<Mistake>,
    /// The script with what came instead of what was expected.
    pub updated: String,
}

/// An expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The line, from 1.
    pub line: usize,
    /// What stands behind `expect`.
    pub what: String,
    pub expected: Vec<String>,
    pub came: Vec<String>,
}

impl Unmet {
    /// What was expected and what came, line by line: `-` only expected, `+` only came.
    pub fn difference(&self) -> Vec<String> {
        difference(&self.expected, &self.came)
    }
}

/// Plays the script `text`; its pipeline is the file `pipeline` where it names none.
pub fn play(text: &str, pipeline: Option<&str>, files: &dyn Files) -> Played {
    let mut played = Played::default();
    match script::parse(text) {
        Ok(statements) => {
            let lines: Vec<&str> = text.lines().collect();
            let mut player = Player::new(pipeline, files);
            let mut edits = Vec::new();
            for statement in &statements {
                match player.step(statement, &mut played.expectations) {
                    Ok(None) => {}
                    Ok(Some(came)) => {
                        played.unmet.push(unmet(&lines, statement, &came));
                        edits.push((statement, came));
                    }
                    Err(message) => {
                        played.mistakes.push(Mistake::at(message.0.unwrap_or(statement.line), message.1));
                        break;
                    }
                }
            }
            played.updated = updated(&lines, &edits);
        }
        Err(mistakes) => {
            played.mistakes = mistakes;
            text.clone_into(&mut played.updated);
        }
    }
    played
}

fn unmet(lines: &[&str], statement: &Statement, came: &Came) -> Unmet {
    let what = lines[statement.line].trim().strip_prefix("expect").unwrap_or_default().trim().to_owned();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, came) = match came {
        Came::Line(line) => (vec![words(&what)], vec![line.clone()]),
        Came::Block(came) => {
            let block = lines[statement.block.clone()].iter().map(|line| words(line));
            (block.filter(|line| !line.is_empty() && !line.starts_with('#')).collect(), came.clone())
        }
    };
    Unmet { line: statement.line + 1, what, expected, came }
}

fn updated(lines: &[&str], edits: &[(&Statement, Came)]) -> String {
    let (mut text, mut at) = (String::new(), 0);
    let put = |from: usize, to: usize, text: &mut String| {
        lines[from..to].iter().for_each(|line| text.extend([*line, "\n"]));
    };
    for (statement, came) in edits {
        put(at, statement.line, &mut text);
        match came {
            Came::Line(line) => text.extend(["expect ", line.as_str(), "\n"]),
            Came::Block(came) => {
                text.extend([lines[statement.line], "\n"]);
                came.iter().for_each(|line| text.extend(["    ", line.as_str(), "\n"]));
            }
        }
        at = statement.block.end.max(statement.line + 1);
    }
    put(at, lines.len(), &mut text);
    text
}

/// The longest common lines stay, all others are marked.
fn difference(expected: &[String], came: &[String]) -> Vec<String> {
    let mut longest = vec![vec![0_usize; came.len() + 1]; expected.len() + 1];
    for (i, left) in expected.iter().enumerate().rev() {
        for (j, right) in came.iter().enumerate().rev() {
            longest[i][j] =
                if left == right { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut lines, mut i, mut j) = (Vec::new(), 0, 0);
    while i < expected.len() || j < came.len() {
        if i < expected.len() && j < came.len() && expected[i] == came[j] {
            lines.push(format!("  {}", expected[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == came.len() || (i < expected.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(format!("- {}", expected[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", came[j]));
            j += 1;
        }
    }
    lines
}

/// A line's index where it is not the statement's, and what is wrong.
type Wrong = (Option<usize>, String);

struct Player<'f> {
    files: &'f dyn Files,
    variables: BTreeMap<String, String>,
    /// Name and text of the pipeline.
    pipeline: Option<(String, String)>,
    usual: Option<String>,
    origin: EventTime,
    daemon: Option<Daemon>,
    seen: Seen,
}

impl<'f> Player<'f> {
    fn new(usual: Option<&str>, files: &'f dyn Files) -> Self {
        Self {
            files,
            variables: BTreeMap::new(),
            pipeline: None,
            usual: usual.map(str::to_owned),
            origin: EventTime::from_micros(ORIGIN),
            daemon: None,
            seen: Seen::default(),
        }
    }

    /// Does what a statement says; returns what came where something else was expected.
    fn step(&mut self, statement: &Statement, expectations: &mut usize) -> Result<Option<Came>, Wrong> {
        let plain = |message: String| (None, message);
        if self.prepare(&statement.act).map_err(plain)? {
            return Ok(None);
        }
        self.begin().map_err(plain)?;
        let Some((name, text)) = self.pipeline.clone() else {
            return Err(plain("cannot go on without a pipeline".to_owned()));
        };
        let (files, variables) = (self.files, &self.variables);
        let planner = move || plan(&name, &text, files, variables);
        let Some(daemon) = &mut self.daemon else { return Ok(None) };
        match &statement.act {
            Act::Load(load) => return self.load(load, &planner().map_err(plain)?).map(|()| None),
            Act::Restart(restart) | Act::Crash(restart) => {
                let crash = matches!(statement.act, Act::Crash(_));
                return self.again(restart, crash).map(|()| None).map_err(plain);
            }
            Act::Expect(expect) => {
                *expectations += 1;
                let view = daemon.view(&planner).map_err(plain)?;
                return expect.check(&view, &mut self.seen).map_err(plain);
            }
            Act::Open(names) => names.iter().for_each(|name| daemon.open(name)),
            Act::End(names) => names.iter().try_for_each(|name| daemon.end(name)).map_err(plain)?,
            Act::Replay => daemon.replay(),
            Act::Advance(span) => daemon.advance(*span),
            Act::StepClock(micros) => daemon.step_clock(*micros),
            Act::Stall => daemon.stall(),
            Act::Resume => daemon.resume(),
            Act::Seal => daemon.seal(),
            Act::Finish => daemon.finish(),
            Act::Set(..) | Act::Pipeline(_) | Act::Origin(_) => {}
        }
        Ok(None)
    }

    /// What stands before the beginning. Whether it was such a statement.
    fn prepare(&mut self, act: &Act) -> Result<bool, String> {
        let begun = self.daemon.is_some();
        match act {
            Act::Set(..) | Act::Pipeline(_) | Act::Origin(_) if begun => {
                return Err("cannot say that behind the beginning; `restart with FILE` goes on with another pipeline"
                    .to_owned());
            }
            Act::Set(name, value) => {
                self.variables.insert(name.clone(), value.clone());
            }
            Act::Pipeline(PipelineText::Inline(text)) => self.pipeline = Some(("pipeline".to_owned(), text.clone())),
            Act::Pipeline(PipelineText::File(file)) => self.pipeline = Some((file.clone(), self.text(file)?)),
            Act::Origin(when) => self.origin = when.from(self.origin),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn begin(&mut self) -> Result<(), String> {
        if self.daemon.is_some() {
            return Ok(());
        }
        if self.pipeline.is_none() {
            let file = self.usual.clone().ok_or(
                "cannot play a script without a pipeline: begin it with `pipeline FILE`, or say --pipeline FILE",
            )?;
            self.pipeline = Some((file.clone(), self.text(&file)?));
        }
        let Some((name, text)) = &self.pipeline else { return Ok(()) };
        let planner = || plan(name, text, self.files, &self.variables);
        self.daemon = Some(Daemon::start(&planner, self.origin)?);
        Ok(())
    }

    fn text(&self, file: &str) -> Result<String, String> {
        let bytes = self.files.read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
        String::from_utf8(bytes).map_err(|_| format!("cannot read {file}: it is no UTF-8"))
    }

    fn load(&mut self, load: &Load, plan: &Plan) -> Result<(), Wrong> {
        let at = load.at.map(|at| at.from(self.origin));
        let mut records: Vec<(Option<EventTime>, Vec<u8>)> = Vec::new();
        match &load.from {
            Loaded::File(file) => {
                let bytes = self.files.read(file).map_err(|error| (None, format!("cannot read {file}: {error}")))?;
                let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
                records.extend(lines.filter(|line| !line.is_empty()).map(|line| (None, line.to_vec())));
            }
            Loaded::Lines(lines) => {
                let shape = Shape::of(&plan.decode, self.origin);
                for (index, line) in lines {
                    records.extend(line.records(&shape).map_err(|message| (Some(*index), message))?);
                }
            }
        }
        if !load.in_order {
            // What has no time stays behind what it stands behind.
            let mut before = None;
            let time = |(time, _): &(Option<EventTime>, Vec<u8>)| {
                before = time.or(before);
                before
            };
            let times: Vec<Option<EventTime>> = records.iter().map(time).collect();
            let mut order: Vec<usize> = (0..records.len()).collect();
            order.sort_by_key(|index| times[*index]);
            records = order.into_iter().map(|index| std::mem::take(&mut records[index])).collect();
        }
        let newest = records.iter().filter_map(|(time, _)| *time).max();
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let name = load.partition.as_deref().unwrap_or("main");
        daemon.load(name, records.into_iter().map(|(_, record)| record).collect(), at.max(newest));
        Ok(())
    }

    fn again(&mut self, restart: &Restart, crash: bool) -> Result<(), String> {
        let Some((name, text)) = &self.pipeline else { return Ok(()) };
        let edited = match &restart.edit {
            None => (name.clone(), text.clone()),
            Some(Edit::File(file)) => (file.clone(), self.text(file)?),
            Some(Edit::Replace(old, new)) => match text.matches(old.as_str()).count() {
                1 => (name.clone(), text.replace(old.as_str(), new)),
                count => return Err(format!("cannot replace {old:?}, the pipeline has it {count} times")),
            },
        };
        let planner = || plan(&edited.0, &edited.1, self.files, &self.variables);
        if let Some(daemon) = &mut self.daemon {
            if crash {
                daemon.crash(&planner, &restart.without)?;
            } else {
                daemon.restart(&planner, &restart.without)?;
            }
        }
        self.pipeline = Some(edited);
        Ok(())
    }
}

fn plan(name: &str, text: &str, files: &dyn Files, variables: &BTreeMap<String, String>) -> Result<Plan, String> {
    let variable = |name: &str| variables.get(name).cloned().or_else(|| files.variable(name));
    config::load(name, text, &variable, &|path| files.schema(path))
        .map_err(|problems| config::render::text(name, &problems).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_line_by_line() {
        let lines = |text: &str| text.split(' ').filter(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let check = |expected: &str, came: &str| difference(&lines(expected), &lines(came)).join(" ");
        assert_eq!(check("a b c", "a x c d"), "  a - b + x   c + d");
        assert_eq!(check("", "a"), "+ a");
        assert_eq!(check("a", ""), "- a");
    }
}
