//! Signals, as the daemon understands them.

use super::report;
use crate::time::Span;
use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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
    let context = "cannot install signal handlers";
    let mut terminate = signal(SignalKind::terminate()).context(context)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(context)?;
    let mut hangup = signal(SignalKind::hangup()).context(context)?;
    let (wishes, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut stopping = false;
        loop {
            let wish = tokio::select! {
                _ = terminate.recv() => Wish::Stop,
                _ = interrupt.recv() => Wish::Stop,
                _ = hangup.recv() => Wish::Reload,
            };
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

fn give_up(why: &str) -> ! {
    report::line(&format!("error: cannot end in order: {why}; what wasn't stored is read again at the next start"));
    std::process::exit(1)
}
