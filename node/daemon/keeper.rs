//! What the leader does for the membership: it watches how nodes fare, gives new voters the cluster's keys, then their
//! vote, lets the region lead that writes most, and says why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_store::{Absences, Change, Handle, Member, NodeId, Standing, Step, Successor};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cluster::Endpoints;
use crate::directory::Directory;
use crate::told;

const INTERVAL: Duration = Duration::from_millis(500);

/// So long after it was given, a key is not for a vote that is about to come.
pub(crate) const KEY_UNUSED: Duration = Duration::from_secs(600);

/// The keys that every voter holds.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Keys {
    pub(crate) authority_certificate: String,
    pub(crate) authority_key: String,
}

pub(crate) async fn run(cluster: Endpoints, founder: bool) {
    let Endpoints { store, directory, reports, .. } = &cluster;
    let mut absences = Absences::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if !store.leadership().is_self {
            absences = Absences::default();
            disarm(store, directory, founder);
            continue;
        }
        let silent_ms = reports.silent_ms();
        absences.observe(&silent_ms, Instant::now());
        let standing = standing(store, &absences, &silent_ms);
        let Some(change) = store.planned_change(&standing) else {
            if let Some(successor) = store.planned_leader(&standing) {
                hand_over(store, &successor).await;
            }
            continue;
        };
        if let Step::Vote { promote, .. } = &change.step
            && !equip(&cluster, promote).await
        {
            continue;
        }
        match store.change(&change).await {
            Ok(()) => tell(store, &change).await,
            // It is asked again until it follows another; one of an older version never does.
            Err(why) if matches!(change.step, Step::Detach(_)) => debug!(%why, "a node is not left to others yet"),
            Err(why) => warn!(%why, "members not changed"),
        }
    }
}

/// Gives the cluster's keys to those who are to vote; whether all have them.
async fn equip(cluster: &Endpoints, promote: &BTreeSet<NodeId>) -> bool {
    let Ok(Some(authority)) = cluster.directory.authority() else { return false };
    let keys = Keys { authority_certificate: authority.certificate_pem, authority_key: authority.key_pem };
    let mut given = true;
    for id in promote {
        let Some(member) = cluster.store.member(*id).filter(|member| member.witness.is_none()) else { continue };
        given &= cluster.give(&member, &keys).await.is_ok();
    }
    given
}

/// A node that votes no more has no use for the CA's key. One that is about to vote has had it for a moment only.
fn disarm(store: &Handle, directory: &Directory, founder: bool) {
    let own = store.members().into_iter().find(|member| member.id == store.id());
    let votes = own.is_none_or(|own| own.role.votes());
    if votes || !store.has_quorum() || directory.authority_age().is_none_or(|age| age < KEY_UNUSED) {
        return;
    }
    // The founder's administrator keeps what he has.
    let forgotten = if founder { Ok(()) } else { directory.forget_admin() };
    match forgotten.and_then(|()| directory.forget_authority_key()) {
        Ok(()) => info!("this node votes no more: the CA's key is removed from its disk"),
        Err(why) => warn!(%why, "the CA's key stays on the disk of a node that does not vote"),
    }
}

fn standing(store: &Handle, absences: &Absences, silent_ms: &BTreeMap<String, u64>) -> BTreeMap<String, Standing> {
    let state = store.local().state;
    let standing = |Member { name, witness, .. }: Member| {
        let node = state.get(&skein_object::Key::new("nodes", "", &name)).and_then(|entry| entry.record.field("metadata"));
        let label = |key: &str| node.as_ref().and_then(|metadata| metadata["labels"][key].as_str()).unwrap_or_default();
        let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        let zone = Some(witness.unwrap_or_else(|| format!("{region}/{zone}"))).filter(|zone| zone != "/").unwrap_or_default();
        let health = absences.health(&name, silent_ms.get(&name).copied().unwrap_or(0));
        (name, Standing { health, zone })
    };
    store.members().into_iter().map(|member| standing(member.member)).collect()
}

/// The lead goes to where most writes come from.
async fn hand_over(store: &Handle, successor: &Successor) {
    match store.hand_over_to(successor.id).await {
        Some(leader) => {
            info!(why = successor.why, "this node leads no more");
            told::about_node(store, &leader, "LeaderMoved", &successor.why).await;
        }
        None => warn!(why = successor.why, "nobody takes the lead"),
    }
}

/// An Event for every change of the members.
async fn tell(store: &Handle, change: &Change) {
    info!(step = ?change.step, why = change.why, "members changed");
    let (concerned, reason): (Vec<NodeId>, _) = match &change.step {
        Step::Vote { promote, .. } => (promote.iter().copied().collect(), "VoterPromoted"),
        Step::Attach(id) => (vec![*id], "StandbyAttached"),
        Step::Detach(id) => (vec![*id], "StandbyDetached"),
    };
    for member in concerned.into_iter().filter_map(|id| store.member(id)) {
        told::about_node(store, &member.name, reason, &change.why).await;
    }
}
