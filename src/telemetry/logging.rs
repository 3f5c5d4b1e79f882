//! Where log lines go: stderr, as text on a terminal and as JSON otherwise, filtered by `HEADRIG_LOG`.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The environment variable that sets the filter, in `tracing`'s syntax ("info", "headrig::archive=debug").
pub const FILTER_VARIABLE: &str = "HEADRIG_LOG";

/// Installs the process's log output.
///
/// # Errors
/// When the filter in the environment cannot be read; the text says what is wrong.
pub fn install() -> Result<(), String> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|error| format!("cannot read {FILTER_VARIABLE}={text:?} as a log filter: {error}"))?,
        _ => EnvFilter::new("info"),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
    Ok(())
}
