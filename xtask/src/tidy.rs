//! The rules of the workspace that no compiler checks, each a function from facts to complaints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::steps::{Step, cargo, root};

/// Which workspace crates each may depend on. An edge outside this table is an error; tests may use the kit and the
/// emulator anywhere.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("palisade-core", &[]),
    ("palisade-google", &["palisade-core"]),
    ("palisade-sendgrid", &["palisade-core"]),
    ("palisade-slack", &["palisade-core"]),
    ("palisade-stripe", &["palisade-core"]),
    ("palisade-twilio", &["palisade-core"]),
    ("palisade-store", &["palisade-core"]),
    (
        "palisade-hub",
        &[
            "palisade-core",
            "palisade-google",
            "palisade-sendgrid",
            "palisade-slack",
            "palisade-stripe",
            "palisade-twilio",
            "palisade-store",
            "palisade-emulator",
        ],
    ),
    ("palisade-emulator", &[]),
    ("palisade-testkit", &["palisade-core", "palisade-emulator"]),
    (
        "palisade-tests",
        &[
            "palisade-core",
            "palisade-google",
            "palisade-sendgrid",
            "palisade-slack",
            "palisade-stripe",
            "palisade-twilio",
            "palisade-store",
            "palisade-hub",
            "palisade-emulator",
            "palisade-testkit",
        ],
    ),
    ("xtask", &[]),
];

/// What tests of any crate may use besides.
const TESTS_MAY_USE: &[&str] = &["palisade-core", "palisade-emulator", "palisade-testkit"];

/// The adapters, and the rooms every one of them has.
const ADAPTERS: &[&str] = &["google", "sendgrid", "slack", "stripe", "twilio"];
const ADAPTER_FILES: &[&str] = &[
    "README.md",
    "src/lib.rs",
    "src/auth.rs",
    "src/client.rs",
    "src/error.rs",
    "src/sync.rs",
    "src/webhook.rs",
    "tests/it.rs",
    "tests/fixtures",
];

/// TLS and crypto stacks that must stay out of the tree: one provider (aws-lc-rs) is enough, two make rustls panic.
const BANNED: &[&str] = &["ring", "openssl-sys", "native-tls"];

/// Words that mean "not finished".
const UNFINISHED: &[&str] = &["#[ignore", "todo!(", "unimplemented!(", "dbg!("];

/// Runs every rule and prints what is wrong.
pub(crate) fn run() -> Step {
    println!("\n== tidy");
    let complaints = complaints()?;
    for complaint in &complaints {
        println!("{complaint}");
    }
    if complaints.is_empty() { Ok(()) } else { Err(format!("tidy: {} complaints", complaints.len())) }
}

fn complaints() -> Result<Vec<String>, String> {
    let root = root();
    let mut all = dependency_table(&metadata()?);
    all.extend(banned_crates(&tree()?));
    all.extend(sorted_dependencies(&read(&root.join("Cargo.toml"))));
    for manifest in manifests(&root) {
        // The fuzz targets are a workspace of their own, and can take nothing from this one.
        if manifest != root.join("fuzz/Cargo.toml") {
            all.extend(lints_taken(&shown(&root, &manifest), &read(&manifest)));
        }
    }
    for adapter in ADAPTERS {
        let folder = root.join("crates").join(adapter);
        all.extend(adapter_rooms(adapter, |file| folder.join(file).exists()));
    }
    for file in files(&root, "rs") {
        all.extend(rust_file(&shown(&root, &file), &read(&file)));
    }
    for file in files(&root, "md") {
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        all.extend(links(&shown(&root, &file), &read(&file), |target| folder.join(target).exists()));
    }
    Ok(all)
}

fn metadata() -> Result<serde_json::Value, String> {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| "cargo metadata did not print JSON".to_owned())
}

/// Every edge between workspace crates stands in the table.
fn dependency_table(metadata: &serde_json::Value) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_DEPEND.iter().copied().collect();
    let packages = metadata.get("packages").and_then(|p| p.as_array()).map(Vec::as_slice).unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(|v| v.as_str()).map(str::to_owned).unwrap_or_default()
    };
    let members: BTreeSet<String> = packages.iter().map(|p| text(p, "name")).collect();
    let mut found = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let Some(allowed) = table.get(name.as_str()) else {
            found.push(format!("{name}: not in the dependency table of xtask/src/tidy.rs"));
            continue;
        };
        for dependency in package.get("dependencies").and_then(|d| d.as_array()).into_iter().flatten() {
            let on = text(dependency, "name");
            let of_tests = text(dependency, "kind") == "dev" && TESTS_MAY_USE.contains(&on.as_str());
            if members.contains(&on) && !allowed.contains(&on.as_str()) && !of_tests {
                found.push(format!("{name} must not depend on {on}: see the table in docs/architecture.md"));
            }
        }
    }
    found
}

/// The crates that are built, one `name version` a line. (Cargo.lock also names those of features nobody switched on.)
fn tree() -> Result<String, String> {
    let output = cargo(&["tree", "--workspace", "--locked", "--prefix", "none", "--format", "{p}"])
        .output()
        .map_err(|e| format!("cargo tree: {e}"))?;
    String::from_utf8(output.stdout).map_err(|_| "cargo tree did not print text".to_owned())
}

/// No second TLS or crypto stack.
fn banned_crates(tree: &str) -> Vec<String> {
    BANNED
        .iter()
        .filter(|name| tree.lines().any(|line| line.split(' ').next() == Some(name)))
        .map(|name| format!("{name} must stay out of the tree; switch the feature off that brings it in"))
        .collect()
}

/// The workspace's dependency list is sorted, so that nobody adds a crate twice.
fn sorted_dependencies(manifest: &str) -> Vec<String> {
    let names: Vec<&str> = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with("palisade-"))
        .collect();
    names
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] if a > b => Some(format!("Cargo.toml: {b} stands after {a}: keep the list sorted")),
            _ => None,
        })
        .collect()
}

/// Each member takes the workspace's lints and versions.
fn lints_taken(name: &str, manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !manifest.contains("[lints]\nworkspace = true") {
        found.push(format!("{name}: add [lints] workspace = true"));
    }
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies && line.contains(" = ") && !line.contains("workspace = true") {
            found.push(format!("{name}: {line}: versions stand in the root Cargo.toml only"));
        }
    }
    found
}

/// Every adapter has the same rooms.
fn adapter_rooms(adapter: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    ADAPTER_FILES
        .iter()
        .filter(|file| !exists(file))
        .map(|file| format!("crates/{adapter}: {file} is missing: every adapter has it (docs/adapters.md)"))
        .collect()
}

/// Each file says why it exists (a crate may do so with its README), and nothing in it is unfinished.
fn rust_file(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") && !text.starts_with("#![doc = include_str!(\"../README.md\")]") {
        found.push(format!("{name}: begin with //! and say why the file exists"));
    }
    if name.ends_with("tidy.rs") {
        return found;
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        for word in UNFINISHED {
            if !code.starts_with("//") && code.contains(word) {
                found.push(format!("{name}:{}: {word} must not land", number + 1));
            }
        }
    }
    found
}

/// Links between our own documents lead somewhere.
fn links(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#', ' ']).next())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains("::"))
        .filter(|target| target.contains(['/', '.']) && !exists(target))
        .map(|target| format!("{name}: the link to {target} leads nowhere"))
        .collect()
}

fn manifests(root: &Path) -> Vec<PathBuf> {
    files(root, "toml")
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "Cargo.toml") && path.parent() != Some(root))
        .collect()
}

/// The files of an extension below a folder, without what is built or hidden.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod cases {
    //! The workspace is tidy, and each rule finds the fault it is for.
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        assert_eq!(complaints().unwrap_or_else(|why| vec![why]), Vec::<String>::new());
    }

    #[track_caller]
    fn check(found: &[String], wanted: usize) {
        assert_eq!(found.len(), wanted, "{found:#?}");
    }

    #[test]
    fn an_edge_outside_the_table_is_found() {
        let metadata = |kind: &str, on: &str| {
            serde_json::json!({"packages": [
                {"name": "palisade-stripe", "dependencies": [{"name": on, "kind": kind}]},
                {"name": "palisade-core", "dependencies": []},
                {"name": "palisade-hub", "dependencies": []},
                {"name": "palisade-testkit", "dependencies": []},
            ]})
        };
        check(&dependency_table(&metadata("", "palisade-core")), 0);
        check(&dependency_table(&metadata("", "palisade-hub")), 1);
        check(&dependency_table(&metadata("", "palisade-testkit")), 1);
        check(&dependency_table(&metadata("dev", "palisade-testkit")), 0);
        check(&dependency_table(&metadata("dev", "palisade-hub")), 1);
        check(&dependency_table(&serde_json::json!({"packages": [{"name": "newcomer", "dependencies": []}]})), 1);
    }

    #[test]
    fn each_rule_finds_its_fault() {
        check(&banned_crates("serde v1.0.1\nring v0.17.1\n"), 1);
        check(&banned_crates("string v0.1.0\n"), 0);
        check(&sorted_dependencies("[workspace.dependencies]\nb = \"1\"\na = \"1\"\n[profile.dev]\n"), 1);
        check(&lints_taken("x", "[package]\n[dependencies]\nserde = \"1\"\n"), 2);
        check(&lints_taken("x", "[lints]\nworkspace = true\n[dependencies]\nserde = { workspace = true }\n"), 0);
        check(&adapter_rooms("acme", |file| file != "src/error.rs"), 1);
        check(&rust_file("a.rs", "fn f() {}\n"), 1);
        check(&rust_file("a.rs", "//! Why.\n#[ignore]\nfn f() { todo!() }\n"), 2);
        check(
            &links("a.md", "[x](docs/none.md) [y](docs/some.md#part) [z](https://example.com/a)", |t| {
                t == "docs/some.md"
            }),
            1,
        );
    }
}
