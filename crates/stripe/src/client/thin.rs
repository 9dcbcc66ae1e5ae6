//! Thin events: the event behind a notice, and the object it is about.

use palisade_core::{Error, ErrorKind, Result};
use serde_json::Value;
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Api, Overrides, Stripe};
use crate::event::ThinEvent;

impl Stripe {
    /// Retrieves a thin (v2) event of the last 30 days, whole: what its notice leaves out is what changed. `context` is the
    /// notice's ([`ThinEvent::context`]).
    ///
    /// # Errors
    /// As [`Stripe::send`]; [`ErrorKind::NotFound`] when it is older or never was.
    pub async fn retrieve_thin_event(&self, id: &str, context: Option<&str>) -> Result<ThinEvent> {
        if id.contains('/') {
            let refusal = Error::new(ErrorKind::Invalid, "no id of an event has a slash");
            return Err(refusal.during("stripe", "v2.core.events.retrieve"));
        }
        let answer = self.triggered(Api::V2, &format!("/core/events/{id}"), id, context).await?;
        let event = ThinEvent::read(&answer.body).map_err(|_| answer.unreadable())?;
        if event.id.as_str() == id { Ok(event) } else { Err(answer.unreadable()) }
    }

    /// Fetches the object a thin event is about, as it is now, in the version spoken; `None` when it is about none.
    ///
    /// # Errors
    /// As [`Stripe::send`]; [`ErrorKind::NotFound`] when the object is gone, [`ErrorKind::Invalid`] when the event does not
    /// say where it is.
    pub async fn fetch_related_object(&self, event: &ThinEvent) -> Result<Option<Value>> {
        let Some(related) = &event.related_object else { return Ok(None) };
        let found = [Api::V1, Api::V2].into_iter().find_map(|api| Some((api, related.url.strip_prefix(api.prefix())?)));
        let (api, path) = found.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "the event's object is not at an address of Stripe's API")
                .during("stripe", "other.read")
        })?;
        let answer = self.triggered(api, path, event.id.as_str(), event.context.as_deref()).await?;
        serde_json::from_slice(&answer.body).map(Some).map_err(|_| answer.unreadable())
    }

    async fn triggered(&self, api: Api, path: &str, event: &str, context: Option<&str>) -> Result<super::Answer> {
        let overrides = Overrides {
            api,
            context: context.map(str::to_owned),
            trigger: Some(format!("event={event}")),
            ..Overrides::default()
        };
        self.execute_pieces(RequestBuilder::new(StripeMethod::Get, path), overrides).await
    }
}
