//! Promises about what webhooks should have told: what a run makes of it is the webhook's own event, so that of both only one
//! is handled.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use palisade_core::sync::{Change, Missing, Source, State, StreamKind};
use palisade_core::webhook::{Event, Webhook};

use super::stage::{Stage, Stream};
use super::sync::{CHANGES, Copy, Resumes, Twist, World, posted, streams};
use super::{Broken, Cases, Checked, Subject, ensure};

/// Twice the adapter, so that what it makes can be made anew.
struct Judge<'s> {
    world: &'s World,
    source: &'s dyn Source,
    webhook: &'s dyn Webhook,
    anew: &'s dyn Source,
}

/// What became of the changes of a stream.
#[derive(Default)]
struct Judged {
    /// Those an event was made of.
    made: usize,
    /// Those that only count as missed.
    counted: usize,
}

/// What a run makes of a record of which no webhook told is what its webhook would have brought: heard as the same, and one
/// event under one id with that, or, of a notice, one that says the same.
///
/// # Errors
/// The first record of which another event is made, or that is said to be told by what no webhook is heard as; a stream of
/// which no event is made without a reason.
pub async fn a_missed_record_makes_its_webhooks_event(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let stage = make();
    let world = World::new(subject, &*stage, 3, Twist::None)?;
    let (mut cases, anew) = (Cases::default(), subject.provider());
    let (Some(webhook), Some(source), Some(anew)) = (world.provider.webhook(), world.provider.source(), anew.source())
    else {
        cases.unable("no webhook tells of what the streams show");
        return Ok(cases);
    };
    let feeds: Vec<_> =
        source.streams().iter().filter(|spec| spec.kind == StreamKind::Events).map(|spec| spec.name).collect();
    let judge = Judge { world: &world, source, webhook, anew };
    if feeds.is_empty() {
        judge.of_records(&*stage, streams, cases).await
    } else {
        judge.of_feeds(&*stage, streams, &feeds).await
    }
}

impl Judge<'_> {
    /// Compares what runs make of changes with what was posted of them.
    async fn of_records(&self, stage: &dyn Stage, streams: &[Stream], mut cases: Cases) -> Checked {
        let (mut copy, mut since) = (Copy::new(), Resumes::new());
        for stream in streams {
            let begun = self.world.increment(&mut copy, &mut since, stream.name).await;
            begun.map_err(|error| Broken::new(format!("{}: a run: {error}", stream.name)))?;
        }
        drop(stage.deliveries().await);
        let mut judged: Vec<Judged> = streams.iter().map(|_| Judged::default()).collect();
        for step in 0..CHANGES {
            for stream in streams {
                tokio::time::advance(Duration::from_secs(2)).await;
                stage.change(stream.name, step);
            }
            let sent = posted(self.world, stage).await?;
            for (stream, judged) in streams.iter().zip(&mut judged) {
                let failed = |error| Broken::new(format!("{}: an incremental run: {error}", stream.name));
                let from = since.get(stream.name).cloned().flatten();
                let more = self.world.walk(stream.name, from, |_, _| {}).await.map_err(failed)?;
                for change in more.changes {
                    let change = self.world.whole(change).await.map_err(failed)?;
                    self.judge(&copy, &change, &sent, judged).map_err(|Broken(why)| {
                        Broken::new(format!("{}: {}: {why}", stream.name, change.id.as_str()))
                    })?;
                    self.world.keep(&mut copy, vec![change]).await.map_err(failed)?;
                }
                since.insert(stream.name.to_owned(), more.resume);
            }
        }
        for (stream, Judged { made, counted }) in streams.iter().zip(judged) {
            let name = stream.name;
            match stream.makes_no_events.or(stream.no_events) {
                Some(reason) => {
                    ensure(made == 0, || {
                        format!("{name}: an event is made of what was missed, and it says: {reason}")
                    })?;
                    cases.unable(format!("{name}: {reason}"));
                }
                None => ensure(made > 0, || {
                    format!(
                        "{name}: of no change the event was made that its webhook is: implement `Source::told` and \
                         `event_of`, or say why none can be made with `Stream::makes_no_events`"
                    )
                })?,
            }
            (0..made + counted).for_each(|_| cases.kept());
        }
        Ok(cases)
    }

    /// Judges one record a run found, had its webhook not come.
    fn judge(&self, copy: &Copy, change: &Change, sent: &[Event], judged: &mut Judged) -> Result<(), Broken> {
        let held = |stream: &str, id: &str| copy.get(&(stream.to_owned(), id.to_owned()));
        let place = self.source.belongs_to(&change.stream, &change.id);
        let place: Option<&Bytes> = place.and_then(|(stream, id)| held(stream.as_str(), id.as_str()));
        let was = held(change.stream.as_str(), change.id.as_str());
        let State::Present(_) = &change.state else { return Ok(()) };
        let Some(told) = self.source.told(change, place) else { return Ok(()) };
        let told_then = was.and_then(|data| {
            self.source.told(&Change { state: State::Present(data.clone()), ..change.clone() }, place)
        });
        if told_then.is_some_and(|then| then.at >= told.at) {
            return Ok(());
        }
        let heard: Vec<&Event> = sent.iter().filter(|event| self.heard_as(event) == told.by).collect();
        ensure(!heard.is_empty(), || {
            let all: Vec<_> = sent.iter().map(|event| self.heard_as(event)).collect();
            format!("it should be told by {:?}, and what was posted is heard as {all:?}", told.by)
        })?;
        let missing = Missing { change, held: was, place };
        let Some(made) = self.source.event_of(&self.world.site, &missing) else {
            judged.counted += 1;
            return Ok(());
        };
        ensure(self.anew.event_of(&self.world.site, &missing).as_ref() == Some(&made), || {
            "two events made of it are not the same".to_owned()
        })?;
        if told.is_notice {
            let says_it = |sent: &&Event| {
                let due = self.source.due(sent) == self.source.due(&made);
                (&sent.kind, &sent.account) == (&made.kind, &made.account) && due
            };
            ensure(heard.iter().any(says_it), || format!("the notice {made:?} says what none that was posted does"))?;
        } else {
            self.is_one(&heard, &made)?;
        }
        judged.made += 1;
        Ok(())
    }

    /// Fails unless an event that was made is one of those that were posted.
    fn is_one(&self, heard: &[&Event], made: &Event) -> Result<(), Broken> {
        let Some(sent) = heard.iter().find(|sent| sent.id == made.id) else {
            let ids: Vec<_> = heard.iter().map(|sent| sent.id.as_str()).collect();
            return Err(Broken::new(format!("its event is made as {:?}, and was posted as {ids:?}", made.id.as_str())));
        };
        same("type", &made.kind, &sent.kind)?;
        same("account", &made.account, &sent.account)?;
        same("ordering key", &made.ordering_key, &sent.ordering_key)?;
        let touched = |event: &Event| {
            let changes = if self.source.concerns(&event.kind) { self.source.apply(event) } else { Ok(Vec::new()) };
            let ids = changes.map(|changes| changes.into_iter().map(|change| change.id).collect::<Vec<_>>());
            ids.map_err(|error| Broken::new(format!("an event cannot be applied: {error}")))
        };
        same("changed records", &touched(made)?, &touched(sent)?)
    }

    /// Compares the events a provider lists with those it posts.
    async fn of_feeds(&self, stage: &dyn Stage, streams: &[Stream], feeds: &[&'static str]) -> Checked {
        let mut cases = Cases::default();
        let mut since = Resumes::new();
        let failed = |error| Broken::new(format!("the list of events: {error}"));
        for feed in feeds {
            let first = self.world.walk(feed, None, |_, _| {}).await.map_err(failed)?;
            since.insert((*feed).to_owned(), first.resume);
        }
        drop(stage.deliveries().await);
        let mut sent = Vec::new();
        for step in 0..CHANGES {
            for stream in streams {
                tokio::time::advance(Duration::from_secs(2)).await;
                stage.change(stream.name, step);
            }
            sent.extend(posted(self.world, stage).await?);
        }
        tokio::time::advance(Duration::from_secs(120)).await;
        let mut listed: Vec<Event> = Vec::new();
        for feed in feeds {
            let from = since.get(*feed).cloned().flatten();
            listed.extend(self.world.walk(feed, from, |_, _| {}).await.map_err(failed)?.events);
        }
        let listed: Vec<&Event> = listed.iter().collect();
        for sent in &sent {
            self.is_one(&listed, sent).map_err(|Broken(why)| Broken::new(format!("listed and posted: {why}")))?;
            cases.kept();
        }
        Ok(cases)
    }

    fn heard_as<'e>(&self, event: &'e Event) -> Cow<'e, str> {
        self.webhook.subscription(event).unwrap_or(Cow::Borrowed(&event.kind))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, made: &T, sent: &T) -> Result<(), Broken> {
    ensure(made == sent, || format!("its event has the {what} {made:?}, and was posted with {sent:?}"))
}
