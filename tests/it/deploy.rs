//! The manifests of `deploy/`, typed, against what the program does: probes, ports, settings, budgets; and
//! identity.

mod identity;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, OnceLock},
};

use axum::{
    body::Body,
    http::{Request, header},
};
use contracts::{error::Overload, settings::Seconds};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Container, EnvVar, HTTPGetAction, PodSpec, Service},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::core::{DynamicObject, Resource};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde::Deserialize;
use zombi::{
    http::{
        self,
        memory::Budget,
        state::{Heartbeats, Lifecycle, LogLevel, Ops, Phase},
    },
    settings::{Reads, Settings},
};

const PLACES: [&str; 5] =
    ["base", "overlays/dev", "overlays/production", "overlays/cluster-volumes", "overlays/cluster"];
/// Those with many pods, and how many of them have each shard.
const CLUSTERS: [(&str, u32); 2] = [("overlays/cluster-volumes", 1), ("overlays/cluster", 2)];

/// What `kubectl kustomize` makes of a folder of `deploy/`; `None` where there is no kubectl.
fn render(place: &str) -> Option<Vec<DynamicObject>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(place);
    let output = match std::process::Command::new("kubectl").arg("kustomize").arg(&folder).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: the manifests cannot be rendered without kubectl: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    let documents = serde_yaml::Deserializer::from_slice(&output.stdout);
    Some(documents.map(|document| DynamicObject::deserialize(document).unwrap()).collect())
}

/// The objects of one kind.
fn of<K: Resource<DynamicType = ()> + for<'a> Deserialize<'a>>(objects: &[DynamicObject]) -> Vec<K> {
    let is_kind =
        |object: &&DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == K::kind(&()));
    objects.iter().filter(is_kind).map(|object| object.clone().try_parse().unwrap()).collect()
}

/// What the kubelet makes of a variable: a value, or the name of the set's first pod.
fn variable(one: EnvVar) -> Option<(String, String)> {
    let field = one.value_from.and_then(|from| from.field_ref).map(|field| field.field_path);
    let value =
        if field.as_deref() == Some("metadata.name") { Some("zombi-0".to_owned()) } else { one.value };
    Some((one.name, value?))
}

/// Zombi in one rendering.
struct Deployed {
    set: StatefulSet,
    services: Vec<Service>,
    settings: Settings,
}

impl Deployed {
    fn new(objects: &[DynamicObject]) -> Self {
        let sets: Vec<StatefulSet> = of(objects);
        let ours = sets.into_iter().filter(|set| set.metadata.name.as_deref() == Some("zombi"));
        let [set] = <[StatefulSet; 1]>::try_from(ours.collect::<Vec<_>>()).unwrap();
        let services = of::<Service>(objects);
        let maps = of::<ConfigMap>(objects);
        let text = maps.iter().find_map(|map| map.data.as_ref()?.get("zombi.yaml")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("zombi.yaml");
        std::fs::write(&file, text).unwrap();
        let container = set.spec.template.spec.as_ref().unwrap().containers[0].clone();
        let environment = container.env.unwrap().into_iter().filter_map(variable);
        let environment = environment.filter(|(name, _)| name != "ZOMBI_CONFIG");
        // An unknown name or a bad value is refused by the program itself.
        let settings = Settings::load(Some(file), environment, vec![], Reads::All).unwrap();
        Self { set, services, settings }
    }

    fn pod(&self) -> &PodSpec {
        self.set.spec.template.spec.as_ref().unwrap()
    }

    fn container(&self) -> &Container {
        &self.pod().containers[0]
    }

    fn port(&self, port: &IntOrString) -> i32 {
        match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let ports = self.container().ports.as_ref().unwrap();
                ports.iter().find(|port| port.name.as_ref() == Some(name)).unwrap().container_port
            }
        }
    }
}

fn each(check: impl Fn(&str, Deployed)) {
    for place in PLACES {
        if let Some(objects) = render(place) {
            check(place, Deployed::new(&objects));
        }
    }
}

/// Logs that no probe touches.
struct Unchanging;

impl LogLevel for Unchanging {
    fn get(&self) -> String {
        "info".to_owned()
    }

    fn set(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

async fn status(phase: Phase, action: &HTTPGetAction) -> u16 {
    let lifecycle = Arc::new(Lifecycle::default());
    lifecycle.enter(phase);
    let prometheus = PrometheusBuilder::new().build_recorder().handle();
    let (flush, store, cluster) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
    let heartbeats = vec![Heartbeats::default()];
    let (inflight, buckets) = (Budget::new(1 << 20, 100, Overload::Memory), vec![Arc::default()]);
    let ops = Arc::new(Ops {
        lifecycle,
        prometheus,
        flush,
        store,
        heartbeats,
        log_level: Arc::new(Unchanging),
        inflight,
        limits: Default::default(),
        buckets,
        cluster,
        pods: OnceLock::new(),
        gate: None,
    });
    // The kubelet names the pod's address.
    let request = Request::get(action.path.as_deref().unwrap()).header(header::HOST, "10.244.0.7:9090");
    let request = request.body(Body::empty()).unwrap();
    let door = http::AdminDoor { header_bytes: 65_536, asks_who: true, has_tls_beside_it: false };
    http::admin_routes(ops, door).answer(request, Arc::default()).await.status().as_u16()
}

#[tokio::test]
async fn every_probe_is_answered_as_it_should_be_in_each_state() {
    for place in PLACES {
        let Some(objects) = render(place) else { return };
        let deployed = Deployed::new(&objects);
        let container = deployed.container();
        let probes = [
            ("startup", &container.startup_probe, [503, 200, 200]),
            ("liveness", &container.liveness_probe, [200, 200, 200]),
            ("readiness", &container.readiness_probe, [503, 200, 503]),
        ];
        for (name, probe, expected) in probes {
            let action = probe.as_ref().unwrap().http_get.as_ref().unwrap();
            let port = deployed.port(&action.port);
            let ports =
                [i32::from(deployed.settings.process.port), i32::from(deployed.settings.process.admin_port)];
            assert!(ports.contains(&port), "{place}: the {name} probe goes to port {port}");
            for (phase, expected) in
                [Phase::Starting, Phase::Ready, Phase::Draining].into_iter().zip(expected)
            {
                assert_eq!(
                    status(phase, action).await,
                    expected,
                    "{place}: the {name} probe while {phase:?}"
                );
            }
        }
        // The main port answers after recovery only, to the names of http.hosts only, and may be full of
        // clients.
        for probe in [&container.startup_probe, &container.liveness_probe, &container.readiness_probe] {
            let port = &probe.as_ref().unwrap().http_get.as_ref().unwrap().port;
            assert_eq!(deployed.port(port), i32::from(deployed.settings.process.admin_port), "{place}");
        }
    }
}

#[test]
fn ports_and_services_fit_the_settings() {
    each(|place, deployed| {
        let ports: BTreeSet<i32> =
            deployed.container().ports.iter().flatten().map(|port| port.container_port).collect();
        let expected = BTreeSet::from(
            [deployed.settings.process.port, deployed.settings.process.admin_port].map(i32::from),
        );
        assert_eq!(ports, expected, "{place}");
        let labels = deployed.set.spec.template.metadata.as_ref().unwrap().labels.clone().unwrap();
        let ours = |service: &&Service| {
            let selector = service.spec.as_ref().unwrap().selector.clone().unwrap_or_default();
            selector.iter().all(|(name, value)| labels.get(name) == Some(value))
        };
        let services: Vec<&Service> = deployed.services.iter().filter(ours).collect();
        assert_eq!(services.len(), 2, "{place}");
        for port in services.iter().flat_map(|service| service.spec.as_ref().unwrap().ports.clone().unwrap())
        {
            assert_eq!(deployed.port(port.target_port.as_ref().unwrap()), port.port, "{place}");
        }
        let headless = deployed.set.spec.service_name.clone().unwrap();
        let governing =
            services.iter().find(|service| service.metadata.name.as_ref() == Some(&headless)).unwrap();
        let spec = governing.spec.as_ref().unwrap();
        assert_eq!(
            (spec.cluster_ip.as_deref(), spec.publish_not_ready_addresses),
            (Some("None"), Some(true)),
            "{place}"
        );
    });
}

#[test]
fn the_volume_is_where_the_data_goes_and_the_grace_period_is_long_enough() {
    each(|place, deployed| {
        let set = &deployed.set.spec;
        let claims = set.volume_claim_templates.as_ref().unwrap();
        let mounts = deployed.container().volume_mounts.as_ref().unwrap();
        let mount =
            mounts.iter().find(|mount| Some(&mount.name) == claims[0].metadata.name.as_ref()).unwrap();
        assert_eq!(Path::new(&mount.mount_path), deployed.settings.process.data_dir, "{place}");
        let shutdown = &deployed.settings.shutdown;
        let budget: u64 = [shutdown.delay_secs, shutdown.drain_secs, shutdown.flush_secs]
            .map(|secs| secs.duration().as_secs())
            .iter()
            .sum();
        let grace = u64::try_from(deployed.pod().termination_grace_period_seconds.unwrap()).unwrap();
        assert!(
            grace >= budget + 20,
            "{place}: {grace} s for a shutdown of {budget} s and closing the volume"
        );
        assert!(shutdown.delay_secs >= Seconds::new(5), "{place}: endpoints need time to go");
        // One Zombi is one pod; a cluster has as many as its settings say.
        let pods = i32::try_from(deployed.settings.cluster.pods.max(1)).unwrap();
        assert_eq!(
            (set.replicas, set.pod_management_policy.as_deref()),
            (Some(pods), Some("Parallel")),
            "{place}"
        );
        let kept = set.persistent_volume_claim_retention_policy.as_ref().unwrap();
        assert_eq!(
            (kept.when_deleted.as_deref(), kept.when_scaled.as_deref()),
            (Some("Retain"), Some("Retain")),
            "{place}"
        );
    });
}

#[test]
fn the_pod_is_restricted_and_its_memory_is_enough_for_its_budgets() {
    each(|place, deployed| {
        let pod = deployed.pod();
        assert_eq!(
            (pod.enable_service_links, pod.automount_service_account_token),
            (Some(false), Some(false)),
            "{place}"
        );
        let of_pod = pod.security_context.as_ref().unwrap();
        assert_eq!(
            (of_pod.run_as_non_root, of_pod.seccomp_profile.as_ref().unwrap().type_.as_str()),
            (Some(true), "RuntimeDefault"),
            "{place}"
        );
        assert!(of_pod.fs_group.is_some(), "{place}: the volume must be writable");
        let security = deployed.container().security_context.as_ref().unwrap();
        assert_eq!(
            (security.allow_privilege_escalation, security.read_only_root_filesystem),
            (Some(false), Some(true)),
            "{place}"
        );
        assert_eq!(
            security.capabilities.as_ref().unwrap().drop.as_deref(),
            Some(["ALL".to_owned()].as_slice()),
            "{place}"
        );
        let resources = deployed.container().resources.as_ref().unwrap();
        let (limits, requests) = (resources.limits.as_ref().unwrap(), resources.requests.as_ref().unwrap());
        assert!(!limits.contains_key("cpu"), "{place}: throttling would look like a slow disk");
        assert!(requests.contains_key("cpu") && requests.contains_key("memory"), "{place}");
        let settings = &deployed.settings;
        let caches = settings.hot.cache_bytes as u64
            + settings.cache.cache_bytes
            + 4 * settings.hot.write_buffer_bytes as u64;
        let budgets = caches
            + (settings.limits.inflight_bytes + settings.limits.response_bytes + settings.flush.memory_bytes)
                as u64;
        let limit = mebibytes(&limits["memory"].0) << 20;
        assert!(budgets < limit, "{place}: budgets of {budgets} bytes in {limit}");
    });
}

fn mebibytes(quantity: &str) -> u64 {
    match (quantity.strip_suffix("Mi"), quantity.strip_suffix("Gi")) {
        (Some(number), _) => number.parse().unwrap(),
        (_, Some(number)) => number.parse::<u64>().unwrap() * 1024,
        _ => panic!("{quantity}"),
    }
}

#[test]
fn the_pods_of_a_cluster_are_apart_and_call_each_other_by_names_that_are_theirs() {
    for (place, copies) in CLUSTERS {
        let Some(objects) = render(place) else { return };
        are_apart_and_named(&Deployed::new(&objects), copies);
    }
}

fn are_apart_and_named(deployed: &Deployed, copies: u32) {
    let cluster = &deployed.settings.cluster;
    assert_eq!((cluster.pods, cluster.copies), (3, copies));
    assert!(cluster.secret_file.is_some(), "who asks travels signed");
    let headless = deployed.set.spec.service_name.clone().unwrap();
    let hosts = &deployed.settings.http.hosts;
    for (pod, address) in cluster.addresses().iter().enumerate() {
        let name = format!("zombi-{pod}.{headless}");
        assert_eq!(*address, format!("{name}:{}", deployed.settings.process.port));
        assert!(hosts.contains(&name), "{name} in {hosts:?}");
    }
    let affinity = deployed.pod().affinity.as_ref().unwrap().pod_anti_affinity.as_ref().unwrap();
    let apart = affinity.required_during_scheduling_ignored_during_execution.as_ref().unwrap();
    assert_eq!(apart[0].topology_key, "kubernetes.io/hostname");
}
