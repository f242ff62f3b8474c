//! KubeSchedulerConfiguration as it is written down, and what is wrong with it.

use std::collections::BTreeSet;
use std::fmt::Display;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use skein_object::names::qualified_name;

use super::{DEFAULT, Profile, Strategy, Weighted, Weights};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

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
    weight: Option<i128>,
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
    utilization: i128,
    score: i128,
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
    if given.extenders.is_some_and(|extenders| !extenders.is_empty()) {
        return Err("extenders: Forbidden: this scheduler asks no extenders".into());
    }
    percentage("percentageOfNodesToScore", given.percentage_of_nodes_to_score)?;
    let mut profiles: Vec<Profile> = Vec::new();
    for (at, given) in given.profiles.unwrap_or_default().into_iter().enumerate() {
        let path = format!("profiles[{at}]");
        let profile = profile(&path, given)?;
        if let Some(before) = profiles.iter().position(|known| known.name == profile.name) {
            return Err(format!("{path}.schedulerName: Duplicate value: \"profiles[{before}].schedulerName\""));
        }
        profiles.push(profile);
    }
    // Without any, the one that every cluster has.
    Ok(if profiles.is_empty() { vec![Profile::default()] } else { profiles })
}

fn profile(path: &str, given: Given) -> Result<Profile, String> {
    let name = given.scheduler_name.unwrap_or_else(|| DEFAULT.into());
    if name.is_empty() {
        return Err(format!("{path}.schedulerName: Required value"));
    }
    percentage(&format!("{path}.percentageOfNodesToScore"), given.percentage_of_nodes_to_score)?;
    let mut profile = Profile { name, ..Profile::default() };
    given.plugins.unwrap_or_default().apply(&format!("{path}.plugins"), &mut profile)?;
    let mut seen = BTreeSet::new();
    for (at, config) in given.plugin_config.unwrap_or_default().into_iter().enumerate() {
        let path = format!("{path}.pluginConfig[{at}]");
        if !seen.insert(config.name.clone()) {
            return Err(format!("{path}: Duplicate value: \"{}\"", config.name));
        }
        configure(&path, config, &mut profile)?;
    }
    Ok(profile)
}

fn percentage(path: &str, given: Option<i64>) -> Result<(), String> {
    within(path, given.unwrap_or(0), 0..=100, "[0-100]")
}

fn within<T: PartialOrd + Display>(path: &str, value: T, range: std::ops::RangeInclusive<T>, shown: &str) -> Result<(), String> {
    if range.contains(&value) { Ok(()) } else { Err(format!("{path}: Invalid value: {value}: not in valid range {shown}")) }
}

// === impl Plugins ===

impl Plugins {
    fn apply(&self, path: &str, profile: &mut Profile) -> Result<(), String> {
        let sets = [
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
        ];
        for (point, set) in sets {
            let (filters, scores) = (matches!(point, "multiPoint" | "filter"), matches!(point, "multiPoint" | "score"));
            let preempts = matches!(point, "multiPoint" | "postFilter");
            for (at, plugin) in set.disabled.iter().enumerate() {
                let path = format!("{path}.{point}.disabled[{at}].name");
                let named = |name: &str| plugin.name == "*" || plugin.name == name;
                if plugin.name != "*" {
                    known(&path, &plugin.name)?;
                }
                if filters && plugin.name != "*" && plugin.name.starts_with("Volume") {
                    return Err(format!("{path}: Forbidden: a Pod goes only where its volumes can be"));
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
                let path = format!("{path}.{point}.enabled[{at}]");
                known(&format!("{path}.name"), &plugin.name)?;
                let weight = plugin.weight.unwrap_or(0);
                within(&format!("{path}.weight"), weight, 0..=i64::from(i32::MAX), "[0, 2147483647]")?;
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
        Ok(())
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

fn known(path: &str, name: &str) -> Result<(), String> {
    if FILTERS.contains(&name) || OTHERS.contains(&name) {
        Ok(())
    } else {
        Err(format!("{path}: Invalid value: \"{name}\": plugin does not exist"))
    }
}

fn configure(path: &str, config: PluginConfig, profile: &mut Profile) -> Result<(), String> {
    known(&format!("{path}.name"), &config.name)?;
    let PluginConfig { name, args } = config;
    let path = format!("{path}.args");
    match name.as_str() {
        "NodeResourcesFit" => fit(&path, decoded(&path, &name, args)?, profile),
        "NodeResourcesBalancedAllocation" => balance(&path, decoded(&path, &name, args)?, profile),
        "InterPodAffinity" => {
            let args: PodAffinityArgs = decoded(&path, &name, args)?;
            let weight = args.hard_pod_affinity_weight.unwrap_or(1);
            within(&format!("{path}.hardPodAffinityWeight"), weight, 0..=100, "[0, 100]")?;
            if args.ignore_preferred_terms_of_existing_pods {
                return Err(format!("{path}.ignorePreferredTermsOfExistingPods: Forbidden: what other Pods prefer counts here"));
            }
            profile.hard_affinity_weight = weight;
            Ok(())
        }
        "NodeAffinity" => {
            let args: NodeAffinityArgs = decoded(&path, &name, args)?;
            profile.added_affinity = args.added_affinity.unwrap_or_default();
            Ok(())
        }
        "PodTopologySpread" => spread(&path, decoded(&path, &name, args)?, profile),
        // Their arguments change nothing here: how many nodes are looked at, and how long volumes are waited for.
        _ => Ok(()),
    }
}

/// Arguments of a plugin, whose kind may be stated.
fn decoded<T: DeserializeOwned + Default>(path: &str, plugin: &str, mut args: Value) -> Result<T, String> {
    let Some(fields) = args.as_object_mut() else { return Ok(T::default()) };
    let (version, kind) = (fields.shift_remove("apiVersion"), fields.shift_remove("kind"));
    let expected = format!("{plugin}Args");
    if version.is_some_and(|version| version != API_VERSION) || kind.is_some_and(|kind| kind != expected.as_str()) {
        return Err(format!("{path}: Invalid value: has to match plugin args: {expected} of {API_VERSION}"));
    }
    serde_json::from_value(args).map_err(|why| format!("{path}: strict decoding error: {why}"))
}

fn fit(path: &str, args: FitArgs, profile: &mut Profile) -> Result<(), String> {
    for (at, name) in args.ignored_resources.iter().enumerate() {
        label_name(&format!("{path}.ignoredResources[{at}]"), name)?;
    }
    for (at, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = format!("{path}.ignoredResourceGroups[{at}]");
        if group.contains('/') {
            return Err(format!("{path}: Invalid value: \"{group}\": resource group name can't contain '/'"));
        }
        label_name(&path, group)?;
    }
    profile.ignored_resources = args.ignored_resources.into_iter().collect();
    profile.ignored_groups = args.ignored_resource_groups.into_iter().collect();
    let Some(given) = args.scoring_strategy else { return Ok(()) };
    let path = format!("{path}.scoringStrategy");
    for (at, resource) in given.resources.iter().enumerate() {
        let weight = resource.weight.unwrap_or(1);
        if !(1..=100).contains(&weight) {
            let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            return Err(format!("{path}.resources[{at}].weight: Invalid value: {weight}: {why}"));
        }
    }
    let ratio = format!("{path}.requestedToCapacityRatio");
    profile.strategy = match (given.kind.as_deref().unwrap_or("LeastAllocated"), given.requested_to_capacity_ratio) {
        ("RequestedToCapacityRatio", None) => {
            return Err(format!("{ratio}: Required value: must be specified when type is RequestedToCapacityRatio"));
        }
        ("RequestedToCapacityRatio", Some(given)) => Strategy::RequestedToCapacityRatio(shape(&format!("{ratio}.shape"), &given.shape)?),
        (_, Some(_)) => return Err(format!("{ratio}: Forbidden: must be nil when type is not RequestedToCapacityRatio")),
        ("LeastAllocated", None) => Strategy::LeastAllocated,
        ("MostAllocated", None) => Strategy::MostAllocated,
        (other, None) => {
            let supported = "supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"";
            return Err(format!("{path}.type: Unsupported value: \"{other}\": {supported}"));
        }
    };
    if !given.resources.is_empty() {
        let weighted = given.resources.into_iter().map(|resource| Weighted { name: resource.name, weight: resource.weight.unwrap_or(1) });
        profile.scored = weighted.collect();
    }
    Ok(())
}

fn label_name(path: &str, name: &str) -> Result<(), String> {
    qualified_name(name).map_err(|why| format!("{path}: Invalid value: \"{name}\": {why}"))
}

fn shape(path: &str, points: &[Point]) -> Result<Vec<(i128, i128)>, String> {
    if points.is_empty() {
        return Err(format!("{path}: Required value: at least one point must be specified"));
    }
    for (at, point) in points.iter().enumerate() {
        let path = format!("{path}[{at}]");
        if at > 0 && points[at - 1].utilization >= point.utilization {
            return Err(format!("{path}.utilization: Invalid value: {}: values must be sorted in increasing order", point.utilization));
        }
        within(&format!("{path}.utilization"), point.utilization, 0..=100, "[0, 100]")?;
        within(&format!("{path}.score"), point.score, 0..=10, "[0, 10]")?;
    }
    Ok(points.iter().map(|point| (point.utilization, point.score)).collect())
}

fn balance(path: &str, args: BalanceArgs, profile: &mut Profile) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (at, resource) in args.resources.iter().enumerate() {
        let path = format!("{path}.resources[{at}]");
        if !seen.insert(&resource.name) {
            return Err(format!("{path}.name: Duplicate value: \"{}\"", resource.name));
        }
        let weight = resource.weight.unwrap_or(1);
        if weight != 1 {
            return Err(format!("{path}.weight: Invalid value: {weight}: must be 1"));
        }
    }
    if !args.resources.is_empty() {
        profile.balanced = args.resources.into_iter().map(|resource| resource.name).collect();
    }
    Ok(())
}

fn spread(path: &str, args: SpreadArgs, profile: &mut Profile) -> Result<(), String> {
    let constraints = args.default_constraints;
    let of = |kind: &str| format!("{path}.defaultingType: {kind}");
    match args.defaulting_type.as_deref().unwrap_or("System") {
        "System" if constraints.is_empty() => return Ok(()),
        "System" => return Err(of("Invalid value: \"System\": when .defaultConstraints are not empty")),
        "List" => {}
        other => return Err(of(&format!("Unsupported value: \"{other}\": supported values: \"List\", \"System\""))),
    }
    for (at, constraint) in constraints.iter().enumerate() {
        let path = format!("{path}.defaultConstraints[{at}]");
        if constraint.max_skew <= 0 {
            return Err(format!("{path}.maxSkew: Invalid value: {}: not in valid range (0, inf)", constraint.max_skew));
        }
        if constraint.topology_key.is_empty() {
            return Err(format!("{path}.topologyKey: Required value: can not be empty"));
        }
        label_name(&format!("{path}.topologyKey"), &constraint.topology_key)?;
        match constraint.when_unsatisfiable.as_str() {
            "DoNotSchedule" | "ScheduleAnyway" => {}
            "" => return Err(format!("{path}.whenUnsatisfiable: Required value: can not be empty")),
            other => {
                let supported = "supported values: \"DoNotSchedule\", \"ScheduleAnyway\"";
                return Err(format!("{path}.whenUnsatisfiable: Unsupported value: \"{other}\": {supported}"));
            }
        }
        if constraint.label_selector.is_some() {
            return Err(format!("{path}.labelSelector: Forbidden: constraint must not define a selector, as they deduced for each pod"));
        }
        let same = |other: &TopologySpreadConstraint| {
            (&other.topology_key, &other.when_unsatisfiable) == (&constraint.topology_key, &constraint.when_unsatisfiable)
        };
        if constraints[..at].iter().any(same) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            return Err(format!("{path}: Duplicate value: \"{pair}\""));
        }
    }
    profile.spread = Some(constraints);
    Ok(())
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
