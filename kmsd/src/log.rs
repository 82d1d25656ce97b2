//! Structured logs on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// The filter for a level of the configuration.
///
/// tss-esapi logs every refusal of the TPM as an error, the expected ones too; kmsd reports them in
/// its own words.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{level},tss_esapi=off"))
        .map_err(|e| format!("`{level}` is not a level or filter: {e}"))
}

/// Starts logging. Later calls change nothing.
pub fn start(config: &Log) {
    let Ok(filter) = filter(&config.level) else {
        return;
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The journal has its own time stamps; colours only for a terminal.
    let under_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let terminal = rustix::termios::isatty(std::io::stderr());
    // An error means that a subscriber is set already (tests).
    let _ = match config.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_target(false)
            .try_init(),
        LogFormat::Text if under_journal => builder
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .try_init(),
        LogFormat::Text => builder.with_ansi(terminal).with_target(false).try_init(),
    };
}
