//! Calendar: list, read, make, change, delete and watch events.

use futures_util::{Stream, TryStreamExt, stream};
use http::Method;
use http::header::HeaderValue;
use palisade_core::{Error, ErrorKind, Outcome, Result, Secret};
use serde_json::Value;

use super::calendar::{Channel, Event, Events};
use super::messages::stuck;
use super::{Ask, BASE32_HEX, Google, invalid, segment};
use crate::operation;
use crate::sync::{EVENTS_PAGE_MAX, channel_body, check_channel};

/// Which events are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filters; any value is valid")]
pub struct EventQuery {
    /// Whether a series is listed as its instances instead of as its master.
    pub single: bool,
    /// Whether deleted events are listed.
    pub deleted: bool,
    /// Only events that end after this moment (RFC 3339).
    pub from: Option<String>,
    /// Only events that start before this moment (RFC 3339).
    pub until: Option<String>,
    /// Only events in which this text is found.
    pub search: Option<String>,
    /// By start, which Calendar does for [`EventQuery::single`] only; else in no order.
    pub by_start: bool,
    /// Events a page; 2,500 when absent, and at most.
    pub page_size: Option<u32>,
}

/// Who is told by mail of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: Calendar's choices")]
pub enum SendUpdates {
    /// What Calendar does by itself: nobody.
    #[default]
    Unsaid,
    /// All guests.
    All,
    /// Guests who use another calendar.
    ExternalOnly,
    /// Nobody.
    None,
}

impl SendUpdates {
    fn text(self) -> Option<&'static str> {
        match self {
            Self::Unsaid => None,
            Self::All => Some("all"),
            Self::ExternalOnly => Some("externalOnly"),
            Self::None => Some("none"),
        }
    }
}

/// An event that is there after an insert.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Inserted {
    /// The event as Calendar has it.
    pub event: Event,
    /// Whether an event of this id was there already: an earlier attempt had made it, or the caller's id is in use.
    pub was_there: bool,
}

/// A channel to open.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the call")]
pub struct NewChannel {
    /// Where notifications go: an `https` URL.
    pub address: String,
    /// The endpoint's key, from which the channel's token is derived ([`crate::webhook::channel::token`]).
    pub key: Secret,
}

impl Google {
    /// Lists a calendar's events.
    pub fn list_events(
        &self,
        calendar: &str,
        query: EventQuery,
    ) -> impl Stream<Item = Result<Event>> + Send + Unpin + use<> {
        let (google, calendar) = (self.clone(), calendar.to_owned());
        let pages = stream::try_unfold(Some((query, None)), move |at: Option<(EventQuery, Option<String>)>| {
            let (google, calendar) = (google.clone(), calendar.clone());
            async move {
                let Some((query, token)) = at else { return Ok(None) };
                let page = google.event_page(&calendar, &query, token.as_deref()).await?;
                let next = page.next_page_token.filter(|next| !next.is_empty());
                if next.is_some() && next == token {
                    return Err(stuck(&operation::EVENTS_LIST));
                }
                let events = page.items.unwrap_or_default().into_iter().map(Ok);
                Ok(Some((stream::iter(events), next.map(|next| (query, Some(next))))))
            }
        });
        Box::pin(pages.try_flatten())
    }

    async fn event_page(&self, calendar: &str, query: &EventQuery, token: Option<&str>) -> Result<Events> {
        let size = query.page_size.unwrap_or(EVENTS_PAGE_MAX).clamp(1, EVENTS_PAGE_MAX);
        let ask = Ask::new(&operation::EVENTS_LIST, Method::GET, events(calendar)?)
            .with("maxResults", size.to_string())
            .with_some("singleEvents", query.single.then_some("true"))
            .with_some("showDeleted", query.deleted.then_some("true"))
            .with_some("timeMin", query.from.as_deref())
            .with_some("timeMax", query.until.as_deref())
            .with_some("q", query.search.as_deref())
            .with_some("orderBy", query.by_start.then_some("startTime"))
            .with_some("pageToken", token);
        self.ask(ask).await
    }

    /// Reads an event.
    ///
    /// # Errors
    /// As [`Google::profile`]; [`ErrorKind::NotFound`] when there is none.
    pub async fn get_event(&self, calendar: &str, id: &str) -> Result<Event> {
        self.ask(Ask::new(&operation::EVENTS_GET, Method::GET, event(calendar, id)?)).await
    }

    /// Makes an event, once: under the id it has, or a random one of ours, so that a repetition finds it there. That
    /// Calendar calls it a duplicate is then the proof that an earlier attempt went through.
    ///
    /// # Errors
    /// As [`Google::profile`]; [`ErrorKind::Invalid`] for an id Calendar cannot take or an `iCalUID`, which it takes in
    /// place of an id only; [`ErrorKind::Conflict`] when the id belongs to an event that was deleted.
    pub async fn insert_event(&self, calendar: &str, new: Event, updates: SendUpdates) -> Result<Inserted> {
        if new.i_cal_uid.is_some() {
            return Err(invalid("an event is inserted by its id, not its iCalUID: import it instead")
                .during("google", operation::EVENTS_INSERT.name));
        }
        let id = match &new.id {
            Some(id) => checked_id(id)?.to_owned(),
            None => self.name(32, BASE32_HEX),
        };
        let body = Event { id: Some(id.clone()), ..new };
        let ask = Ask::new(&operation::EVENTS_INSERT, Method::POST, events(calendar)?)
            .with_some("sendUpdates", updates.text())
            .with_some("conferenceDataVersion", body.conference_data.is_some().then_some("1"))
            .with_some("supportsAttachments", body.attachments.is_some().then_some("true"))
            .sending(&body)?;
        match self.ask::<Event>(ask).await {
            Ok(event) => Ok(Inserted { event, was_there: false }),
            Err(error) if is_duplicate(&error) => {
                let event = self.get_event(calendar, &id).await?;
                if event.status.as_deref() == Some("cancelled") {
                    let gone = Error::new(ErrorKind::Conflict, "an event of this id was deleted: use another id");
                    return Err(gone.during("google", operation::EVENTS_INSERT.name).with_outcome(Outcome::Rejected));
                }
                Ok(Inserted { event, was_there: true })
            }
            Err(error) => Err(error),
        }
    }

    /// Changes fields of an event: those `patch` names, `null` clears one. Lists are replaced as a whole. With the
    /// `etag` last read it is changed only if nobody else did meanwhile.
    ///
    /// # Errors
    /// As [`Google::get_event`]; [`ErrorKind::Conflict`] with the code `conditionNotMet` when somebody else did.
    pub async fn patch_event(
        &self,
        calendar: &str,
        id: &str,
        patch: &Value,
        etag: Option<&str>,
        updates: SendUpdates,
    ) -> Result<Event> {
        let operation = if etag.is_some() { &operation::EVENTS_PATCH_IF } else { &operation::EVENTS_PATCH };
        if !patch.is_object() {
            return Err(invalid("a patch is a JSON object").during("google", operation.name));
        }
        let mut ask = Ask::new(operation, Method::PATCH, event(calendar, id)?)
            .with_some("sendUpdates", updates.text())
            .sending_json(patch);
        if let Some(etag) = etag {
            ask.if_match = Some(HeaderValue::from_str(etag).map_err(|_| invalid("the etag cannot stand in a header"))?);
        }
        self.ask(ask).await
    }

    /// Deletes an event. That it is deleted already is no failure.
    ///
    /// # Errors
    /// As [`Google::get_event`].
    pub async fn delete_event(&self, calendar: &str, id: &str, updates: SendUpdates) -> Result<()> {
        let ask = Ask::new(&operation::EVENTS_DELETE, Method::DELETE, event(calendar, id)?)
            .with_some("sendUpdates", updates.text())
            .answering_nothing();
        match self.tell(ask).await {
            Err(error) if error.status() == Some(410) => Ok(()),
            told => told,
        }
    }

    /// Opens a channel for a week, under a random id. There is no prolonging: open another before it ends, then close
    /// this one; what both tell meanwhile is told twice. The answer has the resource id that closing needs.
    ///
    /// # Errors
    /// As [`Google::profile`]; [`ErrorKind::Config`] for an address Google does not post to.
    pub async fn watch_events(&self, calendar: &str, new: &NewChannel) -> Result<Channel> {
        let id = self.name(32, BASE32_HEX);
        check_channel(&id, &new.address)?;
        let token = crate::webhook::channel::token(&new.key, &id);
        let body = channel_body(&id, &new.address, token.expose());
        let path = format!("{}/watch", events(calendar)?);
        self.ask(Ask::new(&operation::EVENTS_WATCH, Method::POST, path).sending_json(&body)).await
    }

    /// Closes a channel. That it is closed already is no failure.
    ///
    /// # Errors
    /// As [`Google::profile`].
    pub async fn stop_channel(&self, channel_id: &str, resource_id: &str) -> Result<()> {
        let body = serde_json::json!({ "id": channel_id, "resourceId": resource_id });
        let ask = Ask::new(&operation::CHANNELS_STOP, Method::POST, "/calendar/v3/channels/stop".to_owned())
            .sending_json(&body)
            .answering_nothing();
        match self.tell(ask).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            told => told,
        }
    }
}

fn events(calendar: &str) -> Result<String> {
    Ok(format!("/calendar/v3/calendars/{}/events", segment(calendar)?))
}

fn event(calendar: &str, id: &str) -> Result<String> {
    Ok(format!("{}/{}", events(calendar)?, segment(id)?))
}

fn is_duplicate(error: &Error) -> bool {
    error.status() == Some(409) && error.code() == Some("duplicate")
}

/// Checks an id of the caller's: 5 to 1,024 digits of base32hex in lower case (Calendar API, events resource, `id`).
fn checked_id(id: &str) -> Result<&str> {
    let right = (5..=1_024).contains(&id.len()) && id.bytes().all(|c| BASE32_HEX.contains(&c));
    right.then_some(id).ok_or_else(|| {
        invalid("an event's id is 5 to 1,024 letters a to v and digits").during("google", operation::EVENTS_INSERT.name)
    })
}
