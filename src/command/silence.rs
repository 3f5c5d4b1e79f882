//! `headrig silence`: asks a running daemon not to tell some alerts for a while.

use super::report::{Format, Hinted};
use crate::sink::Matcher;
use crate::time::clock::Clock;
use crate::time::{EventTime, Span};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// `headrig silence`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  headrig silence add alertname=SlowRoute path=/v1/search --for 2h --comment 'new index'\n  \
                        headrig silence add 'app=~web|api' 'severity!=P0' --for 30m\n  headrig silence list\n  headrig silence end 6f0c41f2-…\n\n\
                        An alert that begins to fire while it is silenced is told when the silence is over, if it still fires then. \
                        The daemon speaks Alertmanager's API for silences, so amtool works as well."
)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Silences alerts whose labels match all that is given.
    Add(Add),
    /// Shows what is silenced.
    List(List),
    /// Ends silences now.
    End(End),
}

#[derive(Debug, clap::Args)]
struct Daemon {
    /// Where the daemon listens (`server.listen`).
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8686")]
    url: String,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// A label and what it must be: name=value, name!=value, name=~REGEX, name!~REGEX.
    #[arg(required = true, value_parser = matcher)]
    matchers: Vec<Matcher>,
    /// How long, as in 30m, 2h, 1d.
    #[arg(long = "for", value_name = "DURATION")]
    length: Span,
    /// From when, as in 2026-11-22T01:00:00+09:00. Default: now.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<EventTime>,
    /// Why.
    #[arg(long, default_value = "")]
    comment: String,
    /// Who says so.
    #[arg(long, env = "USER", default_value = "")]
    by: String,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Those that are over, too.
    #[arg(long)]
    all: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, clap::Args)]
struct End {
    /// Their ids, as `list` shows them.
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    daemon: Daemon,
}

fn matcher(text: &str) -> Result<Matcher, String> {
    let at = text.find(['=', '!']).ok_or_else(|| format!("cannot read {text:?}, expected a label as in app=web"))?;
    let (name, rest) = text.split_at(at);
    let forms = [("=~", true, true), ("!~", true, false), ("!=", false, false), ("=", false, true)];
    let form = forms.iter().find_map(|(sign, regex, equal)| Some((rest.strip_prefix(sign)?, *regex, *equal)));
    let (value, is_regex, is_equal) = form.ok_or_else(|| format!("cannot read {rest:?}, expected = != =~ or !~"))?;
    if name.is_empty() {
        return Err(format!("cannot read {text:?}, it names no label"));
    }
    Ok(Matcher { name: name.to_owned(), value: value.to_owned(), is_regex, is_equal })
}

fn time(text: &str) -> Result<EventTime, String> {
    let stamp: jiff::Timestamp = text.parse().map_err(|error| format!("cannot read {text:?} as a time: {error}"))?;
    Ok(EventTime::from_micros(stamp.as_microsecond()))
}

pub(super) fn run(args: &Args, clock: &dyn Clock) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let mut out = io::stdout().lock();
    match &args.what {
        What::Add(add) => {
            let from = add.from.unwrap_or_else(|| clock.now());
            let body = json!({
                "matchers": add.matchers, "comment": add.comment, "createdBy": add.by,
                "startsAt": from.to_string(), "endsAt": (from + add.length).to_string(),
            });
            let said = runtime.block_on(ask(reqwest::Method::POST, &add.daemon, "silences", Some(&body)))?;
            writeln!(out, "{}", said["silenceID"].as_str().unwrap_or_default())?;
        }
        What::List(list) => {
            let said = runtime.block_on(ask(reqwest::Method::GET, &list.daemon, "silences", None))?;
            let all = said.as_array().cloned().unwrap_or_default();
            let shown = all.into_iter().filter(|one| list.all || one["status"]["state"] != "expired");
            match list.format {
                Format::Json => writeln!(out, "{}", Value::Array(shown.collect()))?,
                Format::Text => shown.into_iter().try_for_each(|one| writeln!(out, "{}", line(&one)))?,
            }
        }
        What::End(end) => {
            for id in &end.ids {
                runtime.block_on(ask(reqwest::Method::DELETE, &end.daemon, &format!("silence/{id}"), None))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `ID  active  until 2026-11-22T03:00:00Z  app=web severity!=P0  (me: new index)`
fn line(one: &Value) -> String {
    let text = |key: &str| one[key].as_str().unwrap_or_default();
    let matchers = one["matchers"].as_array().into_iter().flatten().map(|matcher| {
        let sign = match (matcher["isEqual"] != false, matcher["isRegex"] == true) {
            (true, false) => "=",
            (false, false) => "!=",
            (true, true) => "=~",
            (false, true) => "!~",
        };
        let part = |key: &str| matcher[key].as_str().unwrap_or_default();
        format!("{}{sign}{}", part("name"), part("value"))
    });
    let matchers: Vec<String> = matchers.collect();
    let state = one["status"]["state"].as_str().unwrap_or_default();
    let when = match state {
        "pending" => format!("{} to {}", text("startsAt"), text("endsAt")),
        _ => format!("until {}", text("endsAt")),
    };
    format!("{}  {state:7}  {when}  {}  ({}: {})", text("id"), matchers.join(" "), text("createdBy"), text("comment"))
}

async fn ask(method: reqwest::Method, daemon: &Daemon, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let url = format!("{}/api/v2/{path}", daemon.url.trim_end_matches('/'));
    // The daemon is on this machine; a proxy isn't asked for it.
    let client = reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
    let mut request = client.request(method, &url);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.map_err(|error| {
        let hint = "see that the daemon runs, and that --url is where it listens (`server.listen` of its file)";
        let message = format!("cannot reach the daemon at {}: {}", daemon.url, innermost(&error));
        anyhow::Error::new(Hinted::new(&message, Some(hint.to_owned())))
    })?;
    let (status, said) = (answer.status(), answer.text().await.unwrap_or_default());
    if !status.is_success() {
        bail!("{}", said.trim());
    }
    Ok(serde_json::from_str(&said).unwrap_or(Value::Null))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_read_as_amtool_does() {
        let read = |text: &str| matcher(text).map(|m| (m.name, m.value, m.is_regex, m.is_equal));
        let is = |name: &str, value: &str, regex, equal| Ok((name.to_owned(), value.to_owned(), regex, equal));
        assert_eq!(read("app=web"), is("app", "web", false, true));
        assert_eq!(read("path=/a=b"), is("path", "/a=b", false, true));
        assert_eq!(read("app!=web"), is("app", "web", false, false));
        assert_eq!(read("app=~web|api"), is("app", "web|api", true, true));
        assert_eq!(read("app!~w.*"), is("app", "w.*", true, false));
        for wrong in ["app", "=web", "app!web"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
