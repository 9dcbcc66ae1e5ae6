//! The typed client over any transport, and the operation table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use palisade_core::call::Bucket;
use palisade_core::{Call, ConnectionId, Error, ErrorKind, Operation, Replay, Result, TenantId, Transport};

/// Blank's own address.
pub const BASE_URL: &str = "https://api.blank.example";

/// The published limit of each endpoint: write the number, the page it stands on and the day you read it.
static READS: Bucket = Bucket { name: "reads", units: 10, per: Duration::from_secs(1), burst: 1 };

/// Whose account it is: the call to try a credential with.
///
/// `replay` is the one decision that costs money when wrong: `Safe` for reads, `Keyed(header)` where Blank
/// deduplicates, `Idempotent` where a repetition has the same effect, else `Never`.
pub static ACCOUNT: Operation = Operation {
    provider: "blank",
    name: "account.retrieve",
    url_template: "/v1/account",
    replay: Replay::Safe,
    bucket: &READS,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(90),
    body_bytes_max: 1024 * 1024,
};

/// Every operation.
pub static OPERATIONS: [&Operation; 1] = [&ACCOUNT];

/// The typed client.
#[derive(Clone)]
pub struct Blank {
    transport: Arc<dyn Transport>,
    connection: ConnectionId,
    tenant: TenantId,
}

impl Blank {
    /// Makes the client over a transport: the pipeline in production, anything in a test.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        connection: impl Into<ConnectionId>,
        tenant: impl Into<TenantId>,
    ) -> Self {
        Self { transport, connection: connection.into(), tenant: tenant.into() }
    }

    /// Reads whose account it is.
    ///
    /// # Errors
    /// What the pipeline says; [`ErrorKind::Decode`] when the answer is not an account.
    pub async fn account(&self) -> Result<String> {
        let call = Call::new(&ACCOUNT, self.connection.clone(), self.tenant.clone());
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("{BASE_URL}/v1/account"))
            .extension(call)
            .body(bytes::Bytes::new())
            .map_err(|_| Error::new(ErrorKind::Config, "the address is none"))?;
        let response = self.transport.send(request).await?;
        let account: Option<serde_json::Value> = serde_json::from_slice(response.body()).ok();
        let name = account.and_then(|account| account.get("name")?.as_str().map(str::to_owned));
        name.ok_or_else(|| Error::new(ErrorKind::Decode, "the answer is no account").during("blank", ACCOUNT.name))
    }
}

impl fmt::Debug for Blank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blank").field("connection", &self.connection).finish_non_exhaustive()
    }
}
