//! The recorder of this process. See `contracts::metrics` for what is recorded.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::revision::REVISION;
use contracts::metrics::{self as ours, BUCKETS, ConsumerLag, MetricPattern};

/// Installs the recorder and describes every metric.
///
/// # Errors
/// If there is another recorder.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (named, buckets) in BUCKETS {
        let matcher = match named {
            MetricPattern::Suffix(end) => Matcher::Suffix(end.to_owned()),
            MetricPattern::Full(name) => Matcher::Full(name.to_owned()),
        };
        builder = builder.set_buckets_for_metric(matcher, buckets)?;
    }
    let handle = builder.install_recorder()?;
    ours::describe(REVISION);
    metrics_process::Collector::default().describe();
    Ok(handle)
}

/// Brings the process metrics up to date; call it before rendering.
pub(crate) fn collect_process() {
    metrics_process::Collector::default().collect();
}

/// Renders the lags of consumer groups. Groups come and go, and a recorder never forgets a label, so each
/// call uses a new one.
pub(crate) fn consumer_lags(lags: &[ConsumerLag]) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || ours::consumer_lags(lags));
    recorder.handle().render()
}
