//! Images that nobody uses go when the disk fills, those unused for longest first, or when they have not been used for
//! so long (`pkg/kubelet/images/image_gc_manager.go`, KEP-4210).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skein_object::Key;
use tracing::{debug, info, warn};

use crate::Error;
use crate::eviction::Observed;
use crate::pressure;
use crate::worker::Shared;
use crate::write::{Note, tell};

/// How often is looked. Kubelet does so every five minutes; what is looked at is small.
const INTERVAL: Duration = Duration::from_secs(30);

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageGc {
    /// Of the disk, in percent: when more is used, images go until less than the lower one is.
    pub high_percent: u8,
    pub low_percent: u8,
    /// An image stays for so long after it has come.
    pub age_min: Duration,
    /// An image goes when nobody has used it for so long; zero is never.
    pub unused_max: Duration,
}

/// An image as the runtime lists it.
#[derive(Clone, Debug, PartialEq)]
struct Listed {
    id: String,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Duration,
    /// When it was used last; the first time where it never was.
    used: Duration,
    in_use: bool,
    bytes: u64,
}

/// What is known of images, as long as the daemon runs.
#[derive(Debug, Default)]
struct Records(BTreeMap<String, Seen>);

/// What is to go.
#[derive(Debug, PartialEq)]
struct Plan {
    remove: Vec<String>,
    /// What was to be given back and cannot be.
    missing_bytes: u64,
}

// === impl Records ===

impl Records {
    fn observe(&mut self, listed: &[Listed], used: &BTreeSet<String>, now: Duration) {
        self.0.retain(|id, _| listed.iter().any(|image| image.id == *id));
        for image in listed {
            let seen = self.0.entry(image.id.clone()).or_insert(Seen { first: now, used: now, in_use: false, bytes: image.bytes });
            seen.in_use = used.contains(&image.id);
            if seen.in_use {
                seen.used = now;
            }
        }
    }

    fn plan(&self, gc: &ImageGc, disk: Observed, now: Duration) -> Plan {
        let mut unused: Vec<(&String, &Seen)> = self.0.iter().filter(|(_, seen)| !seen.in_use).collect();
        unused.sort_by_key(|(id, seen)| (seen.used, seen.first, (*id).clone()));
        let used_bytes = disk.capacity.saturating_sub(disk.available);
        let share = |percent: u8| disk.capacity / 100 * u64::from(percent);
        let is_full = disk.capacity > 0 && used_bytes >= share(gc.high_percent);
        let mut missing_bytes = if is_full { used_bytes.saturating_sub(share(gc.low_percent)) } else { 0 };
        let mut remove = Vec::new();
        for (id, seen) in unused {
            let is_old = gc.unused_max > Duration::ZERO && now - seen.used > gc.unused_max;
            let is_needed_no_more = missing_bytes > 0 && now - seen.first >= gc.age_min;
            if is_old || is_needed_no_more {
                missing_bytes = missing_bytes.saturating_sub(seen.bytes);
                remove.push(id.clone());
            }
        }
        Plan { remove, missing_bytes }
    }
}

/// Looks for as long as the daemon runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let images = shared.runtime.image_directory().await.unwrap_or_else(|| shared.options.directory.clone());
    let (begin, mut records) = (Instant::now(), Records::default());
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(why) = collect(&shared, &images, &mut records, begin.elapsed()).await {
            debug!(%why, "images are not looked at this time");
        }
    }
}

async fn collect(shared: &Shared, images: &Path, records: &mut Records, now: Duration) -> Result<(), Error> {
    let listed = unpinned(shared).await?;
    let gc = &shared.options.image_gc;
    records.observe(&listed, &in_use(shared).await?, now);
    let disk = pressure::disk(images).unwrap_or_default();
    let plan = records.plan(gc, disk, now);
    remove(shared, &plan.remove).await;
    if plan.missing_bytes > 0 && !plan.remove.is_empty() {
        let used = (disk.capacity - disk.available) * 100 / disk.capacity.max(1);
        let freed: u64 = plan.remove.iter().filter_map(|id| records.0.get(id)).map(|seen| seen.bytes).sum();
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({used}% of {} used). Failed to free sufficient space by \
             deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, \
             volumes, or other data.",
            crate::eviction::shown(disk.capacity)
        );
        warn!(message);
        let node = Key::new("nodes", "", &shared.options.name);
        let note = Note { reason: "FreeDiskSpaceFailed", message, warning: true, field_path: String::new() };
        tell(&shared.store, &shared.options.name, &node, &shared.options.name, note);
    }
    Ok(())
}

/// Removes all images that nobody uses: the disk is short now.
pub(crate) async fn remove_unused(shared: &Shared) {
    let (Ok(listed), Ok(used)) = (unpinned(shared).await, in_use(shared).await) else { return };
    let unused: Vec<String> = listed.into_iter().map(|image| image.id).filter(|id| !used.contains(id)).collect();
    remove(shared, &unused).await;
}

async fn remove(shared: &Shared, images: &[String]) {
    for image in images {
        match shared.runtime.remove_image(image).await {
            Ok(()) => info!(image, "removed an image that nobody uses"),
            Err(why) => warn!(image, %why, "an image cannot be removed"),
        }
    }
}

async fn unpinned(shared: &Shared) -> Result<Vec<Listed>, Error> {
    let listed = shared.runtime.images().await?.into_iter().filter(|image| !image.pinned);
    Ok(listed.map(|image| Listed { id: image.id, bytes: image.size }).collect())
}

/// The images of containers that are there, and all that Pods on this node name: a container that is to be made, a
/// volume.
async fn in_use(shared: &Shared) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for container in shared.runtime.containers(None).await? {
        names.extend([container.image_ref, container.image_id]);
        names.extend(container.image.map(|image| image.image));
    }
    for spec in pressure::active(shared).into_iter().filter_map(|pod| pod.spec) {
        let all = spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten());
        names.extend(all.filter_map(|container| container.image));
        names.extend(spec.ephemeral_containers.into_iter().flatten().filter_map(|container| container.image));
        names.extend(spec.volumes.into_iter().flatten().filter_map(|volume| volume.image?.reference));
    }
    let mut used = BTreeSet::new();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        used.extend(shared.runtime.image(&name).await?.map(|image| image.id));
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GC: ImageGc = ImageGc { high_percent: 85, low_percent: 80, age_min: Duration::from_secs(120), unused_max: Duration::ZERO };

    fn records(images: &[(&str, u64, &[u64])]) -> Records {
        // Each image is there from the first second that is named, and used in the others.
        let mut records = Records::default();
        for second in 0..=300 {
            let there = images.iter().filter(|(_, _, seconds)| seconds.first().is_some_and(|first| *first <= second));
            let listed: Vec<Listed> = there.map(|(id, bytes, _)| Listed { id: (*id).into(), bytes: *bytes }).collect();
            let used = images.iter().filter(|(_, _, seconds)| seconds.iter().skip(1).any(|used| *used == second));
            records.observe(&listed, &used.map(|(id, ..)| (*id).to_string()).collect(), Duration::from_secs(second));
        }
        records
    }

    #[test]
    fn the_disk_is_emptied_of_what_was_unused_for_longest() {
        let images: &[(&str, u64, &[u64])] =
            &[("old", 30, &[0]), ("older", 20, &[0, 10]), ("recent", 40, &[0, 200]), ("new", 50, &[250]), ("running", 60, &[0, 300])];
        let check = |available: u64, expected: &[&str], missing_bytes: u64| {
            let disk = Observed { available, capacity: 1000 };
            let plan = records(images).plan(&GC, disk, Duration::from_secs(300));
            assert_eq!(plan, Plan { remove: expected.iter().map(|id| (*id).to_string()).collect(), missing_bytes });
        };
        check(151, &[], 0);
        check(150, &["old", "older"], 0);
        check(149, &["old", "older", "recent"], 0);
        check(100, &["old", "older", "recent"], 10);
    }

    #[test]
    fn what_nobody_has_used_for_so_long_goes_although_there_is_room() {
        let images: &[(&str, u64, &[u64])] = &[("old", 1, &[0]), ("used", 1, &[0, 150]), ("running", 1, &[0, 300])];
        let check = |unused_max: u64, expected: &[&str]| {
            let gc = ImageGc { unused_max: Duration::from_secs(unused_max), ..GC };
            let disk = Observed { available: 900, capacity: 1000 };
            assert_eq!(records(images).plan(&gc, disk, Duration::from_secs(300)).remove, expected);
        };
        check(0, &[]);
        check(300, &[]);
        check(200, &["old"]);
        check(149, &["old", "used"]);
    }
}
