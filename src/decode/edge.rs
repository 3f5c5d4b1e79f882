//! The edges of the tree of layouts: a literal, and what is to be expected behind it.

use super::cut::{self, Cuts, Kinds, Quote};
use super::learn::Ahead;
use wide::u8x16;

/// The first 32 bytes of a literal, or as many as it has, as vectors.
#[derive(Debug)]
pub(super) struct Head {
    bytes: [u8x16; 2],
    /// All bits of each byte that does not count.
    spare: [u8x16; 2],
}

/// A literal, with what makes its comparison cheap.
#[derive(Debug)]
pub(super) struct Literal {
    head: Head,
    pub(super) bytes: Box<[u8]>,
}

const LANES: usize = 16;
/// Bytes of a literal that are compared at once.
pub(super) const HEAD: usize = 2 * LANES;

fn vectors(bytes: &[u8; HEAD]) -> [u8x16; 2] {
    let (lanes, _) = bytes.as_chunks::<LANES>();
    [u8x16::new(lanes[0]), u8x16::new(lanes[1])]
}

impl Head {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let (mut head, mut spare) = ([0; HEAD], [0xff; HEAD]);
        let length = bytes.len().min(HEAD);
        head[..length].copy_from_slice(&bytes[..length]);
        spare[..length].fill(0);
        Self { bytes: vectors(&head), spare: vectors(&spare) }
    }

    /// Whether it stands there.
    #[inline(always)]
    pub(super) fn begins(&self, bytes: &[u8; HEAD]) -> bool {
        let found = vectors(bytes);
        let first = found[0].simd_eq(self.bytes[0]) | self.spare[0];
        let second = found[1].simd_eq(self.bytes[1]) | self.spare[1];
        (first & second).to_bitmask() == 0xffff
    }
}

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        Self { head: Head::new(bytes), bytes: bytes.into() }
    }

    /// The place behind the literal, where it stands at `at`.
    #[inline(always)]
    pub(super) fn behind(&self, record: &[u8], at: usize) -> Option<usize> {
        let behind = at + self.bytes.len();
        let stands = match record.get(at..).and_then(<[u8]>::first_chunk) {
            Some(chunk) => {
                self.head.begins(chunk) && (self.bytes.len() <= HEAD || record.get(at..behind) == Some(&self.bytes))
            }
            // Near the end of the batch.
            None => record.get(at..behind) == Some(&self.bytes),
        };
        if stands { Some(behind) } else { None }
    }
}

/// What a literal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Value(Ahead),
    /// The end of the record.
    End,
}

/// What stands behind a literal more often than not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// A text without escapes, whose quote belongs to the edge's `run`.
    Text,
    Number,
    End,
    /// Something for which there is no short way.
    Other,
}

/// What `Layouts::chain` needs of an edge: two cache lines.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Run {
    /// The literal between the quotes of the texts that are expected before and behind it.
    pub(super) text: Head,
    /// Its bytes.
    pub(super) length: u32,
    /// Bytes of the quote that closes the text behind the literal, where one is expected. The node's edges have it in
    /// their runs, so the chain compares both at once.
    pub(super) close: u32,
    /// Of the node's edges the one that is tried first.
    pub(super) first: u32,
    /// The edge of the same node that is tried when this one leads nowhere.
    pub(super) sibling: u32,
    /// The number of the layout that is complete at the record's end.
    pub(super) layout: u32,
    /// Kinds of the value that may stand there.
    pub(super) kinds: Kinds,
    /// [`Course::Other`] where the literal is too long to be compared at once.
    pub(super) course: Course,
    /// Whether that is [`Course::Text`].
    pub(super) is_text: bool,
    pub(super) goal: Goal,
}

/// An edge of the tree, and the node that it leads to.
#[derive(Debug)]
pub(super) struct Edge {
    /// The edge that leads to the place of this one.
    pub(super) parent: u32,
    pub(super) quote: Quote,
    pub(super) literal: Literal,
}

/// Edges of a node that `Layouts::chain` tries. Of those that it tries in vain all are tried once more, in
/// `Layouts::step`, so more of them cost much where each record has another layout.
const TRIES: usize = 6;

/// No edge.
pub(super) const NONE: u32 = u32::MAX;

/// The edge of a node of which the run's first bytes stand there: the one that was taken last, or one of the next ones.
#[inline(always)]
pub(super) fn beginning<'r>(runs: &'r mut [Run], node: usize, head: &[u8; HEAD]) -> Option<(usize, &'r Run)> {
    let first = runs[node].first as usize;
    if runs.get(first)?.text.begins(head) { Some((first, &runs[first])) } else { another(runs, node, head) }
}

/// The same for the ones that weren't taken last.
#[inline(never)]
fn another<'r>(runs: &'r mut [Run], node: usize, head: &[u8; HEAD]) -> Option<(usize, &'r Run)> {
    let first = runs[node].first;
    let mut before = first as usize;
    for _ in 1..TRIES {
        let number = runs[before].sibling;
        let run = runs.get(number as usize)?;
        if run.text.begins(head) {
            let sibling = run.sibling;
            runs[before].sibling = sibling;
            runs[number as usize].sibling = first;
            runs[node].first = number;
            return Some((number as usize, &runs[number as usize]));
        }
        before = number as usize;
    }
    None
}

impl Course {
    /// What is to be expected where a value began with this byte.
    pub(super) fn of(ahead: Ahead, begin: u8) -> Self {
        match (ahead, begin) {
            (Ahead::Bare, b'"') | (Ahead::Nested, b'\\') => Self::Text,
            (Ahead::Bare | Ahead::Nested, b'-' | b'0'..=b'9') => Self::Number,
            _ => Self::Other,
        }
    }
}

impl Run {
    /// Takes only values of these kinds from now on.
    pub(super) fn narrow(&mut self, kinds: Kinds) {
        self.kinds = self.kinds.and(kinds);
        if self.course == Course::Text && !self.kinds.has(Kinds::PLAIN) {
            self.course = Course::Other;
        }
        self.is_text = self.course == Course::Text;
        if self.course == Course::Other {
            // Nothing that JSON has, so that the chain passes it over: another one may begin alike.
            self.text = Head::new(&[0; HEAD]);
        }
    }
}

impl Edge {
    /// `before` is the quote that is expected before the literal.
    pub(super) fn new(before: &[u8], literal: &[u8], goal: Goal, kinds: Kinds, course: Course) -> (Self, Run) {
        let quote = if goal == Goal::Value(Ahead::Nested) { Quote::NESTED } else { Quote::BARE };
        let behind: &[u8] = if course == Course::Text { quote.as_bytes() } else { b"" };
        let text = [before, literal, behind].concat();
        let mut run = Run {
            text: Head::new(&text),
            length: text.len() as u32,
            close: behind.len() as u32,
            first: NONE,
            sibling: NONE,
            layout: NONE,
            kinds: Kinds::ANY,
            course: if text.len() > HEAD { Course::Other } else { course },
            is_text: false,
            goal,
        };
        run.narrow(kinds);
        (Self { parent: 0, quote, literal: Literal::new(literal) }, run)
    }

    /// Cuts what stands behind the literal, at `at`, and returns the place behind.
    #[inline(always)]
    pub(super) fn cut(
        &self,
        run: &Run,
        bytes: &[u8],
        at: usize,
        end: usize,
        text_is_json: bool,
        cuts: &mut Cuts,
    ) -> Option<usize> {
        match run.goal {
            Goal::Value(Ahead::Nested | Ahead::Bare) => cut::scalar(bytes, at, self.quote, run.kinds, cuts),
            Goal::Value(Ahead::Message) => self.cut_message(run.kinds, bytes, at, text_is_json, cuts),
            Goal::End => (at == end).then_some(at),
        }
    }

    #[inline(never)]
    fn cut_message(&self, kinds: Kinds, bytes: &[u8], at: usize, text_is_json: bool, cuts: &mut Cuts) -> Option<usize> {
        // Seen at once where the brace stands first; behind blanks or escapes it is seen when the text has been cut.
        if text_is_json && bytes.get(at + 1) == Some(&b'{') {
            return None;
        }
        let behind = cut::scalar(bytes, at, self.quote, kinds, cuts)?;
        if text_is_json && cuts.last_text(bytes).trim_ascii_start().first() == Some(&b'{') {
            cuts.pieces.pop();
            return None;
        }
        Some(behind)
    }
}
