//! A machine that goes down, as systemd's logind tells of it: on a bus of this test's own, with a logind that is.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use skein_cluster_tests::{BUSYBOX, Cluster, PATIENCE, until};
use skein_lab::Plan;
use zbus::zvariant;

const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";

/// Our ends of the locks that were taken: one that was given up can be read to its end.
type Locks = Arc<Mutex<Vec<UnixStream>>>;

struct Logind(Locks);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn inhibit(&self, what: &str, _who: &str, _why: &str, mode: &str) -> zbus::fdo::Result<zvariant::OwnedFd> {
        assert_eq!((what, mode), ("shutdown", "delay"));
        let (own, theirs) = UnixStream::pair().map_err(|why| zbus::fdo::Error::Failed(why.to_string()))?;
        self.0.lock().expect("nobody panics with it").push(own);
        Ok(OwnedFd::from(theirs).into())
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> u64 {
        60_000_000
    }
}

/// A message bus, killed with the test.
struct Bus(Child);

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bus {
    fn start(socket: &Path) -> Self {
        let configuration = socket.with_extension("conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(&configuration, text).expect("a file can be written");
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg(format!("--config-file={}", configuration.display()));
        // It says that it may not raise its limits.
        let bus = Self(command.stderr(Stdio::null()).spawn().expect("dbus-daemon can be run (Debian package dbus-daemon)"));
        until("the bus is there", Duration::from_secs(10), || UnixStream::connect(socket).ok());
        bus
    }
}

fn is_given_up(lock: &UnixStream) -> bool {
    lock.set_nonblocking(true).expect("a socket");
    matches!((&*lock).read(&mut [0]), Ok(0))
}

fn pod(name: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: node-1\n  terminationGracePeriodSeconds: 60\n{more}  containers: [{{name: c, image: \"{BUSYBOX}\", command: [sh, -c, '{script}']}}]\n"
    )
}

#[test]
fn pods_end_in_order_before_the_machine_goes_down() {
    let socket = std::env::temp_dir().join(format!("skein-bus-{}", std::process::id()));
    let _bus = Bus::start(&socket);
    let address = format!("unix:path={}", socket.display());
    let threads = tokio::runtime::Runtime::new().expect("threads");
    let locks = Locks::default();
    let own = Arc::clone(&locks);
    let bus = threads.block_on(async {
        let builder = zbus::connection::Builder::address(address.as_str()).expect("an address");
        let builder = builder.name("org.freedesktop.login1").expect("a name").serve_at(PATH, Logind(own)).expect("a path");
        tokio::time::timeout(PATIENCE, builder.build()).await.expect("an answer").expect("the bus takes it")
    });
    let prepare = |begins: bool| {
        threads.block_on(bus.emit_signal(None::<&str>, PATH, MANAGER, "PrepareForShutdown", &(begins,))).expect("it can be told");
    };
    let arguments = ["--shutdown-grace-period=9s", "--shutdown-grace-period-critical-pods=4s"].map(String::from).into();
    let environment = vec![("DBUS_SYSTEM_BUS_ADDRESS".to_string(), address)];
    let cluster = Cluster::build(&Plan { arguments, environment, ..Plan::new(1) });
    cluster.load_busybox();
    let polite = "trap \"sleep 1; exit 3\" TERM; while true; do sleep 0.1; done";
    cluster.apply("node-1", &pod("polite", "", polite));
    cluster.apply("node-1", &pod("stubborn", "", "trap \"\" TERM; while true; do sleep 0.1; done"));
    cluster.apply("node-1", &pod("critical", "  priorityClassName: system-node-critical\n", polite));
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    let count = || locks.lock().expect("nobody panics with it").len();
    cluster.until("the node asks to be waited for", || (count() == 1).then_some(()));
    assert!(!is_given_up(&locks.lock().expect("nobody panics with it")[0]));

    prepare(true);
    let ready = || {
        let node = cluster.kubectl_json("node-1", &["get", "node", "node-1"]);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default()
    };
    cluster.until("the node is not ready", || (ready()["message"] == "node is shutting down").then_some(()));
    cluster.apply("node-1", &pod("late", "", polite));
    let ended = |name: &str| {
        let status = cluster.until(&format!("{name} has ended"), || {
            let pod = cluster.kubectl_json("node-1", &["get", "pod", name]);
            (pod["status"]["phase"] == "Failed").then(|| pod["status"].clone())
        });
        let terminated = status["containerStatuses"][0]["state"]["terminated"].clone();
        (status["reason"].clone(), status["message"].clone(), terminated)
    };
    let late = ended("late");
    assert_eq!((late.0, late.1), ("NodeShutdown".into(), "Pod was rejected: Pod was rejected as the node is shutting down.".into()));
    let [polite, stubborn, critical] = ["polite", "stubborn", "critical"].map(|name| {
        let (reason, message, terminated) = ended(name);
        assert_eq!(reason, "Terminated", "{name}");
        assert_eq!(message, "Pod was terminated in response to imminent node shutdown.", "{name}");
        terminated
    });
    let exit = |terminated: &Value| terminated["exitCode"].as_i64();
    assert_eq!([exit(&polite), exit(&stubborn), exit(&critical)], [Some(3), Some(137), Some(3)]);
    let time = |terminated: &Value| terminated["finishedAt"].as_str().map(String::from);
    assert!(time(&polite) < time(&stubborn) && time(&stubborn) < time(&critical), "{polite} {stubborn} {critical}");
    cluster.until("the machine may go down", || is_given_up(&locks.lock().expect("nobody panics with it")[0]).then_some(()));
    let events = cluster.kubectl("node-1", &["get", "events", "--field-selector", "reason=NodeShutdown,involvedObject.kind=Node"]);
    assert!(events.contains("Shutdown manager detected shutdown event"), "{events}");

    // Called off.
    prepare(false);
    cluster.until("the node asks again", || (count() == 2).then_some(()));
    cluster.until("the node is ready", || (ready()["status"] == "True").then_some(()));
}
