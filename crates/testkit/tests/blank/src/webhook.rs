//! Blank's deliveries: `verify` and `events`, pure.

use palisade_core::webhook::{Parsed, RawDelivery, Refusal, Verified, Webhook, unreadable};
use palisade_core::{Result, Secret, Timestamp};

/// Blank's deliveries. Refuses every one until its scheme is written down here.
#[derive(Clone, Copy, Debug)]
pub struct BlankWebhook;

impl Webhook for BlankWebhook {
    fn verify(
        &self,
        _delivery: &RawDelivery,
        _secrets: &[Secret],
        _now: Timestamp,
    ) -> std::result::Result<(), Refusal> {
        Err(Refusal::UnknownScheme)
    }

    fn events(&self, _verified: &Verified) -> Result<Parsed> {
        Err(unreadable("blank", "no kind of delivery is known"))
    }
}
