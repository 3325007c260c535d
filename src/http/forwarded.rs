//! Whose request a proxy passes on. `X-Forwarded-For` is believed only of proxies that are trusted: anybody
//! may send it.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr, sync::Arc};

use axum::http::HeaderMap;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::connection::Connection;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// A network of proxies, such as `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyNetwork {
    /// Its first address.
    address: IpAddr,
    /// How many leading bits all its addresses share.
    bits: u32,
}

impl ProxyNetwork {
    /// Whether an address is in it. An IPv4 address in IPv6's form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let differs = bits_of(self.address) ^ bits_of(address);
        address.is_ipv4() == self.address.is_ipv4()
            && differs.checked_shr(u128::BITS - self.bits).unwrap_or(0) == 0
    }
}

/// The bits of an address, from the highest of the number on.
fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << (u128::BITS - u32::BITS),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for ProxyNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{text:?} is no network: {why}; 10.0.0.0/8, 2001:db8::/32 and 192.0.2.1 are some")
        };
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong("it begins with an address"))?;
        let most = if address.is_ipv4() { u32::BITS } else { u128::BITS };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| wrong("the number of its bits follows"))?
            }
            Some(_) => return Err(wrong("the number of its bits follows")),
        };
        if bits > most {
            return Err(wrong(&format!("it has at most {most} bits")));
        }
        let network = Self { address, bits };
        // 10.1.0.0/8 is most likely meant as 10.1.0.0/16: nobody is trusted on a guess.
        let is_first = bits_of(address).checked_shl(bits).unwrap_or(0) == 0;
        let is_mapped = address.to_canonical() != address;
        match (is_first, is_mapped) {
            (true, false) => Ok(network),
            (_, true) => Err(wrong("give an IPv4 address in IPv6's form as IPv4")),
            (false, _) => Err(wrong("its address has bits that are not the network's")),
        }
    }
}

impl fmt::Display for ProxyNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Serialize for ProxyNetwork {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProxyNetwork {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ProxyNetwork {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ProxyNetwork".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// Where the client of a request is: the last address in `X-Forwarded-For` that is no trusted proxy's, if the
/// `peer` that sent it is one. Each proxy writes behind what it was sent, so whoever stands further left may
/// have been made up. A trusted proxy that names no address is itself the client.
fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &[ProxyNetwork]) -> IpAddr {
    let is_trusted = |address: IpAddr| {
        proxies.iter().any(|network| network.contains(address)) || contracts::mutant("forwarded_by_anybody")
    };
    let mut client = peer;
    if !is_trusted(client) {
        return client;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    // A line that is no text names nobody, as an empty one does.
    let named = lines.flat_map(|line| line.to_str().unwrap_or("").rsplit(','));
    for name in named {
        let Some(address) = address_in(name.trim()) else { break };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// An address as proxies write it: with a port or without, IPv6 in brackets or not.
fn address_in(name: &str) -> Option<IpAddr> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = name.parse::<std::net::SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let bare = name.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// The connection as its client's, if a trusted proxy passes the request on: it takes of the client's share,
/// not of the proxy's.
pub(super) fn attribute(
    connection: Arc<Connection>,
    headers: &HeaderMap,
    proxies: &[ProxyNetwork],
) -> Arc<Connection> {
    let believes_none = proxies.is_empty() && !contracts::mutant("forwarded_by_anybody");
    if believes_none || contracts::mutant("forwarded_by_proxies") {
        return connection;
    }
    let address = client_address(connection.address, headers, proxies);
    if address == connection.address { connection } else { connection.for_client(address).into() }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn proxies(texts: &[&str]) -> Vec<ProxyNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted = proxies(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]);
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, address, holds) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "2001:db8::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("::1", "::1", true),
            ("10.0.0.128/25", "10.0.0.127", false),
        ] {
            let parsed: ProxyNetwork = network.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), holds, "{network} {address}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn what_is_no_network_is_refused_by_name() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.1.0.0/8",
            "ten/8",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/99999999999",
        ] {
            assert!(text.parse::<ProxyNetwork>().unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_from_the_right() {
        let cases: &[(&str, &[&str], &str)] = &[
            ("203.0.113.5", &["198.51.100.7"], "203.0.113.5"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1,198.51.100.7 , 10.9.9.9"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.7", "2001:db8::5"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db9::7]:4711"], "2001:db9::7"),
            ("10.0.0.1", &["[2001:db9::7]"], "2001:db9::7"),
            ("10.0.0.1", &["2001:db9::7"], "2001:db9::7"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, unknown, 10.3.3.3"], "10.3.3.3"),
            ("10.0.0.1", &["1.1.1.1, \u{e4}"], "10.0.0.1"),
            ("10.0.0.1", &["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        ];
        for (peer, lines, expected) in cases {
            assert_eq!(client(peer, lines), *expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_request_that_is_passed_on_is_its_clients() {
        let connection = Arc::new(Connection::new([10, 0, 0, 1].into()));
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(FORWARDED_FOR),
            HeaderValue::from_static("198.51.100.7"),
        )]);
        let peer = |known: &[&str]| attribute(Arc::clone(&connection), &headers, &proxies(known)).peer;
        assert_eq!((peer(&[]), peer(&["10.0.0.2"])), (connection.peer, connection.peer));
        assert_eq!(peer(&["10.0.0.0/8"]), Connection::new([198, 51, 100, 7].into()).peer);
    }
}
