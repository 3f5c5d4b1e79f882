//! `type: stdout`: JSON lines, or a readable line each where standard output is a terminal.

use super::readable::{Colour, json_lines, readable};
use super::{Sink, SinkError};
use crate::record::alert::AlertEvent;
use futures::future::BoxFuture;
use std::io::IsTerminal;
use tokio::io::{AsyncWrite, AsyncWriteExt};

#[derive(Debug, Clone, Copy)]
enum Style {
    Json,
    Readable(Colour),
}

/// Standard output, or in tests something else.
#[derive(Debug)]
pub(crate) struct Stdout<W = tokio::io::Stdout> {
    output: W,
    style: Style,
}

impl Stdout {
    pub(crate) fn connect() -> Self {
        let style = if std::io::stdout().is_terminal() { Style::Readable(Colour::of_terminal()) } else { Style::Json };
        Self { output: tokio::io::stdout(), style }
    }
}

impl<W: AsyncWrite + Unpin + Send + std::fmt::Debug> Sink for Stdout<W> {
    fn at_once(&self) -> bool {
        true
    }

    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let text = match self.style {
                Style::Json => json_lines(events),
                Style::Readable(colour) => events.iter().map(|e| readable(e, colour) + "\n").collect(),
            };
            let written = match self.output.write_all(text.as_bytes()).await {
                Ok(()) => self.output.flush().await,
                Err(error) => Err(error),
            };
            written.map_err(|cause| SinkError::Stdout { cause })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::readable::tests::event;

    async fn check(style: Style) -> String {
        let mut sink = Stdout { output: Vec::new(), style };
        sink.deliver(&[event(), event()]).await.unwrap();
        String::from_utf8(sink.output).unwrap()
    }

    #[tokio::test]
    async fn one_line_an_event() {
        let json = check(Style::Json).await;
        let ids: Vec<_> =
            json.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["id"].clone()).collect();
        assert_eq!(ids, ["a1", "a1"]);
        assert_eq!(check(Style::Readable(Colour::Off)).await.lines().count(), 2);
    }

    #[tokio::test]
    async fn a_reader_that_left_is_an_error() {
        let (output, reader) = tokio::io::duplex(16);
        drop(reader);
        let error = Stdout { output, style: Style::Json }.deliver(&[event()]).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot write alerts to standard output"));
        assert!(error.hint().is_some() && !error.is_retryable());
    }
}
