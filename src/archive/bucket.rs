//! An archive in a bucket of an object store: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure.
//!
//! Through `object_store`, which knows how each does put-if-absent, tries again with growing pauses for twenty seconds (what comes then: `patience.rs`), and
//! finds credentials in the settings (`settings.rs`), of a web identity or of the machine. Files go up in
//! parts and are there only when whole. Placing is a copy on the server, and then the staged object is removed.
//!
//! Calls come from threads that may or may not belong to a runtime, so requests run on a runtime of the bucket's own and the
//! caller waits for their answers.

use super::ArchiveError;
use super::error::{is_absent, says};
use super::settings::{self, Settings, StoreConfig};
use super::store::{Placement, Store};
use crate::limits;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::Error as Cause;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutPayload,
    RetryConfig,
};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::runtime::Runtime;
use url::Url;

/// Bytes of one part of a file that goes up, and of a file that goes up in one piece. S3 takes at least 5 MiB and at most 10,000
/// parts, so this bounds a file to 80 GB.
const PART_BYTES: usize = 8 << 20;

/// Prefix in a bucket.
pub(crate) struct Bucket {
    url: Url,
    root: Key,
    store: Arc<dyn ObjectStore>,
    /// Only `None` while it is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Bucket {
    /// Without the client, which holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

type Answer<T> = Result<T, object_store::Error>;

impl Bucket {
    /// Makes a client for the bucket; nothing is asked of it yet. Settings and credentials are the environment's.
    pub(crate) fn connect(url: &Url) -> Result<Self, ArchiveError> {
        Self::connect_with(url, None)
    }

    /// As [`Self::connect`], with settings that come before the environment's.
    pub(crate) fn connect_with(url: &Url, file: Option<&StoreConfig>) -> Result<Self, ArchiveError> {
        let (store, root) = Self::client(url, file)?;
        Self::over(url.clone(), store, root)
    }

    /// The store's client and the prefix in its bucket.
    pub(crate) fn client(url: &Url, file: Option<&StoreConfig>) -> Result<(Arc<dyn ObjectStore>, Key), ArchiveError> {
        let settings = settings::resolve(url, file, &settings::environment())?;
        let options = options(&settings)?;
        let failed = |cause| ArchiveError::Store { action: "use", key: url.to_string(), cause: Box::new(cause) };
        client(url, settings, options).map_err(failed)
    }

    /// A bucket over a store that is there already.
    pub(crate) fn over(url: Url, store: Arc<dyn ObjectStore>, root: Key) -> Result<Self, ArchiveError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(ArchiveError::io("start a runtime for", Path::new(url.as_str())))?;
        Ok(Self { url, root, store, runtime: Some(runtime) })
    }

    fn key(&self, key: &str) -> Result<Key, ArchiveError> {
        let bad = |error: object_store::path::Error| ArchiveError::Corrupt {
            path: self.show(key).into(),
            detail: format!("is no key of an object: {error}"),
        };
        let below = Key::parse(key).map_err(bad)?;
        Ok(self.root.parts().chain(below.parts()).collect())
    }

    /// Runs a request on the bucket's runtime and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        action: &'static str,
        key: &str,
        request: impl FnOnce(Arc<dyn ObjectStore>, Key) -> BoxFuture<'static, Answer<T>>,
    ) -> Result<T, ArchiveError> {
        let request = request(Arc::clone(&self.store), self.key(key)?);
        let (done, answer) = mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref().expect("it is there until the bucket is dropped");
        // Nobody waits any more only when this thread is gone.
        runtime.spawn(async move { drop(done.send(request.await)) });
        let answer = answer.recv().unwrap_or(Err(object_store::Error::NotImplemented {
            operation: action.to_owned(),
            implementer: "a runtime that has ended".to_owned(),
        }));
        answer.map_err(|cause| ArchiveError::Store { action, key: self.show(key), cause: Box::new(cause) })
    }

    /// As [`Self::ask`]; `None` where there is no such object.
    fn find<T: Send + 'static>(
        &self,
        action: &'static str,
        key: &str,
        request: impl FnOnce(Arc<dyn ObjectStore>, Key) -> BoxFuture<'static, Answer<T>>,
    ) -> Result<Option<T>, ArchiveError> {
        match self.ask(action, key, request) {
            Ok(found) => Ok(Some(found)),
            Err(ArchiveError::Store { cause, .. }) if is_absent(&cause) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists, puts and removes as an archive does, so that who may not hears of it before there are rows to store. `folder` is one
    /// of staged files: what a crash leaves of this has the name of one, and goes as one.
    pub(crate) fn try_out(&self, folder: &str) -> Result<(), ArchiveError> {
        let key = format!("{folder}/probe-000000000001-0.parquet");
        self.list(folder)?;
        self.put(&key, b"headrig")?;
        self.remove(&key)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Waiting for it to end is not allowed on a thread of another runtime, and nothing is under way.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for Bucket {
    fn show(&self, key: &str) -> String {
        format!("{}/{key}", self.url.as_str().trim_end_matches('/'))
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.find("read", key, |store, key| async move { Ok(store.get(&key).await?.bytes().await?.to_vec()) }.boxed())
    }

    fn size(&self, key: &str) -> Result<Option<u64>, ArchiveError> {
        self.find("look at", key, |store, key| async move { Ok(store.head(&key).await?.size) }.boxed())
    }

    fn range(&self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, ArchiveError> {
        self.ask("read", key, move |store, key| {
            async move {
                let end = store.head(&key).await?.size.min(start.saturating_add(length));
                if start >= end {
                    return Ok(Vec::new());
                }
                Ok(store.get_range(&key, start..end).await?.to_vec())
            }
            .boxed()
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let found =
            self.ask("list", folder, |store, key| async move { store.list_with_delimiter(Some(&key)).await }.boxed())?;
        let objects = found.objects.iter().map(|object| &object.location);
        let names = objects.chain(&found.common_prefixes).filter_map(|key| key.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    fn walk(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let root = self.root.clone();
        let mut keys = self.ask("list", folder, move |store, key| {
            async move {
                let found = store.list(Some(&key)).map_ok(|object| object.location);
                let found: Vec<Key> = found.try_collect().await?;
                let below = |key: &Key| key.prefix_match(&root).map(|parts| parts.collect::<Key>().to_string());
                Ok(found.iter().filter_map(below).collect::<Vec<String>>())
            }
            .boxed()
        })?;
        keys.sort_unstable();
        Ok(keys)
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, ArchiveError> {
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.ask("put", key, |store, key| put_new(store, key, payload).boxed());
        match put {
            Ok(()) => Ok(true),
            // Some stores answer the one and some the other when the condition doesn't hold.
            Err(ArchiveError::Store { cause, .. })
                if matches!(*cause, Cause::AlreadyExists { .. } | Cause::Precondition { .. }) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        let payload = PutPayload::from(bytes.to_vec());
        self.ask("put", key, |store, key| async move { store.put(&key, payload).await.map(drop) }.boxed())
    }

    fn upload(&self, files: &[(PathBuf, String)]) -> Result<(), ArchiveError> {
        for (local, key) in files {
            let open = File::open(local).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) = open.map_err(ArchiveError::io("read", local))?;
            let read = ArchiveError::io("read", local);
            if bytes <= PART_BYTES as u64 {
                let mut whole = vec![0; bytes as usize];
                file.read_exact_at(&mut whole, 0).map_err(read)?;
                self.put(key, &whole)?;
            } else {
                let put = self.ask("put", key, move |store, key| put_parts(store, key, file, bytes).boxed());
                // Where the reply to the last request was lost, the store doesn't know the upload any more, as it is done. Nobody else
                // uses the key.
                let is_done =
                    |error: &ArchiveError| matches!(error, ArchiveError::Store { cause, .. } if is_absent(cause));
                match put {
                    Err(error) if is_done(&error) && self.size(key)? == Some(bytes) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn place(&self, files: &[Placement]) -> Result<(), ArchiveError> {
        for file in files {
            if self.size(&file.to)? != Some(file.bytes) {
                self.copy(file)?;
            }
            self.remove(&file.from)?;
        }
        Ok(())
    }

    fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        self.find("remove", key, |store, key| async move { store.delete(&key).await }.boxed()).map(drop)
    }

    fn remove_all(&self, keys: &[String]) -> Result<(), ArchiveError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let keys = keys.iter().map(|key| self.key(key)).collect::<Result<Vec<Key>, ArchiveError>>()?;
        self.ask("remove", first, |store, _| {
            async move {
                let mut removed = store.delete_stream(futures::stream::iter(keys.into_iter().map(Ok)).boxed());
                loop {
                    match removed.try_next().await {
                        Ok(None) => return Ok(()),
                        Ok(Some(_)) => {}
                        // Somebody else has removed it, or an earlier try.
                        Err(error) if is_absent(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            .boxed()
        })
    }

    fn copy(&self, file: &Placement) -> Result<(), ArchiveError> {
        let target = self.key(&file.to)?;
        let copied =
            self.find("copy", &file.from, |store, from| async move { store.copy(&from, &target).await }.boxed())?;
        if copied.is_some() || self.size(&file.to)? == Some(file.bytes) {
            return Ok(());
        }
        let detail = "is missing, and so is its staged copy".to_owned();
        Err(ArchiveError::Corrupt { path: self.show(&file.to).into(), detail })
    }
}

/// Trusts the authorities that the settings name, besides the system's.
fn options(settings: &Settings) -> Result<ClientOptions, ArchiveError> {
    let Some(file) = &settings.ca else { return Ok(ClientOptions::new()) };
    let failed = |why: String| ArchiveError::Setting {
        what: format!("use the certificates in {file}: {why}"),
        hint: "name a file with certificates in PEM, in `archive.store.ca` or AWS_CA_BUNDLE".to_owned(),
    };
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&text).map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("there are none".to_owned()));
    }
    Ok(certificates.into_iter().fold(ClientOptions::new(), ClientOptions::with_root_certificate))
}

/// A client for the store that `url` names, and the prefix in it. A setting that isn't the store's is passed over.
fn client(url: &Url, settings: Settings, options: ClientOptions) -> Answer<(Arc<dyn ObjectStore>, Key)> {
    let (scheme, prefix) = ObjectStoreScheme::parse(url)?;
    // By time alone: how soon a dead server answers "no" says nothing about when it is back.
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
    let retry = RetryConfig { max_retries: usize::MAX, retry_timeout: limits::STORE_RETRY.to_std(), backoff };
    macro_rules! build {
        ($builder:ty) => {{
            let builder = <$builder>::new().with_url(url.as_str()).with_retry(retry).with_client_options(options);
            let set = |builder: $builder, (name, value): (String, String)| match name.parse() {
                Ok(name) => builder.with_config(name, value),
                Err(_) => builder,
            };
            Arc::new(settings.pairs.into_iter().fold(builder, set).build()?) as Arc<dyn ObjectStore>
        }};
    }
    let store = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        _ => {
            let operation = format!("an archive at {}://", url.scheme());
            return Err(Cause::NotImplemented { operation, implementer: "headrig".to_owned() });
        }
    };
    Ok((store, Key::parse(prefix)?))
}

/// What Amazon answers while another conditional request for the key is under way, such as an earlier try whose reply was lost: nothing
/// is decided yet.
const UNDECIDED: &str = "ConditionalRequestConflict";

/// Puts an object unless there is one.
async fn put_new(store: Arc<dyn ObjectStore>, key: Key, payload: PutPayload) -> Answer<()> {
    let mut pause = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    loop {
        let cause = match store.put_opts(&key, payload.clone(), PutMode::Create.into()).await {
            // The client takes every 409 for "there is one".
            Err(cause @ Cause::AlreadyExists { .. }) if says(&cause, &[UNDECIDED]) => cause,
            other => return other.map(drop),
        };
        if waited >= limits::STORE_RETRY.to_std() {
            return Err(Cause::Generic { store: "S3", source: Box::new(cause) });
        }
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Puts a file in parts; what has gone up is thrown away when one fails.
async fn put_parts(store: Arc<dyn ObjectStore>, key: Key, file: File, bytes: u64) -> Answer<()> {
    let mut upload = store.put_multipart(&key).await?;
    let put = async {
        let mut start = 0;
        while start < bytes {
            let mut part = vec![0; (bytes - start).min(PART_BYTES as u64) as usize];
            file.read_exact_at(&mut part, start)
                .map_err(|source| object_store::Error::Generic { store: "local file", source: source.into() })?;
            start += part.len() as u64;
            upload.put_part(part.into()).await?;
        }
        upload.complete().await.map(drop)
    };
    let done = put.await;
    if done.is_err() {
        // The store throws away by itself what this cannot.
        let _ = upload.abort().await;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn bucket(store: &Arc<InMemory>) -> Bucket {
        let url = Url::parse("s3://logs/app").unwrap();
        Bucket::over(url, Arc::<InMemory>::clone(store) as Arc<dyn ObjectStore>, Key::from("app")).unwrap()
    }

    #[test]
    fn objects_are_put_found_and_placed() {
        let memory = Arc::new(InMemory::new());
        let bucket = bucket(&memory);
        assert!(bucket.put_if_absent("c/1.json", b"first").unwrap());
        assert!(!bucket.put_if_absent("c/1.json", b"second").unwrap());
        assert_eq!(bucket.read("c/1.json").unwrap().unwrap(), b"first");
        assert_eq!((bucket.read("c/2").unwrap(), bucket.size("c/1.json").unwrap()), (None, Some(5)));
        assert_eq!(bucket.range("c/1.json", 1, 3).unwrap(), b"irs");
        assert_eq!(bucket.range("c/1.json", 3, 30).unwrap(), b"st");
        assert_eq!(bucket.show("c/1.json"), "s3://logs/app/c/1.json");
        let file = tempfile::NamedTempFile::new().unwrap();
        let large: Vec<u8> = (0..PART_BYTES * 2 + 5).map(|n| (n % 251) as u8).collect();
        std::fs::write(file.path(), &large).unwrap();
        bucket.upload(&[(file.path().to_owned(), "s/x".to_owned())]).unwrap();
        let to = "data/path=%2Fv1%2Fx/x".to_owned();
        let files = [Placement { from: "s/x".to_owned(), to: to.clone(), bytes: large.len() as u64 }];
        for _ in 0..2 {
            bucket.place(&files).unwrap();
            assert_eq!(bucket.walk("data").unwrap(), [to.as_str()]);
            assert_eq!(bucket.list("data").unwrap(), ["path=%2Fv1%2Fx"]);
        }
        assert!(bucket.read(&to).unwrap().unwrap() == large);
        assert_eq!(bucket.list("").unwrap(), ["c", "data"]);
        bucket.remove("s/x").unwrap();
        let gone = Placement { from: "s/x".to_owned(), to: "data/y".to_owned(), bytes: 4 };
        assert!(matches!(bucket.place(&[gone]), Err(ArchiveError::Corrupt { .. })));
    }

    #[tokio::test]
    async fn it_may_be_used_on_a_runtimes_thread() {
        let bucket = bucket(&Arc::new(InMemory::new()));
        assert!(bucket.put_if_absent("x", b"y").unwrap());
        drop(bucket);
    }
}
