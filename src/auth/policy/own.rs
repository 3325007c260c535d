//! The bindings that are for one principal, looked up once. A decision by them is the policy's own: they
//! count for the very policy that they were looked up in, and no other.

use std::sync::{Arc, Weak};

use super::{Decision, Policy, Resource};
use crate::auth::{principal::Principal, verb::Verb};

/// Bindings of one principal that are kept. Whoever has more is looked up each time, as each connection keeps
/// them.
const MOST_KEPT: usize = 64;

/// The bindings of a policy that are for one principal.
#[derive(Debug)]
pub(crate) struct OwnBindings {
    principal: Principal,
    /// Weak, so that a connection that says nothing more does not keep a policy that was replaced. As long as
    /// this is here, no other policy can have its address.
    policy: Weak<Policy>,
    /// Their numbers, in the file's order; `None` if there are too many.
    numbers: Option<Box<[usize]>>,
}

impl OwnBindings {
    /// Those of a principal.
    pub(crate) fn of(principal: &Principal, policy: &Arc<Policy>) -> Self {
        let mut numbers: Vec<usize> = policy.subjects.all(principal).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let numbers = (numbers.len() <= MOST_KEPT).then(|| numbers.into_boxed_slice());
        Self { principal: principal.clone(), policy: Arc::downgrade(policy), numbers }
    }

    /// What [`Policy::decide`] says of the principal, by the policy that is in force now.
    pub(crate) fn decide(&self, policy: &Policy, verb: Verb, resource: Resource<'_>) -> Decision {
        let numbers = self.numbers.as_deref().filter(|_| std::ptr::eq(self.policy.as_ptr(), policy));
        let Some(numbers) = numbers else { return policy.decide(&self.principal, verb, resource) };
        let allows =
            |number: &usize| policy.binding(*number).is_some_and(|binding| binding.allows(verb, resource));
        match numbers.iter().copied().find(allows) {
            Some(binding) => Decision::Allowed { binding },
            None => Decision::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use contracts::name::{GroupName, TableName};
    use proptest::prelude::*;

    use super::*;

    const VERBS: [Verb; 7] =
        [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate, Verb::Open];

    const SUBJECTS: [&str; 7] = ["sa:a/b", "sa:a/*", "sa:*", "token:ci", "token:c*", "oidc:x", "*"];
    const CALLERS: [&str; 8] =
        ["sa:a/b", "sa:a/c", "sa:b/a", "token:ci", "token:cd", "oidc:x", "cert:x:y", "anonymous"];

    /// A binding of a file, in JSON, which is YAML.
    fn binding() -> impl Strategy<Value = String> {
        let role = prop::sample::select(vec!["producer", "consumer", "owner", "operator"]);
        let subjects = prop::sample::subsequence(SUBJECTS.to_vec(), 1..4);
        let names = || prop::collection::vec("[ab]{1,3}\\*?", 1..3);
        (subjects, role, names(), names()).prop_map(|(subjects, role, tables, groups)| {
            let is_for_everybody = subjects.contains(&"*");
            let binding = serde_json::json!({
                "subjects": subjects, "anonymous": is_for_everybody, "role": role, "tables": tables,
                "groups": groups,
            });
            binding.to_string()
        })
    }

    fn policy(bindings: &[String]) -> Arc<Policy> {
        let text = format!("{{\"version\": 1, \"bindings\": [{}]}}", bindings.join(", "));
        Arc::new(Policy::parse(&text).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_decided_by_ones_own_bindings_is_what_the_policy_decides(
            bindings in prop::collection::vec(binding(), 0..8),
            others in prop::collection::vec(binding(), 0..8),
            name in "[ab]{1,4}",
        ) {
            let (policy, other) = (policy(&bindings), policy(&others));
            let (table, group) = (TableName::parse(&name).unwrap(), GroupName::parse(&name).unwrap());
            let resources = [Resource::Table(&table), Resource::Group(&group), Resource::Server];
            for principal in CALLERS.map(|text| text.parse::<Principal>().unwrap()) {
                let own = OwnBindings::of(&principal, &policy);
                for (verb, resource) in VERBS.iter().flat_map(|verb| resources.map(|one| (*verb, one))) {
                    let decided = own.decide(&policy, verb, resource);
                    prop_assert_eq!(decided, policy.decide(&principal, verb, resource));
                    // And once another policy is in force, what that one decides.
                    let decided = own.decide(&other, verb, resource);
                    prop_assert_eq!(decided, other.decide(&principal, verb, resource));
                }
            }
        }
    }

    #[test]
    fn a_policy_in_the_place_of_another_is_not_taken_for_it_and_many_bindings_are_not_kept() {
        let allowing = |table: &str, count: usize| {
            let binding = format!("{{subjects: [\"token:ci\"], role: producer, tables: [{table}]}}");
            let list = vec![binding; count].join(", ");
            Arc::new(Policy::parse(&format!("{{version: 1, bindings: [{list}]}}")).unwrap())
        };
        let (ci, orders) = (Principal::Token("ci".to_owned()), TableName::parse("orders").unwrap());
        let appends = |own: &OwnBindings, policy: &Policy| {
            own.decide(policy, Verb::Append, Resource::Table(&orders)).is_allowed()
        };
        let first = allowing("orders", 1);
        let own = OwnBindings::of(&ci, &first);
        assert!(appends(&own, &first));
        drop(first);
        for _ in 0..100 {
            let next = allowing("refunds", 1);
            assert!(!appends(&own, &next));
        }
        for count in [MOST_KEPT, MOST_KEPT + 1] {
            let policy = allowing("orders", count);
            let own = OwnBindings::of(&ci, &policy);
            assert_eq!(own.numbers.is_some(), count == MOST_KEPT);
            assert!(appends(&own, &policy));
        }
    }
}
