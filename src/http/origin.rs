//! Which requests a browser may be made to send. `Host` is checked so that no foreign name leads here, and
//! `Origin` so that no foreign page writes here. Requests of programs, which carry nothing of a browser's,
//! pass unless `http.hosts` lists names. What pages of listed origins are told is in `sharing`.

use std::net::{IpAddr, Ipv6Addr};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, header},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{code::Code, error::Problem, forwarded::ProxyNetwork, heads};
use contracts::settings::{BrokenRules, Section};

/// Where the page is from that made a browser send a request.
pub(super) const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What browsers send beside [`OF_FETCHES`]. A page's GET to its own origin has no `Origin`, and to a plain
/// `http://` name browsers send no `Sec-Fetch-*`: such a request, and with DNS rebinding it is a foreign
/// page's, shows itself by `Accept-Language` alone. Each browser sends that and no script can take it away.
/// Probes of Kubernetes, Prometheus, curl, wget and the HTTP clients of Go, Java and Python do not, unless
/// told to.
static OF_BROWSERS: [HeaderName; 2] = [header::ORIGIN, header::ACCEPT_LANGUAGE];
/// How the headers begin in which a browser says what a request is for. Browsers gain more of them.
const OF_FETCHES: &str = "sec-fetch-";
/// The ends of names in clusters and local networks: nobody elsewhere can own such a name.
const LOCAL: [&str; 4] = [".svc", ".local", ".internal", ".localhost"];

/// Whom browsers may write for, and which proxies are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpSettings {
    /// Names that a request's `Host` may have, separated by commas; others get 421. Give names without ports:
    /// a port stops the start, and the port of a `Host` is ignored. IPv6 addresses stand there with brackets
    /// or without. Empty: any name; for browsers only names that nobody elsewhere can own.
    pub hosts: Vec<String>,
    /// Origins besides our own whose pages may use Zombi from a browser, such as
    /// `https://console.example.com`, separated by commas. They send their credentials themselves, in
    /// `Authorization`.
    pub origins: Vec<String>,
    /// Networks of proxies whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`, separated by commas. A
    /// request that comes through one counts as that of the last address there that is no such proxy's.
    pub trusted_proxies: Vec<ProxyNetwork>,
}

/// Which names a request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostCheck {
    /// Any: on the admin port, which is asked by address, and which kubelets and Prometheus reach.
    AnyName,
    /// Those of `http.hosts`.
    OurNames,
}

impl Section for HttpSettings {
    const NAME: &'static str = "http";

    fn check(&self, broken: &mut BrokenRules) {
        for host in &self.hosts {
            let is_name = !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']);
            broken.unless(
                is_name || without_brackets(host).parse::<Ipv6Addr>().is_ok(),
                format!("http.hosts has {host:?}: names stand there, without a scheme and a port"),
            );
        }
        for origin in &self.origins {
            broken.unless(
                is_origin(origin),
                format!(
                    "http.origins has {origin:?}: each is a scheme and a name, and a port if it has one, \
                     such as https://console.example.com"
                ),
            );
        }
    }
}

impl HttpSettings {
    /// Checks the `Host` of a request, of which there is one at most, and which page made a browser send it.
    /// `host_check` says whether the name matters.
    ///
    /// # Errors
    /// 421 or 403.
    pub(super) fn check(&self, request: &Request, host_check: HostCheck) -> Result<(), Problem> {
        let headers = request.headers();
        // A program sends few headers: to compare their names costs less than look-ups do.
        let is_of_a_browser = headers.keys().any(is_of_browsers);
        if self.hosts.is_empty() && !is_of_a_browser {
            return Ok(());
        }
        let host = heads::host(request.uri(), headers);
        if host_check == HostCheck::OurNames && !self.knows(host_name(host)) {
            return Err(Problem::new(Code::WrongHost, format!("Host {host:?} is not in http.hosts")));
        }
        let writes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if writes && !self.may_write(headers, host) {
            return Err(Problem::new(
                Code::CrossOrigin,
                "a page of another origin may not write: see http.origins",
            ));
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        if !self.hosts.is_empty() {
            return self.hosts.iter().any(|known| is_same_host(known, name));
        }
        let is_address = without_brackets(name).parse::<IpAddr>().is_ok();
        let lower = name.to_ascii_lowercase();
        is_address || !lower.contains('.') || LOCAL.iter().any(|end| lower.ends_with(end))
    }

    /// Whether pages of an origin may use what is here, although it is not ours.
    pub(super) fn lists(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| known.trim_end_matches('/').eq_ignore_ascii_case(origin))
    }

    fn may_write(&self, headers: &HeaderMap, host: &str) -> bool {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("not text"));
        let origin = text(&header::ORIGIN);
        if origin.is_some_and(|origin| self.lists(origin)) {
            return true;
        }
        match (text(&FETCH_SITE), origin) {
            // The browser has compared origins itself, and a proxy may have changed the name since.
            (Some(site), _) => matches!(site, "same-origin" | "none"),
            (None, Some(origin)) => {
                origin.split_once("://").is_some_and(|(_, name)| name.eq_ignore_ascii_case(host))
            }
            (None, None) => true,
        }
    }
}

/// Whether a header of this name shows that a browser sends the request.
fn is_of_browsers(name: &HeaderName) -> bool {
    OF_BROWSERS.contains(name) || name.as_str().starts_with(OF_FETCHES)
}

/// Whether browsers may send this as `Origin`: no path, and no pattern.
fn is_origin(text: &str) -> bool {
    let without_slash = text.strip_suffix('/').unwrap_or(text);
    let (scheme, rest) = without_slash.split_once("://").unwrap_or_default();
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is_place = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*\"\\".contains(&byte));
    !scheme.is_empty() && !rest.is_empty() && is_scheme && is_place
}

/// An IPv6 address as it stands in a URL, without what stands around it there; any other name as it is.
fn without_brackets(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

/// Whether two names are the same. An IPv6 address has several spellings.
fn is_same_host(known: &str, name: &str) -> bool {
    let (known, name) = (without_brackets(known), without_brackets(name));
    match (known.parse::<Ipv6Addr>(), name.parse::<Ipv6Addr>()) {
        (Ok(known), Ok(name)) => known == name,
        _ => known.eq_ignore_ascii_case(name),
    }
}

/// The name without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(settings: &HttpSettings, method: Method, headers: &[(&str, &str)]) -> Option<Code> {
        check_of(HostCheck::OurNames, settings, method, headers)
    }

    fn check_of(
        host_check: HostCheck,
        settings: &HttpSettings,
        method: Method,
        headers: &[(&str, &str)],
    ) -> Option<Code> {
        let request = headers
            .iter()
            .fold(Request::builder().method(method).uri("/tables/t"), |request, (name, value)| {
                request.header(*name, *value)
            });
        let checked = settings.check(&request.body(Body::empty()).unwrap(), host_check);
        checked.err().map(|problem| problem.code())
    }

    #[test]
    fn programs_are_not_asked_and_browsers_only_write_from_our_own_pages() {
        let any = HttpSettings::default();
        let host = ("host", "zombi:8080");
        assert_eq!(check(&any, Method::POST, &[("host", "evil.example.com")]), None);
        for (headers, refused) in [
            (vec![host, ("origin", "http://zombi:8080")], None),
            (vec![host, ("origin", "https://evil.example.com")], Some(Code::CrossOrigin)),
            (vec![host, ("origin", "null")], Some(Code::CrossOrigin)),
            (vec![host, ("sec-fetch-site", "cross-site")], Some(Code::CrossOrigin)),
            (vec![host, ("sec-fetch-site", "same-origin")], None),
            (vec![host, ("sec-fetch-site", "none")], None),
            (
                vec![("host", "evil.example.com"), ("origin", "http://evil.example.com")],
                Some(Code::WrongHost),
            ),
            (vec![("host", "evil.example.com"), ("sec-fetch-mode", "no-cors")], Some(Code::WrongHost)),
            (vec![("host", "10.0.0.1:8080"), ("origin", "http://10.0.0.1:8080")], None),
            (vec![("host", "[::1]:8080"), ("origin", "http://[::1]:8080")], None),
            (
                vec![
                    ("host", "zombi.zombi.svc.cluster.local"),
                    ("origin", "http://zombi.zombi.svc.cluster.local"),
                ],
                None,
            ),
        ] {
            assert_eq!(check(&any, Method::POST, &headers), refused, "{headers:?}");
        }
        assert_eq!(check(&any, Method::GET, &[host, ("origin", "https://evil.example.com")]), None);
        let listed = HttpSettings { origins: vec!["https://console.example.com".to_owned()], ..any };
        assert_eq!(
            check(
                &listed,
                Method::PUT,
                &[host, ("origin", "https://console.example.com"), ("sec-fetch-site", "cross-site")]
            ),
            None
        );
    }

    /// What a browser sends with a page's GET to its own origin, if that is `http://` and a name.
    #[test]
    fn a_page_that_reads_from_its_own_foreign_name_is_known_by_the_language() {
        let any = HttpSettings::default();
        for (host, refused) in [("evil.example.com", Some(Code::WrongHost)), ("zombi:8080", None)] {
            let sent = [("host", host), ("accept", "*/*"), ("accept-language", "en-US,en;q=0.9")];
            assert_eq!(check(&any, Method::GET, &sent), refused, "{host}");
        }
        let scrapes = [
            ("host", "zombi.example.com"),
            ("accept", "text/plain"),
            ("accept-encoding", "gzip"),
            ("user-agent", "x"),
        ];
        assert_eq!(check(&any, Method::GET, &scrapes), None);
    }

    #[test]
    fn all_that_a_browser_says_of_what_a_request_is_for_shows_that_it_is_one() {
        let of = |name: &str| {
            check(&HttpSettings::default(), Method::GET, &[("host", "evil.example.com"), (name, "none")])
        };
        for name in ["site", "mode", "dest", "user", "storage-access", "of-the-future"] {
            assert_eq!(of(&format!("Sec-Fetch-{name}")), Some(Code::WrongHost), "{name}");
        }
        for name in ["x-sec-fetch-site", "sec-fetch", "accept"] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn where_any_name_will_do_pages_still_write_to_their_own_only() {
        let settings = HttpSettings { hosts: vec!["zombi".to_owned()], ..HttpSettings::default() };
        let host = ("host", "metrics.example.com");
        for (origin, refused) in
            [("http://metrics.example.com", None), ("https://evil.example.com", Some(Code::CrossOrigin))]
        {
            for settings in [&settings, &HttpSettings::default()] {
                let sent = [host, ("origin", origin)];
                assert_eq!(check_of(HostCheck::AnyName, settings, Method::POST, &sent), refused, "{origin}");
                assert_eq!(check_of(HostCheck::AnyName, settings, Method::GET, &sent), None, "{origin}");
            }
        }
    }

    #[test]
    fn an_address_of_version_6_is_listed_with_brackets_or_without() {
        let of = |host: &str| HttpSettings { hosts: vec![host.to_owned()], ..HttpSettings::default() };
        for listed in ["::1", "[::1]", "0:0::1"] {
            let mut broken = BrokenRules::default();
            Section::check(&of(listed), &mut broken);
            assert_eq!(broken.into_lines(), Vec::<String>::new(), "{listed}");
            for (host, refused) in
                [("[::1]:8080", None), ("[::1]", None), ("[::2]:8080", Some(Code::WrongHost))]
            {
                assert_eq!(check(&of(listed), Method::GET, &[("host", host)]), refused, "{listed}: {host}");
            }
        }
        for wrong in ["[::1]:8080", "zombi:80", "[zombi]", "[::1", "http://zombi", ""] {
            let mut broken = BrokenRules::default();
            Section::check(&of(wrong), &mut broken);
            assert!(broken.into_lines()[0].contains("http.hosts"), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_name() {
        let broken = |origin: &str| {
            let mut broken = BrokenRules::default();
            let settings = HttpSettings { origins: vec![origin.to_owned()], ..HttpSettings::default() };
            Section::check(&settings, &mut broken);
            broken.into_lines()
        };
        for right in ["https://console.example.com", "http://localhost:3000", "https://[::1]:8443/"] {
            assert!(broken(right).is_empty(), "{right}");
        }
        for wrong in
            ["", "*", "https://*.example.com", "console.example.com", "https://", "https://a/b", "null"]
        {
            assert!(broken(wrong)[0].contains("http.origins"), "{wrong}");
        }
    }

    #[test]
    fn where_names_are_listed_others_are_not_ours() {
        let hosts = vec!["zombi".to_owned(), "zombi.zombi.svc".to_owned()];
        let listed = HttpSettings { hosts, ..HttpSettings::default() };
        for (host, refused) in [
            ("zombi", None),
            ("ZOMBI:8080", None),
            ("zombi.zombi.svc:80", None),
            ("other", Some(Code::WrongHost)),
            ("", Some(Code::WrongHost)),
        ] {
            assert_eq!(check(&listed, Method::GET, &[("host", host)]), refused, "{host}");
        }
    }
}
