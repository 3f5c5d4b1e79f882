//! The session: limits, functions and tables; plans a statement and runs it.

use super::columns::Footers;
use super::error::{Names, QueryError, translate, unknown_table};
use super::objects::{Asked as Counts, Counted};
use super::operators::{Operators, Times};
use super::provider::{ArchiveTable, TABLES};
use super::skipped::{self, Files, Reading, Scans};
use super::statement::{self, Asked};
use super::{function, quantile};
use crate::archive::{self, Live, LiveFile, SealedRows};
use crate::limits;
use crate::units::ByteSize;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// What a query may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What sorts, groups and joins hold together; what is larger goes to disk where it can.
    pub memory: ByteSize,
    pub threads: NonZeroUsize,
    /// Folder for what goes to disk; the system's for temporary files when `None`.
    pub spill: Option<PathBuf>,
}

/// An archive that is asked.
pub struct Engine {
    live: Live,
    context: SessionContext,
    url: ObjectStoreUrl,
    footers: Footers,
    counts: Arc<Counts>,
    scans: Arc<Scans>,
    limits: Limits,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("files", &self.live.files.len()).finish_non_exhaustive()
    }
}

/// The rows of an answer as they come, and what was read for them when they have come.
pub struct Answer {
    pub schema: SchemaRef,
    pub rows: BoxStream<'static, Result<RecordBatch, QueryError>>,
    /// Whether the rows are lines for people, which stand in one column.
    pub is_text: bool,
    plan: Option<Arc<dyn ExecutionPlan>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Under this URL the archive's objects are known to DataFusion.
const OBJECTS: &str = "archive://live";

impl Engine {
    /// Lists the live files of the archive at `url`. Blocks.
    ///
    /// # Errors
    /// When it is none, or cannot be read, or there is no place for what goes to disk.
    pub fn open(url: &str, limits: Limits) -> Result<Self, QueryError> {
        let live = archive::live_files(url)?;
        let objects = archive::objects(url)?;
        let is_staged = |file: &&LiveFile| file.location != file.path;
        let path = |key: &str| Path::parse(key).map_err(|error| QueryError::Start(error.to_string()));
        let staged = live.files.iter().filter(is_staged);
        let placed = staged.map(|file| Ok((path(&file.location)?, path(&file.path)?)));
        let placed = placed.collect::<Result<HashMap<Path, Path>, QueryError>>()?;
        let remote = url.contains("://") && !url.starts_with("file:");
        let counts = Arc::new(Counts::default());
        let counted = Arc::new(Counted::new(objects, placed, remote, Arc::clone(&counts)));
        let context = SessionContext::new_with_state(session(&limits)?);
        let object_url = Url::parse(OBJECTS).expect("it is a URL");
        context.register_object_store(&object_url, Arc::clone(&counted) as Arc<dyn object_store::ObjectStore>);
        let cache = context.runtime_env().cache_manager.get_file_metadata_cache();
        let footers = Footers { store: counted, cache, remote, lines: Arc::default() };
        let url = ObjectStoreUrl::parse(OBJECTS).expect("it is a URL");
        Ok(Self { live, context, url, footers, counts, scans: Arc::default(), limits })
    }

    /// Keeps the files of one pipeline only, where seals say whose they are; returns the names of the others' folders.
    pub fn only(&mut self, pipeline: &str) -> Vec<String> {
        let is_its = |file: &LiveFile| file.home.as_ref().is_none_or(|home| *home == archive::home(pipeline));
        let others: BTreeSet<String> =
            self.live.files.iter().filter(|file| !is_its(file)).filter_map(|file| file.home.clone()).collect();
        self.live.files.retain(is_its);
        others.into_iter().collect()
    }

    /// Rows in the files of `logs`, and the least and greatest `ts` in µs; `None` where seals don't say it.
    pub fn extent(&self) -> Option<SealedRows> {
        let files = self.live.files.iter().filter(|file| file.kind == archive::Kind::Data);
        let all: Option<Vec<SealedRows>> = files.map(|file| file.sealed).collect();
        all?.into_iter().reduce(|all, more| SealedRows {
            rows: all.rows + more.rows,
            min_us: all.min_us.min(more.min_us),
            max_us: all.max_us.max(more.max_us),
        })
    }

    /// Whether the rows of all files of `logs` are in the order in which they came: none says that it was put in another one.
    ///
    /// # Errors
    /// When a footer cannot be read.
    pub async fn is_as_it_came(&self) -> Result<bool, QueryError> {
        for file in self.live.files.iter().filter(|file| file.kind == archive::Kind::Data) {
            let failed = |error: DataFusionError| self.translate(&error, "");
            let location =
                Path::parse(&file.location).map_err(|error| failed(object_store::Error::from(error).into()))?;
            let last_modified = Default::default();
            let meta = ObjectMeta { location, last_modified, size: file.bytes, e_tag: None, version: None };
            let footer = self.footers.read(&meta).await.map_err(failed)?;
            if footer.row_groups().iter().any(|group| group.sorting_columns().is_some_and(|marks| !marks.is_empty())) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the user should be told about the archive.
    pub fn notes(&self) -> &[String] {
        &self.live.notes
    }

    /// Plans a statement and starts it.
    ///
    /// # Errors
    /// When it isn't one that reads, names what isn't there, or the archive cannot be read.
    pub async fn ask(&self, sql: &str) -> Result<Answer, QueryError> {
        match statement::parse(sql)? {
            Asked::Rows(statement) => {
                let plan = self.plan(statement, sql).await?;
                self.run(plan, sql)
            }
            Asked::Explain { statement, analyze } => self.explain(statement, analyze, sql).await,
            Asked::Tables => Ok(answer(self.tables())),
            Asked::Columns(table) => Ok(answer(self.columns(&table, sql).await?)),
        }
    }

    /// What was read and skipped so far for `answer`.
    pub fn reading(&self, answer: &Answer) -> Reading {
        Reading {
            scans: self.scans.take(),
            pruned: answer.plan.as_ref().map(|plan| skipped::pruned(plan.as_ref())).unwrap_or_default(),
            bytes: self.counts.bytes(),
            requests: self.counts.requests(),
        }
    }

    async fn plan(&self, statement: Statement, sql: &str) -> Result<Arc<dyn ExecutionPlan>, QueryError> {
        self.open_tables(&statement, sql, false).await?;
        let first = match self.try_plan(statement.clone()).await {
            Err(error) if is_unknown_column(&error) => {
                // Files that were not asked for their columns may have it.
                self.open_tables(&statement, sql, true).await?;
                self.scans.take();
                self.try_plan(statement).await
            }
            planned => planned,
        };
        first.map_err(|error| self.translate(&error, sql))
    }

    async fn try_plan(&self, statement: Statement) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let state = self.context.state();
        let logical = state.statement_to_plan(statement).await?;
        self.context.execute_logical_plan(logical).await?.create_physical_plan().await
    }

    /// Makes the tables that a statement names known, and no others, as their columns have to be found out.
    async fn open_tables(&self, statement: &Statement, sql: &str, all: bool) -> Result<(), QueryError> {
        let named = self.context.state().resolve_table_references(statement);
        for reference in named.map_err(|error| self.translate(&error, sql))? {
            let Some(table) = TABLES.iter().find(|(name, _)| *name == reference.table()) else { continue };
            let opened = self.open_table(*table, all).await.map_err(|error| self.translate(&error, sql))?;
            let registered = self
                .context
                .deregister_table(table.0)
                .and_then(|_| self.context.register_table(table.0, Arc::new(opened)));
            registered.map_err(|error| self.translate(&error, sql))?;
        }
        Ok(())
    }

    async fn open_table(
        &self,
        table: (&'static str, archive::Kind),
        all: bool,
    ) -> Result<ArchiveTable, DataFusionError> {
        let place = (self.url.clone(), self.footers.clone());
        ArchiveTable::open(table, &self.live.files, place, Arc::clone(&self.scans), all).await
    }

    fn run(&self, plan: Arc<dyn ExecutionPlan>, sql: &str) -> Result<Answer, QueryError> {
        let rows = execute_stream(Arc::clone(&plan), self.context.task_ctx());
        let rows = rows.map_err(|error| self.translate(&error, sql))?;
        let (sql, names, memory) = (sql.to_owned(), self.names(), self.limits.memory);
        let schema = rows.schema();
        let rows = rows.map_err(move |error| translate(&error, &sql, &names, memory)).boxed();
        Ok(Answer { schema, rows, is_text: false, plan: Some(plan) })
    }

    /// What would be read and how; with `analyze`, what was.
    async fn explain(&self, statement: Statement, analyze: bool, sql: &str) -> Result<Answer, QueryError> {
        let plan = self.plan(statement, sql).await?;
        let mut lines = Vec::new();
        let reading = if analyze {
            let mut running = self.run(Arc::clone(&plan), sql)?;
            let mut rows = 0;
            while let Some(batch) = running.rows.try_next().await? {
                rows += batch.num_rows();
            }
            lines.push(format!("answer: {rows} rows"));
            self.reading(&running)
        } else {
            Reading { scans: self.scans.take(), ..Reading::default() }
        };
        lines.extend(reading.lines(analyze));
        lines.push("plan:".to_owned());
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        lines.extend(shown.lines().map(|line| format!("  {}", shorten(line))));
        let column: ArrayRef = Arc::new(StringArray::from(lines));
        let mut answer = answer(batch(vec![("plan", column)]));
        answer.is_text = true;
        Ok(answer)
    }

    fn tables(&self) -> RecordBatch {
        let files = |kind| self.live.files.iter().filter(move |file| file.kind == kind);
        let total = |kind| {
            let mut total = Files::default();
            files(kind).for_each(|file| total.add(file.bytes));
            total
        };
        let rows = |kind| files(kind).map(|file| file.sealed.map(|s| s.rows as i64)).sum::<Option<i64>>();
        let sealed = |kind| files(kind).filter_map(|file| file.sealed);
        let least = |kind| sealed(kind).map(|rows| rows.min_us).min();
        let greatest = |kind| sealed(kind).map(|rows| rows.max_us).max();
        let kinds = TABLES.map(|(_, kind)| kind);
        let stamps = |of: &dyn Fn(archive::Kind) -> Option<i64>| -> ArrayRef {
            Arc::new(kinds.iter().map(|kind| of(*kind)).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let counts = |of: &dyn Fn(archive::Kind) -> Option<i64>| -> ArrayRef {
            Arc::new(kinds.iter().map(|kind| of(*kind)).collect::<Int64Array>())
        };
        batch(vec![
            ("table", Arc::new(StringArray::from_iter_values(TABLES.map(|(name, _)| name)))),
            ("rows", counts(&rows)),
            ("files", counts(&|kind| Some(total(kind).files as i64))),
            ("bytes", counts(&|kind| Some(total(kind).bytes as i64))),
            ("first", stamps(&least)),
            ("last", stamps(&greatest)),
        ])
    }

    async fn columns(&self, name: &str, sql: &str) -> Result<RecordBatch, QueryError> {
        let Some(table) = TABLES.iter().find(|(known, _)| *known == name.to_ascii_lowercase()) else {
            return Err(unknown_table(sql, name, &self.names()));
        };
        let table = self.open_table(*table, true).await.map_err(|error| self.translate(&error, sql))?;
        let deprecated = table.deprecated().await.map_err(|error| self.translate(&error, sql))?;
        let note = |name: &String| {
            Some(match deprecated.get(name)? {
                Some(instead) => format!("deprecated, use {instead}"),
                None => "deprecated".to_owned(),
            })
        };
        let fields = table.columns().fields();
        let kinds = fields.iter().map(|field| type_name(field));
        let of = fields.iter().map(|field| if table.is_folder(field.name()) { "folder" } else { "file" });
        Ok(batch(vec![
            ("column", Arc::new(StringArray::from_iter_values(fields.iter().map(|field| field.name())))),
            ("type", Arc::new(StringArray::from_iter_values(kinds))),
            (
                "null",
                Arc::new(StringArray::from_iter_values(
                    fields.iter().map(|f| if f.is_nullable() { "yes" } else { "no" }),
                )),
            ),
            ("stored", Arc::new(StringArray::from_iter_values(of))),
            ("note", Arc::new(fields.iter().map(|field| note(field.name())).collect::<StringArray>())),
        ]))
    }

    fn names(&self) -> Names {
        let state = self.context.state();
        let functions = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let functions = functions.chain(state.window_functions().keys()).cloned().collect();
        Names { tables: TABLES.iter().map(|(name, _)| (*name).to_owned()).collect(), functions }
    }

    fn translate(&self, error: &DataFusionError, sql: &str) -> QueryError {
        translate(error, sql, &self.names(), self.limits.memory)
    }
}

fn session(limits: &Limits) -> Result<SessionState, QueryError> {
    let failed = |error: DataFusionError| QueryError::Start(error.strip_backtrace());
    let pool = FairSpillPool::new(usize::try_from(limits.memory.0).unwrap_or(usize::MAX));
    let pool = TrackConsumersPool::new(pool, NonZeroUsize::MIN);
    let disk = match &limits.spill {
        Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(disk))
        .with_metadata_cache_limit(limits::QUERY_FOOTER_BYTES);
    let mut config = SessionConfig::new().with_target_partitions(limits.threads.get()).with_information_schema(false);
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.execution.time_zone = Some("UTC".to_owned());
    options.sql_parser.default_null_ordering = "nulls_last".to_owned();
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(Operators::default())];
    planners.extend(SessionStateDefaults::default_expr_planners());
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(Times)];
    rules.extend(Analyzer::new().rules);
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime.build_arc().map_err(failed)?)
        .with_default_features()
        .with_expr_planners(planners)
        .with_analyzer_rules(rules)
        .build();
    use datafusion::logical_expr::registry::FunctionRegistry;
    for function in function::all() {
        state.register_udf(Arc::new(function)).map_err(failed)?;
    }
    for function in quantile::all() {
        state.register_udaf(Arc::new(function)).map_err(failed)?;
    }
    Ok(state)
}

fn is_unknown_column(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::SchemaError(error, _) => matches!(error.as_ref(), SchemaError::FieldNotFound { .. }),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => is_unknown_column(inner),
        DataFusionError::Collection(all) => all.iter().any(is_unknown_column),
        _ => false,
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length")
}

fn answer(rows: RecordBatch) -> Answer {
    let schema = rows.schema();
    Answer { schema, rows: stream::iter([Ok(rows)]).boxed(), is_text: false, plan: None }
}

/// What a type is called in a schema file, or in SQL where it has no name there.
fn type_name(field: &Field) -> String {
    use datafusion::arrow::datatypes::DataType as T;
    match field.data_type() {
        T::Utf8View | T::Utf8 => "text".to_owned(),
        T::Int64 => "int".to_owned(),
        T::Float64 => "float".to_owned(),
        T::Boolean => "bool".to_owned(),
        T::Timestamp(..) => "timestamp".to_owned(),
        T::Date32 => "date".to_owned(),
        T::BinaryView | T::Binary => "bytes".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// Lists of files, and conditions repeated for statistics, make a line of a plan long and say nothing that isn't said above.
fn shorten(line: &str) -> String {
    let line = line.split(", pruning_predicate=").next().unwrap_or(line);
    match (line.find("file_groups={"), line.find("]]}")) {
        (Some(start), Some(end)) if end > start => {
            format!("{}{}", &line[..start], line[end + 3..].trim_start_matches(", "))
        }
        _ => line.to_owned(),
    }
}
