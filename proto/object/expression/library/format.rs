//! Kubernetes' named formats (`apiserver/pkg/cel/library/format.go`): what is wrong with a string, or nothing.

use std::sync::Arc;

use cel::common::types::STRING_TYPE;
use cel::common::value::CowVal;
use cel::extractors::This;
use cel::objects::{Opaque, OptionalValue};
use cel::{Context, DeclarationError, Env, ExecutionError, Value};

use super::{Answer, Declared, Parts, answer, of, opaque, values};
use crate::custom;
use crate::names::{self, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format(&'static str);

impl Opaque for Format {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.NamedFormat"
    }
}

/// Declares a function for one format.
macro_rules! formats {
    ($env:ident, $($name:literal),*) => {
        $($env.add_overload(concat!("format.", $name), concat!("format.", $name), vec![], |_| answer(opaque(Format($name))))?;)*
        const NAMES: &[&str] = &[$($name),*];
    };
}

pub(in crate::expression) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    formats!(
        env,
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime"
    );
    env.add_overload("format.named", "format-named", vec![STRING_TYPE], |args| named(&args, NAMES))
}

pub(super) fn add(context: &mut Context<'_, '_>) -> Declared {
    context.add_function("validate", |This(this): This<Value>, text: Arc<String>| {
        let format: Format = of("validate", &this)?;
        let why = |why: &str| Value::String(Arc::new(why.into()));
        let wrong = format.check(&text).err().map(|faults| Value::List(Arc::new(faults.iter().map(why).collect())));
        Ok::<_, ExecutionError>(opaque(wrong.map_or_else(OptionalValue::none, OptionalValue::of)))
    })
}

fn named<'b, 'v>(args: &[CowVal<'b, 'v>], known: &[&'static str]) -> Answer<CowVal<'b, 'v>> {
    match values(args)?.as_slice() {
        [Value::String(name)] => {
            let found = known.iter().find(|known| **known == name.as_str()).map(|known| opaque(Format(known)));
            answer(opaque(found.map_or_else(OptionalValue::none, OptionalValue::of)))
        }
        _ => Err(ExecutionError::function_error("format.named", "no such overload")),
    }
}

// === impl Format ===

impl Format {
    fn check(self, text: &str) -> Verdict {
        let fits = |format: &str, why: &str| if custom::fits(format, text) { Ok(()) } else { Err(why.to_string().into()) };
        match self.0 {
            "dns1123Label" => names::dns1123_label(text),
            "dns1123Subdomain" => names::subdomain(text),
            "dns1035Label" => names::dns1035_label(text),
            "qualifiedName" => names::qualified_name(text),
            "dns1123LabelPrefix" => names::dns1123_label(&masked(text)),
            "dns1123SubdomainPrefix" => names::subdomain(&masked(text)),
            "dns1035LabelPrefix" => names::dns1035_label(&masked(text)),
            "labelValue" => names::label_value(text),
            "uri" if text.is_empty() => Err("parse \"\": empty url".to_string().into()),
            "uri" if Parts::parse(text).is_none() => Err(format!("parse {text:?}: invalid URI for request").into()),
            "uri" => Ok(()),
            "uuid" => fits("uuid", "does not match the UUID format"),
            "byte" => fits("byte", "invalid base64"),
            "date" => fits("date", "invalid date"),
            _ => fits("date-time", "invalid datetime"),
        }
    }
}

/// What is to be the beginning of a name may end with a dash: `maskTrailingDash`.
fn masked(text: &str) -> String {
    match text.strip_suffix('-').filter(|rest| !rest.is_empty()) {
        Some(rest) => rest.chars().take(rest.chars().count() - 1).chain(['a']).collect(),
        None => text.into(),
    }
}
