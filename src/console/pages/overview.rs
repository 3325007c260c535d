//! The overview: whether Zombi is ready, what it takes, and whether everything is safe in S3. In a cluster
//! the numbers are those of all pods, but for what `/metrics` alone has.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde::Serialize;

use super::{
    super::{
        api::{ApiMetrics, ApiProbe, ApiSettings, ApiStats, ApiTables},
        base::{Console, PATH},
        browsers::of_console,
        view::{
            NavItem, no_right,
            text::{bytes, count, counted, length, micros, time, whole},
            tile,
        },
        visit::{Refused, Shown, Visit, see},
    },
    verdict::{Verdict, verdict},
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
    /// What RocksDB may hold of events: the setting `hot.max_bytes`, of all pods.
    hot_most: u64,
    is_cluster: bool,
    now_secs: f64,
}

/// What of the page is live by the numbers alone.
#[derive(Serialize)]
struct LiveNumbers {
    verdict: Verdict,
    stats: ApiStats,
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    // A list without a pod is none; what the others say is of interest then more than ever.
    let tables = match visit.get::<ApiTables>(&format!("/tables?limit={TABLES}")).await {
        Err(refused) if refused.status != StatusCode::SERVICE_UNAVAILABLE => return Err(refused),
        tables => tables,
    };
    let probe: ApiProbe = visit.get("/readyz?verbose").await?;
    let numbers = match all_numbers(visit).await {
        Ok(numbers) => Some(numbers),
        Err(refused) if refused.is_no_right() => None,
        Err(refused) => return Err(refused),
    };
    let body = html! {
        h1.sr { "Overview" }
        (show_verdict(&verdict(&probe, numbers.as_ref().map(|numbers| &numbers.stats))))
        @match &numbers {
            Some(numbers) => (board(numbers)),
            None => (no_right("The numbers of the whole server", "operate")),
        }
        (list(visit, tables.as_ref()))
    };
    Ok(Shown { title: "Overview".to_owned(), body })
}

async fn all_numbers(visit: &mut Visit<'_>) -> Result<Numbers, Refused> {
    let stats = visit.get("/stats").await?;
    let metrics = visit.metrics().await?;
    let settings: ApiSettings = visit.get("/settings").await?;
    let setting = |key: &str| settings.value(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (pods, hot_max) = (setting("cluster.pods"), setting("hot.max_bytes"));
    // Each event is in as many copies, and counted once.
    let hot_most =
        if pods == 0 { hot_max } else { hot_max.saturating_mul(pods) / setting("cluster.copies").max(1) };
    let now_secs = visit.console.state.clock.now_ms() as f64 / 1000.0;
    Ok(Numbers { stats, metrics, hot_most, is_cluster: pods > 0, now_secs })
}

/// `GET /console/numbers`: the verdict and the numbers of the whole server, for which the script of the
/// overview asks every two seconds.
pub(in crate::console) async fn numbers(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    match live_numbers(&mut visit).await {
        Ok(numbers) => of_console(Json(numbers).into_response()),
        Err(refused) => visit.answer(NavItem::Overview, Err(refused)),
    }
}

async fn live_numbers(visit: &mut Visit<'_>) -> Result<LiveNumbers, Refused> {
    // What may have to wait for other pods comes first: it holds no place that pages need.
    let stats: ApiStats = visit.more("/stats").await?;
    let probe: ApiProbe = visit.more("/readyz?verbose").await?;
    Ok(LiveNumbers { verdict: verdict(&probe, Some(&stats)), stats })
}

fn show_verdict(Verdict { kind, first, more }: &Verdict) -> Markup {
    html! {
        div.verdict data-verdict=(kind) {
            span.dot aria-hidden="true" {}
            p { strong data-live="verdict" { (first) } " " span data-live="verdict-more" { (more) } }
        }
    }
}

fn board(numbers: &Numbers) -> Markup {
    let Numbers { stats, metrics, hot_most, is_cluster, now_secs } = numbers;
    let of_pod = if *is_cluster { ", of this pod" } else { "" };
    let hot = stats.totals.hot_bytes;
    let flushed_at = metrics.sum("zombi_flush_last_success_timestamp_seconds", "").unwrap_or(0.0);
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
                figcaption {
                    "Append p99, over the last minute" (of_pod) " " b data-live="p99-minute" { "…" }
                }
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
                span data-live="age" { (length(stats.flush.oldest_unflushed_secs)) }
            }))
            (tile("Last flush", "flushed", &ago, &html! {
                span data-flushed { @if flushed_at > 0.0 { (time((flushed_at * 1000.0) as i64)) } } (of_pod)
            }))
            (tile("S3 errors", "s3-errors", &count(whole(s3_errors)), &html! { "since the start" (of_pod) }))
            (tile("Lost offsets", "lost", &count(stats.totals.lost_offsets), &html! { "with a volume" }))
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

fn list(visit: &Visit<'_>, tables: Result<&ApiTables, &Refused>) -> Markup {
    html! {
        section data-tables {
            h2 { "Tables" }
            @match tables {
                Err(refused) => { p.notice { (refused.problem.detail) } },
                Ok(tables) if tables.tables.is_empty() => { (super::tables::none(visit)) },
                Ok(tables) => {
                    (super::tables::list(&tables.tables))
                    @if tables.next.is_some() { p { a href=(format!("{PATH}/tables")) { "All tables" } } }
                },
            }
        }
    }
}
