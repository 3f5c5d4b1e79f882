//! YAML text → a tree whose nodes know where they stand.
//!
//! One document, string keys, no key twice, aliases expanded up to a limit. What a scalar means (a number, a text)
//! is decided by who reads it, not here.

use crate::limits::{CONFIG_BYTES, CONFIG_DEPTH, CONFIG_EXPANDED_BYTES};
use crate::place::{Place, Problem};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// One value of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the file; keys are scalars, each once.
    Map(Vec<(Node, Node)>),
    /// Something is wrong with it that was reported already.
    Broken,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes, so that it may be a number, a boolean or null.
    pub plain: bool,
    /// See [`crate::place::Located::verbatim`].
    pub verbatim: bool,
    /// Holds the value of a variable, and is therefore never null.
    pub interpolated: bool,
}

impl Scalar {
    pub(super) fn is_null(&self) -> bool {
        self.plain && !self.interpolated && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// The text of a scalar; empty for anything else.
    pub(super) fn text(&self) -> &str {
        match &self.value {
            Value::Scalar(scalar) => &scalar.text,
            _ => "",
        }
    }

    /// The value under `key`, where this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text() == key).map(|(_, v)| v),
            _ => None,
        }
    }

    fn height(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) | Value::Broken => 0,
            Value::List(items) => items.iter().map(Self::height).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|(_, v)| v.height()).max().unwrap_or(0),
        }
    }

    /// About the bytes of memory that it takes.
    fn weight(&self) -> usize {
        std::mem::size_of::<Self>()
            + match &self.value {
                Value::Scalar(scalar) => scalar.text.len(),
                Value::Broken => 0,
                Value::List(items) => items.iter().map(Self::weight).sum(),
                Value::Map(entries) => entries.iter().map(|(k, v)| k.weight() + v.weight()).sum(),
            }
    }
}

/// Reads `text` and adds what is wrong but can be stepped over (a key that stands twice) to `problems`.
///
/// # Errors
/// The first mistake of syntax, and the caps on size, depth and expansion.
pub(super) fn parse(text: &str, problems: &mut Vec<Problem>) -> Result<Node, Problem> {
    if text.len() as u64 > CONFIG_BYTES {
        let message = format!("cannot read a file of {} bytes, the most is {CONFIG_BYTES}", text.len());
        return Err(Problem::new(Place { line: 1, column: 1 }, message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        lines: text.split('\n').collect(),
        problems,
        stack: Vec::new(),
        anchors: HashMap::new(),
        weight: 0,
        documents: 0,
        root: None,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| from_scan(&error))?;
        builder.event(event, span)?;
    }
    let empty = || Problem::new(Place { line: 1, column: 1 }, "cannot find anything in this file, it is empty");
    builder.root.ok_or_else(empty)
}

fn from_scan(error: &ScanError) -> Problem {
    Problem::new(place(error.marker()), format!("cannot read this as YAML: {}", error.info().trim_end_matches('.')))
        .hint("check indentation and quotes: a text that holds `: ` or ` #`, or that begins with a sign, needs quotes")
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line() as u32, column: marker.col() as u32 + 1 }
}

/// A list or mapping that is being read.
struct Frame {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Node, Node)>, key: Option<Node>, seen: HashMap<String, Place> },
}

struct Builder<'t, 'p> {
    lines: Vec<&'t str>,
    problems: &'p mut Vec<Problem>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    weight: usize,
    documents: usize,
    root: Option<Node>,
}

impl Builder<'_, '_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let at = place(&span.start);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::new(at, "cannot read a second document, a file holds one pipeline")
                        .hint("remove the line `---`, or put what follows into a file of its own"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(text, style, tag.as_deref(), at)?;
                self.weigh(&node, at)?;
                self.finish(node, anchor);
            }
            Event::SequenceStart(anchor, tag) => self.open(at, anchor, tag.as_deref(), Content::List(Vec::new()))?,
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), key: None, seen: HashMap::new() };
                self.open(at, anchor, tag.as_deref(), content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, place: Place, anchor: usize, tag: Option<&Tag>, content: Content) -> Result<(), Problem> {
        refuse_tag(tag, place)?;
        if self.stack.len() >= CONFIG_DEPTH {
            return Err(too_deep(place));
        }
        self.stack.push(Frame { place, anchor, content });
        Ok(())
    }

    fn close(&mut self) {
        let frame = self.stack.pop().expect("the parser closes only what it opened");
        let value = match frame.content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        self.finish(Node { place: frame.place, value }, frame.anchor);
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), Problem> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(Problem::new(at, "cannot use an alias inside the value that it names"));
        };
        if self.stack.len() + node.height() > CONFIG_DEPTH {
            return Err(too_deep(at));
        }
        self.weigh(&node, at)?;
        self.finish(node, 0);
        Ok(())
    }

    fn weigh(&mut self, node: &Node, at: Place) -> Result<(), Problem> {
        // A scalar is charged its text alone, of which a file without aliases never has more than the cap.
        self.weight += if matches!(node.value, Value::Scalar(_)) { node.text().len() } else { node.weight() };
        if self.weight > CONFIG_EXPANDED_BYTES {
            let message =
                format!("cannot expand the aliases of this file, they take more than {CONFIG_EXPANDED_BYTES} bytes");
            return Err(Problem::new(at, message));
        }
        Ok(())
    }

    fn scalar(
        &self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        mut at: Place,
    ) -> Result<Node, Problem> {
        refuse_tag(tag, at)?;
        if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) {
            at.column += 1;
        }
        let is_text = tag.is_some_and(|tag| tag.suffix == "str" || tag.suffix.is_empty());
        let scalar = Scalar {
            verbatim: self.stands_at(&text, style, at),
            text: text.into_owned(),
            plain: style == ScalarStyle::Plain && !is_text,
            interpolated: false,
        };
        Ok(Node { place: at, value: Value::Scalar(scalar) })
    }

    /// Whether the file has exactly this text at this place; the lines of a block stand one below the other.
    fn stands_at(&self, text: &str, style: ScalarStyle, at: Place) -> bool {
        let is_block = style == ScalarStyle::Literal;
        if text.contains('\n') && !is_block {
            return false;
        }
        let lines = self.lines.iter().skip(at.line as usize - 1);
        let mut parts = text.lines().zip(lines);
        parts.all(|(part, line)| part.is_empty() || from_column(line, at.column).starts_with(part))
    }

    /// Hands a whole node to the list or mapping around it.
    fn finish(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key, seen }) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.extend(entry(key, node, seen, self.problems)),
            },
        }
    }
}

/// What of `line` begins at `column`, which counts characters from 1.
fn from_column(line: &str, column: u32) -> &str {
    line.char_indices().nth(column as usize - 1).map_or("", |(byte, _)| &line[byte..])
}

/// The entry of a mapping, unless its key is none or stood there before.
fn entry(
    key: Node,
    value: Node,
    seen: &mut HashMap<String, Place>,
    problems: &mut Vec<Problem>,
) -> Option<(Node, Node)> {
    let Value::Scalar(scalar) = &key.value else {
        problems.push(
            Problem::new(key.place, "cannot use a list or a mapping as a key")
                .hint("a text that begins with { or [ needs quotes around it"),
        );
        return None;
    };
    if let Some(first) = seen.get(&scalar.text) {
        problems.push(
            Problem::new(key.place, format!("cannot use the key `{}` twice", scalar.text))
                .hint(format!("it stands at {first} already")),
        );
        return None;
    }
    seen.insert(scalar.text.clone(), key.place);
    Some((key, value))
}

fn too_deep(place: Place) -> Problem {
    Problem::new(place, format!("cannot read more than {CONFIG_DEPTH} levels of lists and mappings"))
}

/// Only the tags of YAML's core schema mean something here.
fn refuse_tag(tag: Option<&Tag>, place: Place) -> Result<(), Problem> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() && !tag.suffix.is_empty() => {
            Err(Problem::new(place, format!("cannot use the tag `{tag}`"))
                .hint("a text that begins with ! needs quotes around it"))
        }
        _ => Ok(()),
    }
}
