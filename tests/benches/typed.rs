//! What an adapter's typed client costs beyond the pipeline it calls through: writing the request and reading the
//! answer as the provider's types.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use palisade_core::client::Profile;
use palisade_core::{Call, Operation, Provider, Transport};
use palisade_google::{Google, GoogleProvider};
use palisade_sendgrid::SendGridProvider;
use palisade_sendgrid::client::{Mail, SendGrid};
use palisade_slack::SlackProvider;
use palisade_slack::client::{NewMessage as SlackMessage, Slack};
use palisade_stripe::client::NewCustomer;
use palisade_stripe::{Stripe, StripeProvider};
use palisade_twilio::TwilioProvider;
use palisade_twilio::client::{NewMessage as TwilioMessage, Twilio};
use serde_json::{Value, json};

use crate::harness::{Spread, rounds, runtime, thread_cpu};
use crate::report::Row;
use crate::stacks::{READ, WRITE, over};

/// Calls of one contender in one round.
const CALLS: usize = 5_000;

/// A typed call, to be made any number of times.
type TypedCall = Box<dyn Fn() -> LocalBoxFuture<'static, ()>>;

/// One adapter: its pipeline over an answer from memory, and one of its calls.
struct Contest {
    what: &'static str,
    profile: Profile,
    answer: Answer,
    call: fn(Arc<dyn Transport>) -> TypedCall,
}

/// Measures one call people make often of each adapter.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let contests = [stripe(), slack(), google(), twilio(), sendgrid()];
    contests.into_iter().map(|contest| contest.row(count)).collect()
}

impl Contest {
    fn row(self, count: usize) -> Row {
        let runtime = runtime();
        let pipeline = runtime.block_on(async { over(self.profile, Arc::new(self.answer)) });
        let seen = Arc::new(Ample { seen: Mutex::default(), pipeline: Arc::new(pipeline) });
        let typed = (self.call)(Arc::<Ample>::clone(&seen));
        runtime.block_on(typed());
        let request = seen.seen.lock().expect("nobody panicked").take().expect("the call was sent");
        let pipeline = Arc::clone(&seen.pipeline);
        let mut by_pipeline = || {
            each(&runtime, || async {
                pipeline.send(request.clone()).await.expect("it is answered");
            })
        };
        let mut by_type = || each(&runtime, &typed);
        let took = rounds(count, &mut [&mut by_pipeline, &mut by_type]);
        let whole = Spread::of(took[0].clone()).median;
        Row::new("typed", format!("{}, beyond the pipeline", self.what), Spread::difference(&took[1], &took[0]), "ns")
            .against(
                format!("the same request through the pipeline alone, its answer unread: {whole:.0} ns"),
                Spread::ratio(&took[1], &took[0]),
            )
    }
}

fn each<F: Future<Output = ()>>(runtime: &tokio::runtime::Runtime, call: impl Fn() -> F) -> f64 {
    let start = thread_cpu();
    runtime.block_on(async {
        for _ in 0..CALLS {
            call().await;
        }
    });
    (thread_cpu() - start).as_nanos() as f64 / CALLS as f64
}

/// Lifts the provider's published limit, which would only make the clock on the wall run, and keeps the last request.
struct Ample {
    seen: Mutex<Option<Request<Bytes>>>,
    pipeline: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for Ample {
    async fn send(&self, mut request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        let ample: &'static Operation = if request.method() == http::Method::GET { &READ } else { &WRITE };
        if let Some(call) = request.extensions_mut().get_mut::<Call>() {
            call.operation = ample;
        }
        if let Ok(mut seen) = self.seen.lock()
            && seen.is_none()
        {
            *seen = Some(request.clone());
        }
        self.pipeline.send(request).await
    }
}

/// Answers everything with the same.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(body: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { status: StatusCode::OK, headers, body: body.to_string().into() }
    }
}

#[async_trait]
impl Transport for Answer {
    async fn send(&self, _request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        response.headers_mut().clone_from(&self.headers);
        Ok(response)
    }
}

fn stripe() -> Contest {
    let customer = json!({
        "id": "cus_NffrFeUfNV2Hib", "object": "customer", "address": null, "balance": 0, "created": 1_680_893_993,
        "currency": null, "default_source": null, "delinquent": false, "description": null, "discount": null,
        "email": "jenny.rosen@example.com", "invoice_prefix": "0759376C", "livemode": false, "metadata": {"plan": "pro"},
        "invoice_settings": {"custom_fields": null, "default_payment_method": null, "footer": null,
            "rendering_options": null},
        "name": "Jenny Rosen", "next_invoice_sequence": 1, "phone": null, "preferred_locales": [], "shipping": null,
        "tax_exempt": "none", "test_clock": null,
    });
    Contest {
        what: "Stripe, create a customer",
        profile: StripeProvider::new().profile(),
        answer: Answer::json(&customer),
        call: |transport| {
            let client = Arc::new(Stripe::new(transport, "con_1", "ten_1"));
            Box::new(move || {
                let client = Arc::clone(&client);
                Box::pin(async move {
                    let new = NewCustomer::new().email("jenny.rosen@example.com").name("Jenny Rosen");
                    client.create_customer(new.metadata("plan", "pro"), None).await.expect("it is made");
                })
            })
        },
    }
}

fn slack() -> Contest {
    let posted = json!({
        "ok": true, "channel": "C123ABC456", "ts": "1503435956.000247",
        "message": {"text": "Here's a message for you", "username": "ecto1", "bot_id": "B123ABC456", "attachments": [],
            "type": "message", "subtype": "bot_message", "ts": "1503435956.000247"},
    });
    Contest {
        what: "Slack, post a message",
        profile: SlackProvider::new().profile(),
        answer: Answer::json(&posted),
        call: |transport| {
            let client = Arc::new(Slack::new(transport, "con_1", "ten_1"));
            Box::new(move || {
                let client = Arc::clone(&client);
                Box::pin(async move {
                    let message = SlackMessage::new("Here's a message for you");
                    client.post("C123ABC456", &message).await.expect("it is posted");
                })
            })
        },
    }
}

fn google() -> Contest {
    let event = json!({
        "kind": "calendar#event", "etag": "\"3181161784712000\"", "id": "4eahs9ghkhrvkld72hogu9ph3e", "status": "confirmed",
        "htmlLink": "https://www.google.com/calendar/event?eid=NGVh", "created": "2026-05-28T21:32:43.000Z",
        "updated": "2026-05-28T21:34:52.356Z", "summary": "Review", "location": "Room 4",
        "creator": {"email": "ada@example.com", "self": true}, "organizer": {"email": "ada@example.com", "self": true},
        "start": {"dateTime": "2026-06-01T10:00:00+02:00", "timeZone": "Europe/Berlin"},
        "end": {"dateTime": "2026-06-01T11:00:00+02:00", "timeZone": "Europe/Berlin"},
        "iCalUID": "4eahs9ghkhrvkld72hogu9ph3e@google.com", "sequence": 0, "reminders": {"useDefault": true},
        "attendees": [{"email": "grace@example.com", "responseStatus": "accepted"}], "eventType": "default",
    });
    Contest {
        what: "Google, read a calendar event",
        profile: GoogleProvider::new().profile(),
        answer: Answer::json(&event),
        call: |transport| {
            let client = Arc::new(Google::new(transport, "con_1", "ten_1"));
            Box::new(move || {
                let client = Arc::clone(&client);
                Box::pin(async move {
                    client.get_event("primary", "4eahs9ghkhrvkld72hogu9ph3e").await.expect("it is read");
                })
            })
        },
    }
}

fn twilio() -> Contest {
    let message = json!({
        "account_sid": "AC0123456789abcdef0123456789abcdef", "api_version": "2010-04-01", "body": "Hello there",
        "date_created": "Thu, 24 Aug 2026 05:01:45 +0000", "date_sent": null,
        "date_updated": "Thu, 24 Aug 2026 05:01:45 +0000", "direction": "outbound-api", "error_code": null,
        "error_message": null, "from": "+14155550100", "num_media": "0", "num_segments": "1", "price": null,
        "price_unit": "USD", "messaging_service_sid": null, "sid": "SM0123456789abcdef0123456789abcdef",
        "status": "queued", "subresource_uris": {}, "to": "+15105550100",
        "uri": "/2010-04-01/Accounts/AC0123456789abcdef0123456789abcdef/Messages/SM0123456789abcdef0123456789abcdef.json",
    });
    let mut answer = Answer::json(&message);
    answer.status = StatusCode::CREATED;
    Contest {
        what: "Twilio, send a text",
        profile: TwilioProvider::new().profile(),
        answer,
        call: |transport| {
            let account = "AC0123456789abcdef0123456789abcdef".parse().expect("a SID");
            let client = Arc::new(Twilio::new(transport, "con_1", "ten_1", account));
            Box::new(move || {
                let client = Arc::clone(&client);
                Box::pin(async move {
                    let message = TwilioMessage::text("+15105550100", "Hello there").from("+14155550100");
                    client.send(&message).await.expect("it is sent");
                })
            })
        },
    }
}

fn sendgrid() -> Contest {
    let mut answer = Answer::json(&Value::Null);
    answer.status = StatusCode::ACCEPTED;
    answer.body = Bytes::new();
    answer.headers.insert("x-message-id", HeaderValue::from_static("14c5d75ce93.dfd.64b469"));
    Contest {
        what: "SendGrid, send a mail",
        profile: SendGridProvider::new().profile(),
        answer,
        call: |transport| {
            let client = Arc::new(SendGrid::new(transport, "con_1", "ten_1"));
            Box::new(move || {
                let client = Arc::clone(&client);
                Box::pin(async move {
                    let mail =
                        Mail::from("ada@example.com").to("grace@example.com").subject("Hello").text("Hello there");
                    client.send(&mail).await.expect("it is taken");
                })
            })
        },
    }
}
