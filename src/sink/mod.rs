//! Receivers of alert events, one file each.
//!
//! Each receiver has a task and a bounded queue of its own, so that a slow one delays nobody else. `deliver` returns
//! when the receiver has taken the events; until then they count as not delivered. Nothing is delivered when a sink is
//! dropped. Events are handed over in portions that the receiver takes or refuses as a whole; an error may mean that only
//! its answer was lost, so that they are delivered again, and their ids tell receivers so.
//!
//! Secrets (tokens, keys, and URLs that hold them) come from the environment or a file, and are in no log and no error.

mod alertmanager;
mod error;
mod file;
mod holding;
mod http;
mod message;
mod pagerduty;
mod quiet;
mod readable;
mod route;
mod silence;
mod slack;
mod stdout;
mod webhook;

pub use error::SinkError;
pub use holding::{Due, Holding, LOOK};
pub use quiet::{Active, Inhibit, Maintenance, Quiet, check as check_quiet};
pub use route::route;
pub use silence::{Matcher, Silence, SilenceError, SilenceState, Silences};

use crate::place::{Located, Place, Problem, Secret};
use crate::record::alert::AlertEvent;
use crate::time::Span;
use crate::time::clock::Clock;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A receiver, as written in `notify:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "type")]
pub enum Config {
    /// JSON lines on standard output; a readable line each where that is a terminal.
    Stdout(StdoutConfig),
    /// JSON lines appended to a file.
    File(FileConfig),
    /// Prometheus' Alertmanager, API v2.
    Alertmanager(AlertmanagerConfig),
    /// A POST with the body of Alertmanager's webhooks.
    Webhook(WebhookConfig),
    /// An incoming webhook of Slack, Mattermost or Rocket.Chat.
    Slack(SlackConfig),
    /// PagerDuty's Events API v2.
    Pagerduty(PagerdutyConfig),
}

/// A receiver, connected. Owned by one task.
pub trait Sink: Send + std::fmt::Debug {
    /// Hands over `events`, in order; when it returns, the receiver has them.
    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>>;

    /// How many of the first of `events`, at least one, the receiver takes or refuses as a whole. What is `together` is one group's,
    /// and belongs into one message where that can hold it.
    fn portion(&self, events: &[AlertEvent], together: bool) -> usize {
        let _ = together;
        events.len()
    }

    /// How often [`Self::repeat`] wants to be called, for a receiver that forgets what it isn't told again.
    fn repeats(&self) -> Option<Span> {
        None
    }

    /// Says again what still holds of what was delivered.
    fn repeat(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }

    /// An earlier run has delivered this, and it still fires: it is to be repeated.
    fn stand(&mut self, _: &AlertEvent) {}

    /// Whether it keeps changes one by one, or groups them by itself, so that none waits for others.
    fn at_once(&self) -> bool {
        false
    }
}

impl Config {
    /// All mistakes in this configuration, which stands at `at`; looks at nothing else.
    pub fn check(&self, at: Place) -> Vec<Problem> {
        match self {
            Self::Stdout(_) => Vec::new(),
            Self::File(config) => config.check(),
            Self::Alertmanager(config) => config.check(),
            Self::Webhook(config) => config.check(at),
            Self::Slack(config) => config.check(at),
            Self::Pagerduty(config) => config.check(at),
        }
    }

    /// Tries to reach the receiver, sends nothing and leaves nothing behind. The problem is placed at the setting that says
    /// where it is.
    pub fn probe(&self) -> Option<Problem> {
        match self {
            Self::Stdout(_) => None,
            Self::File(config) => config.probe(),
            Self::Alertmanager(config) => config.probe(),
            Self::Webhook(config) => config.probe(),
            Self::Slack(config) => config.probe(),
            Self::Pagerduty(config) => config.probe(),
        }
    }

    /// Opens what the receiver of this name needs. Starts nothing, and reaches out to nothing.
    ///
    /// # Errors
    /// When a file cannot be opened, read or written.
    pub fn connect(&self, name: &str, clock: &Arc<dyn Clock>) -> Result<Box<dyn Sink>, SinkError> {
        Ok(match self {
            Self::Stdout(_) => Box::new(stdout::Stdout::connect()),
            Self::File(config) => Box::new(file::File::connect(config)?),
            Self::Alertmanager(config) => Box::new(alertmanager::Alertmanager::connect(config, Arc::clone(clock))?),
            Self::Webhook(config) => Box::new(webhook::Webhook::connect(name, config)?),
            Self::Slack(config) => Box::new(slack::Slack::connect(config)?),
            Self::Pagerduty(config) => Box::new(pagerduty::Pagerduty::connect(config)?),
        })
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file; made where it doesn't exist, appended to where it does.
    pub path: Located<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// The server, with the prefix that its paths have, as in `http://127.0.0.1:9093`. Of a cluster, make each member a
    /// receiver.
    pub url: Located<String>,
    /// For HTTP's basic authentication.
    pub user: Option<Located<String>>,
    /// From the environment, as in `"${ALERTMANAGER_PASSWORD}"`.
    pub password: Option<Located<Secret>>,
    /// A file that holds the password.
    pub password_file: Option<Located<String>>,
    /// A bearer token, from the environment.
    pub token: Option<Located<Secret>>,
    /// A file that holds the token.
    pub token_file: Option<Located<String>>,
    /// A file of certificates (PEM) of authorities that are trusted besides the system's.
    pub ca: Option<Located<String>>,
    /// For one request. Default 10s.
    pub timeout: Option<Span>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// Where to POST.
    pub url: Option<Located<Secret>>,
    /// A file that holds the URL.
    pub url_file: Option<Located<String>>,
    /// A bearer token, from the environment.
    pub token: Option<Located<Secret>>,
    /// A file that holds the token.
    pub token_file: Option<Located<String>>,
    /// Further headers.
    pub headers: BTreeMap<String, Secret>,
    /// A file of certificates (PEM) of authorities that are trusted besides the system's.
    pub ca: Option<Located<String>>,
    /// For one request. Default 10s.
    pub timeout: Option<Span>,
    /// Whether it may reach addresses that are not of the public internet. Default false; proxies of the environment are used
    /// only with it.
    pub allow_private: bool,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlackConfig {
    /// The incoming webhook's URL, which is a secret: `"${SLACK_WEBHOOK}"`.
    pub url: Option<Located<Secret>>,
    /// A file that holds the URL.
    pub url_file: Option<Located<String>>,
    /// Where to write, if the webhook lets one choose, as in `#ops`.
    pub channel: Option<String>,
    /// As whom.
    pub username: Option<String>,
    /// As in `:rotating_light:`.
    pub icon_emoji: Option<String>,
    /// For one request. Default 10s.
    pub timeout: Option<Span>,
    /// Whether it may reach addresses that are not of the public internet, for a server of one's own. Default false.
    pub allow_private: bool,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PagerdutyConfig {
    /// The integration key, from the environment: `"${PAGERDUTY_KEY}"`.
    pub routing_key: Option<Located<Secret>>,
    /// A file that holds the key.
    pub routing_key_file: Option<Located<String>>,
    /// Default `https://events.pagerduty.com/v2/enqueue`; in Europe `https://events.eu.pagerduty.com/v2/enqueue`.
    pub url: Option<Located<String>>,
    /// Who says so. Default headrig.
    pub client: Option<String>,
    /// What the incident links to.
    pub client_url: Option<String>,
    /// For one request. Default 10s.
    pub timeout: Option<Span>,
    /// Whether it may reach addresses that are not of the public internet. Default false.
    pub allow_private: bool,
}

/// One entry of `route:`. The first whose labels all match decides; no entry means every receiver.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Labels that an alert must have, with exactly these values. Empty: every alert.
    #[serde(default, rename = "match")]
    pub matching: BTreeMap<String, String>,
    /// Names of receivers in `notify:`.
    pub to: Vec<Located<String>>,
    /// Alerts that have the same values of these labels are told together; with `[]` all of this route are. Without it, each at once.
    pub group_by: Option<Vec<String>>,
    /// How long a group's first message waits for more. Default 30s with `group_by`, else none.
    pub group_wait: Option<Span>,
    /// Between two messages of a group, at least. Default 5m with `group_by`, else none.
    pub group_interval: Option<Span>,
    /// Tells what goes on firing again and again. Default: it is told once.
    pub repeat_interval: Option<Span>,
}
