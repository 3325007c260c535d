//! Pods that are asked and say nothing while another one comes to own the shard. One that is frozen, or whose
//! machine is gone, keeps its connections, and nothing ever comes on them: only the log tells.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Shards, relayed::SilenceMaker};
use crate::cluster::owners::Owners;

/// How often somebody who waits for a pod looks who owns the shard. What is answered at once costs nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a pod that does not own a shard any more may take to say so itself: it knows the outcome.
const SAYING: Duration = Duration::from_secs(2);

impl Shards {
    /// Returns once the log says that a pod does not own a shard, and the pod has had time to say so itself.
    /// Never returns where shards are bound to their pods: nobody else has them.
    pub(super) async fn is_left(&self, pod: u32, shard: u32) {
        let Some(owners) = self.cluster.owners.get() else { return pending().await };
        loop {
            sleep(LOOK_INTERVAL).await;
            if has_left(owners, (pod, shard)).await {
                sleep(SAYING).await;
                if has_left(owners, (pod, shard)).await {
                    return;
                }
            }
        }
    }

    /// What begins to wait whenever a pod has stopped to send its answer: until it has done so for too long,
    /// or owns the shard no more.
    pub(super) fn silence(self: &Arc<Self>, (pod, shard): (u32, u32)) -> SilenceMaker {
        let shards = Arc::clone(self);
        Box::new(move || {
            let shards = Arc::clone(&shards);
            Box::pin(async move {
                tokio::select! {
                    () = sleep(shards.patience()) => {}
                    () = shards.is_left(pod, shard) => {}
                }
            })
        })
    }

    /// Notes that a pod is asked now.
    pub(super) fn wait_for(&self, pod: u32) -> PodWait<'_> {
        PodWait { owners: self.cluster.owners.get(), pod, began: Instant::now() }
    }
}

/// Whether the log says that a pod does not own a shard. One that says nothing has not taken it from its
/// owner.
async fn has_left(owners: &Owners, (pod, shard): (u32, u32)) -> bool {
    owners.owner_now(shard).await.is_ok_and(|owner| owner != Some(pod))
}

/// A pod that has been asked and has not answered. If nobody waits for it any more after a while, the log is
/// asked anew for what it is said to own: otherwise the next request would wait for it as well.
pub(super) struct PodWait<'a> {
    owners: Option<&'a Owners>,
    pod: u32,
    began: Instant,
}

impl PodWait<'_> {
    /// The pod has answered, or it is known why it does not.
    pub(super) fn end(mut self) {
        self.owners = None;
    }
}

impl Drop for PodWait<'_> {
    fn drop(&mut self) {
        if let Some(owners) = self.owners.filter(|_| self.began.elapsed() >= LOOK_INTERVAL) {
            owners.forget(self.pod, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, Bytes},
        extract::Request,
        http::Method,
    };
    use testing::shared_log::MemoryLog;
    use tokio::{
        io::AsyncReadExt,
        net::TcpListener,
        time::{pause, resume, timeout},
    };

    use super::*;
    use crate::{
        cluster::{copies::tests::OwnedCopy, owners::tests::LogOfCopy, settings::ClusterSettings},
        http::{
            code::Code,
            shards::{forward::PassedHead, passed::BodyToPass, tests::of_one_shard},
        },
    };

    /// The pod that owns the shard by its log, and does not accept connections.
    const OWNER: u32 = 0;
    /// The one that has owned it before.
    const FROZEN: u32 = 2;
    const LONG: Duration = Duration::from_secs(60);

    /// A cluster of three pods with one shard, of which this pod, zombi-1, has no copy.
    fn shards_of(log: MemoryLog, frozen: &str) -> Arc<Shards> {
        let address = format!("127.0.0.1:1,127.0.0.1:1,{frozen}");
        let settings = ClusterSettings { pods: 3, address, ..ClusterSettings::default() };
        of_one_shard(settings, 1, Arc::new(LogOfCopy(log)), Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_left_once_another_owns_its_shard_and_not_while_the_log_is_away() {
        let owned = OwnedCopy::new().await;
        let shards = shards_of(owned.log.handle(), "127.0.0.1:1");
        for is_answering in [false, true] {
            let began = Instant::now();
            if is_answering {
                timeout(LONG, shards.silence((FROZEN, 0))()).await.expect("another owns the shard");
            } else {
                timeout(LONG, shards.is_left(FROZEN, 0)).await.expect("another owns the shard");
            }
            let took = began.elapsed();
            assert!(took > SAYING && took < 2 * (LOOK_INTERVAL + SAYING), "{took:?}");
        }
        assert!(timeout(LONG, shards.is_left(OWNER, 0)).await.is_err(), "it owns the shard");
        let log = owned.log.handle();
        log.cut_off(true);
        let shards = shards_of(log, "127.0.0.1:1");
        assert!(timeout(LONG, shards.is_left(FROZEN, 0)).await.is_err(), "nobody can tell who owns it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_pod_is_not_waited_for_once_another_owns_the_shard_and_only_a_read_goes_there() {
        for method in [Method::GET, Method::POST] {
            let owned = OwnedCopy::new().await;
            resume(); // until the pod has the request: sockets know nothing of a clock that jumps
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let shards = shards_of(owned.log.handle(), &listener.local_addr().unwrap().to_string());
            let request = Request::builder().method(&method).uri("/tables/t").body(Body::empty());
            let head = PassedHead::of(&request.unwrap().into_parts().0, 2);
            let body = Bytes::from_static(b"{}");
            let is_read = method == Method::GET;
            let sent = if is_read { BodyToPass::Absent } else { BodyToPass::Whole(&body) };
            let asking = Box::pin(shards.send_to_owner(&head, sent, (FROZEN, 0)));
            let freezing = async {
                let (mut held, _) = listener.accept().await.unwrap();
                assert!(held.read(&mut [0; 1024]).await.unwrap() > 0);
                pause();
                (held, Instant::now())
            };
            let (answered, (_held, began)) = tokio::join!(asking, freezing);
            let took = began.elapsed();
            let Err(problem) = answered else { panic!("{method}: nobody can have answered") };
            assert!(took < 4 * (LOOK_INTERVAL + SAYING), "{method}: {took:?}");
            assert_eq!(problem.code(), Code::ForwardFailed, "{method}");
            let asked_last = if is_read { "zombi-0 is needed" } else { "zombi-2 is needed" };
            let said = format!("{problem:?}");
            assert!(said.contains(asked_last), "{method}: {said}");
            assert_eq!(said.contains("Unknown"), !is_read, "{method}: {said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_a_pod_up_has_the_log_asked_who_owns_the_shard() {
        let owned = OwnedCopy::new().await;
        let log = owned.log.handle();
        let shards = shards_of(log.clone(), "127.0.0.1:1");
        assert_eq!(shards.owner(0).await.unwrap(), OWNER);
        log.cut_off(true);
        for (waited, is_believed) in [(LOOK_INTERVAL / 2, true), (2 * LOOK_INTERVAL, false)] {
            let wait = shards.wait_for(OWNER);
            sleep(waited).await;
            drop(wait);
            assert_eq!(shards.owner(0).await.ok(), is_believed.then_some(OWNER), "{waited:?}");
        }
    }
}
