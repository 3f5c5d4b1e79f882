//! A table of an archive: which files it has, which of them a filter skips, and the scan of the others.

use super::adapt::Adapters;
use super::bloom::{self, Wanted};
use super::columns::{self, Footers};
use super::files::{self, Chosen, Known, TableFile, partition, statistics, sum, values};
use super::lines::LinesSource;
use super::skipped::{Files, Scan, Scans};
use crate::archive::{FileColumns, Kind, LiveFile};
use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{DFSchema, Result};
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
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What tables are called in a query.
pub(super) const TABLES: [(&str, Kind); 4] =
    [("logs", Kind::Data), ("dead", Kind::Dead), ("windows", Kind::Windows), ("alerts", Kind::Alerts)];

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
            files.push(TableFile { meta, sealed: file.sealed, partition, lines: None });
        }
        ask_lines(&footers, live.iter().filter(|file| file.kind == kind), &mut files).await?;
        let parquet = files.iter().filter(|file| file.lines.is_none());
        let metas: Vec<ObjectMeta> = parquet.map(|file| file.meta.clone()).collect();
        let mut schemas = columns::of_files(&footers, &metas, all).await?;
        for schema in files.iter().filter_map(|file| Some(file.lines.as_ref()?.arrow())) {
            if !schemas.contains(&schema) {
                schemas.push(schema);
            }
        }
        let mut fields = columns::merge(&schemas);
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

    /// Columns that nobody should use any more, and what is used instead.
    pub(super) async fn deprecated(&self) -> Result<BTreeMap<String, Option<String>>> {
        files::deprecated(&self.footers, &self.files).await
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
            let groups = match file.lines {
                None => bloom::groups(footers, &file.meta, wanted).await?,
                Some(_) => None,
            };
            Ok::<_, DataFusionError>(Chosen { file, groups })
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

    /// The scan of files of JSON Lines.
    fn scan_lines(
        &self,
        state: &dyn Session,
        files: &[Chosen<'_>],
        projection: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = Arc::new(self.schema.project(projection)?);
        let statistics = statistics(self.kind, schema.fields(), &[], sum(files));
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.footers.store);
        let files = files.iter().map(|chosen| chosen.file.clone()).collect();
        let (partitions, attributes) = (state.config().target_partitions(), self.kind == Kind::Data);
        let source = LinesSource::new(store, files, partitions, (schema, statistics), attributes);
        Ok(DataSourceExec::from_data_source(source))
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

/// Finds out the columns of those `files` that are JSON Lines; `live` are the same in the same order.
async fn ask_lines<'l>(
    footers: &Footers,
    live: impl Iterator<Item = &'l LiveFile>,
    files: &mut [TableFile],
) -> Result<()> {
    let wanted = live.zip(&*files).enumerate().filter(|(_, (live, _))| live.is_lines());
    let ask = |(number, (live, file)): (usize, (&'l LiveFile, &TableFile))| {
        let meta = file.meta.clone();
        async move { Ok::<_, DataFusionError>((number, footers.lines.columns(&footers.store, live, &meta).await?)) }
    };
    let asked: Vec<_> = wanted.map(ask).collect();
    let found: Vec<(usize, Arc<FileColumns>)> = stream::iter(asked).buffered(ASKED).try_collect().await?;
    for (number, columns) in found {
        files[number].lines = Some(columns);
    }
    Ok(())
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
        let (lines, parquet): (Vec<_>, Vec<_>) =
            self.choose(state, filters).await?.into_iter().partition(|chosen| chosen.file.lines.is_some());
        for chosen in parquet {
            layouts.entry(chosen.file.partition.keys().cloned().collect()).or_default().push(chosen);
        }
        // A filter that is decided above the scan may take rows out that a limit would have counted.
        let limit = limit.filter(|_| filters.iter().all(|filter| self.is_of_folders(filter)));
        let scan = |(folders, files): (&Vec<String>, &Vec<Chosen<'_>>)| {
            self.scan_layout(state, folders, files, &projection, limit)
        };
        let mut scans = layouts.iter().map(scan).collect::<Result<Vec<_>>>()?;
        if !lines.is_empty() {
            scans.push(self.scan_lines(state, &lines, &projection)?);
        }
        match scans.len() {
            0 => Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&projection)?)))),
            1 => Ok(scans.remove(0)),
            _ => UnionExec::try_new(scans),
        }
    }
}
