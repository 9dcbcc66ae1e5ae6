//! The story methods: what people and Google itself do, without a request; and the same as JSON for others.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::gmail::mailbox::Format;
use super::quota::{Api, Quotas};
use super::refusal::Refusal;
use super::service::{list, text};
use super::token::USER;
use super::world::Subscription;
use super::{Google, GoogleProvider, gmail, when};
use crate::control::read;
use crate::dice::Dice;
use crate::gate::House;
use crate::oauth::state::{Facts, Share};

/// How far apart populated messages and events are, in milliseconds.
const POPULATED_APART: i64 = 60_000;
const HOUR: i64 = 3_600_000;

#[derive(Deserialize)]
struct TokenForm {
    email: String,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct MailForm {
    to: String,
    #[serde(default = "somebody")]
    from: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    text: String,
}

fn somebody() -> String {
    "somebody@elsewhere.example".to_owned()
}

#[derive(Deserialize)]
struct LabelForm {
    email: String,
    id: String,
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    delete: bool,
}

#[derive(Deserialize)]
struct EventForm {
    calendar: String,
    id: Option<String>,
    #[serde(default)]
    event: Map<String, Value>,
    #[serde(default)]
    cancel: bool,
}

#[derive(Deserialize)]
struct CalendarForm {
    owner: String,
    id: String,
}

#[derive(Deserialize)]
struct SubscriptionForm {
    name: String,
    topic: String,
    url: String,
    audience: Option<String>,
    email: String,
}

#[derive(Deserialize)]
struct PopulateForm {
    email: String,
    #[serde(default)]
    messages: usize,
    #[serde(default)]
    events: usize,
}

#[derive(Deserialize)]
struct MutateForm {
    email: String,
    random: usize,
    #[serde(default)]
    seed: u64,
}

#[derive(Deserialize)]
struct ForgetForm {
    email: String,
    #[serde(default)]
    history: bool,
    #[serde(default)]
    sync_tokens: bool,
    #[serde(default)]
    page_tokens: bool,
}

#[derive(Deserialize)]
struct LimitsForm {
    limits: bool,
}

impl GoogleProvider {
    fn give_token(&self, house: &House, email: &str, scopes: &[&str]) -> Option<String> {
        let subject = self.person(email).map(|person| person.sub.clone());
        let account = self.config.service_accounts.iter().find(|account| account.email == email);
        let subject = subject.or_else(|| account.map(|account| account.email.clone()))?;
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let client = self.config.clients.first().map(|client| client.id.clone()).unwrap_or_default();
        let share = Share { holder: USER, scopes };
        Some(self.authority.state().mint(&client, &subject, Facts::new(), share, house.now()).access)
    }

    fn receive(&self, house: &House, to: &str, raw: Bytes, now: i64) -> Option<String> {
        let mut world = self.world();
        let mut mailbox = world.take_mailbox(to).ok()?;
        let part = gmail::mime::Part::read(&raw);
        let thread = mailbox.thread_of(&part).map(str::to_owned);
        let id = mailbox.add(raw, thread.as_deref(), &["INBOX", "UNREAD"], now, &mut world.dice);
        world.put_mailbox(mailbox);
        drop(world);
        house.post.leave(self.mail_parcels(&[to.to_owned()], house.now()));
        Some(id)
    }

    fn relabel(&self, house: &House, form: &LabelForm) -> bool {
        let mut world = self.world();
        let Ok(mut mailbox) = world.take_mailbox(&form.email) else { return false };
        let now = house.now();
        let known = if form.delete {
            mailbox.delete(&form.id, now, &mut world.dice)
        } else {
            mailbox.relabel(&form.id, &form.add, &form.remove, now, &mut world.dice)
        };
        world.put_mailbox(mailbox);
        drop(world);
        house.post.leave(self.mail_parcels(std::slice::from_ref(&form.email), now));
        known
    }

    fn event(&self, house: &House, form: &EventForm) -> Result<String, Refusal> {
        let now = house.now();
        let mut world = self.world();
        let made = format!("{:016x}{:08x}", world.dice.next(), world.dice.next() >> 32);
        let calendar = world.calendar(&form.calendar).ok_or_else(Refusal::missing)?;
        let id = match &form.id {
            Some(id) if form.cancel => calendar.cancel(id, now).map(|()| id.clone())?,
            Some(id) if calendar.find(id).is_some() => {
                calendar.change(id, &form.event, false, None, now)?;
                id.clone()
            }
            Some(id) => {
                let mut given = form.event.clone();
                given.insert("id".to_owned(), json!(id));
                calendar.insert(&given, made, now)?;
                id.clone()
            }
            None => calendar.insert(&form.event, made.clone(), now).map(|_| made)?,
        };
        drop(world);
        house.post.leave(self.calendar_parcels(&form.calendar, now));
        Ok(id)
    }

    fn populate(&self, email: &str, messages: usize, events: usize, now: i64) {
        let mut world = self.world();
        let ago = |at: usize, of: usize| POPULATED_APART * i64::try_from(of - at).unwrap_or(0);
        if let Ok(mut mailbox) = world.take_mailbox(email) {
            for at in 0..messages {
                let made = now - ago(at, messages);
                let raw = mail(&somebody(), email, &format!("Message {at}"), &format!("Text {at}"), made);
                mailbox.add(raw, None, &["INBOX"], made, &mut world.dice);
            }
            world.put_mailbox(mailbox);
        }
        for at in 0..events {
            let id = format!("{:016x}{:08x}", world.dice.next(), world.dice.next() >> 32);
            let Some(calendar) = world.calendar(email) else { return };
            let start = now + HOUR * i64::try_from(at).unwrap_or(0);
            // Refused is none of these.
            let _ = calendar.insert(&meeting(&format!("Event {at}"), start), id, now);
        }
    }

    /// Does random things to a person's mail and calendar, the same for the same seed.
    fn mutate(&self, house: &House, form: &MutateForm) {
        let mut dice = Dice(form.seed);
        for at in 0..form.random {
            let now = house.now();
            match dice.below(8) {
                0 => {
                    let raw = mail(&somebody(), &form.email, &format!("News {at}"), "Text", now);
                    self.receive(house, &form.email, raw, now);
                }
                1..=3 => {
                    let all = gmail::truth(self, &form.email, &Format::Minimal);
                    let Some(one) = all.get(usize::try_from(dice.below(all.len() as u64)).unwrap_or(0)) else {
                        continue;
                    };
                    let star = vec!["STARRED".to_owned()];
                    let starred = list(one, "labelIds").any(|label| label == "STARRED");
                    let (add, remove) = if starred { (Vec::new(), star) } else { (star, Vec::new()) };
                    let id = text(one, "id").unwrap_or_default().to_owned();
                    let delete = dice.below(3) == 0;
                    self.relabel(house, &LabelForm { email: form.email.clone(), id, add, remove, delete });
                }
                4 => {
                    let start = now + HOUR * i64::try_from(dice.below(1_000)).unwrap_or(0);
                    let mut event = meeting(&format!("Meeting {at}"), start);
                    if dice.below(3) == 0 {
                        event.insert("recurrence".to_owned(), json!(["RRULE:FREQ=DAILY;COUNT=4"]));
                    }
                    // A refusal changes nothing, which is as good.
                    let _ =
                        self.event(house, &EventForm { calendar: form.email.clone(), id: None, event, cancel: false });
                }
                _ => self.mutate_event(house, &form.email, at, &mut dice),
            }
        }
    }

    fn mutate_event(&self, house: &House, calendar: &str, at: usize, dice: &mut Dice) {
        let id = {
            let mut world = self.world();
            let Some(known) = world.calendar(calendar) else { return };
            let live: Vec<_> =
                known.events.values().filter(|event| known.is_listed(event) && !event.is_cancelled()).collect();
            let Some(one) = live.get(usize::try_from(dice.below(live.len() as u64)).unwrap_or(0)) else { return };
            let instances = known.instances(one);
            let instance = instances.get(usize::try_from(dice.below(instances.len() as u64)).unwrap_or(0));
            let one = instance.filter(|one| !one.is_cancelled() && dice.below(2) == 0).unwrap_or(one);
            // A series itself stays: what becomes of its exceptions when it goes is another story.
            let keeps = one.is_series();
            one.text("id").map(|id| (id.to_owned(), keeps))
        };
        let Some((id, keeps)) = id else { return };
        let event = Map::from_iter([("summary".to_owned(), json!(format!("Changed {at}")))]);
        let cancel = !keeps && dice.below(3) == 0;
        let _ = self.event(house, &EventForm { calendar: calendar.to_owned(), id: Some(id), event, cancel });
    }

    fn forget(&self, form: &ForgetForm) {
        let mut world = self.world();
        if let Ok(mut mailbox) = world.take_mailbox(&form.email) {
            if form.history {
                mailbox.forget();
            }
            mailbox.page_epoch += u64::from(form.page_tokens);
            world.put_mailbox(mailbox);
        }
        if let Some(calendar) = world.calendar(&form.email) {
            calendar.epoch += u64::from(form.sync_tokens);
            calendar.page_epoch += u64::from(form.page_tokens);
        }
    }

    fn truth_events(&self, calendar: &str) -> BTreeMap<String, Value> {
        let mut world = self.world();
        let Some(calendar) = world.calendar(calendar) else { return BTreeMap::new() };
        let listed = calendar.events.iter().filter(|(_, event)| calendar.is_listed(event));
        listed.map(|(id, event)| (id.clone(), event.shown())).collect()
    }

    /// Obeys the control plane.
    pub(super) fn obey(&self, house: &House, method: &str, path: &str, body: &Bytes) -> Option<Result<Value, String>> {
        let done = || json!({ "ok": true });
        Some(match (method, path) {
            ("GET", "/_emulator/truth") => Ok(self.truth()),
            ("GET", "/_emulator/waiting") => Ok(json!({ "deliveries": house.post.len() })),
            ("POST", "/_emulator/token") => read::<TokenForm>(body).and_then(|form| {
                let scopes: Vec<&str> = form.scopes.iter().map(String::as_str).collect();
                let token = self.give_token(house, &form.email, &scopes).ok_or("no such person or service account")?;
                Ok(json!({ "access_token": token }))
            }),
            ("POST", "/_emulator/receive") => read::<MailForm>(body).and_then(|form| {
                let now = house.now();
                let raw = mail(&form.from, &form.to, &form.subject, &form.text, now);
                let id = self.receive(house, &form.to, raw, now).ok_or("no such person")?;
                Ok(json!({ "id": id }))
            }),
            ("POST", "/_emulator/relabel") => read::<LabelForm>(body).and_then(|form| {
                if self.relabel(house, &form) { Ok(done()) } else { Err("no such message".to_owned()) }
            }),
            ("POST", "/_emulator/event") => read::<EventForm>(body)
                .and_then(|form| self.event(house, &form).map_err(|refusal| refusal.to_string()))
                .map(|id| json!({ "id": id })),
            ("POST", "/_emulator/calendar") => read::<CalendarForm>(body).map(|form| {
                self.world().add_calendar(&form.owner, &form.id);
                done()
            }),
            ("POST", "/_emulator/subscription") => read::<SubscriptionForm>(body).map(|form| {
                let audience = form.audience.unwrap_or_else(|| form.url.clone());
                let SubscriptionForm { name, topic, url, email, .. } = form;
                self.world().subscriptions.push(Subscription { name, topic, url, audience, email });
                done()
            }),
            ("POST", "/_emulator/populate") => read::<PopulateForm>(body).map(|form| {
                self.populate(&form.email, form.messages, form.events, house.now());
                done()
            }),
            ("POST", "/_emulator/mutate") => read::<MutateForm>(body).map(|form| {
                self.mutate(house, &form);
                done()
            }),
            ("POST", "/_emulator/forget") => read::<ForgetForm>(body).map(|form| {
                self.forget(&form);
                done()
            }),
            ("POST", "/_emulator/limits") => read::<LimitsForm>(body).map(|form| {
                self.world().meter.quotas.enforced = form.limits;
                done()
            }),
            _ => return None,
        })
    }

    fn truth(&self) -> Value {
        let people = self.config.people.iter().map(|person| {
            let mail = gmail::truth(self, &person.email, &Format::Metadata(Vec::new()));
            (person.email.clone(), json!({ "messages": mail, "events": self.truth_events(&person.email) }))
        });
        Value::Object(people.collect())
    }
}

/// Writes a plain message.
fn mail(from: &str, to: &str, subject: &str, text: &str, now: i64) -> Bytes {
    let id = format!("{now:x}.{:x}", subject.len() * 31 + text.len());
    let raw = format!(
        "From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {}\r\nMessage-ID: <{id}@elsewhere.example>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n",
        when::seconds(now)
    );
    Bytes::from(raw)
}

fn meeting(summary: &str, start: i64) -> Map<String, Value> {
    let at = |millis| json!({ "dateTime": when::seconds(millis), "timeZone": "UTC" });
    Map::from_iter([
        ("summary".to_owned(), json!(summary)),
        ("start".to_owned(), at(start)),
        ("end".to_owned(), at(start + HOUR)),
    ])
}

#[expect(clippy::must_use_candidate, reason = "a story method is called for what it does")]
impl Google {
    /// Gives a live access token of a person or service account, as if the consent had been given. Empty for a stranger.
    #[must_use]
    pub fn access_token(&self, email: &str, scopes: &[&str]) -> String {
        self.inner.provider.give_token(&self.inner.house, email, scopes).unwrap_or_default()
    }

    /// Lets somebody from elsewhere write to a person. Gives the message's id, or nothing for a stranger.
    pub fn receive(&self, to: &str, subject: &str, text: &str) -> Option<String> {
        let house = &self.inner.house;
        self.receive_raw(to, mail(&somebody(), to, subject, text, house.now()))
    }

    /// Lets a message arrive as it is.
    pub fn receive_raw(&self, to: &str, raw: impl Into<Bytes>) -> Option<String> {
        let house = &self.inner.house;
        let id = self.inner.provider.receive(house, to, raw.into(), house.now());
        self.inner.flush();
        id
    }

    /// Lets a person put labels on a message and take some off. Tells whether there is such a message.
    pub fn relabel(&self, email: &str, id: &str, add: &[&str], remove: &[&str]) -> bool {
        let own = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
        let (email, id) = (email.to_owned(), id.to_owned());
        self.work_on(&LabelForm { email, id, add: own(add), remove: own(remove), delete: false })
    }

    /// Lets a person delete a message for good. Tells whether there was one.
    pub fn delete_message(&self, email: &str, id: &str) -> bool {
        let (email, id) = (email.to_owned(), id.to_owned());
        self.work_on(&LabelForm { email, id, add: Vec::new(), remove: Vec::new(), delete: true })
    }

    fn work_on(&self, form: &LabelForm) -> bool {
        let known = self.inner.provider.relabel(&self.inner.house, form);
        self.inner.flush();
        known
    }

    /// Makes a person's calendar beside the primary one.
    pub fn add_calendar(&self, owner: &str, id: &str) {
        self.inner.provider.world().add_calendar(owner, id);
        self.inner.flush();
    }

    /// Makes an event, or changes the one of this id, or one instance of a series. Gives its id.
    ///
    /// # Errors
    /// Gives Calendar's refusal.
    pub fn event(&self, calendar: &str, id: Option<&str>, event: &Value) -> Result<String, Refusal> {
        let event = event.as_object().cloned().unwrap_or_default();
        let (calendar, id) = (calendar.to_owned(), id.map(str::to_owned));
        let made = self.inner.provider.event(&self.inner.house, &EventForm { calendar, id, event, cancel: false });
        self.inner.flush();
        made
    }

    /// Cancels an event, a series, or one instance of it.
    ///
    /// # Errors
    /// Gives Calendar's refusal.
    pub fn cancel_event(&self, calendar: &str, id: &str) -> Result<(), Refusal> {
        let (calendar, id) = (calendar.to_owned(), Some(id.to_owned()));
        let form = EventForm { calendar, id, event: Map::new(), cancel: true };
        let gone = self.inner.provider.event(&self.inner.house, &form);
        self.inner.flush();
        gone.map(|_| ())
    }

    /// Subscribes to a topic by push.
    pub fn subscribe(&self, subscription: Subscription) {
        self.inner.provider.world().subscriptions.push(subscription);
    }

    /// Begins with messages of the past and events to come.
    pub fn populate(&self, email: &str, messages: usize, events: usize) {
        self.inner.provider.populate(email, messages, events, self.inner.house.now());
        self.inner.flush();
    }

    /// Does random things to a person's mail and calendar, the same for the same seed.
    pub fn mutate(&self, email: &str, random: usize, seed: u64) {
        self.inner.provider.mutate(&self.inner.house, &MutateForm { email: email.to_owned(), random, seed });
        self.inner.flush();
    }

    /// Forgets a mailbox's history: every start from before is answered 404.
    pub fn forget_history(&self, email: &str) {
        let email = email.to_owned();
        self.inner.provider.forget(&ForgetForm { email, history: true, sync_tokens: false, page_tokens: false });
    }

    /// Ends a calendar's sync tokens: each is answered 410.
    pub fn forget_sync_tokens(&self, calendar: &str) {
        let email = calendar.to_owned();
        self.inner.provider.forget(&ForgetForm { email, history: false, sync_tokens: true, page_tokens: false });
    }

    /// Ends the tokens of pages, a mailbox's and a calendar's.
    pub fn forget_page_tokens(&self, email: &str) {
        let email = email.to_owned();
        self.inner.provider.forget(&ForgetForm { email, history: false, sync_tokens: false, page_tokens: true });
    }

    /// Gives every page of events that goes on once empty before it is given full.
    pub fn set_empty_pages(&self, on: bool) {
        self.inner.provider.world().empty_pages = on;
    }

    /// Sets the quotas.
    pub fn set_quotas(&self, quotas: Quotas) {
        self.inner.provider.world().meter.quotas = quotas;
    }

    /// Gives the most units of Gmail a person spent in any minute, and all of them.
    #[must_use]
    pub fn gmail_units(&self, email: &str) -> (u64, u64) {
        self.spent(Api::Gmail, email)
    }

    /// Gives the most requests to Calendar a person made in any minute, and all of them.
    #[must_use]
    pub fn calendar_requests(&self, email: &str) -> (u64, u64) {
        self.spent(Api::Calendar, email)
    }

    fn spent(&self, api: Api, email: &str) -> (u64, u64) {
        let provider = &self.inner.provider;
        let subject = provider.person(email).map_or(email, |person| person.sub.as_str());
        provider.world().meter.spent(api, Some(subject))
    }

    /// Gives a person's messages exactly as GET shows them with their headers.
    #[must_use]
    pub fn messages(&self, email: &str) -> BTreeMap<String, Value> {
        let all = gmail::truth(&self.inner.provider, email, &Format::Metadata(Vec::new()));
        all.into_iter().map(|message| (text(&message, "id").unwrap_or_default().to_owned(), message)).collect()
    }

    /// Gives a calendar's events exactly as a full list shows them.
    #[must_use]
    pub fn events(&self, calendar: &str) -> BTreeMap<String, Value> {
        self.inner.provider.truth_events(calendar)
    }

    /// Tells whether a mailbox is watched at this moment.
    #[must_use]
    pub fn watched(&self, email: &str) -> bool {
        let now = self.inner.house.now();
        let world = self.inner.provider.world();
        let watching = world.mailboxes.get(email).and_then(|mailbox| mailbox.watching.as_ref());
        watching.is_some_and(|watching| watching.expires > now)
    }

    /// Gives the names of the channels that live.
    #[must_use]
    pub fn channels(&self) -> Vec<String> {
        let now = self.inner.house.now();
        let world = self.inner.provider.world();
        world.channels.values().filter(|channel| channel.expires > now).map(|channel| channel.id.clone()).collect()
    }
}
