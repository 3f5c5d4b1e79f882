//! A window definition → a [`Plan`], with every mistake in it found at once.

use super::Config;
use super::axis::Axis;
use super::function::{Aggregate, Class, Read, resolve};
use super::shape::Shape;
use super::state::Keep;
use super::top::Largest;
use crate::expression::{Compiler, Expression};
use crate::limits::{PARTIAL_SKETCHES, SESSION_PIECES};
use crate::place::{Located, Problem, did_you_mean};
use crate::record::sample::{WindowSchema, columns};
use crate::record::schema::{ColumnType, Schema};
use crate::record::state::Fingerprint;
use crate::time::Span;
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use std::collections::HashSet;
use std::sync::Arc;

/// The names of a window result's Hive partitions: a column of one of them would stand twice in what readers see.
const PARTITIONS: [&str; 2] = ["name", "date"];

/// What is kept per group and pane. Aggregates that need the same share it.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) keep: Keep,
    pub(super) argument: Option<(Expression, Class)>,
    pub(super) filter: Option<Expression>,
}

/// One aggregate's column: which slot it is read from, and how.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) slot: usize,
    pub(super) read: Read,
    pub(super) result: Class,
}

/// A window definition, checked and compiled.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) name: Arc<str>,
    pub(super) axis: Axis,
    /// All four in µs, the first three on the axis; `size` and `every` are multiples of `pane`. Of a session they are its gap.
    pub(super) size: i64,
    pub(super) every: i64,
    pub(super) pane: i64,
    pub(super) lateness: i64,
    /// Set for a session window: the length of the gap that ends a session, and of a piece, in µs.
    pub(super) session: Option<(i64, i64)>,
    pub(super) condition: Option<Expression>,
    /// Positions of the group columns in the event schema.
    pub(super) groups: Vec<usize>,
    pub(super) slots: Vec<Slot>,
    pub(super) outputs: Vec<Output>,
    pub(super) derive: Vec<Expression>,
    pub(super) top: Option<Largest>,
    /// Group columns, aggregates, derived values: what `derive` sees, in stages.
    pub(super) inner: SchemaRef,
    pub(super) group_names: Vec<String>,
    pub(super) schema: SchemaRef,
    /// The slot that counts a group's records, where several daemons gather them.
    pub(super) counted: Option<usize>,
    /// Of all that shapes the state of open windows; not of derived values and of `top`, which are made when a window closes.
    pub(super) fingerprint: Fingerprint,
}

impl Plan {
    /// The columns that it reads; some may stand there more than once.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        let slots = self.slots.iter().flat_map(|slot| slot.argument.iter().map(|(sql, _)| sql).chain(&slot.filter));
        let expressions = slots.chain(&self.condition).flat_map(Expression::columns);
        expressions.chain(&self.group_names).map(String::as_str)
    }

    /// The same window, gathered by several daemons: how many records a group has is counted, so that all of them can be told as
    /// late. What was kept under the window as it was is not gone on with.
    #[must_use]
    pub fn shared(mut self) -> Self {
        let counts = |slot: &Slot| slot.keep == Keep::Count && slot.argument.is_none() && slot.filter.is_none();
        let at = self.slots.iter().position(counts).unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(Slot { keep: Keep::Count, argument: None, filter: None });
        }
        self.counted = Some(at);
        self.fingerprint = self.fingerprint.with("shared");
        self
    }

    /// What is wrong with the window where several daemons share it, and what to do: what it keeps of one group must fit into a message.
    pub fn check_shared(&self) -> Option<(String, &'static str)> {
        let sketches = self.slots.iter().filter(|slot| matches!(slot.keep, Keep::Quantiles | Keep::Distinct)).count();
        let most = PARTIAL_SKETCHES;
        let name = &self.name;
        if self.session.is_some() {
            let text =
                format!("cannot share window `{name}` among daemons, a session may lie in what several of them read");
            return Some((text, "take `repartition` out, or use a tumbling or a sliding window"));
        }
        if self.top.is_some() {
            let text =
                format!("cannot share window `{name}` among daemons, each of them sees other groups than the largest");
            return Some((text, "take `top` or `repartition` out"));
        }
        (sketches > most).then(|| {
            let text = format!(
                "cannot share window `{name}` among daemons, it has {sketches} different quantiles and distinct counts, at most {most}"
            );
            (text, "split it into several windows")
        })
    }

    /// How long before a time records may be that a window which closes then has counted.
    pub fn reach(&self) -> Span {
        match self.session {
            Some((gap, piece)) => Span::from_micros(gap + piece * SESSION_PIECES + self.lateness),
            // A zone's clock is turned back by an hour at most where it is turned.
            None => Span::from_micros(self.size + self.every + self.lateness + 3_600_000_000),
        }
    }

    /// What the rows of this window look like.
    pub fn schema(&self) -> WindowSchema {
        WindowSchema {
            window: self.name.clone(),
            group_by: self.group_names.clone(),
            condition: self.condition.as_ref().map(|condition| condition.sql().to_owned()),
            arrow: self.schema.clone(),
        }
    }
}

impl Config {
    /// Checks and compiles this definition over events of `schema`.
    ///
    /// # Errors
    /// All mistakes that can be told apart: in the name, the sizes, the group columns and each expression.
    pub fn build(&self, schema: &Schema, compiler: &Compiler) -> Result<Plan, Vec<Problem>> {
        let mut problems = Vec::new();
        check_name(&self.name, "window", &mut problems);
        let shape = self.shape(&mut problems);
        let condition = self
            .condition
            .as_ref()
            .and_then(|sql| compiler.predicate(sql, &schema.arrow).map_err(|more| problems.extend(more)).ok());
        let mut names = HashSet::new();
        let groups = self.groups(schema, &mut names, &mut problems);
        let mut fields: Vec<Field> =
            groups.iter().map(|at| schema.arrow.field(*at).clone().with_nullable(true)).collect();
        let (slots, outputs) = self.aggregates(schema, compiler, &mut fields, &mut names, &mut problems);
        let derive = if problems.is_empty() {
            self.derived(compiler, &mut fields, &mut names, &mut problems)
        } else {
            // Without all aggregates, expressions over them would be blamed for what is no fault of theirs.
            Vec::new()
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let inner = Arc::new(ArrowSchema::new(fields));
        let (axis, size, every, pane, session) = match shape {
            Shape::Panes { axis, size, every, pane } => (axis, size, every, pane, None),
            Shape::Sessions { gap, piece } => (Axis::Epoch, gap, gap, gap, Some((gap, piece))),
        };
        let mut plan = Plan {
            name: self.name.value.as_str().into(),
            axis,
            size,
            every,
            pane,
            lateness: self.lateness.micros(),
            session,
            condition,
            group_names: groups.iter().map(|at| schema.arrow.field(*at).name().clone()).collect(),
            groups,
            slots,
            outputs,
            derive,
            top: None,
            schema: result_schema(&inner),
            inner,
            counted: None,
            fingerprint: Fingerprint::default(),
        };
        plan.top = self.largest(&plan, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        plan.fingerprint = fingerprint(&plan, self.zone.as_ref().map(|zone| zone.value.as_str()), schema);
        Ok(plan)
    }

    fn groups(&self, schema: &Schema, names: &mut HashSet<String>, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut groups = Vec::new();
        for group in &self.group_by {
            let Ok(at) = schema.arrow.index_of(&group.value) else {
                let known = || schema.columns.iter().map(|c| c.name.as_str());
                let hint = match did_you_mean(&group.value, known()) {
                    Some(close) => format!("did you mean `{close}`?"),
                    None => format!("columns here: {}", known().collect::<Vec<_>>().join(", ")),
                };
                problems.push(group.problem(format!("cannot find column `{}`", group.value)).hint(hint));
                continue;
            };
            if schema.arrow.field(at).data_type() == &ColumnType::Float.arrow() {
                problems.push(
                    group
                        .problem(format!("cannot group by `{}`, its type is float", group.value))
                        .hint("floats are hardly ever equal; compute a text or an integer of it with `set:`"),
                );
            } else if let Some(owner) = reserved(&group.value) {
                problems.push(
                    group
                        .problem(format!("cannot group by `{}`, {owner}", group.value))
                        .hint(format!("copy it first, as in `set: {{ {0}_of_event: {0} }}`", group.value)),
                );
            } else if !names.insert(group.value.clone()) {
                problems.push(group.problem(format!("cannot group by `{}` twice", group.value)));
            } else {
                groups.push(at);
            }
        }
        groups
    }

    fn aggregates(
        &self,
        schema: &Schema,
        compiler: &Compiler,
        fields: &mut Vec<Field>,
        names: &mut HashSet<String>,
        problems: &mut Vec<Problem>,
    ) -> (Vec<Slot>, Vec<Output>) {
        let (mut slots, mut outputs) = (Vec::new(), Vec::new());
        if self.aggregate.0.is_empty() {
            problems.push(
                self.name
                    .problem(format!("cannot build window `{}` without aggregates", self.name.value))
                    .hint("as in `aggregate: { requests: count(*) }`"),
            );
        }
        for (name, sql) in &self.aggregate.0 {
            check_column(name, names, problems);
            match compiler.aggregate(sql, &schema.arrow).and_then(|call| resolve(sql, call)) {
                Ok(aggregate) => {
                    fields.push(Field::new(&name.value, aggregate.result.arrow(), true));
                    outputs.push(place(&mut slots, aggregate));
                }
                Err(more) => problems.extend(more),
            }
        }
        (slots, outputs)
    }

    fn derived(
        &self,
        compiler: &Compiler,
        fields: &mut Vec<Field>,
        names: &mut HashSet<String>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Expression> {
        let mut derive = Vec::new();
        for (name, sql) in &self.derive.0 {
            check_column(name, names, problems);
            match compiler.compile(sql, &Arc::new(ArrowSchema::new(fields.clone()))) {
                Ok(expression) => match Class::of(expression.data_type()) {
                    Some(class) => {
                        fields.push(Field::new(&name.value, class.arrow(), true));
                        derive.push(expression);
                    }
                    None => problems.push(sql.problem(format!(
                        "cannot keep `{}` as a column, its type is {}",
                        sql.value,
                        expression.data_type()
                    ))),
                },
                Err(more) => problems.extend(more),
            }
        }
        derive
    }
}

/// Puts an aggregate into a slot that keeps what it needs, a new one if there is none yet.
fn place(slots: &mut Vec<Slot>, aggregate: Aggregate) -> Output {
    let sql = |e: &Option<Expression>| e.as_ref().map(|e| e.sql().to_owned());
    let argument = |a: &Option<(Expression, Class)>| a.as_ref().map(|(e, _)| e.sql().to_owned());
    let same = |slot: &Slot| {
        slot.keep == aggregate.keep
            && argument(&slot.argument) == argument(&aggregate.argument)
            && sql(&slot.filter) == sql(&aggregate.filter)
    };
    let at = slots.iter().position(same).unwrap_or(slots.len());
    let output = Output { slot: at, read: aggregate.read, result: aggregate.result };
    if at == slots.len() {
        slots.push(Slot { keep: aggregate.keep, argument: aggregate.argument, filter: aggregate.filter });
    }
    output
}

/// See [`Plan::fingerprint`].
fn fingerprint(plan: &Plan, zone: Option<&str>, events: &Schema) -> Fingerprint {
    let sql = |expression: &Option<Expression>| expression.as_ref().map(|e| e.sql().to_owned());
    let mut parts = vec![format!("{} {} {} {}", plan.size, plan.every, plan.pane, plan.lateness)];
    parts.push(format!("where {:?} by {:?}", sql(&plan.condition), plan.group_names));
    parts.extend(zone.map(|zone| format!("days of {zone}")));
    parts.extend(plan.session.map(|(gap, piece)| format!("sessions {gap} {piece}")));
    for slot in &plan.slots {
        let argument = slot.argument.as_ref().map(|(argument, class)| (argument.sql(), class));
        parts.push(format!("keep {:?} of {argument:?} where {:?}", slot.keep, sql(&slot.filter)));
    }
    for (output, field) in plan.outputs.iter().zip(&plan.inner.fields()[plan.groups.len()..]) {
        parts.push(format!("{} is {} {:?} as {:?}", field.name(), output.slot, output.read, output.result));
    }
    let mut read: Vec<&str> = plan.reads().collect();
    read.sort_unstable();
    read.dedup();
    let kind = |name: &str| events.columns.iter().find(|column| column.name == name).map(|column| column.kind.as_str());
    parts.extend(read.into_iter().map(|name| format!("{name}: {:?}", kind(name))));
    Fingerprint::of(parts)
}

fn result_schema(inner: &ArrowSchema) -> SchemaRef {
    let stamp = || ColumnType::Timestamp.arrow();
    let mut fields =
        vec![Field::new(columns::WINDOW_START, stamp(), false), Field::new(columns::WINDOW_END, stamp(), false)];
    fields.extend(inner.fields().iter().map(|field| field.as_ref().clone()));
    fields.push(Field::new(columns::LATE, DataType::Int64, false));
    fields.push(Field::new(columns::PROVISIONAL, DataType::Boolean, false));
    Arc::new(ArrowSchema::new(fields))
}

/// Why a column of a window's result cannot have this name.
fn reserved(name: &str) -> Option<&'static str> {
    if [columns::WINDOW_START, columns::WINDOW_END, columns::LATE, columns::PROVISIONAL].contains(&name) {
        Some("every window result has that column")
    } else if PARTITIONS.contains(&name) {
        Some("window results are partitioned by that name")
    } else {
        None
    }
}

fn check_column(name: &Located<String>, names: &mut HashSet<String>, problems: &mut Vec<Problem>) {
    check_name(name, "result column", problems);
    if let Some(owner) = reserved(&name.value) {
        problems.push(name.problem(format!("cannot name a column `{}`, {owner}", name.value)));
    } else if !names.insert(name.value.clone()) {
        problems.push(name.problem(format!("cannot name a second column `{}`", name.value)));
    }
}

fn check_name(name: &Located<String>, what: &str, problems: &mut Vec<Problem>) {
    let mut letters = name.value.chars();
    let valid = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !valid {
        problems.push(
            name.problem(format!("cannot use {:?} as the name of a {what}", name.value))
                .hint("names are lower-case letters, digits and `_`, and don't start with a digit"),
        );
    }
}
