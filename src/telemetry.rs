//! Logs on standard error, with a level that can be changed at run time, and OTLP traces if a collector is
//! configured.

use std::{io, panic, sync::Arc};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::http::state::LogLevel;
use contracts::settings::{BrokenRules, Section};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogSettings {
    /// A level, or filters such as `zombi=debug,info`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Section for LogSettings {
    const NAME: &'static str = "log";

    fn check(&self, broken: &mut BrokenRules) {
        if let Err(why) = parse_level(&self.level) {
            broken.unless(false, format!("log.level: {why}"));
        }
    }
}

/// Why logs or traces cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// `log.level` is not a filter.
    #[error("log.level: {0}")]
    Level(#[from] BadLevel),
    /// The exporter cannot be built from the `OTEL_*` variables.
    #[error("traces: {0}")]
    Traces(#[from] ExporterBuildError),
    /// Logs were started before.
    #[error("logs: {0}")]
    Logs(#[from] TryInitError),
}

/// Logs and traces, once started.
#[derive(Debug)]
pub(crate) struct Telemetry {
    /// Changes what is logged.
    pub level: Arc<Level>,
    /// Counts the lines that were dropped because standard error was not read fast enough.
    pub dropped: ErrorCounter,
    traces: Option<SdkTracerProvider>,
    /// Writes the last lines when dropped.
    _writer: WorkerGuard,
}

/// Lines that may wait for the reader of standard error; any beyond that are dropped, and counted.
const WAITING_LINES: usize = 8192;
/// Bytes that a filter may have: the time to parse one grows with its square.
const MAX_LEVEL_BYTES: usize = 4096;

/// The text is not a level or filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLevel {
    /// It is too long.
    #[error("the filter has {0} bytes, more than {MAX_LEVEL_BYTES}")]
    TooLong(usize),
    /// A word where a level should be is not one.
    #[error(
        "{0:?} is not a level: use error, warn, info, debug, trace or off, or give a target its own, as in \
         zombi=debug"
    )]
    NoLevel(String),
    /// It does not have the form of a filter.
    #[error("{text:?}: {source}")]
    Filter {
        /// What was given.
        text: String,
        /// What the parser says about it.
        source: ParseError,
    },
}

fn parse_level(level: &str) -> Result<EnvFilter, BadLevel> {
    if level.len() > MAX_LEVEL_BYTES {
        return Err(BadLevel::TooLong(level.len()));
    }
    // `tracing` takes a word that is not a level for a target: it would log everything of that target, and
    // nothing of any other.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let mut words = level.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
    if let Some(word) = words.find(|word| !is_level(word)) {
        return Err(BadLevel::NoLevel(word.to_owned()));
    }
    EnvFilter::builder().parse(level).map_err(|source| BadLevel::Filter { text: level.to_owned(), source })
}

/// What is logged.
#[derive(Debug)]
pub(crate) struct Level {
    text: Mutex<String>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogLevel for Level {
    fn get(&self) -> String {
        self.text.lock().clone()
    }

    fn set(&self, level: &str) -> Result<(), String> {
        let filter = parse_level(level).map_err(|error| error.to_string())?;
        self.filter.reload(filter).map_err(|error| error.to_string())?;
        level.clone_into(&mut self.text.lock());
        Ok(())
    }
}

/// Starts logs, and traces if they are wanted, for the whole process. The exporter reads the standard
/// `OTEL_*` names itself.
///
/// # Errors
/// [`TelemetryError`].
pub(crate) fn start(log: &LogSettings, wants_traces: bool) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse_level(&log.level)?);
    // Lossy: no request may wait for the reader of the log.
    let (stderr, writer) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).finish(io::stderr());
    let dropped = stderr.error_counter();
    let lines = match log.format {
        LogFormat::Text => fmt::layer().with_writer(stderr).with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(stderr)
            .with_target(false)
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    let traces = if wants_traces { Some(provider()?) } else { None };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traces.as_ref().map(spans))
        .try_init()?;
    panic::set_hook(Box::new(|panic| tracing::error!("{panic}"))); // so that a panic reaches the log too
    let level = Level { text: Mutex::new(log.level.clone()), filter: handle };
    Ok(Telemetry { level: Arc::new(level), dropped, traces, _writer: writer })
}

impl Telemetry {
    /// Whether traces go to a collector.
    pub(crate) fn exports_traces(&self) -> bool {
        self.traces.is_some()
    }

    /// Sends the traces that have not been sent yet.
    pub(crate) async fn stop(&self) {
        let Some(traces) = self.traces.clone() else { return };
        // Shutting down waits for the network, and blocks its thread.
        match task::spawn_blocking(move || traces.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces could not be sent, and are lost"),
            Err(error) => tracing::warn!(%error, "sending the last traces failed, and they are lost"),
        }
    }
}

fn provider() -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_http().build()?;
    let resource = Resource::builder()
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// Exports Zombi's own spans, whatever the level of the logs is.
fn spans<S: Subscriber + for<'a> LookupSpan<'a>>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S> {
    let ours = Targets::new().with_target("zombi", LevelFilter::DEBUG);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("zombi")).with_filter(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for level in
            ["info", "WARN", "off", "zombi=debug,info", "zombi=debug, info", "zombi[request]=trace,warn"]
        {
            assert!(parse_level(level).is_ok(), "{level}");
        }
        for level in ["warning", "", "info,zombi", "zombi=warning", "loud", "verbose,info"] {
            assert!(parse_level(level).is_err(), "{level}");
        }
        assert!(matches!(parse_level(&"zombi=info,".repeat(1000)), Err(BadLevel::TooLong(_))));
    }
}
