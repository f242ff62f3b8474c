//! Fairness between clients (API Priority and Fairness, KEP-1040): FlowSchemas sort requests into priority levels and
//! flows, each level has its share of what a node does at once, and within it the flows take turns.
//!
//! ```text
//!   request ── Rules::classify ──▶ schema, level, flow ── Turns ──▶ Seat, until the head of the answer is there
//!                                                            └────▶ 429, when its queues are full or it waited too long
//! ```
//!
//! A node's daemon itself does not come this way: a greedy client cannot hold up kubelets and controllers.

mod turns;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchemaSpec, PolicyRulesWithSubjects, PriorityLevelConfigurationSpec, ResourcePolicyRule, Subject,
};
use serde::de::DeserializeOwned;
use skein_object::{Key, Status};
use skein_state::{Entry, State};
use skein_store::Handle;
use tokio::sync::oneshot;

use crate::authenticate::{User, account_of};
use crate::derived::Derived;
use crate::request_info::RequestInfo;
use turns::{Queueing, Quota, Turns, Verdict};

pub(crate) use turns::Standing;

const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";

/// What a node does at once: kube-apiserver's 400 reads and 200 writes.
const SEATS: usize = 600;

/// A quarter of the time that a request may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Of levels that say nothing (`SetDefaults_LimitedPriorityLevelConfiguration`).
const SHARES: i32 = 30;

/// Who waits is given his seat through a channel, so that it comes back when nobody takes it.
type Shared = Arc<Mutex<Turns<oneshot::Sender<Seat>>>>;

pub(crate) struct Fairness {
    rules: Derived<Rules>,
    turns: Shared,
    refused: Mutex<BTreeMap<(String, &'static str), u64>>,
}

/// FlowSchemas and priority levels.
#[derive(Default)]
struct Rules {
    /// In the order in which they are tried.
    schemas: Vec<Schema>,
    levels: BTreeMap<String, Level>,
}

struct Schema {
    name: String,
    uid: String,
    spec: FlowSchemaSpec,
}

struct Level {
    uid: String,
    /// Without one, nothing waits.
    quota: Option<Quota>,
}

/// The uids of the schema and the level by which a request was let in, for its answer's headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sorted {
    pub(crate) schema: String,
    pub(crate) level: String,
}

/// Held while a request is worked on.
#[derive(Default)]
pub(crate) struct Seat {
    /// Where it goes when it is left: the level whose seat it is.
    turns: Option<(Shared, String)>,
    pub(crate) sorted: Sorted,
}

// === impl Fairness ===

impl Default for Fairness {
    fn default() -> Self {
        Self { rules: Derived::of(&[SCHEMAS, LEVELS]), turns: Arc::new(Mutex::new(Turns::new(SEATS))), refused: Mutex::default() }
    }
}

impl Fairness {
    /// Waits for a seat; 429 says that there is none.
    pub(crate) async fn admit(&self, store: &Handle, user: &User, info: &RequestInfo<'_>) -> Result<Seat, Status> {
        let rules = self.current(store);
        let Some((schema, level_name, level)) = rules.classify(user, info) else { return Ok(Seat::default()) };
        let sorted = Sorted { schema: schema.uid.clone(), level: level.uid.clone() };
        if level.quota.is_none() || info.is_stream() {
            return Ok(Seat { turns: None, sorted });
        }
        let (ready, seated) = oneshot::channel();
        let verdict = lock(&self.turns).arrive(level_name, schema.flow(user, info), || ready, oneshot::Sender::is_closed);
        let mut seat = match verdict {
            Verdict::Seated => Seat::taken(&self.turns, level_name),
            Verdict::Refused => return Err(self.refuse(level_name, "queue-full")),
            Verdict::Waits => match tokio::time::timeout(PATIENCE, seated).await {
                Ok(Ok(seat)) => seat,
                // Its level is gone: the next try finds another.
                Ok(Err(_)) => return Err(self.refuse(level_name, "cancelled")),
                Err(_) => return Err(self.refuse(level_name, "time-out")),
            },
        };
        seat.sorted = sorted;
        Ok(seat)
    }

    pub(crate) fn standings(&self) -> Vec<Standing> {
        lock(&self.turns).standings()
    }

    /// How many were refused, by level and reason.
    pub(crate) fn refused(&self) -> BTreeMap<(String, &'static str), u64> {
        lock(&self.refused).clone()
    }

    fn refuse(&self, level: &str, reason: &'static str) -> Status {
        *lock(&self.refused).entry((level.to_string(), reason)).or_default() += 1;
        Status::too_many_requests("Too many requests, please try again later.", 1)
    }

    fn current(&self, store: &Handle) -> Arc<Rules> {
        self.rules.current(store, |state| {
            let rules = Rules::of(state);
            let quotas = rules.levels.iter().filter_map(|(name, level)| Some((name.clone(), level.quota.clone()?)));
            lock(&self.turns).configure(&quotas.collect());
            rules
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Seat ===

impl Seat {
    fn taken(turns: &Shared, level: &str) -> Self {
        Self { turns: Some((Arc::clone(turns), level.into())), sorted: Sorted::default() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((turns, level)) = self.turns.take() else { return };
        let mut left = vec![level];
        while let Some(level) = left.pop() {
            let seated = lock(&turns).leave(&level);
            for (level, ready) in seated {
                // Who waits no longer leaves the seat to the next; one after the other, for they may be many.
                if let Err(mut unused) = ready.send(Self::taken(&turns, &level)) {
                    unused.turns = None;
                    left.push(level);
                }
            }
        }
    }
}

// === impl Rules ===

impl Rules {
    fn of(state: &State) -> Self {
        let level = |(name, uid, spec): Specified<PriorityLevelConfigurationSpec>| (name, Level { uid, quota: quota(&spec) });
        let levels = specified(state, LEVELS).map(level).collect();
        let mut schemas: Vec<Schema> = specified(state, SCHEMAS).map(|(name, uid, spec)| Schema { name, uid, spec }).collect();
        schemas.sort_by(|a, b| (a.precedence(), &a.name).cmp(&(b.precedence(), &b.name)));
        Self { schemas, levels }
    }

    /// The first schema that fits and whose level is there.
    fn classify(&self, user: &User, info: &RequestInfo<'_>) -> Option<(&Schema, &str, &Level)> {
        self.schemas.iter().filter(|schema| schema.fits(user, info)).find_map(|schema| {
            let (name, level) = self.levels.get_key_value(&schema.spec.priority_level_configuration.name)?;
            Some((schema, name.as_str(), level))
        })
    }
}

/// An object's name and uid, and what it specifies.
type Specified<T> = (String, String, T);

fn specified<T: DeserializeOwned>(state: &State, resource: &str) -> impl Iterator<Item = Specified<T>> {
    let prefix = Key::prefix(resource, "");
    let read = |(key, entry): (&Key, &Entry)| {
        let uid = entry.record.field("metadata").and_then(|metadata| metadata["uid"].as_str().map(String::from));
        Some((key.name().to_string(), uid.unwrap_or_default(), serde_json::from_value(entry.record.field("spec")?).ok()?))
    };
    state.range(&prefix, None).filter_map(read).collect::<Vec<_>>().into_iter()
}

fn quota(spec: &PriorityLevelConfigurationSpec) -> Option<Quota> {
    let limited = spec.limited.as_ref().filter(|_| spec.type_ == "Limited")?;
    let size = |number: i32| usize::try_from(number).unwrap_or(0);
    let queueing = Some(&limited.limit_response).filter(|response| response.type_ == "Queue").map(|response| {
        let queueing = response.queuing.clone().unwrap_or_default();
        let or = |number: Option<i32>, default: i32| size(number.filter(|n| *n > 0).unwrap_or(default));
        // `SetDefaults_QueuingConfiguration`.
        Queueing { queues: or(queueing.queues, 64), hand: or(queueing.hand_size, 8), length_max: or(queueing.queue_length_limit, 50) }
    });
    Some(Quota {
        shares: size(limited.nominal_concurrency_shares.unwrap_or(SHARES)),
        lendable_percent: size(limited.lendable_percent.unwrap_or(0)),
        borrowing_percent: limited.borrowing_limit_percent.map(size),
        queueing,
    })
}

// === impl Schema ===

impl Schema {
    fn precedence(&self) -> i32 {
        // `FlowSchemaDefaultMatchingPrecedence`.
        self.spec.matching_precedence.unwrap_or(1000)
    }

    fn fits(&self, user: &User, info: &RequestInfo<'_>) -> bool {
        self.spec.rules.iter().flatten().any(|rule| rule_fits(rule, user, info))
    }

    /// What the request is a part of: of all that its user, or its namespace, asks by this schema.
    fn flow(&self, user: &User, info: &RequestInfo<'_>) -> u64 {
        let distinguisher = match self.spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
            Some("ByUser") => user.name.as_str(),
            Some("ByNamespace") => info.namespace,
            _ => "",
        };
        let mut hasher = DefaultHasher::new();
        (&self.name, distinguisher).hash(&mut hasher);
        hasher.finish()
    }
}

fn rule_fits(rule: &PolicyRulesWithSubjects, user: &User, info: &RequestInfo<'_>) -> bool {
    if !rule.subjects.iter().any(|subject| is_subject(subject, user)) {
        return false;
    }
    if !info.resource.is_empty() {
        return rule.resource_rules.iter().flatten().any(|rule| covers(rule, info));
    }
    rule.non_resource_rules.iter().flatten().any(|rule| {
        has(&rule.verbs, info.verb)
            && rule.non_resource_urls.iter().any(|url| {
                let prefix = format!("{}/", url.trim_end_matches('*').trim_end_matches('/'));
                url == "*" || url == info.path || info.path.starts_with(&prefix)
            })
    })
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn covers(rule: &ResourcePolicyRule, info: &RequestInfo<'_>) -> bool {
    let in_place = match info.namespace {
        "" => rule.cluster_scope == Some(true),
        namespace => rule.namespaces.as_ref().is_some_and(|namespaces| has(namespaces, namespace)),
    };
    has(&rule.verbs, info.verb) && has(&rule.api_groups, info.group) && has(&rule.resources, &info.full_resource()) && in_place
}

fn is_subject(subject: &Subject, user: &User) -> bool {
    match (&subject.user, &subject.group, &subject.service_account) {
        (Some(wanted), ..) => wanted.name == "*" || wanted.name == user.name,
        (_, Some(wanted), _) => wanted.name == "*" || user.is_in(&wanted.name),
        (.., Some(wanted)) => {
            account_of(&user.name).is_some_and(|(home, name)| home == wanted.namespace && (wanted.name == "*" || wanted.name == name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    fn rules() -> Rules {
        let level = |quota: Option<Quota>| Level { uid: String::new(), quota };
        let schema = |name: &str, spec: serde_json::Value| Schema {
            name: name.into(),
            uid: String::new(),
            spec: serde_json::from_value(spec).expect("a spec"),
        };
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]);
        let group = |name: &str| json!([{"kind": "Group", "group": {"name": name}}]);
        Rules {
            levels: [("exempt", level(None)), ("low", level(Some(Quota::default())))].map(|(name, level)| (name.into(), level)).into(),
            schemas: vec![
                schema(
                    "gone",
                    json!({"priorityLevelConfiguration": {"name": "nowhere"}, "rules": [
                    {"subjects": group("*"), "resourceRules": all}]}),
                ),
                schema(
                    "probes",
                    json!({"priorityLevelConfiguration": {"name": "exempt"}, "rules": [
                    {"subjects": group("*"), "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/a/*"]}]}]}),
                ),
                schema(
                    "accounts",
                    json!({"priorityLevelConfiguration": {"name": "low"}, "distinguisherMethod": {"type": "ByNamespace"}, "rules": [
                    {"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}}],
                        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/status"], "namespaces": ["x"]}]}]}),
                ),
                schema(
                    "rest",
                    json!({"priorityLevelConfiguration": {"name": "low"}, "rules": [{"subjects": group("all"), "resourceRules": all}]}),
                ),
            ],
        }
    }

    #[test]
    fn the_first_schema_that_fits_sorts_a_request() {
        let rules = rules();
        let check = |user: &str, path: &str, expected: Option<&str>| {
            let user = User { name: user.into(), groups: vec!["all".into()], ..User::default() };
            let uri = path.parse().expect("a path");
            let found = rules.classify(&user, &RequestInfo::of(&Method::GET, &uri)).map(|(schema, ..)| schema.name.as_str());
            assert_eq!(found, expected, "{path}");
        };
        check("u", "/healthz", Some("probes"));
        check("u", "/healthz/ready", Some("probes"));
        check("u", "/healthzz", None);
        check("u", "/a/b", Some("probes"));
        check("u", "/api/v1/nodes", Some("rest"));
        check("system:serviceaccount:n:a", "/api/v1/namespaces/x/pods/p", Some("accounts"));
        check("system:serviceaccount:n:a", "/api/v1/namespaces/x/pods/p/status", Some("accounts"));
        check("system:serviceaccount:n:a", "/api/v1/namespaces/y/pods/p", Some("rest"));
        check("system:serviceaccount:m:a", "/api/v1/namespaces/x/pods/p", Some("rest"));
    }

    #[test]
    fn flows_are_told_apart_by_what_the_schema_says() {
        let rules = rules();
        let flow = |schema: usize, user: &str, path: &str| {
            let user = User { name: user.into(), ..User::default() };
            let uri = path.parse().expect("a path");
            rules.schemas[schema].flow(&user, &RequestInfo::of(&Method::GET, &uri))
        };
        assert_ne!(flow(2, "u", "/api/v1/namespaces/x/pods"), flow(2, "u", "/api/v1/namespaces/y/pods"));
        assert_eq!(flow(2, "u", "/api/v1/namespaces/x/pods"), flow(2, "v", "/api/v1/namespaces/x/pods"));
        assert_eq!(flow(3, "u", "/api/v1/nodes"), flow(3, "v", "/api/v1/namespaces/y/pods"));
    }

    #[tokio::test]
    async fn a_seat_goes_to_the_next_who_still_waits() {
        let turns: Shared = Arc::new(Mutex::new(Turns::new(1)));
        let queueing = Some(Queueing { queues: 1, hand: 1, length_max: 5 });
        lock(&turns).configure(&[("a".to_string(), Quota { shares: 1, queueing, ..Quota::default() })].into());
        let arrive = || {
            let (ready, seated) = oneshot::channel();
            (lock(&turns).arrive("a", 0, || ready, oneshot::Sender::is_closed), seated)
        };
        assert_eq!(arrive().0, Verdict::Seated);
        let (gone, waits) = (arrive().1, arrive().1);
        drop(gone);
        drop(Seat::taken(&turns, "a"));
        drop(waits.await.expect("a seat"));
        assert_eq!(arrive().0, Verdict::Seated, "nobody sits any more");
        let (verdict, too_late) = arrive();
        assert_eq!(verdict, Verdict::Waits);
        drop(Seat::taken(&turns, "a"));
        drop(too_late);
        assert_eq!(arrive().0, Verdict::Seated, "a seat that came too late is not lost");
    }
}
