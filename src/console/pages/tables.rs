//! The list of tables.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use super::super::{
    api::{ApiTable, ApiTables},
    base::{Console, PATH},
    view::{
        NavItem, copied, empty, scrolling,
        text::{address, bytes, count, path_name},
    },
    visit::{Refused, Shown, Visit},
};
use crate::http::pages::Visitor;

/// Tables of a page.
const LIMIT: &str = "500";
/// Tables that a search shows, and pages that it looks through for them.
const FOUND: usize = 500;
const SEARCHED: usize = 40;

/// `GET /console/tables`.
pub(in crate::console) async fn tables(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Tables, shown)
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let (after, wanted) = (visit.visitor.asks("after"), visit.visitor.asks("name"));
    let path = address("/tables", [("limit", Some(LIMIT)), ("after", after)]);
    let ApiTables { mut tables, mut next } = visit.get(&path).await?;
    let are_there = !tables.is_empty();
    if let Some(wanted) = wanted {
        tables.retain(|table| table.table.contains(wanted));
        // A name that is looked for may stand on any page.
        for _ in 1..SEARCHED {
            let Some(after) = next.take_if(|_| tables.len() < FOUND) else { break };
            let path = address("/tables", [("limit", Some(LIMIT)), ("after", Some(after.as_str()))]);
            let page: ApiTables = visit.more(&path).await?;
            tables.extend(page.tables.into_iter().filter(|table| table.table.contains(wanted)));
            next = page.next;
        }
    }
    let on = next
        .as_deref()
        .map(|next| address(&format!("{PATH}/tables"), [("after", Some(next)), ("name", wanted)]));
    let body = html! {
        div.head {
            h1 { "Tables" }
            form.search method="get" role="search" {
                label.sr for="name" { "Part of a table's name" }
                input #name type="search" name="name" value=[wanted] placeholder="Part of a name" data-search;
                button type="submit" { "Find" }
            }
        }
        @if !tables.is_empty() {
            (list(&tables))
        } @else if are_there {
            (empty("No table here has this in its name.", &html! {
                p { a href=(format!("{PATH}/tables")) { "All tables" } }
            }))
        } @else {
            (none(visit))
        }
        @if let Some(on) = on { nav.pages aria-label="Pages" { a href=(on) rel="next" { "More tables" } } }
    };
    Ok(Shown { title: "Tables".to_owned(), body })
}

/// What is said where there are none.
pub(super) fn none(visit: &Visit<'_>) -> Markup {
    let command = visit.command("/tables/events", Some(r#"{"payload": {"hello": "world"}}"#));
    empty(
        "There is no table yet, or none that you may read. The first event makes one:",
        &copied(&command, "command"),
    )
}

/// Tables in rows.
pub(super) fn list(tables: &[ApiTable]) -> Markup {
    let rows = html! {
        table.grid {
            thead {
                tr {
                    th scope="col" { "Table" }
                    th.n scope="col" { "Events" }
                    th.n.wide scope="col" { "Partitions" }
                    th.n scope="col" { "Not in S3" }
                    th.n.wide scope="col" { "On the volume" }
                    th.n.wide scope="col" { "In S3" }
                    th scope="col" { span.sr { "Look at" } }
                }
            }
            tbody {
                @for table in tables { (row(table)) }
            }
        }
    };
    scrolling("Tables", &rows)
}

fn row(table: &ApiTable) -> Markup {
    let events: u64 = table.partitions.iter().map(|one| one.next.saturating_sub(one.earliest)).sum();
    let waiting: u64 = table.partitions.iter().map(|one| one.next.saturating_sub(one.flushed)).sum();
    let name = table.table.as_str();
    html! {
        tr {
            th.long scope="row" {
                a href=(format!("{PATH}/tables/{}", path_name(name))) title=(name) { (name) }
            }
            td.n { (count(events)) }
            td.n.wide { (table.partitions.len()) }
            td.n { (count(waiting)) }
            td.n.wide { (bytes(table.hot_bytes)) }
            td.n.wide { (bytes(table.cold_bytes)) }
            td.links {
                a href=(address(&format!("{PATH}/events"), [("table", Some(name))]))
                    aria-label=(format!("Events of {name}")) { "Events" }
            }
        }
    }
}
