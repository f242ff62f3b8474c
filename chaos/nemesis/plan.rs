//! When faults come, and whom they hit. Pure: one seed is one plan.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::experiment::{Fault, Guard, Role, Spec, Target};

/// One fault of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
    pub(crate) fault: Fault,
}

/// A node as it stands when a fault's time has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// As `skein status` says it: leader, voter, standby, replica.
    pub(crate) role: String,
    pub(crate) region: String,
    pub(crate) zone: String,
    /// Whether a Pod of the target runs there.
    pub(crate) hosts: bool,
}

/// Numbers that are the same for one seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

/// All faults, in the order in which they begin. Each waits half to one and a half times its interval.
pub(crate) fn plan(spec: &Spec) -> Vec<Planned> {
    let mut random = Random(spec.seed);
    let mut planned = Vec::new();
    for fault in &spec.faults {
        let every = u64::try_from(fault.every.as_millis()).unwrap_or(u64::MAX / 4);
        let mut at = every / 2 + random.below(every / 2 + 1);
        while Duration::from_millis(at) < spec.duration {
            let begin = Duration::from_millis(at);
            planned.push(Planned { begin, end: (begin + fault.duration).min(spec.duration), fault: fault.clone() });
            at += every / 2 + random.below(every + 1).max(u64::try_from(fault.duration.as_millis()).unwrap_or(0).saturating_sub(every / 2));
        }
    }
    planned.sort_by_key(|planned| planned.begin);
    planned
}

/// The node that a fault hits; `None` where nobody is one of the target, or the guard forbids it.
pub(crate) fn choose(members: &[Member], target: &Target, hit: &BTreeSet<String>, guard: Guard, random: &mut Random) -> Option<String> {
    let votes = |member: &&Member| matches!(member.role.as_str(), "leader" | "voter" | "witness");
    let voters = members.iter().filter(votes).count();
    let lost = members.iter().filter(votes).filter(|member| hit.contains(&member.name)).count();
    let keeps_majority = |member: &Member| guard == Guard::None || !votes(&member) || 2 * (voters - lost - 1) > voters;
    let able: Vec<&Member> = members.iter().filter(|m| is_meant(m, target) && !hit.contains(&m.name) && keeps_majority(m)).collect();
    let at = usize::try_from(random.below(able.len() as u64)).unwrap_or(0);
    able.get(at).map(|member| member.name.clone())
}

/// Those to whom a node's links are hit.
pub(crate) fn others(members: &[Member], node: &str, from: &Target) -> Vec<String> {
    members.iter().filter(|member| member.name != node && is_meant(member, from)).map(|member| member.name.clone()).collect()
}

pub(crate) fn is_meant(member: &Member, target: &Target) -> bool {
    let role = match target.role {
        None => true,
        Some(Role::Leader) => member.role == "leader",
        Some(Role::Voter) => member.role == "voter",
        Some(Role::Standby) => member.role == "standby",
        Some(Role::Replica) => member.role == "replica",
    };
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    let place = is(&target.node, &member.name) && is(&target.region, &member.region) && is(&target.zone, &member.zone);
    role && place && (target.pod.is_none() || member.hosts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Kind;

    fn spec(seed: u64) -> Spec {
        let fault = |kind, every, duration| Fault {
            kind,
            every: Duration::from_secs(every),
            duration: Duration::from_secs(duration),
            delay: None,
            lost_permille: 0,
            writes_per_second: 0,
            time_offset: 0,
            from: Target::default(),
        };
        Spec {
            duration: Duration::from_secs(120),
            seed,
            target: Target::default(),
            faults: vec![fault(Kind::KillDaemon, 10, 3), fault(Kind::Partition, 20, 5)],
            steady_state: Vec::new(),
            guard: Guard::Majority,
            abort_after: None,
        }
    }

    #[test]
    fn one_seed_is_one_plan() {
        assert_eq!(plan(&spec(7)), plan(&spec(7)));
        assert_ne!(plan(&spec(7)), plan(&spec(8)));
        for seed in 0..200 {
            let planned = plan(&spec(seed));
            assert!((10..=30).contains(&planned.len()), "{seed}: {}", planned.len());
            for kind in [Kind::KillDaemon, Kind::Partition] {
                let of_kind: Vec<&Planned> = planned.iter().filter(|p| p.fault.kind == kind).collect();
                assert!(of_kind.windows(2).all(|pair| pair[0].end <= pair[1].begin), "{seed}: a fault ends before the next of its kind");
            }
        }
    }

    #[test]
    fn a_majority_of_the_voters_is_left_alone() {
        let member = |name: &str, role: &str, region: &str| Member {
            name: name.into(),
            role: role.into(),
            region: region.into(),
            zone: format!("{region}-{name}"),
            hosts: name == "d",
        };
        let members = [member("a", "leader", "x"), member("b", "voter", "y"), member("c", "voter", "y"), member("d", "standby", "x")];
        let check = |target: Target, hit: &[&str], guard: Guard, expected: &[&str]| {
            let hit = hit.iter().map(|name| (*name).to_string()).collect();
            let found: BTreeSet<String> = (0..64).filter_map(|seed| choose(&members, &target, &hit, guard, &mut Random(seed))).collect();
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{target:?} {hit:?}");
        };
        let role = |role| Target { role: Some(role), ..Target::default() };
        check(role(Role::Leader), &[], Guard::Majority, &["a"]);
        check(Target::default(), &[], Guard::Majority, &["a", "b", "c", "d"]);
        check(Target::default(), &["b"], Guard::Majority, &["d"]);
        check(Target::default(), &["b"], Guard::None, &["a", "c", "d"]);
        check(Target { region: Some("y".into()), ..Target::default() }, &[], Guard::Majority, &["b", "c"]);
        check(role(Role::Replica), &[], Guard::Majority, &[]);
        check(Target { zone: Some("y-b".into()), ..Target::default() }, &[], Guard::Majority, &["b"]);
        check(Target { pod: Some(crate::experiment::Pods::default()), ..Target::default() }, &[], Guard::Majority, &["d"]);
        assert_eq!(others(&members, "a", &Target::default()), ["b", "c", "d"]);
        assert_eq!(others(&members, "a", &Target { region: Some("y".into()), ..Target::default() }), ["b", "c"]);
    }
}
