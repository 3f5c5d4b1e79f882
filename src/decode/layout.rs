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

/// A literal, with what makes its comparison cheap: its first and its last 16 bytes.
#[derive(Debug)]
struct Literal {
    head: u8x16,
    tail: u8x16,
    /// A bit for each byte of `head` that counts.
    mask: u32,
    length: u32,
    bytes: Box<[u8]>,
}

const LANES: usize = 16;

#[inline]
fn lanes(bytes: &[u8], at: usize) -> Option<u8x16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u8x16::new(*chunk))
}

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        let mut head = [0; LANES];
        let length = bytes.len().min(LANES);
        head[..length].copy_from_slice(&bytes[..length]);
        let tail = bytes.len().checked_sub(LANES).and_then(|at| lanes(bytes, at)).unwrap_or_default();
        let mask = (1 << length) - 1;
        Self { head: u8x16::new(head), tail, mask, length: bytes.len() as u32, bytes: bytes.into() }
    }

    /// The place behind the literal, where it stands at `at`.
    #[inline(always)]
    fn behind(&self, record: &[u8], at: usize) -> Option<usize> {
        let behind = at + self.length as usize;
        let stands = match lanes(record, at) {
            Some(head) if head.simd_eq(self.head).to_bitmask() & self.mask != self.mask => false,
            Some(_) if self.length as usize <= LANES => true,
            Some(_) if self.length as usize <= 2 * LANES => {
                lanes(record, behind - LANES)?.simd_eq(self.tail).to_bitmask() == 0xffff
            }
            // Near the end of the batch, or longer.
            _ => record.get(at..behind) == Some(&self.bytes),
        };
        stands.then_some(behind)
    }
}

/// What a literal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Value(Ahead),
    /// The end of the record.
    End,
}

#[derive(Debug)]
struct Edge {
    literal: Literal,
    goal: Goal,
    /// Kinds of the value that may stand there.
    kinds: Kinds,
    quote: Quote,
    /// The node behind the value; at the record's end, the number of the layout.
    next: u32,
    /// The node's edge that is tried when this one leads nowhere.
    sibling: u32,
}

/// The beginning of a record, up to its message: for lines that one program wrote it is the same, values included.
#[derive(Debug)]
struct Opening {
    bytes: Box<[u8]>,
    pieces: Box<[Piece]>,
    node: u32,
}

/// Openings that are remembered: programs × instances × levels that write at the same time.
const OPENINGS: usize = 16;

/// No edge.
const NONE: u32 = u32::MAX;

/// The layouts of one decoder.
#[derive(Debug)]
pub(super) struct Layouts {
    /// The edge of each node that is tried first.
    nodes: Vec<u32>,
    edges: Vec<Edge>,
    assignments: Vec<Assignment>,
    literal_bytes: usize,
    /// The one that was met last is the first.
    openings: Vec<Opening>,
    /// Texts that begin with a brace are JSON, and are not taken for text.
    text_is_json: bool,
}

impl Layouts {
    pub(super) fn new(text_is_json: bool) -> Self {
        Self {
            nodes: vec![NONE],
            edges: Vec::new(),
            assignments: Vec::new(),
            literal_bytes: 0,
            openings: Vec::new(),
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
        if !cuts.begin(&bytes[..end]) {
            return None;
        }
        let (mut at, mut node) = self.open(bytes, cuts);
        let mut message = None;
        let is_known = at > 0;
        loop {
            let first = self.nodes[node];
            let mut number = first;
            let edge = loop {
                let edge = self.edges.get(number as usize)?;
                if let Some(behind) = edge.literal.behind(bytes, at)
                    && let Some(after) = edge.cut(bytes, behind, end, self.text_is_json, cuts)
                {
                    if edge.goal == Goal::Value(Ahead::Nested) && message.is_none() && !is_known {
                        message = Some((at, cuts.pieces.len() - 1, node));
                    }
                    at = after;
                    break edge;
                }
                number = edge.sibling;
            };
            if edge.goal == Goal::End {
                let layout = edge.next;
                if let Some((at, pieces, node)) = message {
                    self.remember(&bytes[..at], &cuts.pieces[..pieces], node);
                }
                return Some(layout);
            }
            let next = edge.next as usize;
            if number != first {
                self.prefer(node, number);
            }
            node = next;
        }
    }

    /// Where to go on behind an opening that is known, with its values already cut; the beginning otherwise.
    fn open(&mut self, bytes: &[u8], cuts: &mut Cuts) -> (usize, usize) {
        let Some(number) = self.openings.iter().position(|opening| bytes.starts_with(&opening.bytes)) else {
            return (0, 0);
        };
        self.openings[..=number].rotate_right(1);
        let opening = &self.openings[0];
        cuts.pieces.extend_from_slice(&opening.pieces);
        (opening.bytes.len(), opening.node as usize)
    }

    #[cold]
    fn remember(&mut self, bytes: &[u8], pieces: &[Piece], node: usize) {
        // Texts with escapes are not where the opening says.
        if pieces.is_empty() || pieces.iter().any(|piece| piece.kind == Kinds::UNESCAPED) {
            return;
        }
        self.openings.truncate(OPENINGS - 1);
        self.openings.insert(0, Opening { bytes: bytes.into(), pieces: pieces.into(), node: node as u32 });
    }

    /// Lets the node try this edge first.
    #[cold]
    fn prefer(&mut self, node: usize, number: u32) {
        let behind = self.edges[number as usize].sibling;
        let mut before = self.nodes[node];
        while self.edges[before as usize].sibling != number {
            before = self.edges[before as usize].sibling;
        }
        self.edges[before as usize].sibling = behind;
        self.edges[number as usize].sibling = self.nodes[node];
        self.nodes[node] = number;
    }

    /// Adds a layout; false when it is known already, or no room is left at one of its nodes.
    pub(super) fn add(&mut self, record: &[u8], lesson: &Lesson, assignment: Assignment) -> bool {
        // Their values were found right by edges that may take less from now on.
        self.openings.clear();
        let mut node = 0;
        for (step, kinds) in lesson.steps.iter().zip(&assignment.kinds) {
            let literal = &record[step.literal.clone()];
            node = match self.find(node, literal, Goal::Value(step.ahead)) {
                Some(known) => {
                    // Layouts that share a value take only what is right for all of them.
                    let edge = &mut self.edges[known];
                    edge.kinds = edge.kinds.and(*kinds);
                    edge.next as usize
                }
                None => {
                    let next = self.nodes.len();
                    if !self.push(node, literal, Goal::Value(step.ahead), *kinds, next as u32) {
                        return false;
                    }
                    self.nodes.push(NONE);
                    next
                }
            };
        }
        let tail = &record[lesson.tail.clone()];
        if self.find(node, tail, Goal::End).is_some()
            || !self.push(node, tail, Goal::End, Kinds::ANY, self.assignments.len() as u32)
        {
            return false;
        }
        self.assignments.push(assignment);
        true
    }

    /// The edges of a node, by number.
    fn edges_of(&self, node: usize) -> impl Iterator<Item = usize> {
        let known = |number: u32| (number != NONE).then_some(number as usize);
        std::iter::successors(known(self.nodes[node]), move |number| known(self.edges[*number].sibling))
    }

    fn find(&self, node: usize, literal: &[u8], goal: Goal) -> Option<usize> {
        self.edges_of(node).find(|number| {
            let edge = &self.edges[*number];
            edge.goal == goal && *edge.literal.bytes == *literal
        })
    }

    fn push(&mut self, node: usize, literal: &[u8], goal: Goal, kinds: Kinds, next: u32) -> bool {
        if self.edges_of(node).count() >= limits::LAYOUT_BRANCHES {
            return false;
        }
        self.literal_bytes += literal.len();
        let sibling = std::mem::replace(&mut self.nodes[node], self.edges.len() as u32);
        let quote = if goal == Goal::Value(Ahead::Nested) { Quote::NESTED } else { Quote::BARE };
        self.edges.push(Edge { literal: Literal::new(literal), goal, kinds, quote, next, sibling });
        true
    }

    /// Whether the tree has to be emptied before something is added.
    pub(super) fn is_full(&self) -> bool {
        self.edges.len() >= limits::LAYOUT_EDGES || self.literal_bytes >= limits::LAYOUT_BYTES
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.text_is_json);
    }
}

impl Edge {
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
