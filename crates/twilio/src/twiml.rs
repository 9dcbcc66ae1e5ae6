//! TwiML for messages: what Twilio does with an inbound message, as the answer to its webhook.

use std::fmt::Write as _;

use palisade_core::webhook::Reply;
use palisade_core::{Error, ErrorKind, Result};

/// The content type Twilio wants of TwiML.
pub const CONTENT_TYPE: &str = "text/xml";
/// The longest text of a message, in characters (Twilio, error 21617).
pub const BODY_CHARS_MAX: usize = 1_600;

/// An answer to an inbound message: silence, or messages back to its sender.
///
/// ```
/// use palisade_twilio::twiml::Twiml;
///
/// let twiml = Twiml::silence().message("Thanks & see you soon")?;
/// assert_eq!(twiml.as_str(), "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Message>Thanks &amp; see you soon</Message></Response>");
/// # Ok::<(), palisade_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twiml(String);

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>";
const TAIL: &str = "</Response>";

impl Twiml {
    /// Makes the answer that does nothing.
    #[must_use]
    pub fn silence() -> Self {
        Self(format!("{HEAD}{TAIL}"))
    }

    /// Adds a text back to the sender.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is empty, longer than [`BODY_CHARS_MAX`], or holds a character XML cannot carry.
    pub fn message(mut self, text: &str) -> Result<Self> {
        let refuse = |why: &'static str| Err(Error::new(ErrorKind::Invalid, why).during("twilio", "twiml"));
        if text.is_empty() {
            return refuse("an answer needs a text");
        }
        if text.chars().count() > BODY_CHARS_MAX {
            return refuse("the answer is longer than 1,600 characters");
        }
        if text
            .chars()
            .any(|c| (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}'))
        {
            return refuse("the answer holds a control character");
        }
        let mut message = String::with_capacity(text.len() + 32);
        message.push_str("<Message>");
        for c in text.chars() {
            match c {
                '&' => message.push_str("&amp;"),
                '<' => message.push_str("&lt;"),
                '>' => message.push_str("&gt;"),
                // XML reads a bare carriage return as a line feed.
                '\r' => {
                    let _ = write!(message, "&#13;");
                }
                c => message.push(c),
            }
        }
        message.push_str("</Message>");
        let at = self.0.len() - TAIL.len();
        self.0.insert_str(at, &message);
        Ok(self)
    }

    /// Returns the XML.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the answer to a webhook.
    #[must_use]
    pub fn reply(&self) -> Reply {
        Reply { status: 200, content_type: Some(CONTENT_TYPE), body: self.0.clone().into() }
    }
}

impl Default for Twiml {
    fn default() -> Self {
        Self::silence()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_breaks_out_of_its_message() {
        let twiml = Twiml::silence().message("</Message><Redirect>https://evil.example</Redirect>\r\n\"'").unwrap();
        let inner = twiml.as_str().strip_prefix(HEAD).unwrap().strip_suffix(TAIL).unwrap();
        let text = inner.strip_prefix("<Message>").unwrap().strip_suffix("</Message>").unwrap();
        assert!(!text.contains('<') && !text.contains('>') && !text.contains('\r'), "{text}");
        let two = Twiml::silence().message("a").unwrap().message("b").unwrap();
        assert!(two.as_str().ends_with("<Message>a</Message><Message>b</Message></Response>"));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for bad in ["", "a\0b", "\u{1b}[2J", "\u{ffff}", &"x".repeat(1_601)] {
            assert_eq!(Twiml::silence().message(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
        assert!(Twiml::silence().message(&"é".repeat(1_600)).is_ok(), "characters count, not bytes");
    }
}
