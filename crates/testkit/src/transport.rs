//! The emulator as a [`Transport`]: requests are answered in memory, and what a socket would have shown instead of an
//! answer becomes the error the transport's contract names.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Call, Error, ErrorKind, Outcome, Random, Result, Transport};
use palisade_emulator::{Cut, google::Google, sendgrid::SendGrid, slack::Slack, stripe::Stripe, twilio::Twilio};

/// What an emulator answers, or what its connection does instead.
pub type Answer = Pin<Box<dyn Future<Output = std::result::Result<Response<Bytes>, Cut>> + Send>>;

/// An emulated provider that answers in memory.
pub trait Emulator: fmt::Debug + Send + Sync + 'static {
    /// Answers a request as its socket would.
    fn answer(&self, request: Request<Bytes>) -> Answer;
}

macro_rules! emulators {
    ($($provider:ty),*) => {
        $(impl Emulator for $provider {
            fn answer(&self, request: Request<Bytes>) -> Answer {
                let own = self.clone();
                Box::pin(async move { own.handle(request).await })
            }
        })*
    };
}

emulators!(Stripe, Slack, Google, Twilio, SendGrid);

/// Sends every request to an emulated provider in memory, whatever host it names.
///
/// With a [`EmulatorTransport::wire`], a request travels for a while, is answered by the provider at one moment, and
/// its answer travels again: what happens at the provider meanwhile is not in the answer, as on a real network.
#[derive(Clone)]
pub struct EmulatorTransport {
    emulator: Arc<dyn Emulator>,
    wire: Option<Wire>,
}

#[derive(Clone)]
struct Wire {
    random: Arc<dyn Random>,
    one_way_max: Duration,
}

impl EmulatorTransport {
    /// Answers at once.
    #[must_use]
    pub fn new(emulator: impl Emulator) -> Self {
        Self { emulator: Arc::new(emulator), wire: None }
    }

    /// Lets each way take up to `one_way_max`, drawn from `random`.
    #[must_use]
    pub fn wire(mut self, random: Arc<dyn Random>, one_way_max: Duration) -> Self {
        self.wire = Some(Wire { random, one_way_max });
        self
    }

    async fn travel(&self) {
        if let Some(wire) = &self.wire {
            tokio::time::sleep(wire.one_way_max.mul_f64(wire.random.unit())).await;
        }
    }
}

impl fmt::Debug for EmulatorTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatorTransport")
            .field("emulator", &self.emulator)
            .field("one_way_max", &self.wire.as_ref().map(|wire| wire.one_way_max))
            .finish()
    }
}

#[async_trait]
impl Transport for EmulatorTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let cap = request.extensions().get::<Call>().map(|call| call.operation.body_bytes_max);
        self.travel().await;
        let answer = self.emulator.answer(request).await;
        self.travel().await;
        match answer {
            Ok(response) if cap.is_some_and(|cap| response.body().len() > cap) => {
                Err(Error::new(ErrorKind::BodyTooLarge, "the answer is larger than the operation allows")
                    .with_outcome(Outcome::Unknown))
            }
            Ok(response) => Ok(response),
            Err(Cut::Reset) => Err(broken("the connection was reset")),
            Err(Cut::CutBody { .. }) => Err(broken("the connection closed in the middle of the answer")),
            // The pipeline's own timeout ends this wait.
            Err(Cut::Hang) => std::future::pending().await,
        }
    }
}

/// Makes the error of a connection that broke after the request may have left.
pub(crate) fn broken(why: &'static str) -> Error {
    Error::new(ErrorKind::Transport, why).with_outcome(Outcome::Unknown)
}

#[cfg(test)]
mod tests {
    use palisade_emulator::stripe::{Fault, StripeConfig};

    use super::*;

    /// What `cargo xtask new-adapter` adds to this file is one more line of the macro.
    #[derive(Clone, Debug)]
    struct Silent;

    impl Silent {
        async fn handle(&self, _: Request<Bytes>) -> std::result::Result<Response<Bytes>, Cut> {
            Err(Cut::Reset)
        }
    }

    emulators!(Silent);

    #[tokio::test(start_paused = true)]
    async fn an_emulator_of_one_more_line_is_one() {
        let sent = EmulatorTransport::new(Silent).send(Request::default()).await;
        assert_eq!(sent.unwrap_err().outcome(), Outcome::Unknown);
    }

    async fn send(fault: Fault) -> Option<std::result::Result<u16, (ErrorKind, Outcome)>> {
        let emulator = Stripe::offline(StripeConfig::default());
        emulator.faults().next("*", [fault]);
        let request = Request::get("http://stripe.invalid/v1/customers")
            .header("authorization", format!("Bearer {}", emulator.api_key()))
            .body(Bytes::new())
            .unwrap();
        let transport = EmulatorTransport::new(emulator);
        let sent = tokio::time::timeout(Duration::from_secs(3_600), transport.send(request)).await.ok()?;
        Some(sent.map(|response| response.status().as_u16()).map_err(|error| (error.kind(), error.outcome())))
    }

    /// Fails when an ambiguous end is called anything but unknown.
    #[tokio::test(start_paused = true)]
    async fn what_a_socket_would_show_becomes_the_contracts_error() {
        let unknown = Some(Err((ErrorKind::Transport, Outcome::Unknown)));
        for (fault, seen) in [
            (Fault::Pass, Some(Ok(200))),
            (Fault::Status(503), Some(Ok(503))),
            (Fault::ResetBefore, unknown),
            (Fault::ResetAfter, unknown),
            (Fault::CutBody, unknown),
            (Fault::HangBefore, None),
            (Fault::HangAfter, None),
        ] {
            assert_eq!(send(fault.clone()).await, seen, "{fault:?}");
        }
    }
}
