//! What can go wrong between Zombi and S3, done to requests on their way to the store.

use std::{io, sync::Mutex, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::Frame,
    header,
    http::{request::Parts, response},
};
use s3s::{Body, service::S3Service};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    SegmentPut,
    ManifestPut,
    ManifestGet,
    SegmentGet,
    List,
    Delete,
}

impl Operation {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let path = request.uri().path();
        let (is_segment, is_manifest) = (path.contains("/segments/"), path.contains("/manifests/"));
        match *request.method() {
            Method::PUT if is_segment => Some(Self::SegmentPut),
            Method::PUT if is_manifest => Some(Self::ManifestPut),
            Method::GET if request.uri().query().is_some_and(|query| query.contains("list-type")) => {
                Some(Self::List)
            }
            Method::GET if is_manifest => Some(Self::ManifestGet),
            Method::GET if is_segment => Some(Self::SegmentGet),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with an error, not applied: 500, 503 and 429 pass, 403 and 404 (a missing bucket) may.
    Status(u16),
    /// A conditional PUT that ran into another: 409.
    Conflict,
    /// The connection breaks before it is applied.
    ResetRequest,
    /// It is applied, and the connection breaks in the answer.
    ResetAnswer,
    /// It is applied, and no answer comes.
    AnswerLost,
    /// It is answered 500, and applied later.
    AppliedLate,
    /// The answer comes byte by byte.
    Slow,
    /// No answer comes, and nothing is applied; the connection breaks when faults are cleared.
    Hang,
    /// It is applied and answered once faults are cleared.
    Held,
    /// Half of the answer's body is missing, and its length says so.
    Truncated,
    /// A bit of the answer's body is wrong.
    Flipped,
}

impl Fault {
    pub const ALL: [Self; 14] = [
        Self::Status(500),
        Self::Status(503),
        Self::Status(429),
        Self::Status(403),
        Self::Status(404),
        Self::Conflict,
        Self::ResetRequest,
        Self::ResetAnswer,
        Self::AnswerLost,
        Self::AppliedLate,
        Self::Slow,
        Self::Hang,
        Self::Truncated,
        Self::Flipped,
    ];
}

/// Faults to come.
#[derive(Debug, Default)]
pub struct Faults {
    planned: Mutex<Vec<(Operation, Fault, usize)>>,
    pub(super) cleared: Notify,
}

impl Faults {
    /// The next `count` requests of the kind suffer.
    pub fn add(&self, operation: Operation, fault: Fault, count: usize) {
        self.planned.lock().unwrap().push((operation, fault, count));
    }

    /// No more faults.
    pub fn clear(&self) {
        self.planned.lock().unwrap().clear();
        self.cleared.notify_waiters();
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.planned.lock().unwrap().iter().map(|(_, _, count)| count).sum()
    }

    pub(super) fn next<B>(&self, request: &Request<B>) -> Option<Fault> {
        let operation = Operation::of(request)?;
        let mut faults = self.planned.lock().unwrap();
        let (_, fault, count) =
            faults.iter_mut().find(|(wanted, _, count)| *wanted == operation && *count > 0)?;
        *count -= 1;
        Some(*fault)
    }
}

/// A refusal of the matching requests for as long as it is set: a wrong key, another region, a missing
/// bucket, a server that does not know the request.
#[derive(Debug, Clone, Copy)]
pub struct StandingRefusal {
    /// Which requests it matches.
    pub of: fn(&Parts) -> bool,
    pub status: u16,
    /// The `Code` of the answer.
    pub code: &'static str,
    /// The region that the answer names as the bucket's.
    pub region: Option<&'static str>,
}

impl StandingRefusal {
    /// The answer to every request.
    pub fn of_all(status: u16, code: &'static str) -> Self {
        Self { of: |_| true, status, code, region: None }
    }

    /// The answer to requests of one kind.
    pub fn only(of: fn(&Parts) -> bool, status: u16, code: &'static str) -> Self {
        Self { of, status, code, region: None }
    }

    pub(super) fn answer(self) -> S3Answer {
        let mut answer = error(self.status, self.code, self.region);
        if let Some(region) = self.region {
            answer.headers_mut().insert("x-amz-bucket-region", header::HeaderValue::from_static(region));
        }
        answer
    }
}

pub(super) type S3Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A request that can be applied now, later or not at all.
pub(super) struct ReceivedRequest {
    pub(super) service: S3Service,
    pub(super) head: Parts,
    pub(super) body: Bytes,
}

impl ReceivedRequest {
    fn request(&self) -> Request<Body> {
        Request::from_parts(self.head.clone(), Body::from(self.body.clone()))
    }

    async fn apply(&self) -> io::Result<(response::Parts, Bytes)> {
        let (head, body) = self.service.call(self.request()).await.map_err(io::Error::other)?.into_parts();
        let bytes = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
        Ok((head, bytes))
    }

    fn apply_late(&self) {
        let (service, request) = (self.service.clone(), self.request());
        tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            drop(service.call(request).await);
        });
    }

    /// Serves it, with a fault if one is due; what hangs does so until it is cleared.
    pub(super) async fn answer(self, fault: Option<Fault>, cleared: &Notify) -> io::Result<S3Answer> {
        match fault {
            None => self.apply().await.map(|(head, bytes)| Response::from_parts(head, whole(bytes))),
            Some(Fault::Status(status)) => Ok(usual_error(status)),
            Some(Fault::Conflict) if self.head.method == Method::PUT => Ok(usual_error(409)),
            Some(Fault::Conflict) => Ok(usual_error(503)),
            Some(Fault::ResetRequest) => Err(broken()),
            Some(Fault::AnswerLost) => self.apply().await.and(Err(broken())),
            Some(Fault::Hang) => {
                drop(timeout(Duration::from_secs(3600), cleared.notified()).await);
                Err(broken())
            }
            Some(Fault::Held) => {
                drop(timeout(Duration::from_secs(3600), cleared.notified()).await);
                self.apply().await.map(|(head, bytes)| Response::from_parts(head, whole(bytes)))
            }
            Some(Fault::AppliedLate) => {
                self.apply_late();
                Ok(usual_error(500))
            }
            Some(Fault::ResetAnswer) => self.apply().await.map(|(head, bytes)| broken_off(head, &bytes)),
            Some(Fault::Slow) => self.apply().await.map(|(head, bytes)| byte_by_byte(head, bytes)),
            Some(Fault::Truncated) => self.apply().await.map(|(head, bytes)| truncated(head, &bytes)),
            Some(Fault::Flipped) => self.apply().await.map(|(head, bytes)| flipped(head, &bytes)),
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("broken on purpose")
}

/// Half of the answer, and then the connection breaks.
fn broken_off(head: response::Parts, bytes: &Bytes) -> S3Answer {
    let half = bytes.slice(..bytes.len() / 2);
    let pieces = stream::iter([Ok(Frame::data(half)), Err(broken())]);
    Response::from_parts(head, StreamBody::new(pieces).boxed_unsync())
}

fn byte_by_byte(head: response::Parts, bytes: Bytes) -> S3Answer {
    let pieces = stream::iter(0..bytes.len()).then(move |at| {
        let byte = bytes.slice(at..=at);
        async move {
            sleep(Duration::from_secs(1)).await;
            Ok(Frame::data(byte))
        }
    });
    Response::from_parts(head, StreamBody::new(pieces).boxed_unsync())
}

/// Half of the answer, with a length that says so.
fn truncated(mut head: response::Parts, bytes: &Bytes) -> S3Answer {
    let half = bytes.slice(..bytes.len() / 2);
    if head.headers.contains_key(header::CONTENT_LENGTH) {
        head.headers.insert(header::CONTENT_LENGTH, half.len().into());
    }
    Response::from_parts(head, whole(half))
}

fn flipped(head: response::Parts, bytes: &Bytes) -> S3Answer {
    let mut bytes = BytesMut::from(bytes.as_ref());
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    Response::from_parts(head, whole(bytes.freeze()))
}

pub(super) fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The error that a store usually means by a status.
fn usual_error(status: u16) -> S3Answer {
    let code = match status {
        403 => "AccessDenied",
        404 => "NoSuchBucket",
        409 => "ConditionalRequestConflict",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    };
    error(status, code, None)
}

fn error(status: u16, code: &str, region: Option<&str>) -> S3Answer {
    let region = region.map_or_else(String::new, |region| format!("<Region>{region}</Region>"));
    let text = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message>{region}</Error>"
    );
    // 304 never has a body.
    let mut answer = Response::new(whole(if status == 304 { Bytes::new() } else { text.into() }));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    answer
}
