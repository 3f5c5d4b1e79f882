//! The fast way of a record: speculating that it has a layout that was seen before.
//!
//! Logs are written by few programs, each with few ways of writing a line. So the bytes between the values are learned
//! from records that went the strict way, and compared; only values are cut out. Nothing is taken on trust: each byte
//! that is skipped was compared, each value that was cut was checked, and on any doubt the record goes the strict way,
//! which decides alone what becomes of it. Which way a record went can be seen in counters and nowhere else.
//!
//! Learning is paid from an account that hits fill, and where few records hit, few are tried: input that never repeats
//! itself costs hardly more than without all this.

use super::Plan;
use super::assign::{self, Assignment, Part, Put};
use super::columns::{Builder, Columns, Texts};
use super::cut::{Cuts, Kinds, Piece, Pieces};
use super::layout::Layouts;
use super::learn::{self, MAX_STEPS};
use super::row::{Candidates, Rows};
use super::tape::write_text;
use super::timestamp::Minute;
use super::{Envelope, Format};
use crate::record::schema::ATTRIBUTES;
use crate::time::EventTime;

/// What speculation did since it was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speculation {
    /// Records that had a known layout.
    pub hits: u64,
    /// Records that went the strict way.
    pub misses: u64,
    /// Layouts that were learned.
    pub learned: u64,
    /// Times that all layouts were forgotten because there were too many.
    pub forgotten: u64,
}

/// Learned layouts and how well they do.
#[derive(Debug)]
pub(super) struct Speculator {
    plan: Plan,
    layouts: Layouts,
    cuts: Cuts,
    text: Vec<u8>,
    minutes: Minutes,
    pub(super) done: Speculation,
    thrift: Thrift,
}

/// The minutes that were read last: of the record's own time, the envelope's, and others.
#[derive(Debug)]
struct Minutes {
    own: Minute,
    envelope: Minute,
    other: Minute,
}

/// Decides when it is worth trying, and when learning.
#[derive(Debug)]
struct Thrift {
    /// Layouts that may be learned at once; a hit adds 1 / [`HITS_PER_LESSON`].
    credit: u32,
    /// Records of this round, and hits among them.
    tried: u32,
    hits: u32,
    /// While asleep only one record of [`NAP`] is tried.
    asleep: bool,
    count: u32,
    last: Option<bool>,
}

/// A lesson costs about what ten records cost on the strict way, and a hit saves most of one.
const HITS_PER_LESSON: u32 = 16;
const MOST_CREDIT: u32 = 256 * HITS_PER_LESSON;
/// What a decoder begins with. Programs have tens of layouts; where nothing repeats, this is spent for nothing.
const FIRST_CREDIT: u32 = 128 * HITS_PER_LESSON;
/// Without credit, one record of so many is learned from all the same if it missed: input may change for the better.
const RECORDS_PER_TRIAL: u32 = 64;
/// The same while asleep, when the input has shown that it is not worth much.
const RECORDS_PER_TRIAL_ASLEEP: u32 = 256;
/// Records that are tried before it is judged whether to go on.
const ROUND: u32 = 256;
/// Of a round's records one of so many has to hit.
const WORTHWHILE: u32 = 8;
const NAP: u32 = 16;

impl Thrift {
    const NEW: Self = Self { credit: FIRST_CREDIT, tried: 0, hits: 0, asleep: false, count: 0, last: None };

    #[inline]
    fn shall_try(&mut self) -> bool {
        self.count = self.count.wrapping_add(1);
        self.last = None;
        !self.asleep || self.count.is_multiple_of(NAP)
    }

    #[inline]
    fn tried(&mut self, hit: bool) {
        self.last = Some(hit);
        self.tried += 1;
        if hit {
            self.hits += 1;
            self.credit = (self.credit + 1).min(MOST_CREDIT);
        }
        let round = if self.asleep { ROUND / NAP } else { ROUND };
        if self.tried >= round {
            self.asleep = self.hits * WORTHWHILE < self.tried;
            (self.tried, self.hits) = (0, 0);
        }
    }

    /// Whether to learn from a record that missed. One that wasn't tried may be known already.
    fn shall_learn(&mut self) -> bool {
        let trial = self.count.is_multiple_of(if self.asleep { RECORDS_PER_TRIAL_ASLEEP } else { RECORDS_PER_TRIAL });
        if self.last != Some(false) || (self.credit < HITS_PER_LESSON && !trial) {
            return false;
        }
        self.credit = self.credit.saturating_sub(HITS_PER_LESSON);
        true
    }
}

impl Speculator {
    /// `None` where there is nothing to speculate about: records that are not JSON.
    pub(super) fn new(plan: &Plan) -> Option<Self> {
        let is_json = matches!(plan.format, Format::Json | Format::Auto);
        (is_json || plan.envelope == Envelope::Fly).then(|| Self {
            plan: plan.clone(),
            layouts: Layouts::new(is_json),
            cuts: Cuts::default(),
            text: Vec::new(),
            minutes: Minutes { own: Minute::NEW, envelope: Minute::NEW, other: Minute::NEW },
            done: Speculation::default(),
            thrift: Thrift::NEW,
        })
    }

    /// Appends the record, the first `end` of `bytes`, as a row where it has a known layout, and tells whether it did.
    /// Other bytes of the batch may follow it.
    pub(super) fn record(
        &mut self,
        bytes: &[u8],
        end: usize,
        broker: Option<EventTime>,
        arrival: EventTime,
        rows: &mut Rows,
    ) -> bool {
        if !self.thrift.shall_try() {
            self.done.misses += 1;
            return false;
        }
        let hit = self.attempt(bytes, end, broker, arrival, rows).is_some();
        self.thrift.tried(hit);
        self.done.hits += u64::from(hit);
        self.done.misses += u64::from(!hit);
        hit
    }

    fn attempt(
        &mut self,
        bytes: &[u8],
        end: usize,
        broker: Option<EventTime>,
        arrival: EventTime,
        rows: &mut Rows,
    ) -> Option<()> {
        let layout = self.layouts.cut(bytes, end, &mut self.cuts)?;
        let Self { layouts, cuts, text, minutes, .. } = self;
        let assignment = layouts.assignment(layout);
        let values = Values { bytes, scratch: &cuts.scratch, pieces: &cuts.pieces };
        let own = values.time(assignment.own_time, rows, &mut minutes.own)?;
        let envelope = values.time(assignment.envelope_time, rows, &mut minutes.envelope)?;
        let chosen = Candidates { own, envelope, broker, arrival }.choose(rows.times().max_future());
        if chosen.own_is_future || chosen.envelope_is_future {
            return None;
        }
        for put in &assignment.times {
            values.time(Some(put.step), rows, &mut minutes.other)?;
        }
        // From here on nothing fails, so the row is whole.
        rows.put_times(&chosen, broker.unwrap_or(arrival));
        for put in &assignment.times {
            if let Some(Some(time)) = values.time(Some(put.step), rows, &mut minutes.other) {
                let row = rows.columns.row;
                rows.columns.builders[usize::from(put.column)].append_micros(row, time.micros());
            }
        }
        values.append(assignment, text, &mut rows.columns);
        Some(())
    }

    /// A record that missed was taken by the strict way, without a flaw.
    pub(super) fn learn(&mut self, record: &[u8], rows: &Rows) {
        if !self.thrift.shall_learn() {
            return;
        }
        let Some(lesson) = learn::learn(record, &self.plan) else { return };
        let Some(assignment) = assign::assign(&lesson, &self.plan.schema, rows.fields(), &self.plan.needed) else {
            return;
        };
        if self.layouts.is_full() {
            self.layouts.clear();
            self.done.forgotten += 1;
        }
        self.done.learned += u64::from(self.layouts.add(record, &lesson, assignment));
    }
}

/// The values of a record.
#[derive(Debug, Clone, Copy)]
struct Values<'c> {
    bytes: &'c [u8],
    scratch: &'c [u8],
    pieces: &'c Pieces,
}

impl<'c> Values<'c> {
    #[inline]
    fn piece(&self, step: u16) -> &'c Piece {
        self.pieces.of(step)
    }

    fn text(&self, piece: &Piece) -> &'c [u8] {
        if piece.kind == Kinds::PLAIN { &self.bytes[piece.range()] } else { &self.scratch[piece.range()] }
    }

    /// The inner `None` is that there is no time, the outer that it cannot be read.
    #[expect(clippy::option_option, reason = "not readable and not there are two different things here")]
    #[inline(always)]
    fn time(&self, step: Option<u16>, rows: &Rows, minute: &mut Minute) -> Option<Option<EventTime>> {
        let Some(piece) = step.map(|step| self.piece(step)) else { return Some(None) };
        if piece.kind == Kinds::PLAIN {
            return rows.times().read_bytes(&self.bytes[piece.range()], minute).map(Some);
        }
        match piece.kind {
            Kinds::NULL => Some(None),
            Kinds::INT => rows.times().read_int(piece.int()).map(Some),
            Kinds::FLOAT => rows.times().read_float(piece.float()).map(Some),
            Kinds::UNESCAPED => rows.times().read_bytes(self.text(piece), minute).map(Some),
            _ => None,
        }
    }

    /// Appends all values but times.
    fn append(&self, assignment: &Assignment, text: &mut Vec<u8>, columns: &mut Columns) {
        let Columns { builders, texts, row, .. } = columns;
        let row = std::mem::replace(row, *row + 1);
        self.append_texts(&assignment.texts, row, texts);
        for put in &assignment.numbers {
            let piece = self.piece(put.step);
            match &mut builders[usize::from(put.column)] {
                _ if piece.kind == Kinds::NULL => {}
                Builder::Int(column) => column.push(row, piece.int()),
                Builder::Float(column) if piece.kind == Kinds::INT => column.push(row, piece.int() as f64),
                Builder::Float(column) => column.push(row, piece.float()),
                Builder::Bool(column) => column.push(row, piece.is_true()),
                _ => unreachable!("values were assigned by their columns' types"),
            }
        }
        for (column, parts) in &assignment.jsons {
            // A null is no JSON text, but no value.
            if !matches!(parts[..], [Part::Value(step)] if self.piece(step).kind == Kinds::NULL) {
                self.write(parts, text);
                texts[usize::from(*column)].push(row, text);
            }
        }
        if !assignment.attributes.is_empty() {
            self.write(&assignment.attributes, text);
            texts[ATTRIBUTES].push(row, text);
        }
    }

    /// Most of what a record has. By itself, so that all that it needs is in registers.
    #[inline(never)]
    fn append_texts(&self, puts: &[Put], row: usize, texts: &mut [Texts]) {
        let (bytes, pieces) = (self.bytes, self.pieces.all());
        for put in puts {
            let Some(column) = texts.get_mut(usize::from(put.column)) else { continue };
            let piece = &pieces[usize::from(put.step) % MAX_STEPS];
            if piece.kind == Kinds::PLAIN {
                column.push_cut(row, bytes, piece.range());
            } else if piece.kind == Kinds::UNESCAPED {
                column.push(row, &self.scratch[piece.range()]);
            }
        }
    }

    fn write(&self, parts: &[Part], out: &mut Vec<u8>) {
        out.clear();
        for part in parts {
            match part {
                Part::Literal(bytes) => out.extend_from_slice(bytes),
                Part::Value(step) => self.write_value(self.piece(*step), out),
            }
        }
    }

    /// As the strict way writes a value.
    fn write_value(&self, piece: &Piece, out: &mut Vec<u8>) {
        let written = match piece.kind {
            Kinds::PLAIN => {
                // Nothing in it needs an escape.
                out.push(b'"');
                out.extend_from_slice(self.text(piece));
                out.push(b'"');
                Ok(())
            }
            Kinds::UNESCAPED => {
                write_text(std::str::from_utf8(self.text(piece)).expect("it was checked when it was cut"), out);
                Ok(())
            }
            Kinds::INT => serde_json::to_writer(out, &piece.int()),
            Kinds::FLOAT => serde_json::to_writer(out, &piece.float()),
            Kinds::BOOL => serde_json::to_writer(out, &piece.is_true()),
            _ => serde_json::to_writer(out, &()),
        };
        written.expect("writing to memory cannot fail");
    }
}
