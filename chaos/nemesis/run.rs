//! Carries an experiment out: faults by the plan, then everything undone, then the verdict.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::Value;

use crate::Api;
use crate::experiment::{Experiment, Kind, Pods, Probe, Target};
use crate::ground::Ground;
use crate::load::{Load, Outcome};
use crate::plan::{Member, Planned, Random, choose, is_meant, others, plan};
use crate::probe::Probes;

const TICK: Duration = Duration::from_millis(100);
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// When the faults are over, the cluster must be whole again within this time.
const HEAL_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of an experiment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub name: String,
    pub seed: u64,
    /// `Passed` or `Failed`
    pub verdict: &'static str,
    /// Why it failed.
    pub failures: Vec<String>,
    /// What happened, in order.
    pub timeline: Vec<Entry>,
    pub(crate) load: Option<Outcome>,
    /// From the end of the faults until every node was ready.
    pub healed_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Since the faults began to come.
    pub at_ms: u64,
    pub what: String,
}

/// A fault that has not been undone.
struct Active {
    node: String,
    kind: Kind,
    end: Duration,
}

struct Session<'a> {
    ground: &'a dyn Ground,
    api: Arc<dyn Api>,
    begin: Instant,
    active: Vec<Active>,
    timeline: Vec<Entry>,
    /// What could not be undone.
    left: Vec<String>,
    tell: &'a dyn Fn(&Entry),
}

/// Runs an experiment; `stop` breaks it off, and `tell` hears what happens as it does.
pub fn run(ground: &dyn Ground, api: Arc<dyn Api>, experiment: &Experiment, stop: &AtomicBool, tell: &dyn Fn(&Entry)) -> Result<Report> {
    let spec = &experiment.spec;
    let mut session =
        Session { ground, api: Arc::clone(&api), begin: Instant::now(), active: Vec::new(), timeline: Vec::new(), left: Vec::new(), tell };
    session.members(&spec.target).context("the cluster must be whole before faults begin")?;
    let load = spec.steady_state.iter().find_map(|probe| match probe {
        Probe::Linearizability { clients, keys } => Some(Load::start(&api, &experiment.metadata.name, *clients, *keys, spec.seed)),
        _ => None,
    });
    let load = load.transpose().map_err(|why| anyhow!(why))?;
    let probes = Probes::start(&api, &spec.steady_state).map_err(|why| anyhow!(why))?;
    session.begin = Instant::now();
    let mut failures = Vec::new();
    if let Err(why) = session.faults(experiment, load.as_ref(), stop) {
        failures.push(format!("{why:#}"));
    }
    session.undo_all();
    failures.append(&mut session.left);
    let healing = Instant::now();
    let healed = session.wait_until_whole();
    let healed_ms = healed.is_ok().then(|| u64::try_from(healing.elapsed().as_millis()).unwrap_or(u64::MAX));
    failures.extend(healed.err().map(|why| format!("{why:#}")));
    failures.extend(probes.finish());
    let load = load.map(Load::finish);
    if let Some(outcome) = &load {
        failures.extend(outcome.violation.clone());
        let allowed = spec.steady_state.iter().find_map(|probe| match probe {
            Probe::Available { within } => Some(*within),
            _ => None,
        });
        let silence = Duration::from_millis(outcome.silence_ms);
        if let Some(within) = allowed.filter(|within| silence > *within) {
            failures.push(format!("no write succeeded for {} ms, {} are allowed", outcome.silence_ms, within.as_millis()));
        }
        if outcome.acknowledged == 0 {
            failures.push("no write was acknowledged at all".into());
        }
    }
    let verdict = if failures.is_empty() { "Passed" } else { "Failed" };
    Ok(Report { name: experiment.metadata.name.clone(), seed: spec.seed, verdict, failures, timeline: session.timeline, load, healed_ms })
}

// === impl Session ===

impl Session<'_> {
    fn say(&mut self, what: String) {
        let entry = Entry { at_ms: u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX), what };
        (self.tell)(&entry);
        self.timeline.push(entry);
    }

    fn faults(&mut self, experiment: &Experiment, load: Option<&Load>, stop: &AtomicBool) -> Result<()> {
        let spec = &experiment.spec;
        let mut waiting = plan(spec).into_iter().peekable();
        let mut random = Random(spec.seed.wrapping_add(1));
        while self.begin.elapsed() < spec.duration {
            if stop.load(Ordering::Relaxed) {
                bail!("broken off");
            }
            if let (Some(limit), Some(load)) = (spec.abort_after, load)
                && load.silent_for() > limit
            {
                bail!("broken off: no write has succeeded for {} s", limit.as_secs());
            }
            let now = self.begin.elapsed();
            let (over, active): (Vec<Active>, Vec<Active>) = std::mem::take(&mut self.active).into_iter().partition(|a| a.end <= now);
            self.active = active;
            over.iter().for_each(|active| self.undo(active));
            while let Some(planned) = waiting.next_if(|planned| planned.begin <= now) {
                self.begin_fault(planned, experiment, &mut random)?;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn begin_fault(&mut self, planned: Planned, experiment: &Experiment, random: &mut Random) -> Result<()> {
        let kind = planned.fault.kind;
        let hit: BTreeSet<String> = self.active.iter().map(|active| active.node.clone()).collect();
        if kind.is_of_network() && self.active.iter().any(|active| active.kind.is_of_network()) {
            self.say(format!("{} left out: the network has a fault already", kind.name()));
            return Ok(());
        }
        let target = &experiment.spec.target;
        let Ok(members) = self.members(target) else {
            self.say(format!("{} left out: no node says who is there", kind.name()));
            return Ok(());
        };
        if let (Kind::KillPod, Some(pods)) = (kind, &target.pod) {
            return self.kill_pod(pods, &members, target, random);
        }
        let Some(node) = choose(&members, target, &hit, experiment.spec.guard, random) else {
            self.say(format!("{} left out: nobody whom it may hit", kind.name()));
            return Ok(());
        };
        let role = members.iter().find(|m| m.name == node).map(|m| m.role.clone()).unwrap_or_default();
        let others = others(&members, &node, &planned.fault.from);
        if kind.is_of_network() && others.is_empty() {
            self.say(format!("{} left out: {node} has no link that it may hit", kind.name()));
            return Ok(());
        }
        self.say(format!("{} hits {node} ({role}) for {} ms", kind.name(), planned.fault.duration.as_millis()));
        self.ground.begin(&node, &planned.fault, &others).map_err(|why| anyhow!("{} of {node}: {why}", kind.name()))?;
        // What took long to begin lasts no less.
        self.active.push(Active { node, kind, end: self.begin.elapsed() + planned.fault.duration });
        Ok(())
    }

    fn undo(&mut self, active: &Active) {
        let kind = active.kind;
        match self.ground.undo(&active.node, kind) {
            Ok(()) => self.say(format!("{} of {} is over", kind.name(), active.node)),
            Err(why) => {
                let what = format!("{} of {} could not be undone: {why}", kind.name(), active.node);
                self.left.push(what.clone());
                self.say(what);
            }
        }
    }

    fn undo_all(&mut self) {
        for active in std::mem::take(&mut self.active) {
            self.undo(&active);
        }
    }

    /// Takes one Pod of the target away, at once. Whoever wants it there makes it anew: there is nothing to undo.
    fn kill_pod(&mut self, pods: &Pods, members: &[Member], target: &Target, random: &mut Random) -> Result<()> {
        let found = self.pods(pods)?;
        let able: Vec<&(String, String)> =
            found.iter().filter(|(_, node)| members.iter().any(|m| m.name == *node && is_meant(m, target))).collect();
        let at = usize::try_from(random.below(able.len() as u64)).unwrap_or(0);
        let Some((name, node)) = able.get(at) else {
            self.say("killPod left out: no Pod of the target runs".into());
            return Ok(());
        };
        let path = format!("/api/v1/namespaces/{}/pods/{name}?gracePeriodSeconds=0", pods.namespace);
        let ended = self.any("DELETE", &path);
        self.say(match ended {
            Ok(_) => format!("killPod hits {}/{name} on {node}", pods.namespace),
            Err(why) => format!("killPod left out: {name}: {why:#}"),
        });
        Ok(())
    }

    /// Names of those that run, and of their nodes.
    fn pods(&self, pods: &Pods) -> Result<Vec<(String, String)>> {
        let list = self.any("GET", &pods.path())?;
        let runs = |pod: &&Value| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let of = |pod: &Value| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]));
        Ok(list["items"].as_array().into_iter().flatten().filter(runs).map(of).collect())
    }

    /// What the first node answers that does so with success.
    fn any(&self, method: &str, path: &str) -> Result<Value> {
        let mut last = String::from("there is no node");
        for node in self.api.nodes() {
            match self.api.ask(&node, method, path, None, STATUS_PATIENCE) {
                Ok((200..=299, body)) => return Ok(serde_json::from_slice(&body).unwrap_or_default()),
                Ok((code, _)) => last = format!("{node} answers {code}"),
                Err(why) => last = format!("{node}: {why}"),
            }
        }
        bail!(last)
    }

    /// Who is there, as some node sees it.
    fn members(&self, target: &Target) -> Result<Vec<Member>> {
        let status = self.status()?;
        let hosts = target.pod.as_ref().map(|pods| self.pods(pods)).transpose()?.unwrap_or_default();
        let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_default().to_string();
        let nodes = status["nodes"].as_array().context("the status names no nodes")?;
        let member = |node: &Value| Member {
            name: text(node, "name"),
            role: text(node, "role"),
            region: text(node, "region"),
            zone: text(node, "zone"),
            hosts: hosts.iter().any(|(_, host)| *host == text(node, "name")),
        };
        Ok(nodes.iter().map(member).collect())
    }

    /// The status that a node with a leader gives.
    fn status(&self) -> Result<Value> {
        for node in self.api.nodes() {
            let Ok((200, body)) = self.api.ask(&node, "GET", "/skein/v1/status", None, STATUS_PATIENCE) else { continue };
            let status: Value = serde_json::from_slice(&body).unwrap_or_default();
            if status["quorum"] == true && status["leader"].is_string() {
                return Ok(status);
            }
        }
        bail!("no node knows a leader")
    }

    fn wait_until_whole(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < HEAL_TIMEOUT {
            let whole = self.status().is_ok_and(|status| {
                let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
                nodes.len() == self.api.nodes().len() && nodes.iter().all(|node| node["ready"] == true)
            });
            if whole {
                self.say("every node is ready".into());
                return Ok(());
            }
            std::thread::sleep(TICK);
        }
        bail!("not every node was ready again within {} s", HEAL_TIMEOUT.as_secs())
    }
}
