//! How far a pod has applied the logs of its shards, and up to where it has scrubbed its volumes of what
//! they have erased: told to other pods, which cannot know it otherwise.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri},
    response::Response,
};
use tokio::time::timeout;

use super::{Shards, forward::PassedHead};
use crate::cluster::{OtherPods, PodsWanted};
use contracts::shared_log::LogSeq;

/// Where a pod says whether requests should come to it.
const READY: &str = "/readyz";
/// How long it may take to say so.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// How far it has applied the logs of its shards: `SHARD=ENTRY`, with commas.
const APPLIED: HeaderName = HeaderName::from_static("zombi-applied");
/// Up to which entries of these logs nothing is left in its volumes of what was erased, in the same form.
const SCRUBBED: HeaderName = HeaderName::from_static("zombi-scrubbed");

impl Shards {
    /// Whether a pod answers at all, ready or not, if it says so in time.
    pub(super) async fn is_there(&self, pod: u32) -> bool {
        self.ready(pod).await.is_some()
    }

    /// What a pod says of whether requests should come to it, if it does so in time.
    async fn ready(&self, pod: u32) -> Option<Response> {
        let (mut parts, _) = Request::new(Body::empty()).into_parts();
        parts.uri = Uri::from_static(READY);
        let head = PassedHead::of(&parts, 1);
        timeout(READY_TIMEOUT, self.send_to(&head, Body::empty().into(), pod)).await.ok()?.ok()
    }
}

#[async_trait]
impl OtherPods for Shards {
    async fn applied_by(&self, pod: u32, wanted: PodsWanted) -> BTreeMap<u32, LogSeq> {
        let is_wanted = |status: StatusCode| wanted == PodsWanted::Any || status == StatusCode::OK;
        let answer = self.ready(pod).await.filter(|answer| is_wanted(answer.status()));
        answer.map(|answer| seqs(answer.headers(), APPLIED)).unwrap_or_default()
    }

    async fn scrubbed_by(&self, pod: u32) -> BTreeMap<u32, LogSeq> {
        self.ready(pod).await.map(|answer| seqs(answer.headers(), SCRUBBED)).unwrap_or_default()
    }
}

/// Tells another pod how far this one has applied the logs of its shards.
pub(in crate::http) fn tell_applied(response: &mut Response, applied: impl Iterator<Item = (u32, LogSeq)>) {
    tell(response, APPLIED, applied);
}

/// Tells another pod up to which entries nothing is left in this one's volumes of what was erased.
pub(in crate::http) fn tell_scrubbed(response: &mut Response, scrubbed: impl Iterator<Item = (u32, LogSeq)>) {
    tell(response, SCRUBBED, scrubbed);
}

fn tell(response: &mut Response, name: HeaderName, seqs: impl Iterator<Item = (u32, LogSeq)>) {
    let each: Vec<String> = seqs.map(|(shard, seq)| format!("{shard}={seq}")).collect();
    if let Ok(seqs) = HeaderValue::from_str(&each.join(",")) {
        response.headers_mut().insert(name, seqs);
    }
}

/// What a pod says of its shards' logs in a header.
fn seqs(headers: &HeaderMap, name: HeaderName) -> BTreeMap<u32, LogSeq> {
    let text = headers.get(name).and_then(|seqs| seqs.to_str().ok()).unwrap_or_default();
    let each = text.split(',').filter_map(|one| {
        let (shard, seq) = one.split_once('=')?;
        Some((shard.parse().ok()?, LogSeq(seq.parse().ok()?)))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_says_how_far_it_is() {
        let mut answer = Response::new(Body::empty());
        let applied = |answer: &Response| seqs(answer.headers(), APPLIED);
        assert_eq!(applied(&answer), BTreeMap::new());
        let far = BTreeMap::from([(3, LogSeq(120)), (11, LogSeq(0))]);
        tell_applied(&mut answer, far.clone().into_iter());
        assert_eq!(answer.headers()[APPLIED], "3=120,11=0");
        assert_eq!(applied(&answer), far);
        assert_eq!(seqs(answer.headers(), SCRUBBED), BTreeMap::new(), "that is another header");
        tell_scrubbed(&mut answer, [(3, LogSeq(7))].into_iter());
        assert_eq!(seqs(answer.headers(), SCRUBBED), BTreeMap::from([(3, LogSeq(7))]));
        assert_eq!(applied(&answer), far);
        answer.headers_mut().insert(APPLIED, HeaderValue::from_static("x,1=,=2,4=5=6,7=8"));
        assert_eq!(applied(&answer), BTreeMap::from([(7, LogSeq(8))]));
    }
}
