//! A table of an archive: which files it has, which of them a filter skips, and the scan of the others.

use super::adapt::Adapters;
use super::bloom::{self, Wanted};
use super::columns::{self, Footers};
use super::skipped::{Files, Scan, Scans};
use crate::archive::{Kind, LiveFile, SealedRows};
use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::TableProvider;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetAccessPlan, RowGroupAccess,
};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use object_store::path::Path;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What tables are called in a query.
pub(super) const TABLES: [(&str, Kind); 4] =
    [("logs", Kind::Data), ("dead", Kind::Dead), ("windows", Kind::Windows), ("alerts", Kind::Alerts)];

/// A file of a table.
#[derive(Debug, Clone)]
struct TableFile {
    meta: ObjectMeta,
    sealed: Option<SealedRows>,
    /// Values of the folders, of the columns' types.
    partition: BTreeMap<String, ScalarValue>,
}

/// A file that is read, and which of its row groups; all of them when `None`.
#[derive(Debug)]
struct Chosen<'t> {
    file: &'t TableFile,
    groups: Option<Vec<bool>>,
}

/// Files whose bloom filters are asked at a time.
const ASKED: usize = 16;

/// One of the four tables.
#[derive(Debug)]
pub(super) struct ArchiveTable {
    name: &'static str,
    kind: Kind,
    /// Columns of files first, then those of folders.
    schema: SchemaRef,
    /// Columns that every file has in its folders' names.
    folders: HashSet<String>,
    files: Vec<TableFile>,
    url: ObjectStoreUrl,
    footers: Footers,
    scans: Arc<Scans>,
}

impl ArchiveTable {
    /// Finds out the columns. `all` asks each file for them.
    pub(super) async fn open(
        (name, kind): (&'static str, Kind),
        live: &[LiveFile],
        (url, footers): (ObjectStoreUrl, Footers),
        scans: Arc<Scans>,
        all: bool,
    ) -> Result<Self> {
        let mut files = Vec::new();
        for file in live.iter().filter(|file| file.kind == kind) {
            let location = Path::parse(&file.location).map_err(object_store::Error::from)?;
            let meta = ObjectMeta {
                location,
                last_modified: Default::default(),
                size: file.bytes,
                e_tag: None,
                version: None,
            };
            let partition = partition(file, &meta, &footers).await?;
            files.push(TableFile { meta, sealed: file.sealed, partition });
        }
        let metas: Vec<ObjectMeta> = files.iter().map(|file| file.meta.clone()).collect();
        let mut fields = columns::of_files(&footers, &metas, all).await?;
        if files.is_empty() {
            let least = kind.least_columns();
            fields = least
                .fields()
                .iter()
                .map(|f| Arc::new(f.as_ref().clone().with_data_type(columns::shown(f.data_type()))))
                .collect();
        }
        for (name, value) in files.iter().flat_map(|file| &file.partition) {
            if !fields.iter().any(|field| field.name() == name) {
                fields.push(Arc::new(Field::new(name, value.data_type(), true)));
            }
        }
        let in_all = |name: &String| files.iter().all(|file| file.partition.contains_key(name));
        let folders = files.first().map(|file| file.partition.keys().filter(|name| in_all(name)).cloned().collect());
        let folders = folders.unwrap_or_default();
        Ok(Self { name, kind, schema: Arc::new(Schema::new(fields)), folders, files, url, footers, scans })
    }

    pub(super) fn columns(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether a column is in folders' names.
    pub(super) fn is_folder(&self, column: &str) -> bool {
        self.files.first().is_some_and(|file| file.partition.contains_key(column))
    }

    /// Whether a filter can be decided for whole files, by their folders.
    fn is_of_folders(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        !columns.is_empty() && columns.iter().all(|column| self.folders.contains(&column.name)) && !filter.is_volatile()
    }

    /// The files that may have rows for which all filters hold.
    async fn choose(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<Chosen<'_>>> {
        let schema = DFSchema::try_from(self.schema.as_ref().clone())?;
        let mut scan = Scan { table: self.name.to_owned(), ..Scan::default() };
        self.files.iter().for_each(|file| scan.all.add(file.meta.size));
        let mut left: Vec<&TableFile> = self.files.iter().collect();
        let mut wanted = Vec::new();
        let (of_folders, others): (Vec<&Expr>, Vec<&Expr>) =
            filters.iter().partition(|filter| self.is_of_folders(filter));
        for filter in of_folders {
            let filter = state.create_physical_expr(filter.clone(), &schema)?;
            let kept = self.evaluate(&filter, &left)?;
            left = keep(left, &kept, &mut scan.by_folder);
        }
        if let Some(filter) = conjunction(others.into_iter().cloned()) {
            let filter = state.create_physical_expr(filter, &schema)?;
            for (of_time, skipped) in [(false, &mut scan.by_folder), (true, &mut scan.by_time)] {
                let kept = self.prune(&filter, &left, of_time);
                left = keep(left, &kept, skipped);
            }
            wanted = bloom::wanted(&filter, &self.schema);
        }
        let chosen = self.ask_filters(left, &wanted, &mut scan).await?;
        chosen.iter().for_each(|chosen| scan.left.add(chosen.file.meta.size));
        self.scans.note(scan);
        Ok(chosen)
    }

    /// Leaves out files whose bloom filters say that they have none of the values that are wanted.
    async fn ask_filters<'f>(
        &self,
        files: Vec<&'f TableFile>,
        wanted: &[Wanted],
        scan: &mut Scan,
    ) -> Result<Vec<Chosen<'f>>> {
        if wanted.is_empty() {
            return Ok(files.into_iter().map(|file| Chosen { file, groups: None }).collect());
        }
        let footers = &self.footers;
        let ask = move |file: &'f TableFile| async move {
            Ok::<_, DataFusionError>(Chosen { file, groups: bloom::groups(footers, &file.meta, wanted).await? })
        };
        // Collected first: the compiler cannot see that a stream over the iterator is Send.
        let asked: Vec<_> = files.into_iter().map(ask).collect();
        let mut chosen: Vec<Chosen<'f>> = stream::iter(asked).buffered(ASKED).try_collect().await?;
        chosen.retain(|chosen| {
            let Some(groups) = &chosen.groups else { return true };
            let kept = groups.iter().filter(|kept| **kept).count();
            scan.asked_groups += groups.len() as u64;
            scan.skipped_groups += (groups.len() - kept) as u64;
            if kept == 0 {
                scan.by_bloom.add(chosen.file.meta.size);
            }
            kept > 0
        });
        Ok(chosen)
    }

    /// For which files a filter over folders' columns alone holds.
    fn evaluate(&self, filter: &Arc<dyn PhysicalExpr>, files: &[&TableFile]) -> Result<Vec<bool>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let column = |field: &FieldRef| match self.folders.contains(field.name()) {
            true => values(files, field),
            false => Ok(datafusion::arrow::array::new_null_array(field.data_type(), files.len())),
        };
        let columns: Vec<ArrayRef> = self.schema.fields().iter().map(column).collect::<Result<_>>()?;
        let fields = self.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let rows = RecordBatch::try_new(schema, columns)?;
        let holds = cast(&filter.evaluate(&rows)?.into_array(files.len())?, &DataType::Boolean)?;
        Ok(holds.as_boolean().iter().map(|holds| holds == Some(true)).collect())
    }

    /// For which files a filter may hold, by their folders or by their time; all where that cannot be told.
    fn prune(&self, filter: &Arc<dyn PhysicalExpr>, files: &[&TableFile], of_time: bool) -> Vec<bool> {
        let known = Known { kind: self.kind, schema: &self.schema, files, of_time };
        let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema));
        let pruned = predicate.try_build(Arc::clone(filter)).and_then(|predicate| predicate.prune(&known));
        pruned.unwrap_or_else(|_| vec![true; files.len()])
    }

    /// The scan of files that all have the same columns in their folders.
    fn scan_layout(
        &self,
        state: &dyn Session,
        folders: &[String],
        files: &[Chosen<'_>],
        projection: &[usize],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (of_folders, of_files): (Vec<FieldRef>, Vec<FieldRef>) =
            self.schema.fields().iter().cloned().partition(|field| folders.contains(field.name()));
        let statistics = |rows| statistics(self.kind, &of_files, &of_folders, rows);
        let part = |Chosen { file, groups }: &Chosen<'_>| {
            let values = of_folders.iter().map(|field| file.partition[field.name()].clone()).collect();
            let mut part = PartitionedFile::new_from_meta(file.meta.clone()).with_partition_values(values);
            part.statistics = file.sealed.map(|rows| Arc::new(statistics(Some(rows))));
            part.metadata_size_hint = Some(self.footers.hint(file.meta.size));
            let Some(groups) = groups else { return part };
            let access = |kept: &bool| if *kept { RowGroupAccess::Scan } else { RowGroupAccess::Skip };
            part.with_extension(ParquetAccessPlan::new(groups.iter().map(access).collect()))
        };
        let groups = FileGroup::new(files.iter().map(part).collect()).split_files(state.config().target_partitions());
        let schema = TableSchema::builder(Arc::new(Schema::new(of_files.clone())))
            .with_table_partition_cols(of_folders.clone())
            .build();
        let order = of_files.iter().chain(&of_folders);
        let order: BTreeMap<&str, usize> =
            order.enumerate().map(|(index, field)| (field.name().as_str(), index)).collect();
        let projection = projection.iter().map(|index| order[self.schema.field(*index).name().as_str()]).collect();
        let Footers { store, cache, .. } = &self.footers;
        let reader = CachedParquetFileReaderFactory::new(Arc::clone(store), Arc::clone(cache));
        let mut options =
            TableParquetOptions { global: state.config_options().execution.parquet.clone(), ..Default::default() };
        // Where they have been asked already, they need not be read.
        options.global.bloom_filter_on_read = files.iter().any(|chosen| chosen.groups.is_none());
        let source = ParquetSource::new(schema)
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(reader));
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics(sum(files)))
            .with_projection_indices(Some(projection))?
            .with_limit(limit)
            .with_expr_adapter(Some(Arc::new(Adapters { attributes: self.kind == Kind::Data })))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The values of a file's folders, with the types of their columns.
async fn partition(file: &LiveFile, meta: &ObjectMeta, footers: &Footers) -> Result<BTreeMap<String, ScalarValue>> {
    let mut values: BTreeMap<String, Option<String>> = file.partition.iter().cloned().collect();
    if values.values().flatten().any(|value| crate::archive::is_cut(value)) {
        let footer = footers.read(meta).await?;
        let noted = footer.file_metadata().key_value_metadata().into_iter().flatten();
        let whole = noted.filter(|entry| entry.key == "headrig.partition").find_map(|entry| entry.value.as_deref());
        let whole: BTreeMap<String, Option<String>> =
            whole.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        for (name, value) in &mut values {
            if let Some(whole) = whole.get(name) {
                value.clone_from(whole);
            }
        }
    }
    let typed = |(name, value): (String, Option<String>)| {
        let text = ScalarValue::Utf8View(value);
        let kind = match name.as_str() {
            "date" => DataType::Date32,
            "hour" => DataType::Int64,
            _ => DataType::Utf8View,
        };
        let value = text.cast_to(&kind).unwrap_or_else(|_| ScalarValue::try_from(&kind).unwrap_or(ScalarValue::Null));
        (name, value)
    };
    Ok(values.into_iter().map(typed).collect())
}

/// Those of `files` that are kept; the others are counted as skipped.
fn keep<'f>(files: Vec<&'f TableFile>, kept: &[bool], skipped: &mut Files) -> Vec<&'f TableFile> {
    let both = files.into_iter().zip(kept);
    both.filter_map(|(file, kept)| {
        if !kept {
            skipped.add(file.meta.size);
        }
        kept.then_some(file)
    })
    .collect()
}

/// The values of a folders' column, one a file; null where a file has none.
fn values(files: &[&TableFile], field: &Field) -> Result<ArrayRef> {
    let null = ScalarValue::try_from(field.data_type())?;
    ScalarValue::iter_to_array(files.iter().map(|file| file.partition.get(field.name()).unwrap_or(&null).clone()))
}

/// The column that a seal's least and greatest time are of.
const fn time_column(kind: Kind) -> &'static str {
    match kind {
        Kind::Data | Kind::Dead => "ts",
        Kind::Windows => "window_start",
        Kind::Alerts => "window_end",
    }
}

fn stamp(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

/// What all these seals say together; `None` when one says nothing.
fn sum(files: &[Chosen<'_>]) -> Option<SealedRows> {
    let add = |sum: SealedRows, rows: SealedRows| SealedRows {
        rows: sum.rows + rows.rows,
        min_us: sum.min_us.min(rows.min_us),
        max_us: sum.max_us.max(rows.max_us),
    };
    let all: Option<Vec<SealedRows>> = files.iter().map(|chosen| chosen.file.sealed).collect();
    all?.into_iter().reduce(add)
}

/// What is known of rows without looking into files.
fn statistics(kind: Kind, of_files: &[FieldRef], of_folders: &[FieldRef], rows: Option<SealedRows>) -> Statistics {
    let column = |field: &FieldRef| match rows {
        Some(rows) if field.name() == time_column(kind) && matches!(field.data_type(), DataType::Timestamp(..)) => {
            let (min_value, max_value) = (Precision::Exact(stamp(rows.min_us)), Precision::Exact(stamp(rows.max_us)));
            ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value,
                max_value,
                ..ColumnStatistics::new_unknown()
            }
        }
        _ => ColumnStatistics::new_unknown(),
    };
    Statistics {
        num_rows: rows.map_or(Precision::Absent, |rows| Precision::Exact(rows.rows as usize)),
        total_byte_size: Precision::Absent,
        column_statistics: of_files.iter().chain(of_folders).map(column).collect(),
    }
}

/// What is known of files before they are read, for skipping whole ones.
struct Known<'t> {
    kind: Kind,
    schema: &'t SchemaRef,
    files: &'t [&'t TableFile],
    /// Whether times are looked at, or folders.
    of_time: bool,
}

impl Known<'_> {
    fn bounds(&self, column: &Column, of_seal: fn(SealedRows) -> i64) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        if !self.of_time {
            let any = self.files.iter().any(|file| file.partition.contains_key(field.name()));
            return any.then(|| values(self.files, field).ok()).flatten();
        }
        let null = ScalarValue::TimestampMicrosecond(None, Some("UTC".into()));
        let bound = |file: &&TableFile| file.sealed.map_or(null.clone(), |rows| stamp(of_seal(rows)));
        let is_time = field.name() == time_column(self.kind) && *field.data_type() == null.data_type();
        is_time.then(|| ScalarValue::iter_to_array(self.files.iter().map(bound)).ok()).flatten()
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |rows| rows.min_us)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |rows| rows.max_us)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let values = self.bounds(column, |rows| rows.min_us).filter(|_| !self.of_time)?;
        // All rows of a file have a folder's value, so all are null, or none.
        let rows = |file: &TableFile| file.sealed.map_or(1, |rows| rows.rows);
        let count = |(number, file): (usize, &&TableFile)| match file.partition.contains_key(&column.name) {
            true => Some(if values.is_null(number) { rows(file) } else { 0 }),
            false => None,
        };
        Some(Arc::new(self.files.iter().enumerate().map(count).collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = |file: &&TableFile| Some(file.sealed.map_or(1, |rows| rows.rows));
        (!self.of_time).then(|| Arc::new(self.files.iter().map(rows).collect::<UInt64Array>()) as ArrayRef)
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<datafusion::arrow::array::BooleanArray> {
        None
    }
}

#[async_trait]
impl TableProvider for ArchiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let how = |filter: &&Expr| match self.is_of_folders(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(how).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let mut layouts: BTreeMap<Vec<String>, Vec<Chosen<'_>>> = BTreeMap::new();
        for chosen in self.choose(state, filters).await? {
            layouts.entry(chosen.file.partition.keys().cloned().collect()).or_default().push(chosen);
        }
        // A filter that is decided above the scan may take rows out that a limit would have counted.
        let limit = limit.filter(|_| filters.iter().all(|filter| self.is_of_folders(filter)));
        let scan = |(folders, files): (&Vec<String>, &Vec<Chosen<'_>>)| {
            self.scan_layout(state, folders, files, &projection, limit)
        };
        let mut scans = layouts.iter().map(scan).collect::<Result<Vec<_>>>()?;
        match scans.len() {
            0 => Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&projection)?)))),
            1 => Ok(scans.remove(0)),
            _ => UnionExec::try_new(scans),
        }
    }
}
