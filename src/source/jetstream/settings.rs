//! The keys of `type: jetstream`, and what can be said of them from the text alone.

use crate::limits;
use crate::place::{Located, Place, Problem};
use crate::source::nats::{Login, NatsError, NatsTlsConfig, Server, check_url, is_subject, overlap};
use crate::time::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// `type: jetstream`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JetstreamConfig {
    /// nats://HOST:PORT, or tls://HOST:PORT; several of one cluster with commas between them.
    pub url: Located<String>,
    /// The stream's name.
    pub stream: Located<String>,
    /// The consumer's name; of this pipeline alone. With `subjects`, what the names of all consumers begin with.
    pub durable: Located<String>,
    /// Only messages of these subjects. Default: all of the stream.
    pub subject: Option<Located<String>>,
    /// Each of them is a partition, and daemons with the same `stream` and `durable` share them. No message may be of two of them.
    #[serde(default)]
    pub subjects: Vec<Located<String>>,
    /// After so long without an acknowledgement the server sends a message again; it is told before that what still waits for
    /// a seal. At least 1s. Default 1h.
    #[serde(default = "default_ack_wait")]
    pub ack_wait: Span,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// A creds file, with a JWT and the seed of a key.
    pub creds: Option<PathBuf>,
    /// Encrypts the connection. With tls:// or a server that asks for it, this is on anyway.
    pub tls: Option<NatsTlsConfig>,
    /// Messages are bytes and no lines: nothing is cut off at their ends.
    #[serde(skip)]
    pub verbatim: bool,
}

fn default_ack_wait() -> Span {
    limits::JETSTREAM_ACK_WAIT
}

impl JetstreamConfig {
    pub(super) fn server(&self) -> Result<Server, NatsError> {
        let login = Login {
            user: self.user.as_ref(),
            password: self.password.as_ref(),
            token: self.token.as_ref(),
            creds: self.creds.as_ref(),
            tls: self.tls.as_ref(),
        };
        Server::new(&self.url.value, login)
    }
}

/// Whether a text may be the name of a stream or a consumer.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c))
}

/// Finds what is wrong without touching anything but the text.
pub(in crate::source) fn check(config: &JetstreamConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_url(&config.url, &mut problems);
    for (name, what) in [(&config.stream, "a stream"), (&config.durable, "a consumer")] {
        if !is_name(&name.value) {
            let problem = name.problem(format!("cannot use {:?} as the name of {what}", name.value));
            problems.push(problem.hint("expected no dots, slashes, wildcards or white space"));
        }
    }
    for subject in config.subject.iter().chain(&config.subjects).filter(|subject| !is_subject(&subject.value, true)) {
        problems.push(subject.problem(format!("cannot listen to {:?}, it is no NATS subject", subject.value)));
    }
    if let (Some(subject), [_, ..]) = (&config.subject, config.subjects.as_slice()) {
        let problem = subject.problem("cannot read `subject` and `subjects`, one of them is enough");
        problems.push(problem.hint("`subjects` are shared among daemons, `subject` is read by one"));
    }
    for (at, subject) in config.subjects.iter().enumerate() {
        if let Some(other) = config.subjects[..at].iter().find(|other| overlap(&other.value, &subject.value)) {
            let text = format!(
                "cannot share {:?} among daemons, its messages may be of {:?}, too",
                subject.value, other.value
            );
            problems.push(subject.problem(text).hint("each message has to be of one of `subjects`"));
        }
    }
    if let Some(one) = config.subjects.get(limits::JETSTREAM_PARTITIONS) {
        let most = limits::JETSTREAM_PARTITIONS;
        problems.push(
            one.problem(format!("cannot share {} subjects among daemons, at most {most}", config.subjects.len())),
        );
    }
    if config.ack_wait < Span::from_secs(1) {
        let text = format!("cannot use {} for `ack_wait`, at least 1s", config.ack_wait);
        problems.push(Problem::new(Place { line: 0, column: 0 }, text).hint("leave it out for the default"));
    }
    problems
}
