//! The operation table, and the handful of calls most people want.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use palisade_core::call::{Bucket, Limit, Scope};
use palisade_core::{Call, Error, ErrorKind, Operation, Outcome, Replay, Result, Transport};
use serde_json::{Value, json};

use super::MANIFEST;

/// 60 a minute for the whole account: 57 in a long run, and 3 at once after a rest.
const ACCOUNT: Bucket = bucket("account");

const fn bucket(name: &'static str) -> Bucket {
    Bucket { name, units: 57, per: Duration::from_secs(60), burst: 3 }
}

const SHARED: &[Limit] = &[Limit { bucket: &ACCOUNT, scope: Scope::Account, class: None }];

const READ: Operation = Operation {
    provider: MANIFEST.name,
    name: "parcels.retrieve",
    url_template: "/v1/parcels/{id}",
    replay: Replay::Safe,
    bucket: &bucket("parcels.retrieve"),
    also: SHARED,
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(90),
    body_bytes_max: 64 * 1024,
};

/// One parcel is read.
pub(crate) static RETRIEVE: Operation = READ;
/// A page of parcels is read.
pub(crate) static LIST: Operation = Operation {
    name: "parcels.list",
    url_template: "/v1/parcels",
    bucket: &bucket("parcels.list"),
    body_bytes_max: 1024 * 1024,
    ..READ
};
/// A parcel is sent: Acme does it once for each key.
pub(crate) static CREATE: Operation = Operation {
    name: "parcels.create",
    url_template: "/v1/parcels",
    replay: Replay::Keyed("Idempotency-Key"),
    bucket: &bucket("parcels.create"),
    ..READ
};

/// The typed client.
#[derive(Clone)]
pub(crate) struct Acme {
    transport: Arc<dyn Transport>,
}

/// A parcel, as far as it is read.
#[derive(Debug, PartialEq)]
pub(crate) struct Parcel {
    pub(crate) id: String,
    pub(crate) to: String,
}

impl Acme {
    /// Makes the client over a transport: a pipeline in production, anything in a test.
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// Sends a parcel.
    pub(crate) async fn create(&self, to: &str) -> Result<Parcel> {
        let request =
            request(MANIFEST.base_url, &CREATE, Method::POST, "/v1/parcels", json!({ "to": to }).to_string())?;
        self.read(request, Outcome::Processed).await
    }

    /// Reads a parcel.
    pub(crate) async fn retrieve(&self, id: &str) -> Result<Parcel> {
        let request = request(MANIFEST.base_url, &RETRIEVE, Method::GET, &format!("/v1/parcels/{id}"), String::new())?;
        self.read(request, Outcome::Rejected).await
    }

    async fn read(&self, request: Request<Bytes>, unreadable: Outcome) -> Result<Parcel> {
        let response = self.transport.send(request).await?;
        let value: Option<Value> = serde_json::from_slice(response.body()).ok();
        let text = |key: &str| Some(value.as_ref()?.get(key)?.as_str()?.to_owned());
        match (text("id"), text("to")) {
            (Some(id), Some(to)) => Ok(Parcel { id, to }),
            _ => Err(Error::new(ErrorKind::Decode, "the answer is no parcel").with_outcome(unreadable)),
        }
    }
}

/// Writes a request with its call; key and credential are the pipeline's.
pub(crate) fn request(
    base_url: &str,
    operation: &'static Operation,
    method: Method,
    path: &str,
    body: String,
) -> Result<Request<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("{base_url}{path}"))
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .extension(Call::new(operation, "conn_1".into(), "tenant_1".into()))
        .body(body.into())
        .map_err(|_| Error::new(ErrorKind::Config, "the address is none").during(MANIFEST.name, operation.name))
}
