//! Signed proof of whose request a pod forwards: good for one request, one pod and half a minute.

use std::{borrow::Cow, net::IpAddr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::secret::SecretFile;
use contracts::hex::hex;

/// What every ticket begins with.
const VERSION: &str = "v1";
/// How long a ticket is good for, in seconds; clocks may differ by as much.
pub(crate) const LIFE_SECS: i64 = 30;
/// The most that a ticket has, in bytes.
const MOST_BYTES: usize = 16 << 10;
/// The most bytes of a path that a ticket has as it is: with all of a longer one it would be no header any
/// more.
const PATH_BYTES: usize = 1024;

/// Whose request it is, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Who sends it, as the policy names principals.
    pub principal: String,
    /// Where the client is.
    pub peer: IpAddr,
    /// The method.
    pub method: String,
    /// The path and the query, as [`in_ticket`] has them.
    pub path: String,
    /// The pod that it is for.
    pub to: String,
    /// Until when it is good, in seconds since 1970.
    pub exp: i64,
}

/// What a ticket must be for.
#[derive(Debug, Clone, Copy)]
pub struct TicketUse<'a> {
    /// The method of the request that it came with.
    pub method: &'a str,
    /// Its path and query.
    pub path: &'a str,
    /// This pod.
    pub to: &'a str,
    /// The time of day, in seconds since 1970.
    pub now: i64,
}

/// Why a ticket is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTicket {
    /// It is no ticket, or nobody here has signed it.
    #[error("nobody of this cluster has signed it")]
    Signature,
    /// It is for another request or another pod.
    #[error("it is for another request")]
    Use,
    /// It is too old, or its time has not come.
    #[error("its time is over, or the clocks of the pods differ by more than 30 s")]
    Time,
}

/// A path and a query as tickets have them: a long one by its hash. No path begins as that does.
pub fn in_ticket(path: &str) -> Cow<'_, str> {
    if path.len() <= PATH_BYTES {
        return Cow::Borrowed(path);
    }
    Cow::Owned(format!("sha256:{}", hex(&Sha256::digest(path))))
}

impl Ticket {
    /// The signed text.
    pub fn signed(&self, secret: &SecretFile) -> String {
        let body = serde_json::to_vec(self).unwrap_or_default(); // it has only string keys
        let text = format!("{VERSION}.{}", URL_SAFE_NO_PAD.encode(body));
        let signature = URL_SAFE_NO_PAD.encode(secret.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// Reads a ticket that must be good for a use.
    ///
    /// # Errors
    /// [`BadTicket`].
    pub fn read(text: &str, secret: &SecretFile, needed: TicketUse<'_>) -> Result<Self, BadTicket> {
        if text.len() > MOST_BYTES {
            return Err(BadTicket::Signature);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(BadTicket::Signature)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadTicket::Signature)?;
        // Before anything in it is looked at.
        if !secret.has_signed(signed.as_bytes(), &signature) {
            return Err(BadTicket::Signature);
        }
        let body = signed.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.'));
        let body = URL_SAFE_NO_PAD.decode(body.ok_or(BadTicket::Signature)?);
        let ticket: Self = serde_json::from_slice(&body.map_err(|_| BadTicket::Signature)?)
            .map_err(|_| BadTicket::Signature)?;
        let TicketUse { method, path, to, now } = needed;
        let path = in_ticket(path);
        if (ticket.method.as_str(), ticket.path.as_str(), ticket.to.as_str()) != (method, &*path, to) {
            return Err(BadTicket::Use);
        }
        if (0..=2 * LIFE_SECS).contains(&ticket.exp.saturating_sub(now)) {
            Ok(ticket)
        } else {
            Err(BadTicket::Time)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> SecretFile {
        SecretFile::parse(&[b'a'; 32]).unwrap()
    }

    fn ticket() -> Ticket {
        Ticket {
            principal: "token:ci".to_owned(),
            peer: [192, 0, 2, 7].into(),
            method: "POST".to_owned(),
            path: "/tables/t?x=1".to_owned(),
            to: "zombi-2".to_owned(),
            exp: 1030,
        }
    }

    const GOOD: TicketUse<'_> = TicketUse { method: "POST", path: "/tables/t?x=1", to: "zombi-2", now: 1000 };

    #[test]
    fn a_ticket_is_good_for_one_request_one_pod_and_a_while() {
        let text = ticket().signed(&secret());
        assert_eq!(Ticket::read(&text, &secret(), GOOD), Ok(ticket()));
        for (needed, why) in [
            (TicketUse { method: "GET", ..GOOD }, BadTicket::Use),
            (TicketUse { path: "/tables/u?x=1", ..GOOD }, BadTicket::Use),
            (TicketUse { to: "zombi-1", ..GOOD }, BadTicket::Use),
            (TicketUse { now: 1031, ..GOOD }, BadTicket::Time),
            (TicketUse { now: 969, ..GOOD }, BadTicket::Time),
        ] {
            assert_eq!(Ticket::read(&text, &secret(), needed), Err(why), "{needed:?}");
        }
        assert!(Ticket::read(&text, &secret(), TicketUse { now: 970, ..GOOD }).is_ok(), "clocks may differ");
        let other = SecretFile::parse(&[b'b'; 32]).unwrap();
        assert_eq!(Ticket::read(&text, &other, GOOD), Err(BadTicket::Signature));
    }

    #[test]
    fn a_path_of_any_length_makes_a_ticket_that_fits_into_a_head() {
        let long = format!("/tables/t?{}", "x".repeat(60_000));
        for path in ["/tables/t", long.as_str()] {
            let text = Ticket { path: in_ticket(path).into_owned(), ..ticket() }.signed(&secret());
            assert!(text.len() < 4096, "{}", text.len());
            assert!(Ticket::read(&text, &secret(), TicketUse { path, ..GOOD }).is_ok());
            let other = format!("{path}y");
            let other = Ticket::read(&text, &secret(), TicketUse { path: &other, ..GOOD });
            assert_eq!(other, Err(BadTicket::Use));
        }
    }

    proptest! {
        #[test]
        fn no_change_goes_unnoticed(at: prop::sample::Index, with in "[A-Za-z0-9_.-]") {
            let text = ticket().signed(&secret());
            let mut changed = text.clone();
            let at = at.index(text.len());
            changed.replace_range(at..=at, &with);
            let is_same = changed == text;
            // The last letter of base64 has bits that nobody reads, and none may be set.
            prop_assert_eq!(Ticket::read(&changed, &secret(), GOOD).is_ok(), is_same);
        }

        #[test]
        fn whatever_comes_is_refused(text: String) {
            prop_assert_eq!(Ticket::read(&text, &secret(), GOOD), Err(BadTicket::Signature));
        }
    }
}
