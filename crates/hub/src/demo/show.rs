//! The report for people: a table of calls, one of deliveries and one of records, each with a line for every provider,
//! and the verdict.

use std::collections::BTreeSet;
use std::fmt::Write;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};

use super::report::{Report, Side};

impl Report {
    /// Writes the report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for table in
            [self.calls(), self.thrown(), self.deliveries(), self.records(), self.accounts_table(), self.vault()]
        {
            let _ = writeln!(text, "{table}");
        }
        for promise in &self.promises {
            let mark = if promise.held { "✓" } else { "✗" };
            let _ = writeln!(text, "{mark} {:<8}  {}: {}", promise.provider, promise.promise, promise.seen);
        }
        if let Some(continued) = &self.continued {
            let sentence = continued.to_text();
            let _ = writeln!(
                text,
                "\nThe story was {sentence}.\nCalls and deliveries are counted since then, all else over the whole folder."
            );
        }
        let verdict = if self.held { "Every promise held." } else { "A PROMISE DID NOT HOLD." };
        let seconds = self.took_ms as f64 / 1_000.0;
        let _ = writeln!(text, "\n{verdict} {seconds:.1} s. Repeat with: palisade demo --seed {}", self.seed);
        text
    }

    /// A table with a line for every provider.
    fn by_provider<const N: usize>(&self, title: &str, names: [&str; N], of: impl Fn(&Side) -> [u64; N]) -> Table {
        let mut table = table([title].into_iter().chain(names));
        for (name, side) in &self.providers {
            let mut row = vec![Cell::new(name)];
            row.extend(of(side).map(number));
            table.add_row(row);
        }
        table
    }

    fn calls(&self) -> Table {
        let names = ["calls", "attempts", "failed in the end", "refused here", "waits", "breaker trips"];
        self.by_provider("Calls out", names, |side| {
            let c = &side.calls;
            [c.calls, c.attempts, c.failed, c.refused, c.rate_limit_waits, c.breaker_trips]
        })
    }

    fn deliveries(&self) -> Table {
        let names =
            ["happened", "accepted", "duplicate", "rejected", "never sent", "healed", "handled", "effects", "given up"];
        self.by_provider("Webhooks in", names, |side| {
            let d = &side.deliveries;
            [d.happened, d.accepted, d.duplicate, d.rejected, d.lost, d.healed, d.handled, d.effects, d.dead]
        })
    }

    /// What went wrong on the wire, by kind.
    fn thrown(&self) -> Table {
        let kinds: BTreeSet<&str> =
            self.providers.values().flat_map(|side| side.provider.faults.keys().map(String::as_str)).collect();
        let mut table = table(["On the wire"].into_iter().chain(self.providers.keys().map(String::as_str)));
        let mut add = |name: &str, of: &dyn Fn(&Side) -> u64| {
            let mut row = vec![Cell::new(name)];
            row.extend(self.providers.values().map(|side| number(of(side))));
            table.add_row(row);
        };
        add("requests that arrived", &|side| side.provider.requests);
        for kind in kinds {
            add(kind, &|side| side.provider.faults.get(kind).copied().unwrap_or(0));
        }
        add("most in one second", &|side| side.provider.peak_per_second);
        table
    }

    fn records(&self) -> Table {
        let mut table = table(["Records", "", "at the provider", "here", "differ", "pages", "resumed"]);
        for (provider, side) in &self.providers {
            for (stream, s) in &side.streams {
                let mut row = vec![Cell::new(provider), Cell::new(stream)];
                row.extend([s.truth, s.stored, s.differ, s.pages, s.resumed].map(number));
                table.add_row(row);
            }
        }
        table
    }

    fn accounts_table(&self) -> Table {
        let mut table = table(["Accounts", "in the browser", "account", "calls", "answered", "renewed"]);
        for a in &self.accounts {
            let mut row = vec![Cell::new(&a.provider), Cell::new(&a.page)];
            row.push(Cell::new(a.account.as_deref().unwrap_or("–")));
            row.extend([a.calls, a.answered, a.renewals].map(number));
            table.add_row(row);
        }
        table
    }

    fn vault(&self) -> Table {
        let k = &self.master_keys;
        let mut table = table(["Vault", ""]);
        for (name, n) in [
            ("secrets re-wrapped under a new master key", k.opened),
            ("secrets it does not open", k.secrets.saturating_sub(k.opened)),
            ("data keys left under the old one", k.left),
        ] {
            table.add_row([Cell::new(name), number(n)]);
        }
        table
    }
}

fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}

fn number(n: u64) -> Cell {
    Cell::new(n).set_alignment(CellAlignment::Right)
}
