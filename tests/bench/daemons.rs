//! What processes take of the machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use skein_lab::Lab;

use crate::client::Credentials;
use crate::load::Used;

pub(crate) struct Idle {
    pub(crate) mebibytes: f64,
    pub(crate) percent: f64,
}

/// Resident memory and CPU of the daemons while nothing happens.
pub(crate) fn idle(lab: &Lab, duration: Duration) -> Result<Idle> {
    let pids = pids(lab)?;
    let before = ticks(lab)?;
    std::thread::sleep(duration);
    // Linux counts CPU time in hundredths of a second.
    let percent = (ticks(lab)? - before) as f64 / duration.as_secs_f64() / pids.len() as f64;
    let kibibytes: u64 = pids.iter().map(|pid| resident_kib(*pid)).sum();
    Ok(Idle { mebibytes: kibibytes as f64 / 1024.0 / pids.len() as f64, percent })
}

pub(crate) async fn used(lab: &Lab, credentials: &Credentials) -> Result<Used> {
    let (mut syncs, mut encoded, mut encoding_seconds) = (0, 0, 0.0);
    for node in 1..=3 {
        let (_, text) = credentials.client(node).send("GET", "/metrics", "").await?;
        let text = String::from_utf8_lossy(&text);
        syncs += metric(&text, "skein_log_syncs_total");
        for encoding in ["json", "protobuf"] {
            let of = |name: &str| format!("skein_api_{name}_total{{encoding=\"{encoding}\"}}");
            encoded += metric(&text, &of("encoded_objects"));
            encoding_seconds += number(&text, &of("encoding_seconds"));
        }
    }
    Ok(Used { ticks: ticks(lab)?, syncs, encoded, encoding_seconds })
}

fn pids(lab: &Lab) -> Result<Vec<i64>> {
    Ok(lab.status()?["nodes"].as_array().into_iter().flatten().filter_map(|node| node["pid"].as_i64()).collect())
}

/// What the daemons have used of the processor, in hundredths of a second.
fn ticks(lab: &Lab) -> Result<u64> {
    Ok(pids(lab)?.into_iter().map(cpu_ticks).sum())
}

pub(crate) fn cpu_ticks(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum()
}

/// A number in Prometheus' text format, 0 where it is not there.
pub(crate) fn metric(text: &str, name: &str) -> u64 {
    number(text, name) as u64
}

fn number(text: &str, name: &str) -> f64 {
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok()).sum()
}

pub(crate) fn resident_kib(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// What a Pod's monitor holds for itself alone, in KiB: the mean over all that run here.
pub(crate) fn monitor_kib() -> Result<f64> {
    let processes = std::fs::read_dir("/proc")?.flatten().map(|e| e.path());
    let monitors: Vec<_> =
        processes.filter(|p| std::fs::read_to_string(p.join("comm")).is_ok_and(|c| c.trim() == "skein-monitor")).collect();
    ensure!(!monitors.is_empty(), "no monitor runs");
    let private = |path: &std::path::PathBuf| -> u64 {
        let rollup = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
        let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    Ok(monitors.iter().map(private).sum::<u64>() as f64 / monitors.len() as f64)
}
