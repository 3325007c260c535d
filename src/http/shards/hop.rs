//! Whether a request comes from a client or from another pod, and whom that pod speaks for.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};

use crate::{
    auth::principal::Principal,
    cluster::{
        Cluster, pod_name,
        ticket::{Ticket, TicketUse},
    },
    http::{code::Code, context::OWNER, error::Problem},
};
use contracts::clock::{Clock, SystemClock};

/// Marks what a pod passes on: whoever gets it passes it on no further.
pub(super) const HOP: HeaderName = HeaderName::from_static("zombi-hop");
/// Who asks, as the pod says that the client has shown it to.
pub(super) const PRINCIPAL: HeaderName = HeaderName::from_static("zombi-principal");
/// Which of its shards a pod is asked for, where each has a log: numbers with commas.
pub(super) const SHARDS: HeaderName = HeaderName::from_static("zombi-shards");
/// How many events a request has written or read: for the audit log of the pod that the client asks.
const RECORDS: HeaderName = HeaderName::from_static("zombi-records");

/// Who has sent a request to this pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum AskedBy {
    /// A client.
    Client,
    /// Another pod, for a client of its own; whose it is is not known where pods have no secret.
    Pod(Option<Passed>),
}

/// The client that another pod speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Passed {
    /// Who it is.
    pub(in crate::http) principal: Principal,
    /// Where it is.
    pub(in crate::http) peer: IpAddr,
}

/// Who has sent a request.
///
/// # Errors
/// 403 if it claims to come from a pod and does not.
pub(in crate::http) fn asked_by(request: &Request, cluster: &Cluster) -> Result<AskedBy, Problem> {
    let headers = request.headers();
    if !headers.contains_key(HOP) && !headers.contains_key(PRINCIPAL) {
        return Ok(AskedBy::Client);
    }
    let Some(secret) = &cluster.secret else {
        return Ok(if headers.contains_key(HOP) { AskedBy::Pod(None) } else { AskedBy::Client });
    };
    let refused = |why: &str| {
        Problem::new(Code::Forbidden, format!("the request claims to come from a pod of this cluster: {why}"))
            .not_written()
    };
    let mut tickets = headers.get_all(PRINCIPAL).iter();
    let (Some(ticket), None) = (tickets.next().and_then(|value| value.to_str().ok()), tickets.next()) else {
        return Err(refused("it must have one Zombi-Principal"));
    };
    let own = pod_name(cluster.own);
    let needed = TicketUse {
        method: request.method().as_str(),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()),
        to: &own,
        now: SystemClock.now_ms() / 1000,
    };
    let ticket = Ticket::read(ticket, secret, needed).map_err(|bad| refused(&bad.to_string()))?;
    let principal = ticket.principal.parse().map_err(|_| refused("it speaks for nobody"))?;
    Ok(AskedBy::Pod(Some(Passed { principal, peer: ticket.peer })))
}

/// Says in an answer which pod owns what was asked for.
pub(super) fn name_owner(mut response: Response, owner: HeaderValue) -> Response {
    response.headers_mut().insert(OWNER, owner);
    response
}

/// A pod's name, as a header has it.
pub(super) fn name_header(pod: u32) -> HeaderValue {
    HeaderValue::from_str(&pod_name(pod)).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Tells the pod that has passed a request on how many events it has written or read.
pub(in crate::http) fn tell_records(response: &mut Response, records: u64) {
    if records > 0 {
        response.headers_mut().insert(RECORDS, records.into());
    }
}

/// The head of another pod's answer as this pod may pass it on, and how many events it says that the request
/// has written or read.
pub(super) fn received<B>(mut answer: Response<B>) -> (Response<B>, u64) {
    let headers = answer.headers_mut();
    remove(headers, |name| name != OWNER && stays(name));
    let told = headers.remove(RECORDS);
    let records = told.and_then(|records| records.to_str().ok()?.parse().ok()).unwrap_or(0);
    (answer, records)
}

/// Removes the headers of these names. Most heads have few of them: only those are looked for.
pub(super) fn remove(headers: &mut HeaderMap, is_named: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = headers.keys().filter(|name| is_named(name)).cloned().collect();
    for name in named {
        headers.remove(name);
    }
}

/// Whether a header stays where it is: it belongs to one connection, or only the pod which the client asks may
/// see it.
pub(super) fn stays(name: &HeaderName) -> bool {
    // By their text: to compare each name of each request with seventeen others one by one costs much more.
    match name.as_str() {
        "authorization" | "proxy-authorization" | "cookie" => true,
        "connection" | "keep-alive" | "proxy-connection" | "upgrade" => true,
        "expect" | "te" | "trailer" | "transfer-encoding" => true,
        // Where the client is the ticket says. A pod may be taken for a proxy that is trusted.
        "x-forwarded-for" => true,
        "zombi-hop" | "zombi-principal" | "zombi-shards" | "zombi-request-id" | "zombi-owner" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::header};
    use cold_s3::cluster::ClusterRecord;

    use super::*;
    use crate::{
        cluster::{secret::SecretFile, settings::ClusterSettings},
        http::context::PASSED_ID,
    };

    fn cluster(secret: bool) -> Cluster {
        let settings = ClusterSettings { pods: 3, copies: 1, ..ClusterSettings::default() };
        let record = ClusterRecord::new(settings.shape());
        let secret = secret.then(|| SecretFile::parse(&[b'a'; 32]).unwrap().into());
        Cluster::new(&settings, record, 1, secret)
    }

    fn request(headers: &[(HeaderName, String)]) -> Request {
        let mut request = Request::post("/tables/t").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    }

    fn ticket(to: &str) -> String {
        let ticket = Ticket {
            principal: "token:ci".to_owned(),
            peer: [192, 0, 2, 7].into(),
            method: "POST".to_owned(),
            path: "/tables/t".to_owned(),
            to: to.to_owned(),
            exp: SystemClock.now_ms() / 1000 + 30,
        };
        ticket.signed(&SecretFile::parse(&[b'a'; 32]).unwrap())
    }

    #[test]
    fn of_an_answer_nothing_of_its_connection_goes_on() {
        let mut answer = Response::new(());
        for (name, value) in
            [("connection", "close"), ("transfer-encoding", "chunked"), ("zombi-offset", "7")]
        {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let mut answer = name_owner(answer.map(|()| Body::empty()), name_header(2));
        tell_records(&mut answer, 3);
        let (answer, records) = received(answer);
        let mut names: Vec<&str> = answer.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!((records, names), (3, vec!["zombi-offset", "zombi-owner"]));
        assert_eq!(received(answer).1, 0);
    }

    #[test]
    fn what_pods_say_to_each_other_stays_between_them() {
        for name in [HOP, PRINCIPAL, SHARDS, PASSED_ID, OWNER] {
            assert!(stays(&name), "{name}");
        }
        assert!(!stays(&RECORDS) && !stays(&header::CONTENT_TYPE));
    }

    #[test]
    fn only_a_signed_ticket_makes_a_pod_of_whoever_asks() {
        let hop = || (HOP, "1".to_owned());
        let code = |request: &Request| asked_by(request, &cluster(true)).map_err(|problem| problem.code());
        assert_eq!(code(&request(&[])), Ok(AskedBy::Client));
        let right = (PRINCIPAL, ticket("zombi-1"));
        let passed = Passed { principal: Principal::Token("ci".to_owned()), peer: [192, 0, 2, 7].into() };
        assert_eq!(code(&request(&[hop(), right.clone()])), Ok(AskedBy::Pod(Some(passed))));
        for headers in [
            vec![hop()],
            vec![hop(), (PRINCIPAL, "token:ci".to_owned())],
            vec![(PRINCIPAL, "token:ci".to_owned())],
            vec![hop(), (PRINCIPAL, ticket("zombi-2"))],
            vec![hop(), right.clone(), right],
        ] {
            assert_eq!(code(&request(&headers)), Err(Code::Forbidden), "{headers:?}");
        }
        let open = |headers: &[_]| asked_by(&request(headers), &cluster(false)).unwrap();
        assert_eq!(open(&[hop()]), AskedBy::Pod(None));
        assert_eq!(open(&[(PRINCIPAL, "token:ci".to_owned())]), AskedBy::Client);
    }
}
