//! A pod as the manifests make it, with a gibibyte, and clients that take all they can without breaking a
//! rule. Beside each attack somebody with the same address appends and reads what was just written, and
//! probes are sent: all of it is answered, and soon. At the end the process has not been killed for its
//! memory, has lost nothing, and its next start fits, too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Effort,
    attacks::{Attack, AttackTarget},
    memory::{self, Group},
};
use testing::{
    Sent, TestServer,
    process::may_open,
    server::{PATIENCE, answer},
};

const MEMORY_BYTES: u64 = 1 << 30;
/// What the pod's container gets of the manifests.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/base/zombi.yaml");
/// How often the victim asks beside each attack.
const ROUNDS: usize = 100;
/// In what time it is answered, or in so many times what it takes where nobody attacks: this machine may be
/// slow.
const SOON: Duration = Duration::from_secs(2);
const PROBED_SOON: Duration = Duration::from_secs(1);
const SLOWER: u32 = 20;

/// Somebody who wants nothing but small things. Every request has a connection of its own.
struct AttackedClient {
    client: Client,
    written: u64,
    /// Whether it wants its answer soon and at the first time, or asks again where it is to come later, as
    /// clients do.
    by_clock: bool,
}

/// How long things took, in order.
#[derive(Debug, Default)]
struct Took {
    asked: Vec<Duration>,
    probed: Vec<Duration>,
}

impl Took {
    fn sorted(mut self) -> Self {
        self.asked.sort();
        self.probed.sort();
        self
    }
}

fn median(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() / 2]
}

fn worst(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() - 1]
}

impl AttackedClient {
    fn new(by_clock: bool) -> Self {
        let client =
            Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).no_proxy().build().unwrap();
        Self { client, written: 0, by_clock }
    }

    /// Asks, and wants one answer and no other.
    async fn ask(
        &self,
        what: &str,
        request: RequestBuilder,
        wanted: StatusCode,
    ) -> Result<(Value, Duration), String> {
        let began = Instant::now();
        loop {
            let again = request.try_clone().expect("its body is no stream");
            let response =
                again.send().await.map_err(|error| format!("{what} was not answered: {error:?}"))?;
            let (status, body) = answer(response).await;
            if status == wanted {
                return Ok((body, began.elapsed()));
            }
            let may_ask_again =
                status == StatusCode::SERVICE_UNAVAILABLE && !self.by_clock && began.elapsed() < PATIENCE;
            if !may_ask_again {
                return Err(format!("{what} was refused: {status} {body}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Appends, reads that back, and probes.
    async fn round(&mut self, z: &TestServer, took: &mut Took) -> Result<(), String> {
        let append = self.client.post(z.url("/tables/victim")).json(&json!({"payload": self.written}));
        let (written, append_took) = self.ask("an append", append, StatusCode::CREATED).await?;
        let read =
            self.client.get(z.url(&format!("/tables/victim?partition=0&offset={}&limit=10", self.written)));
        let (page, read_took) = self.ask("a read", read, StatusCode::OK).await?;
        if written["offset"] != self.written || page["records"][0]["payload"] != self.written {
            return Err(format!("event {} is not where it should be: {written} {page}", self.written));
        }
        self.written += 1;
        took.asked.extend([append_took, read_took]);
        for probe in ["/livez", "/readyz"] {
            let (_, probe_took) =
                self.ask(probe, self.client.get(z.admin_url(probe)), StatusCode::OK).await?;
            took.probed.push(probe_took);
        }
        Ok(())
    }

    async fn rounds(&mut self, z: &TestServer) -> Result<Took, String> {
        let mut took = Took::default();
        for _ in 0..ROUNDS {
            self.round(z, &mut took).await?;
        }
        Ok(took.sorted())
    }

    /// Everything that was acked is there.
    async fn has_lost_nothing(&self, z: &TestServer) -> Result<(), String> {
        let records = z.read_all("victim", "limit=10000").await;
        let is_right = records
            .iter()
            .zip(0..)
            .all(|(record, n): (_, u64)| record["offset"] == n && record["payload"] == n);
        let count = records.len() as u64;
        if is_right && count == self.written {
            Ok(())
        } else {
            Err(format!("{count} events are there of {} that were acked", self.written))
        }
    }
}

/// In what time the victim is answered at the latest.
#[derive(Debug, Clone, Copy)]
struct AnswerBounds {
    asked: Duration,
    probed: Duration,
}

impl AnswerBounds {
    fn of(calm: &Took) -> Self {
        Self {
            asked: SOON.max(SLOWER * median(&calm.asked)),
            probed: PROBED_SOON.max(SLOWER * median(&calm.probed)),
        }
    }

    fn check(self, took: &Took) -> Result<(), String> {
        let (asked, probed) = (worst(&took.asked), worst(&took.probed));
        if asked <= self.asked && probed <= self.probed {
            return Ok(());
        }
        Err(format!("a request took {asked:.1?} and a probe {probed:.1?}, where {self:?} are the bounds"))
    }
}

/// A server with the manifests' settings whose table `cold` is in S3 alone.
async fn start(group: &Group) -> TestServer {
    let mut z = TestServer::tiered(&[("s3.attempt_timeout_secs", "30")]).await;
    z.wrapper = group.wrapper();
    z.environment = memory::environment();
    z.environment.push(("ZOMBI_CONFIG".to_owned(), MANIFEST.to_owned()));
    z.run().await;
    Sent::default().append(&z, "cold", 4, 2000).await;
    z.flush_and_evict().await;
    z.kill().await;
    // As the manifests leave it.
    z.set("flush.interval_secs", "5");
    z.set("hot.keep_secs", "3600");
    z.run().await;
    for number in 0..24 {
        let (status, body) =
            z.post("/tables/large", &json!({"payload": format!("{number:0>50000}").repeat(20)})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    z.post("/tables/quiet", &json!({"payload": "x"})).await;
    z
}

/// One attack, with the victim beside it; what was the worst for it.
async fn attack(
    z: &mut TestServer,
    victim: &mut AttackedClient,
    bounds: AnswerBounds,
    attack: Attack,
) -> Result<Duration, String> {
    let target = Arc::new(AttackTarget {
        main: z.address(),
        admin: z.admin_address(),
        client: Client::builder().timeout(PATIENCE).no_proxy().build().unwrap(),
        s3: Arc::clone(z.s3.as_ref().unwrap()),
    });
    let mut tasks = JoinSet::new();
    attack.begin(&target, &mut tasks).await;
    sleep(Duration::from_secs(1)).await;
    let took = victim.rounds(z).await;
    if z.has_ended() {
        return Err(format!("it has ended with {:?}", z.wait().await));
    }
    let took = took?;
    if victim.by_clock {
        bounds.check(&took)?;
    }
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            return Err(crate::message(error.into_panic().as_ref()).to_owned());
        }
    }
    z.store().faults.clear();
    Ok(worst(&took.asked))
}

/// One attack after the other, and a start at the end.
pub(crate) async fn run(seed: u64, budget: Effort, by_clock: bool) -> Result<String, String> {
    let group = match Group::make("abuse", MEMORY_BYTES) {
        Ok(group) => group,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    if !may_open(4000) {
        return Ok("skipped: too few files may be open".to_owned());
    }
    let mut z = start(&group).await;
    let mut victim = AttackedClient::new(by_clock);
    let calm = victim.rounds(&z).await?;
    let bounds = AnswerBounds::of(&calm);
    let (mut rng, mut attacks, mut worst_of_all) =
        (StdRng::seed_from_u64(seed), 0, (Duration::ZERO, Attack::Lists));
    while budget.allows(attacks / Attack::ALL.len()) {
        let mut order = Attack::ALL;
        // What makes partitions, and lists them, stays last.
        let first = order.len() - 2;
        order[..first].shuffle(&mut rng);
        for one in order {
            let took =
                attack(&mut z, &mut victim, bounds, one).await.map_err(|why| format!("{one:?}: {why}"))?;
            if took > worst_of_all.0 {
                worst_of_all = (took, one);
            }
            attacks += 1;
        }
    }
    let peak = group.peak_bytes() >> 20;
    victim.has_lost_nothing(&z).await?;
    z.kill().await;
    z.run().await;
    victim.has_lost_nothing(&z).await?;
    victim.rounds(&z).await?;
    if group.kills() > 0 {
        return Err(format!("a process was killed for its memory, {} times", group.kills()));
    }
    z.kill().await;
    let (took, one) = worst_of_all;
    Ok(format!(
        "{attacks} attacks, {} events beside them; {:.1?} for a request without, at most {took:.1?} beside \
         {one:?}; at most {peak} MiB with page cache",
        victim.written,
        median(&calm.asked)
    ))
}
