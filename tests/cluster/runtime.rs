//! Skein's own runtime on real nodes: its processes die, its containers do not; what a container may do and may not.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::Scope;

fn pod(name: &str, command: &str, extra: &str, of_container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: node-1\n  terminationGracePeriodSeconds: 1\n{extra}  containers:\n  - name: c\n    image: {BUSYBOX}\n    command: [sh, -c, {command:?}]\n{of_container}---\n"
    )
}

fn field(cluster: &Cluster, name: &str, path: &str) -> String {
    // While the daemon starts nobody answers.
    cluster.try_kubectl("node-1", &["get", "pod", name, "-o", &format!("jsonpath={{{path}}}")]).unwrap_or_default()
}

/// The runtime's own process, without the zygote and the monitors that were forked from it.
fn runtimes() -> Vec<i32> {
    let mut found = Cluster::processes("node-1", &["runtime", "--endpoint"]);
    found.retain(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "skein"));
    found
}

fn kill_all(pids: &[i32]) {
    assert!(!pids.is_empty(), "there is nothing to kill");
    for pid in pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("the process is there");
    }
}

/// The monitor of a Pod's container: its parent.
fn parent(pid: &str) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).and_then(|p| p.parse().ok()).expect("a parent")
}

#[test]
fn containers_outlive_the_runtime_and_the_daemon_and_not_their_monitor() {
    // One node: of several, the others would replace its Pods while its daemon is away.
    let cluster = Cluster::with_nodes(1);
    cluster.load_busybox();
    let manifest = [
        pod("stays", "echo begun; sleep 100000", "", ""),
        pod("ends", "sleep 4; exit 7", "  restartPolicy: Never\n", ""),
        pod("watched", "sleep 100001", "", ""),
    ];
    cluster.apply("node-1", &manifest.concat());
    for name in ["stays", "ends", "watched"] {
        cluster.until(&format!("{name} runs"), || (field(&cluster, name, ".status.phase") == "Running").then_some(()));
    }
    let started = field(&cluster, "stays", ".status.containerStatuses[0].state.running.startedAt");
    // Both processes that know of the containers die; one container ends meanwhile.
    cluster.lab.kill("node-1", Scope::Daemon).expect("the daemon can be killed");
    kill_all(&runtimes());
    std::thread::sleep(Duration::from_secs(5));
    cluster.lab.start("node-1").expect("the daemon can be started");
    cluster.until("the end that nobody saw is told", || (field(&cluster, "ends", ".status.phase") == "Failed").then_some(()));
    assert_eq!(field(&cluster, "ends", ".status.containerStatuses[0].state.terminated.exitCode"), "7");
    assert_eq!(field(&cluster, "stays", ".status.containerStatuses[0].state.running.startedAt"), started);
    assert_eq!(field(&cluster, "stays", ".status.containerStatuses[0].restartCount"), "0");
    assert_eq!(cluster.kubectl("node-1", &["logs", "stays"]), "begun\n");
    // The runtime alone dies: the daemon starts it again, and new Pods run.
    kill_all(&runtimes());
    cluster.apply("node-1", &pod("late", "echo late", "  restartPolicy: Never\n", ""));
    cluster.until("a Pod runs after the runtime has died", || (field(&cluster, "late", ".status.phase") == "Succeeded").then_some(()));
    // Its zygote dies: the runtime cannot make Pods any more, and is started anew.
    let before = runtimes();
    let zygotes = Cluster::processes("node-1", &["runtime", "--endpoint"]);
    let is_zygote = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "skein-zygote");
    kill_all(&zygotes.into_iter().filter(is_zygote).collect::<Vec<_>>());
    cluster.until("another runtime runs", || Some(runtimes()).filter(|now| !now.is_empty() && *now != before));
    cluster.apply("node-1", &pod("later", "echo later", "  restartPolicy: Never\n", ""));
    cluster.until("a Pod runs after the zygote has died", || (field(&cluster, "later", ".status.phase") == "Succeeded").then_some(()));
    // A Pod whose monitor dies is made anew: nothing of it runs unwatched.
    let sleepers = processes("sleep 100001");
    assert_eq!(sleepers.len(), 1);
    kill_all(&[parent(&sleepers[0])]);
    cluster.until("the Pod runs again", || {
        (field(&cluster, "watched", ".status.containerStatuses[0].restartCount") == "1"
            && !field(&cluster, "watched", ".status.containerStatuses[0].state.running.startedAt").is_empty())
        .then_some(())
    });
    let again = processes("sleep 100001");
    assert_eq!(again.len(), 1);
    assert_ne!(again, sleepers);
}

fn processes(line: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("there is /proc").flatten();
    let names = entries.filter_map(|e| e.file_name().to_str().map(String::from)).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    names
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).replace('\0', " ").trim_end() == line)
        })
        .collect()
}

#[test]
fn a_container_gets_what_its_security_context_says_and_no_more() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let never = "  restartPolicy: Never\n";
    let all = "grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; id -u; id -g";
    let manifest = [
        pod(
            "plain",
            &format!("{all}; mknod /tmp/d b 7 0 && cat /tmp/d; echo 1 > /proc/sys/kernel/hostname; hostname; ps | wc -l"),
            never,
            "",
        ),
        pod(
            "strict",
            &format!("{all}; touch /file; mkdir /tmp/x; echo by name >/dev/stdout; echo by name >/dev/stderr"),
            "  restartPolicy: Never\n  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, seccompProfile: {type: RuntimeDefault}}\n",
            "    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n",
        ),
        pod("added", "grep CapEff /proc/self/status", never, "    securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}\n"),
        pod("master", "ls /dev | wc -l; mount -t tmpfs none /tmp && echo mounted", never, "    securityContext: {privileged: true}\n"),
        pod("hungry", "yes | tr \\\\n x | head -c 200000000 | grep n", never, "    resources: {limits: {memory: 16Mi}}\n"),
        pod("rootless", "true", never, "    securityContext: {runAsNonRoot: true}\n"),
        pod("nothing", "", never, "").replace("[sh, -c, \"\"]", "[/no/such/program]"),
    ];
    cluster.apply("node-1", &manifest.concat());
    let logs = |name: &str| {
        cluster.until(&format!("{name} has ended"), || {
            matches!(field(&cluster, name, ".status.phase").as_str(), "Succeeded" | "Failed").then_some(())
        });
        cluster.kubectl("node-1", &["logs", name])
    };
    let plain = logs("plain");
    assert!(plain.contains("CapEff:\t00000000a80425fb"), "{plain}");
    assert!(plain.contains("NoNewPrivs:\t0") && plain.contains("Seccomp:\t0"), "{plain}");
    assert!(plain.contains("/tmp/d") && plain.contains("Permission denied"), "a device node must not work: {plain}");
    assert!(plain.contains("Read-only file system"), "{plain}");
    assert!(plain.contains("\nplain\n"), "{plain}");
    let strict = logs("strict");
    assert!(strict.contains("CapEff:\t0000000000000000") && strict.contains("CapBnd:\t0000000000000000"), "{strict}");
    assert!(strict.contains("NoNewPrivs:\t1") && strict.contains("Seccomp:\t2"), "{strict}");
    assert!(strict.contains("\n1000\n2000\n"), "{strict}");
    assert_eq!(strict.matches("Read-only file system").count(), 2, "{strict}");
    assert_eq!(strict.matches("by name").count(), 2, "{strict}");
    assert!(logs("added").contains("CapEff:\t0000000000001000"));
    let master = logs("master");
    assert!(
        master.contains("mounted") && master.lines().next().and_then(|n| n.trim().parse::<u32>().ok()).is_some_and(|n| n > 15),
        "{master}"
    );
    logs("hungry");
    assert_eq!(field(&cluster, "hungry", ".status.containerStatuses[0].state.terminated.reason"), "OOMKilled");
    cluster.until("a container that must not be root is not started", || {
        let told = field(&cluster, "rootless", ".status.containerStatuses[0].state.waiting");
        (told.contains("CreateContainerConfigError") && told.contains("image will run as root")).then_some(())
    });
    cluster.until("the missing program is told", || {
        let told = field(&cluster, "nothing", ".status.containerStatuses[0].state");
        told.contains("no such file or directory").then_some(())
    });
}

/// As whom a process runs, as its node sees it.
fn user_on_node(pid: &str) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("it has a user");
    users.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a number")
}

#[test]
fn root_of_a_pod_with_its_own_users_is_nobody_on_the_node() {
    let cluster = Cluster::with_nodes(1);
    cluster.load_busybox();
    let shared = cluster.directory().join("shared");
    std::fs::create_dir_all(&shared).expect("a directory");
    let volumes = format!(
        "  hostUsers: false\n  securityContext: {{fsGroup: 3000}}\n  volumes:\n  - {{name: work, emptyDir: {{}}}}\n  - {{name: shared, hostPath: {{path: {}}}}}\n",
        shared.display()
    );
    let of_container = |more: &str| {
        format!(
            "    volumeMounts: [{{name: work, mountPath: /work}}, {{name: shared, mountPath: /shared}}]\n    securityContext: {{capabilities: {{add: [NET_ADMIN]}}{more}}}\n"
        )
    };
    let tells = "cat /proc/self/uid_map; id -u; id -G; touch /tmp/made /work/made; chown 7 /work/made; stat -c %u:%g /tmp/made /work/made /bin; \
                 ip link set lo down && echo the network is its own; echo by name >/dev/stdout; cat /sys/kernel/debug 2>&1 | head -c 0; sleep";
    let manifest = [
        pod("first", &format!("touch /shared/first; {tells} 200001"), &volumes, &of_container("")),
        pod("second", &format!("{tells} 200002"), &volumes, &of_container(", runAsUser: 1000, runAsGroup: 2000")),
    ];
    cluster.apply("node-1", &manifest.concat());
    for name in ["first", "second"] {
        cluster.kubectl("node-1", &["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=60s"]);
    }
    let said = |name: &str| -> Vec<String> {
        let log = cluster
            .until(&format!("{name} has told"), || Some(cluster.kubectl("node-1", &["logs", name])).filter(|log| log.contains("by name")));
        log.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let first = said("first");
    let begin: u32 = first[0].split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert_eq!(first[0], format!("0 {begin} 65536"));
    assert_eq!(first[1..], ["0", "0 3000", "0:0", "7:3000", "0:0", "the network is its own", "by name"]);
    let second = said("second");
    assert_eq!(second[1..3], ["1000", "2000 3000"]);
    // On the node they are others, each Pod's its own; files of volumes belong to whom the containers say.
    let root = user_on_node(&processes("sleep 200001")[0]);
    let other = user_on_node(&processes("sleep 200002")[0]);
    assert_eq!(root, begin);
    assert!(root >= 65_536 && other % 65_536 == 1000 && other / 65_536 != root / 65_536, "{root} {other}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(shared.join("first")).expect("it was made"));
    assert_eq!(owner, 0);
    assert_eq!(cluster.kubectl("node-1", &["exec", "first", "--", "sh", "-c", "id -u; echo x >/dev/stdout"]), "0\nx\n");
    // What a later daemon starts of the Pod has the same users.
    cluster.lab.kill("node-1", Scope::Daemon).expect("the daemon can be killed");
    cluster.lab.start("node-1").expect("the daemon can be started");
    cluster.until("the daemon answers", || cluster.try_kubectl("node-1", &["exec", "first", "--", "kill", "1"]).ok());
    kill_all(&processes("sleep 200001").iter().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>());
    cluster.until("the container runs again", || {
        (field(&cluster, "first", ".status.containerStatuses[0].restartCount") == "1" && !processes("sleep 200001").is_empty())
            .then_some(())
    });
    assert_eq!(user_on_node(&processes("sleep 200001")[0]), begin);
}

#[test]
fn logs_are_rotated_and_followed_across_the_rotation() {
    let cluster = Cluster::build(&skein_lab::Plan { arguments: vec!["--container-log-max-size=64Ki".into()], ..skein_lab::Plan::new(1) });
    cluster.load_busybox();
    let command = "i=0; while [ $i -lt 12000 ]; do echo 'line '$i' of those that fill the log'; i=$((i+1)); [ $((i % 500)) = 0 ] && sleep 1; done; sleep 1";
    cluster.apply("node-1", &pod("chatty", command, "  restartPolicy: Never\n", ""));
    cluster.until("it runs", || (field(&cluster, "chatty", ".status.phase") == "Running").then_some(()));
    let directory = std::path::Path::new("/var/lib/skein-lab/nodes/node-1/data/kubelet/logs");
    let files = || {
        let pods = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let of = pods.flat_map(|p| std::fs::read_dir(p.path().join("c")).into_iter().flatten().flatten());
        of.map(|f| f.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    // Ends when the container does.
    let followed = cluster.kubectl("node-1", &["logs", "--follow", "chatty"]);
    let numbers: Vec<u32> = followed.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    assert_eq!(numbers.len(), 12000, "from {:?} to {:?}", numbers.first(), numbers.last());
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "lines come once and in order");
    let files = files();
    assert!(files.len() > 2 && files.len() <= 5 && files.iter().any(|f| f.ends_with(".gz")), "{files:?}");
}
