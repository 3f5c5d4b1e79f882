//! One record → one row: values into their columns, everything else into `attributes`.

use super::Plan;
use super::columns::{Builder, Columns};
use super::envelope::Parts;
use super::fields::Fields;
use super::tape::{behind, kind, members, text, write_json, write_text};
use super::timestamp::TimeFormats;
use crate::record::dead::DeadReason;
use crate::record::schema::{ATTRIBUTES, Schema};
use crate::time::{EventTime, Span};
use arrow::array::RecordBatch;
use simd_json::{Node, StaticNode};
use std::sync::Arc;

pub(super) const TS: usize = 0;
pub(super) const TS_SOURCE: usize = 1;
pub(super) const INGEST_TS: usize = 2;
pub(super) const APP: usize = 3;
pub(super) const LEVEL: usize = 8;
pub(super) const MESSAGE: usize = 10;

/// What is known of a record besides its own text.
#[derive(Debug)]
pub(super) struct Context<'e, 'i> {
    /// The envelope's nodes, its parts, and which of its values have no column.
    pub(super) envelope: Option<(&'e [Node<'i>], &'e Parts<'i>, &'e [usize])>,
    pub(super) broker_time: Option<EventTime>,
    pub(super) arrival: EventTime,
    /// Whether values are text that has to be read (logfmt), not typed values (JSON).
    pub(super) untyped: bool,
}

/// The record's own content.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'e, 'i> {
    /// An object in a tape, and the index at which it starts.
    Object(&'e [Node<'i>], usize),
    Text(&'e str),
}

/// What was wrong with a row that was kept all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flaws {
    /// A value of another type than its column's.
    pub(super) type_clash: bool,
    /// A time that cannot be read.
    pub(super) bad_timestamp: bool,
    /// A time too far ahead to be used.
    pub(super) future_timestamp: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Number of the record that set it. 64 bits: 32 wrap around within a day, and an old value would look new.
    generation: u64,
    rank: u8,
    value_at: usize,
}

/// Writes rows into columns. All memory is kept between records.
#[derive(Debug)]
pub(super) struct Rows {
    schema: Arc<Schema>,
    fields: Fields,
    pub(super) columns: Columns,
    times: TimeFormats,
    /// For each column, where its value stands in the record, when `generation` is the current one.
    slots: Vec<Slot>,
    generation: u64,
    /// Values that lost their column to another one.
    displaced: Vec<usize>,
    /// The members of `attributes`, without braces, each followed by a comma.
    attributes: Vec<u8>,
    has_required: bool,
}

impl Rows {
    pub(super) fn new(plan: &Plan) -> Self {
        let (schema, times) = (Arc::clone(&plan.schema), plan.times.clone());
        Self {
            fields: Fields::new(&schema),
            columns: Columns::new(&schema, &plan.needed),
            slots: vec![Slot::default(); schema.columns.len()],
            has_required: schema.columns.iter().any(|column| column.required),
            generation: 0,
            displaced: Vec::new(),
            attributes: Vec::new(),
            times,
            schema,
        }
    }

    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    pub(super) fn times(&self) -> &TimeFormats {
        &self.times
    }

    /// The rows since the last call.
    pub(super) fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }

    /// Appends one row.
    ///
    /// # Errors
    /// When a required column is missing; nothing was appended then.
    pub(super) fn append(
        &mut self,
        content: Content<'_, '_>,
        context: &Context<'_, '_>,
    ) -> Result<Flaws, (DeadReason, String)> {
        let mut flaws = Flaws::default();
        self.generation += 1;
        self.displaced.clear();
        self.attributes.clear();
        let (nodes, message): (&[Node<'_>], _) = match content {
            Content::Object(nodes, at) => {
                self.scan(nodes, at, 0);
                (nodes, None)
            }
            Content::Text(message) => (&[], Some(message)),
        };
        if self.has_required {
            self.check_required(nodes, message, context)?;
        }
        self.append_times(nodes, context, &mut flaws);
        self.append_built_in(nodes, message, context, &mut flaws);
        for column in ATTRIBUTES + 1..self.slots.len() {
            self.append_field(nodes, column, context.untyped, &mut flaws);
        }
        self.append_attributes(nodes, context);
        self.columns.row += 1;
        Ok(flaws)
    }

    /// Finds the column of each member; what has none goes to `attributes` at once.
    fn scan(&mut self, nodes: &[Node<'_>], object: usize, table: u16) {
        members(nodes, object, |place, key, at| {
            let action = self.fields.find(table, place, key).unwrap_or_default();
            match (action.table, action.column) {
                // An object without members has nothing for any column, and is kept as what it is.
                (Some(table), _) if matches!(nodes[at], Node::Object { len: 1.., .. }) => {
                    self.descend(nodes, key, at, table);
                }
                (_, Some((column, rank))) => self.take_slot(usize::from(column), rank, at),
                _ => self.add_attribute(key, nodes, at),
            }
        });
    }

    fn descend(&mut self, nodes: &[Node<'_>], key: &str, at: usize, table: u16) {
        let before = self.attributes.len();
        write_text(key, &mut self.attributes);
        self.attributes.extend_from_slice(b":{");
        let opened = self.attributes.len();
        self.scan(nodes, at, table);
        if self.attributes.len() == opened {
            self.attributes.truncate(before);
        } else {
            self.attributes.pop();
            self.attributes.extend_from_slice(b"},");
        }
    }

    /// Of several keys of a column, the one that its `from` list names first wins; of equal ones the later.
    fn take_slot(&mut self, column: usize, rank: u8, value_at: usize) {
        let slot = &mut self.slots[column];
        if slot.generation != self.generation {
            *slot = Slot { generation: self.generation, rank, value_at };
        } else if rank <= slot.rank {
            self.displaced.push(std::mem::replace(&mut slot.value_at, value_at));
            slot.rank = rank;
        } else {
            self.displaced.push(value_at);
        }
    }

    fn slot(&self, column: usize) -> Option<usize> {
        let slot = self.slots[column];
        (slot.generation == self.generation).then_some(slot.value_at)
    }

    /// What the envelope or a text gives counts, too. A required `ts` is the record's own.
    fn check_required(
        &self,
        nodes: &[Node<'_>],
        message: Option<&str>,
        context: &Context<'_, '_>,
    ) -> Result<(), (DeadReason, String)> {
        for (index, column) in self.schema.columns.iter().enumerate().filter(|(_, column)| column.required) {
            let given = match index {
                APP..LEVEL => context.envelope.is_some_and(|(_, parts, _)| parts.given()[index - APP].is_some()),
                LEVEL => {
                    self.slot(LEVEL).is_none() && context.envelope.is_some_and(|(_, parts, _)| parts.level.is_some())
                }
                MESSAGE => message.is_some(),
                _ => false,
            };
            let found = match self.slot(index) {
                _ if given => continue,
                None => "is missing".to_owned(),
                Some(at) if !fits(&self.columns.builders[index], nodes, at, context.untyped, &self.times) => {
                    format!("is {}, not {}", kind(nodes, at), column.kind.as_str())
                }
                Some(_) => continue,
            };
            return Err((DeadReason::MissingRequired, format!("required column {} {found}", column.name)));
        }
        Ok(())
    }

    fn append_times(&mut self, nodes: &[Node<'_>], context: &Context<'_, '_>, flaws: &mut Flaws) {
        let own_at = self.slot(TS).filter(|at| !matches!(nodes[*at], Node::Static(StaticNode::Null)));
        let own = own_at.map(|at| read_time(nodes, at, &self.times));
        let envelope = context.envelope.and_then(|(_, parts, _)| parts.timestamp);
        let candidates = Candidates {
            own: own.flatten(),
            envelope: envelope.and_then(|text| self.times.read_text(text)),
            broker: context.broker_time,
            arrival: context.arrival,
        };
        let chosen = candidates.choose(self.times.max_future());
        if let Some(at) = own_at {
            flaws.bad_timestamp |= own == Some(None);
            flaws.future_timestamp |= chosen.own_is_future;
            if own == Some(None) || chosen.own_is_future {
                self.displaced.push(at);
            }
        }
        if let Some(text) = envelope
            && (candidates.envelope.is_none() || chosen.envelope_is_future)
        {
            flaws.bad_timestamp |= candidates.envelope.is_none();
            flaws.future_timestamp |= chosen.envelope_is_future;
            self.attributes.extend_from_slice(b"\"envelope_timestamp\":");
            write_text(text, &mut self.attributes);
            self.attributes.push(b',');
        }
        self.put_times(&chosen, context.broker_time.unwrap_or(context.arrival));
    }

    /// The three columns of times that every row has.
    pub(super) fn put_times(&mut self, chosen: &Chosen, ingested: EventTime) {
        let row = self.columns.row;
        self.columns.builders[TS].append_micros(row, chosen.time.micros());
        self.columns.texts[TS_SOURCE].push_cut(row, SOURCES, chosen.source.start..chosen.source.end);
        self.columns.builders[INGEST_TS].append_micros(row, ingested.micros());
    }

    fn put_text(&mut self, column: usize, text: &str) {
        let row = self.columns.row;
        self.columns.texts[column].push(row, text.as_bytes());
    }

    fn append_built_in(
        &mut self,
        nodes: &[Node<'_>],
        message: Option<&str>,
        context: &Context<'_, '_>,
        flaws: &mut Flaws,
    ) {
        let no_parts = Parts::default();
        let parts = context.envelope.map_or(&no_parts, |(_, parts, _)| parts);
        for (column, value) in (APP..LEVEL).zip(parts.given()) {
            match value {
                Some(value) => {
                    self.displaced.extend(self.slot(column));
                    self.put_text(column, value);
                }
                None => self.append_field(nodes, column, context.untyped, flaws),
            }
        }
        match (self.slot(LEVEL), parts.level) {
            (None, Some(level)) => self.put_text(LEVEL, level),
            _ => self.append_field(nodes, LEVEL, context.untyped, flaws),
        }
        for column in LEVEL + 1..MESSAGE {
            self.append_field(nodes, column, context.untyped, flaws);
        }
        match message {
            Some(message) => self.put_text(MESSAGE, message),
            None => self.append_field(nodes, MESSAGE, context.untyped, flaws),
        }
    }

    fn append_field(&mut self, nodes: &[Node<'_>], column: usize, untyped: bool, flaws: &mut Flaws) {
        let Some(at) = self.slot(column) else { return };
        if !append_value(&mut self.columns, column, nodes, at, untyped, &self.times) {
            flaws.type_clash = true;
            self.displaced.push(at);
        }
    }

    fn append_attributes(&mut self, nodes: &[Node<'_>], context: &Context<'_, '_>) {
        for index in 0..self.displaced.len() {
            let at = self.displaced[index];
            let key = text(nodes, at - 1).expect("a member's key stands before its value");
            self.add_attribute(key, nodes, at);
        }
        if let Some((nodes, _, unknown)) = context.envelope
            && !unknown.is_empty()
        {
            self.attributes.extend_from_slice(b"\"envelope\":{");
            for at in unknown {
                self.add_attribute(text(nodes, at - 1).expect("a member's key stands before its value"), nodes, *at);
            }
            self.attributes.pop();
            self.attributes.extend_from_slice(b"},");
        }
        if self.attributes.is_empty() {
            return;
        }
        self.attributes.insert(0, b'{');
        *self.attributes.last_mut().expect("it is not empty") = b'}';
        let row = self.columns.row;
        self.columns.texts[ATTRIBUTES].push(row, &self.attributes);
    }

    fn add_attribute(&mut self, key: &str, nodes: &[Node<'_>], at: usize) {
        write_text(key, &mut self.attributes);
        self.attributes.push(b':');
        write_json(nodes, at, &mut self.attributes);
        self.attributes.push(b',');
    }
}

/// The times that a record could have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates {
    pub(super) own: Option<EventTime>,
    pub(super) envelope: Option<EventTime>,
    pub(super) broker: Option<EventTime>,
    pub(super) arrival: EventTime,
}

/// What a time can come from, with bytes behind it so that each name is copied at once.
const SOURCES: &[u8] = b"arrival broker envelope event                                ";

/// Where the name stands in [`SOURCES`].
#[derive(Debug, Clone, Copy)]
struct Source {
    start: usize,
    end: usize,
}

impl Source {
    const ARRIVAL: Self = Self { start: 0, end: 7 };
    const BROKER: Self = Self { start: 8, end: 14 };
    const ENVELOPE: Self = Self { start: 15, end: 23 };
    const EVENT: Self = Self { start: 24, end: 29 };
}

#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) time: EventTime,
    source: Source,
    pub(super) own_is_future: bool,
    pub(super) envelope_is_future: bool,
}

impl Candidates {
    /// The record's own time, else the envelope's, the broker's, that of arrival. One that lies more than `max_future`
    /// after the next usable one behind it is not usable.
    pub(super) fn choose(self, max_future: Span) -> Chosen {
        let usable = |time: EventTime, reference: EventTime| time <= reference + max_future;
        let mut chosen =
            Chosen { time: self.arrival, source: Source::ARRIVAL, own_is_future: false, envelope_is_future: false };
        if let Some(broker) = self.broker.filter(|time| usable(*time, chosen.time)) {
            (chosen.time, chosen.source) = (broker, Source::BROKER);
        }
        if let Some(envelope) = self.envelope {
            chosen.envelope_is_future = !usable(envelope, chosen.time);
            if !chosen.envelope_is_future {
                (chosen.time, chosen.source) = (envelope, Source::ENVELOPE);
            }
        }
        if let Some(own) = self.own {
            chosen.own_is_future = !usable(own, chosen.time);
            if !chosen.own_is_future {
                (chosen.time, chosen.source) = (own, Source::EVENT);
            }
        }
        chosen
    }
}

fn read_time(nodes: &[Node<'_>], at: usize, times: &TimeFormats) -> Option<EventTime> {
    match nodes[at] {
        Node::String(text) => times.read_text(text),
        Node::Static(StaticNode::I64(number)) => times.read_int(number),
        Node::Static(StaticNode::U64(number)) => i64::try_from(number).ok().and_then(|n| times.read_int(n)),
        Node::Static(StaticNode::F64(number)) => times.read_float(number),
        _ => None,
    }
}

fn as_int(node: Node<'_>, untyped: bool) -> Option<i64> {
    match node {
        Node::Static(StaticNode::I64(number)) => Some(number),
        Node::Static(StaticNode::U64(number)) => i64::try_from(number).ok(),
        // 200.0 is how some encoders write 200; below 2^53 nothing is lost.
        Node::Static(StaticNode::F64(number)) => {
            (number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0).then_some(number as i64)
        }
        Node::String(text) if untyped => text.parse().ok(),
        _ => None,
    }
}

fn as_float(node: Node<'_>, untyped: bool) -> Option<f64> {
    match node {
        Node::Static(StaticNode::I64(number)) => Some(number as f64),
        Node::Static(StaticNode::U64(number)) => Some(number as f64),
        Node::Static(StaticNode::F64(number)) => Some(number),
        Node::String(text) if untyped => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

fn as_bool(node: Node<'_>, untyped: bool) -> Option<bool> {
    match node {
        Node::Static(StaticNode::Bool(value)) => Some(value),
        Node::String(text) if untyped => text.parse().ok(),
        _ => None,
    }
}

/// Appends the value at `at`, which is nothing for null; false when its type is not the column's.
fn append_value(
    columns: &mut Columns,
    column: usize,
    nodes: &[Node<'_>],
    at: usize,
    untyped: bool,
    times: &TimeFormats,
) -> bool {
    let node = nodes[at];
    if matches!(node, Node::Static(StaticNode::Null)) {
        return true;
    }
    let (row, texts) = (columns.row, &mut columns.texts[column]);
    match &mut columns.builders[column] {
        Builder::Text => match node {
            Node::String(text) => texts.push(row, text.as_bytes()),
            _ => return false,
        },
        Builder::Int(column) => match as_int(node, untyped) {
            Some(number) => column.push(row, number),
            None => return false,
        },
        Builder::Float(column) => match as_float(node, untyped) {
            Some(number) => column.push(row, number),
            None => return false,
        },
        Builder::Bool(column) => match as_bool(node, untyped) {
            Some(value) => column.push(row, value),
            None => return false,
        },
        Builder::Timestamp(column) => match read_time(nodes, at, times) {
            Some(time) => column.push(row, time.micros()),
            None => return false,
        },
        Builder::Json(scratch) => {
            scratch.clear();
            write_json(nodes, at, scratch);
            texts.push(row, scratch);
        }
    }
    true
}

/// Whether [`append_value`] would append something that is not null.
fn fits(builder: &Builder, nodes: &[Node<'_>], at: usize, untyped: bool, times: &TimeFormats) -> bool {
    let node = nodes[at];
    match builder {
        _ if matches!(node, Node::Static(StaticNode::Null)) => false,
        Builder::Text => matches!(node, Node::String(_)),
        Builder::Int(_) => as_int(node, untyped).is_some(),
        Builder::Float(_) => as_float(node, untyped).is_some(),
        Builder::Bool(_) => as_bool(node, untyped).is_some(),
        Builder::Timestamp(_) => read_time(nodes, at, times).is_some(),
        Builder::Json(_) => behind(nodes, at) > at,
    }
}
