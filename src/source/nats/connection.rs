//! One connection to a NATS server: TCP, TLS, handshake; then operations in and commands out.
//!
//! No task of its own and no queue: whoever has the connection reads from it, and who doesn't read holds the server back.

use super::address::Address;
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

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
    #[error("cannot connect to any of {} NATS servers: {}", .0.len(), joined(.0))]
    NoneOf(Vec<NatsError>),
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
    #[error(
        "cannot go on with consumer {durable:?} of stream {stream:?} at {address}, somebody else has got messages of it"
    )]
    Skipped { address: String, stream: String, durable: String },
}

fn joined(errors: &[NatsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl NatsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Address { .. } => "expected nats://HOST:PORT or tls://HOST:PORT, several with commas between them".to_owned(),
            // One that let us try says more than those that were not there.
            Self::NoneOf(errors) => {
                let reached = errors.iter().find(|error| !matches!(error, Self::Connect { .. } | Self::Slow { .. }));
                return reached.or(errors.first())?.hint();
            }
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
            Self::Stream { said, .. } if said.contains("not unique on workqueue") || said.contains("overlap") => {
                "a stream of retention `workqueue` has one consumer for each subject: take the other one away, or read other subjects with `subject`".to_owned()
            }
            Self::Stream { .. } => "look at `stream`, and whether JetStream is on (nats-server -js)".to_owned(),
            Self::Unfit { said, .. } if said.contains("anew") => {
                "its sequences begin anew: give the source another name, or keep a new archive".to_owned()
            }
            Self::Taken { .. } => "each pipeline needs a consumer of its own: does another one use this `durable`?".to_owned(),
            _ => return None,
        })
    }
}

/// Where servers of one cluster are and who we are there; checked. All clones know of the same servers.
#[derive(Debug, Clone)]
pub struct Server {
    addresses: Vec<Address>,
    /// Servers that others have told of.
    told: Arc<Mutex<Vec<Address>>>,
    /// Which one is next: after one was lost, another is tried.
    turn: Arc<AtomicUsize>,
    tls: NatsTlsConfig,
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
    /// Reads addresses (with commas between them) and files.
    ///
    /// # Errors
    /// When an address is none, or a file cannot be read.
    pub fn new(urls: &str, login: Login<'_>) -> Result<Self, NatsError> {
        let parsed = urls.split(',').map(|url| Address::parse(url.trim(), login.tls.is_some()));
        let addresses = parsed.collect::<Result<Vec<_>, _>>()?;
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
        let tls = login.tls.cloned().unwrap_or_default();
        Ok(Self { addresses, told: Arc::default(), turn: Arc::default(), tls, identity })
    }

    /// The addresses as `host:port`, for messages.
    pub fn address(&self) -> String {
        self.addresses.iter().map(Address::show).collect::<Vec<_>>().join(",")
    }

    /// Connects and logs in to the first server that lets us in, beginning behind the one that was connected last.
    ///
    /// # Errors
    /// When none can be reached within [`limits::NATS_CONNECT`] each, or all refuse.
    pub async fn connect(&self, name: &str) -> Result<Connection, NatsError> {
        let mut all = self.addresses.clone();
        for told in self.told.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if !all.iter().any(|known| (&known.host, known.port) == (&told.host, told.port)) {
                all.push(told.clone());
            }
        }
        let first = self.turn.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        for turn in first..first + all.len() {
            let at = turn % all.len();
            let slow = NatsError::Slow { address: all[at].show() };
            let shaken = tokio::time::timeout(limits::NATS_CONNECT.to_std(), self.shake_hands(&all[at], name)).await;
            match shaken.unwrap_or(Err(slow)) {
                Ok(mut connection) => {
                    self.turn.store((at + 1) % all.len(), Ordering::Relaxed);
                    connection.told = Some((all[at].clone(), Arc::clone(&self.told)));
                    learn(connection.told.as_ref(), &connection.info);
                    return Ok(connection);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(if errors.len() == 1 { errors.remove(0) } else { NatsError::NoneOf(errors) })
    }

    async fn shake_hands(&self, server: &Address, name: &str) -> Result<Connection, NatsError> {
        let address = server.show();
        let failed = |source| NatsError::Connect { address: address.clone(), source };
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut connection = Connection::over(Box::new(stream), address.clone());
        connection.info = connection.greeting().await?;
        let wants_tls = server.encrypted || connection.info.tls_required;
        if wants_tls {
            if !connection.info.tls_required && !connection.info.tls_available {
                return Err(NatsError::NoTls { address });
            }
            let info = std::mem::take(&mut connection.info);
            connection = Connection::over(self.encrypt(server, connection.stream).await?, address.clone());
            connection.info = info;
        }
        let line = auth::connect_line(&self.identity, name, &connection.info.nonce, wants_tls);
        connection.out.extend_from_slice(line.as_bytes());
        connection.ping();
        connection.log_in().await?;
        Ok(connection)
    }

    async fn encrypt(&self, server: &Address, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, NatsError> {
        let failed = |reason: String| NatsError::Tls { address: server.show(), reason };
        let config = tls_client(&self.tls)?;
        let name = ServerName::try_from(server.name.clone()).map_err(|error| failed(error.to_string()))?;
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

/// A server, and where others that it tells of are noted.
type Told = (Address, Arc<Mutex<Vec<Address>>>);

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
    /// Which server this is, and where other servers are noted.
    told: Option<Told>,
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
        Self { stream, address, info: Info::default(), buffer, at: 0, out, told: None }
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
                // What it says of the connection is in the first one.
                let known = std::mem::take(&mut self.info);
                self.info = if known.server_id.is_empty() {
                    *info
                } else {
                    Info { connect_urls: info.connect_urls, ldm: info.ldm, ..known }
                };
                learn(self.told.as_ref(), &self.info);
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

    /// Sends what is queued and waits for the answer to a ping in it; passes over all that comes before.
    pub async fn until_pong(&mut self) -> Result<(), NatsError> {
        self.flush().await?;
        loop {
            match self.take()? {
                Taken::Pong => return Ok(()),
                Taken::Nothing => self.fill().await?,
                _ => {}
            }
        }
    }

    /// Waits for the answer to the first ping: with it the server has taken us.
    async fn log_in(&mut self) -> Result<(), NatsError> {
        self.until_pong().await.map_err(|error| match error {
            NatsError::Said { address, said } => NatsError::Refused { address, said },
            error => error,
        })
    }
}

/// Notes the servers that this one tells of.
fn learn(told: Option<&Told>, info: &Info) {
    let Some((this, told)) = told else { return };
    let servers = info.connect_urls.iter().filter_map(|text| Address::told(text, this));
    let servers: Vec<Address> = servers.take(limits::NATS_SERVERS).collect();
    if !servers.is_empty() {
        *told.lock().unwrap_or_else(PoisonError::into_inner) = servers;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Login<'static> {
        Login { user: None, password: None, token: None, creds: None, tls: None }
    }

    #[test]
    fn addresses_are_read_with_commas_between_them() {
        let server = Server::new("nats://a, tls://b:4223,nats://[fdaa::3]:4224", nobody()).unwrap();
        assert_eq!(server.address(), "a:4222,b:4223,[fdaa::3]:4224");
        assert_eq!(server.addresses.iter().map(|address| address.encrypted).collect::<Vec<_>>(), [false, true, false]);
        for wrong in ["", "nats://a,", "nats://a,b:4222", "nats://u@a", "http://a", "nats://a/b"] {
            assert!(matches!(Server::new(wrong, nobody()), Err(NatsError::Address { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn the_hint_is_of_the_server_that_said_most() {
        let refused =
            || NatsError::Connect { address: "a".to_owned(), source: io::ErrorKind::ConnectionRefused.into() };
        let said = NatsError::Refused { address: "b".to_owned(), said: "Authorization Violation".to_owned() };
        assert!(NatsError::NoneOf(vec![refused(), said]).hint().unwrap().contains("password"));
        let both = NatsError::NoneOf(vec![refused(), refused()]);
        assert!(both.hint().unwrap().contains("nothing listens") && both.to_string().contains("any of 2 NATS servers"));
    }
}
