//! Where faults are made: on the nodes of a laboratory, or on those of a cluster whose agents make them.

use anyhow::{Result, anyhow};
use skein_lab::{Lab, Scope};

use crate::experiment::{Fault, Kind};

/// Makes faults and undoes them.
pub trait Ground {
    /// Begins a fault of a node; of its links, those to `others` are hit.
    fn begin(&self, node: &str, fault: &Fault, others: &[String]) -> Result<(), String>;

    /// Ends a fault of this kind that has begun. What it hit may be gone.
    fn undo(&self, node: &str, kind: Kind) -> Result<(), String>;
}

/// Undoes whatever an experiment that was itself killed has left: every node runs, and hears and is heard.
pub fn heal(lab: &Lab) -> Result<()> {
    lab.heal()?;
    lab.smooth()?;
    for node in lab.status()?["nodes"].as_array().into_iter().flatten() {
        let name = node["name"].as_str().unwrap_or_default();
        // Of a node that is not paused there is nothing to resume.
        let _ = lab.resume(name, Scope::Machine);
        lab.cure(name)?;
        lab.start(name)?;
    }
    Ok(())
}

// === impl Lab ===

impl Ground for Lab {
    fn begin(&self, node: &str, fault: &Fault, others: &[String]) -> Result<(), String> {
        let apart = format!("{node}/{}", others.join(","));
        let begun = match fault.kind {
            Kind::KillMachine => self.kill(node, Scope::Machine),
            Kind::KillDaemon => self.kill(node, Scope::Daemon),
            Kind::PauseMachine => self.pause(node, Scope::Machine),
            Kind::PauseDaemon => self.pause(node, Scope::Daemon),
            Kind::Partition => self.partition(&apart),
            Kind::Links => self.shape(&apart, fault.shape()),
            Kind::Deafen => self.deafen(node, others),
            Kind::KillPod => Err(anyhow!("a Pod is no node")),
            Kind::SlowDisk | Kind::FillDisk | Kind::ShiftClock => fault.ailment().map_or(Ok(()), |ailment| self.afflict(node, ailment)),
        };
        begun.map_err(|why| format!("{why:#}"))
    }

    fn undo(&self, node: &str, kind: Kind) -> Result<(), String> {
        let undone = match kind {
            Kind::KillMachine | Kind::KillDaemon => self.start(node),
            Kind::PauseMachine => self.resume(node, Scope::Machine),
            Kind::PauseDaemon => self.resume(node, Scope::Daemon),
            Kind::Partition | Kind::Deafen => self.heal(),
            Kind::Links => self.smooth(),
            Kind::KillPod => Ok(()),
            Kind::SlowDisk | Kind::FillDisk | Kind::ShiftClock => self.cure(node),
        };
        undone.map_err(|why| format!("{why:#}"))
    }
}
