//! A node's agent: makes the faults that `ChaosFault`s order of this node. A process of its own, which outlives the daemon
//! that it kills.
//!
//! ```text
//!   ChaosFault ─▶ look: new? ─▶ record, status Active ─▶ `skein chaos fault` (machine.rs) ─▶ status Over or Failed
//! ```

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::machine::{self, Order};
use crate::resource::{FAULTS, Listed, Resources};
use crate::{Api, coordinate};

/// How long nothing may change before everything is looked at again, while no fault lasts and while one does.
const IDLE: Duration = Duration::from_secs(20);
const BUSY: Duration = Duration::from_millis(200);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this node.
    pub node: String,
    /// The daemon's data; the agent's own is in `chaos` there.
    pub data: PathBuf,
    /// Runs a fault in a process of its own: this, and the path of its record.
    pub command: Vec<String>,
}

struct Agent {
    options: Options,
    directory: PathBuf,
    resources: Resources,
    /// Faults that last, by their objects' names.
    lasting: BTreeMap<String, Child>,
}

/// Runs the agent of this node for ever, and coordinates experiments in its turn.
pub fn serve(options: Options, api: Arc<dyn Api>) -> Result<()> {
    let directory = options.data.join("chaos");
    if !alone(&directory.join("agent.sock"))? {
        bail!("another agent runs here");
    }
    let resources = Resources { api, own: options.node.clone() };
    let others = resources.clone();
    std::thread::spawn(move || coordinate::run(&others));
    let mut agent = Agent { options, directory: directory.join("faults"), resources, lasting: BTreeMap::new() };
    std::fs::create_dir_all(&agent.directory).context("cannot make the directory of faults")?;
    agent.clear_all()?;
    loop {
        let listed = agent.look();
        let patience = if agent.lasting.is_empty() { IDLE } else { BUSY };
        agent.resources.wait(FAULTS, listed.as_deref(), patience);
    }
}

/// Takes the socket by which the daemon sees that an agent is there; whether it was free.
fn alone(socket: &Path) -> Result<bool> {
    if UnixStream::connect(socket).is_ok() {
        return Ok(false);
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot bind {}", socket.display()))?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(true)
}

// === impl Agent ===

impl Agent {
    /// What an agent that died has left is undone: nobody waits for its end any more.
    fn clear_all(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if let Err(why) = machine::clear(&path) {
                eprintln!("{}: {why:#}", path.display());
            }
        }
        Ok(())
    }

    fn record(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// Begins what is new, ends what is wanted no more, tells of what is over; at which revision, where a node could say.
    fn look(&mut self) -> Option<String> {
        let listed = self.resources.list(FAULTS).ok();
        if let Some(Listed { items: faults, .. }) = &listed {
            let own =
                |fault: &&Value| fault["spec"]["node"] == self.options.node.as_str() && fault["metadata"]["deletionTimestamp"].is_null();
            let own: BTreeMap<String, &Value> =
                faults.iter().filter(own).map(|fault| (fault["metadata"]["name"].as_str().unwrap_or_default().into(), fault)).collect();
            for name in self.lasting.keys().filter(|name| !own.contains_key(*name)) {
                let _ = std::fs::remove_file(self.record(name));
            }
            for (name, fault) in own.iter().filter(|(_, fault)| fault["status"]["phase"].is_null()) {
                if self.lasting.contains_key(name) {
                    continue;
                }
                match self.begin(name, fault) {
                    Ok(child) => drop(self.lasting.insert(name.clone(), child)),
                    Err(why) => self.tell(name, "Failed", &format!("{why:#}")),
                }
            }
        }
        self.reap();
        listed.map(|listed| listed.revision)
    }

    /// It is told before it is done: afterwards this node may be unable to tell.
    fn begin(&self, name: &str, fault: &Value) -> Result<Child> {
        let order: Order = serde_json::from_value(fault["spec"].clone()).context("this is no fault")?;
        let path = self.record(name);
        machine::write_down(&path, &self.options.data, &order)?;
        self.tell(name, "Active", "");
        let (program, arguments) = self.options.command.split_first().context("there is no command for faults")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(&path).stdin(Stdio::null()).stderr(Stdio::piped());
        command.spawn().context("cannot start the process of the fault")
    }

    fn reap(&mut self) {
        let over: Vec<String> =
            self.lasting.iter_mut().filter_map(|(name, child)| matches!(child.try_wait(), Ok(Some(_))).then(|| name.clone())).collect();
        for name in over {
            let Some(child) = self.lasting.remove(&name) else { continue };
            let ended = child.wait_with_output();
            let path = self.record(&name);
            // It has removed its record, unless it was killed.
            let cleared = if path.exists() { machine::clear(&path) } else { Ok(()) };
            let failure = match (ended, cleared) {
                (_, Err(why)) => Some(format!("{why:#}")),
                (Err(why), _) => Some(why.to_string()),
                (Ok(output), _) if output.status.success() => None,
                (Ok(output), _) => Some(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
            };
            self.tell(&name, if failure.is_some() { "Failed" } else { "Over" }, &failure.unwrap_or_default());
        }
    }

    /// An object that is gone needs no news.
    fn tell(&self, name: &str, phase: &str, message: &str) {
        let status = json!({"phase": phase, "message": message});
        if let Err(why) = self.resources.set_status(FAULTS, name, |_| status.clone()) {
            eprintln!("{name}: {phase} {message} ({why})");
        }
    }
}
