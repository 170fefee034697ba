//! deploy/kubernetes: real servers, started as the manifest says, keep what it promises Kubernetes.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{
    capture::Captured,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    http,
    port::ReservedPort,
    server::{FOLLOWER, LEADER, SOON},
    tool,
};

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/example.yaml");

/// Debian's python3-yaml converts YAML to JSON.
const TO_JSON: &str =
    "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";

/// The objects of the manifest, or `None` without a YAML reader.
fn manifest() -> Option<[Value; 2]> {
    // Debian's own Python: another one first in PATH does not see Debian's modules.
    let python = "/usr/bin/python3";
    tool::find(python)?;
    tool::find("/usr/lib/python3/dist-packages/yaml/__init__.py")?;
    let json = tool::succeeds(Command::new(python).args(["-c", TO_JSON, MANIFEST]));
    let objects: Vec<Value> = serde_json::from_str(&json).unwrap();
    let objects: [Value; 2] = objects.try_into().expect("a Deployment and a Service");
    assert_eq!([&objects[0]["kind"], &objects[1]["kind"]], ["Deployment", "Service"]);
    Some(objects)
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array()
        .unwrap()
        .iter()
        .find(|item| item["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// The sidecar.
fn elect_of(deployment: &Value) -> &Value {
    named(&deployment["spec"]["template"]["spec"]["initContainers"], "elect")
}

/// Starts the sidecar's command with its environment, except for values that differ between machines.
fn start_as_in(sidecar: &Value, pod: &str, etcd: &Etcd, http: &ReservedPort) -> Captured {
    let args = sidecar["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let mut elect = Elect::new(args).args(["--log-format", "plain"]);
    for variable in sidecar["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let value = match name {
            "ELECT_NAME" => {
                assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
                pod.to_owned()
            }
            "ELECT_ETCD" => etcd.endpoint(),
            "ELECT_HTTP" => http.address(),
            _ => variable["value"].as_str().expect("strings, as Kubernetes wants them").to_owned(),
        };
        elect = elect.env(name, value);
    }
    elect.start()
}

#[test]
fn the_probes_find_what_servers_started_as_the_manifest_says_answer() {
    let Some([deployment, _]) = manifest() else { return };
    let sidecar = elect_of(&deployment);
    let probe = |kind: &str| sidecar[kind]["httpGet"]["path"].as_str().unwrap().to_owned();
    let (ready, alive) = (probe("readinessProbe"), probe("livenessProbe"));
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let leader = start_as_in(sidecar, "example-5d9c-a", &etcd, &ports[0]);
    leader.wait_for_line(LEADER, SOON);
    let follower = start_as_in(sidecar, "example-5d9c-b", &etcd, &ports[1]);
    follower.wait_for_line(FOLLOWER, SOON);

    let [leader, follower] = ports.each_ref().map(ReservedPort::address);
    assert_eq!(http::wait_for_status(&leader, &ready, 200, SOON).header("elect-election"), Some("example"));
    assert_eq!(http::get(&follower, &ready).status, 503, "in no Service");
    for server in [leader, follower] {
        http::wait_for_status(&server, &alive, 200, SOON);
    }
}

#[test]
fn each_port_is_that_of_the_one_who_listens_there() {
    let Some([deployment, service]) = manifest() else { return };
    let sidecar = elect_of(&deployment);
    let port = named(&sidecar["ports"], "elect")["containerPort"].as_u64().unwrap();
    let listens = named(&sidecar["env"], "ELECT_HTTP")["value"].as_str().unwrap();
    assert_eq!(listens, format!("0.0.0.0:{port}"), "the kubelet does not come in by loopback");
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(sidecar[probe]["httpGet"]["port"], "elect");
    }

    let work = named(&deployment["spec"]["template"]["spec"]["containers"], "service");
    let asks = named(&work["env"], "LEADER_URL")["value"].as_str().unwrap();
    assert_eq!(asks, format!("http://127.0.0.1:{port}/leader"));
    let [served] = service["spec"]["ports"].as_array().unwrap().as_slice() else { panic!("one port") };
    named(&work["ports"], served["targetPort"].as_str().unwrap());
}

#[test]
fn the_selectors_select_the_pods() {
    let Some([deployment, service]) = manifest() else { return };
    let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    for selector in [&deployment["spec"]["selector"]["matchLabels"], &service["spec"]["selector"]] {
        let selector = selector.as_object().unwrap();
        assert!(!selector.is_empty());
        assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{selector:?}");
    }
    assert_ne!(service["spec"]["publishNotReadyAddresses"], true, "a pod that is not ready does not lead");
}

#[test]
fn the_service_stops_before_leadership_is_given_up_and_a_rollout_does_not_wait_for_standbys() {
    let Some([deployment, _]) = manifest() else { return };
    assert_eq!(elect_of(&deployment)["restartPolicy"], "Always", "a sidecar");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let rollout = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(rollout["maxUnavailable"], "100%", "all but the leader are not ready");
}
