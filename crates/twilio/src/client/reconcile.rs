//! After an ambiguous failure: was the message sent?
//!
//! Twilio has no key to ask by, so the message is looked for by what it says: recipient, sender, text and the time it
//! was made. `DateSent` is no filter here: a message that waits has none, and Twilio's index lags behind
//! (twilio-java #442).

use std::time::Duration;

use palisade_core::{Result, Timestamp};

use super::lists::{ListMessages, first_query};
use super::{Message, NewMessage, Twilio};

/// What a look at Twilio told.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers must decide on each")]
pub enum Reconciled {
    /// It was sent: do not send it again.
    Sent(Box<Message>),
    /// Several messages look like it, or its text cannot be told from others (a template): a person decides.
    Unclear(Vec<Message>),
    /// Nothing like it is there. Certain only once the request cannot be under way any more and Twilio's index has
    /// caught up: look again after [`RECONCILE_AFTER`] before it is sent again.
    NotFound,
}

/// When a message that is not found may be taken for not sent: the call has long ended, and the list shows what it
/// made.
pub const RECONCILE_AFTER: Duration = Duration::from_secs(120);

/// How far our clock may be from Twilio's.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);
/// How exactly Twilio tells when a message was made.
const SECOND: Duration = Duration::from_secs(1);
/// How long after it was begun a call may have reached Twilio: its overall timeout.
const CALL_MAX: Duration = Duration::from_secs(60);
/// A page holds all that one recipient is sent within minutes.
const PAGE_SIZE: u32 = 100;
/// Pages looked through before giving up: a thousand messages to one recipient within minutes.
const PAGES_MAX: usize = 10;
/// What a trial account puts before each text.
const TRIAL: &str = "Sent from your Twilio trial account - ";

/// How much a message looks like the one that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    No,
    /// As far as it can be compared.
    Maybe,
    Yes,
}

impl Twilio {
    /// Looks for a message whose sending failed with [`palisade_core::Outcome::Unknown`]. `begun` is our wall time when
    /// [`Twilio::send`] was called.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn reconcile(&self, message: &NewMessage, begun: Timestamp) -> Result<Reconciled> {
        // Twilio tells the second in which a message was made, which may have begun before we did.
        let from = begun.minus(CLOCK_SKEW_MAX + SECOND);
        let until = begun.plus(CALL_MAX + CLOCK_SKEW_MAX);
        let mut filter = ListMessages::new().to(plain(message.recipient())).page_size(PAGE_SIZE);
        if let Some(sender) = message.sender().filter(|_| message.service().is_none()) {
            filter = filter.from(plain(&sender));
        }
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        let mut query = Some(first_query(&filter));
        for _ in 0..PAGES_MAX {
            let Some(at) = query else { break };
            let (page, next) = self.page(&at).await?;
            // Newest first: behind a message that is older than the window there are only older ones.
            let past = page.last().and_then(|last| last.date_created).is_some_and(|made| made < from);
            for found in page {
                let when = found.date_created.or(found.date_sent);
                if when.is_none_or(|when| when < from || when > until) {
                    continue;
                }
                match likeness(message, &found) {
                    Likeness::Yes => certain.push(found),
                    Likeness::Maybe => possible.push(found),
                    Likeness::No => {}
                }
            }
            query = next.filter(|_| !past);
        }
        Ok(match (certain.len(), possible.is_empty()) {
            (0, true) => Reconciled::NotFound,
            (1, _) => certain.pop().map_or(Reconciled::NotFound, |found| Reconciled::Sent(Box::new(found))),
            _ => {
                certain.append(&mut possible);
                Reconciled::Unclear(certain)
            }
        })
    }
}

fn likeness(message: &NewMessage, found: &Message) -> Likeness {
    let ours = found.direction.as_deref().is_none_or(|direction| direction == "outbound-api");
    let to = found.to.as_deref().is_some_and(|to| plain(to) == plain(message.recipient()));
    let by = match (message.service(), message.sender()) {
        (Some(service), _) => found.messaging_service_sid.as_ref() == Some(service),
        (None, Some(sender)) => found.from.as_deref().is_some_and(|from| plain(from) == plain(&sender)),
        (None, None) => false,
    };
    if !(ours && to && by) {
        return Likeness::No;
    }
    let Some(body) = message.body() else {
        // A template is rendered at Twilio, and media have no text: the count is all that can be compared.
        let media = message.media_count();
        let same = media == 0 || found.num_media.is_none_or(|count| usize::try_from(count) == Ok(media));
        return if same { Likeness::Maybe } else { Likeness::No };
    };
    let said = found.body.as_deref().unwrap_or_default();
    let said = said.strip_prefix(TRIAL).unwrap_or(said);
    // White space at the ends does not survive the way.
    if said.trim() == body.trim() { Likeness::Yes } else { Likeness::No }
}

/// Writes an address as Twilio does: a number without blanks, brackets and hyphens.
fn plain(address: &str) -> String {
    let (channel, number) = address.rsplit_once(':').map_or(("", address), |(channel, number)| (channel, number));
    if !number.starts_with('+') {
        return address.to_owned();
    }
    let digits: String = number.chars().filter(|c| !matches!(c, ' ' | '-' | '(' | ')' | '.')).collect();
    if channel.is_empty() { digits } else { format!("{channel}:{digits}") }
}
