//! What Twilio posts: signed by the token or the shared key, retried as the URL's fragment asks, and the dials.

use std::time::Duration;

use http::Request;
use palisade_emulator::WebhookFaults;
use palisade_emulator::twilio::{Algorithm, TwilioConfig, signature};

use super::support::{Account, Answer, FROM, HOOK, TO, form, header};

const TOKEN: &str = "twilio_emulator_auth_token";

fn told(at: &str) -> [(&str, &str); 4] {
    [("To", TO), ("From", FROM), ("Body", "hi"), ("StatusCallback", at)]
}

/// Tells whether a delivery is signed by an algorithm and a key, for the address without its fragment.
fn is_signed(request: &Request<bytes::Bytes>, algorithm: Algorithm, key: &str) -> bool {
    header(request, "x-twilio-signature") == signature(algorithm, key, HOOK, request.body())
}

/// Fails when a step of a message is not told, told twice, out of order or without its fields.
#[tokio::test(start_paused = true)]
async fn each_step_of_a_message_is_told_once_in_order() {
    let account = Account::new();
    let sid = account.message(&told(HOOK)).await;
    account.twilio.drain_webhooks().await;
    let got = account.receiver.take_raw();
    let forms: Vec<_> = got.iter().map(form).collect();
    let steps: Vec<&str> = forms.iter().map(|form| form["MessageStatus"].as_str()).collect();
    assert_eq!(steps, ["queued", "sending", "sent", "delivered"]);
    for (request, form) in got.iter().zip(&forms) {
        assert_eq!(request.uri(), HOOK);
        assert!(header(request, "content-type").starts_with("application/x-www-form-urlencoded"));
        assert!(is_signed(request, Algorithm::Sha1, TOKEN));
        assert_eq!(header(request, "x-twilio-webhooks-signature-settings"), "");
        for (name, value) in [
            ("MessageSid", sid.as_str()),
            ("SmsSid", &sid),
            ("AccountSid", account.twilio.account_sid()),
            ("To", TO),
            ("From", FROM),
            ("SmsStatus", &form["MessageStatus"]),
        ] {
            assert_eq!(form[name], value, "{name}");
        }
        assert!(!form.contains_key("ErrorCode") && !form.contains_key("MessagingServiceSid"));
    }
    let mut tokens: Vec<&str> = got.iter().map(|request| header(request, "i-twilio-idempotency-token")).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "each delivery has its own");
    assert_eq!(account.twilio.ledger().webhooks.acked, 4);
    account.message(&[("To", TO), ("From", FROM), ("Body", "hi")]).await;
    account.twilio.drain_webhooks().await;
    assert!(account.receiver.take_raw().is_empty(), "who asks for no callback gets none");
}

#[tokio::test(start_paused = true)]
async fn a_carriers_report_is_told_with_its_code() {
    let account = Account::of(|config| TwilioConfig { delivers: false, ..config });
    let sid = account.message(&told(HOOK)).await;
    assert!(account.twilio.report(&sid, "sent", None) && account.twilio.report(&sid, "undelivered", Some(30_003)));
    assert!(!account.twilio.report("SM0", "sent", None));
    account.twilio.drain_webhooks().await;
    let got = account.receiver.take_raw();
    let last = form(&got[1]);
    assert_eq!((got.len(), last["MessageStatus"].as_str(), last["ErrorCode"].as_str()), (2, "undelivered", "30003"));
    let shown = &account.twilio.truth()[&sid];
    assert_eq!((shown["status"].as_str(), shown["error_code"].as_u64()), (Some("undelivered"), Some(30_003)));
    assert!(shown["date_sent"].is_string());
}

#[tokio::test(start_paused = true)]
async fn what_people_write_is_posted_with_media_and_keywords() {
    let account = Account::of(|config| TwilioConfig { inbound_url: Some(HOOK.to_owned()), ..config });
    for (body, media, kind) in [
        ("Grüße & mehr = 1", ["https://media.invalid/1", "https://media.invalid/2"].as_slice(), None),
        ("Stop", &[], Some("STOP")),
        ("help", &[], Some("HELP")),
        ("unstop", &[], Some("START")),
    ] {
        let sid = account.twilio.receive(TO, FROM, body, media);
        account.twilio.drain_webhooks().await;
        let [request] = account.receiver.take_raw().try_into().unwrap();
        let form = form(&request);
        assert!(is_signed(&request, Algorithm::Sha1, TOKEN));
        assert_eq!((form["MessageSid"].as_str(), form["Body"].as_str()), (sid.as_str(), body));
        assert_eq!((form["From"].as_str(), form["To"].as_str(), form["SmsStatus"].as_str()), (TO, FROM, "received"));
        assert_eq!(form["NumMedia"], media.len().to_string());
        assert_eq!(form.get("MediaUrl1").map(String::as_str), media.get(1).copied());
        assert_eq!(form.get("OptOutType").map(String::as_str), kind, "{body}");
        assert_eq!(account.twilio.truth()[&sid]["direction"], "inbound");
    }
    account.twilio.set_inbound_url(None);
    account.twilio.receive(TO, FROM, "hi", &[]);
    assert_eq!(account.twilio.webhooks_waiting(), 0);
}

/// Fails when a shared key does not sign in the token's place, or signs without saying so.
#[tokio::test(start_paused = true)]
async fn a_shared_key_signs_with_sha256_and_says_so() {
    let account = Account::of(|config| TwilioConfig {
        inbound_url: Some(HOOK.to_owned()),
        shared_key: Some(("webhooks_sharedkey_1".to_owned(), "s1".to_owned())),
        ..config
    });
    let first = async |account: &Account| {
        account.twilio.receive(TO, FROM, "hi", &[]);
        account.twilio.drain_webhooks().await;
        account.receiver.take_raw().remove(0)
    };
    let request = first(&account).await;
    let settings = header(&request, "x-twilio-webhooks-signature-settings");
    assert_eq!(settings, "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256");
    assert!(is_signed(&request, Algorithm::Sha256, "s1") && !is_signed(&request, Algorithm::Sha1, TOKEN));
    account.twilio.set_shared_key(Some(("webhooks_sharedkey_2", "s2")));
    let request = first(&account).await;
    assert!(is_signed(&request, Algorithm::Sha256, "s2"));
    account.twilio.set_shared_key(None);
    account.twilio.set_auth_token("fresh");
    let request = first(&account).await;
    assert!(is_signed(&request, Algorithm::Sha1, "fresh"));
    assert_eq!(header(&request, "x-twilio-webhooks-signature-settings"), "");
}

/// Fails when a delivery is tried more or less often than its URL asks, or under another token.
#[tokio::test(start_paused = true)]
async fn deliveries_are_tried_again_as_the_fragment_asks() {
    use Answer::{Hang, Refuse, Status};
    for (fragment, answers, attempts) in [
        ("", vec![Refuse, Refuse], 2),
        ("", vec![Status(500), Status(500)], 1),
        ("", vec![Hang], 1),
        ("#rc=3", vec![Refuse; 9], 4),
        ("#rc=9", vec![Refuse; 9], 6),
        ("#rc=0", vec![Refuse; 9], 1),
        ("#rc=2&rp=5xx", vec![Status(503); 9], 3),
        ("#rc=2&rp=5xx", vec![Status(404); 9], 1),
        ("#rc=2&rp=4xx", vec![Status(404); 9], 3),
        ("#rc=2&rp=4xx", vec![Status(503); 9], 1),
        ("#rc=2&rp=rt", vec![Hang; 9], 3),
        ("#rc=2&rp=rt", vec![Refuse; 9], 1),
        ("#rc=5&rp=ct,5xx", vec![Refuse, Status(500), Status(200), Refuse], 3),
        ("#rc=5&rp=all", vec![Refuse, Status(500), Status(400), Hang, Status(204)], 5),
    ] {
        let account = Account::of(|config| TwilioConfig { inbound_url: Some(format!("{HOOK}{fragment}")), ..config });
        account.receiver.will(&answers);
        account.twilio.receive(TO, FROM, "hi", &[]);
        account.twilio.drain_webhooks().await;
        let got = account.receiver.take_raw();
        assert_eq!(got.len(), attempts, "{fragment} {answers:?}");
        for one in &got {
            assert_eq!(one.uri(), HOOK, "the fragment is not sent");
            assert!(is_signed(one, Algorithm::Sha1, TOKEN), "nor signed");
            assert_eq!(header(one, "i-twilio-idempotency-token"), header(&got[0], "i-twilio-idempotency-token"));
            assert_eq!(one.body(), got[0].body());
        }
        let webhooks = account.twilio.ledger().webhooks;
        assert_eq!(webhooks.attempted, attempts as u64, "{fragment}");
        assert_eq!(webhooks.retried, attempts as u64 - 1, "{fragment}");
        assert_eq!(webhooks.acked + webhooks.abandoned, 1, "{fragment}: it ends");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_has_fifteen_seconds() {
    let account = Account::of(|config| TwilioConfig { inbound_url: Some(format!("{HOOK}#rc=1&rp=rt")), ..config });
    account.receiver.will(&[Answer::Hang]);
    let begun = tokio::time::Instant::now();
    account.twilio.receive(TO, FROM, "hi", &[]);
    account.twilio.drain_webhooks().await;
    assert_eq!(begun.elapsed(), Duration::from_millis(15_100));
    assert_eq!((account.receiver.take_raw().len(), account.twilio.ledger().webhooks.acked), (2, 1));
}

/// Fails when a forged delivery is signed as a true one, or a dial does something else than it says.
#[tokio::test(start_paused = true)]
async fn webhooks_are_forged_repeated_and_dropped_as_the_dials_ask() {
    let account = Account::new();
    account.twilio.faults().webhooks(WebhookFaults {
        duplicate: 1.0,
        forge: 1.0,
        replay: 1.0,
        ..WebhookFaults::default()
    });
    account.message(&told(HOOK)).await;
    account.twilio.drain_webhooks().await;
    let got = account.receiver.take_raw();
    let (own, forged): (Vec<_>, Vec<_>) = got.iter().partition(|one| is_signed(one, Algorithm::Sha1, TOKEN));
    assert_eq!((own.len(), forged.len()), (8, 4), "two of each, one forged; an old one cannot be told, so none");
    let webhooks = account.twilio.ledger().webhooks;
    assert_eq!(
        (webhooks.duplicated, webhooks.forged, webhooks.forged_accepted),
        (4, 4, 4),
        "the receiver took them all"
    );
    account.twilio.faults().webhooks(WebhookFaults { drop: 1.0, ..WebhookFaults::default() });
    account.message(&told(HOOK)).await;
    account.twilio.drain_webhooks().await;
    assert!(account.receiver.take_raw().is_empty());
    assert_eq!(account.twilio.ledger().webhooks.dropped, 4);
    account.twilio.faults().webhooks(WebhookFaults { reorder: 1.0, ..WebhookFaults::default() });
    let mut mixed = false;
    for _ in 0..10 {
        account.message(&told(HOOK)).await;
        account.twilio.drain_webhooks().await;
        let steps: Vec<_> = account.receiver.take_raw().iter().map(|one| form(one)["MessageStatus"].clone()).collect();
        assert_eq!(steps.len(), 4);
        mixed |= steps != ["queued", "sending", "sent", "delivered"];
    }
    assert!(mixed, "order is not kept");
}
