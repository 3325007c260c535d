//! A table: its partitions, its settings and its segments.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use super::super::{
    api::{ApiConfig, ApiPartition, ApiSegments, ApiTable},
    base::{Console, PATH},
    view::{
        NavItem, empty, partition_bars, scrolling,
        text::{address, bytes, count, counted, length, path_name, time},
    },
    visit::{Refused, Shown, Visit},
};
use crate::http::pages::Visitor;

/// Segments of a page, unless the settings say that they are too many.
const SEGMENTS: usize = 50;
/// Ranges of lost offsets that are shown.
const RANGES: usize = 200;

/// `GET /console/tables/{table}`.
pub(in crate::console) async fn table(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Tables, shown)
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let name = visit.visitor.named();
    let part = path_name(name);
    let table: ApiTable = visit.get(&format!("/tables/{part}/partitions")).await?;
    let after = visit.visitor.asks("after");
    let limit = SEGMENTS.min(visit.console.state.limits.page_records).to_string();
    let path =
        address(&format!("/tables/{part}/segments"), [("limit", Some(limit.as_str())), ("after", after)]);
    let listed: ApiSegments = visit.get(&path).await?;
    let events = address(&format!("{PATH}/events"), [("table", Some(name))]);
    let live = address(&format!("{PATH}/events"), [("table", Some(name)), ("live", Some("1"))]);
    let total: u64 = table.partitions.iter().map(|one| one.next.saturating_sub(one.earliest)).sum();
    let lost: u64 = table
        .partitions
        .iter()
        .flat_map(|one| &one.lost)
        .map(|range| range.end.saturating_sub(range.start))
        .sum();
    let body = html! {
        div.head {
            h1.long title=(name) { (name) }
            p.actions { a.button href=(events) { "Events" } " " a.button href=(live) { "Watch live" } }
        }
        p.muted {
            (counted(total, "event")) ", " (bytes(table.hot_bytes)) " on the volume, "
            (bytes(table.cold_bytes)) " in S3"
            @if lost > 0 { ", " (counted(lost, "offset")) " lost with a volume" }
        }
        section {
            h2 { "Partitions" }
            @if table.partitions.is_empty() {
                (empty("It has no event yet.", &html! {}))
            } @else {
                (partition_bars(&table))
            }
        }
        @if lost > 0 { section { h2 { "Lost with a volume" } (lost_ranges(&table.partitions)) } }
        section { h2 { "Settings" } (settings(&table.config)) }
        section { h2 { "Segments" } (segments(&listed, &part)) }
    };
    Ok(Shown { title: name.to_owned(), body })
}

fn lost_ranges(partitions: &[ApiPartition]) -> Markup {
    let all = partitions.iter().flat_map(|one| one.lost.iter().map(move |range| (one.partition, range)));
    let number = all.clone().count();
    let rows = html! {
        table.grid.narrow {
            thead {
                tr { @for head in ["Partition", "Offsets", "How many"] { th.n scope="col" { (head) } } }
            }
            tbody {
                @for (partition, range) in all.take(RANGES) {
                    tr {
                        td.n { (partition) }
                        td.n { (count(range.start)) " – " (count(range.end.saturating_sub(1))) }
                        td.n { (count(range.end.saturating_sub(range.start))) }
                    }
                }
            }
        }
    };
    html! {
        (scrolling("Lost offsets", &rows))
        @if number > RANGES { p.muted { "and " (count((number - RANGES) as u64)) " more" } }
    }
}

fn settings(config: &ApiConfig) -> Markup {
    let age = config.retention_secs.map_or("for ever".to_owned(), |secs| length(secs as f64));
    let size = config.retention_bytes.map_or("all".to_owned(), bytes);
    let rows = [
        ("retention_secs", "An event is kept", age),
        ("retention_bytes", "Bytes that are kept", size),
        ("partitions", "Keys are spread over", counted(config.partitions.into(), "partition")),
    ];
    let table = html! {
        table.grid.narrow {
            thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "From" } } }
            tbody {
                @for (key, meaning, value) in rows {
                    tr {
                        th scope="row" { (meaning) " " code.muted { (key) } }
                        td { (value) }
                        td { (from(config, key)) }
                    }
                }
            }
        }
    };
    scrolling("Settings", &table)
}

/// Whose setting it is.
fn from(config: &ApiConfig, key: &str) -> &'static str {
    if config.own.iter().any(|own| own == key) { "this table" } else { "default" }
}

fn segments(listed: &ApiSegments, part: &str) -> Markup {
    if listed.segments.is_empty() {
        return empty("No event of this table is in S3 yet.", &html! {});
    }
    let rows = html! {
        table.grid {
            thead {
                tr {
                    th.n scope="col" { "Partition" }
                    th.n scope="col" { "Offsets" }
                    th.n scope="col" { "Events" }
                    th.n scope="col" { "Size" }
                    th scope="col" { "From" }
                    th scope="col" { "To" }
                    th scope="col" { "Object" }
                }
            }
            tbody {
                @for one in &listed.segments {
                    tr {
                        td.n { (one.partition) }
                        td.n { (count(one.start)) " – " (count(one.end.saturating_sub(1))) }
                        td.n { (count(one.events)) }
                        td.n { (bytes(one.bytes)) }
                        td { (time(one.min_timestamp_ms)) }
                        td { (time(one.max_timestamp_ms)) }
                        td.object { code title=(one.url) { (one.url) } }
                    }
                }
            }
        }
    };
    html! {
        (scrolling("Segments", &rows))
        @if let Some(next) = &listed.next {
            nav.pages aria-label="Pages of segments" {
                @let query = [("after", Some(next.as_str()))];
                a href=(address(&format!("{PATH}/tables/{part}"), query)) rel="next" { "More segments" }
            }
        }
    }
}
