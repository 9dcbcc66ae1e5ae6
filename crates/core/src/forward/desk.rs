//! What people do with destinations: make, change, remove, enable and disable, pause and resume them, give them new keys,
//! try them, and forward again what they missed.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::spec::{check, check_name};
use super::{Answer, Forwarder, Inner, Live, SEALING_TENANT, message, place_of, sealed_for};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, TenantId};
use crate::random::{Random, SystemRandom};
use crate::secret::Secret;
use crate::store::{
    DESTINATIONS_MAX, DestinationSpec, Disabled, DisabledBy, EventPage, EventRow, NO_CONNECTION, NewDestination, Order,
    SealedKey, StoredDestination,
};
use crate::webhook::standard;

/// Bytes of a key we draw. Standard Webhooks asks for 24 to 64.
const KEY_BYTES: usize = 32;
/// Keys live at once: one, and the one before it.
const KEYS_MAX: usize = 2;
/// Events looked at in one step of a replay.
const LOOKED_AT_ONCE: u32 = 200;

/// A destination of the configuration.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked when it is put in place")]
pub struct Configured {
    /// Its name.
    pub name: String,
    /// What is forwarded where.
    pub spec: DestinationSpec,
    /// Its signing keys: all of them sign. One, or two while one is replaced.
    pub secrets: Vec<Secret>,
}

/// A destination that was made or changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Changed {
    /// It, as it is kept now.
    pub row: StoredDestination,
    /// Its new key, if it was given one: shown now and never again.
    pub secret: Option<Secret>,
}

/// What came of trying a destination.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tested {
    /// What the receiver answered.
    pub answer: Answer,
    /// How long it took.
    pub took: Duration,
}

/// What to forward again.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Replay {
    /// Events that arrived at this moment or later,
    pub since: Timestamp,
    /// and before this one.
    pub until: Timestamp,
    /// Events before this one, to go on where an earlier replay ended.
    pub before: Option<EventRow>,
    /// How many events to look at.
    pub limit: u32,
    /// Only count.
    pub dry_run: bool,
}

/// What was forwarded again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Events looked at.
    pub looked_at: u64,
    /// Those of them that the destination wants: they wait to be sent, unless they were only counted.
    pub wanted: u64,
    /// Where to go on, if the limit was reached before all were looked at.
    pub next_before: Option<EventRow>,
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no destination {name}"))
}

fn raced() -> Error {
    Error::new(ErrorKind::Conflict, "the destination was changed by somebody else meanwhile: look again")
}

fn check_secret(secret: &Secret) -> Result<()> {
    if standard::is_key(secret) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, "a signing key is whsec_ followed by 24 to 64 bytes in base64"))
}

/// Draws a signing key.
fn drawn() -> Secret {
    let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
    SystemRandom.fill(bytes.as_mut_slice());
    let text = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
    Secret::new(format!("whsec_{}", text.as_str()))
}

impl Forwarder {
    /// Lists the destinations by name, as they stand in the store.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn destinations(&self) -> Result<Vec<StoredDestination>> {
        self.inner.store.destinations().await
    }

    /// Reads a destination.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Store`].
    pub async fn destination(&self, name: &str) -> Result<StoredDestination> {
        self.inner.row(name).await
    }

    /// Makes a destination, with a key of its own that is drawn unless one is given.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] saying what is wrong with it; [`ErrorKind::Conflict`] when the name is taken;
    /// [`ErrorKind::Overloaded`] when there are [`DESTINATIONS_MAX`]; [`ErrorKind::Config`] from the master key;
    /// [`ErrorKind::Store`].
    pub async fn create(&self, name: &str, spec: DestinationSpec, secret: Option<Secret>) -> Result<Changed> {
        check_name(name)?;
        check(&spec)?;
        let inner = &self.inner;
        let rows = inner.store.destinations().await?;
        if rows.len() >= DESTINATIONS_MAX as usize {
            let why = format!("there are {DESTINATIONS_MAX} destinations already: remove one");
            return Err(Error::new(ErrorKind::Overloaded, why));
        }
        if rows.iter().any(|row| row.name == name) {
            return Err(Error::new(ErrorKind::Conflict, "there is a destination of that name already"));
        }
        let secret = secret.unwrap_or_else(drawn);
        check_secret(&secret)?;
        let keys = vec![inner.seal(name, 1, &secret, None).await?];
        let new = NewDestination { name: name.to_owned(), configured: false, spec, keys };
        inner.put(new, 0).await?;
        tracing::info!(destination = name, "a destination was made");
        Ok(Changed { row: inner.row(name).await?, secret: Some(secret) })
    }

    /// Changes what a destination is; its keys and how it fares stay.
    ///
    /// # Errors
    /// As [`Forwarder::create`]; [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] also for one of the configuration.
    pub async fn change(&self, name: &str, spec: DestinationSpec) -> Result<StoredDestination> {
        check(&spec)?;
        let row = self.inner.own(name).await?;
        let new = NewDestination { name: row.name, configured: false, spec, keys: row.keys };
        self.inner.put(new, row.revision).await?;
        self.inner.row(name).await
    }

    /// Removes a destination. What waits for it is dead.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] for one of the configuration; [`ErrorKind::Store`].
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.inner.own(name).await?;
        if !self.inner.store.remove_destination(name.to_owned()).await? {
            return Err(missing(name));
        }
        tracing::info!(destination = name, "a destination was removed");
        self.inner.anew().await.map(drop)
    }

    /// Gives a destination a new key, drawn unless one is given. The one before signs beside it for `overlap`, or as long
    /// as the settings say; what is older than that does not sign any more.
    ///
    /// # Errors
    /// As [`Forwarder::change`].
    pub async fn rotate(&self, name: &str, secret: Option<Secret>, overlap: Option<Duration>) -> Result<Changed> {
        let secret = secret.unwrap_or_else(drawn);
        check_secret(&secret)?;
        let inner = &self.inner;
        let row = inner.own(name).await?;
        let until = inner.clock.now().plus(overlap.unwrap_or(inner.settings.key_overlap));
        let version = row.keys.first().map_or(1, |newest| newest.version.saturating_add(1));
        let mut keys = vec![inner.seal(name, version, &secret, None).await?];
        let before = row.keys.into_iter().take(KEYS_MAX - 1);
        keys.extend(before.map(|key| SealedKey { until: Some(key.until.map_or(until, |own| own.min(until))), ..key }));
        let new = NewDestination { name: row.name, configured: false, spec: row.spec, keys };
        inner.put(new, row.revision).await?;
        tracing::info!(destination = name, "a destination has a new signing key");
        Ok(Changed { row: inner.row(name).await?, secret: Some(secret) })
    }

    /// Enables a destination, or disables it because somebody wants it so. What comes due while it is disabled is dead;
    /// [`Forwarder::replay`] forwards it later. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Store`].
    pub async fn enable(&self, name: &str, enabled: bool) -> Result<bool> {
        let inner = &self.inner;
        inner.row(name).await?;
        let reason = "somebody disabled it".to_owned();
        let disabled = (!enabled).then(|| Disabled { at: inner.clock.now(), by: DisabledBy::Person, reason });
        let changed = inner.store.disable_destination(name.to_owned(), disabled, None).await?;
        if enabled {
            inner.wake(name);
        }
        if changed {
            tracing::info!(destination = name, enabled, "a destination was enabled or disabled");
            inner.anew().await?;
        }
        Ok(changed)
    }

    /// Pauses a destination, or lets it go on. While it is paused what is to be sent to it waits, is not given up and uses
    /// up no attempt, also in processes that start meanwhile; others learn of it within [`KNOWN_FOR`](super::KNOWN_FOR),
    /// and what is under way ends. Whether it is disabled is another matter: of one that is, nothing new waits. Returns
    /// whether that changed anything.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Store`].
    pub async fn pause(&self, name: &str, paused: bool) -> Result<bool> {
        let inner = &self.inner;
        inner.row(name).await?;
        let at = paused.then(|| inner.clock.now());
        let changed = inner.store.pause_destination(name.to_owned(), at).await?;
        if changed {
            tracing::info!(destination = name, paused, "a destination was paused or resumed");
            inner.anew().await?;
        }
        Ok(changed)
    }

    /// Sends a message of the type [`message::TEST_TYPE`] to a destination now, also to one that is disabled or paused. It
    /// changes nothing of how it fares.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Store`].
    pub async fn test(&self, name: &str) -> Result<Tested> {
        let inner = &self.inner;
        let live = inner.live_of(name).await?;
        let message = message::of_trial(SystemRandom.bits(), inner.clock.now());
        let began = tokio::time::Instant::now();
        let answer = inner.post(&live, &message).await;
        Ok(Tested { answer, took: began.elapsed() })
    }

    /// Forwards stored events again: those of a time that fit the destination's filter, ignored ones too, newest first.
    /// One that waits to be sent anyway is not sent twice; one that arrived before comes again under the same
    /// `webhook-id`. At most `limit` events are looked at: [`Replayed::next_before`] says where to go on. Where the order
    /// matters ([`Order::ByKey`]) those found are put in line oldest first, once all have been looked at.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it is disabled and not only counted; [`ErrorKind::Store`],
    /// [`ErrorKind::Overloaded`]: what was not looked at yet can be asked for again.
    pub async fn replay(&self, name: &str, replay: Replay) -> Result<Replayed> {
        let inner = &self.inner;
        let live = inner.live_of(name).await?;
        if live.row.health.disabled.is_some() && !replay.dry_run {
            return Err(Error::new(ErrorKind::Conflict, "the destination is disabled: enable it first"));
        }
        let mut tenants: BTreeMap<ConnectionId, Option<TenantId>> = BTreeMap::new();
        let (mut before, mut done) = (replay.before, Replayed::default());
        let now = inner.clock.now();
        let mut ordered = Vec::new();
        loop {
            let left = u64::from(replay.limit).saturating_sub(done.looked_at);
            let step = u32::try_from(left).unwrap_or(u32::MAX).min(LOOKED_AT_ONCE);
            if step == 0 {
                done.next_before = before;
                break;
            }
            let page = inner.store.events(None, before, step).await?;
            let EventPage { events, next } = page;
            // Rows are numbered as they arrive: a page wholly before the time ends it, a single event that a clock set
            // back has put there does not.
            let over = !events.is_empty() && events.iter().all(|event| event.received_at < replay.since);
            before = next.or(before);
            // Rows without an event were gone past all the same, and so is a bound kept where there are many.
            done.looked_at += if events.is_empty() && next.is_some() { u64::from(step) } else { events.len() as u64 };
            let mut jobs = Vec::new();
            for event in &events {
                let in_time = (replay.since..replay.until).contains(&event.received_at);
                if !in_time || event.connection.as_str() == NO_CONNECTION {
                    continue;
                }
                if !tenants.contains_key(&event.connection) {
                    let found = inner.store.connection(event.connection.clone()).await?;
                    tenants.insert(event.connection.clone(), found.map(|connection| connection.tenant));
                }
                let Some(Some(tenant)) = tenants.get(&event.connection) else { continue };
                if live.filters(event, tenant) {
                    jobs.push(live.job(event, tenant, now));
                }
            }
            done.wanted += jobs.len() as u64;
            if replay.dry_run {
                jobs.clear();
            }
            if live.row.spec.order == Order::ByKey {
                ordered.append(&mut jobs);
            } else if !jobs.is_empty() {
                inner.store.enqueue(jobs).await?;
            }
            if over || next.is_none() {
                break;
            }
        }
        // A lane runs by the numbers of its jobs.
        ordered.reverse();
        while !ordered.is_empty() {
            let rest = ordered.split_off(ordered.len().min(LOOKED_AT_ONCE as usize));
            inner.store.enqueue(std::mem::replace(&mut ordered, rest)).await?;
        }
        Ok(done)
    }

    /// Puts the destinations of a configuration in place: those that are new or changed are kept, those of an earlier
    /// configuration are removed. One that was made by hand keeps its name.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is wrong with which; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn configure(&self, list: &[Configured]) -> Result<()> {
        let inner = &self.inner;
        let rows = inner.store.destinations().await?;
        for one in list {
            check_configured(one)?;
            inner.configure(one, rows.iter().find(|row| row.name == one.name)).await?;
        }
        for row in rows.iter().filter(|row| row.configured && !list.iter().any(|one| one.name == row.name)) {
            inner.store.remove_destination(row.name.clone()).await?;
            tracing::info!(destination = row.name, "a destination stands in the configuration no more: it was removed");
        }
        inner.anew().await.map(drop)
    }
}

/// Checks a destination of a configuration.
///
/// # Errors
/// [`ErrorKind::Config`] naming it and what is wrong with it.
pub(crate) fn check_configured(one: &Configured) -> Result<()> {
    let secrets = || match one.secrets.len() {
        1..=KEYS_MAX => one.secrets.iter().try_for_each(check_secret),
        _ => Err(Error::new(ErrorKind::Invalid, "it needs one signing key, or two while one is replaced")),
    };
    let checked = check_name(&one.name).and_then(|()| check(&one.spec)).and_then(|()| secrets());
    checked.map_err(|error| Error::new(ErrorKind::Config, format!("destination {}: {}", one.name, error.message())))
}

impl Configured {
    /// Checks it, as [`Forwarder::configure`] does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is wrong with it, never a value.
    pub fn check(&self) -> Result<()> {
        check_configured(self)
    }
}

impl Inner {
    async fn row(&self, name: &str) -> Result<StoredDestination> {
        let rows = self.store.destinations().await?;
        rows.into_iter().find(|row| row.name == name).ok_or_else(|| missing(name))
    }

    /// Reads a destination that may be changed by hand.
    async fn own(&self, name: &str) -> Result<StoredDestination> {
        let row = self.row(name).await?;
        if row.configured {
            let why = "the destination stands in the configuration: change it there and start again";
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        Ok(row)
    }

    pub(super) async fn live_of(&self, name: &str) -> Result<std::sync::Arc<Live>> {
        let list = self.anew().await?;
        list.iter().find(|one| one.row.name == name).cloned().ok_or_else(|| missing(name))
    }

    async fn put(&self, new: NewDestination, expected: u64) -> Result<()> {
        if !self.store.put_destination(new, expected, self.clock.now()).await? {
            return Err(raced());
        }
        self.anew().await.map(drop)
    }

    async fn seal(&self, name: &str, version: u64, secret: &Secret, until: Option<Timestamp>) -> Result<SealedKey> {
        let (tenant, of) = (TenantId::new(SEALING_TENANT), place_of(name));
        let blob = self.vault.seal(sealed_for(&tenant, &of, version), secret.expose().as_bytes()).await?;
        Ok(SealedKey { version, blob, until })
    }

    /// Puts one destination of a configuration in place, unless it is there as it is.
    async fn configure(&self, one: &Configured, known: Option<&StoredDestination>) -> Result<()> {
        if let Some(known) = known.filter(|known| known.configured && known.spec == one.spec) {
            let (opened, closed) = self.open(&one.name, &known.keys).await;
            let same = opened.len() == one.secrets.len()
                && one.secrets.iter().all(|new| opened.iter().any(|(old, _)| old.matches(new.expose())));
            if same && !closed {
                return Ok(());
            }
        }
        if known.is_some_and(|known| !known.configured) {
            let why = format!("destination {}: one of that name was made by hand: name it otherwise", one.name);
            return Err(Error::new(ErrorKind::Config, why));
        }
        let newest = known.and_then(|known| known.keys.first()).map_or(0, |newest| newest.version);
        let mut keys = Vec::with_capacity(one.secrets.len());
        // The first of the list is the newest.
        for (version, secret) in (newest + 1..).zip(one.secrets.iter().rev()) {
            keys.push(self.seal(&one.name, version, secret, None).await?);
        }
        let new = NewDestination { name: one.name.clone(), configured: true, spec: one.spec.clone(), keys };
        let expected = known.map_or(0, |known| known.revision);
        // Another process with the same configuration may have been faster: then it is in place.
        self.store.put_destination(new, expected, self.clock.now()).await.map(drop)
    }
}
