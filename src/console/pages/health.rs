//! Health: the checks, the bucket, the build, and the settings with where each comes from.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};
use serde_json::Value;

use super::super::{
    api::{ApiMetrics, ApiProbe, ApiSettings},
    base::{Console, PATH},
    view::{
        NavItem, empty, no_right, scrolling,
        text::{address, count, time, whole},
    },
    visit::{Refused, Shown, Visit},
};
use crate::{http::pages::Visitor, revision::VERSION};

/// `GET /console/health`.
pub(in crate::console) async fn health(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Health, shown)
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let probe: ApiProbe = visit.get("/readyz?verbose").await?;
    let live: ApiProbe = visit.get("/livez").await?;
    let numbers = match numbers(visit).await {
        Ok(numbers) => Some(numbers),
        Err(refused) if refused.is_no_right() => None,
        Err(refused) => return Err(refused),
    };
    let visitor = visit.visitor;
    let body = html! {
        h1 { "Health" }
        section { h2 { "Checks" } (checks(&[("readyz", &probe), ("livez", &live)])) }
        @if visit.console.state.shards.is_some() {
            p { a href=(format!("{PATH}/shards")) { "Shards and pods" } }
        }
        @match &numbers {
            Some((settings, metrics)) => {
                section { h2 { "S3 and manifests" } (bucket(metrics)) }
                section { h2 { "Build" } p { "Zombi " (VERSION) } }
                section { h2 { "Settings" } (in_force(settings, visitor)) }
            },
            None => { (no_right("Settings, build and the numbers of S3", "operate")) }
        }
    };
    Ok(Shown { title: "Health".to_owned(), body })
}

async fn numbers(visit: &mut Visit<'_>) -> Result<(ApiSettings, ApiMetrics), Refused> {
    let settings = visit.get("/settings").await?;
    Ok((settings, visit.metrics().await?))
}

fn checks(probes: &[(&str, &ApiProbe)]) -> Markup {
    let rows = html! {
        table.grid.narrow {
            thead {
                tr { @for head in ["Probe", "Check", "State", "Detail"] { th scope="col" { (head) } } }
            }
            tbody {
                @for (name, probe) in probes {
                    @for check in &probe.checks {
                        tr {
                            td { (name) @if probe.status != "ok" { span.bad { " fails" } } }
                            th scope="row" { (check.name) }
                            td { (state(&check.status)) }
                            td { (check.detail) }
                        }
                    }
                }
            }
        }
    };
    scrolling("Checks", &rows)
}

fn state(status: &str) -> Markup {
    html! { @if status == "ok" { span.good { "ok" } } @else { span.bad { (status) } } }
}

fn bucket(metrics: &ApiMetrics) -> Markup {
    let number = |name: &str, label: &str| metrics.sum(name, label).unwrap_or(0.0);
    if number("zombi_cold_enabled", "") == 0.0 {
        return empty("No bucket is configured.", &html! { p { "Set " code { "s3.bucket" } "." } });
    }
    let moment = |name: &str| match number(name, "") {
        0.0 => html! { "not yet" },
        secs => time((secs * 1000.0) as i64),
    };
    let counted = |name: &str, label: &str| count(whole(number(name, label)));
    html! {
        dl.facts {
            dt { "Last flush" } dd { (moment("zombi_flush_last_success_timestamp_seconds")) }
            dt { "Last manifest" } dd {
                (last_manifests(metrics))
            }
            dt { "Last answer of S3" } dd { (moment("zombi_s3_last_contact_timestamp_seconds")) }
            dt { "Segments published" } dd { (counted("zombi_flush_segments_total", "")) }
            dt { "Flush rounds that failed" } dd { (counted("zombi_flush_failures_total", "")) }
            dt { "Requests to S3" } dd { (counted("zombi_s3_requests_total", "")) }
            dt { "of which failed" } dd { (counted("zombi_s3_requests_total", "outcome=\"error\"")) }
            dt { "Left for upkeep" } dd { (counted("zombi_upkeep_due", "")) }
        }
        p.muted {
            "The chain of manifests itself: " code { "zombi manifest show" } ", and " code { "zombi verify" }
            " audits the bucket."
        }
    }
}

/// The number of the last manifest, or those of this pod's shards.
fn last_manifests(metrics: &ApiMetrics) -> Markup {
    let numbers = metrics.by_label("zombi_manifest_number");
    html! {
        @if numbers.is_empty() { "none yet" }
        @for (place, (shard, number)) in numbers.iter().enumerate() {
            @if place > 0 { ", " }
            "number " (count(whole(*number)))
            @if !shard.is_empty() { " of shard " (shard) }
        }
    }
}

fn in_force(settings: &ApiSettings, visitor: &Visitor) -> Markup {
    let (all, name) = (visitor.asks("all").is_some(), visitor.asks("name"));
    let wanted = name.unwrap_or_default();
    let shown: Vec<_> = settings
        .settings
        .iter()
        .filter(|setting| all || !wanted.is_empty() || setting.source != "default")
        .filter(|setting| setting.key.contains(wanted))
        .collect();
    let rows = html! {
        table.grid {
            thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "From" } } }
            tbody {
                @for setting in &shown {
                    tr {
                        th scope="row" { code { (name_of(&setting.key)) } }
                        td.long { code { (value(&setting.value)) } }
                        td.muted[setting.source == "default"] { (setting.source) }
                    }
                }
            }
        }
    };
    let path = format!("{PATH}/health");
    html! {
        form.search method="get" role="search" {
            label.sr for="name" { "Part of a setting's name" }
            input #name type="search" name="name" value=[name] placeholder="Part of a name" data-search;
            button type="submit" { "Find" }
        }
        @if shown.is_empty() {
            (empty("No setting differs from its default, or none has this in its name.", &html! {}))
        } @else {
            (scrolling("Settings", &rows))
        }
        p {
            @if all || !wanted.is_empty() { a href=(path) { "Only those that are not the defaults" } }
            @else { a href=(address(&path, [("all", Some("1"))])) { "All settings" } }
        }
    }
}

/// The name of a setting, which a narrow screen breaks between its parts.
fn name_of(key: &str) -> Markup {
    html! {
        @for (place, part) in key.split('.').enumerate() { @if place > 0 { "." wbr; } (part) }
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
