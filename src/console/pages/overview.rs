//! The overview: whether Zombi is ready, what it takes, and whether everything is safe in S3.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use super::super::{
    Console, PATH,
    api::{ApiMetrics, ApiProbe, ApiSettings, ApiStats, ApiTables},
    view::{
        NavItem, no_right,
        text::{bytes, count, counted, length, micros, time, whole},
        tile,
    },
    visit::{Refused, Shown, Visit, see},
};
use crate::http::pages::Visitor;

/// Tables that the overview lists.
const TABLES: usize = 12;

/// `GET /`: the overview, or the way to where a session counts.
pub(in crate::console) async fn root(state: State<Arc<Console>>, visitor: Visitor) -> Response {
    if state.console_is_open() { overview(state, visitor).await } else { see(PATH) }
}

/// `GET /console`.
pub(in crate::console) async fn overview(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Overview, shown)
}

impl Console {
    fn console_is_open(&self) -> bool {
        self.state.ops.gate.is_none()
    }
}

/// The numbers of the whole server, which only its operators see.
struct Numbers {
    stats: ApiStats,
    metrics: ApiMetrics,
    /// The setting `hot.max_bytes`.
    hot_most: u64,
    now_secs: f64,
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let tables: ApiTables = visit.get(&format!("/tables?limit={TABLES}")).await?;
    let probe: ApiProbe = visit.get("/readyz?verbose").await?;
    let numbers = match numbers(visit).await {
        Ok(numbers) => Some(numbers),
        Err(refused) if refused.is_no_right() => None,
        Err(refused) => return Err(refused),
    };
    let body = html! {
        h1.sr { "Overview" }
        (verdict(&probe, numbers.as_ref()))
        @match &numbers {
            Some(numbers) => (board(numbers)),
            None => (no_right("The numbers of the whole server", "operate")),
        }
        (list(visit, &tables))
    };
    Ok(Shown { title: "Overview".to_owned(), body })
}

async fn numbers(visit: &mut Visit<'_>) -> Result<Numbers, Refused> {
    let stats = visit.get("/stats").await?;
    let metrics = visit.metrics().await?;
    let settings: ApiSettings = visit.get("/settings").await?;
    let hot_most = settings.value("hot.max_bytes").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let now_secs = visit.console.state.clock.now_ms() as f64 / 1000.0;
    Ok(Numbers { stats, metrics, hot_most, now_secs })
}

/// The first thing to know: is it ready, and is everything safe?
fn verdict(probe: &ApiProbe, numbers: Option<&Numbers>) -> Markup {
    let failing = probe.checks.iter().find(|check| check.status != "ok" && check.name != "bucket");
    let trouble = probe.checks.iter().find(|check| check.status != "ok" && check.name == "bucket");
    let (class, first, more) = match (failing, trouble, numbers) {
        (Some(check), ..) => ("bad", "Not ready".to_owned(), format!("{}: {}", check.name, check.detail)),
        (None, Some(check), _) => (
            "warn",
            "Ready, but S3 cannot be used".to_owned(),
            format!("{}. Events are on the volume only until it can.", check.detail),
        ),
        (None, None, Some(numbers)) => safety(numbers),
        (None, None, None) => ("good", "Ready".to_owned(), "Requests are served.".to_owned()),
    };
    html! {
        div.verdict data-verdict=(class) {
            span.dot aria-hidden="true" {}
            p { strong data-live="verdict" { (first) } " " span data-live="verdict-more" { (more) } }
        }
    }
}

fn safety(numbers: &Numbers) -> (&'static str, String, String) {
    let Numbers { stats, metrics, .. } = numbers;
    let (waiting, size) = (stats.totals.unflushed_events, stats.totals.unflushed_bytes);
    if metrics.sum("zombi_cold_enabled", "") == Some(0.0) {
        let more = "No bucket is configured: every event is on this volume only.".to_owned();
        return ("warn", "Ready, without S3".to_owned(), more);
    }
    let lost = whole(metrics.sum("zombi_lost_offsets", "").unwrap_or(0.0));
    if lost > 0 {
        let more = format!("{} with a volume: the tables say which.", counted(lost, "offset"));
        return ("warn", "Ready, but events were lost".to_owned(), more);
    }
    if waiting == 0 {
        return ("good", "Everything is in S3".to_owned(), "Nothing waits on the volume alone.".to_owned());
    }
    let age = metrics.sum("zombi_unflushed_age_seconds", "").unwrap_or(0.0);
    let more = format!("{}, {}; the oldest for {}.", counted(waiting, "event"), bytes(size), length(age));
    ("good", "On its way to S3".to_owned(), more)
}

fn board(numbers: &Numbers) -> Markup {
    let Numbers { stats, metrics, hot_most, now_secs } = numbers;
    let metric = |name: &str| metrics.sum(name, "").unwrap_or(0.0);
    let hot = whole(metric("zombi_hot_bytes"));
    let flushed_at = metric("zombi_flush_last_success_timestamp_seconds");
    let s3_errors = metrics.sum("zombi_s3_requests_total", "outcome=\"error\"").unwrap_or(0.0);
    let totals = &stats.totals;
    let ago = match flushed_at {
        0.0 => "none yet".to_owned(),
        at => format!("{} ago", length(now_secs - at)),
    };
    html! {
        section.charts.needs-script hidden aria-label="Live graphs" {
            figure {
                figcaption { "Appended events a second " b data-live="rate" { } }
                div.chart data-chart="rate" role="img"
                    aria-label="Appended events a second, over the last minutes" {}
            }
            figure {
                figcaption { "Append p99, over the last minute " b data-live="p99-minute" { "…" } }
                div.chart data-chart="p99" role="img"
                    aria-label="99th percentile of the time of a write, over the last minutes" {}
            }
        }
        dl.tiles data-poll {
            (tile("Appended", "appended", &count(stats.writes.total), &html! {
                "events, " span data-live="rate" { (count(whole(stats.writes.rate_per_sec))) } "/s"
            }))
            (tile("Append p99", "p99", &micros(stats.writes.p99_latency_us), &html! { "since the start" }))
            (tile("On the volume", "hot", &bytes(hot), &html! {
                "of " (bytes(*hot_most)) " "
                meter data-meter min="0" max=(hot_most) value=(hot)
                    aria-label="Used of what RocksDB may hold" {}
            }))
            (tile("Not in S3 yet", "unflushed", &count(totals.unflushed_events), &html! {
                "events, " span data-live="unflushed-bytes" { (bytes(totals.unflushed_bytes)) }
                ", the oldest for "
                span data-live="age" { (length(metric("zombi_unflushed_age_seconds"))) }
            }))
            (tile("Last flush", "flushed", &ago, &html! {
                span data-flushed { @if flushed_at > 0.0 { (time((flushed_at * 1000.0) as i64)) } }
            }))
            (tile("S3 errors", "s3-errors", &count(whole(s3_errors)), &html! { "since the start" }))
            (tile("Lost offsets", "lost", &count(whole(metric("zombi_lost_offsets"))), &html! {
                "with a volume"
            }))
            (tile("Refused or failed", "errors", &count(stats.errors_total), &html! {
                "requests in " span data-live="uptime" { (length(stats.uptime_secs as f64)) }
            }))
        }
        p.muted.totals data-live="totals" {
            (counted(totals.tables, "table")) ", " (counted(totals.partitions, "partition")) ", "
            (bytes(totals.hot_bytes)) " of events on the volume"
        }
    }
}

fn list(visit: &Visit<'_>, tables: &ApiTables) -> Markup {
    html! {
        section data-tables {
            h2 { "Tables" }
            @if tables.tables.is_empty() {
                (super::tables::none(visit))
            } @else {
                (super::tables::list(&tables.tables))
                @if tables.next.is_some() { p { a href=(format!("{PATH}/tables")) { "All tables" } } }
            }
        }
    }
}
