//! Expressions in CEL, as custom resources' rules and admission policies use them.
//!
//! An expression comes from whoever may write the object that holds it, and the interpreter is not ours: its length, its
//! nesting and what it may visit are bounded, and a panic stays with the expression.

mod library;
mod scope;

pub use library::authorizer::{Asked, AskedResource, Authorize, Authorizer};
pub use scope::undeclared;

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, Program};
use serde_json::Value;

pub use cel::Value as Cel;

use crate::kept::Kept;

/// An expression's text, and how many brackets and signs it may open: the parser recurses.
const BYTES_MAX: usize = 16 << 10;
pub(crate) const OPENINGS_MAX: usize = 256;

/// What one evaluation may cost: the elements that it may visit.
pub(crate) const VISITS_MAX: u64 = 1 << 22;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It calls a function that is not here.
    Unsupported,
    Failed(String),
}

thread_local! {
    /// What the evaluation on this thread may still cost in functions that compare lists.
    static VISITS_LEFT: Cell<u64> = const { Cell::new(0) };
}

/// CEL's own functions, its extensions for strings and lists, and Kubernetes' libraries as far as they are here.
fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Env::stdlib();
        for extension in [cel::extensions::strings, cel::extensions::lists, library::lists, library::formats, library::pairs] {
            env.add_extension(extension).expect("the extensions fit the standard library");
        }
        Arc::new(env)
    })
}

/// An expression, compiled once for all who use it; `Err` says why it cannot be.
pub fn compile(source: &str) -> Result<Arc<Program>, String> {
    static COMPILED: Kept<Result<Arc<Program>, String>> = Kept::new();
    COMPILED.get(source, || {
        let openings = source.chars().filter(|c| matches!(c, '(' | '[' | '{' | '!' | '-' | '?')).count();
        if source.len() > BYTES_MAX || openings > OPENINGS_MAX {
            return Err("the rule is too long or nests too deeply".into());
        }
        match catch_unwind(|| environment().compile(source)) {
            Ok(Ok(program)) => Ok(Arc::new(program)),
            Ok(Err(why)) => Err(as_cel_go(&why.to_string())),
            Err(_) => Err("the rule cannot be parsed".into()),
        }
    })
}

/// The parser's words as Kubernetes' has them.
fn as_cel_go(why: &str) -> String {
    const CONTINUATIONS: &str = "{<EOF>, '==', '!=', 'in', '<', '<=', '>=', '>', '&&', '||', '[', '.', '-', '?', '+', '*', '/', '%'}";
    const BEGINNINGS: &str =
        "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
    let why = why.replace("\n| ", "\n | ").replace("expecting expression", &format!("expecting {BEGINNINGS}"));
    let why = why.replace(CONTINUATIONS, "<EOF>");
    // Nothing ends before its first character.
    why.replace("<input>:1:1: Syntax error: mismatched input '<EOF>'", "<input>:1:0: Syntax error: mismatched input '<EOF>'")
}

/// What CEL keeps for itself.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a name can stand in an expression.
pub fn is_identifier(name: &str) -> bool {
    let begins = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    begins && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) && !RESERVED.contains(&name)
}

/// Evaluates a compiled expression with these variables.
pub fn evaluate(program: &Program, variables: &[(&str, Cel)]) -> Result<Cel, Failure> {
    let run = || {
        VISITS_LEFT.set(VISITS_MAX);
        let mut context = Context::with_env(Arc::clone(environment()));
        library::add(&mut context).expect("the functions have names of their own");
        for (name, value) in variables {
            context.add_variable_from_value(*name, value.clone());
        }
        program.execute(&context)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ExecutionError::UndeclaredReference(_))) => Err(Failure::Unsupported),
        Ok(Err(ExecutionError::NoSuchKey(key))) => Err(Failure::Failed(format!("no such key: {key}"))),
        Ok(Err(why)) => Err(Failure::Failed(why.to_string())),
        Err(_) => Err(Failure::Failed("internal error".into())),
    }
}

/// Takes what a function is going to visit from what its evaluation may cost.
fn charge(function: &str, visits: usize) -> Result<(), ExecutionError> {
    let left = VISITS_LEFT.get().checked_sub(visits as u64);
    VISITS_LEFT.set(left.unwrap_or(0));
    left.map(|_| ()).ok_or_else(|| ExecutionError::function_error(function, "operation cancelled: actual cost limit exceeded"))
}

/// A value as expressions see it: integers are integers, and numbers doubles where the schema says so.
pub fn to_cel(schema: &Value, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) if schema.get("type").and_then(Value::as_str) == Some("number") => Cel::Float(number.as_f64().unwrap_or(0.0)),
        Value::Number(number) => number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(0.0)), Cel::Int),
        Value::Array(list) => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            Cel::List(Arc::new(list.iter().map(|item| to_cel(items, item)).collect()))
        }
        Value::Object(map) => {
            let entry = |(name, child): (&String, &Value)| {
                let below = schema.get("properties").and_then(|p| p.get(name)).or_else(|| schema.get("additionalProperties"));
                (Key::String(Arc::new(name.clone())), to_cel(below.unwrap_or(&Value::Null), child))
            };
            let entries: HashMap<Key, Cel> = map.iter().map(entry).collect();
            Cel::Map(Map { map: Arc::new(entries) })
        }
    }
}

/// A value that an expression made, as JSON; `None` for what JSON does not have.
pub fn to_json(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(flag) => (*flag).into(),
        Cel::Int(number) => (*number).into(),
        Cel::UInt(number) => (*number).into(),
        Cel::Float(number) => (*number).into(),
        Cel::String(text) => text.as_str().into(),
        Cel::List(list) => list.iter().map(to_json).collect::<Option<Vec<Value>>>()?.into(),
        Cel::Map(map) => {
            let mut entries: Vec<(String, Value)> =
                map.map.iter().map(|(key, value)| Some((key.to_string(), to_json(value)?))).collect::<Option<_>>()?;
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        _ => return None,
    })
}

/// An upper bound of the elements that an expression visits: all there are, and all that it makes, once for each macro
/// inside another.
pub(crate) fn cost(source: &str, value: &Value) -> u64 {
    // What compares each element with each other is two.
    const MACROS: &[&str] = &[
        ".all(",
        ".exists(",
        ".exists_one(",
        ".existsOne(",
        ".map(",
        ".filter(",
        ".sort(",
        ".sortBy(",
        ".flatten(",
        ".distinct(",
        ".distinct(",
        ".transformList(",
        ".transformMap(",
        ".transformMap(",
        ".transformMapEntry(",
        ".transformMapEntry(",
    ];
    let macros = u32::try_from(MACROS.iter().map(|m| source.matches(m).count()).sum::<usize>()).unwrap_or(u32::MAX);
    let made = source.split("lists.range(").skip(1).map(|argument| numbers(argument, value)).fold(0, u64::saturating_add);
    fn elements(value: &Value) -> u64 {
        match value {
            Value::Array(list) => list.iter().map(elements).sum::<u64>() + 1,
            Value::Object(map) => map.values().map(elements).sum::<u64>() + 1,
            Value::String(text) => 1 + text.len() as u64 / 64,
            _ => 1,
        }
    }
    elements(value).saturating_add(made).saturating_pow(macros.max(1))
}

/// How many numbers `lists.range` makes at most, by the text of its argument and what comes after.
fn numbers(argument: &str, value: &Value) -> u64 {
    /// What the extension makes at once.
    const RANGE_MAX: u64 = 1_000_000;
    fn largest(value: &Value) -> u64 {
        match value {
            Value::Array(list) => list.iter().map(largest).fold(list.len() as u64, u64::max),
            Value::Object(map) => map.values().map(largest).fold(map.len() as u64, u64::max),
            Value::String(text) => text.len() as u64,
            _ => 0,
        }
    }
    let first = argument.split(')').next().unwrap_or_default().trim();
    let is_path = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    let is_size = |text: &str| text.strip_prefix("size(").or_else(|| text.strip_suffix(".size(")).is_some_and(is_path);
    match first.parse() {
        Ok(number) => number,
        // `size(self.a))` or `self.a.size())`: nothing else is done to it.
        Err(_) if is_size(first) && argument.split(')').nth(1).is_some_and(|rest| rest.trim().is_empty()) => largest(value),
        Err(_) => RANGE_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bombs_do_not_go_off() {
        assert!(compile(&"(".repeat(5000)).is_err());
        // As deep as is allowed, and no stack overflows.
        let _ = compile(&format!("{}1{}", "(".repeat(OPENINGS_MAX), ")".repeat(OPENINGS_MAX)));
        let _ = compile(&"!".repeat(OPENINGS_MAX));
        assert!(compile("self.a <= ").is_err());
        let list: Vec<u32> = (0..5000).collect();
        assert!(cost("self.all(a, self.all(b, a != b || true))", &json!(list)) > VISITS_MAX);
        let ranges = |of: &str| cost(&format!("lists.range({of}).all(a, lists.range({of}).all(b, a == b))"), &json!({"a": [1, 2, 3]}));
        assert!(ranges("100") < VISITS_MAX && ranges("self.a.size()") < VISITS_MAX && ranges("size(self.a)") < VISITS_MAX);
        assert!(ranges("3000") > VISITS_MAX && ranges("self.a[0] * 1000") > VISITS_MAX && ranges("self.a.size() * 1000") > VISITS_MAX);
        assert!(cost("self.distinct()", &json!(list)) > VISITS_MAX);
        let compared = compile("sets.contains(self, self)").expect("it compiles");
        let found = evaluate(&compared, &[("self", to_cel(&Value::Null, &json!(list)))]);
        assert!(matches!(found, Err(Failure::Failed(why)) if why.contains("cost limit exceeded")));
    }

    #[test]
    fn two_variables_are_two_simple_names() {
        let refused = |source: &str, words: &str| {
            let why = compile(source).err().unwrap_or_default();
            assert!(why.contains(words), "{source}: {why}");
        };
        refused("[1].all(i, i, true)", "duplicate variable name: i");
        refused("[1].transformList(i.a, v, v)", "argument must be a simple name");
        refused("[1].transformMap(i, v.a, v)", "argument must be a simple name");
        let twice = compile("[1, 2].transformMapEntry(i, v, {'a': v})").expect("it compiles");
        let failed = |why: &str| why.contains("insert failed: key a already exists");
        assert!(matches!(evaluate(&twice, &[]), Err(Failure::Failed(why)) if failed(&why)));
        assert_eq!(undeclared("{'a': 1}.transformMap(k, v, v + w)", &[]).map(|why| why.contains("'w'")), Some(true));
    }

    #[test]
    fn has_kubernetes_functions() {
        let check = |source: &str, expected: Value| {
            let program = compile(source).expect("it compiles");
            let found = evaluate(&program, &[("self", to_cel(&Value::Null, &json!({"cpu": "500m", "tags": ["a", "b"]})))]);
            assert_eq!(found.ok().as_ref().and_then(to_json), Some(expected), "{source}");
        };
        check("quantity(self.cpu).isLessThan(quantity('1'))", json!(true));
        check("quantity('1Gi').compareTo(quantity('1024Mi'))", json!(0));
        check("quantity('2').add(quantity('500m')).isGreaterThan(quantity('2'))", json!(true));
        check("isQuantity('x')", json!(false));
        check("quantity('3k').asInteger()", json!(3000));
        check("'abc 123'.find('[0-9]+')", json!("123"));
        check("'a1b22'.findAll('[0-9]+')", json!(["1", "22"]));
        check("isURL('https://example.com:8443/a') && url('https://example.com:8443/a').getPort() == '8443'", json!(true));
        check("url('https://example.com/a?b=c').getHostname() + url('https://e.com/a').getEscapedPath()", json!("example.com/a"));
        check("isIP('10.0.0.1') && !isIP('10.0.0') && ip('::1').family() == 6", json!(true));
        check("cidr('10.0.0.0/8').containsIP('10.1.2.3') && isCIDR('10.0.0.0/8')", json!(true));
        check("self.tags.isSorted() && [1, 2].sum() == 3", json!(true));
        check("'a,b'.split(',').join('-').upperAscii()", json!("A-B"));
        check("duration('90s') > duration('1m')", json!(true));
        check("'%s has %d of %.1f'.format([self.tags, 2, 2.5])", json!("[a, b] has 2 of 2.5"));
        check("self.tags.indexOf('b') == 1 && self.tags.lastIndexOf('c') == -1 && 'abc'.indexOf('c') == 2", json!(true));
        check("[3, 1, 2].max() + [3, 1, 2].min()", json!(4));
        check("self.tags.includes('a') && 'a'.includes('a') && !'ab'.includes('a')", json!(true));
        check("sets.contains([1, 2, 3], [3u, 1.0]) && !sets.contains([1], [1, 2])", json!(true));
        check("sets.equivalent(['a', 'b', 'a'], self.tags) && !sets.intersects(self.tags, [])", json!(true));
        check("ip('127.0.0.1').isLoopback() && ip('fe80::1').isLinkLocalUnicast() && ip('ff02::1').isLinkLocalMulticast()", json!(true));
        check("ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast() && ip('::').isUnspecified()", json!(true));
        check("!isIP('::ffff:1.2.3.4') && !isIP('01.2.3.4') && !isIP('fe80::1%eth0')", json!(true));
        check("cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24') && cidr('::1/128').ip() == ip('::1')", json!(true));
        check("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))", json!(true));
        check("cidr('0.0.0.0/0').containsIP('1.2.3.4') && cidr('10.0.0.0/20').prefixLength() == 20", json!(true));
        check("semver('1.10.0').isGreaterThan(semver('1.9.3')) && semver('v1.2', true).compareTo(semver('1.2.0')) == 0", json!(true));
        check("[1, [2, [3]]].flatten(2).slice(1, 3) == [2, 3] && [3, 1, 3].distinct().sort().reverse() == [3, 1]", json!(true));
        check("lists.range(3) == [0, 1, 2] && ['bb', 'a'].sortBy(x, x.size()) == ['a', 'bb']", json!(true));
        check(
            "!format.dns1123Label().validate('my-name').hasValue() && format.named('uuid').value().validate('x').hasValue()",
            json!(true),
        );
        check("format.named('no').hasValue() || format.dns1123LabelPrefix().validate('a-').hasValue()", json!(false));
        check("format.uuid().validate('x').value()", json!(["does not match the UUID format"]));
        check("format.labelValue().validate('-').orValue([]).size() + format.uri().validate('/a').orValue([]).size()", json!(1));
        check("[format.byte().validate('AA=='), format.date().validate('2021-01-01')].all(o, !o.hasValue())", json!(true));
        check("[format.datetime().validate('2021-01-01'), format.byte().validate('A')].all(o, o.hasValue())", json!(true));
        check("{'a': 1, 'b': 2}.all(k, v, k in self.tags && v < 3) && [4, 5].all(i, v, v == i + 4)", json!(true));
        check("self.tags.exists(i, v, i == 1 && v == 'b') && !self.tags.existsOne(i, v, i >= 0)", json!(true));
        check("[1, 2, 3].transformList(i, v, i > 0, i * v)", json!([2, 6]));
        check("{'b': [1], 'a': [2, 3]}.transformList(k, v, v.transformList(i, w, k + string(i + w)))", json!([["a2", "a4"], ["b1"]]));
        check("self.tags.transformMap(i, v, i > 0, v + '!')", json!({"1": "b!"}));
        check("{'x': 1, 'y': 2}.transformMap(k, v, v * 2)", json!({"x": 2, "y": 4}));
        check("self.tags.transformMapEntry(i, v, {v: i}) == {'a': 0, 'b': 1}", json!(true));
        check("[1, 2].all(i, v, 1 / (i - 1) < 0 || v == 2)", json!(true));
        check("semver('01.02.03', true).minor() == 2 && !isSemver('v1.0') && !isSemver('Three') && isSemver('1.0.0-rc.1')", json!(true));
    }
}
