//! Kubernetes' own functions in expressions (`apiserver/pkg/cel/library`): quantities, regular expressions, URLs,
//! addresses, versions, lists, named formats, authorization.

macro_rules! named {
    ($($of:ident = $name:literal),*) => {
        $(impl Opaque for $of {
            fn runtime_type_name(&self) -> &str {
                $name
            }
        })*
    };
}

pub(super) mod authorizer;
mod format;
mod lists;
mod pairs;
mod version;

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use cel::common::value::{CowVal, Val};
use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, DeclarationError, ExecutionError, Value};
use regex::Regex;
use version::Semver;

pub(super) use format::extension as formats;
pub(super) use lists::extension as lists;
pub(super) use pairs::extension as pairs;

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

named!(Quantity = "kubernetes.Quantity", Url = "kubernetes.URL", Ip = "net.IP", Cidr = "net.CIDR");

/// Declares every function; none has a name that CEL itself has.
pub(super) fn add(context: &mut Context<'_, '_>) -> Declared {
    quantities(context)?;
    patterns(context)?;
    urls(context)?;
    addresses(context)?;
    version::add(context)?;
    format::add(context)?;
    comparisons(context)?;
    authorizer::add(context)?;
    lists::add(context)
}

fn of<T: Clone + 'static>(name: &str, value: &Value) -> Answer<T> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<T>().cloned(),
        _ => None,
    }
    .ok_or_else(|| ExecutionError::function_error(name, "no such overload"))
}

fn values(args: &[CowVal<'_, '_>]) -> Answer<Vec<Value>> {
    args.iter().map(|arg| Value::try_from(arg.as_ref())).collect()
}

fn answer<'b, 'v>(value: Value) -> Answer<CowVal<'b, 'v>> {
    Ok(CowVal::Owned(Box::<dyn Val>::try_from(value)?))
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
    let made = |milli: i128| opaque(Quantity(quantity::Quantity::from_milli(milli)));
    context
        .add_function("add", move |This(this): This<Value>, other: Value| quantities_of("add", &this, &other).map(|(a, b)| made(a + b)))?;
    context
        .add_function("sub", move |This(this): This<Value>, other: Value| quantities_of("sub", &this, &other).map(|(a, b)| made(a - b)))?;
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

/// Two quantities, in thousandths; the second may be a whole number.
fn quantities_of(name: &str, this: &Value, other: &Value) -> Answer<(i128, i128)> {
    let other = match other {
        Value::Int(units) => quantity::Quantity::from_units((*units).into()),
        other => of::<Quantity>(name, other)?.0,
    };
    Ok((of::<Quantity>(name, this)?.0.milli(), other.milli()))
}

/// What quantities and versions have in common.
fn comparisons(context: &mut Context<'_, '_>) -> Declared {
    let compared = |name: &'static str, this: &Value, other: &Value| match of::<Semver>(name, this) {
        Ok(this) => of::<Semver>(name, other).map(|other| this.0.cmp_precedence(&other.0)),
        Err(_) => quantities_of(name, this, other).map(|(a, b)| a.cmp(&b)),
    };
    context.add_function("isLessThan", move |This(this): This<Value>, other: Value| {
        compared("isLessThan", &this, &other).map(Ordering::is_lt)
    })?;
    context.add_function("isGreaterThan", move |This(this): This<Value>, other: Value| {
        compared("isGreaterThan", &this, &other).map(Ordering::is_gt)
    })?;
    context.add_function("compareTo", move |This(this): This<Value>, other: Value| {
        compared("compareTo", &this, &other).map(|order| order as i64)
    })
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
    type Predicate = (&'static str, fn(IpAddr) -> bool);
    context.add_function("isIP", |text: Arc<String>| address(&text).is_some())?;
    context.add_function("ip", |This(this): This<Value>| match &this {
        Value::String(text) => {
            address(text).map(|ip| opaque(Ip(ip))).ok_or_else(|| ExecutionError::function_error("ip", "IP Address parse error"))
        }
        other => of::<Cidr>("ip", other).map(|cidr| opaque(Ip(cidr.0))),
    })?;
    context.add_function("family", |This(this): This<Value>| of::<Ip>("family", &this).map(|ip| if ip.0.is_ipv4() { 4i64 } else { 6 }))?;
    let predicates: [Predicate; 5] = [
        ("isUnspecified", |ip| ip.is_unspecified()),
        ("isLoopback", |ip| ip.is_loopback()),
        ("isLinkLocalMulticast", is_link_local_multicast),
        ("isLinkLocalUnicast", is_link_local_unicast),
        ("isGlobalUnicast", is_global_unicast),
    ];
    for (name, holds) in predicates {
        context.add_function(name, move |This(this): This<Value>| of::<Ip>(name, &this).map(|ip| holds(ip.0)))?;
    }
    context.add_function("isCIDR", |text: Arc<String>| Cidr::parse(&text).is_some())?;
    context.add_function("cidr", |text: Arc<String>| {
        Cidr::parse(&text).map(opaque).ok_or_else(|| ExecutionError::function_error("cidr", "network address parse error"))
    })?;
    context.add_function("containsIP", |This(this): This<Value>, other: Value| {
        let other = match &other {
            Value::String(text) => address(text).ok_or_else(|| ExecutionError::function_error("containsIP", "IP Address parse error"))?,
            other => of::<Ip>("containsIP", other)?.0,
        };
        of::<Cidr>("containsIP", &this).map(|cidr| cidr.contains(other))
    })?;
    context.add_function("containsCIDR", |This(this): This<Value>, other: Value| {
        let other = match &other {
            Value::String(text) => {
                Cidr::parse(text).ok_or_else(|| ExecutionError::function_error("containsCIDR", "network address parse error"))?
            }
            other => of::<Cidr>("containsCIDR", other)?,
        };
        of::<Cidr>("containsCIDR", &this).map(|cidr| cidr.1 <= other.1 && cidr.contains(other.0))
    })?;
    context.add_function("masked", |This(this): This<Value>| of::<Cidr>("masked", &this).map(|cidr| opaque(cidr.masked())))?;
    context.add_function("prefixLength", |This(this): This<Value>| of::<Cidr>("prefixLength", &this).map(|cidr| i64::from(cidr.1)))
}

/// An address without a zone; an IPv4 address is not written as an IPv6 one.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok()?;
    (!matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())).then_some(address)
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_global_unicast(address: IpAddr) -> bool {
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local_unicast(address);
    !is_special && address != Ipv4Addr::BROADCAST
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
        let (address, bits): (IpAddr, u8) = (self::address(address)?, bits.parse().ok()?);
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self(address, bits))
    }

    /// The network's own address with the same prefix.
    fn masked(&self) -> Self {
        let network = match self.0 {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(self.1)).unwrap_or(0)).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(self.1)).unwrap_or(0)).into()),
        };
        Self(network, self.1)
    }

    fn contains(&self, other: IpAddr) -> bool {
        self.0.is_ipv4() == other.is_ipv4() && Self(other, self.1).masked() == self.masked()
    }
}
