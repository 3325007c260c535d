//! What can go wrong between Zombi and S3, done to requests on their way to the store.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, body::Frame, header};
use s3s::{Body, service::S3Service};
use tokio::time::sleep;

use super::s3::Store;

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
            Method::GET if request.uri().query().is_some_and(|query| query.contains("list-type")) => Some(Self::List),
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
    /// No answer comes, and nothing is applied.
    Hang,
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
pub struct Faults(Mutex<Vec<(Operation, Fault, usize)>>);

impl Faults {
    /// The next `count` requests of the kind suffer.
    pub fn add(&self, operation: Operation, fault: Fault, count: usize) {
        self.0.lock().unwrap().push((operation, fault, count));
    }

    /// No more faults.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.0.lock().unwrap().iter().map(|(_, _, count)| count).sum()
    }

    fn next<B>(&self, request: &Request<B>) -> Option<Fault> {
        let operation = Operation::of(request)?;
        let mut faults = self.0.lock().unwrap();
        let (_, fault, count) = faults.iter_mut().find(|(wanted, _, count)| *wanted == operation && *count > 0)?;
        *count -= 1;
        Some(*fault)
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Serves one request, with a fault if it is due.
pub async fn serve(store: Arc<Store>, service: S3Service, request: Request<hyper::body::Incoming>) -> io::Result<Answer> {
    let fault = store.faults.next(&request);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let apply = async || {
        let request = Request::from_parts(head.clone(), Body::from(body.clone()));
        let (head, body) = service.call(request).await.map_err(io::Error::other)?.into_parts();
        let bytes = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
        Ok::<_, io::Error>((head, bytes))
    };
    let broken = || io::Error::other("broken on purpose");
    match fault {
        None => apply().await.map(|(head, bytes)| Response::from_parts(head, whole(bytes))),
        Some(Fault::Status(status)) => Ok(error(status)),
        Some(Fault::Conflict) if head.method == Method::PUT => Ok(error(409)),
        Some(Fault::Conflict) => Ok(error(503)),
        Some(Fault::ResetRequest) => Err(broken()),
        Some(Fault::AnswerLost) => apply().await.and(Err(broken())),
        Some(Fault::Hang) => {
            sleep(Duration::from_secs(3600)).await;
            Err(broken())
        }
        Some(Fault::AppliedLate) => {
            let (service, request) = (service.clone(), Request::from_parts(head.clone(), Body::from(body.clone())));
            tokio::spawn(async move {
                sleep(Duration::from_millis(300)).await;
                drop(service.call(request).await);
            });
            Ok(error(500))
        }
        Some(Fault::ResetAnswer) => {
            let (head, bytes) = apply().await?;
            let half = bytes.slice(..bytes.len() / 2);
            let pieces = stream::iter([Ok(Frame::data(half)), Err(broken())]);
            Ok(Response::from_parts(head, StreamBody::new(pieces).boxed_unsync()))
        }
        Some(Fault::Slow) => {
            let (head, bytes) = apply().await?;
            let pieces = stream::iter(0..bytes.len()).then(move |at| {
                let byte = bytes.slice(at..=at);
                async move {
                    sleep(Duration::from_secs(1)).await;
                    Ok(Frame::data(byte))
                }
            });
            Ok(Response::from_parts(head, StreamBody::new(pieces).boxed_unsync()))
        }
        Some(Fault::Truncated) => {
            let (mut head, bytes) = apply().await?;
            let half = bytes.slice(..bytes.len() / 2);
            if head.headers.contains_key(header::CONTENT_LENGTH) {
                head.headers.insert(header::CONTENT_LENGTH, half.len().into());
            }
            Ok(Response::from_parts(head, whole(half)))
        }
        Some(Fault::Flipped) => {
            let (head, bytes) = apply().await?;
            let mut bytes = BytesMut::from(bytes.as_ref());
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            Ok(Response::from_parts(head, whole(bytes.freeze())))
        }
    }
}

fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn error(status: u16) -> Answer {
    let code = match status {
        403 => "AccessDenied",
        404 => "NoSuchBucket",
        409 => "ConditionalRequestConflict",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    let mut answer = Response::new(whole(text.into()));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    answer
}
