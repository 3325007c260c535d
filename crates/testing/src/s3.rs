//! An S3 server of our own: a map and a mutex, so that a conditional put is atomic by construction. Knows
//! what Zombi uses.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method, Request, body::Incoming, http::request::Parts, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    auth::SimpleAuth,
    dto::{
        CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, CreateBucketInput,
        CreateBucketOutput, DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput,
        HeadBucketInput, HeadBucketOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput,
        PutObjectOutput, StreamingBlob,
    },
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    faults::{Faults, ReceivedRequest, S3Answer, StandingRefusal, whole},
    mirror::{Buckets, Mirror},
};

/// The key pair that it accepts unless it is given another.
pub const ACCESS_KEY: &str = "zombi";
pub const SECRET_KEY: &str = "zombi-secret";
/// Another key with the same secret, for tests in which the first is withdrawn.
pub const SECOND_ACCESS_KEY: &str = "zombi-second";

/// What the server holds, shared with the test.
#[derive(Debug, Default)]
pub struct ObjectStore {
    buckets: Mutex<Buckets>,
    /// Every request is answered 503 while set.
    pub is_down: AtomicBool,
    /// Requests that came while it was down, or that it refused.
    pub refused: AtomicUsize,
    /// What is refused while this is set.
    pub refusal: Mutex<Option<StandingRefusal>>,
    /// The heads of all PUTs, applied or not, once there is a list: they would only take memory otherwise.
    pub puts_seen: Mutex<Option<Vec<Put>>>,
    /// What happens to requests on their way here.
    pub faults: Faults,
    /// How many GETs there were, and the bytes of their answers.
    pub gets: AtomicUsize,
    pub got_bytes: AtomicUsize,
    /// How many PUTs and LISTs there were, and how many objects were copied in the store.
    pub puts: AtomicUsize,
    pub copies: AtomicUsize,
    /// No object is copied while set, as by a store that cannot.
    pub refuses_copies: AtomicBool,
    pub lists: AtomicUsize,
    /// `If-None-Match` is ignored while set.
    pub is_unconditional: AtomicBool,
    /// Keys that one LIST page holds; 0 means 1000.
    pub list_page: AtomicUsize,
    /// Objects are written there too, and read from there at the start.
    pub mirror: Option<Mirror>,
    /// The key pair that it accepts in place of the first.
    pub keys: Option<(String, String)>,
}

/// The head of a PUT.
#[derive(Debug, Clone)]
pub struct Put {
    pub path: String,
    pub headers: HeaderMap,
}

impl Put {
    /// A header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl ObjectStore {
    /// Makes a bucket.
    pub fn make_bucket(&self, bucket: &str) {
        self.buckets.lock().unwrap().entry(bucket.to_owned()).or_default();
    }

    /// Remembers the heads of all PUTs from now on.
    pub fn watch_puts(&self) {
        *self.puts_seen.lock().unwrap() = Some(Vec::new());
    }

    /// The PUTs of objects, not of buckets, since PUTs are watched.
    pub fn object_puts(&self) -> Vec<Put> {
        let seen = self.puts_seen.lock().unwrap();
        let is_object = |put: &&Put| put.path.trim_matches('/').contains('/');
        seen.iter().flatten().filter(is_object).cloned().collect()
    }

    /// Remembers a PUT if PUTs are watched; returns the answer if it is refused.
    fn refused(&self, head: &Parts) -> Option<S3Answer> {
        if head.method == Method::PUT
            && let Some(puts) = &mut *self.puts_seen.lock().unwrap()
        {
            puts.push(Put { path: head.uri.path().to_owned(), headers: head.headers.clone() });
        }
        let refusal = self.refusal.lock().unwrap().filter(|refusal| (refusal.of)(head))?;
        self.refused.fetch_add(1, SeqCst);
        Some(refusal.answer())
    }

    /// Refuses from now on; `None` refuses nothing more.
    pub fn refuse(&self, refusal: Option<StandingRefusal>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    /// The keys of a bucket that begin with `prefix`.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let buckets = self.buckets.lock().unwrap();
        let objects = buckets.get(bucket);
        objects
            .into_iter()
            .flat_map(|objects| objects.keys())
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// An object.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.buckets.lock().unwrap().get(bucket)?.get(key).cloned()
    }

    /// Deletes an object.
    pub fn delete(&self, bucket: &str, key: &str) {
        self.buckets.lock().unwrap().get_mut(bucket).unwrap().remove(key).unwrap();
    }

    /// Puts other bytes under a key.
    pub fn replace(&self, bucket: &str, key: &str, bytes: Bytes) {
        self.buckets.lock().unwrap().get_mut(bucket).unwrap().insert(key.to_owned(), bytes);
    }

    /// Damages an object; the same call again makes it good.
    pub fn flip_bit(&self, bucket: &str, key: &str, at: usize) {
        let mut bytes = self.get(bucket, key).unwrap().to_vec();
        bytes[at] ^= 1;
        self.replace(bucket, key, bytes.into());
    }

    fn check(&self) -> S3Result<()> {
        if !self.is_down.load(SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, SeqCst);
        Err(s3_error!(SlowDown, "down on request"))
    }

    /// Does the same to the mirror, if there is one.
    fn follow(&self, act: impl FnOnce(&Mirror) -> io::Result<()>) -> S3Result<()> {
        let followed = self.mirror.as_ref().map_or(Ok(()), act);
        followed.map_err(|error| s3_error!(error, InternalError))
    }

    fn with<T>(
        &self,
        bucket: &str,
        act: impl FnOnce(&mut BTreeMap<String, Bytes>) -> S3Result<T>,
    ) -> S3Result<T> {
        self.check()?;
        let mut buckets = self.buckets.lock().unwrap();
        act(buckets.get_mut(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?)
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<ObjectStore>);

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.0.check()?;
        let mut buckets = self.0.buckets.lock().unwrap();
        if buckets.contains_key(&request.input.bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        self.0.follow(|mirror| mirror.make_bucket(&request.input.bucket))?;
        buckets.insert(request.input.bucket, BTreeMap::new());
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.0.with(&request.input.bucket, |_| Ok(S3Response::new(HeadBucketOutput::default())))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.puts.fetch_add(1, SeqCst);
        let PutObjectInput { bucket, key, body, if_none_match, .. } = request.input;
        let body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
        let pieces = body.try_fold(BytesMut::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        let bytes = pieces.await.map_err(|_| s3_error!(IncompleteBody))?.freeze();
        self.0.with(&bucket, |objects| {
            if if_none_match.is_some() && !self.0.is_unconditional.load(SeqCst) && objects.contains_key(&key)
            {
                return Err(s3_error!(PreconditionFailed));
            }
            self.0.follow(|mirror| mirror.put(&bucket, &key, &bytes))?;
            objects.insert(key, bytes);
            Ok(S3Response::new(PutObjectOutput::default()))
        })
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        if self.0.refuses_copies.load(SeqCst) {
            return Err(s3_error!(AccessDenied, "no copies"));
        }
        let CopyObjectInput { bucket, key, copy_source, .. } = request.input;
        let CopySource::Bucket { bucket: from, key: source, .. } = copy_source else {
            return Err(s3_error!(InvalidArgument));
        };
        let body = self
            .0
            .with(&from, |objects| objects.get(&*source).cloned().ok_or_else(|| s3_error!(NoSuchKey)))?;
        self.0.copies.fetch_add(1, SeqCst);
        self.0.with(&bucket, |objects| {
            self.0.follow(|mirror| mirror.put(&bucket, &key, &body))?;
            objects.insert(key, body);
            Ok(S3Response::new(CopyObjectOutput {
                copy_object_result: Some(CopyObjectResult::default()),
                ..CopyObjectOutput::default()
            }))
        })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, .. } = request.input;
        let whole =
            self.0.with(&bucket, |objects| objects.get(&key).cloned().ok_or_else(|| s3_error!(NoSuchKey)))?;
        let (part, content_range) = match range {
            None => (whole, None),
            Some(range) => {
                let part = range.check(whole.len() as u64)?;
                let said = format!("bytes {}-{}/{}", part.start, part.end - 1, whole.len());
                (whole.slice(part.start as usize..part.end as usize), Some(said))
            }
        };
        self.0.gets.fetch_add(1, SeqCst);
        self.0.got_bytes.fetch_add(part.len(), SeqCst);
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(part.len() as i64),
            content_range,
            body: Some(StreamingBlob::from(Body::from(part))),
            ..GetObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.0.lists.fetch_add(1, SeqCst);
        let input = request.input;
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.max(input.start_after).unwrap_or_default();
        let page = match self.0.list_page.load(SeqCst) {
            0 => 1000,
            page => page,
        };
        self.0.with(&input.bucket, |objects| {
            let mut found = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
            let contents: Vec<Object> = found
                .by_ref()
                .take(page)
                .map(|(key, bytes)| Object {
                    key: Some(key.clone()),
                    size: Some(bytes.len() as i64),
                    ..Object::default()
                })
                .collect();
            let more = found.next().is_some();
            let next_continuation_token =
                if more { contents.last().and_then(|last| last.key.clone()) } else { None };
            Ok(S3Response::new(ListObjectsV2Output {
                is_truncated: Some(more),
                key_count: Some(contents.len() as i32),
                next_continuation_token,
                contents: Some(contents),
                ..ListObjectsV2Output::default()
            }))
        })
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, .. } = request.input;
        self.0.with(&bucket, |objects| {
            self.0.follow(|mirror| mirror.delete(&bucket, &key))?;
            objects.remove(&key);
            Ok(S3Response::new(DeleteObjectOutput::default()))
        })
    }
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct S3Server {
    pub store: Arc<ObjectStore>,
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Serves on `address`; port 0 takes a free one.
    pub async fn start(address: SocketAddr, mut store: ObjectStore) -> io::Result<Self> {
        let (key, secret) =
            store.keys.take().unwrap_or_else(|| (ACCESS_KEY.to_owned(), SECRET_KEY.to_owned()));
        if let Some(mirror) = &store.mirror {
            *store.buckets.get_mut().unwrap() = mirror.load()?;
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let store = Arc::new(store);
        let mut builder = S3ServiceBuilder::new(Service(Arc::clone(&store)));
        let mut keys = SimpleAuth::from_single(key, secret);
        drop(keys.register(SECOND_ACCESS_KEY.to_owned(), SECRET_KEY.into()));
        builder.set_auth(keys);
        let service = builder.build();
        let served = Arc::clone(&store);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (service, store) = (service.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let serve =
                        service_fn(move |request| serve(Arc::clone(&store), service.clone(), request));
                    drop(connection.serve_connection(TokioIo::new(stream), serve).await);
                });
            }
        });
        Ok(Self { store, address, accepting })
    }

    /// What clients are configured with.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one request, with a fault if one is due.
async fn serve(
    store: Arc<ObjectStore>,
    service: S3Service,
    request: Request<Incoming>,
) -> io::Result<S3Answer> {
    // The probes of a pod in MinIO's place have no signature.
    if request.uri().path().starts_with("/minio/health/") {
        return Ok(S3Answer::new(whole(Bytes::new())));
    }
    let fault = store.faults.next(&request);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if let Some(answer) = store.refused(&head) {
        return Ok(answer);
    }
    ReceivedRequest { service, head, body }.answer(fault, &store.faults.cleared).await
}
