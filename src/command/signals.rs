//! Signals, as the daemon understands them.

use super::report;
use crate::time::Span;
use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::SignalStream;
use tokio_stream::{Stream, StreamExt};

/// What somebody outside wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGTERM or SIGINT: store what was read and end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Listens for signals from now on. A second wish to stop, or a drain that takes longer than `drain_timeout`, ends the
/// process at once; what wasn't stored by then is read again at the next start, where the source can.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn listen(drain_timeout: Span) -> anyhow::Result<mpsc::Receiver<Wish>> {
    let stop = wishes(SignalKind::terminate(), Wish::Stop)?.merge(wishes(SignalKind::interrupt(), Wish::Stop)?);
    let mut all = stop.merge(wishes(SignalKind::hangup(), Wish::Reload)?);
    let (wishes, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut stopping = false;
        while let Some(wish) = all.next().await {
            if wish == Wish::Stop && stopping {
                give_up("told to stop twice");
            }
            if wish == Wish::Stop {
                stopping = true;
                tokio::spawn(async move {
                    tokio::time::sleep(drain_timeout.to_std()).await;
                    give_up(&format!("not everything could be stored within {drain_timeout}"));
                });
            }
            if wishes.send(wish).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn wishes(kind: SignalKind, wish: Wish) -> anyhow::Result<impl Stream<Item = Wish> + Unpin> {
    let signals = signal(kind).context("cannot install signal handlers")?;
    Ok(SignalStream::new(signals).map(move |()| wish))
}

fn give_up(why: &str) -> ! {
    report::line(&format!("error: cannot end in order: {why}; what wasn't stored is read again at the next start"));
    std::process::exit(1)
}
