//! A bucket in memory behind the SDK's own client: no sockets, so that with a paused clock the same seed goes
//! the same way. Every request takes a while, and may fail: before it is applied, after it, or be applied
//! late.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Keys that one LIST answers: few, so that there are many pages.
const LIST_PAGE: usize = 7;
/// How long Zombi waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Applied, and answered.
    Answered,
    /// 503, not applied.
    Refused,
    /// 403, not applied.
    Denied,
    /// Applied, and the answer is lost.
    AnswerLost,
    /// 500, and applied later.
    Late,
    /// Neither answered nor applied.
    Silent,
}

/// Kinds of requests, of which one may be refused while the others are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// GET of a whole object.
    Get,
    /// GET of a part of one.
    GetRange,
    /// A page of keys.
    List,
    /// PUT below `manifests/`.
    PutManifest,
    /// PUT below `segments/`.
    PutSegment,
    /// Every PUT with `If-None-Match: *`.
    PutNew,
    /// DELETE of one object.
    Delete,
}

impl RequestKind {
    fn is_of(self, request: &Asked) -> bool {
        let Asked { method, key, only_new, range, .. } = request;
        match self {
            Self::Get => method == "GET" && !key.is_empty() && range.is_none(),
            Self::GetRange => method == "GET" && range.is_some(),
            Self::List => method == "GET" && key.is_empty(),
            Self::PutManifest => method == "PUT" && key.starts_with("manifests/"),
            Self::PutSegment => method == "PUT" && key.starts_with("segments/"),
            Self::PutNew => method == "PUT" && *only_new,
            Self::Delete => method == "DELETE",
        }
    }
}

/// The bucket. Any number of clients may share it.
pub struct MemoryBucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
    rng: Mutex<StdRng>,
    /// Of a thousand requests so many suffer.
    pub faults: AtomicU32,
    /// Nothing is answered while set.
    pub is_down: AtomicBool,
    /// What is refused, and how.
    refused: Mutex<Option<(RequestKind, Fate)>>,
    started: Instant,
    trace: Mutex<Vec<String>>,
}

impl fmt::Debug for MemoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryBucket")
    }
}

impl MemoryBucket {
    /// Its name.
    pub const NAME: &str = "b";

    /// An empty bucket whose faults follow from the seed.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: AtomicU32::new(0),
            is_down: AtomicBool::new(false),
            refused: Mutex::default(),
            started: Instant::now(),
            trace: Mutex::default(),
        })
    }

    /// The objects below a prefix, by key.
    pub fn below(&self, prefix: &str) -> BTreeMap<String, Bytes> {
        let objects = self.objects.lock();
        let below = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        below.map(|(key, body)| (key.clone(), body.clone())).collect()
    }

    /// Has an object, as if a put that was sent long ago were applied now.
    pub fn put_late(&self, key: &str, body: Bytes) {
        self.objects.lock().insert(key.to_owned(), body);
    }

    /// A client of its own for one process.
    pub fn client(self: &Arc<Self>) -> Client {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("zombi", "zombi", None, None, "sim"))
            .endpoint_url("http://bucket.sim")
            .force_path_style(true)
            .http_client(Connector(Arc::clone(self)))
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            // By itself it shares what it may try again with all other clients of the process, those of other
            // tests too.
            .retry_partition(RetryPartition::new(Uuid::new_v4().to_string()))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(TIMEOUT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        Client::from_conf(config.build())
    }

    /// What it was asked, and what it answered, in order.
    pub fn trace(&self) -> Vec<String> {
        self.trace.lock().clone()
    }

    /// Notes something of the run beside the requests.
    pub fn note(&self, text: &str) {
        let line = format!("{:?} {text}", self.started.elapsed());
        self.trace.lock().push(line);
    }

    /// From now on requests of one kind have this fate.
    pub fn refuse(&self, kind: RequestKind, how: Fate) {
        self.note(&format!("{kind:?} is refused"));
        *self.refused.lock() = Some((kind, how));
    }

    /// From now on everything is answered.
    pub fn heal(&self) {
        self.faults.store(0, SeqCst);
        self.is_down.store(false, SeqCst);
        *self.refused.lock() = None;
    }

    fn draw(&self, request: &Asked) -> (Duration, Fate) {
        let mut rng = self.rng.lock();
        let delay = Duration::from_micros(rng.random_range(500..30_000));
        let kind = rng.random_range(0..4);
        let suffers = rng.random_range(0..1000) < self.faults.load(SeqCst);
        if self.is_down.load(SeqCst) {
            return (delay, Fate::Refused);
        }
        if let Some((_, how)) = self.refused.lock().filter(|(kind, _)| kind.is_of(request)) {
            return (delay, how);
        }
        let fates = [Fate::Refused, Fate::AnswerLost, Fate::Late, Fate::Silent];
        (delay, if suffers { fates[kind] } else { Fate::Answered })
    }

    async fn serve(self: Arc<Self>, request: Asked) -> Result<HttpResponse, ConnectorError> {
        let (delay, fate) = self.draw(&request);
        self.note(&format!("{} {fate:?}", request.line));
        sleep(delay).await;
        match fate {
            Fate::Refused => Ok(answer(503, error("SlowDown"))),
            Fate::Denied => Ok(answer(403, error("AccessDenied"))),
            Fate::Silent => {
                sleep(TIMEOUT * 2).await;
                Err(ConnectorError::timeout("silent".into()))
            }
            Fate::Late => {
                tokio::spawn(async move {
                    sleep(delay * 20).await;
                    self.note(&format!("{} applied late", request.line));
                    self.apply(&request);
                });
                Ok(answer(500, error("InternalError")))
            }
            Fate::AnswerLost => {
                self.apply(&request);
                sleep(delay).await;
                Err(ConnectorError::io("the answer is lost".into()))
            }
            Fate::Answered => {
                let answered = self.apply(&request);
                sleep(delay).await;
                Ok(answered)
            }
        }
    }

    fn apply(&self, request: &Asked) -> HttpResponse {
        let mut objects = self.objects.lock();
        match request.method.as_str() {
            "PUT" if request.only_new && objects.contains_key(&request.key) => {
                answer(412, error("PreconditionFailed"))
            }
            "PUT" => {
                objects.insert(request.key.clone(), request.body.clone());
                answer(200, Bytes::new())
            }
            "DELETE" => {
                objects.remove(&request.key);
                answer(204, Bytes::new())
            }
            "GET" if request.key.is_empty() => answer(200, list(&objects, &request.query)),
            "GET" => match (objects.get(&request.key), request.range) {
                (None, _) => answer(404, error("NoSuchKey")),
                (Some(whole), None) => answer(200, whole.clone()),
                (Some(whole), Some((first, last))) if first < whole.len() => {
                    answer(206, whole.slice(first..whole.len().min(last + 1)))
                }
                _ => answer(416, error("InvalidRange")),
            },
            other => unreachable!("nobody asks for {other}"),
        }
    }
}

/// A request as far as a bucket minds.
struct Asked {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    body: Bytes,
    only_new: bool,
    range: Option<(usize, usize)>,
    /// How it shows in the trace.
    line: String,
}

impl Asked {
    fn of(request: &HttpRequest) -> Self {
        let uri: hyper::Uri = request.uri().parse().expect("the SDK asks for URIs");
        let path = uri.path().trim_start_matches('/').trim_start_matches(MemoryBucket::NAME);
        let key = path.trim_start_matches('/').to_owned();
        let query: BTreeMap<String, String> = form(uri.query().unwrap_or("")).collect();
        let range = request.headers().get("range").map(|range| {
            let (first, last) =
                range.trim_start_matches("bytes=").split_once('-').expect("a range has two ends");
            (first.parse().unwrap(), last.parse().unwrap())
        });
        let prefix = query.get("prefix").map_or("", String::as_str);
        // The probe's keys are random.
        let shown = if [key.as_str(), prefix].iter().any(|name| name.starts_with("probe")) {
            "probe"
        } else {
            &format!("{key}?{prefix}")
        };
        let line = format!("{} {shown} {range:?}", request.method());
        let body = Bytes::copy_from_slice(request.body().bytes().unwrap_or_default());
        let only_new = request.headers().get("if-none-match").is_some();
        Self { method: request.method().to_owned(), key, query, body, only_new, range, line }
    }
}

fn form(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.replace("%2F", "/").replace("%3A", ":")))
}

fn list(objects: &BTreeMap<String, Bytes>, query: &BTreeMap<String, String>) -> Bytes {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let after = get("continuation-token").max(get("start-after"));
    let mut found = objects.keys().filter(|key| key.starts_with(get("prefix")) && key.as_str() > after);
    let page: Vec<_> = found.by_ref().take(LIST_PAGE).collect();
    let next = found
        .next()
        .and(page.last())
        .map(|last| format!("<NextContinuationToken>{last}</NextContinuationToken>"));
    let contents: String =
        page.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
    let (is_truncated, next) = (next.is_some(), next.unwrap_or_default());
    format!("<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>{next}{contents}</ListBucketResult>")
        .into()
}

fn error(code: &str) -> Bytes {
    format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>").into()
}

fn answer(status: u16, body: Bytes) -> HttpResponse {
    HttpResponse::new(status.try_into().expect("a status"), SdkBody::from(body))
}

/// The bucket as the SDK sees it.
#[derive(Debug, Clone)]
struct Connector(Arc<MemoryBucket>);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (bucket, request) = (Arc::clone(&self.0), Asked::of(&request));
        HttpConnectorFuture::new(bucket.serve(request))
    }
}

impl HttpClient for Connector {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
