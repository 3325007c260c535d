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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_made_anew_or_has_stopped_is_not_in_step() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = |show: &dyn Fn()| {
            metrics::with_local_recorder(&recorder, show);
            recorder.handle().render()
        };
        let has = |text: &str, line: &str| text.lines().any(|shown| shown == line);
        let lag = |entries: &str| format!("zombi_log_lag_entries{{shard=\"003\"}} {entries}");
        let text = shown(&|| ours::copy_follows(3));
        assert!(has(&text, "zombi_copy_stopped{shard=\"003\"} 0"), "{text}");
        let text = shown(&|| ours::log_held(3, 70, 0));
        assert!(has(&text, &lag("0")), "{text}");
        let text = shown(&|| ours::log_out_of_step(3));
        assert!(has(&text, &lag("inf")), "{text}");
        assert!(has(&text, "zombi_copy_stopped{shard=\"003\"} 0"), "it will be in step: {text}");
        let text = shown(&|| ours::log_held(3, 70, 2));
        assert!(has(&text, &lag("2")), "{text}");
        let text = shown(&|| ours::copy_stopped(3));
        assert!(has(&text, &lag("inf")), "{text}");
        assert!(has(&text, "zombi_copy_stopped{shard=\"003\"} 1"), "{text}");
    }
}
