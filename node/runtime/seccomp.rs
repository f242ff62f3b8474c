//! Seccomp profiles: the runtime's default, and files in the OCI's format (runtime-spec, config-linux.md, seccomp).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use seccompiler::TargetArch;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// What every container may call: the allow-list that Docker and containerd apply by default.
const ALLOWED: &str = include_str!("seccomp/allowed.txt");
/// What a capability adds to it: the capability, then its system calls.
const BY_CAPABILITY: &str = include_str!("seccomp/capabilities.txt");

/// The default profile for a process with these capabilities, as programs to load in this order.
pub(crate) fn default_profile(capabilities: &[String]) -> Result<Vec<Vec<u64>>, Error> {
    let mut names: BTreeSet<&str> = ALLOWED.split_whitespace().collect();
    for line in BY_CAPABILITY.lines() {
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|capability| capabilities.iter().any(|c| c == capability)) {
            names.extend(words);
        }
    }
    let namespaces = capabilities.iter().any(|c| c == "CAP_SYS_ADMIN");
    let mut rules: Vec<Value> = known(names).map(|name| json!({"syscall": name})).collect();
    // A socket of the hypervisor's family is not for containers.
    rules.push(json!({"syscall": "socket", "args": [{"index": 0, "type": "dword", "op": "ne", "val": 40}]}));
    for persona in [0_u32, 8, 0x0002_0000, 0x0002_0008, u32::MAX] {
        rules.push(json!({"syscall": "personality", "args": [{"index": 0, "type": "dword", "op": "eq", "val": persona}]}));
    }
    if !namespaces {
        // Clone without the flags that make namespaces.
        rules.push(json!({"syscall": "clone", "args": [{"index": 0, "type": "qword", "op": {"masked_eq": 0x7E02_0000_u64}, "val": 0}]}));
    }
    let mut programs = vec![compile(&json!({"errno": EPERM}), &json!("allow"), &rules)?];
    if !namespaces {
        // The flags of clone3 lie in memory, where no filter can look: programs must fall back to clone.
        programs.push(compile(&json!("allow"), &json!({"errno": ENOSYS}), &[json!({"syscall": "clone3"})])?);
    }
    Ok(programs)
}

/// A profile of the user's own.
pub(crate) fn from_file(path: &Path) -> Result<Vec<Vec<u64>>, Error> {
    let invalid = |why: String| Error::Invalid(format!("seccomp profile {}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|why| invalid(why.to_string()))?;
    let profile: Profile = serde_json::from_slice(&text).map_err(|why| invalid(why.to_string()))?;
    translate(&profile).map_err(invalid)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<i32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<i32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// One program for each action but the default, in the order of the profile; the kernel takes the strictest answer.
fn translate(profile: &Profile) -> Result<Vec<Vec<u64>>, String> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut by_action: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for rule in &profile.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        if action == default {
            continue;
        }
        let entry = by_action.entry(action.to_string()).or_insert_with(|| (action, Vec::new()));
        let args = rule.args.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
        let named = known(rule.names.iter().map(String::as_str).collect());
        entry.1.extend(named.map(|name| if args.is_empty() { json!({"syscall": name}) } else { json!({"syscall": name, "args": args}) }));
    }
    let permissive = default == json!("allow") || default == json!("log");
    if !permissive && by_action.len() > 1 {
        return Err("a default that refuses can have only one other action".into());
    }
    by_action.values().map(|(action, rules)| compile(&default, action, rules).map_err(|e| e.to_string())).collect()
}

fn action(name: &str, errno: Option<i32>) -> Result<Value, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => json!("allow"),
        "SCMP_ACT_LOG" => json!("log"),
        "SCMP_ACT_ERRNO" => json!({"errno": errno.unwrap_or(EPERM)}),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => json!("kill_thread"),
        "SCMP_ACT_KILL_PROCESS" => json!("kill_process"),
        "SCMP_ACT_TRAP" => json!("trap"),
        "SCMP_ACT_TRACE" => json!({"trace": errno.unwrap_or(EPERM)}),
        other => return Err(format!("unknown action {other:?}")),
    })
}

fn argument(argument: &Argument) -> Result<Value, String> {
    let (op, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (json!("eq"), argument.value),
        "SCMP_CMP_NE" => (json!("ne"), argument.value),
        "SCMP_CMP_GT" => (json!("gt"), argument.value),
        "SCMP_CMP_GE" => (json!("ge"), argument.value),
        "SCMP_CMP_LT" => (json!("lt"), argument.value),
        "SCMP_CMP_LE" => (json!("le"), argument.value),
        "SCMP_CMP_MASKED_EQ" => (json!({"masked_eq": argument.value}), argument.value_two),
        other => return Err(format!("unknown comparison {other:?}")),
    };
    Ok(json!({"index": argument.index, "type": "qword", "op": op, "val": value}))
}

/// Names that this architecture has: profiles name the system calls of all.
fn known(names: BTreeSet<&str>) -> impl Iterator<Item = &str> {
    names.into_iter().filter(|name| compile(&json!("allow"), &json!("log"), &[json!({"syscall": name})]).is_ok())
}

fn compile(mismatch: &Value, matched: &Value, rules: &[Value]) -> Result<Vec<u64>, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| Error::Invalid(format!("seccomp: {e}")))?;
    let filter = json!({"main": {"mismatch_action": mismatch, "match_action": matched, "filter": rules}}).to_string();
    let mut compiled = seccompiler::compile_from_json(filter.as_bytes(), arch).map_err(|e| Error::Invalid(format!("seccomp: {e}")))?;
    let program = compiled.remove("main").unwrap_or_default();
    let pack = |i: &seccompiler::sock_filter| {
        let [c0, c1] = i.code.to_ne_bytes();
        let [k0, k1, k2, k3] = i.k.to_ne_bytes();
        u64::from_ne_bytes([c0, c1, i.jt, i.jf, k0, k1, k2, k3])
    };
    Ok(program.iter().map(pack).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiles_the_default_and_grows_with_capabilities() {
        let plain = default_profile(&[]).expect("compiles");
        assert_eq!(plain.len(), 2);
        assert!(plain[0].len() > 300, "{}", plain[0].len());
        let admin = default_profile(&["CAP_SYS_ADMIN".into()]).expect("compiles");
        assert_eq!(admin.len(), 1);
        assert!(admin[0].len() > plain[0].len());
        assert!(
            ALLOWED.split_whitespace().filter(|n| known([*n].into()).next().is_none()).all(|n| OTHER_ARCHES.contains(&n)),
            "a misspelt name"
        );
    }

    /// In the list for other architectures, or too new for the library's table.
    const OTHER_ARCHES: [&str; 2] = ["futex_waitv", "cachestat"];

    #[test]
    fn translates_profiles_and_refuses_what_it_cannot_express() {
        let check = |profile: Value, expected: Result<usize, &str>| {
            let profile: Profile = serde_json::from_value(profile).expect("a profile");
            assert_eq!(translate(&profile).map(|p| p.len()), expected.map_err(String::from));
        };
        let rule = |name: &str, action: &str| json!({"names": [name, "no_such_call"], "action": action});
        check(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("mkdir", "SCMP_ACT_ERRNO"), rule("chmod", "SCMP_ACT_KILL")]}),
            Ok(2),
        );
        check(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read", "SCMP_ACT_ALLOW")]}), Ok(1));
        check(
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read", "SCMP_ACT_ALLOW"), rule("write", "SCMP_ACT_LOG")]}),
            Err("a default that refuses can have only one other action"),
        );
        check(json!({"defaultAction": "SCMP_ACT_MAYBE"}), Err("unknown action \"SCMP_ACT_MAYBE\""));
    }
}
