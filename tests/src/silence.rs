//! Searches whatever comes out of a run for the secrets that went into it, in every form they may have taken.

use std::collections::HashMap;
use std::fmt::{Debug, Write};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// What is compared first of each form. A shorter secret would be found by accident.
const HEAD: usize = 8;

/// The secrets of a run.
#[derive(Default)]
pub struct Secrets {
    forms: Vec<Form>,
    by_head: HashMap<[u8; HEAD], Vec<usize>>,
    /// Whether some form begins with these two bytes: most places need no second look.
    begins: Vec<bool>,
    count: usize,
}

struct Form {
    what: String,
    form: String,
    bytes: Vec<u8>,
}

impl Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Every form in which a secret may stand in a text: as it is, in hex, as a list of bytes, percent-encoded, and in
/// base64 at each of the three places it may begin within something longer.
fn forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let each = |write: fn(&mut String, u8)| -> Vec<u8> {
        secret
            .iter()
            .fold(String::new(), |mut text, byte| {
                write(&mut text, *byte);
                text
            })
            .into_bytes()
    };
    let list = format!("{secret:?}");
    let mut forms = vec![
        ("plain".to_owned(), secret.to_vec()),
        ("hex".to_owned(), each(|text, byte| write!(text, "{byte:02x}").expect("a text"))),
        ("HEX".to_owned(), each(|text, byte| write!(text, "{byte:02X}").expect("a text"))),
        ("a list".to_owned(), list.trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    if let Ok(text) = std::str::from_utf8(secret) {
        let encoded = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        forms.push(("percent".to_owned(), encoded.into_bytes()));
    }
    for offset in 0..3 {
        let longer = [&[0; 2][..offset], secret].concat();
        let (from, to) = ((offset * 8).div_ceil(6), longer.len() * 8 / 6);
        for (name, engine) in [("base64", STANDARD), ("base64url", URL_SAFE)] {
            forms.push((format!("{name}+{offset}"), engine.encode(&longer).as_bytes()[from..to].to_vec()));
        }
    }
    forms
}

impl Secrets {
    /// Adds a secret to look for.
    ///
    /// # Panics
    /// When it is so short that it would be found by accident.
    pub fn add(&mut self, what: &str, secret: impl AsRef<[u8]>) {
        self.begins.resize(1 << 16, false);
        self.count += 1;
        for (form, bytes) in forms(secret.as_ref()) {
            let head: [u8; HEAD] = bytes.get(..HEAD).and_then(|head| head.try_into().ok()).expect("a longer secret");
            self.begins[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
            self.by_head.entry(head).or_default().push(self.forms.len());
            self.forms.push(Form { what: what.to_owned(), form, bytes });
        }
    }

    /// Returns how many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Fails when one of them stands in what came out, in whatever form.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn assert_silent(&self, place: &str, bytes: &[u8]) {
        for (at, window) in bytes.windows(HEAD).enumerate() {
            if !self.begins[usize::from(u16::from_be_bytes([window[0], window[1]]))] {
                continue;
            }
            for known in self.by_head.get(window).into_iter().flatten() {
                let Form { what, form, bytes: needle } = &self.forms[*known];
                if bytes[at..].starts_with(needle) {
                    let around = String::from_utf8_lossy(&bytes[at.saturating_sub(160)..at]);
                    panic!("{place} holds {what} ({form}) after: {around}");
                }
            }
        }
    }
}

/// What was said of errors and values, to be searched.
#[derive(Debug, Default)]
pub struct Said(String);

impl Said {
    /// Notes both debug forms of a value.
    pub fn value(&mut self, value: &impl Debug) {
        let _ = write!(self.0, "{value:?}\n{value:#?}\n");
    }

    /// Notes an error in every form, and all its sources.
    pub fn error(&mut self, error: &impl std::error::Error) {
        let _ = writeln!(self.0, "{error}");
        self.value(&error);
        let mut source = error.source();
        while let Some(one) = source {
            let _ = write!(self.0, "{one}\n{one:?}\n");
            source = one.source();
        }
    }

    /// Returns all of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
