//! The console: pages for people who would rather look. Whatever a page shows it asks the API for, within the
//! process, as whoever looks at it (`visit`): so a page shows what its visitor may see, and the request that
//! shows the same stands at its foot. It works without a script but for what is live.

mod api;
mod assets;
mod base;
mod browsers;
mod pages;
pub(crate) mod settings;
mod view;
mod visit;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::sync::Semaphore;

use self::{
    base::{Console, PATH},
    pages::{consumers, event, events, health, overview, reset, shards, sign_in, table, tables},
    settings::ConsoleSettings,
};
use crate::{
    auth::verb::Verb,
    http::{self, RouteTable, state::AppState},
};

/// Pages that are made at once: each may hold an answer of the API.
const PAGES_AT_ONCE: usize = 8;

/// The routes of the console; none if it is switched off. Each page asks the API as its visitor, and what the
/// visitor may not see is decided there: by themselves the pages are open.
pub(crate) fn routes(state: &AppState, settings: ConsoleSettings, has_tls: bool) -> RouteTable {
    if !settings.enabled {
        return http::console_table(state);
    }
    let console = Console {
        state: Arc::clone(state),
        api: http::api_of_pages(state),
        settings,
        has_tls,
        places: Semaphore::new(PAGES_AT_ONCE),
    };
    let pages = table_of_pages(state).with_state(Arc::new(console)).merge(http::console_api(state));
    pages.with_error_page(visit::error_page)
}

fn table_of_pages(state: &AppState) -> RouteTable<Arc<Console>> {
    let table: RouteTable<Arc<Console>> = http::console_table(state);
    table
        .get(Verb::Open, "/", overview::root)
        .get(Verb::Open, "/console", overview::overview)
        .get(Verb::Open, "/console/", overview::overview)
        .get(Verb::Open, "/console/numbers", overview::numbers)
        .get(Verb::Open, "/console/tables", tables::tables)
        .get(Verb::Open, "/console/tables/{table}", table::table)
        .get(Verb::Open, "/console/events", events::events)
        .get(Verb::Open, "/console/event", event::event)
        .get(Verb::Open, "/console/consumers", consumers::groups)
        .get(Verb::Open, "/console/consumers/{group}", consumers::group)
        .get(Verb::Open, "/console/consumers/{group}/reset", reset::preview)
        .post(Verb::Open, "/console/consumers/{group}/reset", reset::reset)
        .get(Verb::Open, "/console/health", health::health)
        .get(Verb::Open, "/console/shards", shards::shards)
        .get(Verb::Open, "/console/sign-in", sign_in::form)
        .post(Verb::Open, "/console/sign-in", sign_in::sign_in)
        .post(Verb::Open, "/console/sign-out", sign_in::sign_out)
        .get(Verb::Open, "/console/assets/{name}", assets::asset)
}

/// Where the console of a server at this address is, for whoever starts it.
pub(crate) fn url(address: SocketAddr, has_tls: bool) -> String {
    let scheme = if has_tls { "https" } else { "http" };
    let port = address.port();
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED | Ipv4Addr::LOCALHOST)
        | IpAddr::V6(Ipv6Addr::UNSPECIFIED | Ipv6Addr::LOCALHOST) => {
            format!("{scheme}://localhost:{port}{PATH}")
        }
        _ => format!("{scheme}://{address}{PATH}"),
    }
}

/// Shows bytes from outside as pages do. Nothing of them may become markup.
///
/// # Panics
/// If anything does.
#[cfg(feature = "fuzz")]
pub fn show_any(data: &[u8]) {
    use self::view::{payload, text};

    drop(http::pages::Form::parse(data));
    let Ok(sent) = std::str::from_utf8(data) else { return };
    let moment = text::moment(sent, jiff::Timestamp::UNIX_EPOCH);
    let address = text::address(PATH, [("a", Some(&*moment)), (sent, Some(sent))]);
    assert!(address.parse::<axum::http::Uri>().is_ok() || address.len() > 60_000);
    assert!(!text::preview(sent, 100).chars().any(char::is_control));
    if let Ok(record) = serde_json::from_str::<api::ApiRecord>(sent) {
        let line = payload::line(&record, 300);
        let shown = maud::html! { (payload::whole(&record)) (line) (payload::kind(&record)) }.into_string();
        assert_eq!(shown.matches('<').count(), shown.matches('>').count());
        assert!(!shown.contains("<script") && !shown.contains("<img"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_can_be_followed() {
        for (address, has_tls, expected) in [
            ("[::]:8080", false, "http://localhost:8080/console"),
            ("0.0.0.0:1", true, "https://localhost:1/console"),
            ("127.0.0.1:1", false, "http://localhost:1/console"),
            ("10.0.0.1:80", false, "http://10.0.0.1:80/console"),
            ("[2001:db8::1]:80", false, "http://[2001:db8::1]:80/console"),
        ] {
            assert_eq!(url(address.parse().unwrap(), has_tls), expected);
        }
    }
}
