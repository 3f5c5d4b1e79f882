//! The layouts that were learned: a tree of the literals between values.
//!
//! A node stands for a place behind a value, an edge for the literal that comes next and the value behind that, so
//! records that begin alike share what they have in common. A record that walks from the root to a leaf, literal by
//! literal and value by value, has a JSON structure that the strict parser has seen, byte for byte but for the values.
//! Edges lie in the order of their use: one that was taken moves a place towards the front.
//!
//! The tree is bounded. When it is full it is emptied and learns anew, as a JIT's code cache is flushed: what is in use
//! comes back with the next records.

use super::assign::Assignment;
use super::cut::{self, BARE, Kinds, NESTED, Piece};
use super::learn::{Ahead, Lesson};
use crate::limits;

/// A literal, with what makes its comparison cheap: its first and its last 16 bytes.
#[derive(Debug, Clone)]
struct Literal {
    head: u128,
    /// Which bits of `head` count, where the literal is shorter than 16 bytes.
    mask: u128,
    tail: u128,
    bytes: Box<[u8]>,
}

const WIDE: usize = 16;

fn wide(bytes: &[u8], at: usize) -> Option<u128> {
    let piece = bytes.get(at..at + WIDE)?;
    Some(u128::from_le_bytes(piece.try_into().expect("it was cut to this length")))
}

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        let mut head = [0; WIDE];
        let length = bytes.len().min(WIDE);
        head[..length].copy_from_slice(&bytes[..length]);
        let mask = if length < WIDE { (1 << (8 * length)) - 1 } else { u128::MAX };
        let tail = bytes.len().checked_sub(WIDE).and_then(|at| wide(bytes, at)).unwrap_or_default();
        Self { head: u128::from_le_bytes(head), mask, tail, bytes: bytes.into() }
    }

    #[inline]
    fn stands_at(&self, record: &[u8], at: usize) -> bool {
        let length = self.bytes.len();
        match wide(record, at) {
            Some(head) if (head ^ self.head) & self.mask != 0 => false,
            Some(_) if length <= WIDE => true,
            Some(_) if length <= 2 * WIDE => wide(record, at + length - WIDE) == Some(self.tail),
            // Near the end of the batch, or longer.
            _ => record.get(at..at + length) == Some(&self.bytes),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A value of one of these kinds, and the node behind it.
    Value { ahead: Ahead, kinds: Kinds, node: u32 },
    /// The record's end; the number of its layout.
    End(u32),
}

#[derive(Debug)]
struct Edge {
    literal: Literal,
    next: Next,
}

/// The layouts of one decoder.
#[derive(Debug)]
pub(super) struct Layouts {
    nodes: Vec<Vec<Edge>>,
    assignments: Vec<Assignment>,
    edges: usize,
    literal_bytes: usize,
    /// Texts that begin with a brace are JSON, and are not taken for text.
    text_is_json: bool,
}

/// What the last record was cut into.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    pub(super) pieces: Vec<Piece>,
    pub(super) scratch: Vec<u8>,
}

impl Layouts {
    pub(super) fn new(text_is_json: bool) -> Self {
        let nodes = vec![Vec::new()];
        Self { nodes, assignments: Vec::new(), edges: 0, literal_bytes: 0, text_is_json }
    }

    pub(super) fn assignment(&self, layout: u32) -> &Assignment {
        &self.assignments[layout as usize]
    }

    /// Cuts the record from `at` to `end` into the values of a known layout, and returns its number.
    pub(super) fn cut(&mut self, bytes: &[u8], mut at: usize, end: usize, cuts: &mut Cuts) -> Option<u32> {
        cuts.pieces.clear();
        cuts.scratch.clear();
        let mut node = 0;
        loop {
            let edges = &mut self.nodes[node];
            let number = edges.iter().position(|edge| edge.leads_on(bytes, at, end))?;
            let next = edges[number].next;
            at += edges[number].literal.bytes.len();
            if number > 0 {
                edges.swap(number - 1, number);
            }
            let (ahead, kinds, behind) = match next {
                Next::End(layout) => return Some(layout),
                Next::Value { ahead, kinds, node } => (ahead, kinds, node),
            };
            let (piece, after) = match ahead {
                Ahead::Nested => cut::scalar::<NESTED>(bytes, at, &mut cuts.scratch)?,
                Ahead::Bare | Ahead::Message => cut::scalar::<BARE>(bytes, at, &mut cuts.scratch)?,
            };
            if !kinds.has(piece.kind) || (ahead == Ahead::Message && self.is_json(&piece, bytes, cuts)) {
                return None;
            }
            cuts.pieces.push(piece);
            (at, node) = (after, behind as usize);
        }
    }

    fn is_json(&self, piece: &Piece, bytes: &[u8], cuts: &Cuts) -> bool {
        let text = if piece.kind == Kinds::PLAIN { bytes } else { &cuts.scratch };
        let text = &text[piece.start as usize..piece.end as usize];
        self.text_is_json && text.trim_ascii_start().first() == Some(&b'{')
    }

    /// Adds a layout; false when it is known already, or no room is left at one of its nodes.
    pub(super) fn add(&mut self, record: &[u8], lesson: &Lesson, assignment: Assignment) -> bool {
        let mut node = 0;
        for (step, kinds) in lesson.steps.iter().zip(&assignment.kinds) {
            let literal = &record[step.literal.clone()];
            let known = self.nodes[node].iter_mut().find_map(|edge| match &mut edge.next {
                Next::Value { ahead, kinds, node } if *ahead == step.ahead && *edge.literal.bytes == *literal => {
                    Some((kinds, *node))
                }
                _ => None,
            });
            node = match known {
                Some((known, next)) => {
                    // Layouts that share a value take only what is right for all of them.
                    *known = known.and(*kinds);
                    next as usize
                }
                None => {
                    let next = self.nodes.len();
                    let value = Next::Value { ahead: step.ahead, kinds: *kinds, node: next as u32 };
                    if !self.push(node, literal, value) {
                        return false;
                    }
                    self.nodes.push(Vec::new());
                    next
                }
            };
        }
        let tail = &record[lesson.tail.clone()];
        let is_end = |edge: &Edge| matches!(edge.next, Next::End(_)) && *edge.literal.bytes == *tail;
        let is_new = !self.nodes[node].iter().any(is_end);
        is_new && self.push(node, tail, Next::End(self.assignments.len() as u32)) && {
            self.assignments.push(assignment);
            true
        }
    }

    fn push(&mut self, node: usize, literal: &[u8], next: Next) -> bool {
        if self.nodes[node].len() >= limits::LAYOUT_BRANCHES {
            return false;
        }
        self.edges += 1;
        self.literal_bytes += literal.len();
        self.nodes[node].push(Edge { literal: Literal::new(literal), next });
        true
    }

    /// Whether the tree has to be emptied before something is added.
    pub(super) fn is_full(&self) -> bool {
        self.edges >= limits::LAYOUT_EDGES || self.literal_bytes >= limits::LAYOUT_BYTES
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.text_is_json);
    }
}

impl Edge {
    /// Whether the literal stands here and something of the right sort behind it. Of edges with the same beginning at
    /// most one does: a literal that goes on where another ends has a brace or a bracket there, which begins no scalar.
    #[inline]
    fn leads_on(&self, bytes: &[u8], at: usize, end: usize) -> bool {
        if !self.literal.stands_at(bytes, at) {
            return false;
        }
        let behind = at + self.literal.bytes.len();
        match (self.next, bytes.get(behind)) {
            (Next::End(_), _) => behind == end,
            (Next::Value { ahead: Ahead::Nested, .. }, Some(byte)) => cut::begins_scalar::<NESTED>(*byte),
            (Next::Value { ahead: Ahead::Bare, .. }, Some(byte)) => cut::begins_scalar::<BARE>(*byte),
            (Next::Value { ahead: Ahead::Message, .. }, Some(byte)) => {
                *byte == b'"' && bytes.get(behind + 1) != Some(&b'{')
            }
            (Next::Value { .. }, None) => false,
        }
    }
}
