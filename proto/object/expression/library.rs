//! Kubernetes' own functions in expressions (`apiserver/pkg/cel/library`): quantities, regular expressions, URLs,
//! addresses, lists.

use std::net::IpAddr;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, DeclarationError, ExecutionError, Value};
use regex::Regex;

use crate::quantity;

type Answer<T> = Result<T, ExecutionError>;
type Declared = Result<(), DeclarationError>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Quantity(quantity::Quantity);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Url(Parts);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ip(IpAddr);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cidr(IpAddr, u8);

/// A URL, taken apart as far as its getters need.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    scheme: String,
    host: String,
    port: String,
    path: String,
}

macro_rules! opaque {
    ($($of:ident = $name:literal),*) => {
        $(impl Opaque for $of {
            fn runtime_type_name(&self) -> &str {
                $name
            }
        })*
    };
}

opaque!(Quantity = "kubernetes.Quantity", Url = "kubernetes.URL", Ip = "net.IP", Cidr = "net.CIDR");

/// Declares every function; none has a name that CEL itself has.
pub(super) fn add(context: &mut Context<'_, '_>) -> Declared {
    quantities(context)?;
    patterns(context)?;
    urls(context)?;
    addresses(context)?;
    lists(context)
}

fn of<T: Clone + 'static>(name: &str, value: &Value) -> Answer<T> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<T>().cloned(),
        _ => None,
    }
    .ok_or_else(|| ExecutionError::function_error(name, "no such overload"))
}

fn opaque<T: Opaque>(value: T) -> Value {
    Value::Opaque(Arc::new(value))
}

fn quantities(context: &mut Context<'_, '_>) -> Declared {
    let parse = |text: &str| text.parse::<quantity::Quantity>().ok().map(Quantity);
    context.add_function("isQuantity", move |text: Arc<String>| parse(&text).is_some())?;
    context.add_function("quantity", move |text: Arc<String>| {
        parse(&text).map(opaque).ok_or_else(|| ExecutionError::function_error("quantity", quantity::Malformed))
    })?;
    let two = |name: &'static str, this: &Value, other: &Value| -> Answer<(i128, i128)> {
        let other = match other {
            Value::Int(units) => quantity::Quantity::from_units((*units).into()),
            other => of::<Quantity>(name, other)?.0,
        };
        Ok((of::<Quantity>(name, this)?.0.milli(), other.milli()))
    };
    context
        .add_function("isLessThan", move |This(this): This<Value>, other: Value| two("isLessThan", &this, &other).map(|(a, b)| a < b))?;
    context.add_function("isGreaterThan", move |This(this): This<Value>, other: Value| {
        two("isGreaterThan", &this, &other).map(|(a, b)| a > b)
    })?;
    context.add_function("compareTo", move |This(this): This<Value>, other: Value| {
        two("compareTo", &this, &other).map(|(a, b)| a.cmp(&b) as i64)
    })?;
    let made = |milli: i128| opaque(Quantity(quantity::Quantity::from_milli(milli)));
    context.add_function("add", move |This(this): This<Value>, other: Value| two("add", &this, &other).map(|(a, b)| made(a + b)))?;
    context.add_function("sub", move |This(this): This<Value>, other: Value| two("sub", &this, &other).map(|(a, b)| made(a - b)))?;
    context.add_function("sign", |This(this): This<Value>| {
        of::<Quantity>("sign", &this).map(|q| i64::try_from(q.0.milli().signum()).unwrap_or(0))
    })?;
    let whole = |q: &Quantity| (q.0.milli() % 1000 == 0).then_some(q.0.milli() / 1000).and_then(|n| i64::try_from(n).ok());
    context.add_function("isInteger", move |This(this): This<Value>| of::<Quantity>("isInteger", &this).map(|q| whole(&q).is_some()))?;
    context.add_function("asInteger", move |This(this): This<Value>| {
        let quantity = of::<Quantity>("asInteger", &this)?;
        whole(&quantity).ok_or_else(|| ExecutionError::function_error("asInteger", "cannot convert value to integer"))
    })?;
    context.add_function("asApproximateFloat", |This(this): This<Value>| {
        of::<Quantity>("asApproximateFloat", &this).map(|q| q.0.milli() as f64 / 1000.0)
    })?;
    Ok(())
}

fn patterns(context: &mut Context<'_, '_>) -> Declared {
    let compiled = |name: &'static str, pattern: &str| Regex::new(pattern).map_err(|why| ExecutionError::function_error(name, why));
    context.add_function("find", move |This(this): This<Arc<String>>, pattern: Arc<String>| {
        let found = compiled("find", &pattern)?.find(&this).map_or("", |m| m.as_str()).to_string();
        Ok::<_, ExecutionError>(Value::String(Arc::new(found)))
    })?;
    context.add_function("findAll", move |This(this): This<Arc<String>>, pattern: Arc<String>| {
        let pattern = compiled("findAll", &pattern)?;
        let found = pattern.find_iter(&this).map(|m| Value::String(Arc::new(m.as_str().into()))).collect();
        Ok::<_, ExecutionError>(Value::List(Arc::new(found)))
    })?;
    Ok(())
}

fn urls(context: &mut Context<'_, '_>) -> Declared {
    context.add_function("isURL", |text: Arc<String>| Parts::parse(&text).is_some())?;
    context.add_function("url", |text: Arc<String>| {
        let parts =
            Parts::parse(&text).ok_or_else(|| ExecutionError::function_error("url", "URL parse error during conversion from string"))?;
        Ok::<_, ExecutionError>(opaque(Url(parts)))
    })?;
    let text = |text: String| Value::String(Arc::new(text));
    context.add_function("getScheme", move |This(this): This<Value>| of::<Url>("getScheme", &this).map(|u| text(u.0.scheme)))?;
    context.add_function("getPort", move |This(this): This<Value>| of::<Url>("getPort", &this).map(|u| text(u.0.port)))?;
    context.add_function("getEscapedPath", move |This(this): This<Value>| of::<Url>("getEscapedPath", &this).map(|u| text(u.0.path)))?;
    context.add_function("getHostname", move |This(this): This<Value>| {
        of::<Url>("getHostname", &this).map(|u| text(u.0.host.trim_matches(['[', ']']).to_string()))
    })?;
    context.add_function("getHost", move |This(this): This<Value>| {
        of::<Url>("getHost", &this).map(|u| text(if u.0.port.is_empty() { u.0.host } else { format!("{}:{}", u.0.host, u.0.port) }))
    })?;
    Ok(())
}

fn addresses(context: &mut Context<'_, '_>) -> Declared {
    context.add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok())?;
    context.add_function("ip", |text: Arc<String>| {
        text.parse().map(|ip| opaque(Ip(ip))).map_err(|why| ExecutionError::function_error("ip", why))
    })?;
    context.add_function("isCIDR", |text: Arc<String>| Cidr::parse(&text).is_some())?;
    context.add_function("cidr", |text: Arc<String>| {
        Cidr::parse(&text).map(opaque).ok_or_else(|| ExecutionError::function_error("cidr", "network address parse error"))
    })?;
    context.add_function("family", |This(this): This<Value>| of::<Ip>("family", &this).map(|ip| if ip.0.is_ipv4() { 4i64 } else { 6 }))?;
    context.add_function("containsIP", |This(this): This<Value>, other: Value| {
        let address = match &other {
            Value::String(text) => text.parse().map_err(|why| ExecutionError::function_error("containsIP", why))?,
            other => of::<Ip>("containsIP", other)?.0,
        };
        of::<Cidr>("containsIP", &this).map(|cidr| cidr.contains(address))
    })?;
    Ok(())
}

fn lists(context: &mut Context<'_, '_>) -> Declared {
    context.add_function("isSorted", |This(this): This<Arc<Vec<Value>>>| {
        this.windows(2).all(|pair| pair[0].partial_cmp(&pair[1]).is_some_and(|order| order.is_le()))
    })?;
    context.add_function("sum", |This(this): This<Arc<Vec<Value>>>| {
        let mut sum = (0i64, 0f64);
        for value in this.iter() {
            match value {
                Value::Int(number) => sum.0 = sum.0.saturating_add(*number),
                Value::Float(number) => sum.1 += number,
                _ => return Err(ExecutionError::function_error("sum", "no such overload")),
            }
        }
        let is_whole = this.iter().all(|value| matches!(value, Value::Int(_)));
        Ok(if is_whole { Value::Int(sum.0) } else { Value::Float(sum.1) })
    })?;
    Ok(())
}

// === impl Parts ===

impl Parts {
    /// An absolute URL, or an absolute path.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
            return None;
        }
        let until_query = text.split(['?', '#']).next().unwrap_or_default();
        if until_query.starts_with('/') {
            return Some(Self { scheme: String::new(), host: String::new(), port: String::new(), path: until_query.into() });
        }
        let (scheme, rest) = until_query.split_once("://")?;
        let is_scheme =
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host_and_port = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = match host_and_port.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (host_and_port, ""),
        };
        let is_port = port.chars().all(|c| c.is_ascii_digit());
        (is_scheme && is_port).then(|| Self { scheme: scheme.into(), host: host.into(), port: port.into(), path: path.into() })
    }
}

// === impl Cidr ===

impl Cidr {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self(address, bits))
    }

    fn contains(&self, other: IpAddr) -> bool {
        match (self.0, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => self.1 == 0 || (u32::from(a) ^ u32::from(b)) >> (32 - self.1) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => self.1 == 0 || (u128::from(a) ^ u128::from(b)) >> (128 - self.1) == 0,
            _ => false,
        }
    }
}
