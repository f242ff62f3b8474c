//! What a daemon's machine may suffer from, short of death: a slow disk, a full one, a clock that leaps.
//!
//! What is done is planned first, so that whoever does it can write down how it is undone before it is done.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock::Leap;
use crate::disk::{Full, Slow};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ailment {
    /// The daemon's disk takes so many writes a second.
    SlowDisk { writes_per_second: u64 },
    /// Nothing more fits on the disk that has the daemon's data.
    FullDisk,
    /// The daemon's wall clock is ahead by this, or behind.
    Clock { seconds: i64 },
}

/// How an ailment is brought about, and cured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Course {
    Slow(Slow),
    Full(Full),
    Leap(Leap),
}

// === impl Ailment ===

impl Ailment {
    pub(crate) const NAMES: [&'static str; 3] = ["slow-disk", "full-disk", "clock"];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SlowDisk { .. } => "slow-disk",
            Self::FullDisk => "full-disk",
            Self::Clock { .. } => "clock",
        }
    }
}

// === impl Course ===

impl Course {
    /// For a daemon with its data here.
    pub fn plan(ailment: Ailment, pid: i32, data: &Path) -> Result<Self> {
        Ok(match ailment {
            Ailment::SlowDisk { writes_per_second } => Self::Slow(Slow::plan(pid, data, writes_per_second)?),
            Ailment::FullDisk => Self::Full(Full::plan(data)),
            Ailment::Clock { seconds } => Self::Leap(Leap::plan(pid, seconds)?),
        })
    }

    pub fn begin(&self) -> Result<()> {
        match self {
            Self::Slow(slow) => slow.begin(),
            Self::Full(full) => full.begin(),
            Self::Leap(leap) => leap.begin(),
        }
    }

    /// May be called again, for what has only half begun, and when the daemon has ended.
    pub fn end(&self) -> Result<()> {
        match self {
            Self::Slow(slow) => slow.end(),
            Self::Full(full) => full.end(),
            Self::Leap(leap) => leap.end(),
        }
    }
}

/// Ends what is written down there, if anything is.
pub(crate) fn cure(path: &Path) -> Result<()> {
    let Ok(bytes) = std::fs::read(path) else { return Ok(()) };
    // What cannot be read was not written to its end, so nothing has been done.
    serde_json::from_slice(&bytes).map_or(Ok(()), |course: Course| course.end())?;
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
