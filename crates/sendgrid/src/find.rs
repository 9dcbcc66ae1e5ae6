//! Whether a mail of the outbox was sent: looked for by its reference.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::store::OutboxCall;
use palisade_core::sync::Site;
use palisade_core::{Finder, Found, Result, Transport};
use serde::Deserialize;

use crate::client::{RECONCILE_AFTER, REFERENCE, Reconciled, SendGrid};
use crate::operation::SEND_MAIL;

/// Finds mails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MailFinder;

#[async_trait]
impl Finder for MailFinder {
    async fn find(
        &self,
        transport: Arc<dyn Transport>,
        site: &Site,
        call: &OutboxCall,
        age: Duration,
    ) -> Result<Found> {
        if call.call.operation != SEND_MAIL.name {
            return Ok(Found::Unclear("only mails can be looked for"));
        }
        let Some(reference) = reference_of(&call.call.request.body) else {
            return Ok(Found::Unclear("the mail has no reference to look for"));
        };
        let sendgrid = SendGrid::new(transport, site.connection.clone(), site.tenant.clone());
        let sendgrid = sendgrid.at(&site.base_url)?.in_background();
        Ok(match sendgrid.reconcile(&reference).await? {
            Reconciled::Sent(_) => Found::Made,
            Reconciled::NotFound if age < RECONCILE_AFTER => Found::Later(RECONCILE_AFTER),
            Reconciled::NotFound => Found::NotMade,
        })
    }
}

/// Reads a mail's reference from what was to be sent: of the whole mail, or of each of its recipients the same.
fn reference_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Mail {
        #[serde(default)]
        custom_args: Arguments,
        #[serde(default)]
        personalizations: Vec<Personal>,
    }
    #[derive(Deserialize)]
    struct Personal {
        #[serde(default)]
        custom_args: Arguments,
    }
    type Arguments = std::collections::BTreeMap<String, String>;
    let mail: Mail = serde_json::from_slice(body).ok()?;
    let personal = mail.personalizations.iter().find_map(|one| one.custom_args.get(REFERENCE));
    mail.custom_args.get(REFERENCE).or(personal).cloned()
}
