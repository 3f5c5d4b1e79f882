//! The columns of a table: those of all its files together.
//!
//! A column that came later is null in older files, an int that became a float is a float in all of them, and bytes of a
//! hex column are text. What a file's columns are is in its footer. A writer's columns change seldom, so of the files of one
//! writer the first and the last are asked, and those between them only where the two differ; all of them when a query
//! names a column that was not found so.

use super::lines::Known;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Footers that are read at a time.
const FOOTERS: usize = 16;

/// Where footers are read from, and kept for the scans that follow.
#[derive(Clone)]
pub(super) struct Footers {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) cache: Arc<FileMetadataCache>,
    /// Whether a request takes long, so that it is worth to guess how long a footer is.
    pub(super) remote: bool,
    /// Columns of files of JSON Lines.
    pub(super) lines: Arc<Known>,
}

impl std::fmt::Debug for Footers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Footers")
    }
}

impl Footers {
    /// Bytes of a file's end that are read at once in the hope that they are all of its footer.
    pub(super) fn hint(&self, bytes: u64) -> usize {
        if self.remote { (bytes / 128).clamp(8 << 10, 256 << 10) as usize } else { 8 }
    }

    pub(super) async fn read(&self, file: &ObjectMeta) -> Result<Arc<ParquetMetaData>> {
        self.fetch(file, PageIndexPolicy::Skip).await
    }

    /// Reads where each page of a file is, too, so that a scan can read the pages of single rows. It is kept with the footer.
    pub(super) async fn read_pages(&self, file: &ObjectMeta) -> Result<()> {
        self.fetch(file, PageIndexPolicy::Optional).await.map(drop)
    }

    async fn fetch(&self, file: &ObjectMeta, pages: PageIndexPolicy) -> Result<Arc<ParquetMetaData>> {
        let reading = DFParquetMetadata::new(self.store.as_ref(), file)
            .with_file_metadata_cache(Some(Arc::clone(&self.cache)))
            .with_metadata_size_hint(Some(self.hint(file.size)))
            .with_page_index_policy(Some(pages));
        reading.fetch_metadata().await
    }

    async fn schemas(&self, files: &[&ObjectMeta]) -> Result<Vec<SchemaRef>> {
        let schema = |file: ObjectMeta| async move {
            let footer = self.read(&file).await?;
            let footer = footer.file_metadata();
            let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())?;
            Ok(Arc::new(Schema::new(schema.fields)))
        };
        let files: Vec<ObjectMeta> = files.iter().map(|file| (*file).clone()).collect();
        stream::iter(files).map(schema).buffered(FOOTERS).try_collect().await
    }
}

/// The columns of Parquet files, each different list of them once; `all` asks each file.
pub(super) async fn of_files(footers: &Footers, files: &[ObjectMeta], all: bool) -> Result<Vec<SchemaRef>> {
    let mut schemas: Vec<SchemaRef> = Vec::new();
    let mut writers: BTreeMap<(&str, &str), Vec<&ObjectMeta>> = BTreeMap::new();
    for file in files {
        writers.entry(writer(file.location.as_ref())).or_default().push(file);
    }
    for (_, mut files) in writers {
        files.sort_by_key(|file| file.location.filename().unwrap_or_default());
        let found = if all { footers.schemas(&files).await? } else { sample(footers, &files).await? };
        for schema in found.into_iter().rev() {
            if !schemas.contains(&schema) {
                schemas.push(schema);
            }
        }
    }
    Ok(schemas)
}

/// Who wrote a file and of which window it is, by its key: `windows/name=w/date=…/PIPELINE-CHAIN-NUMBER-NUMBER.parquet`.
fn writer(key: &str) -> (&str, &str) {
    let window = key.split('/').find(|folder| folder.starts_with("name=")).unwrap_or_default();
    let name = key.rsplit('/').next().unwrap_or_default();
    (window, name.rsplitn(3, '-').nth(2).unwrap_or_default())
}

/// The schemas of files in the order in which they were written, as far as they must be asked to know where they change.
async fn sample(footers: &Footers, files: &[&ObjectMeta]) -> Result<Vec<SchemaRef>> {
    let mut known: BTreeMap<usize, SchemaRef> = BTreeMap::new();
    let mut wanted: Vec<usize> = vec![0, files.len() - 1];
    wanted.dedup();
    while !wanted.is_empty() {
        let asked: Vec<&ObjectMeta> = wanted.iter().map(|number| files[*number]).collect();
        known.extend(wanted.iter().copied().zip(footers.schemas(&asked).await?));
        let numbers: Vec<usize> = known.keys().copied().collect();
        let between = |pair: &[usize]| {
            let middle = usize::midpoint(pair[0], pair[1]);
            (known[&pair[0]] != known[&pair[1]] && middle > pair[0]).then_some(middle)
        };
        wanted = numbers.windows(2).filter_map(between).collect();
    }
    Ok(known.into_values().collect())
}

/// The columns of all these files, those of the first in its order.
pub(super) fn merge(schemas: &[SchemaRef]) -> Vec<FieldRef> {
    let mut merged: Vec<Field> = Vec::new();
    for field in schemas.iter().flat_map(|schema| schema.fields()) {
        let kind = shown(field.data_type());
        match merged.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) => {
                let nullable = known.is_nullable() || field.is_nullable();
                *known = Field::new(field.name(), wider(known.data_type(), &kind), nullable);
            }
            None => merged.push(Field::new(field.name(), kind, field.is_nullable())),
        }
    }
    for field in &mut merged {
        if schemas.iter().any(|schema| schema.field_with_name(field.name()).is_err()) {
            field.set_nullable(true);
        }
    }
    merged.into_iter().map(Arc::new).collect()
}

/// The type that a file's column has in a query: texts as views, hex as text.
pub(super) fn shown(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::FixedSizeBinary(_) => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        other => other.clone(),
    }
}

/// A type that takes the values of both.
fn wider(one: &DataType, other: &DataType) -> DataType {
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (DataType::Int64 | DataType::Float64, DataType::Int64 | DataType::Float64) => DataType::Float64,
        _ => DataType::Utf8View,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
        Arc::new(Schema::new(fields.iter().map(|(n, t, null)| Field::new(*n, t.clone(), *null)).collect::<Vec<_>>()))
    }

    #[test]
    fn columns_are_merged() {
        let old =
            schema(&[("ts", DataType::Int64, false), ("n", DataType::Int64, true), ("gone", DataType::Utf8, false)]);
        let new = schema(&[
            ("ts", DataType::Int64, false),
            ("n", DataType::Float64, true),
            ("trace", DataType::FixedSizeBinary(16), true),
        ]);
        let merged: Vec<Field> = merge(&[new, old]).iter().map(|field| field.as_ref().clone()).collect();
        assert_eq!(
            merged,
            [
                Field::new("ts", DataType::Int64, false),
                Field::new("n", DataType::Float64, true),
                Field::new("trace", DataType::Utf8View, true),
                Field::new("gone", DataType::Utf8View, true),
            ]
        );
    }

    #[test]
    fn writers_are_told_apart() {
        let of = |key| writer(key);
        assert_eq!(of("data/date=2026-05-06/my-shop-000000000001-0.parquet"), ("", "my-shop"));
        assert_eq!(of("windows/name=w/date=x/shop-000000000001-12.parquet"), ("name=w", "shop"));
        assert_eq!(of("x.parquet"), ("", ""));
    }
}
