//! Functions of lists: Kubernetes' own (`kubernetes.lists`), and CEL's extension for lists that are sets.

use std::cmp::Ordering;
use std::sync::Arc;

use cel::common::types::{DYN_TYPE, LIST_TYPE};
use cel::common::value::CowVal;
use cel::extractors::This;
use cel::{Context, DeclarationError, Env, ExecutionError, Value};

use super::{Answer, Declared, answer, values};
use crate::expression::charge;

/// Those whose names CEL has for other types too, or that stand behind a namespace.
pub(in crate::expression) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    let two_lists = || vec![LIST_TYPE, LIST_TYPE];
    env.add_overload("sets.contains", "list_sets_contains_list", two_lists(), |args| with_lists(&args, |a, b| is_subset(b, a).into()))?;
    env.add_overload("sets.equivalent", "list_sets_equivalent_list", two_lists(), |args| {
        with_lists(&args, |a, b| (is_subset(a, b) && is_subset(b, a)).into())
    })?;
    env.add_overload("sets.intersects", "list_sets_intersects_list", two_lists(), |args| {
        with_lists(&args, |a, b| a.iter().any(|item| b.contains(item)).into())
    })?;
    env.add_member_overload("indexOf", "list_a_index_of_int", LIST_TYPE, vec![DYN_TYPE], |args| {
        with_item(&args, |list, item| list.iter().position(|other| other == item))
    })?;
    env.add_member_overload("lastIndexOf", "list_a_last_index_of_int", LIST_TYPE, vec![DYN_TYPE], |args| {
        with_item(&args, |list, item| list.iter().rposition(|other| other == item))
    })
}

pub(super) fn add(context: &mut Context<'_, '_>) -> Declared {
    context.add_function("isSorted", |This(this): This<Arc<Vec<Value>>>| {
        this.windows(2).all(|pair| pair[0].partial_cmp(&pair[1]).is_some_and(Ordering::is_le))
    })?;
    context.add_function("sum", |This(this): This<Arc<Vec<Value>>>| sum(&this))?;
    context.add_function("min", |This(this): This<Arc<Vec<Value>>>| extreme("min", &this, Ordering::Less))?;
    context.add_function("max", |This(this): This<Arc<Vec<Value>>>| extreme("max", &this, Ordering::Greater))?;
    context.add_function("includes", |This(this): This<Value>, item: Value| match &this {
        Value::List(list) => charge("includes", list.len()).map(|()| list.contains(&item)),
        other => Ok(*other == item),
    })
}

fn sum(list: &[Value]) -> Answer<Value> {
    let mut sum = (0i64, 0f64);
    for value in list {
        match value {
            Value::Int(number) => sum.0 = sum.0.saturating_add(*number),
            Value::Float(number) => sum.1 += number,
            _ => return Err(ExecutionError::function_error("sum", "no such overload")),
        }
    }
    let is_whole = list.iter().all(|value| matches!(value, Value::Int(_)));
    Ok(if is_whole { Value::Int(sum.0) } else { Value::Float(sum.1) })
}

fn extreme(name: &str, list: &[Value], wanted: Ordering) -> Answer<Value> {
    let (first, rest) = list.split_first().ok_or_else(|| ExecutionError::function_error(name, format!("{name} called on empty list")))?;
    let mut found = first;
    for value in rest {
        let order = value.partial_cmp(found).ok_or_else(|| ExecutionError::function_error(name, "no such overload"))?;
        if order == wanted {
            found = value;
        }
    }
    Ok(found.clone())
}

fn is_subset(some: &[Value], of: &[Value]) -> bool {
    some.iter().all(|item| of.contains(item))
}

fn with_lists<'b, 'v>(args: &[CowVal<'b, 'v>], tell: fn(&[Value], &[Value]) -> Value) -> Answer<CowVal<'b, 'v>> {
    match values(args)?.as_slice() {
        [Value::List(a), Value::List(b)] => {
            charge("sets", a.len().saturating_mul(b.len()))?;
            answer(tell(a, b))
        }
        _ => Err(ExecutionError::function_error("sets", "no such overload")),
    }
}

fn with_item<'b, 'v>(args: &[CowVal<'b, 'v>], find: fn(&[Value], &Value) -> Option<usize>) -> Answer<CowVal<'b, 'v>> {
    match values(args)?.as_slice() {
        [Value::List(list), item] => {
            charge("indexOf", list.len())?;
            answer(Value::Int(find(list, item).and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
        }
        _ => Err(ExecutionError::function_error("indexOf", "no such overload")),
    }
}
