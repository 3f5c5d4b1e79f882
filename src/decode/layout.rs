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
use super::cut::{self, Cuts, Kinds, Piece};
use super::edge::{Course, Edge, Goal, HEAD, Head, NONE, Run, beginning};
use super::learn::{Ahead, Lesson};
use crate::limits;

/// The beginning of a record, up to its message: for lines that one program wrote it is the same, values included.
#[derive(Debug)]
struct Opening {
    bytes: Box<[u8]>,
    pieces: Box<[Piece]>,
    node: u32,
}

/// The last 32 bytes of an opening, which tell most of them apart.
#[derive(Debug)]
struct Tail {
    text: Head,
    /// Where they begin.
    at: usize,
}

/// How far a record was cut: up to a byte, behind a value; and up to a node.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    node: usize,
}

/// Openings that are remembered: programs × instances × levels that write at the same time.
const OPENINGS: usize = 16;

/// The layouts of one decoder.
#[derive(Debug)]
pub(super) struct Layouts {
    /// The first one leads to the root. A node has the number of the edge that leads to it.
    edges: Vec<Edge>,
    /// The same edges' runs.
    runs: Vec<Run>,
    assignments: Vec<Assignment>,
    literal_bytes: usize,
    openings: Vec<Opening>,
    /// One for each opening.
    tails: Vec<Tail>,
    /// The one that gives way to the next one that is new.
    oldest: usize,
    /// Texts that begin with a brace are JSON, and are not taken for text.
    text_is_json: bool,
}

impl Layouts {
    pub(super) fn new(text_is_json: bool) -> Self {
        let (edge, run) = Edge::new(b"", b"", Goal::End, Kinds::ANY, Course::Other);
        Self {
            edges: vec![edge],
            runs: vec![run],
            assignments: Vec::new(),
            literal_bytes: 0,
            openings: Vec::new(),
            tails: Vec::new(),
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
            if let Some(layout) = found {
                break layout;
            }
            let (before, pieces) = (place, cuts.pieces.get().len());
            match self.step(bytes, end, &mut place, cuts)? {
                Run { goal: Goal::End, layout, .. } => break *layout,
                Run { goal: Goal::Value(Ahead::Nested), .. } if opening.is_none() && !is_known => {
                    opening = Some((before, pieces));
                }
                _ => {}
            }
        };
        if let Some((before, pieces)) = opening {
            self.remember(&bytes[..before.at], &cuts.pieces.get()[..pieces], before.node, layout);
        }
        Some(layout)
    }

    /// Goes on along edges with short literals and behind them texts without escapes or numbers, as long as there are
    /// any. Returns the layout when the record ends there; else `place` is how far it came. Most lines
    /// are cut here from their messages to their ends, so there is nothing in the loop but that. When asked it halts before
    /// a message's first value.
    ///
    /// The quote that closes a text is compared together with the literal behind it. So while it stands at `at`, between
    /// a text and the next literal, the text is not known to end there.
    #[inline(never)]
    fn chain<const HALTS: bool>(
        &mut self,
        bytes: &[u8],
        end: usize,
        place: &mut Place,
        cuts: &mut Cuts,
    ) -> Option<u32> {
        let (runs, index) = (self.runs.as_mut_slice(), cuts.index.view());
        let mut node = place.node;
        // Of a value that is no text these bytes are its own, so nothing is found there.
        let mut at = place.at.checked_sub(runs[node].close as usize)?;
        while let Some(head) = bytes.get(at..).and_then(<[u8]>::first_chunk)
            && let Some((number, run)) = beginning(runs, node, head)
            && !(HALTS && run.goal == Goal::Value(Ahead::Nested))
        {
            let start = at + run.length as usize;
            if run.is_text {
                let Some(stop) = index.next(start) else { break };
                cuts.pieces.push_text(Kinds::PLAIN, start, stop);
                at = stop;
            } else if run.course == Course::Number {
                let Some(behind) = cut::number(bytes, start, run.kinds, &mut cuts.pieces) else { break };
                at = behind;
            } else if run.course == Course::End && start == end {
                return Some(run.layout);
            } else {
                break;
            }
            node = number;
        }
        if node != place.node {
            *place = self.halt(bytes, at, node, cuts);
        }
        None
    }

    /// Where the chain ended: behind the last value; before the last literal, if a text doesn't end where it seemed to.
    fn halt(&self, bytes: &[u8], at: usize, node: usize, cuts: &mut Cuts) -> Place {
        let (edge, close) = (&self.edges[node], self.runs[node].close as usize);
        if close == 0 {
            return Place { at, node };
        }
        if edge.quote.stands_at(bytes, at) == Some(true) {
            return Place { at: at + close, node };
        }
        let start = cuts.take_text();
        Place { at: start - close - edge.literal.bytes.len(), node: edge.parent as usize }
    }

    /// Goes on by one literal and the value behind it, along whichever edge leads on and whatever value that is.
    fn step(&mut self, bytes: &[u8], end: usize, place: &mut Place, cuts: &mut Cuts) -> Option<&Run> {
        let Place { at, node } = *place;
        let first = self.runs[node].first;
        let mut number = first;
        let after = loop {
            let edge = self.edges.get(number as usize)?;
            let run = &self.runs[number as usize];
            if let Some(behind) = edge.literal.behind(bytes, at)
                && let Some(after) = edge.cut(run, bytes, behind, end, self.text_is_json, cuts)
            {
                break after;
            }
            number = run.sibling;
        };
        if number != first {
            self.prefer(node, number);
        }
        *place = Place { at: after, node: number as usize };
        Some(&self.runs[number as usize])
    }

    /// Where to go on behind an opening that is known, with its values already cut; the beginning otherwise.
    fn open(&self, record: &[u8], cuts: &mut Cuts) -> Place {
        cuts.clear();
        for (number, tail) in self.tails.iter().enumerate() {
            if let Some(head) = record.get(tail.at..).and_then(<[u8]>::first_chunk)
                && tail.text.begins(head)
                && let Some(opening) = self.openings.get(number)
                && record.starts_with(&opening.bytes)
            {
                cuts.pieces.set(&opening.pieces);
                return Place { at: opening.bytes.len(), node: opening.node as usize };
            }
        }
        Place { at: 0, node: 0 }
    }

    #[cold]
    fn remember(&mut self, bytes: &[u8], pieces: &[Piece], node: usize, layout: u32) {
        // Texts with escapes are not where the opening says, and one with the time in it is not seen again.
        let time = self.assignment(layout).envelope_time;
        if time.is_some_and(|step| usize::from(step) < pieces.len())
            || bytes.len() < HEAD
            || pieces.iter().any(|piece| piece.kind == Kinds::UNESCAPED)
        {
            return;
        }
        let at = bytes.len() - HEAD;
        let tail = Tail { text: Head::new(&bytes[at..]), at };
        let opening = Opening { bytes: bytes.into(), pieces: pieces.into(), node: node as u32 };
        if self.openings.len() < OPENINGS {
            self.openings.push(opening);
            self.tails.push(tail);
        } else {
            (self.openings[self.oldest], self.tails[self.oldest]) = (opening, tail);
        }
        self.oldest = (self.oldest + 1) % OPENINGS;
    }

    /// Lets the node try this edge first.
    #[cold]
    fn prefer(&mut self, node: usize, number: u32) {
        let behind = self.runs[number as usize].sibling;
        let mut before = self.runs[node].first;
        while self.runs[before as usize].sibling != number {
            before = self.runs[before as usize].sibling;
        }
        self.runs[before as usize].sibling = behind;
        self.runs[number as usize].sibling = self.runs[node].first;
        self.runs[node].first = number;
    }

    /// Adds a layout; false when it is known already, or no room is left at one of its nodes.
    pub(super) fn add(&mut self, record: &[u8], lesson: &Lesson, assignment: Assignment) -> bool {
        // Their values were found right by edges that may take less from now on.
        self.openings.clear();
        self.tails.clear();
        self.oldest = 0;
        let mut node = 0;
        for (step, kinds) in lesson.steps.iter().zip(&assignment.kinds) {
            let literal = &record[step.literal.clone()];
            node = match self.find(node, literal, Goal::Value(step.ahead)) {
                Some(known) => {
                    // Layouts that share a value take only what is right for all of them.
                    self.runs[known].narrow(*kinds);
                    known
                }
                None => {
                    let course = Course::of(step.ahead, record[step.literal.end]);
                    let before = self.closing(node);
                    match self.push(node, Edge::new(before, literal, Goal::Value(step.ahead), *kinds, course)) {
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
        let (edge, run) = Edge::new(self.closing(node), tail, Goal::End, Kinds::ANY, Course::End);
        let added = self.push(node, (edge, Run { layout, ..run }));
        if added.is_some() {
            self.assignments.push(assignment);
        }
        added.is_some()
    }

    /// The quote that is expected before the node's literals.
    fn closing(&self, node: usize) -> &'static [u8] {
        if self.runs[node].close > 0 { self.edges[node].quote.as_bytes() } else { b"" }
    }

    /// The edges of a node, by number.
    fn edges_of(&self, node: usize) -> impl Iterator<Item = usize> {
        let known = |number: u32| (number != NONE).then_some(number as usize);
        std::iter::successors(known(self.runs[node].first), move |number| known(self.runs[*number].sibling))
    }

    fn find(&self, node: usize, literal: &[u8], goal: Goal) -> Option<usize> {
        let is_it = |number: &usize| self.runs[*number].goal == goal && *self.edges[*number].literal.bytes == *literal;
        self.edges_of(node).find(is_it)
    }

    /// The number of the new edge; `None` when the node has no room for it.
    fn push(&mut self, node: usize, (edge, run): (Edge, Run)) -> Option<usize> {
        if self.edges_of(node).count() >= limits::LAYOUT_BRANCHES {
            return None;
        }
        self.literal_bytes += edge.literal.bytes.len();
        let number = self.edges.len();
        let sibling = std::mem::replace(&mut self.runs[node].first, number as u32);
        self.edges.push(Edge { parent: node as u32, ..edge });
        self.runs.push(Run { sibling, ..run });
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
