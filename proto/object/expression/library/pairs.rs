//! Comprehensions of two variables (cel-go's `ext.TwoVarComprehensions`, which Kubernetes has since 1.33): key and value
//! of a map, or index and element of a list.
//!
//! The interpreter knows loops of one variable, so each becomes one over pairs:
//!
//! ```text
//!   m.all(k, v, p)  ──▶  @pairs(m).all(@pair, bind(k, @pair[0], bind(v, @pair[1], p)))
//! ```

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, MapEntryExpr, MapExpr, operators,
};
use cel::common::types::{DYN_TYPE, MAP_TYPE};
use cel::objects::{Key, Map};
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{DeclarationError, Env, ExecutionError, Value};

use super::{Answer, answer, values};
use crate::expression::charge;

const PAIRS: &str = "@pairs";
const PAIR: &str = "@pair";
const PUT: &str = "@put";
const RESULT: &str = "@result";

/// What a loop makes of its elements.
#[derive(Clone, Copy)]
enum Loop {
    All,
    Exists,
    ExistsOne,
    List,
    Map,
    MapEntry,
}

pub(in crate::expression) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(PAIRS, "pairs_of", vec![DYN_TYPE], |args| match values(&args)?.as_slice() {
        [of] => pairs(of).and_then(answer),
        _ => Err(ExecutionError::function_error(PAIRS, "no such overload")),
    })?;
    env.add_overload(PUT, "map_put_map", vec![MAP_TYPE, MAP_TYPE], |args| match values(&args)?.as_slice() {
        [Value::Map(into), Value::Map(entries)] => put(into, entries).and_then(answer),
        _ => Err(ExecutionError::function_error(PUT, "no such overload")),
    })?;
    for (name, arguments, made) in [
        ("all", 3, Loop::All),
        ("exists", 3, Loop::Exists),
        ("existsOne", 3, Loop::ExistsOne),
        ("exists_one", 3, Loop::ExistsOne),
        ("transformList", 3, Loop::List),
        ("transformList", 4, Loop::List),
        ("transformMap", 3, Loop::Map),
        ("transformMap", 4, Loop::Map),
        ("transformMapEntry", 3, Loop::MapEntry),
        ("transformMapEntry", 4, Loop::MapEntry),
    ] {
        env.add_macro(Macro::receiver(name, arguments, move |helper, target, args| {
            let range = target.take().expect("a macro of a receiver has one");
            made.expand(&mut Builder { helper }, range, std::mem::take(args)).map(Some)
        }))?;
    }
    Ok(())
}

// === impl Loop ===

impl Loop {
    fn expand(self, build: &mut Builder<'_, '_>, range: IdedExpr, mut args: Vec<IdedExpr>) -> Result<IdedExpr, ParseError> {
        let body = args.pop().expect("three arguments or four");
        let mut rest = args.into_iter();
        let names = build.names([rest.next(), rest.next()])?;
        let filter = rest.next().map(|filter| build.with(&names, filter));
        let body = match self {
            Self::Map => {
                let key = build.ident(&names[0]);
                build.entry(key, body)
            }
            _ => body,
        };
        let body = build.with(&names, body);
        let result = build.ident(RESULT);
        let (init, goes_on, step) = match self {
            Self::All => (build.bool(true), build.ident(RESULT), build.call(operators::LOGICAL_AND, vec![result, body])),
            Self::Exists => {
                let found = build.ident(RESULT);
                (build.bool(false), build.call(operators::LOGICAL_NOT, vec![found]), build.call(operators::LOGICAL_OR, vec![result, body]))
            }
            Self::ExistsOne => {
                let (counted, one) = (build.ident(RESULT), build.int(1));
                let more = build.call(operators::ADD, vec![counted, one]);
                (build.int(0), build.bool(true), build.call(operators::CONDITIONAL, vec![body, more, result]))
            }
            Self::List => {
                let one = build.list(vec![body]);
                (build.list(Vec::new()), build.bool(true), build.call(operators::ADD, vec![result, one]))
            }
            Self::Map | Self::MapEntry => (build.map(), build.bool(true), build.call(PUT, vec![result, body])),
        };
        let goes_on = match self {
            Self::All | Self::Exists => build.call(operators::NOT_STRICTLY_FALSE, vec![goes_on]),
            _ => goes_on,
        };
        let step = match filter {
            Some(filter) => {
                let unchanged = build.ident(RESULT);
                build.call(operators::CONDITIONAL, vec![filter, step, unchanged])
            }
            None => step,
        };
        let result = build.ident(RESULT);
        let result = match self {
            Self::ExistsOne => {
                let one = build.int(1);
                build.call(operators::EQUALS, vec![result, one])
            }
            _ => result,
        };
        Ok(build.looped(range, init, [goes_on, step, result]))
    }
}

struct Builder<'a, 'h> {
    helper: &'a mut MacroExprHelper<'h>,
}

// === impl Builder ===

impl Builder<'_, '_> {
    fn names(&mut self, arguments: [Option<IdedExpr>; 2]) -> Result<[String; 2], ParseError> {
        let [first, second] = arguments.map(|argument| argument.expect("three arguments or four"));
        let (ids, is_name) = ([first.id, second.id], |expr: &Expr| matches!(expr, Expr::Ident(_)));
        match (first.expr, second.expr) {
            (Expr::Ident(first), Expr::Ident(second)) if first == second => {
                Err(self.helper.new_error(ids[1], format!("duplicate variable name: {first}")))
            }
            (Expr::Ident(first), Expr::Ident(second)) => Ok([first, second]),
            (first, _) => Err(self.helper.new_error(ids[usize::from(is_name(&first))], "argument must be a simple name")),
        }
    }

    fn ident(&mut self, name: &str) -> IdedExpr {
        self.helper.next_expr(Expr::Ident(name.to_string()))
    }

    fn bool(&mut self, flag: bool) -> IdedExpr {
        self.helper.next_expr(Expr::Literal(LiteralValue::Boolean(flag.into())))
    }

    fn int(&mut self, number: i64) -> IdedExpr {
        self.helper.next_expr(Expr::Literal(LiteralValue::Int(number.into())))
    }

    fn list(&mut self, elements: Vec<IdedExpr>) -> IdedExpr {
        self.helper.next_expr(Expr::List(ListExpr::new(elements)))
    }

    fn map(&mut self) -> IdedExpr {
        self.helper.next_expr(Expr::Map(MapExpr::default()))
    }

    fn call(&mut self, function: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.helper.next_expr(Expr::Call(CallExpr { func_name: function.to_string(), target: None, args }))
    }

    fn entry(&mut self, key: IdedExpr, value: IdedExpr) -> IdedExpr {
        let entry = MapEntryExpr { key, value, optional: false };
        // Nothing is told by an entry's number.
        let entry = IdedEntryExpr { id: 0, expr: EntryExpr::MapEntry(entry) };
        self.helper.next_expr(Expr::Map(MapExpr { entries: vec![entry] }))
    }

    /// An expression in which both names stand for what the pair holds.
    fn with(&mut self, names: &[String; 2], inner: IdedExpr) -> IdedExpr {
        names.iter().zip(0..).fold(inner, |inner, (name, index)| {
            let (pair, index) = (self.ident(PAIR), self.int(index));
            let value = self.call(operators::INDEX, vec![pair, index]);
            self.bind(name, value, inner)
        })
    }

    /// A loop over nothing, whose result is the expression.
    fn bind(&mut self, name: &str, value: IdedExpr, result: IdedExpr) -> IdedExpr {
        let (iter_range, loop_cond, loop_step) = (self.list(Vec::new()), self.bool(false), self.ident(name));
        let bound = ComprehensionExpr {
            iter_range,
            iter_var: "#unused".to_string(),
            iter_var2: None,
            accu_var: name.to_string(),
            accu_init: value,
            loop_cond,
            loop_step,
            result,
        };
        self.helper.next_expr(Expr::Comprehension(Box::new(bound)))
    }

    fn looped(&mut self, range: IdedExpr, accu_init: IdedExpr, [loop_cond, loop_step, result]: [IdedExpr; 3]) -> IdedExpr {
        let looped = ComprehensionExpr {
            iter_range: self.call(PAIRS, vec![range]),
            iter_var: PAIR.to_string(),
            iter_var2: None,
            accu_var: RESULT.to_string(),
            accu_init,
            loop_cond,
            loop_step,
            result,
        };
        self.helper.next_expr(Expr::Comprehension(Box::new(looped)))
    }
}

/// Keys and values of a map, in the order of the keys; indexes and elements of a list.
fn pairs(of: &Value) -> Answer<Value> {
    let pair = |first: Value, second: &Value| Value::List(Arc::new(vec![first, second.clone()]));
    let pairs = match of {
        Value::List(list) => (0..).zip(list.iter()).map(|(index, item)| pair(Value::Int(index), item)).collect(),
        Value::Map(map) => {
            let mut entries: Vec<(Value, &Value)> = map.map.iter().map(|(key, value)| (of_key(key), value)).collect();
            entries.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
            entries.into_iter().map(|(key, value)| pair(key, value)).collect()
        }
        _ => return Err(ExecutionError::function_error(PAIRS, "no such overload")),
    };
    Ok(Value::List(Arc::new(pairs)))
}

fn of_key(key: &Key) -> Value {
    match key {
        Key::Int(number) => Value::Int(*number),
        Key::Uint(number) => Value::UInt(*number),
        Key::Bool(flag) => Value::Bool(*flag),
        Key::String(text) => Value::String(Arc::clone(text)),
    }
}

fn put(into: &Map, entries: &Map) -> Answer<Value> {
    charge("transformMap", into.map.len() + entries.map.len())?;
    let mut map: HashMap<Key, Value> = into.map.as_ref().clone();
    for (key, value) in entries.map.iter() {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(ExecutionError::function_error("transformMap", format!("insert failed: key {key} already exists")));
        }
    }
    Ok(Value::Map(Map { map: Arc::new(map) }))
}
