//! What the provider remembers over the death of its process: one file of JSON lines, written before anybody hears of
//! a change and read back by the next process on the same file.
//!
//! Kept are objects, events, what became of their deliveries, the answers of idempotency keys, and what speaks against
//! a client. Not kept are keys, endpoints and dials, which whoever starts the provider gives again, and counts of
//! traffic. A line survives `kill -9`, because the system has it once it is written; it is not synced, so it need not
//! survive a power cut.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::desk::{Desk, Origin};
use super::idempotency::Stored;
use super::state::{Announced, EventRow, Kind, Links, Place, Row, Trace, World};
use super::{Inner, Seed, Stripe, seed, shape};
use crate::ledger::Breach;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// An account was filled: the same seed at the same moment gives the same bytes.
    Filled { account: String, now: i64, counters: (u64, u64), seed: Seed },
    /// An operation changed something. One line, so that it is remembered wholly or not at all.
    Changed(Box<Changed>),
    /// A receiver acknowledged an event.
    Acked { account: String, event: String },
    /// The dials swallowed an event's delivery: nobody will hear of it but from the list.
    Dropped { event: String },
    /// A client did what it must not.
    Breach(Breach),
}

#[derive(Debug, Serialize, Deserialize)]
struct Changed {
    /// Where identifiers and order stood afterwards.
    counters: (u64, u64),
    /// The last invoice number of each account that was touched.
    invoices: BTreeMap<String, u64>,
    objects: Vec<Object>,
    events: Vec<Event>,
    key: Option<Key>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Object {
    account: String,
    kind: Kind,
    id: String,
    place: Place,
    /// Its JSON; none for a tombstone.
    json: Option<String>,
    links: Links,
}

#[derive(Debug, Serialize, Deserialize)]
struct Event {
    account: String,
    id: String,
    kind: String,
    place: Place,
    head: String,
    pending: u32,
    tail: String,
    /// What its receivers are sent, by API version.
    bodies: Vec<(String, String)>,
}

/// The answer of a request that carried an idempotency key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) account: String,
    pub(crate) key: String,
    pub(crate) fingerprint: u64,
    pub(crate) at: i64,
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) request: String,
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    /// None once a write failed: half a memory would be worse than the one until then.
    file: Mutex<Option<File>>,
}

impl Journal {
    fn write(&self, line: &Line) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = file.as_mut() else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            open.write_all(&bytes)
        });
        if let Err(error) = written {
            tracing::error!(%error, "the emulator's journal cannot be written: from here on nothing is remembered");
            *file = None;
        }
    }

    /// Notes that an account is about to be filled.
    pub(crate) fn filled(&self, account: &str, now: i64, counters: (u64, u64), seed: &Seed) {
        self.write(&Line::Filled { account: account.to_owned(), now, counters, seed: seed.clone() });
    }

    /// Notes an acknowledgement.
    pub(crate) fn acked(&self, account: &str, event: &str) {
        self.write(&Line::Acked { account: account.to_owned(), event: event.to_owned() });
    }

    /// Notes a delivery that will never be sent.
    pub(crate) fn dropped(&self, event: &str) {
        self.write(&Line::Dropped { event: event.to_owned() });
    }

    /// Notes a breach.
    pub(crate) fn breach(&self, breach: Breach) {
        self.write(&Line::Breach(breach));
    }
}

impl Inner {
    /// Writes down what an operation has changed, before anybody hears of it. Call it under the lock of the world.
    pub(crate) fn remember(&self, world: &mut World, key: Option<Key>) {
        let (Some(journal), Some(trace)) = (self.journal.get(), world.trace.as_mut()) else { return };
        let Trace { touched, announced } = std::mem::take(trace);
        if touched.is_empty() && announced.is_empty() && key.is_none() {
            return;
        }
        let mut changed = Changed {
            counters: world.counters(),
            invoices: BTreeMap::new(),
            objects: Vec::with_capacity(touched.len()),
            events: Vec::with_capacity(announced.len()),
            key,
        };
        // An endpoint is given again by whoever starts the provider.
        for (account, kind, id) in touched.into_iter().filter(|(_, kind, _)| *kind != Kind::Endpoint) {
            let data = world.account(&account);
            changed.invoices.insert(account.clone(), data.invoice_number);
            let table = data.table(kind);
            let Some(place) = table.place(&id, true) else { continue };
            let row = table.row(&id);
            let json = row.map(|row| text(&row.json));
            let links = row.map(|row| row.links.clone()).unwrap_or_default();
            changed.objects.push(Object { account, kind, id, place, json, links });
        }
        for Announced { account, event, bodies } in announced {
            let events = &world.account(&account).events;
            let Some((place, (_, row))) =
                events.places.get(event.as_str()).and_then(|at| events.rows.get_key_value(at))
            else {
                continue;
            };
            changed.events.push(Event {
                account,
                id: event,
                kind: row.kind.to_string(),
                place: *place,
                head: text(&row.head),
                pending: row.pending,
                tail: text(&row.tail),
                bodies,
            });
        }
        journal.write(&Line::Changed(Box::new(changed)));
    }

    fn recall(&self, line: Line) {
        match line {
            Line::Filled { account, now, counters, seed } => {
                let mut world = self.world();
                world.set_counters(counters);
                let mut desk = Desk {
                    account,
                    now,
                    era: shape::era(&world.api_version),
                    origin: Origin::default(),
                    emitted: Vec::new(),
                    world: &mut world,
                };
                seed::fill(&mut desk, &seed, self.config.seed);
            }
            Line::Changed(changed) => self.recall_change(*changed),
            Line::Acked { account, event } => {
                if let Some(row) = self.world().account(&account).events.row_mut(&event) {
                    row.pending = row.pending.saturating_sub(1);
                }
                self.unheard().remove(&event);
                self.book().acked(&event);
            }
            Line::Dropped { event } => {
                self.unheard().remove(&event);
                self.book().ledger.webhooks.dropped += 1;
            }
            Line::Breach(breach) => self.book().breach(breach),
        }
    }

    fn recall_change(&self, changed: Changed) {
        let mut world = self.world();
        world.set_counters(changed.counters);
        for (account, number) in changed.invoices {
            world.account(&account).invoice_number = number;
        }
        for Object { account, kind, id, place, json, links } in changed.objects {
            let row = json.map(|json| Row { json: Bytes::from(json), links });
            world.account(&account).table(kind).restore(&id, place, row);
        }
        for Event { account, id, kind, place, head, pending, tail, bodies } in changed.events {
            let row = EventRow { kind: Arc::from(kind), head: Bytes::from(head), pending, tail: Bytes::from(tail) };
            world.account(&account).events.insert(&id, place, row);
            world.events_created += 1;
            self.unheard().insert(id.clone(), (place, Announced { account, event: id, bodies }));
        }
        drop(world);
        if let Some(Key { account, key, fingerprint, at, status, body, request }) = changed.key {
            let stored = Stored { status, body: Bytes::from(body), request };
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).restore(account, key, fingerprint, at, stored);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    // Written by ourselves, as JSON: always UTF-8.
    String::from_utf8_lossy(bytes).into_owned()
}

impl Stripe {
    /// Recalls what an earlier process wrote into `path`, and writes every further change there: the provider goes on
    /// as if it had never died. Returns how many events it recalled. For a provider nobody has used yet; endpoints,
    /// keys and dials are given again, and [`Stripe::redeliver`] sends what no receiver has acknowledged.
    ///
    /// A line that was cut off by the death is forgotten: nobody had heard of its change.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let folder = std::env::temp_dir().join(format!("palisade-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// use palisade_emulator::stripe::{Stripe, StripeConfig};
    /// let path = folder.join("provider.jsonl");
    /// let first = Stripe::offline(StripeConfig::default());
    /// first.keep_journal(&path)?;
    /// first.create_customer(&[("email", "ada@example.com")]).unwrap();
    ///
    /// let second = Stripe::offline(StripeConfig::default());
    /// assert_eq!(second.keep_journal(&path)?, 1); // customer.created
    /// assert_eq!(second.truth("customers"), first.truth("customers"));
    /// # std::fs::remove_dir_all(&folder)
    /// # }
    /// ```
    ///
    /// # Errors
    /// The file's own errors; `InvalidData` when a line is not this emulator's; `InvalidInput` when the provider was
    /// used before or has a journal.
    pub fn keep_journal(&self, path: &Path) -> io::Result<u64> {
        let inner = &self.inner;
        if inner.journal.get().is_some() || inner.world().events_created > 0 || inner.world().counters().1 > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the journal must be opened before anything else"));
        }
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut reader = BufReader::new(&file);
        let (mut line, mut whole) = (Vec::new(), 0);
        for number in 1_u64.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            let parsed = serde_json::from_slice(&line).map_err(|error| {
                let what = format!("{}, line {number}: not a line of the emulator's journal: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            inner.recall(parsed);
            whole += u64::try_from(read).unwrap_or(u64::MAX);
        }
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        let mut world = inner.world();
        world.trace = Some(Trace::default());
        let events = world.events_created;
        drop(world);
        let _ = inner.journal.set(Journal { file: Mutex::new(Some(file)) });
        Ok(events)
    }

    /// Sends every recalled event that no receiver has acknowledged to the endpoints as they are now, with the bytes
    /// it was announced with, as a provider goes on trying. Returns how many. A second call sends nothing.
    #[allow(clippy::must_use_candidate, reason = "most callers only want it done")]
    pub fn redeliver(&self) -> usize {
        let mut unheard: Vec<(Place, Announced)> = std::mem::take(&mut *self.inner.unheard()).into_values().collect();
        unheard.sort_unstable_by_key(|(place, _)| place.1);
        let count = unheard.len();
        let mut world = self.inner.world();
        let mut outbox = Vec::with_capacity(count);
        for (_, announced) in unheard {
            outbox.extend(world.addressed(&announced));
        }
        drop(world);
        self.inner.dispatch(outbox);
        count
    }
}
