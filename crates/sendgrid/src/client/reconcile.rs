//! After an ambiguous failure: was the mail sent?
//!
//! SendGrid has no key to ask by, but a mail's reference travels as a custom argument. Its events bring it back, and
//! the Email Activity API, an add-on of the account, finds mails by it.

use std::time::Duration;

use http::Method;
use palisade_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::{REFERENCE, SendGrid, check, encode};
use crate::operation;

/// A mail to one recipient, as SendGrid's activity shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Activity {
    /// SendGrid's id of the mail to this recipient (`sg_message_id` of events).
    pub msg_id: String,
    /// The recipient.
    #[serde(default)]
    pub to_email: Option<String>,
    /// `processed`, `delivered` or `not_delivered`.
    #[serde(default)]
    pub status: Option<String>,
}

/// What a look at SendGrid told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers must decide on each")]
pub enum Reconciled {
    /// It was sent, to these recipients at least: do not send it again.
    Sent(Vec<Activity>),
    /// Nothing of it is there. Certain only once SendGrid's activity has caught up: look again after
    /// [`RECONCILE_AFTER`] before it is sent again.
    NotFound,
}

/// When a mail that is not found may be taken for not sent. SendGrid's activity lags behind by minutes.
pub const RECONCILE_AFTER: Duration = Duration::from_secs(30 * 60);

/// Mails of one reference that are shown.
const ACTIVITY_MAX: u32 = 100;

impl SendGrid {
    /// Looks for a mail whose sending failed with [`palisade_core::Outcome::Unknown`], by its
    /// [`super::Mail::reference`]. Needs the account's add-on for email activity; without it the mail's events tell.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Permission`] without the add-on; [`ErrorKind::Invalid`] when the reference cannot
    /// be one.
    pub async fn reconcile(&self, reference: &str) -> Result<Reconciled> {
        #[derive(Deserialize)]
        struct Found {
            messages: Vec<Activity>,
        }
        if !check::is_reference(reference) {
            return Err(Error::new(ErrorKind::Invalid, "a reference is 1 to 100 letters, digits and -_.:")
                .during("sendgrid", operation::FIND_MAIL.name));
        }
        let query = format!("(unique_args['{REFERENCE}']=\"{reference}\")");
        let path = format!("/v3/messages?limit={ACTIVITY_MAX}&query={}", encode(&query));
        let found: Found = self.ask(&operation::FIND_MAIL, Method::GET, &path, None).await?;
        Ok(if found.messages.is_empty() { Reconciled::NotFound } else { Reconciled::Sent(found.messages) })
    }
}
