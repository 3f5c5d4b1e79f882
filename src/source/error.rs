//! What can go wrong with a source, and what to do about it.

use super::kafka::BrokerError;
use super::nats::NatsError;
use super::spool::SpoolError;
use std::io;
use std::path::PathBuf;

/// Why a source cannot be read. All of them are the input's or the configuration's fault; trying again helps only
/// after somebody has done something.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot find file {path:?}")]
    Missing { path: PathBuf },
    #[error("cannot find any file that matches {pattern:?}")]
    NoMatch { pattern: String },
    #[error("cannot use {pattern:?} as a path: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("cannot read {path:?} as a file, it is a directory")]
    Directory { path: PathBuf },
    #[error("cannot read {path:?}, it is no regular file")]
    Special { path: PathBuf },
    #[error("cannot read {path:?}, it was replaced by another file before its turn came")]
    Replaced { path: PathBuf },
    #[error("cannot read {path:?}, compressed files are not supported in this version")]
    Compressed { path: PathBuf },
    #[error("cannot open {path:?}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {path:?} at byte {position}: {source}")]
    Read { path: PathBuf, position: u64, source: io::Error },
    #[error("cannot read standard input at byte {position}: {source}")]
    Stdin { position: u64, source: io::Error },
    #[error(transparent)]
    Kafka(#[from] BrokerError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Nats(#[from] NatsError),
}

impl SourceError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("paths are relative to the working directory; with `follow: true` a file may come later".into())
            }
            Self::NoMatch { .. } => {
                Some("paths are relative to the working directory; with `follow: true` files may come later".into())
            }
            Self::Pattern { .. } => Some("`*`, `?`, `[…]` and `**` are special; write `[[]` for `[`".into()),
            Self::Directory { path } => Some(format!("name the files in it, as in `{}/*.log`", path.display())),
            Self::Special { path } => {
                Some(format!("use `type: stdin` and `headrig run … < {}` for a pipe or a device", path.display()))
            }
            Self::Replaced { .. } => Some("run again; use `follow: true` for files that are being rotated".into()),
            Self::Compressed { path } => {
                let program = if path.extension().is_some_and(|e| e == "gz") { "gzip" } else { "zstd" };
                Some(format!("use `type: stdin` and `{program} -dc {} | headrig run …`", path.display()))
            }
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("let the user that headrig runs as read it".into())
            }
            Self::Open { .. } | Self::Read { .. } | Self::Stdin { .. } => None,
            Self::Kafka(error) => Some(error.hint()),
            Self::Spool(error) => error.hint(),
            Self::Nats(error) => error.hint(),
        }
    }
}
