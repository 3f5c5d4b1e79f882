//! Why a receiver has not taken alert events.

use crate::time::Span;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot {action} {}: {cause}", path.display())]
    File { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("cannot write alerts to standard output: {cause}")]
    Stdout { cause: io::Error },
    /// A server answered, and not with what means that it has the events.
    #[error("cannot deliver to {to}: it answers {status}{}", if said.is_empty() { String::new() } else { format!(", {said:?}") })]
    Answer { to: String, status: u16, said: String, retry_after: Option<Span> },
    /// No answer came.
    #[error("cannot reach {to}: {cause}")]
    Unreachable { to: String, cause: String },
    /// The address is one that this receiver may not have.
    #[error("cannot deliver to {to}: {cause}")]
    Forbidden { to: String, cause: String },
    /// What a receiver needs cannot be read or made.
    #[error("cannot set up the receiver: {0}")]
    Setting(String),
}

impl SinkError {
    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::File { cause, .. } | Self::Stdout { cause } => Some(cause.kind()),
            _ => None,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Forbidden { .. } => Some("`allow_private: true` lets it reach addresses that are not public"),
            Self::Answer { status: 401 | 403 | 404 | 410, .. } => Some("see its address and its token or key"),
            Self::Answer { status: 300..=399, .. } => Some("redirects are not followed, name the last address"),
            Self::Unreachable { .. } => Some("see that it runs, and that host and port are its"),
            _ => match self.kind()? {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("free space on that disk"),
                io::ErrorKind::PermissionDenied => Some("let this user write there, or choose another `path`"),
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Some("name a file in a folder in `path`"),
                io::ErrorKind::BrokenPipe => Some("whoever read the standard output has gone"),
                _ => None,
            },
        }
    }

    /// Whether delivering the same events again later can help.
    pub fn is_retryable(&self) -> bool {
        use io::ErrorKind as E;
        match self {
            Self::Unreachable { .. } => true,
            // Too early, too much, and what is the server's own fault.
            Self::Answer { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Forbidden { .. } | Self::Setting(_) => false,
            Self::File { cause, .. } | Self::Stdout { cause } => {
                matches!(cause.kind(), E::StorageFull | E::QuotaExceeded | E::Interrupted | E::TimedOut | E::WouldBlock)
            }
        }
    }

    /// How long the receiver wants to be left alone.
    pub fn retry_after(&self) -> Option<Span> {
        match self {
            Self::Answer { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
