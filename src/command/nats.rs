//! Generated lines to a NATS subject, one message a line; with `jetstream://` each must be acknowledged by a stream.

use crate::source::nats::{Connection, Login, NatsError, Server, Taken, is_subject};
use anyhow::{Context, bail};
use std::io::{self, Write};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Bytes that are gathered before they are sent.
const SEND_BYTES: usize = 128 << 10;

/// Messages that may wait for their acknowledgement.
const UNACKNOWLEDGED: u64 = 4_096;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

const INBOX: &str = "_INBOX.headrig-generate";

/// `nats://[USER[:PASSWORD]@]HOST:PORT/SUBJECT`, taken apart.
struct Target {
    server: String,
    user: Option<String>,
    password: Option<String>,
    subject: String,
    acknowledged: bool,
}

impl Target {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = || format!("cannot read {text:?} as a NATS subject, expected nats://HOST:PORT/SUBJECT");
        let (acknowledged, rest) = match text.strip_prefix("jetstream://") {
            Some(rest) => (true, format!("nats://{rest}")),
            None => (false, text.to_owned()),
        };
        let url = url::Url::parse(&rest).with_context(wrong)?;
        // As it was written: a URL's path would have `>` and its like in another form.
        let subject = rest.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        if !is_subject(subject, false) {
            bail!(wrong());
        }
        let user = Some(url.username()).filter(|user| !user.is_empty()).map(str::to_owned);
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let server = format!("{}://{}{port}", url.scheme(), url.host_str().with_context(wrong)?);
        Ok(Self {
            server,
            user,
            password: url.password().map(str::to_owned),
            subject: subject.to_owned(),
            acknowledged,
        })
    }
}

/// # Errors
/// When the address is none, or the server cannot be reached.
pub(super) fn connect(url: &str) -> anyhow::Result<Subject> {
    let Target { server, user, password, subject, acknowledged } = Target::parse(url)?;
    let login = Login { user: user.as_ref(), password: password.as_ref(), token: None, creds: None, tls: None };
    let server = Server::new(&server, login)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let mut connection = runtime.block_on(server.connect("headrig-generate"))?;
    let inbox = format!("{INBOX}.{}.{}", connection.info().server_id, connection.info().client_id);
    if acknowledged {
        connection.subscribe(&inbox, None, 1);
    }
    Ok(Subject { runtime, connection, subject, inbox, acknowledged, waiting: 0, partial: Vec::new() })
}

/// A subject that takes lines.
pub(super) struct Subject {
    runtime: Runtime,
    connection: Connection,
    subject: String,
    inbox: String,
    acknowledged: bool,
    /// Messages that have not been acknowledged yet.
    waiting: u64,
    /// A line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Subject {
    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let reply = self.acknowledged.then_some(self.inbox.as_str());
        self.connection.publish(&self.subject, reply, &[], line);
        self.waiting += u64::from(self.acknowledged);
        if self.connection.queued() >= SEND_BYTES {
            self.push_out()?;
        }
        if self.waiting >= UNACKNOWLEDGED { self.settle(UNACKNOWLEDGED / 2, false) } else { Ok(()) }
    }

    fn push_out(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.connection.flush()).map_err(io::Error::other)
    }

    /// Waits until at most `most` messages are without acknowledgement, or, with `pong`, until the server has read all.
    fn settle(&mut self, most: u64, mut pong: bool) -> io::Result<()> {
        if pong {
            self.connection.ping();
        }
        let (connection, waiting) = (&mut self.connection, &mut self.waiting);
        let work = async {
            while pong || *waiting > most {
                connection.flush().await?;
                match connection.take()? {
                    Taken::Pong => pong = false,
                    Taken::Message(message) => {
                        let text = String::from_utf8_lossy(message.payload).into_owned();
                        if message.status().is_some() || text.contains("\"error\"") {
                            return Ok(Some(format!("no stream has taken a message: {text}")));
                        }
                        *waiting -= 1;
                    }
                    Taken::Other => {}
                    Taken::Nothing => connection.fill().await?,
                }
            }
            Ok::<_, NatsError>(None)
        };
        match self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await }) {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(said))) => Err(io::Error::other(said)),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::other("the server doesn't answer")),
        }
    }
}

impl Write for Subject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if self.partial.is_empty() {
                self.send(&rest[..end])?;
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(&rest[..end]);
                self.send(&line)?;
            }
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        Ok(bytes.len())
    }

    /// Waits until the server has all lines, and a stream, where one must.
    fn flush(&mut self) -> io::Result<()> {
        self.push_out()?;
        self.settle(0, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("jetstream://u:p@h:4223/logs.a").unwrap();
        assert_eq!(
            (target.server.as_str(), target.subject.as_str(), target.acknowledged),
            ("nats://h:4223", "logs.a", true)
        );
        assert_eq!((target.user.as_deref(), target.password.as_deref()), (Some("u"), Some("p")));
        for url in ["nats://h:1", "nats://h:1/", "nats://h/a.>", "nats:///a"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
