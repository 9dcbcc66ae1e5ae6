//! What came of the checks, for people and for `cargo xtask conformance`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::{Check, Subject};

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the table shows each")]
pub enum Verdict {
    /// Every case was as promised.
    Kept {
        /// How many were tried.
        cases: usize,
        /// What could not be tried, and why.
        except: BTreeSet<String>,
    },
    /// The promise has no meaning for this adapter; the text says why.
    NotApplicable(String),
    /// A case was not as promised; the text says which, and what to do.
    Broken(String),
}

/// One check of one adapter.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Row {
    /// The group's name.
    pub group: &'static str,
    /// The check's name.
    pub check: String,
    /// What it came to.
    pub verdict: Verdict,
}

impl Row {
    pub(super) fn new(check: &Check, verdict: Verdict) -> Self {
        Self { group: check.group.as_str(), check: check.name.to_owned(), verdict }
    }

    /// A check somebody wants to leave out and that does not exist.
    pub(super) fn unknown(name: &str) -> Self {
        let why = "`Subject::not_applicable` names a check that does not exist: take the name from `CHECKS`";
        Self { group: "subject", check: name.to_owned(), verdict: Verdict::Broken(why.to_owned()) }
    }
}

/// All checks of one adapter.
#[derive(Clone, Debug)]
pub struct Report {
    adapter: String,
    facts: Value,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(subject: &Subject) -> Self {
        let provider = subject.provider();
        let manifest = provider.manifest();
        let streams = provider.source().map(|source| source.streams()).unwrap_or_default();
        let facts = json!({
            "title": manifest.title,
            "hosts": manifest.hosts,
            "api_version": manifest.api_version,
            "webhooks": provider.webhook().is_some(),
            "watch": provider.watcher().is_some(),
            "streams": streams.iter().map(|stream| stream.name).collect::<Vec<_>>(),
        });
        Self { adapter: manifest.name.to_owned(), facts, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Returns the rows, in the order of the suite.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns what a check came to.
    #[must_use]
    pub fn verdict(&self, check: &str) -> Option<&Verdict> {
        self.rows.iter().find(|row| row.check == check).map(|row| &row.verdict)
    }

    /// Returns the rows of broken promises.
    pub fn broken(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| matches!(row.verdict, Verdict::Broken(_)))
    }

    /// Returns the report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (verdict, text) = match &row.verdict {
                    Verdict::Kept { except, .. } => ("kept", except.iter().cloned().collect::<Vec<_>>().join("; ")),
                    Verdict::NotApplicable(reason) => ("not applicable", reason.clone()),
                    Verdict::Broken(why) => ("broken", why.clone()),
                };
                json!({ "group": row.group, "check": row.check, "verdict": verdict, "text": text })
            })
            .collect();
        json!({ "adapter": self.adapter, "facts": self.facts, "rows": rows })
    }

    /// Writes the report as `conformance/<adapter>.json` in a folder.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, folder: &str) -> std::io::Result<()> {
        let folder = Path::new(folder).join("conformance");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{}.json", self.adapter)), format!("{:#}\n", self.to_json()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.adapter)?;
        for row in &self.rows {
            let name = row.check.replace('_', " ");
            match &row.verdict {
                Verdict::Kept { cases, except } => {
                    writeln!(f, "  kept            {}: {name} ({cases} cases)", row.group)?;
                    for reason in except {
                        writeln!(f, "                    not tried: {reason}")?;
                    }
                }
                Verdict::NotApplicable(reason) => {
                    writeln!(f, "  not applicable  {}: {name}: {reason}", row.group)?;
                }
                Verdict::Broken(why) => {
                    writeln!(f, "  BROKEN          {}: {name}\n                    {why}", row.group)?
                }
            }
        }
        Ok(())
    }
}
