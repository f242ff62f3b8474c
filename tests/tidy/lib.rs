//! Rules that review would forget: the arrows between crates, pure manifests, sizes of files, mutants that still apply.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use serde_json::Value;

    /// Production lines of a file, above which its shape is wrong.
    const FILE_LINES_MAX: usize = 700;

    /// Crates that may not even name what does IO.
    const PURE: &[&str] = &[
        "skein-object",
        "skein-command",
        "skein-peer",
        "skein-state",
        "skein-place",
        "skein-protobuf",
        "skein-reconcile",
        "skein-invariant",
    ];
    const IMPURE: &[&str] = &["tokio", "quinn", "rocksdb", "openraft", "hyper", "nix", "rand"];

    /// Forks without exec, which only a process with one thread may do.
    const SINGLE_THREADED: &[&str] = &["skein-monitor"];

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// `from -> to, to` lines between the markers in ARCHITECTURE.md.
    fn drawn() -> BTreeMap<String, BTreeSet<String>> {
        let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
        let begin = text.find("<!-- arrows -->").expect("ARCHITECTURE.md draws the arrows");
        let end = text.find("<!-- /arrows -->").expect("the drawing ends");
        let lines = text[begin..end].lines().filter_map(|line| line.split_once(" -> "));
        lines.map(|(from, to)| (from.trim().to_string(), to.split(',').map(|t| t.trim().to_string()).collect())).collect()
    }

    fn cargo(arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).args(["--locked", "--offline"]).output();
        let output = output.expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What each crate of the house names in its manifest, dev-dependencies excepted.
    fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
        let text = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
        let metadata: Value = serde_json::from_str(&text).expect("cargo writes JSON");
        let name = |value: &Value| value["name"].as_str().expect("everything has a name").to_string();
        let packages = metadata["packages"].as_array().expect("there are packages").iter();
        let named = |package: &Value| {
            let all = package["dependencies"].as_array().into_iter().flatten();
            all.filter(|dependency| dependency["kind"].is_null()).map(name).collect()
        };
        packages.map(|package| (name(package), named(package))).collect()
    }

    #[test]
    fn every_arrow_is_drawn_in_the_architecture() {
        let of_the_house = |name: &String| name.strip_prefix("skein-").or((name == "skein").then_some("skein")).map(String::from);
        let arrows = dependencies().into_iter().filter_map(|(from, to)| {
            let to: BTreeSet<String> = to.iter().filter_map(of_the_house).collect();
            (!to.is_empty()).then_some((of_the_house(&from)?, to))
        });
        assert_eq!(arrows.collect::<BTreeMap<_, _>>(), drawn(), "left: the manifests; right: ARCHITECTURE.md");
    }

    /// Else `make test` builds everything again that `make build` has built: half of the time that it takes.
    #[test]
    fn tests_ask_no_other_features_of_what_they_share_with_the_daemon() {
        let tree = |edges| {
            let text = cargo(&["tree", "--workspace", "--edges", edges, "--no-dedupe", "--prefix", "none", "--format", "{p} {f}"]);
            text.lines().map(String::from).collect::<BTreeSet<_>>()
        };
        let (built, tested) = (tree("normal,build"), tree("normal,build,dev"));
        let lost: Vec<&String> = built.difference(&tested).collect();
        assert!(lost.is_empty(), "a dev-dependency asks for more features of {lost:?}");
    }

    #[test]
    fn pure_crates_name_nothing_impure() {
        for (package, named) in dependencies().iter().filter(|(package, _)| PURE.contains(&package.as_str())) {
            let impure: Vec<&String> = named.iter().filter(|name| IMPURE.contains(&name.as_str())).collect();
            assert!(impure.is_empty(), "{package} is pure and names {impure:?}");
        }
    }

    #[test]
    fn what_forks_cannot_start_threads_of_a_runtime() {
        for (package, named) in dependencies().iter().filter(|(package, _)| SINGLE_THREADED.contains(&package.as_str())) {
            assert!(!named.contains("tokio"), "{package} forks and names tokio");
        }
    }

    #[test]
    fn files_stay_small() {
        let mut long = Vec::new();
        for path in sources(&root()) {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let production = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
            if production > FILE_LINES_MAX {
                long.push((path, production));
            }
        }
        assert!(long.is_empty(), "{long:?}");
    }

    /// A mutant that does not apply breaks nothing, and so proves nothing.
    #[test]
    fn every_mutant_applies() {
        let mutants = std::fs::read_dir(root().join("chaos/mutants")).expect("the mutants are there").flatten().map(|e| e.path());
        for patch in mutants.filter(|path| path.extension().is_some_and(|e| e == "patch")) {
            let tried = Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output();
            let tried = tried.expect("git runs");
            assert!(tried.status.success(), "{}: {}", patch.display(), String::from_utf8_lossy(&tried.stderr));
        }
    }

    fn sources(directory: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                found.extend(sources(&path));
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
        found
    }
}
