//! How pages look: the frame around each, and what several of them show.

pub(super) mod payload;
pub(super) mod text;

use maud::{DOCTYPE, Markup, html};

use self::text::{bytes, count};
use super::{
    api::{ApiPartition, ApiTable},
    assets::ASSETS,
    base::PATH,
};

/// The places of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NavItem {
    Overview,
    Tables,
    Events,
    Consumers,
    Health,
    /// None of them.
    Elsewhere,
    /// The way in, before which there is nothing to go to.
    SignIn,
}

/// The places: each with its name, its path below the console's, and the key that leads there after `g`.
const NAV: [(NavItem, &str, &str, &str); 5] = [
    (NavItem::Overview, "Overview", "", "o"),
    (NavItem::Tables, "Tables", "/tables", "t"),
    (NavItem::Events, "Events", "/events", "e"),
    (NavItem::Consumers, "Consumers", "/consumers", "c"),
    (NavItem::Health, "Health", "/health", "h"),
];

/// What stands around a page.
pub(super) struct PageFrame<'a> {
    /// Where the page belongs.
    pub(super) place: NavItem,
    /// Its title.
    pub(super) title: &'a str,
    /// Who has signed in.
    pub(super) principal: Option<String>,
    /// Where to sign in, for whoever has not and may see the page all the same.
    pub(super) sign_in: Option<String>,
    /// Its address; none if it has none of its own.
    pub(super) address: String,
    /// Commands that show the same.
    pub(super) commands: &'a [String],
    /// The command that follows what is live on it.
    pub(super) live: Option<&'a str>,
}

/// A whole page.
pub(super) fn layout(frame: &PageFrame<'_>, body: &Markup) -> Markup {
    let assets = &*ASSETS;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (frame.title) " · Zombi" }
                link rel="icon" type="image/svg+xml" href=(assets.icon.path());
                link rel="stylesheet" href=(assets.plot_style.path());
                link rel="stylesheet" href=(assets.style.path());
                @if frame.place == NavItem::Overview {
                    script src=(assets.plot_script.path()) defer {}
                }
                script src=(assets.script.path()) defer {}
            }
            body {
                a.skip href="#main" { "To the content" }
                (header(frame))
                main #main tabindex="-1" { (body) }
                (foot(frame))
            }
        }
    }
}

fn header(frame: &PageFrame<'_>) -> Markup {
    html! {
        header.top {
            a.brand href=(PATH) aria-label="Zombi, to the overview" {
                img src=(ASSETS.icon.path()) alt="" width="20" height="20";
                span { "zombi" }
            }
            @if frame.place != NavItem::SignIn {
                nav aria-label="Console" {
                    @for (place, name, path, key) in NAV {
                        a href=(format!("{PATH}{path}")) data-go=(key)
                            aria-current=[(place == frame.place).then_some("page")] { (name) }
                    }
                }
            }
            @if let Some(principal) = &frame.principal {
                form.who method="post" action=(format!("{PATH}/sign-out")) {
                    span.principal title=(principal) { (principal) }
                    button.quiet type="submit" { "Sign out" }
                }
            } @else if let Some(way) = &frame.sign_in {
                p.who { a.button.quiet href=(way) { "Sign in" } }
            }
        }
    }
}

fn foot(frame: &PageFrame<'_>) -> Markup {
    html! {
        footer.foot {
            div.asked {
                @if !frame.address.is_empty() {
                    h2 { "This page" }
                    div data-address { (copied(&frame.address, "address")) }
                }
                @if !frame.commands.is_empty() {
                    h2 { "The same from a shell" }
                    @for command in frame.commands { (copied(command, "command")) }
                }
                @if let Some(live) = frame.live {
                    div hidden data-live-command { (copied(live, "command that follows")) }
                }
            }
            @if frame.place != NavItem::SignIn {
                p.keys.needs-script hidden {
                    kbd { "/" } " search, " kbd { "g" } " then "
                    @for (_, name, _, key) in NAV { kbd { (key) } " " (name.to_lowercase()) ", " }
                    kbd { "p" } " pause"
                }
            }
        }
    }
}

/// A line that can be copied.
pub(super) fn copied(text: &str, what: &str) -> Markup {
    html! {
        div.copied {
            code { (text) }
            (copy_button(text, what, "Copy"))
        }
    }
}

/// A button that copies a text; there is none without a script.
pub(super) fn copy_button(text: &str, what: &str, label: &str) -> Markup {
    html! {
        button.quiet.needs-script type="button" hidden data-copy=(text)
            aria-label=[(label == "Copy").then(|| format!("Copy the {what}"))] { (label) }
    }
}

/// A number that is to be seen from afar. `live` names it for the script.
pub(super) fn tile(name: &str, live: &str, value: &str, more: &Markup) -> Markup {
    html! {
        div.tile {
            dt { (name) }
            dd {
                span.value data-live=[(!live.is_empty()).then_some(live)] { (value) }
                span.more { (more) }
            }
        }
    }
}

/// A table that scrolls sideways by itself, also from a keyboard.
pub(super) fn scrolling(name: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="group" aria-label=(name) { (table) } }
}

/// What a list says that is empty.
pub(super) fn empty(what: &str, more: &Markup) -> Markup {
    html! { div.empty { p { (what) } (more) } }
}

/// A note that something cannot be seen.
pub(super) fn no_right(what: &str, verb: &str) -> Markup {
    html! { p.notice { (what) " need the right to " code { (verb) } ", which you do not have." } }
}

/// Where a table's partitions stand, on one axis: what is in S3 only, in both tiers, on the volume only, and
/// what was lost.
pub(super) fn partition_bars(table: &ApiTable) -> Markup {
    let first = table.partitions.iter().map(|one| one.earliest).min().unwrap_or(0);
    let last = table.partitions.iter().map(|one| one.next).max().unwrap_or(0);
    let axis = Axis { first, span: last.saturating_sub(first).max(1) };
    let rows = html! {
        table.bars {
            caption.sr { "Partitions of " (table.table) }
            thead {
                tr {
                    th.n scope="col" { "Partition" }
                    th.bar-head scope="col" {
                        span { (count(first)) }
                        span { "offsets" }
                        span { (count(last)) }
                    }
                    th.n scope="col" { "Earliest" }
                    th.n scope="col" { "Low" }
                    th.n scope="col" { "Flushed" }
                    th.n scope="col" { "Next" }
                    th.n scope="col" { "On the volume" }
                    th.n scope="col" { "In S3" }
                }
            }
            tbody {
                @for one in &table.partitions {
                    tr {
                        th.n scope="row" {
                            a href=(text::address(&format!("{PATH}/events"), [
                                ("table", Some(table.table.as_str())),
                                ("partition", Some(one.partition.to_string().as_str())),
                            ])) { (one.partition) }
                        }
                        td.bar-cell { (bar(one, axis)) }
                        td.n { (count(one.earliest)) }
                        td.n { (count(one.low)) }
                        td.n { (count(one.flushed)) }
                        td.n { (count(one.next)) }
                        td.n { (bytes(one.hot_bytes)) }
                        td.n { (bytes(one.cold_bytes)) }
                    }
                }
            }
        }
    };
    html! {
        (scrolling("Partitions", &rows))
        ul.legend {
            li.cold { "in S3 only" }
            li.both { "in S3 and on the volume" }
            li.hot { "on the volume only" }
            li.lost { "lost with a volume" }
        }
    }
}

/// Offsets that are drawn over 1,000 units.
#[derive(Clone, Copy)]
struct Axis {
    first: u64,
    span: u64,
}

impl Axis {
    fn place(self, offset: u64) -> f64 {
        offset.saturating_sub(self.first) as f64 * 1000.0 / self.span as f64
    }
}

fn bar(one: &ApiPartition, axis: Axis) -> Markup {
    let part = |class: &str, start: u64, end: u64| {
        let width = if end > start { (axis.place(end) - axis.place(start)).max(2.0) } else { 0.0 };
        html! {
            @if end > start {
                rect class=(class) x=(format!("{:.1}", axis.place(start))) y="0"
                    width=(format!("{width:.1}")) height="10" {}
            }
        }
    };
    let said = format!(
        "{} events in S3 only, {} in both, {} on the volume only",
        count(one.low.saturating_sub(one.earliest)),
        count(one.flushed.saturating_sub(one.low.max(one.earliest))),
        count(one.next.saturating_sub(one.flushed))
    );
    html! {
        svg.bar viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(said) {
            (part("cold", one.earliest, one.low))
            (part("both", one.low.max(one.earliest), one.flushed))
            (part("hot", one.flushed, one.next))
            @for lost in &one.lost { (part("lost", lost.start, lost.end)) }
        }
    }
}
