//! `cargo xtask new-adapter acme`: makes the tree of an adapter, its emulator's room, and a conformance run that fails
//! with a list of what to fill in. What is made compiles, refuses everything, and says of itself what it lacks.
//!
//! It is a copy under another name of an adapter that is built and run with every CI run: `crates/testkit/tests/blank`,
//! and its emulator's room, `crates/emulator/src/blank.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::steps::{Step, root};

/// Makes the adapter of this name.
pub(crate) fn command(args: &[String]) -> Step {
    let [name] = args else { return Err("give one name: cargo xtask new-adapter acme".to_owned()) };
    let good = name.len() <= 30
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !good {
        return Err("a name is of small letters and digits, as in rows and metrics: acme".to_owned());
    }
    make(&root(), name)?;
    println!(
        "made crates/{name} and crates/emulator/src/{name}.rs\n\n\
         Now run:  cargo test -p palisade-{name} --test it -- --nocapture\n\n\
         Each BROKEN line says what to fill in next. docs/adapters.md leads through a whole adapter; read it beside.\n\
         At the end: `cargo xtask conformance` writes the table, and one line in crates/hub/src/builtin.rs and one in\n\
         xtask/src/tidy.rs (MAY_DEPEND of the hub) put it into the binary."
    );
    Ok(())
}

/// Writes the files below `root` and the lines that name them elsewhere.
fn make(root: &Path, name: &str) -> Step {
    let folder = root.join("crates").join(name);
    if folder.exists() {
        return Err(format!("crates/{name} is there already"));
    }
    for (path, template) in files(name) {
        write(&root.join(path), &filled(template, name))?;
    }
    for (path, before, line) in edits(name) {
        let path = root.join(path);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let edited = inserted(&text, before, &line)
            .ok_or_else(|| format!("{}: `{before}` is not there; add `{}` by hand", path.display(), line.trim()))?;
        write(&path, &edited)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Step {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).map_err(|e| format!("{}: {e}", path.display()))
}

/// Puts a line before the first place where a text stands.
fn inserted(text: &str, before: &str, line: &str) -> Option<String> {
    let (head, tail) = text.split_once(before)?;
    Some(format!("{head}{line}{before}{tail}"))
}

/// What the blank adapter has otherwise because it stands in the kit's tests: its crate's name, that its conformance run
/// must fail, and that it leaves no report for the table.
const ELSEWHERE: [(&str, &str); 3] = [
    ("crate::blank", "palisade_{name}"),
    ("#[should_panic(expected = \"BROKEN\")]\n", ""),
    ("prove(&subject(), None)", "prove(&subject(), option_env!(\"CARGO_TARGET_TMPDIR\"))"),
];

fn filled(template: &str, name: &str) -> String {
    let mut title = name.to_owned();
    title.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
    let own = ELSEWHERE.iter().fold(template.to_owned(), |text, (there, here)| text.replace(there, here));
    let named = own.trim_start_matches('\n').replace("blank", name).replace("Blank", &title);
    named.replace("{name}", name).replace("{Name}", &title)
}

/// A file of the blank adapter.
macro_rules! blank {
    ($path:literal) => {
        include_str!(concat!("../../crates/testkit/tests/blank/", $path))
    };
}

/// The files of an adapter, each with its template.
fn files(name: &str) -> Vec<(PathBuf, &'static str)> {
    let inside = |file: &str| Path::new("crates").join(name).join(file);
    let emulator = Path::new("crates").join("emulator").join("src").join(format!("{name}.rs"));
    vec![
        (inside("Cargo.toml"), CARGO),
        (inside("README.md"), blank!("README.md")),
        (inside("src/lib.rs"), blank!("src/lib.rs")),
        (inside("src/auth.rs"), blank!("src/auth.rs")),
        (inside("src/client.rs"), blank!("src/client.rs")),
        (inside("src/error.rs"), blank!("src/error.rs")),
        (inside("src/sync.rs"), blank!("src/sync.rs")),
        (inside("src/webhook.rs"), blank!("src/webhook.rs")),
        (inside("tests/it.rs"), TESTS),
        (inside("tests/it/conformance.rs"), blank!("tests/it/conformance.rs")),
        (inside("tests/fixtures/webhooks.json"), VECTORS),
        (emulator, include_str!("../../crates/emulator/src/blank.rs")),
    ]
}

/// The lines that name an adapter elsewhere: file, what they stand before, line.
fn edits(name: &str) -> Vec<(&'static str, &'static str, String)> {
    let upper = filled("{Name}", name);
    vec![
        ("Cargo.toml", "palisade-core = {", format!("palisade-{name} = {{ path = \"crates/{name}\" }}\n")),
        ("crates/emulator/src/lib.rs", "pub mod google;", format!("pub mod {name};\n")),
        (
            "crates/testkit/src/transport.rs",
            "emulators!(",
            format!("emulators!(palisade_emulator::{name}::{upper});\n"),
        ),
        (
            "xtask/src/tidy.rs",
            "    (\"palisade-google\", &[\"palisade-core\"]),",
            format!("    (\"palisade-{name}\", &[\"palisade-core\"]),\n"),
        ),
        ("xtask/src/tidy.rs", "\"google\", \"sendgrid\"", format!("\"{name}\", ")),
    ]
}

const CARGO: &str = r#"
[package]
name = "palisade-{name}"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
repository.workspace = true
authors.workspace = true

[lints]
workspace = true

[dependencies]
palisade-core = { workspace = true }
bytes = { workspace = true }
http = { workspace = true }
serde_json = { workspace = true }

[dev-dependencies]
palisade-emulator = { workspace = true }
palisade-testkit = { workspace = true }
tokio = { workspace = true, features = ["test-util"] }
"#;

const TESTS: &str = r#"
//! The adapter's promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a test may panic"
)]

mod it {
    pub(crate) mod conformance;
}
"#;

const VECTORS: &str = r#"
{
  "_source": "say which document or official SDK, and which version, these come from",
  "vectors": []
}
"#;

#[cfg(test)]
mod cases {
    //! What is made is whole.
    use super::*;

    #[test]
    fn every_room_is_made_and_nothing_is_left_to_fill_in() {
        for (path, template) in files("acme") {
            let text = filled(template, "acme");
            let foreign = ["{name}", "{Name}", "blank", "Blank", "should_panic", "crate::acme"];
            assert!(!foreign.iter().any(|word| text.contains(word)), "{}", path.display());
            assert!(text.contains("cme") || path.ends_with("webhooks.json") || path.ends_with("it.rs"));
        }
        let made: Vec<String> = files("acme").iter().map(|(path, _)| path.display().to_string()).collect();
        for room in [
            "README.md",
            "src/lib.rs",
            "src/auth.rs",
            "src/client.rs",
            "src/error.rs",
            "src/sync.rs",
            "src/webhook.rs",
            "tests/it.rs",
        ] {
            assert!(made.contains(&format!("crates/acme/{room}")), "{room}");
        }
    }

    /// Fails when a line is put where it breaks a list, or a file has moved on and nobody is told.
    #[test]
    fn a_line_is_put_before_its_place_or_the_place_is_named() {
        assert_eq!(inserted("a\nb\n", "b", "x\n").as_deref(), Some("a\nx\nb\n"));
        assert_eq!(inserted("a\n", "b", "x\n"), None);
        for (path, before, _) in edits("acme") {
            let text = fs::read_to_string(root().join(path)).unwrap_or_default();
            assert!(text.contains(before), "{path} has no `{before}` any more");
        }
    }

    #[test]
    fn a_name_that_is_none_makes_nothing() {
        for bad in ["", "Acme", "a-b", "9a", "slack", "../x"] {
            assert!(command(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(command(&[]).is_err());
    }
}
