//! Whether a message of the outbox was sent: looked for by what it says.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::store::OutboxCall;
use palisade_core::sync::Site;
use palisade_core::{Finder, Found, Result, Transport};

use crate::client::{NewMessage, RECONCILE_AFTER, Reconciled, Twilio};
use crate::operation::CREATE_MESSAGE;
use crate::sid::AccountSid;

/// Finds messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageFinder;

#[async_trait]
impl Finder for MessageFinder {
    async fn find(
        &self,
        transport: Arc<dyn Transport>,
        site: &Site,
        call: &OutboxCall,
        age: Duration,
    ) -> Result<Found> {
        const UNREADABLE: Found = Found::Unclear("what was to be sent cannot be read back");
        if call.call.operation != CREATE_MESSAGE.name {
            return Ok(Found::Unclear("only messages can be looked for"));
        }
        let Some(account) = account_of(&call.call.request.target) else { return Ok(UNREADABLE) };
        let Some(message) = NewMessage::of_form(&call.call.request.body) else { return Ok(UNREADABLE) };
        let begun = call.sent_at.unwrap_or(call.call.created_at);
        let twilio = Twilio::new(transport, site.connection.clone(), site.tenant.clone(), account);
        let twilio = twilio.at(&site.base_url)?.in_background();
        Ok(match twilio.reconcile(&message, begun).await? {
            Reconciled::Sent(_) => Found::Made,
            Reconciled::Unclear(_) => Found::Unclear("several messages look like it, or its text cannot be compared"),
            Reconciled::NotFound if age < RECONCILE_AFTER => Found::Later(RECONCILE_AFTER),
            Reconciled::NotFound => Found::NotMade,
        })
    }
}

fn account_of(target: &str) -> Option<AccountSid> {
    let (_, rest) = target.split_once("/Accounts/")?;
    AccountSid::parse(rest.split('/').next()?).ok()
}
