//! Consumer groups: which is behind, and in which partitions.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use super::super::{
    api::{ApiGroup, ApiGroups, ApiOffset},
    base::{Console, PATH},
    view::{
        NavItem, empty, scrolling,
        text::{address, count, counted, path_name},
    },
    visit::{Refused, Shown, Visit},
};
use crate::http::pages::Visitor;

/// Groups that are asked for, one by one, to find those that are behind the most.
const ASKED: usize = 500;
/// Those of them that a page shows at first.
const GROUPS: usize = 50;
const NONE: &str = "There is no consumer group yet, or none that you may see. The first commit makes one.";
/// Partitions of a table that are shown.
const PARTITIONS: usize = 2000;

/// `GET /console/consumers`.
pub(in crate::console) async fn groups(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show_groups(&mut visit).await;
    visit.answer(NavItem::Consumers, shown)
}

/// `GET /console/consumers/{group}`.
pub(in crate::console) async fn group(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show_group(&mut visit).await;
    visit.answer(NavItem::Consumers, shown)
}

async fn show_groups(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let visitor = visit.visitor;
    let (after, wanted) =
        (visitor.asks("after").unwrap_or_default(), visitor.asks("name").unwrap_or_default());
    let ApiGroups { groups } = visit.get("/consumers").await?;
    let are_there = !groups.is_empty();
    let mut names =
        groups.into_iter().filter(|name| name.as_str() > after && name.contains(wanted)).peekable();
    let mut listed = Vec::new();
    while let Some(name) = names.next_if(|_| listed.len() < ASKED) {
        match visit.more::<ApiGroup>(&path_to(&name)).await {
            Ok(group) => listed.push(group),
            // It may have been deleted meanwhile.
            Err(refused) if refused.status == axum::http::StatusCode::NOT_FOUND => {}
            Err(refused) => return Err(refused),
        }
    }
    let last = listed.last().map(|group| group.group.clone()).filter(|_| names.peek().is_some());
    listed.sort_by(|one, other| other.lag.cmp(&one.lag).then_with(|| one.group.cmp(&other.group)));
    let others = listed.len().saturating_sub(GROUPS);
    let are_cut = others > 0 && visitor.asks("all").is_none();
    if are_cut {
        listed.truncate(GROUPS);
    }
    listed.iter().take(GROUPS).for_each(|group| visit.note(&path_to(&group.group)));
    let body = html! {
        div.head {
            h1 { "Consumers" }
            form.search method="get" role="search" {
                label.sr for="name" { "Part of a group's name" }
                input #name type="search" name="name" value=(wanted) placeholder="Part of a name" data-search;
                button type="submit" { "Find" }
            }
        }
        @if !listed.is_empty() {
            (list(&listed))
        } @else if are_there {
            (empty("No group here has this in its name.", &html! {
                p { a href=(format!("{PATH}/consumers")) { "All groups" } }
            }))
        } @else {
            (empty(NONE, &html! {}))
        }
        @if are_cut || last.is_some() { nav.pages aria-label="Pages" {
            @if are_cut {
                @let (after, name) = (visitor.asks("after"), visitor.asks("name"));
                @let query = [("after", after), ("name", name), ("all", Some("1"))];
                a href=(address(&format!("{PATH}/consumers"), query)) {
                    (counted(others as u64, "group")) " that are behind less"
                }
            }
            @if let Some(last) = last {
                @let query = [("after", Some(last.as_str())), ("name", visitor.asks("name"))];
                a rel="next" href=(address(&format!("{PATH}/consumers"), query)) { "More groups, by name" }
            }
        } }
    };
    Ok(Shown { title: "Consumers".to_owned(), body })
}

fn list(groups: &[ApiGroup]) -> Markup {
    let rows = html! {
        table.grid {
            thead {
                tr {
                    th scope="col" { "Group" }
                    th.n scope="col" { "Behind" }
                    th scope="col" { "Tables" }
                }
            }
            tbody {
                @for group in groups {
                    tr {
                        th.long scope="row" {
                            a href=(page_of(&group.group)) title=(group.group) { (group.group) }
                        }
                        td.n { (behind(group.lag)) }
                        td {
                            @for (place, table) in group.tables.iter().enumerate() {
                                @if place > 0 { ", " }
                                a href=(page_of_table(&table.table)) { (table.table) }
                                @if table.lag > 0 { span.muted { " " (count(table.lag)) } }
                            }
                        }
                    }
                }
            }
        }
    };
    scrolling("Consumer groups, those that are behind the most first", &rows)
}

/// Where the API has a group.
fn path_to(group: &str) -> String {
    format!("/consumers/{}", path_name(group))
}

fn page_of(group: &str) -> String {
    format!("{PATH}/consumers/{}", path_name(group))
}

fn page_of_table(table: &str) -> String {
    format!("{PATH}/tables/{}", path_name(table))
}

fn behind(lag: u64) -> Markup {
    html! { @if lag == 0 { span.good { "up to date" } } @else { strong { (count(lag)) } } }
}

async fn show_group(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let visitor = visit.visitor;
    let part = path_name(visitor.named());
    let group: ApiGroup = visit.get(&path_to(visitor.named())).await?;
    let mut by_table: BTreeMap<&str, Vec<&ApiOffset>> = BTreeMap::new();
    for offset in &group.offsets {
        by_table.entry(&offset.table).or_default().push(offset);
    }
    let body = html! {
        h1.long title=(group.group) { (group.group) }
        @if let Some(moved) = visitor.asks("moved") {
            p.notice.good role="status" { "Moved in " (moved) "." }
        }
        p.muted { (counted(group.lag, "event")) " left to read, of all tables that it reads" }
        @for table in &group.tables {
            section {
                h2.long title=(table.table) { a href=(page_of_table(&table.table)) { (table.table) } }
                p { "Behind: " (behind(table.lag)) }
                (offsets(by_table.get(table.table.as_str()).map(Vec::as_slice).unwrap_or_default()))
                (reset_form(&part, &table.table))
            }
        }
    };
    Ok(Shown { title: group.group.clone(), body })
}

fn offsets(offsets: &[&ApiOffset]) -> Markup {
    let rows = html! {
        table.grid.narrow {
            thead {
                tr {
                    th.n scope="col" { "Partition" }
                    th.n scope="col" { "Next to read" }
                    th.n scope="col" { "Behind" }
                }
            }
            tbody {
                @for one in offsets.iter().take(PARTITIONS) {
                    tr {
                        th.n scope="row" { (one.partition) }
                        td.n {
                            @if let Some(offset) = one.offset { (count(offset)) }
                            @else { span.muted { "never committed" } }
                        }
                        td.n { (behind(one.lag)) }
                    }
                }
            }
        }
    };
    html! {
        (scrolling("Offsets", &rows))
        @if offsets.len() > PARTITIONS {
            p.muted { "and " (count((offsets.len() - PARTITIONS) as u64)) " more" }
        }
    }
}

/// Where to move the group in a table: first it is only shown what that would do.
fn reset_form(part: &str, table: &str) -> Markup {
    let id = |name: &str| format!("{name}-{table}");
    html! {
        form.reset method="get" action=(format!("{PATH}/consumers/{part}/reset")) {
            input type="hidden" name="table" value=(table);
            div.field {
                label for=(id("to")) { "Move to" }
                select id=(id("to")) name="to" {
                    option value="earliest" { "the first event there" }
                    option value="latest" { "the end" }
                    option value="time" { "a time" }
                    option value="offset" { "an offset" }
                }
            }
            // Which of these count follows from the choice: the style sheet hides the others.
            div.field.of-value {
                label for=(id("value")) { "Time or offset" }
                input id=(id("value")) name="value" placeholder="-1h, 2026-01-31 12:00" autocomplete="off";
            }
            div.field.of-offset {
                label for=(id("partition")) { "Partition" }
                input id=(id("partition")) name="partition" inputmode="numeric" autocomplete="off"
                    placeholder="for an offset";
            }
            div.field.buttons { button type="submit" { "Preview" } }
        }
    }
}
