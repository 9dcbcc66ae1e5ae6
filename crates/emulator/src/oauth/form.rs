//! Reads an authorisation page as a browser would: what is ticked, what a button sends.
//!
//! For HTTP clients that play the user, in tests, in the demo and in other crates. It reads the emulator's own pages;
//! it is no HTML parser.

use crate::params::encode_all;

/// A form on a page, to be filled in and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Where it is posted, as the page has it.
    pub action: String,
    fields: Vec<Field>,
    buttons: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    kind: Kind,
    name: String,
    value: String,
    sent: bool,
    fast: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hidden,
    Tick,
    Choice,
}

impl Form {
    /// Reads the first form of a page.
    #[must_use]
    pub fn read(page: &str) -> Option<Self> {
        let mut form: Option<Self> = None;
        for tag in tags(page) {
            let (name, attributes) = tag;
            let of = |wanted: &str| {
                attributes.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).unwrap_or_default()
            };
            let has = |wanted: &str| attributes.iter().any(|(name, _)| name == wanted);
            match (name.as_str(), form.as_mut()) {
                ("form", None) => form = Some(Self { action: of("action"), fields: Vec::new(), buttons: Vec::new() }),
                ("/form", Some(_)) => break,
                ("button", Some(form)) => form.buttons.push((of("name"), of("value"))),
                ("input", Some(form)) => {
                    let kind = match of("type").as_str() {
                        "checkbox" => Kind::Tick,
                        "radio" => Kind::Choice,
                        _ => Kind::Hidden,
                    };
                    form.fields.push(Field {
                        kind,
                        name: of("name"),
                        value: of("value"),
                        sent: kind == Kind::Hidden || has("checked"),
                        fast: has("disabled"),
                    });
                }
                _ => {}
            }
        }
        form
    }

    /// Lists the tick boxes: value, whether it is ticked, whether it can be changed.
    #[must_use]
    pub fn ticks(&self) -> Vec<(&str, bool, bool)> {
        let boxes = self.fields.iter().filter(|field| field.kind == Kind::Tick);
        boxes.map(|field| (field.value.as_str(), field.sent, !field.fast)).collect()
    }

    /// Lists what one of several can be chosen from: field name, value, whether it is chosen.
    #[must_use]
    pub fn choices(&self) -> Vec<(&str, &str, bool)> {
        let radios = self.fields.iter().filter(|field| field.kind == Kind::Choice);
        radios.map(|field| (field.name.as_str(), field.value.as_str(), field.sent)).collect()
    }

    /// Ticks or unticks the box of a value; false when there is none or it stands fast.
    #[must_use]
    pub fn tick(&mut self, value: &str, on: bool) -> bool {
        let mut found = false;
        for field in self.fields.iter_mut().filter(|field| field.kind == Kind::Tick && field.value == value) {
            if !field.fast {
                field.sent = on;
                found = true;
            }
        }
        found
    }

    /// Chooses one of several; false when the page does not offer it.
    #[must_use]
    pub fn choose(&mut self, value: &str) -> bool {
        let group = self.fields.iter().find(|field| field.kind == Kind::Choice && field.value == value);
        let Some(group) = group.map(|field| field.name.clone()) else { return false };
        for field in self.fields.iter_mut().filter(|field| field.kind == Kind::Choice && field.name == group) {
            field.sent = field.value == value;
        }
        true
    }

    /// Sets a hidden field, as nobody with a browser could: for tests of what the server then says.
    pub fn forge(&mut self, name: &str, value: &str) {
        self.fields.retain(|field| field.name != name);
        self.fields.push(Field {
            kind: Kind::Hidden,
            name: name.to_owned(),
            value: value.to_owned(),
            sent: true,
            fast: false,
        });
    }

    /// Presses the button of a value (`allow`, `deny`) and gives the body to post, or nothing without such a button.
    #[must_use]
    pub fn press(&self, button: &str) -> Option<String> {
        let pressed = self.buttons.iter().find(|(_, value)| value == button)?;
        let sent = self.fields.iter().filter(|field| field.sent && !field.fast);
        let pairs = sent.map(|field| (field.name.as_str(), field.value.as_str()));
        Some(encode_all(pairs.chain([(pressed.0.as_str(), pressed.1.as_str())])))
    }
}

type Tag = (String, Vec<(String, String)>);

/// Splits a page into its tags with their attributes, entities decoded.
fn tags(page: &str) -> impl Iterator<Item = Tag> {
    page.split('<').skip(1).filter_map(|piece| {
        let inside = piece.split('>').next()?;
        let mut rest = inside.trim_end_matches('/');
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let name = rest.get(..end)?.to_ascii_lowercase();
        rest = rest.get(end..)?;
        let mut attributes = Vec::new();
        while let Some(next) = rest.find(|c: char| !c.is_whitespace()) {
            rest = rest.get(next..)?;
            let end = rest.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(rest.len());
            let key = rest.get(..end)?.to_ascii_lowercase();
            rest = rest.get(end..)?;
            let mut value = String::new();
            if let Some(quoted) = rest.strip_prefix("=\"") {
                let close = quoted.find('"')?;
                value = unescape(quoted.get(..close)?);
                rest = quoted.get(close + 1..)?;
            } else if let Some(bare) = rest.strip_prefix('=') {
                let end = bare.find(char::is_whitespace).unwrap_or(bare.len());
                value = unescape(bare.get(..end)?);
                rest = bare.get(end..)?;
            }
            attributes.push((key, value));
        }
        Some((name, attributes))
    })
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<h1>Hi</h1><form method="post" action="/authorize"><input type="hidden" name="state" value="a&amp;&quot;b&lt;">
        <input type="radio" name="team" value="T1" checked required><input type="radio" name="team" value="T2" required>
        <input type="checkbox" name="grant" value="mail" checked><input type="checkbox" name="grant" value="openid" checked disabled>
        <button type="submit" name="decision" value="deny">No</button><button name="decision" value="allow">Yes</button></form>"#;

    #[test]
    fn a_page_is_filled_in_and_sent() {
        let mut form = Form::read(PAGE).unwrap();
        assert_eq!(form.action, "/authorize");
        assert_eq!(form.ticks(), [("mail", true, true), ("openid", true, false)]);
        assert_eq!(
            form.press("allow").unwrap(),
            "state=a%26%22b%3C&team=T1&grant=mail&decision=allow",
            "a fast box is not sent"
        );
        assert!(form.choose("T2") && form.tick("mail", false) && !form.tick("openid", false) && !form.choose("T3"));
        assert_eq!(form.press("deny").unwrap(), "state=a%26%22b%3C&team=T2&decision=deny");
        assert_eq!(form.press("maybe"), None);
        assert_eq!(Form::read("<p>no form</p>"), None);
    }
}
