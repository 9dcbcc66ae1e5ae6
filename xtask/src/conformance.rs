//! `cargo xtask conformance`: runs the kit on every adapter, prints adapter by check, and writes the table of
//! `docs/adapters.md`. Every adapter's own test leaves a report; this only joins them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::steps::{Step, cargo, root, run};

const BEGIN: &str = "<!-- conformance: written by `cargo xtask conformance`, do not edit -->";
const END: &str = "<!-- conformance: end -->";

/// Runs every adapter through the kit, prints the table and writes it. With `--join`, what the last tests left is not
/// made anew; with `--sdks`, the official SDKs run against the emulators instead.
pub(crate) fn command(args: &[String]) -> Step {
    if args.iter().any(|arg| arg == "--sdks") {
        return sdks();
    }
    let adapters = adapters();
    let folder = reports_folder()?;
    let tested = if args.iter().any(|arg| arg == "--join") { Ok(()) } else { test(&adapters, &folder) };
    let reports = reports(&folder, &adapters)?;
    println!("\n{}", plain(&reports));
    let path = docs();
    let old = fs::read_to_string(&path).map_err(|e| format!("docs/adapters.md: {e}"))?;
    let new = placed(&old, &table(&reports))?;
    if new != old {
        fs::write(&path, new).map_err(|e| format!("docs/adapters.md: {e}"))?;
        println!("docs/adapters.md: the table was written anew");
    }
    tested
}

/// Runs the kit on every adapter; each leaves its report anew.
fn test(adapters: &[String], folder: &Path) -> Step {
    let _ = fs::remove_dir_all(folder);
    let mut arguments = vec!["test".to_owned(), "--locked".to_owned(), "--no-fail-fast".to_owned()];
    for adapter in adapters {
        arguments.extend(["-p".to_owned(), format!("palisade-{adapter}")]);
    }
    arguments.extend(["--test", "it", "conformance"].map(str::to_owned));
    run("conformance", &mut cargo(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Fails when the table of the docs is not what the reports of the last tests say.
pub(crate) fn is_current() -> Step {
    let reports = reports(&reports_folder()?, &adapters())?;
    let text = fs::read_to_string(docs()).map_err(|e| format!("docs/adapters.md: {e}"))?;
    if placed(&text, &table(&reports))? == text {
        return Ok(());
    }
    Err("the table in docs/adapters.md is stale: run `cargo xtask conformance` and commit it".to_owned())
}

fn sdks() -> Step {
    let mut failed = 0;
    for outcome in crate::sdks::run() {
        match outcome {
            crate::sdks::Outcome::Ran { name, passed, failed: wrong } => {
                println!("{passed:>5} passed {wrong:>3} failed  {name}");
                failed += wrong;
            }
            crate::sdks::Outcome::Skipped { name, why } => println!("skipped  {name}: {why}"),
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} calls of official SDKs failed")) }
}

fn docs() -> PathBuf {
    root().join("docs").join("adapters.md")
}

/// The crates whose tests hold a subject of the kit, by name.
fn adapters() -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(root().join("crates"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("tests").join("it").join("conformance.rs").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    found.sort();
    found
}

/// Where the tests leave their reports: cargo's folder for what integration tests write.
fn reports_folder() -> Result<PathBuf, String> {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|_| "cargo metadata did not print JSON".to_owned())?;
    let target = metadata.get("target_directory").and_then(Value::as_str).ok_or("cargo metadata names no target")?;
    Ok(Path::new(target).join("tmp").join("conformance"))
}

fn reports(folder: &Path, adapters: &[String]) -> Result<Vec<Value>, String> {
    adapters
        .iter()
        .map(|adapter| {
            let path = folder.join(format!("{adapter}.json"));
            let text = fs::read_to_string(&path)
                .map_err(|_| format!("{adapter} left no report: does its conformance test build and run?"))?;
            serde_json::from_str(&text).map_err(|_| format!("{}: not JSON", path.display()))
        })
        .collect()
}

/// Puts a table between the marks of a text.
fn placed(text: &str, table: &str) -> Result<String, String> {
    let marks = || "docs/adapters.md has lost the marks of the table".to_owned();
    let (before, rest) = text.split_once(BEGIN).ok_or_else(marks)?;
    let (_, after) = rest.split_once(END).ok_or_else(marks)?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn rows(report: &Value) -> &[Value] {
    report.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn row<'a>(report: &'a Value, check: &str) -> Option<&'a Value> {
    rows(report).iter().find(|row| text(row, "check") == check)
}

/// The checks in the order of the suite, each with its group.
fn checks(reports: &[Value]) -> Vec<(String, String)> {
    let first = reports.first().map(rows).unwrap_or_default();
    first.iter().map(|row| (text(row, "group").to_owned(), text(row, "check").to_owned())).collect()
}

/// The table for the docs: what each adapter covers, what it keeps, and why something does not apply.
fn table(reports: &[Value]) -> String {
    let mut out = String::from(
        "| adapter | hosts | API version | webhooks | push channels | streams |\n|---|---|---|---|---|---|\n",
    );
    let list = |facts: Option<&Value>, key: &str| {
        let items = facts.and_then(|facts| facts.get(key)?.as_array()).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    for report in reports {
        let facts = report.get("facts");
        let yes = |key: &str| match facts.and_then(|facts| facts.get(key)?.as_bool()) {
            Some(true) => "yes",
            _ => "no",
        };
        let version = facts.map(|facts| text(facts, "api_version")).filter(|version| !version.is_empty());
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            facts.map(|facts| text(facts, "title")).unwrap_or_default(),
            list(facts, "hosts"),
            version.unwrap_or("–"),
            yes("webhooks"),
            yes("watch"),
            list(facts, "streams"),
        );
    }
    let names: Vec<&str> = reports.iter().map(|report| text(report, "adapter")).collect();
    let _ = writeln!(out, "\n| about | promise | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    let mut notes: Vec<String> = Vec::new();
    for (group, check) in checks(reports) {
        let cells: Vec<String> = reports.iter().map(|report| cell(report, &check, &mut notes)).collect();
        let _ = writeln!(out, "| {group} | {} | {} |", check.replace('_', " "), cells.join(" | "));
    }
    for (number, note) in notes.iter().enumerate() {
        let _ = write!(out, "{}{}. {note}", if number == 0 { "\n" } else { "" }, number + 1);
        out.push('\n');
    }
    out
}

/// What stands in the table for a check of an adapter; reasons go to the notes below it.
fn cell(report: &Value, check: &str, notes: &mut Vec<String>) -> String {
    let Some(row) = row(report, check) else { return "not run".to_owned() };
    let word = match text(row, "verdict") {
        "kept" => "yes",
        "not applicable" => "not applicable",
        _ => "BROKEN",
    };
    if text(row, "text").is_empty() || word == "BROKEN" {
        return word.to_owned();
    }
    let note = format!("{}: {}", text(report, "adapter"), text(row, "text"));
    let number = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!("{word} ({})", number + 1)
}

/// The table for the terminal, with what is broken below it.
fn plain(reports: &[Value]) -> String {
    let mut out = format!("{:<52}", "");
    for report in reports {
        let _ = write!(out, "{:>10}", text(report, "adapter"));
    }
    out.push('\n');
    for (group, check) in checks(reports) {
        let _ =
            write!(out, "{:<52}", format!("{group}: {}", check.replace('_', " ")).chars().take(51).collect::<String>());
        for report in reports {
            let mark = match row(report, &check).map(|row| text(row, "verdict")) {
                Some("kept") => "yes",
                Some("not applicable") => "n/a",
                Some(_) => "BROKEN",
                None => "not run",
            };
            let _ = write!(out, "{mark:>10}");
        }
        out.push('\n');
    }
    for report in reports {
        for row in rows(report).iter().filter(|row| text(row, "verdict") == "broken") {
            let _ = writeln!(out, "\n{}: {}\n  {}", text(report, "adapter"), text(row, "check"), text(row, "text"));
        }
    }
    out
}

#[cfg(test)]
mod cases {
    //! The table shows what was reported, and a stale one is found.
    use serde_json::json;

    use super::*;

    fn two() -> [Value; 2] {
        let report = |adapter: &str, verdict: &str, reason: &str| {
            json!({
                "adapter": adapter,
                "facts": { "title": adapter, "hosts": ["a.test", "b.test"], "webhooks": true, "watch": false, "streams": ["x"] },
                "rows": [
                    { "group": "calls", "check": "a_promise", "verdict": "kept", "text": "" },
                    { "group": "webhooks", "check": "another_one", "verdict": verdict, "text": reason },
                ],
            })
        };
        [report("acme", "not applicable", "it has none"), report("other", "broken", "byte 7")]
    }

    #[test]
    fn every_check_and_reason_is_shown() {
        let table = table(&two());
        assert!(table.contains("| calls | a promise | yes | yes |"), "{table}");
        assert!(table.contains("| webhooks | another one | not applicable (1) | BROKEN |"), "{table}");
        assert!(table.contains("1. acme: it has none"), "{table}");
        assert!(table.contains("| acme | a.test, b.test | – | yes | no | x |"), "{table}");
        let plain = plain(&two());
        assert!(plain.contains("n/a") && plain.contains("BROKEN") && plain.contains("byte 7"), "{plain}");
    }

    /// Fails when an old table passes for a new one, or what stands around it is lost.
    #[test]
    fn a_table_is_put_between_its_marks() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = placed(&text, "| new |\n").unwrap_or_default();
        assert!(new.starts_with("before\n") && new.ends_with("\nafter\n") && !new.contains("old"), "{new}");
        assert_eq!(placed(&new, "| new |\n"), Ok(new.clone()));
        assert_ne!(placed(&new, "| newer |\n"), Ok(new));
        assert!(placed("no marks", "x").is_err());
    }
}
