//! The table that is printed and the JSON that can be kept.

use serde_json::json;

use crate::harness::Spread;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {}", short(bound)),
            Self::AtLeast(bound) => format!("≥ {}", short(bound)),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    bench: &'static str,
    what: String,
    figure: Spread,
    unit: &'static str,
    peer: String,
    ratio: Option<Spread>,
    target: Option<(Target, bool)>,
}

impl Row {
    /// A figure without a target.
    pub(crate) fn new(bench: &'static str, what: impl Into<String>, figure: Spread, unit: &'static str) -> Self {
        Self { bench, what: what.into(), figure, unit, peer: String::new(), ratio: None, target: None }
    }

    /// Names the peer and says how the figure stands to the peer's.
    pub(crate) fn against(mut self, peer: impl Into<String>, ratio: Spread) -> Self {
        self.peer = peer.into();
        self.ratio = Some(ratio);
        self
    }

    /// Sets what the ratio, or without a peer the figure, should be. Judged by the median.
    pub(crate) fn target(mut self, target: Target) -> Self {
        let judged = self.ratio.unwrap_or(self.figure);
        self.target = Some((target, target.met(judged.median)));
        self
    }

    /// Sets what the figure itself should be, peer or not. Judged by the median.
    pub(crate) fn figure_target(mut self, target: Target) -> Self {
        self.target = Some((target, target.met(self.figure.median)));
        self
    }

    fn cells(&self) -> [String; 7] {
        let verdict = match self.target {
            Some((_, true)) => "met",
            Some((_, false)) => "MISSED",
            None => "",
        };
        [
            self.bench.to_owned(),
            self.what.clone(),
            format!("{} {}", spread(self.figure), self.unit),
            self.peer.clone(),
            self.ratio.map(spread).unwrap_or_default(),
            self.target.map(|(target, _)| target.text()).unwrap_or_default(),
            verdict.to_owned(),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let values = |s: Spread| json!({"median": s.median, "min": s.min, "max": s.max});
        json!({
            "bench": self.bench,
            "what": self.what,
            "figure": values(self.figure),
            "unit": self.unit,
            "peer": self.peer,
            "ratio": self.ratio.map(values),
            "target": self.target.map(|(target, _)| target.text()),
            "met": self.target.map(|(_, met)| met),
        })
    }
}

/// Writes a number with three significant digits.
fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 || (size - size.round()).abs() < 1e-9 {
        grouped(value)
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Writes a whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

fn spread(s: Spread) -> String {
    if s.min == s.max { short(s.median) } else { format!("{} ({}–{})", short(s.median), short(s.min), short(s.max)) }
}

/// Prints the rows as one Markdown table, so that it can stand in a document as it is.
pub(crate) fn print(rows: &[Row]) {
    let head = ["bench", "what", "figure", "peer", "ratio", "target", ""].map(str::to_owned);
    let lines: Vec<[String; 7]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..7).map(width).collect();
    println!();
    for (number, cells) in lines.iter().enumerate() {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            println!("|{}|", widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|"));
        }
    }
    let judged: Vec<bool> = rows.iter().filter_map(|row| row.target.map(|(_, met)| met)).collect();
    let met = judged.iter().filter(|met| **met).count();
    println!("\n{met} of {} targets met. Figures are medians (least–most) of interleaved rounds.", judged.len());
}

/// Returns the rows as JSON.
pub(crate) fn json(rows: &[Row]) -> serde_json::Value {
    json!({ "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}
