//! Semantic versions (`kubernetes.Semver`).

use cel::extractors::{Arguments, This};
use cel::objects::Opaque;
use cel::{Context, ExecutionError, Value};
use semver::Version;

use super::{Answer, Declared, of, opaque};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Semver(pub(super) Version);

pub(super) fn add(context: &mut Context<'_, '_>) -> Declared {
    type Part = (&'static str, fn(&Version) -> u64);
    context.add_function("isSemver", |Arguments(args): Arguments| Ok::<_, ExecutionError>(parse("isSemver", &args)?.is_some()))?;
    context.add_function("semver", |Arguments(args): Arguments| {
        parse("semver", &args)?.map(opaque).ok_or_else(|| ExecutionError::function_error("semver", "Semver parse error"))
    })?;
    let parts: [Part; 3] = [("major", |v| v.major), ("minor", |v| v.minor), ("patch", |v| v.patch)];
    for (name, part) in parts {
        context.add_function(name, move |This(this): This<Value>| {
            of::<Semver>(name, &this).map(|version| i64::try_from(part(&version.0)).unwrap_or(i64::MAX))
        })?;
    }
    Ok(())
}

/// Text, and whether it may be written loosely.
fn parse(name: &str, args: &[Value]) -> Answer<Option<Semver>> {
    let (text, is_loose) = match args {
        [Value::String(text)] => (text, false),
        [Value::String(text), Value::Bool(is_loose)] => (text, *is_loose),
        _ => return Err(ExecutionError::function_error(name, "no such overload")),
    };
    let text = if is_loose { normal(text) } else { text.to_string() };
    Ok(Version::parse(&text).ok().map(Semver))
}

/// `v01.2` is `1.2.0`.
fn normal(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rest) = text.find(['-', '+']).map_or((text, ""), |at| text.split_at(at));
    let mut parts: Vec<&str> = numbers.splitn(3, '.').collect();
    parts.resize(3, "0");
    let without_zeros = |part: &&str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_string(),
        short => short.to_string(),
    };
    parts.iter().map(without_zeros).collect::<Vec<_>>().join(".") + rest
}

// === impl Semver ===

impl Opaque for Semver {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}
