//! Sessions of people who have signed in to the console: who began each, and until when it lasts. An id is
//! 256 random bits; only its digest is kept, and never the token that it was given for. Sessions live in
//! memory: a restart ends all of them.

use std::{collections::HashMap, time::Duration};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    identity::{Credential, Identity, SessionDigest},
    principal::Principal,
};

/// The cookie with a session's id.
pub(crate) const COOKIE: &str = "zombi_console";
/// How long a session lasts, if its token does not end before.
const LASTS: Duration = Duration::from_secs(8 * 60 * 60);
/// Sessions at once.
const MOST: usize = 1000;
/// Characters of an id.
const ID_CHARS: usize = 43;

/// The sessions that go on.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<SessionDigest, KeptSession>>);

#[derive(Debug, Clone)]
struct KeptSession {
    identity: Identity,
    began: Instant,
    ends: Instant,
}

/// A session that has begun. It has no `Debug`, so that no log shows its id.
pub(crate) struct NewSession {
    /// Its id, for the cookie.
    pub(crate) id: String,
    /// Who began it.
    pub(crate) principal: Principal,
    /// How long it lasts.
    pub(crate) lasts: Duration,
    /// Whether another session had to end for it.
    pub(super) has_displaced: bool,
}

impl Sessions {
    /// Begins a session. If there are too many, the oldest of whoever has the most makes room, so that nobody
    /// can push others out. `None` if the operating system gives no random bytes.
    pub(super) fn begin(&self, identity: Identity, now: Instant) -> Option<NewSession> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).ok()?;
        let id = URL_SAFE_NO_PAD.encode(random);
        let digest = digest(&id);
        let ends = identity.expires.map_or(now + LASTS, |expires| expires.min(now + LASTS));
        let principal = identity.principal.clone();
        let credential = Credential { session: Some(digest), ..identity.credential };
        let identity = Identity { credential, expires: Some(ends), expires_ms: None, ..identity };
        let mut kept = self.0.lock();
        if kept.len() >= MOST {
            kept.retain(|_, session| session.ends > now);
        }
        let goes = (kept.len() >= MOST).then(|| oldest_of_most(&kept)).flatten();
        let has_displaced = goes.is_some_and(|oldest| kept.remove(&oldest).is_some());
        kept.insert(digest, KeptSession { identity, began: now, ends });
        Some(NewSession { id, principal, lasts: ends.saturating_duration_since(now), has_displaced })
    }

    /// Who began the session with this id, if it goes on.
    pub(super) fn find(&self, id: &str, now: Instant) -> Option<(SessionDigest, Identity)> {
        if id.len() != ID_CHARS {
            return None;
        }
        let digest = digest(id);
        let mut kept = self.0.lock();
        let session = kept.get(&digest)?;
        if session.ends <= now {
            kept.remove(&digest);
            return None;
        }
        Some((digest, session.identity.clone()))
    }

    /// Whether a session goes on.
    pub(super) fn has(&self, digest: &SessionDigest, now: Instant) -> bool {
        self.0.lock().get(digest).is_some_and(|session| session.ends > now)
    }

    /// Ends a session.
    pub(super) fn end(&self, digest: &SessionDigest) {
        self.0.lock().remove(digest);
    }
}

/// The oldest session of the principal that has the most.
fn oldest_of_most(kept: &HashMap<SessionDigest, KeptSession>) -> Option<SessionDigest> {
    let mut counts: HashMap<&Principal, usize> = HashMap::new();
    for session in kept.values() {
        *counts.entry(&session.identity.principal).or_default() += 1;
    }
    let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let its = kept.iter().filter(|(_, session)| session.identity.principal == *most);
    its.min_by_key(|(_, session)| session.began).map(|(digest, _)| *digest)
}

/// The id of a session that a request carries in its cookie. Two different ones are none: somebody else may
/// have set the other.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ids = pairs.filter(|(name, _)| *name == COOKIE).map(|(_, id)| id);
    let id = ids.next()?;
    ids.all(|other| other == id).then_some(id)
}

fn digest(id: &str) -> SessionDigest {
    Sha256::digest(id).into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::auth::{
        gate::tests::gate,
        refusal::SignInRefusal,
        tokens::{self, Tokens},
    };

    fn of(name: &str, expires: Option<Instant>) -> Identity {
        Identity {
            principal: Principal::Token(name.to_owned()),
            credential: Credential { token: Some([7; 32]), ..Credential::default() },
            expires,
            expires_ms: None,
        }
    }

    fn begin(sessions: &Sessions, name: &str) -> String {
        sessions.begin(of(name, None), Instant::now()).unwrap().id
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_lasts_eight_hours_or_as_long_as_its_token() {
        let sessions = Sessions::default();
        let began = Instant::now();
        for (token, lasts) in [(None, 8 * 3600), (Some(60), 60), (Some(9 * 3600), 8 * 3600)] {
            let expires = token.map(|secs| began + Duration::from_secs(secs));
            let new = sessions.begin(of("a", expires), began).unwrap();
            assert_eq!((new.lasts.as_secs(), new.id.len()), (lasts, ID_CHARS));
            assert!(!new.has_displaced);
            let before = began + Duration::from_secs(lasts) - Duration::from_millis(1);
            let (digest, identity) = sessions.find(&new.id, before).unwrap();
            assert_eq!(identity.principal, Principal::Token("a".to_owned()));
            let credential = Credential { token: Some([7; 32]), session: Some(digest), key: None };
            assert_eq!(identity.credential, credential);
            assert!(sessions.has(&digest, before));
            assert!(!sessions.has(&digest, began + Duration::from_secs(lasts)));
            assert!(sessions.find(&new.id, began + Duration::from_secs(lasts)).is_none());
        }
    }

    #[tokio::test]
    async fn ids_are_apart_and_nothing_else_is_one() {
        let sessions = Sessions::default();
        let (a, b) = (begin(&sessions, "a"), begin(&sessions, "b"));
        assert_ne!(a, b);
        let now = Instant::now();
        let (digest, identity) = sessions.find(&b, now).unwrap();
        assert_eq!(identity.principal, Principal::Token("b".to_owned()));
        for wrong in ["", "x", &a[1..], &format!("{a}="), &"A".repeat(ID_CHARS)] {
            assert!(sessions.find(wrong, now).is_none(), "{wrong}");
        }
        sessions.end(&digest);
        assert!(sessions.find(&b, now).is_none() && sessions.find(&a, now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_a_thousand_at_most_and_whoever_has_the_most_makes_room() {
        let sessions = Sessions::default();
        let other = begin(&sessions, "other");
        let mut greedy = Vec::new();
        for _ in 0..MOST + 5 {
            tokio::time::advance(Duration::from_millis(1)).await;
            greedy.push(begin(&sessions, "greedy"));
        }
        assert_eq!(sessions.0.lock().len(), MOST);
        let next = |now| sessions.begin(of("greedy", None), now).unwrap();
        assert!(next(Instant::now()).has_displaced);
        let now = Instant::now();
        assert!(sessions.find(&other, now).is_some(), "it had only one");
        let left = greedy.iter().filter(|id| sessions.find(id, now).is_some()).count();
        assert_eq!(left, MOST - 2);
        assert!(sessions.find(&greedy[6], now).is_none(), "the oldest went first");
        assert!(sessions.find(&greedy[7], now).is_some());
        // Those that are over make room before anybody's.
        tokio::time::advance(LASTS).await;
        begin(&sessions, "other");
        assert_eq!(sessions.0.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn to_sign_in_is_a_request_and_nobody_looks_again_for_it() {
        let gate = gate(
            "version: 1\nbindings: []\nquotas:\n  bindings:\n  \
             - {subjects: [\"token:ci\"], requests_per_sec: 2}\n",
        );
        let token = tokens::new_token("ci").unwrap();
        gate.adopt_tokens(Tokens::parse(&format!("version: 1\ntokens:\n{}\n", token.line)).unwrap());
        let before = *gate.changed.borrow();
        for _ in 0..2 {
            assert!(gate.sign_in(&token.plain).await.is_ok());
        }
        let Err(SignInRefusal::OverQuota(over)) = gate.sign_in(&token.plain).await else {
            panic!("it is let in")
        };
        assert_eq!((over.quota, *gate.changed.borrow()), ("requests", before));
        tokio::time::advance(over.retry_after).await;
        assert!(gate.sign_in(&token.plain).await.is_ok());
    }

    #[test]
    fn the_cookie_stands_among_others_and_is_one() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_static(line));
            }
            cookie(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["a=b; zombi_console=id; c=d"]).as_deref(), Some("id"));
        assert_eq!(of(&["a=b", "zombi_console=id;zombi_console=id"]).as_deref(), Some("id"));
        let nones: [&[&'static str]; 5] = [
            &[],
            &["a=b"],
            &["xzombi_console=id"],
            &["zombi_console"],
            &["zombi_console=1", "zombi_console=2"],
        ];
        for none in nones {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
