//! Why the HTTP surface cannot be offered.

use std::io;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {}", reason(cause))]
    Bind { address: SocketAddr, cause: io::Error },
}

fn reason(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "the address is in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    }
}

impl ServerError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let Self::Bind { address, cause } = self;
        match cause.kind() {
            io::ErrorKind::AddrInUse => Some(format!(
                "stop what listens there (another headrig?), or choose another port, as in \
                 `server: {{ listen: {}:{} }}`",
                address.ip(),
                address.port().checked_add(1).unwrap_or(8686)
            )),
            io::ErrorKind::AddrNotAvailable => Some("as in `server: { listen: 127.0.0.1:8686 }`".to_owned()),
            io::ErrorKind::PermissionDenied if address.port() < 1024 => {
                Some("choose a port from 1024 on, as in `server: { listen: 127.0.0.1:8686 }`".to_owned())
            }
            _ => None,
        }
    }

    /// Whether trying again later can help.
    pub fn is_retryable(&self) -> bool {
        let Self::Bind { cause, .. } = self;
        cause.kind() == io::ErrorKind::AddrInUse
    }
}
