//! One connection to a NATS server: TCP, TLS, handshake; then operations in and commands out.
//!
//! No task of its own and no queue: whoever has the connection reads from it, and who doesn't read holds the server back.

use super::auth::{self, Creds, Identity};
use super::wire::{self, Info, Malformed, Message, Operation};
use crate::limits;
use crate::place::Problem;
use crate::time::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

/// `tls:` of a connection.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsTlsConfig {
    /// A file of certificates (PEM) of the authorities that may have signed the server's. Default: the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate (PEM), where the server wants one; with `key`.
    pub certificate: Option<PathBuf>,
    /// The private key of `certificate` (PEM).
    pub key: Option<PathBuf>,
}

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    #[error("cannot use {url:?} as a NATS address")]
    Address { url: String },
    #[error("cannot connect to NATS at {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("cannot connect to NATS at {address} within {seconds} s", seconds = limits::NATS_CONNECT.micros() / 1_000_000)]
    Slow { address: String },
    #[error("cannot log in to NATS at {address}: {said}")]
    Refused { address: String, said: String },
    #[error("cannot make a TLS connection to NATS at {address}: {reason}")]
    Tls { address: String, reason: String },
    #[error("cannot use TLS with NATS at {address}, the server has none")]
    NoTls { address: String },
    #[error("cannot read {path:?}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("cannot talk to NATS at {address}: {source}")]
    Broken { address: String, source: io::Error },
    #[error("cannot talk to NATS at {address}: {source}")]
    Malformed { address: String, source: Malformed },
    #[error("cannot go on with NATS at {address}, the server said: {said}")]
    Said { address: String, said: String },
    #[error("cannot go on with NATS at {address}, it closed the connection")]
    Closed { address: String },
    #[error("cannot go on with NATS at {address}, it is silent")]
    Silent { address: String },
    #[error("cannot read stream {stream:?} of NATS at {address}: {said}")]
    Unfit { address: String, stream: String, said: String },
    #[error("cannot go on with consumer {durable:?} of stream {stream:?} at {address}, somebody has deleted it")]
    Taken { address: String, stream: String, durable: String },
    #[error("cannot go on with NATS at {address}, no message has come for {silence}")]
    Stalled { address: String, silence: Span },
    #[error("cannot use stream {stream:?} of NATS at {address}: {said}")]
    Stream { address: String, stream: String, said: String },
}

impl NatsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Address { .. } => "expected nats://HOST:PORT or tls://HOST:PORT".to_owned(),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                "nothing listens there: see that nats-server runs, and look at host and port".to_owned()
            }
            Self::Connect { .. } | Self::Slow { .. } => {
                "look at host and port; Fly.io's stream is reachable only inside its private network".to_owned()
            }
            Self::Refused { said, .. } if said.contains("Authorization") => {
                "look at `user` and `password`, `token` or `creds`; on Fly.io they are the organisation's slug and a token"
                    .to_owned()
            }
            Self::Tls { reason, .. } if reason.contains("NotValidForName") || reason.contains("not valid for name") => {
                "the certificate is for another name: put a name that it holds into `url`".to_owned()
            }
            Self::Tls { .. } => "give the certificate that signed the server's as `tls: { ca: ca.pem }`".to_owned(),
            Self::NoTls { .. } => "write nats:// and no `tls:`, or turn TLS on in the server".to_owned(),
            Self::Said { said, .. } if said.contains("Permissions Violation") => {
                "the user may not do that: look at its permissions and at `subject`".to_owned()
            }
            Self::Said { said, .. } if said.contains("Invalid Subject") => "look at `subject`".to_owned(),
            Self::Stream { .. } => "look at `stream`, and whether JetStream is on (nats-server -js)".to_owned(),
            Self::Unfit { said, .. } if said.contains("anew") => {
                "its sequences begin anew: give the source another name, or keep a new archive".to_owned()
            }
            Self::Taken { .. } => "each pipeline needs a consumer of its own: does another one use this `durable`?".to_owned(),
            _ => return None,
        })
    }
}

/// Where a server is and who we are there; checked.
#[derive(Debug, Clone)]
pub struct Server {
    pub host: String,
    pub port: u16,
    tls: Option<NatsTlsConfig>,
    identity: Identity,
}

/// The keys of a connection as they are written.
#[derive(Debug, Clone, Copy)]
pub struct Login<'c> {
    pub user: Option<&'c String>,
    pub password: Option<&'c String>,
    pub token: Option<&'c String>,
    pub creds: Option<&'c PathBuf>,
    pub tls: Option<&'c NatsTlsConfig>,
}

impl Server {
    /// Reads address and files.
    ///
    /// # Errors
    /// When the address is none, or a file cannot be read.
    pub fn new(url: &str, login: Login<'_>) -> Result<Self, NatsError> {
        let wrong = || NatsError::Address { url: url.to_owned() };
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        // The scheme isn't one of those whose hosts `url` reads as addresses.
        let host = match parsed.host().ok_or_else(wrong)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let tls = match parsed.scheme() {
            "nats" => login.tls.cloned(),
            "tls" => Some(login.tls.cloned().unwrap_or_default()),
            _ => return Err(wrong()),
        };
        if host.is_empty() || !parsed.username().is_empty() || !matches!(parsed.path(), "" | "/") {
            return Err(wrong());
        }
        let creds = match login.creds {
            Some(path) => {
                let reason = |reason: &str| NatsError::File { path: path.clone(), reason: reason.to_owned() };
                let text = fs::read_to_string(path).map_err(|error| reason(&error.to_string()))?;
                Some(Creds::parse(&text).ok_or_else(|| reason("it is no creds file with a JWT and a seed"))?)
            }
            None => None,
        };
        let identity = Identity {
            user: login.user.cloned(),
            password: login.password.cloned(),
            token: login.token.cloned(),
            creds,
        };
        Ok(Self { host, port: parsed.port().unwrap_or(4222), tls, identity })
    }

    /// `host:port`, for messages.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// When the server cannot be reached within [`limits::NATS_CONNECT`], or refuses.
    pub async fn connect(&self, name: &str) -> Result<Connection, NatsError> {
        let slow = NatsError::Slow { address: self.address() };
        tokio::time::timeout(limits::NATS_CONNECT.to_std(), self.shake_hands(name)).await.unwrap_or(Err(slow))
    }

    async fn shake_hands(&self, name: &str) -> Result<Connection, NatsError> {
        let address = self.address();
        let failed = |source| NatsError::Connect { address: address.clone(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut connection = Connection::over(Box::new(stream), address.clone());
        connection.info = connection.greeting().await?;
        let wants_tls = self.tls.is_some() || connection.info.tls_required;
        if wants_tls {
            if !connection.info.tls_required && !connection.info.tls_available {
                return Err(NatsError::NoTls { address });
            }
            let info = std::mem::take(&mut connection.info);
            connection = Connection::over(self.encrypt(connection.stream).await?, address.clone());
            connection.info = info;
        }
        let line = auth::connect_line(&self.identity, name, &connection.info.nonce, wants_tls);
        connection.out.extend_from_slice(line.as_bytes());
        connection.ping();
        connection.log_in().await?;
        Ok(connection)
    }

    async fn encrypt(&self, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, NatsError> {
        let failed = |reason: String| NatsError::Tls { address: self.address(), reason };
        let config = tls_client(self.tls.as_ref().unwrap_or(&NatsTlsConfig::default()))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(error.to_string()))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| failed(error.to_string()))?))
    }
}

fn tls_client(config: &NatsTlsConfig) -> Result<ClientConfig, NatsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ca {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| unreadable(path, &error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&config.certificate, &config.key) else { return Ok(builder.with_no_client_auth()) };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    builder.with_client_auth_cert(certificates(cert)?, private).map_err(|error| unreadable(cert, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NatsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(unreadable(path, &"it holds no certificate")),
        other => other.map_err(|error| unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> NatsError {
    NatsError::File { path: path.to_owned(), reason: reason.to_string() }
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// A connection that is logged in.
pub struct Connection {
    stream: Box<dyn Stream>,
    address: String,
    info: Info,
    /// What came; operations up to `at` were taken.
    buffer: Vec<u8>,
    at: usize,
    /// What has not been written yet.
    out: Vec<u8>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What [`Connection::take`] found.
#[derive(Debug)]
pub enum Taken<'b> {
    Message(Message<'b>),
    /// The answer to a [`Connection::ping`].
    Pong,
    /// Something that needs no answer of the caller's.
    Other,
    /// All that came was taken.
    Nothing,
}

impl Connection {
    fn over(stream: Box<dyn Stream>, address: String) -> Self {
        let (buffer, out) = (Vec::with_capacity(limits::NATS_READ_BYTES), Vec::new());
        Self { stream, address, info: Info::default(), buffer, at: 0, out }
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Queues a command; [`Self::flush`] sends it.
    pub fn subscribe(&mut self, subject: &str, queue: Option<&str>, sid: u64) {
        let queue = queue.map_or(String::new(), |queue| format!("{queue} "));
        self.out.extend_from_slice(format!("SUB {subject} {queue}{sid}\r\n").as_bytes());
    }

    /// Queues the end of a subscription.
    pub fn unsubscribe(&mut self, sid: u64) {
        self.out.extend_from_slice(format!("UNSUB {sid}\r\n").as_bytes());
    }

    /// Queues a message.
    pub fn publish(&mut self, subject: &str, reply: Option<&str>, headers: &[(&str, &str)], payload: &[u8]) {
        wire::publish(&mut self.out, subject, reply, headers, payload);
    }

    /// Queues a question whether the server is there.
    pub fn ping(&mut self) {
        self.out.extend_from_slice(b"PING\r\n");
    }

    /// Bytes that wait for [`Self::flush`].
    pub fn queued(&self) -> usize {
        self.out.len()
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the connection is broken, or the server takes nothing for [`limits::NATS_CONNECT`].
    pub async fn flush(&mut self) -> Result<(), NatsError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(limits::NATS_CONNECT.to_std(), write).await {
            Ok(Ok(())) => {
                self.out.clear();
                Ok(())
            }
            Ok(Err(source)) => Err(NatsError::Broken { address: self.address.clone(), source }),
            Err(_) => Err(NatsError::Silent { address: self.address.clone() }),
        }
    }

    /// Waits for more bytes. Nothing is lost when this is dropped before it is done.
    ///
    /// # Errors
    /// When the connection is broken or closed.
    pub async fn fill(&mut self) -> Result<(), NatsError> {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.reserve(limits::NATS_READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(NatsError::Closed { address: self.address.clone() }),
            Ok(_) => Ok(()),
            Err(source) => Err(NatsError::Broken { address: self.address.clone(), source }),
        }
    }

    /// The next operation of what has come. Pings are answered with the next [`Self::flush`].
    ///
    /// # Errors
    /// When the server says that something is wrong, or speaks another language.
    pub fn take(&mut self) -> Result<Taken<'_>, NatsError> {
        let found = wire::operation(&self.buffer[self.at..])
            .map_err(|source| NatsError::Malformed { address: self.address.clone(), source })?;
        let Some((operation, length)) = found else { return Ok(Taken::Nothing) };
        self.at += length;
        Ok(match operation {
            Operation::Message(message) => Taken::Message(message),
            Operation::Pong => Taken::Pong,
            Operation::Ok => Taken::Other,
            Operation::Ping => {
                self.out.extend_from_slice(b"PONG\r\n");
                Taken::Other
            }
            Operation::Info(info) => {
                self.info = *info;
                Taken::Other
            }
            Operation::Error(said) => {
                return Err(NatsError::Said { address: self.address.clone(), said: said.to_owned() });
            }
        })
    }

    /// The `INFO` that a server begins with.
    async fn greeting(&mut self) -> Result<Info, NatsError> {
        loop {
            self.fill().await?;
            match self.take()? {
                Taken::Nothing => {}
                Taken::Other => return Ok(std::mem::take(&mut self.info)),
                _ => return Err(NatsError::Closed { address: self.address.clone() }),
            }
        }
    }

    /// Waits for the answer to the first ping: with it the server has taken us.
    async fn log_in(&mut self) -> Result<(), NatsError> {
        self.flush().await?;
        loop {
            match self.take() {
                Ok(Taken::Pong) => return Ok(()),
                Ok(Taken::Nothing) => {}
                Ok(_) => continue,
                Err(NatsError::Said { address, said }) => return Err(NatsError::Refused { address, said }),
                Err(error) => return Err(error),
            }
            self.fill().await?;
        }
    }
}

/// What is wrong with an address, without touching anything.
pub(in crate::source) fn check_url(url: &crate::place::Located<String>, problems: &mut Vec<Problem>) {
    let login = Login { user: None, password: None, token: None, creds: None, tls: None };
    if let Err(error) = Server::new(&url.value, login) {
        let problem = url.problem(error.to_string());
        problems.push(problem.hint("expected nats://HOST:PORT or tls://HOST:PORT, as in nats://127.0.0.1:4222"));
    }
}
