//! History through the engine: rows of an archive into windows, once, and the windows into rules, as often as there are thresholds
//! to try. Pure: what is read, and how, is for the caller.
//!
//! **The order.** A live run decides by the order of arrival what comes too late. An archive keeps of that `ingest_ts`, the time at which
//! a batch was read, which all rows of the batch share, and the order of rows in files that were not put into another one. So
//! rows come by `ingest_ts`, and those of one batch as they stand in the files ([`Order::Arrival`]). In files that were put in order
//! that is by `app` and `ts`; where there are several apps, one after the other, the first would make the next ones late, so
//! rows of a batch come by `ts` then ([`Order::Batches`]). Of which partition a row was is not kept. Where a
//! pipeline reads several, the watermark of each cannot be followed, and rows come by `ts` ([`Order::Time`]): nothing is late.

use super::sweep::Sweep;
use crate::alert::{self, Alerts};
use crate::config::Plan;
use crate::expression::Compiler;
use crate::record::alert::AlertEvent;
use crate::record::event::EventBatch;
use crate::record::raw::PartitionId;
use crate::record::sample::{WindowRows, WindowSchema};
use crate::record::schema::{Column, ColumnType, Schema};
use crate::time::watermark::StreamClock;
use crate::time::{EventTime, Span};
use crate::window::Windows;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use std::collections::BTreeSet;
use std::sync::Arc;

/// In which order rows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they came; those of a batch as they stand in files.
    Arrival,
    /// As they came; those of a batch by event time.
    Batches,
    /// By event time.
    Time,
}

/// Why a pipeline cannot be tried on an archive.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    #[error("cannot backtest {0:?}, it has no alerts")]
    NoAlerts(String),
    #[error("cannot sweep `{column}`: no alert compares it with a number; conditions: {conditions}")]
    NoThreshold { column: String, conditions: String },
    #[error(transparent)]
    Threshold(#[from] alert::ThresholdError),
    #[error("cannot find column `{column}` in the archive, and {window} reads it")]
    Column { column: String, window: String },
    #[error("cannot read column `{column}` as {wanted}, the archive has {found}")]
    Type { column: String, wanted: String, found: String },
}

impl BacktestError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Column { .. } => Some(
                "a column that a transform computes is in the archive only since it is computed; begin later with --from, or leave the window out"
                    .to_owned(),
            ),
            Self::NoThreshold { .. } => Some("name a column that stands in `when`, as in `when: error_rate > 0.02`".to_owned()),
            _ => None,
        }
    }
}

/// What one set of rules says.
#[derive(Debug)]
pub struct Tried {
    /// The threshold, and the alert that it is of; `None`: the rules as they are written.
    pub threshold: Option<(String, f64)>,
    /// The condition with it.
    pub condition: String,
    pub events: Vec<AlertEvent>,
    alerts: Alerts,
}

/// The engine over history.
#[derive(Debug)]
pub struct Backtest {
    schema: Arc<Schema>,
    /// Columns that lines are decoded into, which `attributes` had before the schema knew them.
    decoded: Arc<Schema>,
    windows: Windows,
    /// Columns that are read, by the first window that does.
    reads: Vec<(String, String)>,
    tried: Vec<Tried>,
    /// How long before and behind a range history has to be read.
    warm_up: Span,
    clock: StreamClock,
    partition: usize,
    rows: u64,
    first: Option<EventTime>,
    /// Nulls for the columns that nobody reads, as many as the longest batch has had.
    blank: Vec<ArrayRef>,
}

impl Backtest {
    /// Takes windows and alerts out of `plan`. With a sweep, the rules that compare its column are tried with each threshold, and no
    /// others; windows that no rule looks at are left out.
    ///
    /// # Errors
    /// When there is nothing to try.
    pub fn new(plan: &mut Plan, sweep: Option<&Sweep>) -> Result<Self, BacktestError> {
        let alerts = std::mem::take(&mut plan.alerts);
        if alerts.is_empty() {
            return Err(BacktestError::NoAlerts(plan.pipeline.clone()));
        }
        let mut windows = std::mem::take(&mut plan.windows);
        let schemas: Vec<WindowSchema> = windows.iter().map(crate::window::Plan::schema).collect();
        let (tried, looked_at) = match sweep {
            None => {
                let looked_at: BTreeSet<String> = alerts.iter().map(|alert| alert.window().to_owned()).collect();
                let own = Tried {
                    threshold: None,
                    condition: String::new(),
                    events: Vec::new(),
                    alerts: Alerts::new(&plan.pipeline, alerts.clone()),
                };
                (vec![own], looked_at)
            }
            Some(sweep) => swept(&plan.pipeline, &alerts, &schemas, sweep)?,
        };
        windows.retain(|window| looked_at.contains(&*window.schema().window));
        let patience = alerts.iter().map(alert::Plan::patience).max().unwrap_or(Span::ZERO);
        let reach = windows.iter().map(crate::window::Plan::reach).max().unwrap_or(Span::ZERO);
        let mut reads: Vec<(String, String)> = Vec::new();
        for window in &windows {
            for column in window.reads() {
                if !reads.iter().any(|(known, _)| known == column) {
                    reads.push((column.to_owned(), format!("window `{}`", window.schema().window)));
                }
            }
        }
        let mut clock = StreamClock::default();
        let partition = clock.register();
        Ok(Self {
            schema: Arc::clone(&plan.schema),
            decoded: Arc::clone(&plan.decode.schema),
            windows: Windows::new(windows),
            reads,
            tried,
            warm_up: Span::from_micros(patience.micros() + reach.micros()),
            clock,
            partition,
            rows: 0,
            first: None,
            blank: Vec::new(),
        })
    }

    /// The question that gives the rows: the columns that windows read, and no others. `columns` are those of the archive. Rows from
    /// a while before and behind the range are in it, so that windows and `for` are as they would have been.
    ///
    /// # Errors
    /// When one is nowhere to be found.
    pub fn question(
        &self,
        columns: &BTreeSet<String>,
        (from, to): (Option<EventTime>, Option<EventTime>),
        order: Order,
    ) -> Result<String, BacktestError> {
        let mut selected = vec!["ts".to_owned(), "ingest_ts".to_owned()];
        for (column, window) in self.reads.iter().filter(|(column, _)| column != "ts" && column != "ingest_ts") {
            if columns.contains(column) {
                selected.push(quoted(column));
                continue;
            }
            let known = self.decoded.column(column).filter(|known| !known.from.is_empty());
            let stored = known
                .and_then(from_attributes)
                .ok_or_else(|| BacktestError::Column { column: column.clone(), window: window.clone() })?;
            selected.push(stored);
        }
        let from = from.map(|from| format!("ts >= '{}'", from + Span::from_micros(-self.warm_up.micros())));
        let to = to.map(|to| format!("ts < '{}'", to + self.warm_up));
        let conditions: Vec<String> = from.into_iter().chain(to).collect();
        let condition =
            if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
        let selected = selected.join(", ");
        Ok(match order {
            Order::Time => format!("select {selected} from logs{condition} order by ts"),
            Order::Batches => format!("select {selected} from logs{condition} order by ingest_ts, ts"),
            Order::Arrival => format!(
                "select * from (select {selected}, row_number() over () as \"headrig.row\" from logs{condition}) order by ingest_ts, \"headrig.row\""
            ),
        })
    }

    /// Takes the next rows, in the order of the question.
    ///
    /// # Errors
    /// When a column is of another type than the pipeline's.
    pub fn push(&mut self, rows: &RecordBatch) -> Result<(), BacktestError> {
        let rows = self.complete(rows)?;
        let stamps = rows.column(0).as_primitive::<TimestampMicrosecondType>().clone();
        let mut readings = Vec::with_capacity(rows.num_rows());
        let times = stamps.values().iter().map(|micros| EventTime::from_micros(*micros));
        self.first = self.first.into_iter().chain(times.clone().min()).min();
        self.rows += rows.num_rows() as u64;
        self.clock.observe(self.partition, times, |reading| readings.push(reading.map(EventTime::micros)));
        let clock_after = self.clock.now();
        let clock = Int64Array::from(readings);
        let closed = self.windows.push(&EventBatch { partition: PartitionId(0), rows, clock, clock_after, end: 0 });
        self.evaluate(&closed);
        // What would be stored of windows is in the archive already.
        self.windows.drain();
        Ok(())
    }

    /// There are no more rows: closes what is open, as `run --once` does.
    pub fn finish(&mut self) {
        loop {
            let closed = self.windows.finish_next();
            if closed.is_empty() {
                return;
            }
            self.evaluate(&closed);
            self.windows.drain();
        }
    }

    /// What the rules have said: one set, or one for each threshold.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// Rows so far, and the first and the last event time in them.
    pub fn seen(&self) -> (u64, Option<(EventTime, EventTime)>) {
        (self.rows, self.first.zip(self.clock.newest()))
    }

    /// Records that came too late, by window.
    pub fn late(&self) -> Vec<(Arc<str>, u64)> {
        self.windows.late_counts()
    }

    fn evaluate(&mut self, closed: &[WindowRows]) {
        for window in closed {
            for tried in &mut self.tried {
                tried.events.extend(tried.alerts.evaluate(window));
            }
        }
    }

    /// The rows with all columns of the pipeline's schema; those that were not read are null.
    fn complete(&mut self, rows: &RecordBatch) -> Result<RecordBatch, BacktestError> {
        let count = rows.num_rows();
        if self.blank.first().is_none_or(|blank| blank.len() < count) {
            self.blank = self
                .schema
                .arrow
                .fields()
                .iter()
                .map(|field| blank(field.data_type(), field.is_nullable(), count))
                .collect();
        }
        let mut columns = Vec::with_capacity(self.blank.len());
        for (field, blank) in self.schema.arrow.fields().iter().zip(&self.blank) {
            let Some(column) = rows.column_by_name(field.name()) else {
                columns.push(blank.slice(0, count));
                continue;
            };
            let wrong = || BacktestError::Type {
                column: field.name().clone(),
                wanted: field.data_type().to_string(),
                found: column.data_type().to_string(),
            };
            columns.push(cast(column, field.data_type()).map_err(|_| wrong())?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema.arrow), columns).expect("the columns were made by the schema"))
    }
}

/// The rules that compare the sweep's column, with each threshold, and the windows that they look at.
fn swept(
    pipeline: &str,
    alerts: &[alert::Plan],
    schemas: &[WindowSchema],
    sweep: &Sweep,
) -> Result<(Vec<Tried>, BTreeSet<String>), BacktestError> {
    let compiler = Compiler::default();
    let (mut tried, mut looked_at) = (Vec::new(), BTreeSet::new());
    for rule in alerts {
        let Some(window) = schemas.iter().find(|schema| *schema.window == *rule.window()) else { continue };
        if rule.threshold(&sweep.column)?.is_none() {
            continue;
        }
        looked_at.insert(rule.window().to_owned());
        for value in &sweep.thresholds {
            let plan = rule.with_threshold(&sweep.column, &value.to_string(), window, &compiler)?;
            tried.push(Tried {
                threshold: Some((rule.name().to_owned(), *value)),
                condition: plan.condition().to_owned(),
                events: Vec::new(),
                alerts: Alerts::new(pipeline, vec![plan]),
            });
        }
    }
    if tried.is_empty() {
        let conditions: Vec<String> =
            alerts.iter().map(|rule| format!("{}: {}", rule.name(), rule.condition())).collect();
        return Err(BacktestError::NoThreshold { column: sweep.column.clone(), conditions: conditions.join("; ") });
    }
    Ok((tried, looked_at))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A column that no file has, of rows that were written before the schema knew it: what it would have been made of is in their
/// `attributes`.
fn from_attributes(column: &Column) -> Option<String> {
    let kind = match column.kind {
        ColumnType::Text => None,
        ColumnType::Int => Some("bigint"),
        ColumnType::Float => Some("double"),
        ColumnType::Bool => Some("boolean"),
        ColumnType::Timestamp | ColumnType::Json => return None,
    };
    let plain = |key: &String| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !column.from.iter().flatten().all(plain) {
        return None;
    }
    let value = |path: &Vec<String>| format!("attributes ->> '$.{}'", path.join("."));
    let values: Vec<String> = column.from.iter().map(value).collect();
    let text = format!("coalesce({})", values.join(", "));
    let typed = kind.map_or(text.clone(), |kind| format!("try_cast({text} as {kind})"));
    Some(format!("{typed} as {}", quoted(&column.name)))
}

fn blank(kind: &DataType, nullable: bool, count: usize) -> ArrayRef {
    match kind {
        // Of those that are never null only `ts_source` may be left out.
        DataType::Utf8 if !nullable => Arc::new(StringArray::from_iter_values(std::iter::repeat_n("event", count))),
        kind => new_null_array(kind, count),
    }
}
