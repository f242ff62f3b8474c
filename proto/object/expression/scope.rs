//! Which names an expression uses, as CEL's checker sees them: those that nobody declares are found where the expression
//! is written down, not where it fails.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};

/// Types, and the first parts of what libraries call their functions.
const KNOWN: [&str; 28] = [
    "base64",
    "bool",
    "bytes",
    "cel",
    "cidr",
    "double",
    "duration",
    "dyn",
    "format",
    "google",
    "int",
    "ip",
    "jsonpatch",
    "list",
    "lists",
    "map",
    "math",
    "null_type",
    "optional",
    "optional_type",
    "quantity",
    "semver",
    "sets",
    "string",
    "timestamp",
    "type",
    "uint",
    "url",
];

/// Why an expression that can be parsed cannot be checked, in the words of CEL's checker.
pub fn undeclared(source: &str, declared: &[&str]) -> Option<String> {
    let parser = super::environment().parser().enable_optional_syntax(true).enable_ident_escape_syntax(true);
    let (root, positions) = parser.parse_with_source_info(source).ok()?;
    let mut names: Vec<&str> = declared.iter().chain(&KNOWN).copied().collect();
    let mut found = Vec::new();
    visit(&root, &mut names, &mut found);
    let told: Vec<String> = found.iter().map(|(id, name)| tell(name, *id, &positions)).collect();
    (!told.is_empty()).then(|| told.join("\n"))
}

fn visit<'a>(at: &'a IdedExpr, names: &mut Vec<&'a str>, found: &mut Vec<(u64, &'a str)>) {
    match &at.expr {
        Expr::Unspecified | Expr::Literal(_) => {}
        Expr::Ident(name) => {
            if !name.starts_with('@') && !names.contains(&name.as_str()) {
                found.push((at.id, name));
            }
        }
        Expr::Select(select) => visit(&select.operand, names, found),
        Expr::Call(call) => {
            call.target.iter().for_each(|target| visit(target, names, found));
            call.args.iter().for_each(|argument| visit(argument, names, found));
        }
        Expr::List(list) => list.elements.iter().for_each(|element| visit(element, names, found)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| visit_entry(&entry.expr, names, found)),
        Expr::Struct(object) => object.entries.iter().for_each(|entry| visit_entry(&entry.expr, names, found)),
        Expr::Comprehension(loops) => {
            visit(&loops.iter_range, names, found);
            visit(&loops.accu_init, names, found);
            let outside = names.len();
            names.extend([loops.iter_var.as_str(), loops.accu_var.as_str()]);
            names.extend(loops.iter_var2.as_deref());
            for inner in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                visit(inner, names, found);
            }
            names.truncate(outside);
        }
    }
}

fn visit_entry<'a>(entry: &'a EntryExpr, names: &mut Vec<&'a str>, found: &mut Vec<(u64, &'a str)>) {
    match entry {
        EntryExpr::StructField(field) => visit(&field.value, names, found),
        EntryExpr::MapEntry(entry) => {
            visit(&entry.key, names, found);
            visit(&entry.value, names, found);
        }
    }
}

/// With the line that has it, and a mark under it.
fn tell(name: &str, id: u64, positions: &SourceInfo) -> String {
    let start = positions.offset_for(id).map_or(0, |(start, _)| start as usize);
    let before: String = positions.source.chars().take(start).collect();
    let (line, column) = (before.matches('\n').count(), before.chars().rev().take_while(|c| *c != '\n').count());
    let text = positions.source.lines().nth(line).unwrap_or_default();
    let at = format!("{}:{}", line + 1, column + 1);
    format!("ERROR: <input>:{at}: undeclared reference to '{name}' (in container '')\n | {text}\n | {}^", ".".repeat(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_that_nobody_declares() {
        let told = undeclared("self.a > 0 &&\n  selv.b", &["self"]);
        let expected = "ERROR: <input>:2:3: undeclared reference to 'selv' (in container '')\n |   selv.b\n | ..^";
        assert_eq!(told.as_deref(), Some(expected));
        for fine in [
            "self.all(x, x > 0 && self.exists(y, y == x))",
            "self.map(x, x * 2).filter(x, x > 1).size() > 0 || has(self.a)",
            "type(self.a) == string && quantity('1').isGreaterThan(quantity(self.b))",
            "optional.of(self).orValue(1) == 1 ? math.greatest(1, 2) > 1 : sets.contains([1], [1])",
            "[1, 2].exists_one(i, i == self.c) && {'a': self.d}.a == 1",
            "self.?a.orValue(0) == 0",
            "self.a.sortBy(x, x.b)[0].b == lists.range(2)[0] && !format.uuid().validate(self.c).hasValue()",
        ] {
            assert_eq!(undeclared(fine, &["self"]), None, "{fine}");
        }
    }
}
