//! Moving a consumer group: first what it would do, then doing it.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::{
    super::{
        api::{ApiMove, ApiProblem, ApiReset},
        base::{Console, PATH},
        browsers::of_console,
        view::{
            NavItem, copied, empty, scrolling,
            text::{address, count, counted, moment, path_name, time},
        },
        visit::{Refused, Shown, Visit, see, way_in},
    },
    events::now,
};
use crate::http::pages::{Form, Incoming, Visitor};

/// Where a group is to be moved.
struct Target {
    table: String,
    to: Value,
    /// The same as fields of a form.
    fields: [(&'static str, String); 3],
}

/// Reads a target from its fields. A time that depends on the moment becomes a fixed one, so that what is
/// done is what was shown.
fn target<'a>(field: impl Fn(&str) -> Option<&'a str>, now: Timestamp) -> Result<Target, String> {
    let table = field("table").ok_or("The table is missing.")?.to_owned();
    let value = field("value");
    let (to, value, partition) = match field("to") {
        Some(end @ ("earliest" | "latest")) => (json!(end), String::new(), String::new()),
        Some("time") => {
            let text = value.ok_or("The time is missing: -1h, or 2026-01-31 12:00, for example.")?;
            let time = moment(text, now);
            let of_ms = time.parse::<i64>().ok();
            let to = of_ms.map_or_else(|| json!({ "time": time }), |ms| json!({ "time": ms }));
            (to, time, String::new())
        }
        Some("offset") => {
            let wrong = "An offset is a whole number, and so is its partition.";
            let offset = value.and_then(|text| text.replace(',', "").parse::<u64>().ok()).ok_or(wrong)?;
            let partition = field("partition").unwrap_or("0").parse::<u32>().map_err(|_| wrong)?;
            (json!({ "offset": offset, "partition": partition }), offset.to_string(), partition.to_string())
        }
        _ => return Err("Say where to move the group: earliest, latest, time or offset.".to_owned()),
    };
    let name = field("to").unwrap_or_default().to_owned();
    Ok(Target { table, to, fields: [("to", name), ("value", value), ("partition", partition)] })
}

/// `GET /console/consumers/{group}/reset`: what a reset would do.
pub(in crate::console) async fn preview(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = match target(|name| visitor.asks(name), now(&console)) {
        Ok(target) => show(&mut visit, &target).await,
        Err(why) => Err(bad(&why)),
    };
    visit.answer(NavItem::Consumers, shown)
}

/// `POST /console/consumers/{group}/reset`: moves the group.
pub(in crate::console) async fn reset(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    incoming: Incoming,
) -> Response {
    if let Some(refusal) = refusal(&console, &visitor) {
        return console.visit(&visitor).answer(NavItem::Consumers, Err(refusal));
    }
    let form = match Form::receive(incoming, &console.state).await {
        Ok(form) => form,
        Err(problem) => return of_console(problem.into_response()),
    };
    let mut visit = console.visit(&visitor);
    let moved = match target(|name| form.field(name), now(&console)) {
        Ok(target) => {
            let body = json!({ "table": target.table, "to": target.to });
            let path = format!("/consumers/{}/reset", path_name(visitor.named()));
            visit.post::<ApiReset>(&path, &body).await.map(|_| target.table)
        }
        Err(why) => Err(bad(&why)),
    };
    match moved {
        Ok(table) => {
            let group = format!("{PATH}/consumers/{}", path_name(visitor.named()));
            see(&address(&group, [("moved", Some(table.as_str()))]))
        }
        // The session has ended since the preview, which has all that was filled in.
        Err(refused) if refused.status == StatusCode::UNAUTHORIZED => {
            let fields = ["table", "to", "value", "partition"].map(|name| (name, form.field(name)));
            let preview = format!("{PATH}/consumers/{}/reset", path_name(visitor.named()));
            see(&way_in(&address(&preview, fields)))
        }
        Err(refused) => visit.answer(NavItem::Consumers, Err(refused)),
    }
}

/// Why nothing is changed here, whatever right the visitor has.
fn refusal(console: &Console, visitor: &Visitor) -> Option<Refused> {
    let forbidden = |code: &str, detail: &str| Refused {
        status: StatusCode::FORBIDDEN,
        problem: Box::new(ApiProblem {
            title: "Forbidden".to_owned(),
            detail: detail.to_owned(),
            code: code.to_owned(),
            ..ApiProblem::default()
        }),
    };
    if !visitor.is_from_our_page && !contracts::mutant("console_foreign_form") {
        return Some(forbidden("cross_origin", "The console takes changes from its own pages only."));
    }
    let detail = "The console changes nothing here: console.writes is false. The command of a preview does \
                  it.";
    (!console.settings.writes && !contracts::mutant("console_writes")).then(|| forbidden("forbidden", detail))
}

fn bad(why: &str) -> Refused {
    let title = "Nothing was moved".to_owned();
    let problem = ApiProblem { title, detail: why.to_owned(), ..ApiProblem::default() };
    Refused { status: StatusCode::BAD_REQUEST, problem: Box::new(problem) }
}

async fn show(visit: &mut Visit<'_>, target: &Target) -> Result<Shown, Refused> {
    let group = visit.visitor.named();
    let path = format!("/consumers/{}/reset", path_name(group));
    let dry = json!({ "table": target.table, "to": target.to, "dry_run": true });
    let done = json!({ "table": target.table, "to": target.to });
    let ApiReset { partitions } = visit.post(&path, &dry).await?;
    let command = visit.command(&path, Some(&done.to_string()));
    let moves = partitions.iter().filter(|one| one.new.is_some() && one.new != one.old).count();
    let body = html! {
        h1.long title=(group) { "Move " (group) " in " (target.table) }
        p.muted { (place(target)) }
        @if partitions.is_empty() {
            (empty("The table has no partition yet.", &html! {}))
        } @else {
            p {
                (count(moves as u64)) " of " (counted(partitions.len() as u64, "partition"))
                " would move. Nothing has been done yet."
            }
            (moved(&partitions))
        }
        @if !visit.console.settings.writes {
            p.notice { "The console changes nothing here: " code { "console.writes" } " is false." }
        } @else if moves > 0 {
            form.reset method="post" action=(format!("{PATH}/consumers/{}/reset", path_name(group))) {
                input type="hidden" name="table" value=(target.table);
                @for (name, value) in &target.fields { input type="hidden" name=(name) value=(value); }
                div.field.buttons { button.danger type="submit" { "Move the group now" } }
            }
        }
        @if moves > 0 {
            section { h2 { "Moved from a shell" } (copied(&command, "command that moves the group")) }
        }
        p { a href=(format!("{PATH}/consumers/{}", path_name(group))) { "Back to " (group) } }
    };
    Ok(Shown { title: format!("Move {group}"), body })
}

/// Where the group would go.
fn place(target: &Target) -> Markup {
    let [(_, to), (_, value), (_, partition)] = &target.fields;
    let of_text = value.parse::<Timestamp>().map(Timestamp::as_millisecond);
    let ms = value.parse::<i64>().ok().or(of_text.ok());
    html! {
        @match to.as_str() {
            "earliest" => { "To the first event that is there." },
            "latest" => { "To the end: it reads what comes from now on." },
            "time" => {
                "To the first event from "
                @if let Some(ms) = ms { (time(ms)) } @else { (value) }
                " on."
            },
            _ => { "To offset " (value) " of partition " (partition) "." },
        }
    }
}

fn moved(partitions: &[ApiMove]) -> Markup {
    let offset = |offset: Option<u64>| offset.map_or("never committed".to_owned(), count);
    let rows = html! {
        table.grid.narrow {
            thead {
                tr {
                    th.n scope="col" { "Partition" }
                    th.n scope="col" { "Next to read now" }
                    th.n scope="col" { "After" }
                    th scope="col" { "That means" }
                }
            }
            tbody {
                @for one in partitions {
                    tr {
                        th.n scope="row" { (one.partition) }
                        td.n { (offset(one.old)) }
                        td.n { @if one.new.is_some() { (offset(one.new)) } @else { "stays" } }
                        td { (meaning(one)) }
                    }
                }
            }
        }
    };
    scrolling("Offsets before and after", &rows)
}

fn meaning(one: &ApiMove) -> String {
    match (one.old, one.new) {
        (_, None) => "nothing changes".to_owned(),
        (Some(old), Some(new)) if new == old => "nothing changes".to_owned(),
        (Some(old), Some(new)) if new < old => format!("{} to read again", counted(old - new, "event")),
        (Some(old), Some(new)) => format!("{} skipped", counted(new - old, "event")),
        (None, Some(new)) => format!("it begins at {}", count(new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&str, &'static str)]) -> Result<Value, String> {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let field = |name: &str| fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        target(field, now).map(|target| target.to)
    }

    #[test]
    fn a_form_says_where_to_move_a_group() {
        let table = ("table", "t");
        assert_eq!(of(&[table, ("to", "earliest")]), Ok(json!("earliest")));
        let expected = json!({"time": "2026-01-01T23:00:00.000Z"});
        assert_eq!(of(&[table, ("to", "time"), ("value", "-1h")]), Ok(expected));
        assert_eq!(of(&[table, ("to", "time"), ("value", "17")]), Ok(json!({"time": 17})));
        let place = [table, ("to", "offset"), ("value", "1,234"), ("partition", "2")];
        assert_eq!(of(&place), Ok(json!({"offset": 1234, "partition": 2})));
        let wrongs: [&[(&str, &'static str)]; 6] = [
            &[("to", "earliest")],
            &[table],
            &[table, ("to", "time")],
            &[table, ("to", "offset"), ("value", "-1")],
            &[table, ("to", "offset"), ("value", "1"), ("partition", "x")],
            &[table, ("to", "elsewhere")],
        ];
        for wrong in wrongs {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
