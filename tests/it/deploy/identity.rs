//! Identity in the manifests: files that the program's own parsers take and that change under the running
//! pod, and no more rights in the cluster than it needs.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use contracts::name::{GroupName, TableName};
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodSpec, ServiceAccount, ServiceAccountTokenProjection, VolumeMount},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::json;
use zombi::{
    auth::verb::Verb,
    auth::{
        policy::{Decision, Policy, Resource},
        principal::Principal,
        tokens::Tokens,
    },
};

use super::{Deployed, of, render};

/// A folder of `deploy/`, and the components on top of it.
type DeployPlace = (&'static str, &'static [&'static str]);

/// Where only those get in whom the policy names.
const CLOSED: [DeployPlace; 3] =
    [("overlays/production", &[]), ("overlays/production", &["tls"]), ("base", &["auth"])];
/// TLS by itself, where everybody gets in.
const TLS: DeployPlace = ("base", &["tls"]);

/// What becomes of it; `None` where there is no kubectl.
fn render_with((place, components): DeployPlace) -> Option<Vec<DynamicObject>> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").canonicalize().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().canonicalize().unwrap();
    // kustomize takes relative paths only.
    let up: PathBuf =
        here.components().filter(|part| matches!(part, Component::Normal(_))).map(|_| "..").collect();
    let deploy = up.join(deploy.strip_prefix("/").unwrap());
    let components: Vec<_> = components.iter().map(|name| deploy.join("components").join(name)).collect();
    let kustomization = json!({ "resources": [deploy.join(place)], "components": components });
    std::fs::write(here.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    render(here.to_str().unwrap())
}

/// A file in the ConfigMap or Secret of exactly this name. A hash in the name would keep an edit away from
/// the running pod.
fn file(objects: &[DynamicObject], kind: &str, name: &str, file: &str) -> String {
    let is_it = |object: &&DynamicObject| {
        object.types.as_ref().is_some_and(|types| types.kind == kind)
            && object.metadata.name.as_deref() == Some(name)
    };
    let text = objects.iter().find(is_it).unwrap().data["data"][file].as_str().unwrap();
    if kind != "Secret" {
        return text.to_owned();
    }
    // kustomize breaks a long value into lines.
    let encoded: String = text.split_whitespace().collect();
    String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
}

fn policy_of(objects: &[DynamicObject]) -> Policy {
    Policy::parse(&file(objects, "ConfigMap", "zombi-policy", "policy.yaml")).unwrap()
}

fn account(namespace: &str, name: &str) -> Principal {
    Principal::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn may(policy: &Policy, who: &Principal, verb: Verb, resource: Resource<'_>) -> bool {
    matches!(policy.decide(who, verb, resource), Decision::Allowed { .. })
}

/// The tokens of ServiceAccounts that a pod gets.
fn token_projections(pod: &PodSpec) -> Vec<ServiceAccountTokenProjection> {
    let projected = pod.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.clone()).collect()
}

#[test]
fn the_policy_and_the_tokens_are_ones_that_the_program_takes() {
    for place in CLOSED {
        let Some(objects) = render_with(place) else { return };
        let policy = policy_of(&objects);
        Tokens::parse(&file(&objects, "Secret", "zombi-tokens", "tokens.yaml")).unwrap();
        let quota = policy.quota(&account("shop", "unheard-of"));
        let rates = [quota.requests_per_sec, quota.write_bytes_per_sec, quota.read_bytes_per_sec];
        assert_eq!(rates, [500, 16 << 20, 64 << 20].map(Some), "{place:?}");
        let held = [quota.inflight_bytes, quota.streams, quota.flushes_per_min];
        assert_eq!(held, [32 << 20, 16, 30].map(Some), "{place:?}");
        let made = [quota.tables, quota.partitions, quota.groups];
        assert_eq!(made, [100, 2000, 100].map(Some), "{place:?}");
    }
}

#[test]
fn the_policy_lets_in_whom_it_names_and_nobody_else() {
    let (orders, refunds) = (TableName::parse("orders").unwrap(), TableName::parse("refunds").unwrap());
    let group = GroupName::parse("billing-eu").unwrap();
    for place in CLOSED {
        let Some(objects) = render_with(place) else { return };
        let policy = policy_of(&objects);
        let checkout = account("shop", "checkout");
        assert!(may(&policy, &checkout, Verb::Append, Resource::Table(&orders)), "{place:?}");
        assert!(!may(&policy, &checkout, Verb::Read, Resource::Table(&orders)), "{place:?}");
        assert!(!may(&policy, &checkout, Verb::Append, Resource::Table(&refunds)), "{place:?}");
        let billing = account("billing", "worker");
        assert!(may(&policy, &billing, Verb::Read, Resource::Table(&orders)), "{place:?}");
        assert!(may(&policy, &billing, Verb::Commit, Resource::Group(&group)), "{place:?}");
        assert!(!may(&policy, &billing, Verb::Rewind, Resource::Group(&group)), "{place:?}");
        let oncall = account("zombi", "zombi-oncall");
        assert!(may(&policy, &oncall, Verb::Operate, Resource::Server), "{place:?}");
        assert!(may(&policy, &oncall, Verb::Manage, Resource::Table(&refunds)), "{place:?}");
        for stranger in [Principal::Anonymous, account("default", "default"), account("zombi", "zombi")] {
            assert!(!may(&policy, &stranger, Verb::Read, Resource::Table(&orders)), "{place:?}: {stranger}");
            assert!(!may(&policy, &stranger, Verb::Operate, Resource::Server), "{place:?}: {stranger}");
        }
    }
}

#[test]
fn every_file_is_in_a_whole_volume_so_that_it_changes_under_the_running_pod() {
    for (place, components) in CLOSED.into_iter().chain([TLS]) {
        let Some(objects) = render_with((place, components)) else { return };
        let deployed = Deployed::new(&objects);
        let mounts = deployed.container().volume_mounts.as_ref().unwrap();
        let variables = deployed.container().env.iter().flatten();
        let mut names = Vec::new();
        for variable in variables.filter(|variable| variable.name.ends_with("_FILE")) {
            let path = Path::new(variable.value.as_deref().unwrap());
            let holds = |mount: &&VolumeMount| path.parent() == Some(Path::new(&mount.mount_path));
            let mount = mounts.iter().find(holds).unwrap();
            // The kubelet does not update what is mounted by a subPath.
            assert_eq!((&mount.sub_path, &mount.sub_path_expr), (&None, &None), "{place}: {mount:?}");
            assert_eq!(mount.read_only, Some(true), "{place}: {mount:?}");
            names.push(variable.name.as_str());
        }
        let has_auth = place != "base" || components.contains(&"auth");
        let has_tls = components.contains(&"tls");
        let expected = 4 * usize::from(has_auth) + 2 * usize::from(has_tls);
        assert_eq!(names.len(), expected, "{place} with {components:?}: {names:?}");
    }
}

#[test]
fn no_pod_gets_a_token_unasked_and_no_right_in_the_cluster_is_asked_for() {
    let open: [DeployPlace; 3] = [("base", &[]), ("overlays/dev", &[]), TLS];
    for (place, components) in open.into_iter().chain(CLOSED) {
        let Some(objects) = render_with((place, components)) else { return };
        for types in objects.iter().filter_map(|object| object.types.as_ref()) {
            assert!(!types.api_version.starts_with("rbac."), "{place} with {components:?}: {types:?}");
        }
        for account in of::<ServiceAccount>(&objects) {
            assert_eq!(account.automount_service_account_token, Some(false), "{place}: {account:?}");
        }
        let deployed = Deployed::new(&objects);
        assert_eq!(deployed.pod().automount_service_account_token, Some(false), "{place}");
        // For the API server's keys, and renewed by the kubelet before the hour is over.
        let tokens = token_projections(deployed.pod());
        let is_closed = CLOSED.contains(&(place, components));
        assert_eq!(tokens.len(), usize::from(is_closed), "{place} with {components:?}: {tokens:?}");
        for token in tokens {
            assert_eq!((token.audience, token.expiration_seconds), (None, Some(3607)), "{place}");
        }
    }
}

#[test]
fn the_way_to_the_api_server_is_open_and_those_in_are_clients_and_metrics() {
    let Some(objects) = render("overlays/production") else { return };
    let [policy] = <[NetworkPolicy; 1]>::try_from(of::<NetworkPolicy>(&objects)).unwrap();
    let spec = policy.spec.unwrap();
    let ports_everywhere: BTreeSet<i32> = spec
        .egress
        .iter()
        .flatten()
        .filter(|rule| rule.to.is_none())
        .flat_map(|rule| rule.ports.iter().flatten())
        .filter_map(|port| match &port.port {
            Some(IntOrString::Int(number)) => Some(*number),
            _ => None,
        })
        .collect();
    assert!(ports_everywhere.is_superset(&BTreeSet::from([443, 6443])), "{ports_everywhere:?}");
    let doors: Vec<_> = spec
        .ingress
        .iter()
        .flatten()
        .flat_map(|rule| rule.ports.iter().flatten())
        .filter_map(|port| port.port.clone())
        .collect();
    let expected = ["http", "admin"].map(|name| IntOrString::String(name.to_owned()));
    assert_eq!(doors, expected);
}

#[test]
fn production_answers_to_the_names_of_its_services_and_its_pod() {
    let Some(objects) = render("overlays/production") else { return };
    let deployed = Deployed::new(&objects);
    let headless = deployed.set.spec.service_name.clone().unwrap();
    let mut names: Vec<String> =
        deployed.services.iter().filter_map(|service| service.metadata.name.clone()).collect();
    names.push(format!("zombi-0.{headless}"));
    let ends = ["", ".zombi", ".zombi.svc", ".zombi.svc.cluster.local"];
    let mut expected: BTreeSet<String> =
        names.iter().flat_map(|name| ends.map(|end| format!("{name}{end}"))).collect();
    expected.insert("localhost".to_owned());
    let hosts: BTreeSet<String> = deployed.settings.http.hosts.iter().cloned().collect();
    assert_eq!(hosts, expected);
}

#[test]
fn the_example_of_a_client_shows_a_token_for_zombi_and_its_policy_lets_it_append() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let read = |name: &str| std::fs::read_to_string(examples.join(name)).unwrap();
    let text = read("client.yaml");
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects: Vec<DynamicObject> =
        documents.map(|document| DynamicObject::deserialize(document).unwrap()).collect();
    let [pod] = <[Pod; 1]>::try_from(of::<Pod>(&objects)).unwrap();
    let spec = pod.spec.unwrap();
    assert_eq!(spec.automount_service_account_token, Some(false));
    let [token] = <[ServiceAccountTokenProjection; 1]>::try_from(token_projections(&spec)).unwrap();
    assert_eq!((token.audience.as_deref(), token.expiration_seconds), (Some("zombi"), Some(3600)));

    let policy = Policy::parse(&read("policy.yaml")).unwrap();
    let namespace = pod.metadata.namespace.unwrap();
    let client = account(&namespace, &spec.service_account_name.unwrap());
    let orders = TableName::parse("orders").unwrap();
    assert!(may(&policy, &client, Verb::Append, Resource::Table(&orders)));
    assert!(!may(&policy, &client, Verb::Read, Resource::Table(&orders)));
    let billing = account(&namespace, "billing");
    let group = GroupName::parse("billing").unwrap();
    assert!(may(&policy, &billing, Verb::Read, Resource::Table(&orders)));
    assert!(may(&policy, &billing, Verb::Commit, Resource::Group(&group)));
    assert!(!may(&policy, &billing, Verb::Append, Resource::Table(&orders)));
}
