//! The layouts that were learned: a tree of the literals between values.
//!
//! A node stands for a place behind a value, an edge for the literal that comes next and the value behind that, so
//! records that begin alike share what they have in common. A record that walks from the root to a leaf, literal by
//! literal and value by value, has a JSON structure that the strict parser has seen, byte for byte but for the values.
//! The edge that was taken last is tried first.
//!
//! The tree is bounded. When it is full it is emptied and learns anew, as a JIT's code cache is flushed: what is in use
//! comes back with the next records.

use super::assign::Assignment;
use super::cut::{self, Cuts, Kinds, Piece, Quote};
use super::learn::{Ahead, Lesson};
use crate::limits;
use wide::u8x16;

/// A literal, with what makes its comparison cheap: its first 32 bytes as vectors.
#[derive(Debug)]
struct Literal {
    head: [u8x16; 2],
    /// All bits of each byte of `head` that does not count.
    spare: [u8x16; 2],
    bytes: Box<[u8]>,
}

const LANES: usize = 16;
/// Bytes of a literal that are compared at once.
const HEAD: usize = 2 * LANES;

fn vectors(bytes: &[u8; HEAD]) -> [u8x16; 2] {
    let (lanes, _) = bytes.as_chunks::<LANES>();
    [u8x16::new(lanes[0]), u8x16::new(lanes[1])]
}

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        let (mut head, mut spare) = ([0; HEAD], [0xff; HEAD]);
        let length = bytes.len().min(HEAD);
        head[..length].copy_from_slice(&bytes[..length]);
        spare[..length].fill(0);
        Self { head: vectors(&head), spare: vectors(&spare), bytes: bytes.into() }
    }

    /// Whether the literal's first 32 bytes, or as many as it has, stand there.
    #[inline(always)]
    fn begins(&self, head: &[u8; HEAD]) -> bool {
        let found = vectors(head);
        let first = found[0].simd_eq(self.head[0]) | self.spare[0];
        let second = found[1].simd_eq(self.head[1]) | self.spare[1];
        (first & second).to_bitmask() == 0xffff
    }

    /// The place behind the literal, where it stands at `at`.
    #[inline(always)]
    fn behind(&self, record: &[u8], at: usize) -> Option<usize> {
        let behind = at + self.bytes.len();
        let stands = match record.get(at..).and_then(<[u8]>::first_chunk) {
            Some(chunk) => {
                self.begins(chunk) && (self.bytes.len() <= HEAD || record.get(at..behind) == Some(&self.bytes))
            }
            // Near the end of the batch.
            None => record.get(at..behind) == Some(&self.bytes),
        };
        if stands { Some(behind) } else { None }
    }
}

/// What a literal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Value(Ahead),
    /// The end of the record.
    End,
}

/// What stands behind a literal more often than not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// A text without escapes, whose quote belongs to the edge's `run`, in JSON as it stands or within a JSON string.
    Text,
    NestedText,
    Number,
    End,
    /// Something for which there is no short way.
    Other,
}

/// An edge of the tree, and the node that it leads to.
#[derive(Debug)]
struct Edge {
    /// The literal, with the quote of the text that is expected behind it.
    run: Literal,
    /// Whether [`Layouts::chain`] can follow it: `run` can be compared at once, and something usual is behind it.
    is_short: bool,
    /// Bytes of `run`.
    length: u32,
    course: Course,
    quote: Quote,
    /// Kinds of the value that may stand there.
    kinds: Kinds,
    /// Of the node's edges the one that is tried first.
    first: u32,
    /// The edge of the same node that is tried when this one leads nowhere.
    sibling: u32,
    /// The number of the layout that is complete at the record's end.
    layout: u32,
    goal: Goal,
    literal: Literal,
}

/// The beginning of a record, up to its message: for lines that one program wrote it is the same, values included.
#[derive(Debug)]
struct Opening {
    bytes: Box<[u8]>,
    /// The bytes' end, which tells most openings apart.
    tail: Literal,
    pieces: Box<[Piece]>,
    node: u32,
}

impl Opening {
    #[inline]
    fn begins(&self, record: &[u8]) -> bool {
        let tail = self.bytes.len() - self.tail.bytes.len();
        self.tail.behind(record, tail).is_some() && record.starts_with(&self.bytes)
    }
}

/// How far a record was cut: up to a byte, behind a value; and up to a node.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    node: usize,
}

/// Openings that are remembered: programs × instances × levels that write at the same time.
const OPENINGS: usize = 16;

/// No edge.
const NONE: u32 = u32::MAX;

/// The layouts of one decoder.
#[derive(Debug)]
pub(super) struct Layouts {
    /// The first one leads to the root. A node has the number of the edge that leads to it.
    edges: Vec<Edge>,
    assignments: Vec<Assignment>,
    literal_bytes: usize,
    openings: Vec<Opening>,
    /// The one that gives way to the next one that is new.
    oldest: usize,
    /// Texts that begin with a brace are JSON, and are not taken for text.
    text_is_json: bool,
}

impl Layouts {
    pub(super) fn new(text_is_json: bool) -> Self {
        Self {
            edges: vec![Edge::new(b"", Goal::End, Kinds::ANY, Course::Other)],
            assignments: Vec::new(),
            literal_bytes: 0,
            openings: Vec::new(),
            oldest: 0,
            text_is_json,
        }
    }

    pub(super) fn assignment(&self, layout: u32) -> &Assignment {
        &self.assignments[layout as usize]
    }

    /// Cuts a record into the values of a known layout, and returns its number. The record is the first `end` of `bytes`;
    /// what is behind is not looked at, but comparing is faster where there is something.
    ///
    /// Of the edges of a node at most one leads on: a literal that goes on where another ends has a brace or a bracket
    /// there, which begins no scalar.
    pub(super) fn cut(&mut self, bytes: &[u8], end: usize, cuts: &mut Cuts) -> Option<u32> {
        let mut place = self.open(&bytes[..end], cuts);
        if !cuts.begin(bytes, place.at, end) {
            return None;
        }
        // The place before the first value that stands within a message, unless the opening was known.
        let mut opening = None;
        let is_known = place.at > 0;
        let layout = loop {
            let found = match opening {
                None if !is_known => self.chain::<true>(bytes, end, &mut place, cuts),
                _ => self.chain::<false>(bytes, end, &mut place, cuts),
            };
            if found.is_some() {
                break found;
            }
            let (before, pieces) = (place, cuts.pieces.len());
            let edge = self.step(bytes, end, &mut place, cuts)?;
            if edge.goal == Goal::End {
                break Some(edge.layout);
            }
            if edge.goal == Goal::Value(Ahead::Nested) && opening.is_none() && !is_known {
                opening = Some((before, pieces));
            }
        };
        if let Some((before, pieces)) = opening {
            self.remember(&bytes[..before.at], &cuts.pieces[..pieces], before.node);
        }
        layout
    }

    /// Goes on along the edges that were taken last, as long as they have short literals and behind them texts without
    /// escapes or numbers. Returns the layout when the record ends there; else `place` is how far it came. Most lines
    /// are cut here from their messages to their ends, so there is nothing in the loop but that. When asked it halts before
    /// a message's first value.
    fn chain<const HALTS: bool>(&self, bytes: &[u8], end: usize, place: &mut Place, cuts: &mut Cuts) -> Option<u32> {
        let (mut node, mut rest) = (place.node, &bytes[place.at..]);
        let mut first = self.edges[node].first;
        while let Some(edge) = self.edges.get(first as usize)
            && edge.is_short
            && !(HALTS && edge.goal == Goal::Value(Ahead::Nested))
            && let Some(head) = rest.first_chunk()
            && edge.run.begins(head)
            && let Some(ahead) = rest.get(edge.length as usize..)
        {
            let at = bytes.len() - ahead.len();
            let behind = match edge.course {
                Course::NestedText => cut::plain(bytes, at, Quote::NESTED, cuts),
                Course::Text => cut::plain(bytes, at, Quote::BARE, cuts),
                Course::Number => cut::number(bytes, at, edge.kinds, cuts).and_then(|behind| bytes.get(behind..)),
                Course::End if at == end => return Some(edge.layout),
                Course::End | Course::Other => None,
            };
            let Some(behind) = behind else { break };
            rest = behind;
            node = first as usize;
            first = edge.first;
        }
        *place = Place { at: bytes.len() - rest.len(), node };
        None
    }

    /// Goes on by one literal and the value behind it, along whichever edge leads on and whatever value that is.
    fn step(&mut self, bytes: &[u8], end: usize, place: &mut Place, cuts: &mut Cuts) -> Option<&Edge> {
        let Place { at, node } = *place;
        let first = self.edges[node].first;
        let mut number = first;
        let after = loop {
            let edge = self.edges.get(number as usize)?;
            if let Some(behind) = edge.literal.behind(bytes, at)
                && let Some(after) = edge.cut(bytes, behind, end, self.text_is_json, cuts)
            {
                break after;
            }
            number = edge.sibling;
        };
        if number != first {
            self.prefer(node, number);
        }
        *place = Place { at: after, node: number as usize };
        Some(&self.edges[number as usize])
    }

    /// Where to go on behind an opening that is known, with its values already cut; the beginning otherwise.
    fn open(&self, record: &[u8], cuts: &mut Cuts) -> Place {
        cuts.clear();
        let Some(number) = self.openings.iter().position(|opening| opening.begins(record)) else {
            return Place { at: 0, node: 0 };
        };
        let opening = &self.openings[number];
        cuts.pieces.extend_from_slice(&opening.pieces);
        Place { at: opening.bytes.len(), node: opening.node as usize }
    }

    #[cold]
    fn remember(&mut self, bytes: &[u8], pieces: &[Piece], node: usize) {
        // Texts with escapes are not where the opening says.
        if pieces.is_empty() || pieces.iter().any(|piece| piece.kind == Kinds::UNESCAPED) {
            return;
        }
        let tail = Literal::new(&bytes[bytes.len().saturating_sub(HEAD)..]);
        let opening = Opening { bytes: bytes.into(), tail, pieces: pieces.into(), node: node as u32 };
        match self.openings.get_mut(self.oldest) {
            Some(oldest) => *oldest = opening,
            None => self.openings.push(opening),
        }
        self.oldest = (self.oldest + 1) % OPENINGS;
    }

    /// Lets the node try this edge first.
    #[cold]
    fn prefer(&mut self, node: usize, number: u32) {
        let behind = self.edges[number as usize].sibling;
        let mut before = self.edges[node].first;
        while self.edges[before as usize].sibling != number {
            before = self.edges[before as usize].sibling;
        }
        self.edges[before as usize].sibling = behind;
        self.edges[number as usize].sibling = self.edges[node].first;
        self.edges[node].first = number;
    }

    /// Adds a layout; false when it is known already, or no room is left at one of its nodes.
    pub(super) fn add(&mut self, record: &[u8], lesson: &Lesson, assignment: Assignment) -> bool {
        // Their values were found right by edges that may take less from now on.
        self.openings.clear();
        self.oldest = 0;
        let mut node = 0;
        for (step, kinds) in lesson.steps.iter().zip(&assignment.kinds) {
            let literal = &record[step.literal.clone()];
            node = match self.find(node, literal, Goal::Value(step.ahead)) {
                Some(known) => {
                    // Layouts that share a value take only what is right for all of them.
                    let edge = &mut self.edges[known];
                    edge.narrow(*kinds);
                    known
                }
                None => {
                    let course = Course::of(step.ahead, record[step.literal.end]);
                    match self.push(node, Edge::new(literal, Goal::Value(step.ahead), *kinds, course)) {
                        Some(new) => new,
                        None => return false,
                    }
                }
            };
        }
        let tail = &record[lesson.tail.clone()];
        if self.find(node, tail, Goal::End).is_some() {
            return false;
        }
        let layout = self.assignments.len() as u32;
        let added = self.push(node, Edge { layout, ..Edge::new(tail, Goal::End, Kinds::ANY, Course::End) });
        if added.is_some() {
            self.assignments.push(assignment);
        }
        added.is_some()
    }

    /// The edges of a node, by number.
    fn edges_of(&self, node: usize) -> impl Iterator<Item = usize> {
        let known = |number: u32| (number != NONE).then_some(number as usize);
        std::iter::successors(known(self.edges[node].first), move |number| known(self.edges[*number].sibling))
    }

    fn find(&self, node: usize, literal: &[u8], goal: Goal) -> Option<usize> {
        self.edges_of(node).find(|number| {
            let edge = &self.edges[*number];
            edge.goal == goal && *edge.literal.bytes == *literal
        })
    }

    /// The number of the new edge; `None` when the node has no room for it.
    fn push(&mut self, node: usize, edge: Edge) -> Option<usize> {
        if self.edges_of(node).count() >= limits::LAYOUT_BRANCHES {
            return None;
        }
        self.literal_bytes += edge.literal.bytes.len() + edge.run.bytes.len();
        let number = self.edges.len();
        let sibling = std::mem::replace(&mut self.edges[node].first, number as u32);
        self.edges.push(Edge { sibling, ..edge });
        Some(number)
    }

    /// Whether the tree has to be emptied before something is added.
    pub(super) fn is_full(&self) -> bool {
        self.edges.len() >= limits::LAYOUT_EDGES || self.literal_bytes >= limits::LAYOUT_BYTES
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.text_is_json);
    }
}

impl Course {
    /// What is to be expected where a value began with this byte.
    fn of(ahead: Ahead, begin: u8) -> Self {
        match (ahead, begin) {
            (Ahead::Bare, b'"') => Self::Text,
            (Ahead::Nested, b'\\') => Self::NestedText,
            (Ahead::Bare | Ahead::Nested, b'-' | b'0'..=b'9') => Self::Number,
            _ => Self::Other,
        }
    }
}

impl Edge {
    fn new(literal: &[u8], goal: Goal, kinds: Kinds, course: Course) -> Self {
        let quote = if goal == Goal::Value(Ahead::Nested) { Quote::NESTED } else { Quote::BARE };
        let run = match course {
            Course::Text | Course::NestedText => Literal::new(&[literal, quote.as_bytes()].concat()),
            _ => Literal::new(literal),
        };
        let literal = Literal::new(literal);
        let mut edge = Self {
            run,
            is_short: false,
            length: 0,
            course,
            quote,
            kinds: Kinds::ANY,
            first: NONE,
            sibling: NONE,
            layout: NONE,
            goal,
            literal,
        };
        edge.narrow(kinds);
        edge
    }

    /// Takes only values of these kinds from now on.
    fn narrow(&mut self, kinds: Kinds) {
        self.kinds = self.kinds.and(kinds);
        if matches!(self.course, Course::Text | Course::NestedText) && !self.kinds.has(Kinds::PLAIN) {
            self.course = Course::Other;
            self.run = Literal::new(&self.literal.bytes);
        }
        self.length = self.run.bytes.len() as u32;
        self.is_short = self.course != Course::Other && self.run.bytes.len() <= HEAD;
    }

    /// Cuts what stands behind the literal, at `at`, and returns the place behind.
    #[inline(always)]
    fn cut(&self, bytes: &[u8], at: usize, end: usize, text_is_json: bool, cuts: &mut Cuts) -> Option<usize> {
        match self.goal {
            Goal::Value(Ahead::Nested | Ahead::Bare) => cut::scalar(bytes, at, self.quote, self.kinds, cuts),
            Goal::Value(Ahead::Message) => self.cut_message(bytes, at, text_is_json, cuts),
            Goal::End => (at == end).then_some(at),
        }
    }

    #[inline(never)]
    fn cut_message(&self, bytes: &[u8], at: usize, text_is_json: bool, cuts: &mut Cuts) -> Option<usize> {
        // Seen at once where the brace stands first; behind blanks or escapes it is seen when the text has been cut.
        if text_is_json && bytes.get(at + 1) == Some(&b'{') {
            return None;
        }
        let behind = cut::scalar(bytes, at, self.quote, self.kinds, cuts)?;
        if text_is_json && cuts.last_text(bytes).trim_ascii_start().first() == Some(&b'{') {
            cuts.pieces.pop();
            return None;
        }
        Some(behind)
    }
}
