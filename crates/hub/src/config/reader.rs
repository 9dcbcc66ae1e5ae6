//! Reads TOML tables key by key: every problem is collected with its line, every key that nobody asked for is
//! refused, and no value of the file is ever repeated in a message (it could be a secret in the wrong place).

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use palisade_core::schedule::read_duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::secret::SecretRef;

/// One thing wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Problem {
    /// The line it stands in, from 1; `None` for the whole file.
    pub line: Option<usize>,
    /// What is wrong and what to do, in one sentence.
    pub text: String,
}

/// The file's text with what was found wrong in it so far.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    text: &'a str,
    list: RefCell<Vec<Problem>>,
    asked: RefCell<Vec<String>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, list: RefCell::default(), asked: RefCell::default() }
    }

    /// Notes a problem at a byte offset.
    pub(super) fn at(&self, offset: impl Into<Option<usize>>, text: impl Into<String>) {
        let line = offset.into().map(|offset| line_of(self.text, offset));
        self.list.borrow_mut().push(Problem { line, text: text.into() });
    }

    /// Returns the problems in order of their lines, and the keys that were asked for.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<String>) {
        let mut list = self.list.into_inner();
        list.sort_by_key(|problem| problem.line);
        (list, self.asked.into_inner())
    }
}

/// Returns the line of a byte offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// One table of the file.
#[derive(Debug)]
pub(super) struct Section<'a, 'p> {
    /// How it is written (`[server]`).
    title: String,
    /// Its keys' prefix (`server.`).
    prefix: String,
    /// Where it begins; `None` when the file has no such table.
    offset: Option<usize>,
    table: DeTable<'a>,
    known: Vec<&'static str>,
    problems: &'p Problems<'a>,
}

impl<'a, 'p> Section<'a, 'p> {
    /// Takes the whole file.
    pub(super) fn root(table: DeTable<'a>, problems: &'p Problems<'a>) -> Self {
        Self {
            title: "the top of the file".to_owned(),
            prefix: String::new(),
            offset: None,
            table,
            known: Vec::new(),
            problems,
        }
    }

    /// Tells whether a key stands in the section and is not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.keys().any(|name| name.get_ref() == key)
    }

    /// Notes that the section lacks something.
    pub(super) fn lacks(&self, text: impl Into<String>) {
        self.problems.at(self.offset, text);
    }

    /// Notes a problem with the value that stands at an offset.
    pub(super) fn problem(&self, offset: usize, text: impl Into<String>) {
        self.problems.at(offset, text);
    }

    fn take(&mut self, key: &'static str) -> Option<(usize, Spanned<DeValue<'a>>)> {
        self.known.push(key);
        self.problems.asked.borrow_mut().push(format!("{}{key}", self.prefix));
        let found = self.table.keys().find(|name| name.get_ref() == key)?.clone();
        let value = self.table.remove(&found)?;
        Some((found.span().start, value))
    }

    fn wrong(&self, offset: usize, key: &str, wanted: &str) {
        self.problems.at(offset, format!("{key} in {} must be {wanted}", self.title));
    }

    /// Takes a text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<(usize, String)> {
        let (offset, value) = self.take(key)?;
        if let DeValue::String(text) = value.into_inner()
            && !text.trim().is_empty()
        {
            return Some((offset, text.into_owned()));
        }
        self.wrong(offset, key, "a text in quotes that is not empty");
        None
    }

    /// Takes a text that must be there.
    pub(super) fn needed(&mut self, key: &'static str, example: &str) -> Option<(usize, String)> {
        if !self.has(key) {
            self.lacks(format!("{} needs {key}, for example {key} = {example}", self.title));
        }
        self.text(key)
    }

    /// Takes a file or folder name.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(|(_, text)| PathBuf::from(text))
    }

    /// Takes one of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<(usize, T)> {
        let (offset, value) = self.take(key)?;
        let chosen = value.get_ref().as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        if let Some((_, value)) = chosen {
            return Some((offset, *value));
        }
        let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.wrong(offset, key, &format!("one of {}", list.join(", ")));
        None
    }

    /// Takes a whole number within bounds.
    pub(super) fn number(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let (offset, value) = self.take(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .filter(|n| n.radix() == 10)
            .and_then(|n| n.as_str().replace('_', "").parse::<u64>().ok())
            .filter(|n| bounds.contains(n));
        if number.is_none() {
            self.wrong(offset, key, &format!("a whole number from {} to {}", bounds.start(), bounds.end()));
        }
        number
    }

    /// Takes a length of time (`"30s"`) within bounds.
    pub(super) fn duration(&mut self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let (offset, value) = self.take(key)?;
        let duration = value.get_ref().as_str().and_then(read_duration).filter(|d| bounds.contains(d));
        if duration.is_none() {
            let (from, to) = (format_duration(*bounds.start()), format_duration(*bounds.end()));
            self.wrong(
                offset,
                key,
                &format!("a time from \"{from}\" to \"{to}\", written with ms, s, m, h or d (\"30s\")"),
            );
        }
        duration
    }

    /// Takes where a secret is to be read from. A literal secret is refused.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<SecretRef> {
        let (offset, value) = self.take(key)?;
        self.secret_of(key, offset, value.into_inner())
    }

    /// Takes a list of such places.
    pub(super) fn secrets(&mut self, key: &'static str) -> Vec<SecretRef> {
        let Some((offset, value)) = self.take(key) else { return Vec::new() };
        let value = value.into_inner();
        let DeValue::Array(list) = value else { return self.secret_of(key, offset, value).into_iter().collect() };
        list.into_iter()
            .filter_map(|value| {
                let offset = value.span().start;
                self.secret_of(key, offset, value.into_inner())
            })
            .collect()
    }

    /// Takes a list of texts that can be read as values; `wanted` says what they must be.
    pub(super) fn values<T: FromStr>(&mut self, key: &'static str, wanted: &str) -> Vec<T> {
        let Some((offset, value)) = self.take(key) else { return Vec::new() };
        let DeValue::Array(list) = value.into_inner() else {
            self.wrong(offset, key, wanted);
            return Vec::new();
        };
        let read = |value: Spanned<DeValue<'a>>| {
            let offset = value.span().start;
            let read = value.into_inner().as_str().and_then(|text| text.parse().ok());
            if read.is_none() {
                self.wrong(offset, key, wanted);
            }
            read
        };
        list.into_iter().filter_map(read).collect()
    }

    /// Tells whether a list stands under a key.
    pub(super) fn is_list(&self, key: &str) -> bool {
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key);
        found.is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::Array(_)))
    }

    /// Takes a yes or no.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let (offset, value) = self.take(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong(offset, key, "true or false");
        }
        flag
    }

    /// Takes a table of texts.
    pub(super) fn pairs(&mut self, key: &'static str) -> Vec<(String, String)> {
        let Some((offset, value)) = self.take(key) else { return Vec::new() };
        let pairs = if let DeValue::Table(table) = value.into_inner() {
            let pairs = table.into_iter();
            pairs
                .map(|(name, value)| Some((name.into_inner().into_owned(), value.into_inner().as_str()?.to_owned())))
                .collect::<Option<Vec<_>>>()
        } else {
            None
        };
        if pairs.is_none() {
            self.wrong(offset, key, "a table of texts, for example { access_type = \"offline\" }");
        }
        pairs.unwrap_or_default()
    }

    /// Takes a table of whole numbers within bounds, with where each name stands.
    pub(super) fn numbers(&mut self, key: &'static str, bounds: RangeInclusive<i64>) -> Vec<(usize, String, i64)> {
        let Some((offset, value)) = self.take(key) else { return Vec::new() };
        let wanted = format!("a table of whole numbers from {} to {}", bounds.start(), bounds.end());
        let DeValue::Table(table) = value.into_inner() else {
            self.wrong(offset, key, &wanted);
            return Vec::new();
        };
        let mut numbers = Vec::with_capacity(table.len());
        for (name, value) in table {
            let at = name.span().start;
            let number = value.get_ref().as_integer().filter(|n| n.radix() == 10);
            let number = number.and_then(|n| n.as_str().replace('_', "").parse::<i64>().ok());
            match number.filter(|n| bounds.contains(n)) {
                Some(number) => numbers.push((at, name.into_inner().into_owned(), number)),
                None => self.wrong(at, key, &wanted),
            }
        }
        numbers
    }

    fn secret_of(&self, key: &str, offset: usize, value: DeValue<'a>) -> Option<SecretRef> {
        const HOW: &str = "{ env = \"NAME\" } or { file = \"path\" }";
        let DeValue::Table(table) = value else {
            self.problems.at(
                offset,
                format!(
                    "{key} in {} holds a literal value: a secret must not stand in this file; put it into an \
                     environment variable or a file of mode 0600 and write {key} = {HOW}",
                    self.title
                ),
            );
            return None;
        };
        let mut entries = table.into_iter().map(|(name, value)| (name.into_inner(), value.into_inner()));
        match (entries.next(), entries.next()) {
            (Some((name, DeValue::String(text))), None) if name == "env" && !text.is_empty() => {
                Some(SecretRef::Env(text.into_owned()))
            }
            (Some((name, DeValue::String(text))), None) if name == "file" && !text.is_empty() => {
                Some(SecretRef::File(PathBuf::from(text.into_owned())))
            }
            _ => {
                self.wrong(offset, key, &format!("exactly {HOW}"));
                None
            }
        }
    }

    /// Takes a table; an empty one when it is not there.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a, 'p> {
        let (title, prefix) = (format!("[{key}]"), format!("{key}."));
        let empty = |offset| Section {
            title: title.clone(),
            prefix: prefix.clone(),
            offset,
            table: DeTable::new(),
            known: Vec::new(),
            problems: self.problems,
        };
        let Some((offset, value)) = self.take(key) else { return empty(None) };
        if let DeValue::Table(table) = value.into_inner() {
            return Section { table, ..empty(Some(offset)) };
        }
        self.wrong(offset, key, &format!("a table: begin it with a line [{key}]"));
        empty(Some(offset))
    }

    /// Takes a list of tables (`[[connection]]`).
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a, 'p>> {
        let Some((offset, value)) = self.take(key) else { return Vec::new() };
        let mut found = Vec::new();
        let DeValue::Array(list) = value.into_inner() else {
            self.wrong(offset, key, &format!("a list of tables: begin each with a line [[{key}]]"));
            return found;
        };
        for value in list {
            let offset = value.span().start;
            let DeValue::Table(table) = value.into_inner() else {
                self.wrong(offset, key, &format!("a list of tables: begin each with a line [[{key}]]"));
                continue;
            };
            found.push(Section {
                title: format!("[[{key}]]"),
                prefix: format!("{key}."),
                offset: Some(offset),
                table,
                known: Vec::new(),
                problems: self.problems,
            });
        }
        found
    }

    /// Refuses every key nobody asked for, with the nearest one that is known.
    pub(super) fn finish(self) {
        for name in self.table.keys() {
            let (offset, name) = (name.span().start, name.get_ref());
            let hint = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the known keys are {}", self.known.join(", ")),
            };
            self.problems.at(offset, format!("unknown key \"{}\" in {}: {hint}", shown(name), self.title));
        }
    }
}

/// Returns a key as it may be printed: a name, never something long or strange.
fn shown(name: &str) -> String {
    const SHOWN_MAX: usize = 40;
    name.chars().take(SHOWN_MAX).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Returns the candidate nearest to `name`, if it is near enough to be meant.
pub(super) fn nearest<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= if candidate.len() < 4 { 1 } else { (candidate.len() / 3).max(2) })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Counts the single-character edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    const COMPARED_MAX: usize = 64;
    let b: Vec<char> = b.chars().take(COMPARED_MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(COMPARED_MAX).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let here = (*cell + 1).min(left + 1).min(diagonal + usize::from(from != *to));
            diagonal = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Writes a length of time in its largest whole unit.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_millis() != 0 || seconds == 0 {
        return format!("{}ms", duration.as_millis());
    }
    match seconds {
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3_600 == 0 => format!("{}h", s / 3_600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_slip_finds_its_word_and_a_stranger_does_not() {
        let known = ["listen", "admin_token", "path", "public_url"];
        for (name, expected) in [
            ("lisen", Some("listen")),
            ("admin_tokne", Some("admin_token")),
            ("Path", Some("path")),
            ("url", None),
            ("", None),
            ("sk_live_abcdefghijkl", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
    }

    #[test]
    fn durations_are_read_and_written_the_same() {
        for text in ["1ms", "500ms", "30s", "90s", "15m", "2h", "7d"] {
            assert_eq!(format_duration(read_duration(text).unwrap()), text);
        }
        for text in ["", "s", "30", "-1s", "1.5s", "30 s", "1w", "99999999999999999999s", "999999999999999999d"] {
            assert_eq!(read_duration(text), None, "{text}");
        }
    }
}
