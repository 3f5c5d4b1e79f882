//! Which value of a layout goes where: the rules of `envelope` and `row`, applied once to a layout's keys instead of to
//! each record.
//!
//! Where a rule depends on the value (a text in a column of numbers, a time that cannot be read), the layout says which
//! kinds of values it is good for; a record with another kind goes the strict way.

use super::cut::Kinds;
use super::fields::Fields;
use super::learn::{Content, Lesson, Shape};
use super::row::{APP, LEVEL, MESSAGE, TS};
use super::tape::write_text;
use crate::record::schema::{ATTRIBUTES, ColumnType, Schema};

/// What to append for one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) column: u16,
    pub(super) step: u16,
}

/// A part of a JSON text that is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(Vec<u8>),
    Value(u16),
}

/// What a record of a layout becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The record's own time, and the envelope's.
    pub(super) own_time: Option<u16>,
    pub(super) envelope_time: Option<u16>,
    pub(super) texts: Vec<Put>,
    /// Columns of integers, floats and booleans.
    pub(super) numbers: Vec<Put>,
    /// Columns of times besides `ts`.
    pub(super) times: Vec<Put>,
    pub(super) jsons: Vec<(u16, Vec<Part>)>,
    /// Empty where the record has no attributes.
    pub(super) attributes: Vec<Part>,
    /// The kinds of values that this holds for, by step.
    pub(super) kinds: Vec<Kinds>,
}

/// Assigns the values of a layout to columns; `None` when a record of it would not be a row without flaws.
pub(super) fn assign(lesson: &Lesson, schema: &Schema, fields: &Fields, needed: &[bool]) -> Option<Assignment> {
    let mut scan = Scan {
        fields,
        slots: vec![None; schema.columns.len()],
        displaced: Vec::new(),
        kinds: vec![Kinds::ANY; lesson.steps.len()],
    };
    let mut attributes = Vec::new();
    let mut message = None;
    match &lesson.content {
        Content::Object(Shape::Object(members)) => scan.members(members, 0, &mut attributes),
        Content::Object(_) => return None,
        Content::Text(step) => message = Some(*step),
    }
    let envelope = lesson.envelope.as_deref().map(Parts::read).unwrap_or(Some(Parts::default()))?;
    let mut assignment = Assignment { envelope_time: envelope.timestamp, ..Assignment::default() };
    for step in envelope.texts() {
        scan.kinds[usize::from(step)] = Kinds::TEXT;
    }
    for (index, column) in schema.columns.iter().enumerate() {
        let slot = scan.slots[index].clone();
        let given = match index {
            APP..LEVEL => envelope.given[index - APP],
            LEVEL if slot.is_none() => envelope.level,
            MESSAGE => message,
            _ => None,
        };
        if let Some(step) = given {
            if (APP..LEVEL).contains(&index) {
                scan.displaced.extend(slot.map(|slot| (slot.key, slot.value)));
            }
            scan.kinds[usize::from(step)] = Kinds::TEXT;
            assignment.texts.push(Put { column: index as u16, step });
        } else if let Some(slot) = slot {
            assignment.put(index, column.kind, slot.value, column.required, &mut scan.kinds)?;
        } else if column.required {
            return None;
        }
    }
    attributes.extend(scan.displaced.iter().map(|(key, value)| (*key, Attribute::Value(value))));
    if !envelope.unknown.is_empty() {
        let unknown = envelope.unknown.iter().map(|(key, value)| (*key, Attribute::Value(value))).collect();
        attributes.push(("envelope", Attribute::Members(unknown)));
    }
    if !attributes.is_empty() {
        let mut text = Template::default();
        text.attributes(&attributes);
        assignment.attributes = text.parts;
    }
    assignment.kinds = scan.kinds;
    assignment.drop_unneeded(needed);
    Some(assignment)
}

impl Assignment {
    fn put(
        &mut self,
        index: usize,
        kind: ColumnType,
        value: &Shape,
        required: bool,
        kinds: &mut [Kinds],
    ) -> Option<()> {
        let column = index as u16;
        if kind == ColumnType::Json {
            let mut text = Template::default();
            text.value(value);
            self.jsons.push((column, text.parts));
            if let (Shape::Scalar(step), true) = (value, required) {
                kinds[usize::from(*step)] = Kinds::ANY.without(Kinds::NULL);
            }
            return Some(());
        }
        let Shape::Scalar(step) = *value else { return None };
        let put = Put { column, step };
        let fitting = match kind {
            ColumnType::Text => {
                self.texts.push(put);
                Kinds::TEXT
            }
            ColumnType::Int => {
                self.numbers.push(put);
                Kinds::INT
            }
            ColumnType::Float => {
                self.numbers.push(put);
                Kinds::INT.or(Kinds::FLOAT)
            }
            ColumnType::Bool => {
                self.numbers.push(put);
                Kinds::BOOL
            }
            ColumnType::Timestamp => {
                match index {
                    TS => self.own_time = Some(step),
                    _ => self.times.push(put),
                }
                Kinds::PLAIN.or(Kinds::INT).or(Kinds::FLOAT)
            }
            ColumnType::Json => return None,
        };
        kinds[usize::from(step)] = if required { fitting } else { fitting.or(Kinds::NULL) };
        Some(())
    }

    /// Values of columns that nobody reads are checked, but not kept. Times are, as the event's time is one of them.
    fn drop_unneeded(&mut self, needed: &[bool]) {
        for puts in [&mut self.texts, &mut self.numbers] {
            puts.retain(|put| needed[usize::from(put.column)]);
        }
        self.jsons.retain(|(column, _)| needed[usize::from(*column)]);
        if !needed[ATTRIBUTES] {
            self.attributes.clear();
        }
    }
}

/// The value that a column takes.
#[derive(Debug, Clone)]
struct Slot<'l> {
    rank: u8,
    key: &'l str,
    value: &'l Shape,
}

/// A member of `attributes` while it is put together.
enum Attribute<'l> {
    Value(&'l Shape),
    Members(Vec<(&'l str, Attribute<'l>)>),
}

/// `Rows::scan`, for keys without values.
struct Scan<'l, 'f> {
    fields: &'f Fields,
    slots: Vec<Option<Slot<'l>>>,
    displaced: Vec<(&'l str, &'l Shape)>,
    kinds: Vec<Kinds>,
}

impl<'l> Scan<'l, '_> {
    fn members(&mut self, members: &'l [(String, Shape)], table: u16, attributes: &mut Vec<(&'l str, Attribute<'l>)>) {
        for (key, value) in members {
            let action = self.fields.action(table, key).unwrap_or_default();
            match (action.table, action.column, value) {
                (Some(table), _, Shape::Object(inner)) if !inner.is_empty() => {
                    let mut rest = Vec::new();
                    self.members(inner, table, &mut rest);
                    if !rest.is_empty() {
                        attributes.push((key, Attribute::Members(rest)));
                    }
                }
                (_, Some((column, rank)), _) => self.take_slot(usize::from(column), Slot { rank, key, value }),
                _ => attributes.push((key, Attribute::Value(value))),
            }
        }
    }

    fn take_slot(&mut self, column: usize, new: Slot<'l>) {
        match &mut self.slots[column] {
            Some(old) if new.rank > old.rank => self.displaced.push((new.key, new.value)),
            slot => {
                if let Some(old) = slot.replace(new) {
                    self.displaced.push((old.key, old.value));
                }
            }
        }
    }
}

/// `envelope::Parts`, by step.
#[derive(Debug, Default)]
struct Parts<'l> {
    /// `app` to `provider`, in the schema's order.
    given: [Option<u16>; 5],
    level: Option<u16>,
    timestamp: Option<u16>,
    unknown: Vec<(&'l str, &'l Shape)>,
}

impl<'l> Parts<'l> {
    /// `envelope::read` without the message. `None` for an envelope with a known key twice, or with something else than
    /// a text where a text is expected: those are left to the strict path.
    fn read(members: &'l [(String, Shape)]) -> Option<Self> {
        let mut parts = Self::default();
        let mut second_level = None;
        for (key, value) in members {
            match key.as_str() {
                "timestamp" => set(&mut parts.timestamp, value)?,
                "host" => set(&mut parts.given[3], value)?,
                "level" => set(&mut second_level, value)?,
                "fly" => parts.read_fly(value)?,
                "event" => Self::read_one(value, "provider", &mut parts.given[4], &mut parts.unknown)?,
                "log" => Self::read_one(value, "level", &mut parts.level, &mut parts.unknown)?,
                _ => parts.unknown.push((key, value)),
            }
        }
        // Where both are there, the second one is not used, but it must be a text all the same.
        if parts.level.is_some() && second_level.is_some() {
            return None;
        }
        parts.level = parts.level.or(second_level);
        Some(parts)
    }

    fn read_fly(&mut self, fly: &'l Shape) -> Option<()> {
        let Shape::Object(members) = fly else { return None };
        for (key, value) in members {
            match (key.as_str(), value) {
                ("region", _) => set(&mut self.given[2], value)?,
                ("app", Shape::Object(members)) => {
                    for (key, value) in members {
                        match key.as_str() {
                            "name" => set(&mut self.given[0], value)?,
                            "instance" => set(&mut self.given[1], value)?,
                            _ => self.unknown.push((key, value)),
                        }
                    }
                }
                _ => self.unknown.push((key, value)),
            }
        }
        Some(())
    }

    fn read_one(
        object: &'l Shape,
        wanted: &str,
        target: &mut Option<u16>,
        unknown: &mut Vec<(&'l str, &'l Shape)>,
    ) -> Option<()> {
        let Shape::Object(members) = object else { return None };
        for (key, value) in members {
            match key == wanted {
                true => set(target, value)?,
                false => unknown.push((key, value)),
            }
        }
        Some(())
    }

    fn texts(&self) -> impl Iterator<Item = u16> {
        self.given.into_iter().chain([self.level, self.timestamp]).flatten()
    }
}

fn set(target: &mut Option<u16>, value: &Shape) -> Option<()> {
    match (value, &target) {
        (Shape::Scalar(step), None) => {
            *target = Some(*step);
            Some(())
        }
        _ => None,
    }
}

/// A JSON text with gaps for values.
#[derive(Debug, Default)]
struct Template {
    parts: Vec<Part>,
}

impl Template {
    fn literal(&mut self) -> &mut Vec<u8> {
        if !matches!(self.parts.last(), Some(Part::Literal(_))) {
            self.parts.push(Part::Literal(Vec::new()));
        }
        match self.parts.last_mut() {
            Some(Part::Literal(bytes)) => bytes,
            _ => unreachable!("it was pushed above"),
        }
    }

    fn key(&mut self, number: usize, key: &str) {
        let out = self.literal();
        if number > 0 {
            out.push(b',');
        }
        write_text(key, out);
        out.push(b':');
    }

    fn value(&mut self, shape: &Shape) {
        match shape {
            Shape::Scalar(step) => self.parts.push(Part::Value(*step)),
            Shape::Object(members) => {
                self.literal().push(b'{');
                for (number, (key, value)) in members.iter().enumerate() {
                    self.key(number, key);
                    self.value(value);
                }
                self.literal().push(b'}');
            }
            Shape::Array(elements) => {
                self.literal().push(b'[');
                for (number, value) in elements.iter().enumerate() {
                    if number > 0 {
                        self.literal().push(b',');
                    }
                    self.value(value);
                }
                self.literal().push(b']');
            }
        }
    }

    fn attributes(&mut self, members: &[(&str, Attribute<'_>)]) {
        self.literal().push(b'{');
        for (number, (key, value)) in members.iter().enumerate() {
            self.key(number, key);
            match value {
                Attribute::Value(shape) => self.value(shape),
                Attribute::Members(members) => self.attributes(members),
            }
        }
        self.literal().push(b'}');
    }
}
