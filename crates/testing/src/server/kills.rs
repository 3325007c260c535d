//! Pods that are killed while a test asks them: one after the other, each started again on its volume before
//! the next one's turn.

use super::TestServer;

/// What runs a pod and kills it.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/killed.py");

/// Seconds from one kill to the next in a cluster: `TESTED_KILLS`; none without.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
fn period_secs() -> Option<u64> {
    std::env::var("TESTED_KILLS").ok().and_then(|secs| secs.parse().ok())
}

/// When the pods of a cluster are killed.
#[derive(Debug, Clone, Copy)]
pub(super) struct KillPlan {
    /// Seconds from one kill to the next.
    period_secs: u64,
    /// The seconds before the first one.
    first_secs: u64,
}

impl KillPlan {
    /// As the tests' settings say; the first kill at a time that this number chooses, as most tests take less
    /// time than a period.
    pub(super) fn chosen_by(number: u64) -> Option<Self> {
        period_secs().map(|period_secs| Self { period_secs, first_secs: number % period_secs.max(1) })
    }
}

impl TestServer {
    /// The words before its command with which it is killed now and then, if pods are: not one that is to end
    /// by itself at a fail point.
    pub(super) fn words_to_be_killed(&self, failpoints: &str) -> Vec<String> {
        let plan = self.share.as_ref().and_then(|share| share.kills);
        let Some(plan) = plan.filter(|_| failpoints.is_empty()) else { return Vec::new() };
        let set = |key: &str| self.setting(key).expect("a pod has it");
        let pods: u64 = set("cluster.pods").parse().unwrap();
        let number: u64 = set("pod")["zombi-".len()..].parse().unwrap();
        vec![
            "python3".to_owned(),
            "-B".to_owned(),
            SCRIPT.to_owned(),
            (plan.period_secs * pods).to_string(),
            (plan.first_secs + plan.period_secs * number).to_string(),
            format!("{}:{}", set("host"), set("admin_port")),
            self.volume.path().join("turn").display().to_string(),
            "--".to_owned(),
        ]
    }
}
