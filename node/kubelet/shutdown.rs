//! Graceful shutdown of the machine (KEP-2000, `pkg/kubelet/nodeshutdown`): Pods end in order, and within their time,
//! before systemd goes on.
//!
//! ```text
//!   logind: PrepareForShutdown(true) ─▶ node not ready, no new Pods ─▶ ordinary Pods ─▶ critical ones ─▶ lock released
//! ```
//!
//! logind waits while somebody holds an inhibitor lock, for a time that it is asked to make long enough.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use skein_cri::PodSandboxState;
use skein_object::Key;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use zbus::proxy::{Builder, CacheProperties};
use zbus::zvariant::OwnedFd;
use zbus::{Connection, Proxy};

use crate::eviction::{Evicted, is_critical};
use crate::pressure::active;
use crate::worker::Shared;
use crate::write::{Note, tell};

/// `nodeShutdownNotAdmittedReason`
pub(crate) const NOT_ADMITTED: &str = "NodeShutdown";
/// `nodeShutdownReason`
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Raises how long logind waits.
const DROP_IN: &str = "/etc/systemd/logind.conf.d/99-skein.conf";

/// After logind has gone, or could not be asked.
const AGAIN: Duration = Duration::from_secs(30);

/// How often it is seen whether Pods have ended.
const TICK: Duration = Duration::from_millis(200);

/// What Pods get when the machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownGrace {
    /// All of them together.
    pub total: Duration,
    /// Of that, the critical ones, which end last.
    pub critical: Duration,
}

/// Pods that end together, and how long they get.
#[derive(Debug, PartialEq)]
struct Group<'a> {
    pods: Vec<&'a Pod>,
    lasts: Duration,
}

/// Waits for the machine to go down, for as long as the daemon runs; `told` wakes the worker of a Pod that must go.
pub(crate) async fn run(shared: Arc<Shared>, grace: ShutdownGrace, told: mpsc::Sender<String>) {
    let mut last = String::new();
    loop {
        let ended = follow(&shared, grace, &told).await;
        shared.options.pressure.shut_down(false);
        let why = ended.map_or_else(|why| why.to_string(), |()| "logind has gone".into());
        if why != last {
            warn!(%why, "this machine's shutdown is not seen, so Pods will not end in order");
            last = why;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(shared: &Arc<Shared>, grace: ShutdownGrace, told: &mpsc::Sender<String>) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    // What it says of itself changes without notice when it reads its configuration anew.
    let logind = Builder::<Proxy<'_>>::new(&bus).cache_properties(CacheProperties::No).destination("org.freedesktop.login1")?;
    let logind = logind.path("/org/freedesktop/login1")?.interface("org.freedesktop.login1.Manager")?.build().await?;
    let grace = granted(&bus, &logind, grace).await?;
    let mut signals = logind.receive_signal("PrepareForShutdown").await?;
    let mut lock = Some(inhibit(&logind).await?);
    info!(?grace, "Pods end in order when this machine goes down");
    let mut signal = signals.next().await;
    while let Some(message) = signal.take() {
        let begins: bool = message.body().deserialize()?;
        shared.options.pressure.shut_down(begins);
        if begins {
            info!("this machine goes down");
            announce(shared);
            tokio::select! {
                // Called off.
                next = signals.next() => {
                    signal = next;
                    continue;
                }
                () = end_all(shared, grace, told) => info!("every Pod has ended, or has had its time"),
            }
            drop(lock.take());
        } else {
            info!("this machine does not go down after all");
            lock = Some(inhibit(&logind).await?);
        }
        signal = signals.next().await;
    }
    Ok(())
}

async fn inhibit(logind: &Proxy<'_>) -> zbus::Result<OwnedFd> {
    logind.call("Inhibit", &("shutdown", "skein", "Pods need time to end", "delay")).await
}

/// What logind allows; where that is too little, it is asked for more.
async fn granted(bus: &Connection, logind: &Proxy<'_>, wanted: ShutdownGrace) -> zbus::Result<ShutdownGrace> {
    let most = || async { Ok::<_, zbus::Error>(Duration::from_micros(logind.get_property("InhibitDelayMaxUSec").await?)) };
    if most().await? >= wanted.total {
        return Ok(wanted);
    }
    if let Err(why) = raise(bus, wanted.total).await {
        warn!(%why, "logind cannot be asked to wait longer");
    }
    let most = most().await?;
    if most < wanted.total {
        warn!(seconds = most.as_secs(), "logind waits no longer than this: set InhibitDelayMaxSec in logind.conf");
    }
    Ok(wanted.within(most))
}

async fn raise(bus: &Connection, wanted: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(DROP_IN);
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    std::fs::write(path, format!("# Written by Skein, for Pods to end in.\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs()))?;
    let systemd = Proxy::new(bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager").await?;
    // It reads its configuration anew (SIGHUP).
    systemd.call_method("KillUnit", &("systemd-logind.service", "all", 1)).await?;
    // There is no answer that says that it has.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// Tells of it in an Event, and by the Node's condition, which its writer looks at often.
fn announce(shared: &Shared) {
    let key = Key::new("nodes", "", &shared.options.name);
    let message = "Shutdown manager detected shutdown event".into();
    let note = Note { reason: "NodeShutdown", message, warning: false, field_path: String::new() };
    tell(&shared.store, &shared.options.name, &key, &shared.options.name, note);
}

async fn end_all(shared: &Arc<Shared>, grace: ShutdownGrace, told: &mpsc::Sender<String>) {
    let pods = active(shared);
    for Group { pods, lasts } in plan(&pods, grace) {
        let until = Instant::now() + lasts;
        let uids: Vec<String> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let grace_seconds_max = i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX);
        for uid in &uids {
            shared.options.pressure.drive_away(uid, Evicted { reason: REASON, why: MESSAGE.into(), grace_seconds_max });
            let _ = told.send(uid.clone()).await;
        }
        while Instant::now() < until && any_runs(shared, &uids).await {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// As the runtime sees it: a cluster without a quorum takes no status.
async fn any_runs(shared: &Shared, uids: &[String]) -> bool {
    for uid in uids {
        let found = shared.runtime.sandboxes(Some(uid)).await;
        let ready = i32::from(PodSandboxState::SandboxReady);
        if found.map_or(true, |sandboxes| sandboxes.iter().any(|sandbox| sandbox.state == ready)) {
            return true;
        }
    }
    false
}

/// Ordinary Pods first, critical ones last. Pure.
fn plan(pods: &[Pod], grace: ShutdownGrace) -> Vec<Group<'_>> {
    let (critical, ordinary): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| is_critical(pod));
    let groups = [
        Group { pods: ordinary, lasts: grace.total.saturating_sub(grace.critical) },
        Group { pods: critical, lasts: grace.critical.min(grace.total) },
    ];
    groups.into_iter().filter(|group| !group.pods.is_empty()).collect()
}

// === impl ShutdownGrace ===

impl ShutdownGrace {
    /// The same proportions in less time.
    fn within(self, most: Duration) -> Self {
        if self.total <= most {
            return self;
        }
        Self { total: most, critical: self.critical.mul_f64(most.as_secs_f64() / self.total.as_secs_f64()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec { priority: Some(priority), ..Default::default() });
        pod
    }

    fn grace(total: u64, critical: u64) -> ShutdownGrace {
        ShutdownGrace { total: Duration::from_secs(total), critical: Duration::from_secs(critical) }
    }

    #[test]
    fn critical_pods_end_last_and_in_their_own_time() {
        let pods = [pod("dns", 2_000_000_000), pod("web", 0), pod("db", 1000)];
        let check = |pods: &[Pod], grace: ShutdownGrace, expected: &[(&[&str], u64)]| {
            let groups = plan(pods, grace);
            let found: Vec<(Vec<&str>, u64)> = groups
                .iter()
                .map(|group| (group.pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect(), group.lasts.as_secs()))
                .collect();
            let expected: Vec<(Vec<&str>, u64)> = expected.iter().map(|(names, lasts)| (names.to_vec(), *lasts)).collect();
            assert_eq!(found, expected);
        };
        check(&pods, grace(30, 10), &[(&["web", "db"], 20), (&["dns"], 10)]);
        check(&pods[..1], grace(30, 10), &[(&["dns"], 10)]);
        check(&pods[1..], grace(30, 0), &[(&["web", "db"], 30)]);
        check(&[], grace(30, 10), &[]);
    }

    #[test]
    fn what_logind_does_not_give_is_missed_by_all() {
        assert_eq!(grace(30, 10).within(Duration::from_secs(60)), grace(30, 10));
        assert_eq!(grace(30, 10).within(Duration::from_secs(15)), grace(15, 5));
    }
}
