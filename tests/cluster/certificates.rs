//! Certificates: nodes renew theirs, one that overslept gets back in, the cluster signs what is approved, and its CA gets a
//! successor while everything goes on.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skein_cluster_tests::{BUSYBOX, Cluster, program, until};
use skein_lab::{Plan, Scope};

const LIFETIME: Duration = Duration::from_secs(20);

fn identity(node: usize) -> String {
    std::fs::read_to_string(format!("/var/lib/skein-lab/nodes/node-{node}/data/pki/node.pem")).expect("the node has an identity")
}

#[test]
fn nodes_renew_their_certificates_and_one_that_overslept_gets_back_in() {
    let lifetime = format!("--cluster-signing-duration={}s", LIFETIME.as_secs());
    let cluster = Cluster::build(&Plan { arguments: vec![lifetime], ..Plan::new(4) });
    let begin = Instant::now();
    let before: Vec<String> = (2..=4).map(identity).collect();
    // The one that does not vote has to ask, the others sign for themselves.
    let asks = cluster.until("one does not vote", || {
        let status = cluster.status("node-1");
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|node| node["role"] == "standby")?["name"].as_str().map(String::from)
    });
    until("every certificate is another", Duration::from_secs(60), || (2..=4).all(|node| identity(node) != before[node - 2]).then_some(()));
    until("the first ones have ended", Duration::from_secs(60), || (begin.elapsed() > LIFETIME + Duration::from_secs(1)).then_some(()));
    for node in 2..=4 {
        let (code, _) = cluster.request(node, "GET", "/readyz", None);
        assert_eq!(code, 200, "node-{node} shows a certificate that holds");
    }
    // It sleeps longer than its certificate holds: nobody lets it in, but everybody knows its key.
    let number: usize = asks.trim_start_matches("node-").parse().expect("a number");
    cluster.lab.kill(&asks, Scope::Daemon).expect("it can be killed");
    let asleep = Instant::now();
    let stale = identity(number);
    until("its certificate has ended", Duration::from_secs(60), || (asleep.elapsed() > LIFETIME + Duration::from_secs(2)).then_some(()));
    cluster.lab.start(&asks).expect("it can be started");
    cluster.until("it has another certificate", || (identity(number) != stale).then_some(()));
    cluster.until("it is ready again", || {
        let status = cluster.status("node-1");
        let nodes = status["nodes"].as_array()?;
        nodes.iter().any(|node| node["name"] == asks.as_str() && node["ready"] == true).then_some(())
    });
    // A daemon that is started with nothing but expired certificates finds its way too: the whole cluster sleeps.
    for node in 1..=4 {
        cluster.lab.kill(&format!("node-{node}"), Scope::Daemon).expect("it can be killed");
    }
    let asleep = Instant::now();
    until("all certificates have ended", Duration::from_secs(60), || (asleep.elapsed() > LIFETIME + Duration::from_secs(2)).then_some(()));
    for node in 1..=4 {
        cluster.lab.start(&format!("node-{node}")).expect("it can be started");
    }
    cluster.until("all are ready again", || {
        let status = cluster.status("node-1");
        let nodes = status["nodes"].as_array()?;
        (nodes.len() == 4 && nodes.iter().all(|node| node["ready"] == true)).then_some(())
    });
}

#[test]
fn requests_for_certificates_are_approved_by_whom_may_and_signed() {
    let cluster = Cluster::start();
    let directory = cluster.directory().to_path_buf();
    let path = |name: &str| directory.join(name).display().to_string();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).output().expect("openssl can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let request = |group: &str| {
        let key = path(&format!("{group}.key"));
        run(&["req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-subj", &format!("/O={group}/CN=ada")])
    };
    let manifest = |name: &str, pem: &str, signer: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  request: {}\n  signerName: {signer}\n  expirationSeconds: 3600\n  usages: [client auth]\n",
            STANDARD.encode(pem)
        )
    };
    let client = "kubernetes.io/kube-apiserver-client";
    let pem = request("devs");
    cluster.apply("node-1", &manifest("ada", &pem, client));
    let stored = cluster.kubectl_json("node-2", &["get", "csr", "ada"]);
    assert_eq!(stored["spec"]["username"], "admin");
    assert!(cluster.kubectl("node-2", &["get", "csr", "ada"]).contains("Pending"));
    // The specification is what it was, whoever edits it.
    cluster.kubectl("node-2", &["patch", "csr", "ada", "--type=merge", "-p", "{\"spec\":{\"username\":\"eve\"}}"]);
    assert_eq!(cluster.kubectl_json("node-3", &["get", "csr", "ada"])["spec"]["username"], "admin");
    cluster.kubectl("node-3", &["certificate", "approve", "ada"]);
    let certificate = cluster.until("it is signed", || {
        let found = cluster.kubectl_json("node-1", &["get", "csr", "ada"]);
        found["status"]["certificate"].as_str().and_then(|text| STANDARD.decode(text).ok())
    });
    assert!(cluster.kubectl("node-2", &["get", "csr", "ada"]).contains("Approved,Issued"));
    std::fs::write(path("ada.crt"), certificate).expect("it can be written");

    // Ada is who it says, and has what her group has.
    cluster.kubectl("node-1", &["create", "clusterrolebinding", "devs", "--clusterrole=view", "--group=devs"]);
    let [ca, ..] = cluster.credentials();
    let ada = |node: usize, arguments: &[&str]| {
        let server = format!("https://{}:6443", Cluster::address(node));
        let own = [
            format!("--server={server}"),
            format!("--certificate-authority={}", ca.display()),
            format!("--client-certificate={}", path("ada.crt")),
            format!("--client-key={}", path("devs.key")),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        cluster.try_kubectl("node-1", &[&["--kubeconfig=/dev/null", "--context="][..], &own, arguments].concat())
    };
    cluster.until("she may look", || ada(3, &["get", "pods", "-A"]).ok());
    let refused = ada(2, &["create", "namespace", "x"]).expect_err("she may not");
    assert!(refused.contains("User \"ada\" cannot create resource \"namespaces\""), "{refused}");

    // Not everything is signed, and not everybody decides.
    let masters = request("system:masters");
    let why = cluster.try_kubectl("node-2", &["apply", "-f", &cluster.manifest(&manifest("eve", &masters, client))]);
    assert!(why.clone().is_err_and(|why| why.contains("signer with system:masters group is not allowed")), "{why:?}");
    let nonsense = cluster.try_kubectl("node-2", &["apply", "-f", &cluster.manifest(&manifest("mad", "nonsense", client))]);
    assert!(nonsense.clone().is_err_and(|why| why.contains("PEM block type must be CERTIFICATE REQUEST")), "{nonsense:?}");
    cluster.apply("node-1", &manifest("kubelet", &pem, "kubernetes.io/kube-apiserver-client-kubelet"));
    cluster.kubectl("node-1", &["create", "clusterrole", "decider", "--verb=get,list,update,patch", "--resource=csr,csr/approval"]);
    cluster.kubectl("node-1", &["create", "clusterrolebinding", "decider", "--clusterrole=decider", "--group=devs"]);
    let not_hers = cluster.until("she is refused by the signer's rule", || {
        ada(2, &["certificate", "approve", "kubelet"]).err().filter(|why| why.contains("user not permitted"))
    });
    let expected = "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client-kubelet\"";
    assert!(not_hers.contains(expected), "{not_hers}");
    cluster.kubectl("node-1", &["certificate", "approve", "kubelet"]);
    cluster.until("the signer says why not", || {
        let found = cluster.kubectl_json("node-3", &["get", "csr", "kubelet"]);
        let conditions = found["status"]["conditions"].as_array()?.clone();
        conditions.iter().any(|c| c["type"] == "Failed" && c["message"] == "subject organization is not system:nodes").then_some(())
    });
}

/// The name of the CA that has signed what this node shows.
fn issuer(node: usize) -> String {
    let file = format!("/var/lib/skein-lab/nodes/node-{node}/data/pki/node.pem");
    let output = Command::new("openssl").args(["x509", "-noout", "-issuer", "-in", &file]).output().expect("openssl can be run");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// `skein ca STEP`, as one node's kubeconfig lets it ask, and what it prints in the end.
fn ca(cluster: &Cluster, step: &str) -> Result<Value, String> {
    let mut command = Command::new(program());
    let output =
        command.args(["ca", step, "--output", "json", "--kubeconfig"]).arg(cluster.kubeconfig()).output().expect("skein can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(serde_json::from_slice(&output.stdout).unwrap_or_default()) } else { Err(said) }
}

fn are_ready(cluster: &Cluster, count: usize) -> Option<()> {
    let status = cluster.status("node-1");
    let nodes = status["nodes"].as_array()?;
    (nodes.len() == count && nodes.iter().all(|node| node["ready"] == true)).then_some(())
}

#[test]
fn the_ca_gets_a_successor_while_everything_goes_on() {
    let cluster = Cluster::build(&Plan::new(4));
    cluster.load_busybox();
    let sleeper = cluster.until("one does not vote", || {
        let status = cluster.status("node-1");
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|node| node["role"] == "standby")?["name"].as_str().map(String::from)
    });
    cluster.kubectl("node-1", &["create", "secret", "generic", "treasure", "--from-literal=gold=hidden"]);
    cluster.kubectl("node-1", &["create", "configmap", "counter"]);
    cluster.kubectl("node-2", &["run", "watcher", &format!("--image={BUSYBOX}"), "--command", "--", "sleep", "3600"]);
    cluster.kubectl("node-3", &["wait", "--for=condition=Ready", "pod/watcher", "--timeout=60s"]);
    let first = issuer(1);
    let former = std::fs::read_to_string("/var/lib/skein-lab/nodes/node-1/data/pki/ca.crt").expect("the node has a CA");
    assert!(ca(&cluster, "retire").is_err_and(|why| why.contains("no former CA is trusted")), "there is nothing to retire");

    // One that does not vote sleeps through all of it, and the leader dies in the middle.
    cluster.lab.kill(&sleeper, Scope::Daemon).expect("it can be killed");
    cluster.credentials();
    let goes_on = AtomicBool::new(true);
    let live: Vec<usize> = (1..=4).filter(|node| format!("node-{node}") != sleeper).collect();
    let refused = std::thread::scope(|scope| {
        // By curl, so OpenSSL has to find its way from the former CA to the new one, too.
        let writer = scope.spawn(|| {
            let mut refused = Vec::new();
            for count in 0.. {
                if !goes_on.load(Ordering::Relaxed) {
                    return (count, refused);
                }
                let body = format!("{{\"data\":{{\"count\":\"{count}\"}}}}");
                let path = "/api/v1/namespaces/default/configmaps/counter";
                let tried: Vec<(u16, Value)> = live.iter().map(|node| cluster.request(*node, "PATCH", path, Some(&body))).collect();
                let failed = tried.iter().filter(|(code, _)| *code != 200 && *code != 0).cloned();
                refused.extend(failed.map(|(code, answer)| format!("{code} {answer}")));
                if tried.iter().all(|(code, _)| *code == 0) {
                    refused.push("no node answers".into());
                }
            }
            unreachable!("there is always another number")
        });
        let rotation = scope.spawn(|| ca(&cluster, "rotate"));
        let asked = format!("node-{}", live[0]);
        cluster.until("both CAs are trusted", || (ca(&cluster, "status").ok()?["phase"] != "Settled").then_some(()));
        let leader = cluster.leader(&asked);
        cluster.lab.kill(&leader, Scope::Daemon).expect("it can be killed");
        cluster.lab.start(&leader).expect("it can be started");
        let status = rotation.join().expect("it ends").expect("the CA has a successor");
        assert_eq!((&status["phase"], &status["missing"]), (&"Signing".into(), &serde_json::json!([])), "{status:#}");
        goes_on.store(false, Ordering::Relaxed);
        let (count, refused) = writer.join().expect("it ends");
        assert!(count > 3, "{count} rounds of writes");
        refused
    });
    assert_eq!(refused, [""; 0], "who trusts the former CA notices nothing");
    for node in &live {
        assert_ne!(issuer(*node), first, "node-{node}");
    }
    let (code, again) = cluster.request(live[1], "POST", "/skein/v1/authority", Some("{\"step\":\"rotate\"}"));
    assert_eq!((code, &again["reason"]), (409, &"Conflict".into()), "{again}");

    // Clients in Pods trust both; what was sealed by the former CA's key is sealed by the new one's.
    let trusted = cluster.until("the Pod has both CAs", || {
        let shown = cluster
            .try_kubectl("node-1", &["exec", "watcher", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"])
            .ok()?;
        (shown.matches("BEGIN CERTIFICATE").count() == 2).then_some(shown)
    });
    assert!(trusted.contains(former.trim()));
    ca(&cluster, "retire").expect("nobody needs the former CA");
    let path = "/api/v1/namespaces/default/secrets/treasure";
    until("the former CA's certificates are good for nothing", Duration::from_secs(30), || {
        live.iter().all(|node| cluster.request(*node, "GET", path, None).0 == 401).then_some(())
    });
    cluster.lab.write_kubeconfigs().expect("the administrator has a certificate of the new CA");
    for node in &live {
        let secret = cluster.kubectl_json(&format!("node-{node}"), &["get", "secret", "treasure"]);
        assert_eq!(secret["data"]["gold"], STANDARD.encode("hidden"));
    }

    // The sleeper trusts the former CA alone, and shows what nobody believes any more.
    cluster.lab.start(&sleeper).expect("it can be started");
    cluster.until("all are ready", || are_ready(&cluster, 4));
    cluster.until("it opens what was sealed while it slept", || {
        let secret = cluster.try_kubectl(&sleeper, &["get", "secret", "treasure", "-o", "jsonpath={.data.gold}"]).ok()?;
        (secret == STANDARD.encode("hidden")).then_some(())
    });
    // All from what is on the disks, with no daemon left.
    for node in 1..=4 {
        cluster.lab.kill(&format!("node-{node}"), Scope::Daemon).expect("it can be killed");
    }
    for node in 1..=4 {
        cluster.lab.start(&format!("node-{node}")).expect("it can be started");
    }
    cluster.until("all are ready again", || are_ready(&cluster, 4));
    for node in 1..=4 {
        let file = std::fs::read_to_string(format!("/var/lib/skein-lab/nodes/node-{node}/data/pki/ca.crt")).expect("it has a CA");
        assert!(!file.contains(former.trim()), "node-{node} trusts the new CA alone");
    }
}
