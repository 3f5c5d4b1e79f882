//! The archive's objects as DataFusion reads them: read only, each byte counted.
//!
//! A sealed file that is still staged may be placed while a query runs: where it was listed there is nothing then, and it
//! is read from its place.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    coalesce_ranges,
};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was asked of the store.
#[derive(Debug, Default)]
pub(super) struct Asked {
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Asked {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts what is read of the objects in `inner`.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn ObjectStore>,
    /// Of staged objects, where they will be placed.
    placed: HashMap<Path, Path>,
    asked: Arc<Asked>,
    /// Ranges with at most so many bytes between them are read in one request.
    coalesce: u64,
}

impl Counted {
    /// `remote` tells whether a request costs more than the bytes that lie between two ranges.
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        placed: HashMap<Path, Path>,
        remote: bool,
        asked: Arc<Asked>,
    ) -> Self {
        let coalesce = if remote { OBJECT_STORE_COALESCE_DEFAULT } else { 4_096 };
        Self { inner, placed, asked, coalesce }
    }

    async fn read(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let read = match self.inner.get_range(location, range.clone()).await {
            Err(Error::NotFound { .. }) if self.placed.contains_key(location) => {
                self.inner.get_range(&self.placed[location], range).await
            }
            read => read,
        };
        if let Ok(bytes) = &read {
            self.asked.add(bytes.len() as u64);
        }
        read
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

fn refuse<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented { operation: operation.to_owned(), implementer: "a query, which only reads".to_owned() })
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        refuse("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        refuse("put")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let bounded = matches!(options.range, Some(GetRange::Bounded(_)));
        let head = options.head;
        let got = match self.inner.get_opts(location, options.clone()).await {
            Err(Error::NotFound { .. }) if self.placed.contains_key(location) => {
                self.inner.get_opts(&self.placed[location], options).await?
            }
            got => got?,
        };
        if !head {
            // What is streamed may be left unread; a bounded range never is.
            debug_assert!(bounded || got.range.end >= got.range.start);
            self.asked.add(got.range.end - got.range.start);
        }
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(ranges, |range| self.read(location, range), self.coalesce).await
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::once(async { refuse("delete") }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        refuse("copy")
    }
}
