//! Replies of token endpoints, and whole answers met by the pipeline, with any status, headers and body: tokens are taken
//! out of them or a reason why not, waits that they ask for have bounds, a call ends in its time after no more attempts than
//! it may take; and nothing of a body or of what was sent is shown. Never a panic.
#![no_main]

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use libfuzzer_sys::fuzz_target;
use palisade_core::auth::flow::{Flow, RenewalAsk, RenewalFailure, RevocationAsk};
use palisade_core::auth::grant::{GrantSecrets, Renewal, Tokens};
use palisade_core::auth::oauth2::{OAuth2Config, OAuth2Flow, RevocationWay};
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::call::Operation;
use palisade_core::client::{Client, HINT_MAX, Learned, LimitHeaders, Reset};
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::{Call, Error, Secret, Timestamp, Transport};
use palisade_fuzz::{Cut, NOW, answer, providers};
use tokio::time::Instant;

/// What no error and no debug print may show: it stands in a body for every `@`, and behind it. No code of RFC 6749 has a
/// space in it, so none of it can be one.
const MARK: &str = "c4n4ry of the f1xt";
/// What is sent, and shown nowhere either.
const SENT: [&str; 3] = ["s3nt-refresh-t0ken", "sk_test_s3ntClientS3cret", "s3nt-access-t0ken"];
/// No token is believed to live longer.
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);
/// What a hint may be lengthened by, so that not all come back at once.
const JITTER: Duration = Duration::from_secs(24 * 360 + 1);
/// What timers are rounded to.
const ROUNDED: Duration = Duration::from_millis(2);

/// Answers the same to every request, and counts them.
#[derive(Clone)]
struct Says(Arc<(Response<Bytes>, AtomicU32)>);

impl Says {
    fn new(response: Response<Bytes>) -> Self {
        Self(Arc::new((response, AtomicU32::new(0))))
    }

    fn asked(&self) -> u32 {
        self.0.1.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Transport for Says {
    async fn send(&self, _: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        self.0.1.fetch_add(1, Ordering::Relaxed);
        Ok(self.0.0.clone())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let what = cut.byte();
    let status = 100 + (u16::from(cut.byte()) << 2 | u16::from(cut.byte() & 3)) % 500;
    let headers = cut.headers();
    let body = marked(&cut.rest());
    let says = Says::new(answer(status, headers.clone(), body));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let story = async {
        match what % 2 {
            0 => token_endpoint(what / 2, &says).await,
            _ => pipeline(what / 2, &headers, &says).await,
        }
    };
    runtime.expect("a runtime").block_on(story);
});

/// Puts the mark where the body says, and behind it.
fn marked(body: &[u8]) -> Bytes {
    let parts: Vec<&[u8]> = body.split(|byte| *byte == b'@').collect();
    let mut body = parts.join(MARK.as_bytes());
    if parts.len() == 1 {
        body.extend(MARK.as_bytes());
    }
    body.into()
}

#[track_caller]
fn shows_nothing(texts: &[String]) {
    for text in texts {
        assert!(!text.contains(MARK), "the body is shown: {text}");
        assert!(!SENT.iter().any(|sent| text.contains(sent)), "what was sent is shown: {text}");
    }
}

fn texts<T: Display + Debug>(shown: &T) -> Vec<String> {
    vec![shown.to_string(), format!("{shown:?}"), format!("{shown:#?}")]
}

fn of_error(error: &Error) {
    shows_nothing(&texts(error));
    shows_nothing(&[error.user_message().into_owned()]);
    assert!(error.retry_after().is_none_or(|after| after <= HINT_MAX + JITTER), "a wait of {:?}", error.retry_after());
}

// ------------------------------------------------------------------------------------------------------- tokens

/// The authorisation servers, each with its own ways.
fn flow(at: u8) -> OAuth2Config {
    let (back, secret) = ("https://hub.example/auth/callback", || Secret::from(SENT[1]));
    match at % 4 {
        0 => palisade_slack::auth::oauth2(back, "client", secret(), &["chat:write"], &["users:read"]),
        1 => palisade_google::auth::connect(
            "client",
            secret(),
            back,
            &["https://www.googleapis.com/auth/gmail.readonly"],
        ),
        2 => palisade_stripe::auth::connect("ca_client", secret(), back).expect("the settings hold"),
        _ => {
            let [authorize, token] = ["https://id.example/authorize", "https://id.example/token"];
            let mut flow = OAuth2Config::new("standard", authorize, token, back, "client").secret(secret());
            flow.revocation = RevocationWay::Token("https://id.example/revoke".to_owned());
            flow.scopes(&["read", "write"])
        }
    }
}

async fn token_endpoint(what: u8, says: &Says) {
    let flow = OAuth2Flow::new(flow(what), Arc::new(says.clone())).expect("the settings hold");
    let requested = vec!["read".to_owned()];
    let ask = RenewalAsk {
        name: "user".into(),
        renewal: Renewal::RefreshToken(SENT[0].into()),
        requested: requested.clone(),
        granted: requested,
        now: NOW,
    };
    match (what / 4) % 4 {
        0 => {
            let renewed = flow.renew(ask.clone()).await;
            if let Ok(tokens) = &renewed {
                assert_eq!((&tokens.name, &tokens.requested), (&ask.name, &ask.requested), "another grant is renewed");
                assert!(matches!(tokens.renewal, Renewal::RefreshToken(_)), "a grant can be renewed no more");
            }
            of_tokens(renewed);
        }
        1 => of_tokens(flow.client_credentials(None).await),
        2 => of_tokens(flow.exchange("bot".into(), &SENT[2].into()).await),
        _ => {
            let secrets = GrantSecrets { access: SENT[2].into(), renewal: ask.renewal };
            let account = Some("acct_1".to_owned());
            match flow.revoke(RevocationAsk { name: "main".into(), secrets, account }).await {
                Ok(_) => {}
                Err(error) => of_error(&error),
            }
        }
    }
    assert!(says.asked() <= 1, "what may be sent once was sent {} times", says.asked());
}

fn of_tokens(read: Result<Tokens, RenewalFailure>) {
    match read {
        Ok(tokens) => {
            assert!(!tokens.access.expose().is_empty(), "a token of nothing");
            let lifetime = tokens.expires_in;
            assert!(lifetime.is_none_or(|it| !it.is_zero() && it <= LIFETIME_MAX), "it lives {lifetime:?}");
            assert!(tokens.granted.iter().all(|scope| !scope.is_empty()), "a scope without a name");
            // Names of scopes come from the body and are told.
            let quiet = Tokens { granted: Vec::new(), ..tokens };
            shows_nothing(&[format!("{quiet:?}")]);
        }
        Err(RenewalFailure::Passing { error, after }) => {
            assert!(after.is_none_or(|after| after <= HINT_MAX), "a wait of {after:?} is believed");
            of_error(&error);
        }
        Err(RenewalFailure::Over(error) | RenewalFailure::Lost(error) | RenewalFailure::Wrong(error)) => {
            of_error(&error)
        }
    }
}

// ----------------------------------------------------------------------------------------------------- pipeline

/// One call of each provider that may be repeated as often as any.
fn operation(at: usize) -> &'static Operation {
    match at {
        0 => &palisade_stripe::operation::OPERATIONS[0],
        1 => &palisade_slack::operation::OPERATIONS[0],
        2 => &palisade_google::operation::MESSAGES_LIST,
        3 => &palisade_twilio::operation::CREATE_MESSAGE,
        _ => &palisade_sendgrid::operation::SEND_MAIL,
    }
}

async fn pipeline(what: u8, headers: &HeaderMap, says: &Says) {
    let providers = providers();
    let at = usize::from(what) % providers.len();
    let mut profile = providers[at].profile();
    let operation = operation(at);
    let limit_headers = match what / 8 % 4 {
        0 => None,
        1 => Some(LimitHeaders::Ietf),
        2 => Some(LimitHeaders::x_rate_limit(Reset::Epoch)),
        _ => Some(LimitHeaders::x_rate_limit(Reset::Delta)),
    };
    if let Some(headers) = limit_headers {
        let (scope, window) = (Default::default(), Some(Duration::from_secs(60)));
        profile.learned = Some(Learned { headers, scope, window, may_raise: what >= 64 });
    }
    let attempts_max = profile.retry.attempts_max;
    let credential = FixedCredential::new(&Scheme::Bearer(SENT[2].into())).expect("a credential");
    let client = Client::builder(profile, Arc::new(says.clone()), Arc::new(credential))
        .clock(Arc::new(ManualClock::starting_at(NOW)))
        .random(Arc::new(SeededRandom::new(1)))
        .build()
        .expect("the profile holds");
    let base_url = providers[at].manifest().base_url;
    for _ in 0..2 {
        let (asked, begun) = (says.asked(), Instant::now());
        let mut request = Request::get(base_url).body(Bytes::new()).expect("a request");
        request.extensions_mut().insert(Call::new(operation, "fuzz".into(), "fuzz".into()));
        if let Err(error) = client.send(request).await {
            of_error(&error);
        }
        let took = begun.elapsed();
        assert!(took <= operation.overall_timeout + ROUNDED, "the call took {took:?} after {headers:?}");
        // One more for a credential that was refused.
        assert!(says.asked() - asked <= attempts_max + 1, "{} attempts", says.asked() - asked);
    }
    let held: Option<Timestamp> = client.held_until(&"fuzz".into(), base_url).await;
    // The client's clock stands at the beginning: what is held is counted from there.
    let most = NOW.plus(HINT_MAX + JITTER + operation.overall_timeout * 2);
    assert!(held.is_none_or(|until| until <= most), "held until {held:?} after {headers:?}");
}
