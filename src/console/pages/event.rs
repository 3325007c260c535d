//! One event, whole.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::html;

use super::{
    super::{
        api::ApiPage,
        base::{Console, PATH},
        view::{
            NavItem, empty,
            payload::{kind, whole},
            text::{address, count, path_name, preview, time},
        },
        visit::{Refused, Shown, Visit},
    },
    events::attributes,
};
use crate::http::pages::Visitor;

/// `GET /console/event`.
pub(in crate::console) async fn event(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Events, shown)
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let visitor = visit.visitor;
    let table = visitor.asks("table").unwrap_or_default();
    let (partition, offset) = (visitor.asks("partition"), visitor.asks("offset"));
    let query =
        [("partition", partition.or(Some("0"))), ("offset", offset.or(Some("0"))), ("limit", Some("1"))];
    let path = address(&format!("/tables/{}", path_name(table)), query);
    let page: ApiPage = visit.get(&path).await?;
    let events = |offset: Option<u64>| {
        let offset = offset.map(|offset| offset.to_string());
        let query = [("table", Some(table)), ("partition", partition), ("offset", offset.as_deref())];
        address(&format!("{PATH}/events"), query)
    };
    let body = html! {
        @if let Some(record) = page.records.first() {
            h1.long {
                a href=(format!("{PATH}/tables/{}", path_name(table))) { (table) }
                " " span.place { (record.partition) ":" (count(record.offset)) }
            }
            p { (time(record.timestamp_ms)) span.muted { " · " (kind(record)) } }
            section { h2 { "Payload" } (whole(record)) }
            section {
                h2 { "Attributes" }
                @if record.key.is_none() && record.idempotency_key.is_none() && record.headers.is_empty() {
                    p.muted { "It has neither a key nor headers." }
                }
                (attributes(record))
            }
            nav.pages aria-label="Beside it" {
                a href=(events(Some(record.offset.saturating_sub(10)))) { "Events around it" }
                a href=(events(Some(record.offset))) { "Events from here on" }
            }
        } @else {
            h1.long { (table) }
            (empty("There is no event at this offset yet.", &html! {
                p { a href=(events(None)) { "Events" } }
            }))
        }
    };
    Ok(Shown { title: format!("Event of {}", preview(table, 40)), body })
}
