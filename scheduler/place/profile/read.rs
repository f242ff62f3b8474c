//! KubeSchedulerConfiguration as it is written down, and what is wrong with it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use skein_object::field::{Errors, Path, Problem};
use skein_object::names::qualified_name;

use super::{DEFAULT, Profile, Strategy, Weighted, Weights};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// How full a node should be.
const LEAST: &str = "LeastAllocated";
const MOST: &str = "MostAllocated";
const RATIO: &str = "RequestedToCapacityRatio";

/// Filters that a profile may do without.
const FILTERS: [&str; 8] = [
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "PodTopologySpread",
    "InterPodAffinity",
];

/// What has no say in where a Pod goes, or nothing to be set.
const OTHERS: [&str; 11] = [
    "SchedulingGates",
    "PrioritySort",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "DefaultPreemption",
    "NodeResourcesBalancedAllocation",
    "ImageLocality",
    "DefaultBinder",
    "NodeDeclaredFeatures",
];

/// The fields below which nothing changes where Pods go are read over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a field that is not named here would be refused")]
struct Configuration {
    api_version: String,
    kind: String,
    profiles: Option<Vec<Given>>,
    extenders: Option<Vec<Value>>,
    percentage_of_nodes_to_score: Option<i64>,
    parallelism: Option<IgnoredAny>,
    leader_election: Option<IgnoredAny>,
    client_connection: Option<IgnoredAny>,
    pod_initial_backoff_seconds: Option<IgnoredAny>,
    pod_max_backoff_seconds: Option<IgnoredAny>,
    enable_profiling: Option<IgnoredAny>,
    enable_contention_profiling: Option<IgnoredAny>,
    delay_cache_until_active: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    plugins: Option<Plugins>,
    plugin_config: Option<Vec<PluginConfig>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Plugins {
    pre_enqueue: PluginSet,
    queue_sort: PluginSet,
    pre_filter: PluginSet,
    filter: PluginSet,
    post_filter: PluginSet,
    pre_score: PluginSet,
    score: PluginSet,
    reserve: PluginSet,
    permit: PluginSet,
    pre_bind: PluginSet,
    bind: PluginSet,
    post_bind: PluginSet,
    multi_point: PluginSet,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginSet {
    enabled: Vec<Plugin>,
    disabled: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BalanceArgs {
    resources: Vec<ResourceSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct PodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct SpreadArgs {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

pub(super) fn profiles(yaml: &str) -> Result<Vec<Profile>, String> {
    let given: Configuration = serde_yaml_ng::from_str(yaml).map_err(|why| format!("strict decoding error: {why}"))?;
    if (given.api_version.as_str(), given.kind.as_str()) != (API_VERSION, KIND) {
        return Err(format!(
            "no kind \"{}\" is registered for version \"{}\": expected {KIND} of {API_VERSION}",
            given.kind, given.api_version
        ));
    }
    let (mut errors, root) = (Errors::default(), Path::default());
    if given.extenders.is_some_and(|extenders| !extenders.is_empty()) {
        errors.forbidden(&root.child("extenders"), "this scheduler asks no extenders");
    }
    percentage(&root, given.percentage_of_nodes_to_score, &mut errors);
    let mut profiles: Vec<Profile> = Vec::new();
    for (at, given) in given.profiles.unwrap_or_default().into_iter().enumerate() {
        let path = root.child("profiles").index(at);
        let profile = profile(&path, given, &mut errors)?;
        if let Some(before) = profiles.iter().position(|known| known.name == profile.name) {
            errors.duplicate(&path.child("schedulerName"), format!("profiles[{before}].schedulerName"));
        }
        profiles.push(profile);
    }
    // Without any, the one that every cluster has.
    let profiles = if profiles.is_empty() { vec![Profile::default()] } else { profiles };
    if errors.is_empty() { Ok(profiles) } else { Err(errors.to_string()) }
}

fn profile(path: &Path, given: Given, errors: &mut Errors) -> Result<Profile, String> {
    let name = given.scheduler_name.unwrap_or_else(|| DEFAULT.into());
    if name.is_empty() {
        errors.required(&path.child("schedulerName"), "");
    }
    percentage(path, given.percentage_of_nodes_to_score, errors);
    let mut profile = Profile { name, ..Profile::default() };
    given.plugins.unwrap_or_default().apply(&path.child("plugins"), &mut profile, errors);
    let mut seen = BTreeSet::new();
    for (at, config) in given.plugin_config.unwrap_or_default().into_iter().enumerate() {
        let path = path.child("pluginConfig").index(at);
        if !seen.insert(config.name.clone()) {
            errors.duplicate(&path, config.name.as_str());
        }
        configure(&path, config, &mut profile, errors)?;
    }
    Ok(profile)
}

fn percentage(path: &Path, given: Option<i64>, errors: &mut Errors) {
    within(&path.child("percentageOfNodesToScore"), given.unwrap_or(0), 0..=100, "[0-100]", errors);
}

/// Whether a value is in its range, which errors show like this.
fn within(path: &Path, value: i64, range: RangeInclusive<i64>, shown: &str, errors: &mut Errors) {
    if !range.contains(&value) {
        errors.invalid(path, value, &format!("not in valid range {shown}"));
    }
}

// === impl Plugins ===

impl Plugins {
    /// By the names of the extension points.
    fn sets(&self) -> [(&'static str, &PluginSet); 13] {
        [
            ("multiPoint", &self.multi_point),
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
        ]
    }

    fn apply(&self, path: &Path, profile: &mut Profile, errors: &mut Errors) {
        for (point, set) in self.sets() {
            let (filters, scores) = (matches!(point, "multiPoint" | "filter"), matches!(point, "multiPoint" | "score"));
            let preempts = matches!(point, "multiPoint" | "postFilter");
            for (at, plugin) in set.disabled.iter().enumerate() {
                let path = path.child(point).child("disabled").index(at).child("name");
                let named = |name: &str| plugin.name == "*" || plugin.name == name;
                if plugin.name != "*" {
                    known(&path, &plugin.name, errors);
                }
                if filters && plugin.name.starts_with("Volume") {
                    errors.forbidden(&path, "a Pod goes only where its volumes can be");
                }
                if filters {
                    profile.without.extend(FILTERS.iter().filter(|name| named(name)));
                }
                if scores {
                    profile.weights.each().into_iter().filter(|(name, _)| named(name)).for_each(|(_, weight)| *weight = 0);
                }
                if preempts && named("DefaultPreemption") {
                    profile.preempts = false;
                }
            }
            for (at, plugin) in set.enabled.iter().enumerate() {
                let path = path.child(point).child("enabled").index(at);
                known(&path.child("name"), &plugin.name, errors);
                let weight = plugin.weight.unwrap_or(0);
                within(&path.child("weight"), weight, 0..=i64::from(i32::MAX), "[0, 2147483647]", errors);
                if filters {
                    profile.without.remove(plugin.name.as_str());
                }
                if scores
                    && let Some((at, (_, own))) = profile.weights.each().into_iter().enumerate().find(|(_, (name, _))| *name == plugin.name)
                {
                    let usual = *Weights::default().each()[at].1;
                    *own = if weight == 0 { usual } else { weight };
                }
                profile.preempts |= preempts && plugin.name == "DefaultPreemption";
            }
        }
    }
}

impl Weights {
    /// By the names of Kubernetes' plugins.
    fn each(&mut self) -> [(&'static str, &mut i64); 7] {
        [
            ("TaintToleration", &mut self.taints),
            ("NodeAffinity", &mut self.node_affinity),
            ("NodeResourcesFit", &mut self.fit),
            ("PodTopologySpread", &mut self.spread),
            ("InterPodAffinity", &mut self.pod_affinity),
            ("NodeResourcesBalancedAllocation", &mut self.balance),
            ("ImageLocality", &mut self.images),
        ]
    }
}

fn known(path: &Path, name: &str, errors: &mut Errors) {
    if !FILTERS.contains(&name) && !OTHERS.contains(&name) {
        errors.invalid(path, name, "plugin does not exist");
    }
}

fn configure(path: &Path, config: PluginConfig, profile: &mut Profile, errors: &mut Errors) -> Result<(), String> {
    known(&path.child("name"), &config.name, errors);
    let PluginConfig { name, args } = config;
    let path = path.child("args");
    match name.as_str() {
        "NodeResourcesFit" => fit(&path, decoded(&path, &name, args, errors)?, profile, errors),
        "NodeResourcesBalancedAllocation" => balance(&path, decoded(&path, &name, args, errors)?, profile, errors),
        "InterPodAffinity" => {
            let args: PodAffinityArgs = decoded(&path, &name, args, errors)?;
            profile.hard_affinity_weight = args.hard_pod_affinity_weight.unwrap_or(1);
            within(&path.child("hardPodAffinityWeight"), profile.hard_affinity_weight, 0..=100, "[0, 100]", errors);
            if args.ignore_preferred_terms_of_existing_pods {
                errors.forbidden(&path.child("ignorePreferredTermsOfExistingPods"), "what other Pods prefer counts here");
            }
        }
        "NodeAffinity" => {
            let args: NodeAffinityArgs = decoded(&path, &name, args, errors)?;
            profile.added_affinity = args.added_affinity.unwrap_or_default();
        }
        "PodTopologySpread" => spread(&path, decoded(&path, &name, args, errors)?, profile, errors),
        // Their arguments change nothing here: how many nodes are looked at, and how long volumes are waited for.
        _ => {}
    }
    Ok(())
}

/// Arguments of a plugin, whose kind may be stated.
fn decoded<T: DeserializeOwned + Default>(path: &Path, plugin: &str, mut args: Value, errors: &mut Errors) -> Result<T, String> {
    let Some(fields) = args.as_object_mut() else { return Ok(T::default()) };
    let (version, kind) = (fields.shift_remove("apiVersion"), fields.shift_remove("kind"));
    let expected = format!("{plugin}Args");
    if version.is_some_and(|version| version != API_VERSION) || kind.is_some_and(|kind| kind != expected.as_str()) {
        errors.add(path, Problem::Omitted(format!("has to match plugin args: {expected} of {API_VERSION}")));
        return Ok(T::default());
    }
    serde_json::from_value(args).map_err(|why| format!("{path}: strict decoding error: {why}"))
}

fn fit(path: &Path, args: FitArgs, profile: &mut Profile, errors: &mut Errors) {
    for (at, name) in args.ignored_resources.iter().enumerate() {
        errors.judge(&path.child("ignoredResources").index(at), name.as_str(), qualified_name(name));
    }
    for (at, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = path.child("ignoredResourceGroups").index(at);
        if group.contains('/') {
            errors.invalid(&path, group.as_str(), "resource group name can't contain '/'");
        } else {
            errors.judge(&path, group.as_str(), qualified_name(group));
        }
    }
    profile.ignored_resources = args.ignored_resources.into_iter().collect();
    profile.ignored_groups = args.ignored_resource_groups.into_iter().collect();
    let Some(given) = args.scoring_strategy else { return };
    let path = path.child("scoringStrategy");
    for (at, resource) in given.resources.iter().enumerate() {
        let weight = resource.weight.unwrap_or(1);
        if !(1..=100).contains(&weight) {
            let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            errors.invalid(&path.child("resources").index(at).child("weight"), weight, &why);
        }
    }
    profile.strategy = strategy(&path, given.kind.as_deref().unwrap_or(LEAST), given.requested_to_capacity_ratio, errors);
    if !given.resources.is_empty() {
        let weighted =
            given.resources.into_iter().map(|resource| Weighted { name: resource.name, weight: resource.weight.unwrap_or(1).into() });
        profile.scored = weighted.collect();
    }
}

fn strategy(path: &Path, kind: &str, ratio: Option<Ratio>, errors: &mut Errors) -> Strategy {
    let at = path.child("requestedToCapacityRatio");
    match (kind, &ratio) {
        (RATIO, None) => errors.required(&at, &format!("must be specified when type is {RATIO}")),
        (RATIO, Some(_)) | (_, None) => {}
        (_, Some(_)) => errors.forbidden(&at, &format!("must be nil when type is not {RATIO}")),
    }
    match kind {
        RATIO => Strategy::RequestedToCapacityRatio(ratio.map(|ratio| shape(&at.child("shape"), &ratio.shape, errors)).unwrap_or_default()),
        LEAST => Strategy::LeastAllocated,
        MOST => Strategy::MostAllocated,
        other => {
            errors.unsupported(&path.child("type"), other, &[LEAST, MOST, RATIO]);
            Strategy::LeastAllocated
        }
    }
}

fn shape(path: &Path, points: &[Point], errors: &mut Errors) -> Vec<(i128, i128)> {
    if points.is_empty() {
        errors.required(path, "at least one point must be specified");
    }
    for (at, point) in points.iter().enumerate() {
        let path = path.index(at);
        if at > 0 && points[at - 1].utilization >= point.utilization {
            errors.invalid(&path.child("utilization"), point.utilization, "values must be sorted in increasing order");
        }
        within(&path.child("utilization"), point.utilization, 0..=100, "[0, 100]", errors);
        within(&path.child("score"), point.score, 0..=10, "[0, 10]", errors);
    }
    points.iter().map(|point| (point.utilization.into(), point.score.into())).collect()
}

fn balance(path: &Path, args: BalanceArgs, profile: &mut Profile, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (at, resource) in args.resources.iter().enumerate() {
        let path = path.child("resources").index(at);
        if !seen.insert(&resource.name) {
            errors.duplicate(&path.child("name"), resource.name.as_str());
        }
        let weight = resource.weight.unwrap_or(1);
        if weight != 1 {
            errors.invalid(&path.child("weight"), weight, "must be 1");
        }
    }
    if !args.resources.is_empty() {
        profile.balanced = args.resources.into_iter().map(|resource| resource.name).collect();
    }
}

fn spread(path: &Path, args: SpreadArgs, profile: &mut Profile, errors: &mut Errors) {
    let constraints = args.default_constraints;
    let kind = path.child("defaultingType");
    match args.defaulting_type.as_deref().unwrap_or("System") {
        "System" if constraints.is_empty() => return,
        "System" => return errors.invalid(&kind, "System", "when .defaultConstraints are not empty"),
        "List" => {}
        other => return errors.unsupported(&kind, other, &["List", "System"]),
    }
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.child("defaultConstraints").index(at);
        default_constraint(&path, constraint, errors);
        let same = |other: &TopologySpreadConstraint| {
            (&other.topology_key, &other.when_unsatisfiable) == (&constraint.topology_key, &constraint.when_unsatisfiable)
        };
        if constraints[..at].iter().any(same) {
            errors.duplicate(&path, format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable));
        }
    }
    profile.spread = Some(constraints);
}

fn default_constraint(path: &Path, constraint: &TopologySpreadConstraint, errors: &mut Errors) {
    if constraint.max_skew <= 0 {
        errors.invalid(&path.child("maxSkew"), constraint.max_skew, "not in valid range (0, inf)");
    }
    let key = path.child("topologyKey");
    if constraint.topology_key.is_empty() {
        errors.required(&key, "can not be empty");
    } else {
        errors.judge(&key, constraint.topology_key.as_str(), qualified_name(&constraint.topology_key));
    }
    let action = path.child("whenUnsatisfiable");
    match constraint.when_unsatisfiable.as_str() {
        "DoNotSchedule" | "ScheduleAnyway" => {}
        "" => errors.required(&action, "can not be empty"),
        other => errors.unsupported(&action, other, &["DoNotSchedule", "ScheduleAnyway"]),
    }
    if constraint.label_selector.is_some() {
        errors.forbidden(&path.child("labelSelector"), "constraint must not define a selector, as they deduced for each pod");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rest: &str, expected: Result<Vec<Profile>, &str>) {
        let yaml = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}");
        assert_eq!(profiles(&yaml), expected.map_err(String::from), "{rest}");
    }

    fn check_one(rest: &str, expected: Profile) {
        check(&format!("profiles: [{{schedulerName: s, {rest}}}]"), Ok(vec![Profile { name: "s".into(), ..expected }]));
    }

    fn check_fit(args: &str, expected: Profile) {
        check_one(&format!("pluginConfig: [{{name: NodeResourcesFit, args: {args}}}]"), expected);
    }

    #[test]
    fn profiles_say_what_is_different() {
        let plain = Profile::default;
        check("", Ok(vec![plain()]));
        check(
            "profiles: [{}, {schedulerName: other}]\nleaderElection: {leaderElect: true}",
            Ok(vec![plain(), Profile { name: "other".into(), ..plain() }]),
        );
        let none = Weights { taints: 0, node_affinity: 0, fit: 0, spread: 0, pod_affinity: 0, balance: 0, images: 0 };
        check_one("plugins: {score: {disabled: [{name: '*'}]}}", Profile { weights: none, ..plain() });
        check_one(
            "plugins: {score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}, {name: NodeAffinity}]}}",
            Profile { weights: Weights { fit: 5, node_affinity: 2, ..none }, ..plain() },
        );
        check_one("plugins: {filter: {disabled: [{name: NodePorts}]}}", Profile { without: ["NodePorts"].into(), ..plain() });
        let weights = Weights { taints: 0, ..Weights::default() };
        check_one(
            "plugins: {multiPoint: {disabled: [{name: TaintToleration}]}}",
            Profile { without: ["TaintToleration"].into(), weights, ..plain() },
        );
        check_one("plugins: {postFilter: {disabled: [{name: '*'}]}}", Profile { preempts: false, ..plain() });
        let gpu = vec![Weighted { name: "nvidia.com/gpu".into(), weight: 3 }];
        check_fit(
            "{apiVersion: kubescheduler.config.k8s.io/v1, kind: NodeResourcesFitArgs, scoringStrategy: {type: MostAllocated, resources: [{name: nvidia.com/gpu, weight: 3}]}}",
            Profile { strategy: Strategy::MostAllocated, scored: gpu, ..plain() },
        );
        check_fit(
            "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}}",
            Profile { strategy: Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]), ..plain() },
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_kubernetes_words() {
        let of = |config: &str| format!("profiles: [{{pluginConfig: [{config}]}}]");
        let check = |rest: &str, expected: &str| check(rest, Err(expected));
        check("profiles: [{}, {}]", "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"");
        check("profiles: [{schedulerName: ''}]", "profiles[0].schedulerName: Required value");
        check(
            "percentageOfNodesToScore: -1\nextenders: [{urlPrefix: x}]",
            "[extenders: Forbidden: this scheduler asks no extenders, percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]]",
        );
        check("percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]");
        check("extenders: [{urlPrefix: x}]", "extenders: Forbidden: this scheduler asks no extenders");
        check(
            "profiles: [{plugins: {score: {enabled: [{name: Coscheduling}]}}}]",
            "profiles[0].plugins.score.enabled[0].name: Invalid value: \"Coscheduling\": plugin does not exist",
        );
        check(
            "profiles: [{plugins: {filter: {disabled: [{name: VolumeBinding}]}}}]",
            "profiles[0].plugins.filter.disabled[0].name: Forbidden: a Pod goes only where its volumes can be",
        );
        let args = "profiles[0].pluginConfig[0].args";
        let fit = |strategy: &str| of(&format!("{{name: NodeResourcesFit, args: {{scoringStrategy: {strategy}}}}}"));
        check(
            &fit("{type: Best}"),
            &format!(
                "{args}.scoringStrategy.type: Unsupported value: \"Best\": supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\""
            ),
        );
        check(
            &fit("{type: RequestedToCapacityRatio}"),
            &format!(
                "{args}.scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio"
            ),
        );
        check(
            &fit(
                "{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 5, score: 0}, {utilization: 5, score: 1}]}}",
            ),
            &format!(
                "{args}.scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid value: 5: values must be sorted in increasing order"
            ),
        );
        check(
            &fit("{resources: [{name: cpu, weight: 101}]}"),
            &format!("{args}.scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not in valid range (0, 100]"),
        );
        check(
            &of("{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}"),
            &format!("{args}.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]"),
        );
        check(
            &of("{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway}]}}"),
            &format!("{args}.defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty"),
        );
        assert!(profiles("apiVersion: a\nkind: b\n").is_err_and(|why| why.starts_with("no kind \"b\" is registered for version \"a\"")));
        assert!(
            profiles("apiVersion: a\nkind: b\nprofile: []\n")
                .is_err_and(|why| why.starts_with("strict decoding error: unknown field `profile`"))
        );
    }
}
