//! The scan of files of JSON Lines: each is unpacked and read as a whole, by one thread.
//!
//! Threads that may block do it, one a partition of the plan; each hands on two batches at most that nobody has taken. Whole files are skipped
//! as of Parquet; within a file nothing is.

use super::files::TableFile;
use super::rows::Rows;
use crate::archive::{self, FileColumns, LINE_BYTES, LiveFile};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::source::DataSource;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{DisplayFormatType, SendableRecordBatchStream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// Batches of one thread that wait to be taken.
const AHEAD: usize = 2;

/// Files that are read.
#[derive(Debug)]
pub(super) struct LinesSource {
    pub(super) store: Arc<dyn ObjectStore>,
    /// By partition of the plan.
    parts: Vec<Vec<TableFile>>,
    /// Columns that are asked for.
    pub(super) schema: SchemaRef,
    /// Whether columns may be in `attributes`.
    pub(super) attributes: bool,
    /// Of all files together.
    pub(super) statistics: Arc<Statistics>,
}

impl LinesSource {
    /// Deals `files` out to at most `partitions` threads, by their bytes.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        mut files: Vec<TableFile>,
        partitions: usize,
        (schema, statistics): (SchemaRef, Statistics),
        attributes: bool,
    ) -> Self {
        files.sort_by_key(|file| std::cmp::Reverse(file.meta.size));
        let mut parts = vec![(0, Vec::new()); partitions.min(files.len()).max(1)];
        for file in files {
            let least = parts.iter_mut().min_by_key(|(bytes, _)| *bytes).expect("there is one");
            least.0 += file.meta.size;
            least.1.push(file);
        }
        let parts = parts.into_iter().map(|(_, files)| files).collect();
        Self { store, parts, schema, attributes, statistics: Arc::new(statistics) }
    }
}

impl DataSource for LinesSource {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut stream = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), AHEAD);
        let (batches, files, store) = (stream.tx(), self.parts[partition].clone(), Arc::clone(&self.store));
        let (schema, attributes) = (Arc::clone(&self.schema), self.attributes);
        let (runtime, most) = (Handle::current(), context.session_config().batch_size());
        stream.spawn_blocking(move || {
            for file in files {
                let Some(columns) = &file.lines else { continue };
                let rows = Rows::new(&schema, columns, &file.partition, attributes, most)?;
                // Nobody wants more when it cannot be handed on.
                if !read(&store, &runtime, &file.meta, rows, &|rows| batches.blocking_send(Ok(rows)).is_ok())? {
                    break;
                }
            }
            Ok(())
        });
        Ok(stream.build())
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: usize = self.parts.iter().map(Vec::len).sum();
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "files of JSON Lines={files}, projection=[{}]", names.join(", "))
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.parts.len())
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.schema))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(match partition {
            None => Arc::clone(&self.statistics),
            Some(_) => Arc::new(Statistics::new_unknown(&self.schema)),
        })
    }

    fn with_fetch(&self, _: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
    }

    fn try_swapping_with_projection(&self, _: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}

/// The lines of an object, on a thread that may block.
fn lines(store: &Arc<dyn ObjectStore>, runtime: &Handle, file: &ObjectMeta) -> io::Result<Box<dyn BufRead + Send>> {
    let (store, runtime, location) = (Arc::clone(store), runtime.clone(), file.location.clone());
    let range = move |start: u64, length: u64| -> io::Result<Bytes> {
        runtime.block_on(store.get_range(&location, start..start + length)).map_err(io::Error::other)
    };
    archive::unpacked(file.location.as_ref(), file.size, range)
}

/// Reads a file to its end, or until `hand_on` takes no more; tells whether it took all.
fn read(
    store: &Arc<dyn ObjectStore>,
    runtime: &Handle,
    file: &ObjectMeta,
    mut rows: Rows,
    hand_on: &dyn Fn(RecordBatch) -> bool,
) -> Result<bool> {
    let failed = |error| of_reading(file, error);
    let mut lines = lines(store, runtime, file).map_err(failed)?;
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        let found = lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)?;
        let ends = found == 0;
        if !ends {
            number += 1;
            let broken = |detail: &str| -> DataFusionError {
                let text = format!("line {number} of {} is no row: {detail}", file.location);
                DataFusionError::External(text.into())
            };
            if line.pop() != Some(b'\n') {
                return Err(broken("it has no end"));
            }
            let text = std::str::from_utf8(&line).map_err(|_| broken("it is not UTF-8"))?;
            rows.push(text).map_err(|detail| broken(&detail))?;
        }
        if (ends || rows.is_full())
            && let Some(batch) = rows.take()?
            && !hand_on(batch)
        {
            return Ok(false);
        }
        if ends {
            return Ok(true);
        }
    }
}

/// An error of the store is that; others are of the file.
fn of_reading(file: &ObjectMeta, error: io::Error) -> DataFusionError {
    match error.downcast::<object_store::Error>() {
        Ok(error) => DataFusionError::ObjectStore(Box::new(error)),
        Err(error) => DataFusionError::External(format!("{} cannot be unpacked: {error}", file.location).into()),
    }
}

/// The columns of files that were asked for theirs.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<String, Arc<FileColumns>>>);

impl Known {
    /// The columns of a file: those of the object that it names, else what its lines have.
    pub(super) async fn columns(
        &self,
        store: &Arc<dyn ObjectStore>,
        live: &LiveFile,
        file: &ObjectMeta,
    ) -> Result<Arc<FileColumns>> {
        let key = live.columns.as_ref().unwrap_or(&live.path);
        if let Some(known) = self.get(key) {
            return Ok(known);
        }
        let columns = match named(store, live).await? {
            Some(columns) => columns,
            None => learned(store, live, file).await?,
        };
        let columns = Arc::new(columns);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Arc::clone(&columns));
        Ok(columns)
    }

    fn get(&self, key: &str) -> Option<Arc<FileColumns>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

/// What the object says that a file names; `None` where it names none, or that is gone or damaged.
async fn named(store: &Arc<dyn ObjectStore>, live: &LiveFile) -> Result<Option<FileColumns>> {
    let Some(key) = &live.columns else { return Ok(None) };
    let location = object_store::path::Path::parse(key).map_err(object_store::Error::from)?;
    match store.get(&location).await {
        Ok(found) => Ok(FileColumns::parse(key, &found.bytes().await?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn learned(store: &Arc<dyn ObjectStore>, live: &LiveFile, file: &ObjectMeta) -> Result<FileColumns> {
    let (store, kind, file, runtime) = (Arc::clone(store), live.kind, file.clone(), Handle::current());
    let read = move || {
        let learned = lines(&store, &runtime, &file).and_then(|lines| archive::learn(kind, lines));
        learned.map_err(|error| of_reading(&file, error))
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| DataFusionError::External(Box::new(error)))?
}
