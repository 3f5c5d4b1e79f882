//! What can go wrong with an archive, and what to do about it.

use crate::time::EventTime;
use arrow::error::ArrowError;
use parquet::errors::ParquetError;
use std::io;
use std::path::{Path, PathBuf};

/// The number in a text that ends as the standard library's errors of the system do: `… (os error 28)`.
fn os_error(text: &str) -> Option<i32> {
    text.trim_end().strip_suffix(')')?.rsplit_once("(os error ")?.1.parse().ok()
}

/// Why rows could not be stored. Nothing half-written is under the data folders after any of them.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot use {url:?} as an archive: {detail}")]
    Url { url: String, detail: String },
    #[error("cannot {action} {}: {cause}", path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("cannot write to the archive {}: another headrig ({owner}) has it open", path.display())]
    Locked { path: PathBuf, owner: String },
    #[error("cannot seal {}: another writer ({owner}) has sealed it", path.display())]
    Conflict { path: PathBuf, owner: String },
    #[error("cannot seal {}: {by} has claimed {partition} of {source_name}, of which this writer holds unsealed records", path.display())]
    Taken { path: PathBuf, source_name: String, partition: String, by: String },
    #[error("cannot claim partitions of pipeline {pipeline} for {chain}: other writers are faster each time")]
    Contended { pipeline: String, chain: String },
    #[error("cannot {what}")]
    Setting { what: String, hint: String },
    #[error("cannot {action} {key}: {}", whole(cause))]
    Store { action: &'static str, key: String, cause: Box<object_store::Error> },
    #[error("cannot find an archive in {}: there is no folder `_headrig`", path.display())]
    None { path: PathBuf },
    #[error("cannot recover the archive: {} {detail}", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("cannot place {} in {}: they are on different file systems", staging.display(), data.display())]
    Devices { staging: PathBuf, data: PathBuf },
    #[error("cannot encode rows for {}: {cause}", path.display())]
    Encode { path: PathBuf, cause: ParquetError },
    #[error("cannot arrange rows for the archive: {0}")]
    Arrange(#[from] ArrowError),
    #[error("cannot rewrite {}: {detail}", path.display())]
    Rewrite { path: PathBuf, detail: String },
    #[error("cannot believe the clock, which says {now}: the archive's newest {what} is of {newest}")]
    Clock { now: EventTime, newest: EventTime, what: &'static str },
    #[error("cannot go on with the Delta log {}: {detail}", path.display())]
    Delta { path: PathBuf, detail: String },
    #[error("cannot keep the archive of pipeline {pipeline} in shape, another headrig is at it")]
    Busy { pipeline: String },
    #[error("cannot finish the upkeep of the archive, it was told to stop")]
    Stopped,
    #[error("cannot go on with the archive {} after an earlier error", path.display())]
    Broken { path: PathBuf },
}

impl ArchiveError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }

    /// A Parquet writer's error; a disk's error inside it is brought to light.
    pub(crate) fn encode(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        let path = path.to_owned();
        move |cause| match cause {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(cause) => Self::Io { action: "write", path, cause: *cause },
                Err(inner) => Self::Encode { path, cause: ParquetError::External(inner) },
            },
            // Of Bloom filters it says only in words what the disk has said.
            ParquetError::General(text) => match os_error(&text) {
                Some(code) => Self::Io { action: "write", path, cause: io::Error::from_raw_os_error(code) },
                None => Self::Encode { path, cause: ParquetError::General(text) },
            },
            cause => Self::Encode { path, cause },
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { cause, path, .. } => io_hint(cause.kind(), path),
            Self::Store { cause, .. } => Some(store_hint(cause).to_owned()),
            Self::Setting { hint, .. } => Some(hint.clone()),
            Self::Locked { .. } => {
                Some("stop the other one, or give this pipeline another name or `archive.url`".into())
            }
            Self::Conflict { .. } => Some("let one daemon only write a pipeline into an archive".into()),
            Self::Taken { .. } => Some(
                "another daemon reads that partition now, as its group has decided; start this one again to go on with what \
                 the group gives it, and nothing is lost or doubled"
                    .into(),
            ),
            Self::Contended { .. } => Some("start it again; if that doesn't help, look for a daemon that restarts all the time".into()),
            Self::Corrupt { .. } => Some(
                "restore the file from a backup; if it was removed on purpose, remove its entry from the newest \
                 seal under `_headrig/`; `headrig verify` names all that is missing"
                    .into(),
            ),
            Self::Devices { .. } => Some("keep the whole archive folder on one file system".into()),
            Self::Broken { .. } => Some("open the archive again; it goes on from its newest seal".into()),
            Self::None { .. } => Some("name the folder that `archive.url` has in the pipeline file".into()),
            Self::Rewrite { .. } => {
                Some("see what `headrig verify --deep` says of it; files that cannot be rewritten stay as they are".into())
            }
            Self::Clock { .. } => Some(
                "nothing is deleted by a clock that is a week ahead of the archive; see that it is right, and run `headrig retain` \
                 with --trust-clock once"
                    .into(),
            ),
            Self::Delta { .. } => Some(
                "the log only repeats what the archive knows: remove its whole folder, and the next start makes it anew; what others have written \
                 to the table belongs elsewhere, and other columns or folders need another `archive.url`"
                    .into(),
            ),
            Self::Busy { .. } => Some("let it finish, and try again".into()),
            Self::Stopped => Some("what was begun is thrown away; the next run does it".into()),
            Self::Url { .. } | Self::Encode { .. } | Self::Arrange(_) => None,
        }
    }

    /// Whether opening the archive again later can help without anybody changing the configuration or the archive.
    pub fn is_retryable(&self) -> bool {
        use io::ErrorKind as E;
        match self {
            Self::Io { cause, .. } => matches!(
                cause.kind(),
                E::StorageFull
                    | E::QuotaExceeded
                    | E::Interrupted
                    | E::TimedOut
                    | E::ResourceBusy
                    | E::StaleNetworkFileHandle
            ),
            Self::Store { cause, .. } => matches!(**cause, object_store::Error::Generic { .. }),
            Self::Locked { .. } | Self::Broken { .. } | Self::Taken { .. } | Self::Contended { .. } => true,
            _ => false,
        }
    }
}

impl ArchiveError {
    /// What is in the way, for an error that may pass without anybody touching headrig: a disk gets room, a store comes back, someone
    /// mends a bucket or a policy. Then the same can be tried again.
    pub(crate) fn passing(&self) -> Option<&'static str> {
        use io::ErrorKind as E;
        use object_store::Error as S;
        match self {
            Self::Io { cause, .. } => match cause.kind() {
                E::StorageFull | E::QuotaExceeded => Some("full"),
                E::Interrupted | E::TimedOut | E::ResourceBusy | E::StaleNetworkFileHandle => Some("unreachable"),
                _ => None,
            },
            Self::Store { cause, .. } => match **cause {
                // Some of them Amazon answers with 400, and of a listing the client says no more than that it failed.
                S::Generic { .. } if says(cause, &LOGINS) || says(cause, &[EXPIRED, NO_RIGHT, NO_BUCKET]) => {
                    Some("refused")
                }
                S::Generic { .. } => Some("unreachable"),
                S::PermissionDenied { .. } | S::Unauthenticated { .. } | S::NotFound { .. } => Some("refused"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What S3 calls a login that it doesn't take.
const LOGINS: [&str; 4] = ["SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId"];

/// What it calls one that was right once.
const EXPIRED: &str = "ExpiredToken";

/// What it says to who may not.
const NO_RIGHT: &str = "AccessDenied";

/// What it says of a request for a bucket that isn't there.
const NO_BUCKET: &str = "NoSuchBucket";

/// Whether there is no such object, in a bucket that is there.
pub(super) fn is_absent(cause: &object_store::Error) -> bool {
    matches!(cause, object_store::Error::NotFound { .. }) && !says(cause, &[NO_BUCKET])
}

/// Whether a store's answer has a code that begins with one of these.
pub(super) fn says(cause: &object_store::Error, codes: &[&str]) -> bool {
    let said = whole(cause);
    // Not anywhere in it: it has the key, too.
    said.split("<Code>").skip(1).any(|rest| codes.iter().any(|code| rest.starts_with(code)))
}

const CREDENTIALS: &str = "see the credentials, in `archive.store` or in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
     GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY";

const RIGHTS: &str = "let these credentials list, read, put, copy and delete objects below `archive.url`";

/// With what lies at the bottom of it: a client says only that it could not send.
fn whole(cause: &object_store::Error) -> String {
    let said = cause.to_string();
    let mut bottom: &dyn std::error::Error = cause;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    let bottom = bottom.to_string();
    if said.contains(&bottom) { said } else { format!("{said}: {bottom}") }
}

fn store_hint(cause: &object_store::Error) -> &'static str {
    use object_store::Error as E;
    let (said, tells) = (whole(cause), |codes: &[&str]| says(cause, codes));
    match cause {
        _ if said.contains("invalid peer certificate") => {
            "trust the authority that signed the store's certificate, by `archive.store.ca`, AWS_CA_BUNDLE or SSL_CERT_FILE, and see that the certificate names the endpoint's host"
        }
        _ if tells(&[NO_BUCKET]) => "see that the bucket in `archive.url` exists",
        _ if tells(&[EXPIRED]) => {
            "start headrig with a session token that is still valid: one that is given is never renewed, those of a web identity or of the machine's role are"
        }
        _ if tells(&LOGINS) => CREDENTIALS,
        _ if tells(&["RequestTimeTooSkewed"]) => {
            "set this machine's clock right: the store refuses what is signed at another time than its own"
        }
        _ if tells(&["AuthorizationHeaderMalformed", "PermanentRedirect"])
            || said.contains("redirect without LOCATION") =>
        {
            "name the bucket's region, in `archive.store.region` or AWS_REGION"
        }
        _ if tells(&["SlowDown"]) => {
            "the store asks for fewer requests; if that stays so, a longer `flush.every` makes fewer of them, and so do fewer folders (`partition_by`)"
        }
        E::NotFound { .. } => "see that the bucket in `archive.url` exists",
        _ if tells(&[NO_RIGHT]) => RIGHTS,
        E::PermissionDenied { .. } => RIGHTS,
        E::Unauthenticated { .. } => CREDENTIALS,
        E::UnknownConfigurationKey { .. } => "see `archive.store` and the variables in the environment",
        _ => {
            "it was tried for twenty seconds; see that the store can be reached (`archive.store`, or AWS_ENDPOINT and AWS_REGION for S3), and start again: nothing that was sealed is lost"
        }
    }
}

fn io_hint(kind: io::ErrorKind, path: &Path) -> Option<String> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free space on that disk and start again; nothing that was sealed is lost".into())
        }
        io::ErrorKind::PermissionDenied => Some(format!("let this user write to {}", path.display())),
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a folder on a writable file system".into()),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("a file stands where a folder is needed; move it away or choose another `archive.url`".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_understood_by_its_codes_and_not_by_its_keys() {
        let error = |said: &str| ArchiveError::Store {
            action: "put",
            key: "s3://logs/NoSuchBucket".to_owned(),
            cause: Box::new(object_store::Error::Generic { store: "S3", source: said.to_owned().into() }),
        };
        let listed = error("GET /logs?prefix=AccessDenied - 403 Forbidden: <Error><Code>ExpiredToken</Code></Error>");
        assert!(listed.hint().unwrap().contains("session token"));
        assert_eq!(listed.passing(), Some("refused"));
        let failed = error("GET /logs?prefix=AccessDenied - 500 Internal Server Error");
        assert!(failed.hint().unwrap().contains("can be reached"));
        assert_eq!(failed.passing(), Some("unreachable"));
    }
}
