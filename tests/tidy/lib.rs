//! Rules that review would forget: the arrows between crates, pure manifests, sizes of files, mutants that still apply.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use cargo_metadata::{DependencyKind, MetadataCommand};

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

    #[test]
    fn every_arrow_is_drawn_in_the_architecture() {
        let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata");
        let drawn = drawn();
        let mut found = BTreeMap::new();
        for package in &metadata.packages {
            let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal && d.name.starts_with("skein"));
            let to: BTreeSet<String> = normal.map(|d| d.name.trim_start_matches("skein-").to_string()).collect();
            if !to.is_empty() {
                found.insert(package.name.trim_start_matches("skein-").to_string(), to);
            }
        }
        assert_eq!(found, drawn, "left: the manifests; right: ARCHITECTURE.md");
    }

    #[test]
    fn pure_crates_name_nothing_impure() {
        let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata");
        for package in metadata.packages.iter().filter(|p| PURE.contains(&p.name.as_str())) {
            let named = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal && IMPURE.contains(&d.name.as_str()));
            let names: Vec<&str> = named.map(|d| d.name.as_str()).collect();
            assert!(names.is_empty(), "{} is pure and names {names:?}", package.name);
        }
    }

    #[test]
    fn what_forks_cannot_start_threads_of_a_runtime() {
        let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata");
        for package in metadata.packages.iter().filter(|p| SINGLE_THREADED.contains(&p.name.as_str())) {
            assert!(package.dependencies.iter().all(|d| d.name != "tokio"), "{} forks and names tokio", package.name);
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
            let tried = std::process::Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output();
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
