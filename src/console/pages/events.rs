//! Events of a table: by partition and offset, by time, newest first, filtered by key, type and header; live
//! where a script runs. The address has all of it.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;
use maud::{Markup, html};

use super::super::{
    api::{ApiPage, ApiRecord, ApiTables},
    base::{Console, PATH},
    view::{
        NavItem, copy_button, empty,
        payload::{kind, line, whole},
        text::{address, counted, moment, path_name, preview, time},
    },
    visit::{Refused, Shown, Visit},
};
use crate::http::pages::{API, Visitor};

/// Events of a page that names no limit, and those that there are to choose from.
const LIMIT: usize = 50;
const LIMITS: [usize; 4] = [20, 50, 100, 200];
/// The orders that there are to choose from, beside the one that fits what is asked.
const ORDERS: [&str; 2] = ["newest", "oldest"];
/// Tables that are offered by name.
const OFFERED: &str = "1000";
/// Characters of a payload in a row.
const LINE_CHARS: usize = 300;
/// Bytes of a payload that a row opens to; longer ones have a page of their own.
const OPEN_BYTES: usize = 4096;
/// Events that a live list begins with.
const LIVE_LAST: usize = 50;

/// What is asked for.
struct WantedEvents<'a> {
    table: &'a str,
    partition: Option<&'a str>,
    offset: Option<&'a str>,
    since: Option<&'a str>,
    until: Option<&'a str>,
    key: Option<&'a str>,
    r#type: Option<&'a str>,
    /// `NAME=VALUE`
    header: Option<&'a str>,
    /// `None` for the one that fits.
    order: Option<&'static str>,
    /// `None` for the usual one.
    limit: Option<&'a str>,
    /// The setting `limits.page_records`.
    most: usize,
    cursor: Option<&'a str>,
    is_live: bool,
}

impl<'a> WantedEvents<'a> {
    fn of(visitor: &'a Visitor, most: usize) -> Option<Self> {
        Some(Self {
            table: visitor.asks("table")?,
            partition: visitor.asks("partition"),
            offset: visitor.asks("offset"),
            since: visitor.asks("since"),
            until: visitor.asks("until"),
            key: visitor.asks("key"),
            r#type: visitor.asks("type"),
            header: visitor.asks("header"),
            order: visitor.asks("order").and_then(|asked| ORDERS.into_iter().find(|order| *order == asked)),
            limit: visitor.asks("limit"),
            most,
            cursor: visitor.asks("cursor"),
            is_live: visitor.asks("live").is_some(),
        })
    }

    /// Whoever names a place goes on from there; whoever names none wants the latest.
    fn order(&self) -> &'static str {
        let names_a_place = self.offset.is_some() || self.since.is_some();
        self.order.unwrap_or(if names_a_place { "oldest" } else { "newest" })
    }

    /// Events of a page.
    fn limit(&self) -> String {
        self.limit.map_or_else(|| LIMIT.min(self.most).to_string(), str::to_owned)
    }

    /// The request of the API for one page, or for everything that comes if it is `live`.
    fn path(&self, live: bool, now: Timestamp) -> String {
        let path = format!("/tables/{}", path_name(self.table));
        if let Some(cursor) = self.cursor.filter(|_| !live) {
            return address(&path, [("limit", Some(self.limit().as_str())), ("cursor", Some(cursor))]);
        }
        let since = self.since.map(|text| moment(text, now));
        let until = self.until.map(|text| moment(text, now));
        let (name, value) = self.header.map(|text| text.split_once('=').unwrap_or((text, "*"))).unzip();
        let name = name.map(|name| format!("header.{}", name.trim()));
        let header = name.as_deref().unwrap_or_default();
        let filters = [
            ("partition", self.partition),
            ("since", since.as_deref()),
            ("until", until.as_deref()),
            ("key", self.key),
            ("type", self.r#type),
            (header, value.map(str::trim)),
        ];
        let path = address(&path, filters);
        if live {
            let last = LIVE_LAST.min(self.most).to_string();
            return address(&path, [("last", Some(last.as_str()))]);
        }
        let order = Some(self.order()).filter(|order| *order != "oldest");
        let limit = self.limit();
        address(&path, [("offset", self.offset), ("order", order), ("limit", Some(limit.as_str()))])
    }

    /// The address of another page of the same.
    fn with(&self, cursor: Option<&str>, is_live: bool) -> String {
        address(
            &format!("{PATH}/events"),
            [
                ("table", Some(self.table)),
                ("partition", self.partition),
                ("offset", self.offset),
                ("since", self.since),
                ("until", self.until),
                ("key", self.key),
                ("type", self.r#type),
                ("header", self.header),
                ("order", self.order),
                ("limit", self.limit),
                ("cursor", cursor),
                ("live", is_live.then_some("1")),
            ],
        )
    }
}

/// `GET /console/events`.
pub(in crate::console) async fn events(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Events, shown)
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let most = visit.console.state.limits.page_records;
    let Some(wanted) = WantedEvents::of(visit.visitor, most) else { return choose(visit).await };
    let now = now(visit.console);
    let page: Result<ApiPage, Refused> = visit.get(&wanted.path(false, now)).await;
    if let Err(refused) = &page
        && (refused.is_no_right() || refused.status == StatusCode::NOT_FOUND)
    {
        return Err(refused.clone());
    }
    let live = wanted.path(true, now);
    let follow = format!("{API}{live}");
    if page.is_ok() {
        visit.note_live(&live);
    }
    let body = html! {
        div.head {
            h1.long title=(wanted.table) {
                "Events of " a href=(format!("{PATH}/tables/{}", path_name(wanted.table))) { (wanted.table) }
            }
        }
        (form(&wanted))
        @match &page {
            Ok(page) => (list(visit, &wanted, page, &follow)),
            Err(refused) => (not_read(&wanted, refused)),
        }
    };
    Ok(Shown { title: format!("Events of {}", preview(wanted.table, 40)), body })
}

/// The moment by the server's clock.
pub(super) fn now(console: &Console) -> Timestamp {
    Timestamp::from_millisecond(console.state.clock.now_ms()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The page without a table.
async fn choose(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let ApiTables { tables, .. } = visit.get(&address("/tables", [("limit", Some(OFFERED))])).await?;
    let body = html! {
        h1 { "Events" }
        @if tables.is_empty() {
            (super::tables::none(visit))
        } @else {
            form.search method="get" {
                label for="table" { "Table" }
                input #table name="table" list="tables" required autocomplete="off" data-search;
                datalist #tables { @for table in &tables { option value=(table.table) {} } }
                button type="submit" { "Show" }
            }
            (super::tables::list(&tables))
        }
    };
    Ok(Shown { title: "Events".to_owned(), body })
}

fn form(wanted: &WantedEvents<'_>) -> Markup {
    let field = |name: &'static str, label: &str, value: Option<&str>, hint: &str| {
        html! {
            div.field {
                label for=(name) { (label) }
                input id=(name) name=(name) value=[value] placeholder=(hint) autocomplete="off"
                    data-search[name == "key"];
            }
        }
    };
    let clear = address(&format!("{PATH}/events"), [("table", Some(wanted.table))]);
    html! {
        form.filters method="get" role="search" aria-label="Which events" {
            input type="hidden" name="table" value=(wanted.table);
            (field("key", "Key", wanted.key, "exact, or prefix*"))
            (field("type", "Type", wanted.r#type, "exact, or prefix*"))
            (field("header", "Header", wanted.header, "name=value"))
            (field("since", "From", wanted.since, "-1h, or a date"))
            (field("until", "Until", wanted.until, "UTC, or with a zone"))
            (field("partition", "Partition", wanted.partition, "all"))
            (field("offset", "Offset", wanted.offset, "with a partition"))
            div.field {
                label for="order" { "Order" }
                select #order name="order" {
                    option value="" { "automatic" }
                    @for order in ORDERS {
                        option value=(order) selected[wanted.order == Some(order)] { (order) " first" }
                    }
                }
            }
            div.field {
                label for="limit" { "Events" }
                select #limit name="limit" {
                    @for limit in limits(wanted) {
                        option value=(limit) selected[wanted.limit() == limit] { (limit) }
                    }
                }
            }
            div.field.buttons {
                button type="submit" { "Show" }
                a.button.quiet href=(clear) { "Clear" }
            }
        }
    }
}

/// How many events a page may have, to choose from.
fn limits(wanted: &WantedEvents<'_>) -> Vec<String> {
    let mut limits: Vec<usize> = LIMITS.into_iter().filter(|limit| *limit <= wanted.most).collect();
    if limits.len() < LIMITS.len() {
        limits.push(wanted.most);
    }
    limits.dedup();
    limits.iter().map(ToString::to_string).collect()
}

fn list(visit: &Visit<'_>, wanted: &WantedEvents<'_>, page: &ApiPage, follow: &str) -> Markup {
    let lost: u64 = page.lost.iter().map(|range| range.end.saturating_sub(range.start)).sum();
    let on = page.next_cursor.as_deref().filter(|_| page.has_more);
    html! {
        div.toolbar {
            p #count { (counted(page.records.len() as u64, "event")) }
            p.live-status role="status" {}
            button.needs-script type="button" hidden data-live-toggle
                aria-pressed=(wanted.is_live.to_string()) { "Live" }
            button type="button" hidden data-pause { "Pause" }
            noscript { span.muted { "Without a script nothing is live: load the page again." } }
        }
        @if lost > 0 { p.notice { "Lost with a volume in between: " (counted(lost, "offset")) "." } }
        ol.events #events data-follow=(follow) data-table=(wanted.table) data-start[wanted.is_live]
            data-self=(wanted.with(None, false)) data-self-live=(wanted.with(None, true)) {
            @for record in &page.records { (row(visit, wanted.table, record)) }
        }
        @if page.records.is_empty() {
            div #nothing { (empty(
                if page.has_more { "None of the events that were looked at matches; there are more." }
                else { "No event matches." },
                &html! {},
            )) }
        }
        nav.pages aria-label="Pages of events" {
            @if wanted.cursor.is_some() { a href=(wanted.with(None, false)) { "From the beginning" } }
            @if let Some(cursor) = on {
                a rel="next" href=(wanted.with(Some(cursor), false)) {
                    @if wanted.order() == "newest" { "Older events" } @else { "Later events" }
                }
            }
        }
    }
}

/// An event in a row, which opens if its payload is short.
fn row(visit: &Visit<'_>, table: &str, record: &ApiRecord) -> Markup {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let place = [("table", Some(table)), ("partition", Some(&*partition)), ("offset", Some(&*offset))];
    let own = address(&format!("{PATH}/event"), place);
    let kind_of = record.headers.get("type").and_then(|value| value.as_str());
    let bytes = record.payload.as_ref().map_or(0, |json| json.get().len())
        + record.payload_base64.as_ref().map_or(0, String::len);
    let command = visit.command(&request_of_one(table, record), None);
    html! {
        li.event {
            details {
                summary {
                    span.when { (time(record.timestamp_ms)) }
                    span.place { (partition) ":" (offset) }
                    span.what {
                        @if let Some(key) = &record.key {
                            span.key title=(preview(key, 1000)) { (preview(key, 60)) }
                        }
                        @if let Some(kind) = kind_of {
                            span.type title=(preview(kind, 1000)) { (preview(kind, 60)) }
                        }
                    }
                    code.line { (line(record, LINE_CHARS)) }
                }
                div.opened {
                    @if bytes <= OPEN_BYTES { (whole(record)) } @else {
                        p.muted { (kind(record)) ": it has a page of its own." }
                    }
                    (attributes(record))
                    p.actions {
                        a href=(own) { "This event alone" }
                        " "
                        (copy_button(&command, "command for this event", "Copy as curl"))
                    }
                }
            }
        }
    }
}

/// The request of the API for one event.
fn request_of_one(table: &str, record: &ApiRecord) -> String {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let query = [("partition", Some(&*partition)), ("offset", Some(&*offset)), ("limit", Some("1"))];
    address(&format!("/tables/{}", path_name(table)), query)
}

/// What an event has besides its payload.
pub(super) fn attributes(record: &ApiRecord) -> Markup {
    html! {
        dl.attributes {
            @if let Some(key) = &record.key { dt { "key" } dd { code { (preview(key, 2000)) } } }
            @if let Some(key) = &record.idempotency_key {
                dt { "idempotency key" } dd { code { (preview(key, 2000)) } }
            }
            @for (name, value) in &record.headers {
                dt { (preview(name, 200)) }
                dd { code { (preview(value.as_str().unwrap_or_default(), 2000)) } }
            }
        }
    }
}

/// Why nothing was read, and where one can go on.
fn not_read(wanted: &WantedEvents<'_>, refused: &Refused) -> Markup {
    let problem = &refused.problem;
    html! {
        div.notice.bad role="alert" {
            p { strong { (problem.title) } " " (problem.detail) }
            @if let Some(cursor) = &problem.next_cursor {
                p { a href=(wanted.with(Some(cursor), false)) { "Go on with the first event that is there" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> WantedEvents<'static> {
        WantedEvents {
            table: "a b",
            partition: None,
            offset: None,
            since: None,
            until: None,
            key: None,
            r#type: None,
            header: None,
            order: None,
            limit: None,
            most: 10_000,
            cursor: None,
            is_live: false,
        }
    }

    #[test]
    fn a_request_says_what_is_wanted() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(wanted().path(false, now), "/tables/a%20b?order=newest&limit=50");
        let by_key =
            WantedEvents { key: Some("k*"), header: Some("x = y=z"), since: Some("-1h"), ..wanted() };
        let filters = "since=2026-01-01T23:00:00.000Z&key=k%2A&header.x=y%3Dz";
        assert_eq!(by_key.path(false, now), format!("/tables/a%20b?{filters}&limit=50"));
        assert_eq!(by_key.path(true, now), format!("/tables/a%20b?{filters}&last=50"));
        let place = WantedEvents { partition: Some("3"), offset: Some("7"), ..wanted() };
        assert_eq!(place.path(false, now), "/tables/a%20b?partition=3&offset=7&limit=50");
        let back = WantedEvents { order: Some("newest"), ..place };
        assert_eq!(back.path(false, now), "/tables/a%20b?partition=3&offset=7&order=newest&limit=50");
        assert!(back.with(None, false).ends_with("&offset=7&order=newest"));
        let page = WantedEvents { cursor: Some("abc"), ..by_key };
        assert_eq!(page.path(false, now), "/tables/a%20b?limit=50&cursor=abc");
        assert!(page.with(None, true).ends_with("&header=x%20%3D%20y%3Dz&live=1"));
        let small = WantedEvents { most: 7, ..wanted() };
        assert_eq!(small.path(false, now), "/tables/a%20b?order=newest&limit=7");
        assert_eq!(small.path(true, now), "/tables/a%20b?last=7");
        assert_eq!(limits(&small), ["7"]);
        assert_eq!(limits(&wanted()), ["20", "50", "100", "200"]);
    }
}
