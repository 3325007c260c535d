//! Logs on standard error, whose level can be changed at run time, and traces by OTLP where a collector is named.

use std::{io, sync::Arc};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use parking_lot::Mutex;
use tokio::task;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    api::state::LogLevel,
    config::{Log, LogFormat},
};

/// Why there can be no logs or traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is not a filter.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// What `OTEL_*` says cannot be done.
    #[error("traces: {0}")]
    Traces(#[from] ExporterBuildError),
    /// Logs were started before.
    #[error("logs: {0}")]
    Logs(#[from] TryInitError),
}

/// What was started.
#[derive(Debug)]
pub struct Telemetry {
    /// Changes what is logged.
    pub level: Arc<Level>,
    traces: Option<SdkTracerProvider>,
}

/// What is logged.
#[derive(Debug)]
pub struct Level {
    text: Mutex<String>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogLevel for Level {
    fn get(&self) -> String {
        self.text.lock().clone()
    }

    fn set(&self, level: &str) -> Result<(), String> {
        let filter = EnvFilter::builder().parse(level).map_err(|error| error.to_string())?;
        self.filter.reload(filter).map_err(|error| error.to_string())?;
        level.clone_into(&mut self.text.lock());
        Ok(())
    }
}

/// Starts logs, and traces if they are wanted, for the whole process. The exporter reads the standard `OTEL_*` names itself.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(log: &Log, wants_traces: bool) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::builder().parse(&log.level)?);
    let lines = match log.format {
        LogFormat::Text => fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer().with_writer(io::stderr).with_target(false).json().flatten_event(true).with_span_list(false).boxed(),
    };
    let traces = if wants_traces { Some(provider()?) } else { None };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces.as_ref().map(spans)).try_init()?;
    let level = Level { text: Mutex::new(log.level.clone()), filter: handle };
    Ok(Telemetry { level: Arc::new(level), traces })
}

impl Telemetry {
    /// Whether traces go to a collector.
    pub fn exports_traces(&self) -> bool {
        self.traces.is_some()
    }

    /// Sends what has not been sent yet.
    pub async fn stop(self) {
        let Some(traces) = self.traces else { return };
        // It waits for the network on the thread that calls it.
        match task::spawn_blocking(move || traces.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces could not be sent"),
            Err(error) => tracing::warn!(%error, "sending the last traces failed"),
        }
    }
}

fn provider() -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_http().build()?;
    let resource = Resource::builder().with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// Our own spans, whatever the level of the logs.
fn spans<S: Subscriber + for<'a> LookupSpan<'a>>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S> {
    let ours = Targets::new().with_target("zombi", LevelFilter::DEBUG);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("zombi")).with_filter(ours)
}
