//! Logs on standard error, with a level that can be changed at run time and that neither errors nor changes
//! obey (see `http::changes`); the audit log beside them, which has no level; and OTLP traces if a collector
//! is configured.

use std::{io, panic, sync::Arc, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, ParseError, Targets},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    auth::audit,
    http::{changes, state::LogLevel},
    revision::VERSION,
};
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
    pub dropped: DroppedLines,
    traces: Option<SdkTracerProvider>,
    /// Write the last lines when dropped.
    _writers: [WorkerGuard; 2],
}

/// Counts lines that were dropped, those of the audit log too.
#[derive(Debug, Clone)]
pub(crate) struct DroppedLines {
    log: ErrorCounter,
    audit: ErrorCounter,
}

impl DroppedLines {
    /// How many there were since the start.
    pub(crate) fn count(&self) -> u64 {
        self.log.dropped_lines().saturating_add(self.audit.dropped_lines()) as u64
    }
}

/// Lines of either log that may wait for the reader of standard error; any beyond that are dropped, and
/// counted.
const WAITING_LINES: usize = 8192;
/// How long an export may take, as the exporter's own client has it.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
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
    // Numbers are levels to it, too, and 0 is off.
    let is_level = |word: &str| {
        let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
        is_word && word.parse::<LevelFilter>().is_ok()
    };
    let is_right = |word: &str| match word.rsplit_once('=') {
        None => is_level(word),
        // A span's field may have a value, with no level behind it.
        Some((target, level)) => !target.is_empty() && (level.contains(']') || is_level(level.trim())),
    };
    let mut words = level.split(',').map(str::trim);
    if let Some(word) = words.find(|word| !is_right(word)) {
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
    // Each has a queue of its own: however much else is logged, no line of the audit log is dropped for it.
    let (lines, lines_writer) = stderr("log");
    let (audit, audit_writer) = stderr("audit-log");
    let dropped = DroppedLines { log: lines.error_counter(), audit: audit.error_counter() };
    let traces = if wants_traces { Some(provider()?) } else { None };
    let (subscriber, level) = subscriber(log, lines, audit, traces.as_ref())?;
    subscriber.try_init()?;
    panic::set_hook(Box::new(|panic| tracing::error!("{panic}"))); // so that a panic reaches the log too
    Ok(Telemetry { level: Arc::new(level), dropped, traces, _writers: [lines_writer, audit_writer] })
}

/// A queue before standard error, and the thread that empties it.
fn stderr(thread: &str) -> (NonBlocking, WorkerGuard) {
    // Lossy: no request may wait for the reader of the log.
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES);
    queue.thread_name(thread).finish(io::stderr())
}

/// What takes everything that is logged: writes the lines of the log to `lines` and those of the audit log to
/// `audit`, and exports spans.
fn subscriber<L, A>(
    log: &LogSettings,
    lines: L,
    audit: A,
    traces: Option<&SdkTracerProvider>,
) -> Result<(impl Subscriber + Send + Sync + use<L, A>, Level), BadLevel>
where
    L: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    A: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(parse_level(&log.level)?);
    let others = Targets::new().with_default(LevelFilter::TRACE).with_target(audit::TARGET, LevelFilter::OFF);
    // Whoever wants silence wants none of what happens every day; what broke, and who deleted what, is asked
    // for later.
    let always =
        Targets::new().with_default(LevelFilter::ERROR).with_target(changes::TARGET, LevelFilter::INFO);
    let wanted = FilterExt::<Registry>::or(filter, always);
    let wanted = FilterExt::<Registry>::and(wanted, others);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => fmt::layer().with_writer(lines).with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(lines)
            .with_target(false)
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(wanted))
        .with(audit::layer(audit))
        .with(traces.map(spans));
    Ok((subscriber, Level { text: Mutex::new(log.level.clone()), filter: handle }))
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
    let exporter = exporter()?;
    let resource =
        Resource::builder().with_attribute(opentelemetry::KeyValue::new("service.version", VERSION));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// The exporter. Where the system has no certificates its own client cannot be built; a collector without TLS
/// can be reached all the same.
fn exporter() -> Result<SpanExporter, ExporterBuildError> {
    SpanExporter::builder().with_http().build().or_else(|error| {
        let client = reqwest::blocking::Client::builder().tls_certs_only([]).timeout(EXPORT_TIMEOUT).build();
        let client = client.map_err(|_| error)?;
        SpanExporter::builder().with_http().with_http_client(client).build()
    })
}

/// Exports Zombi's own spans, whatever the level of the logs is. The audit log goes to no collector.
fn spans<S: Subscriber + for<'a> LookupSpan<'a>>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S> {
    let ours =
        Targets::new().with_target("zombi", LevelFilter::DEBUG).with_target(audit::TARGET, LevelFilter::OFF);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("zombi")).with_filter(ours)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::audit::tests::WrittenLines;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for level in
            ["info", "WARN", "off", "zombi=debug,info", "zombi=debug, info", "zombi[request]=trace,warn"]
        {
            assert!(parse_level(level).is_ok(), "{level}");
        }
        for level in [
            "warning",
            "",
            "info,zombi",
            "zombi=warning",
            "loud",
            "verbose,info",
            "0",
            "5",
            "trace,0",
            "zombi=",
            "zombi=0",
            "[x]",
            "=info",
        ] {
            assert!(parse_level(level).is_err(), "{level}");
        }
        assert!(matches!(parse_level(&"zombi=info,".repeat(1000)), Err(BadLevel::TooLong(_))));
    }

    #[test]
    fn no_level_hides_errors_or_who_changed_what() {
        let (lines, audit) = (WrittenLines::new(), WrittenLines::new());
        let settings = LogSettings { level: "off".to_owned(), format: LogFormat::Text };
        let (subscriber, level) = subscriber(&settings, lines.writer(), audit.writer(), None).unwrap();
        let _guard = tracing::subscriber::set_default(subscriber);
        for text in ["off", "error", "zombi::changes=off", "trace"] {
            level.set(text).unwrap();
            tracing::error!("broken");
            tracing::info!(target: changes::TARGET, table = "t", "table deleted");
            tracing::warn!("beside it");
            let logged = lines.take();
            let is_there = |text: &str| logged.iter().any(|line| line.contains(text));
            assert!(is_there("broken") && is_there("table deleted"), "{text}: {logged:?}");
            assert_eq!(is_there("beside it"), text == "trace", "{text}: {logged:?}");
        }
        assert!(audit.take().is_empty());
    }

    #[test]
    fn the_audit_log_has_no_level_and_its_lines_are_nowhere_else() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let (lines, audit) = (WrittenLines::new(), WrittenLines::new());
            let settings = LogSettings { level: "trace".to_owned(), format };
            let (subscriber, level) = subscriber(&settings, lines.writer(), audit.writer(), None).unwrap();
            let _guard = tracing::subscriber::set_default(subscriber);
            for (text, is_logged) in
                [("trace", true), ("off", false), ("zombi::audit=trace", false), ("info", true)]
            {
                level.set(text).unwrap();
                tracing::info!(target: audit::TARGET, verb = "manage");
                tracing::info!("another");
                let said = audit.take();
                assert_eq!(said.len(), 1, "{text}: {said:?}");
                let line: Value = serde_json::from_str(&said[0]).unwrap();
                assert_eq!((&line["target"], &line["verb"]), (&json!("zombi::audit"), &json!("manage")));
                let logged = lines.take();
                assert_eq!(logged.len(), usize::from(is_logged), "{text}: {logged:?}");
                assert!(logged.iter().all(|line| line.contains("another")), "{text}: {logged:?}");
            }
        }
    }
}
