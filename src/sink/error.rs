//! Why a receiver has not taken alert events.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot {action} {}: {cause}", path.display())]
    File { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("cannot write alerts to standard output: {cause}")]
    Stdout { cause: io::Error },
}

impl SinkError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::File { cause, .. } | Self::Stdout { cause } => cause.kind(),
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("free space on that disk"),
            io::ErrorKind::PermissionDenied => Some("let this user write there, or choose another `path`"),
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Some("name a file in a folder in `path`"),
            io::ErrorKind::BrokenPipe => Some("whoever read the standard output has gone"),
            _ => None,
        }
    }

    /// Whether delivering the same events again later can help.
    pub fn is_retryable(&self) -> bool {
        use io::ErrorKind as E;
        matches!(self.kind(), E::StorageFull | E::QuotaExceeded | E::Interrupted | E::TimedOut | E::WouldBlock)
    }
}
