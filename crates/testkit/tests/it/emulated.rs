//! Acme in memory, written from its documentation and not from the adapter.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use palisade_core::auth::Scheme;
use palisade_core::webhook::{RawDelivery, hmac};
use palisade_core::{Secret, Timestamp, Transport};
use palisade_testkit::conformance::{NOW, Stage};
use palisade_testkit::fake::{answer, pairs};
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) const SECRETS: [&str; 2] = ["acme_secret_one", "acme_secret_two"];
const KEY: &str = "acme_key";

/// Signs a delivery as Acme's documentation says.
pub(crate) fn signed(secret: &str, at: Timestamp, body: &[u8]) -> RawDelivery {
    let time = at.seconds().to_string();
    let code = hmac::to_lower_hex(&hmac::sha256(secret.as_bytes(), &[time.as_bytes(), b".", body]));
    let mut headers = HeaderMap::new();
    headers.insert("acme-signature", format!("{time}.{code}").parse().unwrap());
    let url = "https://hooks.example.test/acme".to_owned();
    RawDelivery { method: Method::POST, url, headers, body: Bytes::copy_from_slice(body) }
}

#[derive(Default)]
struct World {
    /// Parcels by id, deleted ones too, each with the version it last changed at.
    parcels: BTreeMap<String, Value>,
    version: u64,
    posted: Vec<RawDelivery>,
}

#[derive(Clone)]
pub(crate) struct Acme {
    world: Arc<Mutex<World>>,
    origin: Instant,
}

impl Acme {
    pub(crate) fn new() -> Self {
        let acme = Self { world: Arc::default(), origin: Instant::now() };
        for number in 0..20 {
            acme.put(&format!("p{number:03}"), json!({ "to": format!("Street {number}") }));
        }
        acme.world.lock().unwrap().posted.clear();
        acme
    }

    /// Writes a parcel and tells of it.
    fn put(&self, id: &str, fields: Value) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        let at = NOW.plus(self.origin.elapsed());
        let mut parcel = json!({ "id": id, "version": world.version, "changed_at": at.seconds() });
        parcel.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        world.parcels.insert(id.to_owned(), parcel.clone());
        let event = json!({ "id": format!("e{}", world.version), "type": "parcel.changed", "parcel": parcel });
        world.posted.push(signed(SECRETS[0], at, event.to_string().as_bytes()));
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let error = |status, code: &str| answer(status, json!({ "code": code }).to_string());
        if request.headers().get("authorization").is_none_or(|key| key != &format!("Bearer {KEY}")) {
            return error(401, "key_unknown");
        }
        let world = self.world.lock().unwrap();
        let live = |parcel: &&Value| parcel.get("deleted").is_none();
        if let Some(id) = request.uri().path().strip_prefix("/v1/parcels/") {
            let parcel = world.parcels.get(id).filter(live);
            return parcel.map_or_else(|| error(404, "parcel_unknown"), |parcel| answer(200, parcel.to_string()));
        }
        let query = pairs(request.uri().query().unwrap_or_default());
        let given = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let number = |name: &str| given(name).and_then(|text| text.parse::<usize>().ok());
        let (since, after) = (number("since").unwrap_or(0) as u64, given("after").unwrap_or(""));
        let changed = |parcel: &&Value| parcel["version"].as_u64().unwrap() > since;
        let rows: Vec<&Value> = world
            .parcels
            .iter()
            .filter(|(id, _)| id.as_str() > after)
            .map(|(_, parcel)| parcel)
            .filter(|parcel| if since == 0 { live(parcel) } else { changed(parcel) })
            .skip(number("offset").unwrap_or(0))
            .collect();
        let page: Vec<&Value> = rows.iter().take(number("limit").unwrap_or(10)).copied().collect();
        let next = page.last().filter(|_| rows.len() > page.len()).map(|last| last["id"].clone());
        answer(200, json!({ "parcels": page, "next": next, "version": world.version }).to_string())
    }
}

#[async_trait]
impl Transport for Acme {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(self.answer(&request))
    }
}

impl Stage for Acme {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }

    fn credential(&self) -> Scheme {
        Scheme::Bearer(KEY.into())
    }

    fn truth(&self, _stream: &str) -> BTreeMap<String, Value> {
        let world = self.world.lock().unwrap();
        let live = world.parcels.iter().filter(|(_, parcel)| parcel.get("deleted").is_none());
        live.map(|(id, parcel)| (id.clone(), parcel.clone())).collect()
    }

    fn change(&self, stream: &str, step: usize) {
        match step % 3 {
            0 => self.put(&format!("q{step:03}"), json!({ "to": "New Street" })),
            1 => self.put(&format!("p{step:03}"), json!({ "to": format!("Moved {step}") })),
            _ => assert!(self.delete(stream, &format!("p{:03}", 19 - step))),
        }
    }

    fn delete(&self, _stream: &str, id: &str) -> bool {
        let known = self.truth("parcels").contains_key(id);
        if known {
            self.put(id, json!({ "deleted": true }));
        }
        known
    }

    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(std::future::ready(std::mem::take(&mut self.world.lock().unwrap().posted)))
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![SECRETS[0].into()]
    }
}
