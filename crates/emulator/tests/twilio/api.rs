//! The messages of an account: what each request gives, what it refuses, page by page; and the dials.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_emulator::twilio::TwilioConfig;
use palisade_emulator::{Cut, Fault, RetryAfter, RouteFaults};
use serde_json::{Value, json};

use super::support::{Account, FROM, TO, basic, header};

const SEND: &str = "POST /2010-04-01/Accounts/{sid}/Messages.json";
const TEXT: [(&str, &str); 3] = [("To", TO), ("From", FROM), ("Body", "Your table is ready")];
const SERVICE: &str = "MG00000000000000000000000000000000";

/// Gives the text with further fields; an empty value takes a field out.
fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = TEXT.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    kept.chain(more.iter().copied().filter(|(_, value)| !value.is_empty())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_lives_from_sending_to_deletion() {
    let account = Account::new();
    let (status, made) = account.call("POST", "/Messages.json", &TEXT).await;
    assert_eq!(
        (status, made["status"].as_str(), made["direction"].as_str()),
        (201, Some("queued"), Some("outbound-api"))
    );
    assert_eq!((&made["date_sent"], &made["error_code"]), (&Value::Null, &Value::Null), "it was not sent yet");
    assert_eq!((made["num_segments"].as_str(), made["num_media"].as_str()), (Some("1"), Some("0")), "counts are texts");
    let sid = made["sid"].as_str().unwrap().to_owned();
    let path = format!("/Messages/{sid}.json");
    assert_eq!(made["uri"], json!(account.path(&path)));
    let (_, shown) = account.call("GET", &path, &[]).await;
    assert_eq!(shown["status"], "delivered");
    assert_eq!(shown["date_sent"], "Thu, 01 Jan 2026 00:00:00 +0000");
    assert_eq!(shown, account.twilio.truth()[&sid]);
    let (status, empty) = account.call("POST", &path, &[("Body", "")]).await;
    assert_eq!((status, empty["body"].as_str()), (200, Some("")));
    assert_eq!(account.call("POST", &path, &[("Body", "another")]).await.1["code"], 20001, "a text is not exchanged");
    assert_eq!(account.call("DELETE", &path, &[]).await, (204, Value::Null));
    let (status, gone) = account.call("GET", &path, &[]).await;
    assert_eq!((status, gone["code"].as_u64()), (404, Some(20404)));
    assert_eq!(account.call("DELETE", &path, &[]).await.0, 404);
    assert!(account.twilio.truth().is_empty());
    let (status, own) = account.call("GET", ".json", &[]).await;
    assert_eq!((status, own["status"].as_str()), (200, Some("active")));
}

/// Fails when a message that must not go out is taken, or refused by another code.
#[tokio::test(start_paused = true)]
async fn sending_is_refused_as_twilio_refuses_it() {
    let account = Account::new();
    let (long, fits) = ("x".repeat(1_601), "é".repeat(1_600));
    let media = "https://example.com/a.jpg";
    let eleven: Vec<(&str, &str)> = with(&[]).into_iter().chain([("MediaUrl", media); 11]).collect();
    let cases: Vec<(Vec<(&str, &str)>, u64)> = vec![
        (with(&[("To", "")]), 21604),
        (with(&[("To", "bad")]), 21211),
        (with(&[("To", "15005550010")]), 21211),
        (with(&[("To", "+150055")]), 21211),
        (with(&[("To", "+15005550001")]), 21211),
        (with(&[("To", "+15005550002")]), 21612),
        (with(&[("To", "+15005550003")]), 21408),
        (with(&[("To", "+15005550004")]), 21610),
        (with(&[("To", "+15005550009")]), 21614),
        (with(&[("From", "")]), 21603),
        (with(&[("From", "+15005550099")]), 21606),
        (with(&[("From", ""), ("MessagingServiceSid", "MG1")]), 21705),
        (with(&[("Body", "")]), 21619),
        (with(&[("Body", &long)]), 21617),
        (with(&[("MediaUrl", "no url")]), 21620),
        (eleven, 21623),
        (with(&[("StatusCallback", "nowhere")]), 21609),
        (with(&[("ValidityPeriod", "0")]), 20001),
        (with(&[("ValidityPeriod", "36001")]), 20001),
        (with(&[("SendAt", "2026-01-02T00:00:00Z")]), 35111),
        (with(&[("SendAt", "soon"), ("ScheduleType", "fixed")]), 35114),
        (with(&[("SendAt", "2026-01-02T00:00:00Z"), ("ScheduleType", "fixed")]), 35118),
    ];
    for (form, code) in cases {
        assert_eq!(account.refused(&form).await, (400, code), "{form:?}");
    }
    assert!(account.twilio.truth().is_empty(), "nothing went out");
    account.message(&with(&[("Body", &fits)])).await;
    let json = Request::post(account.path("/Messages.json"))
        .header("authorization", basic(account.twilio.account_sid(), &account.twilio.auth_token()))
        .header("content-type", "application/json")
        .body(Bytes::from_static(b"{\"To\":\"+15005550010\"}"))
        .unwrap();
    assert_eq!(account.twilio.handle(json).await.unwrap().status(), 415, "JSON is not understood");
    let (status, nowhere) = account.call("GET", "/Calls.json", &[]).await;
    assert_eq!((status, nowhere["code"].as_u64()), (404, Some(20404)));
}

/// Fails when somebody without a credential is let in, or when a credential that was taken back still works.
#[tokio::test(start_paused = true)]
async fn credentials_are_asked_for() {
    let account = Account::new();
    let (sid, token) = (account.twilio.account_sid().to_owned(), account.twilio.auth_token());
    let ask = async |credential: Option<String>| {
        let mut request = Request::get(account.path("/Messages.json"));
        if let Some(credential) = credential {
            request = request.header("authorization", credential);
        }
        let answer = account.twilio.handle(request.body(Bytes::new()).unwrap()).await.unwrap();
        assert!(header_of(&answer, "twilio-request-id").starts_with("RQ"));
        answer.status().as_u16()
    };
    assert_eq!(ask(Some(basic(&sid, &token))).await, 200);
    assert_eq!(ask(Some(basic("SK11111111111111111111111111111111", "twilio_emulator_secret"))).await, 200);
    for refused in [
        None,
        Some(format!("Bearer {token}")),
        Some("Basic !".to_owned()),
        Some(basic(&sid, "another")),
        Some(basic("AC11111111111111111111111111111111", &token)),
        Some(basic("SK11111111111111111111111111111111", &token)),
    ] {
        assert_eq!(ask(refused.clone()).await, 401, "{refused:?}");
    }
    account.twilio.set_auth_token("fresh");
    assert_eq!((ask(Some(basic(&sid, &token))).await, ask(Some(basic(&sid, "fresh"))).await), (401, 200));
    assert_eq!(account.twilio.ledger().auth_failures, 7);
    let other = account.send("GET", "/2010-04-01/Accounts/AC11111111111111111111111111111111/Messages.json", &[]).await;
    assert_eq!(other.status(), 404, "somebody else's account is not there");
}

fn header_of<'a>(response: &'a http::Response<Bytes>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Fails when a page repeats a message, leaves one out, or goes astray when messages come and go.
#[tokio::test(start_paused = true)]
async fn every_message_is_listed_once_whatever_the_page_size() {
    let account = Account::new();
    account.twilio.populate(23);
    for size in [1, 2, 7, 23, 24, 1_000] {
        let (sids, pages) = account.walk(account.path(&format!("/Messages.json?PageSize={size}"))).await;
        assert_eq!(pages, 23_usize.div_ceil(size), "pages of {size}");
        let mut sorted = sids.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 23, "pages of {size}");
    }
    let (all, _) = account.walk(account.path("/Messages.json")).await;
    let page = account.call("GET", "/Messages.json?PageSize=5&To=%2B15550000003", &[]).await.1;
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["next_page_uri"]), (1, &Value::Null));
    let page = account.call("GET", "/Messages.json?PageSize=5&From=%2B15005550001", &[]).await.1;
    let next = page["next_page_uri"].as_str().unwrap();
    assert!(next.starts_with("/2010-04-01/") && next.contains("From=%2B15005550001"), "filters stay: {next}");
    // The message the next page begins behind goes, and a new one comes: nothing is repeated or left out.
    assert!(account.twilio.delete(&all[4]));
    account.message(&TEXT).await;
    assert_eq!(account.walk(next.to_owned()).await.0, all[5..]);
    for (query, code) in
        [("PageSize=1001", 20007), ("PageSize=0", 20007), ("PageSize=x", 20001), ("PageToken=PAx", 20006)]
    {
        let (status, why) = account.call("GET", &format!("/Messages.json?{query}"), &[]).await;
        assert_eq!((status, why["code"].as_u64()), (400, Some(code)), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn days_and_moments_bound_a_list_inclusively() {
    let account = Account::new();
    // One a minute from 23:50 of the day before.
    account.twilio.populate(10);
    for (query, count) in [
        ("DateSent=2025-12-31", 10),
        ("DateSent=2026-01-01", 0),
        ("DateSent%3E=2025-12-31T23%3A55%3A00Z", 5),
        ("DateSent%3C=2025-12-31T23%3A55%3A00Z", 6),
        ("DateSent%3C=2025-12-30", 0),
        ("DateSent%3E=2025-12-31T23%3A52%3A00Z&DateSent%3C=2025-12-31T23%3A54%3A00Z", 3),
    ] {
        let (sids, _) = account.walk(account.path(&format!("/Messages.json?PageSize=2&{query}"))).await;
        assert_eq!(sids.len(), count, "{query}");
    }
    assert_eq!(account.call("GET", "/Messages.json?DateSent=soon", &[]).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_message_waits_and_can_be_called_back() {
    let account = Account::new();
    let scheduled = |at: &'static str| {
        with(&[("From", ""), ("MessagingServiceSid", SERVICE), ("SendAt", at), ("ScheduleType", "fixed")])
    };
    for (at, code) in [("2026-01-01T00:04:59Z", 35114), ("2026-02-05T00:00:01Z", 35114)] {
        assert_eq!(account.refused(&scheduled(at)).await, (400, code), "{at}");
    }
    let sid = account.message(&scheduled("2026-01-01T00:05:00Z")).await;
    let path = format!("/Messages/{sid}.json");
    let (_, shown) = account.call("GET", &path, &[]).await;
    assert_eq!((shown["status"].as_str(), &shown["from"]), (Some("scheduled"), &Value::Null));
    assert_eq!(account.call("POST", &path, &[("Status", "canceled")]).await.1["status"], "canceled");
    assert_eq!(account.call("POST", &path, &[("Status", "canceled")]).await.1["code"], 30409);
    let sid = account.message(&with(&[("From", ""), ("MessagingServiceSid", SERVICE)])).await;
    assert_eq!(account.twilio.truth()[&sid]["from"], FROM, "the service chose");
}

/// Fails when somebody who wrote STOP is written to, or when that holds another sender back.
#[tokio::test(start_paused = true)]
async fn people_opt_out_of_one_sender_and_in_again() {
    let account = Account::new();
    for (word, refused) in
        [("stop", true), ("START", false), (" Unsubscribe ", true), ("stop it", true), ("yes", false)]
    {
        account.twilio.receive(TO, FROM, word, &[]);
        let (status, answer) = account.call("POST", "/Messages.json", &TEXT).await;
        assert_eq!((status == 400, answer["code"] == 21610), (refused, refused), "{word}: {answer}");
    }
    account.twilio.receive(TO, FROM, "STOP", &[]);
    account.message(&with(&[("From", "+15005550001")])).await;
    assert_eq!(account.refused(&with(&[("From", ""), ("MessagingServiceSid", SERVICE)])).await, (400, 21610));
}

/// Fails when a budget that is used up lets a request through, or a refused one changes something.
#[tokio::test(start_paused = true)]
async fn a_budget_throttles_in_twilios_words_and_the_ledger_sees_who_comes_too_early() {
    let account = Account::new();
    account.twilio.faults().set(RouteFaults {
        route: SEND.to_owned(),
        budget: Some(1),
        burst: Some(2),
        retry_after: RetryAfter::Seconds(1),
        ..RouteFaults::default()
    });
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(account.call("POST", "/Messages.json", &TEXT).await.0);
    }
    assert_eq!((statuses, account.twilio.truth().len()), (vec![201, 201, 429, 429], 2));
    tokio::time::advance(Duration::from_millis(600)).await;
    let over = account.send("POST", &account.path("/Messages.json"), &TEXT).await;
    assert_eq!((over.status().as_u16(), header_of(&over, "retry-after")), (429, "1"));
    assert_eq!(serde_json::from_slice::<Value>(over.body()).unwrap()["code"], 20429);
    assert_eq!(account.call("GET", "/Messages.json", &[]).await.0, 200, "another route is not held back");
    tokio::time::advance(Duration::from_secs(1)).await;
    account.message(&TEXT).await;
    let ledger = account.twilio.ledger();
    assert_eq!(
        (ledger.throttles, ledger.early_after_retry_after),
        (3, 1),
        "those at the same moment were on their way"
    );
    assert_eq!(ledger.throttles_by_reason["endpoint-rate"], 3);
}

/// Fails when a fault before the change sends a message, or one after it does not.
#[tokio::test(start_paused = true)]
async fn faults_fall_before_or_after_the_change_and_speak_twilios_language() {
    for (fault, made, status, json) in [
        (Fault::ResetBefore, 0, None, false),
        (Fault::HangBefore, 0, None, false),
        (Fault::ResetAfter, 1, None, false),
        (Fault::HangAfter, 1, None, false),
        (Fault::CutBody, 1, None, false),
        (Fault::Status(500), 0, Some(500), true),
        (Fault::Status(502), 0, Some(502), false),
        (Fault::Status(503), 0, Some(503), true),
        (Fault::StatusAfter(500), 1, Some(500), true),
        (Fault::Throttle(RetryAfter::None), 0, Some(429), true),
        (Fault::Refuse("21212".to_owned()), 0, Some(400), true),
        (Fault::Html, 1, Some(201), false),
        (Fault::Garbage, 1, Some(201), false),
        (Fault::Latency(Duration::from_secs(3)), 1, Some(201), true),
    ] {
        let account = Account::of(|config| TwilioConfig { delivers: false, ..config });
        account.twilio.faults().next(SEND, [fault.clone()]);
        let answer = account.try_send("POST", &account.path("/Messages.json"), &TEXT).await;
        assert_eq!(account.twilio.truth().len(), made, "{fault:?}");
        match answer {
            Ok(answer) => {
                assert_eq!(Some(answer.status().as_u16()), status, "{fault:?}");
                let body = serde_json::from_slice::<Value>(answer.body());
                assert_eq!(body.is_ok(), json, "{fault:?}");
                if let (Ok(body), true) = (body, answer.status().as_u16() >= 400) {
                    assert!(body["code"].is_u64() && body["message"].is_string(), "{fault:?}: {body}");
                }
            }
            Err(Cut::Reset | Cut::Hang | Cut::CutBody { .. }) => assert_eq!(status, None, "{fault:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_identifiers() {
    let mut sids = Vec::new();
    for seed in [7, 7, 8] {
        let account = Account::of(|config| TwilioConfig { seed, ..config });
        sids.push(account.message(&TEXT).await);
    }
    assert!(sids[0] == sids[1] && sids[1] != sids[2], "{sids:?}");
    assert!(sids[0].len() == 34 && sids[0].starts_with("SM"));
    let account = Account::new();
    let media = account.message(&with(&[("MediaUrl", "https://example.com/a.jpg")])).await;
    assert!(media.starts_with("MM"), "{media}");
}

/// Fails when the control plane does something else than the story methods.
#[tokio::test(start_paused = true)]
async fn the_control_plane_tells_the_same_stories() {
    let account = Account::of(|config| TwilioConfig { delivers: false, ..config });
    let control = async |method: &str, path: &str, body: Value| {
        let request = Request::builder().method(method).uri(format!("/_emulator/{path}"));
        let answer = account.twilio.handle(request.body(Bytes::from(body.to_string())).unwrap()).await.unwrap();
        serde_json::from_slice::<Value>(answer.body()).unwrap()
    };
    control("POST", "populate", json!({ "messages": 4 })).await;
    control("POST", "inbound", json!({ "url": super::support::HOOK })).await;
    let inbound = control("POST", "receive", json!({ "from": TO, "to": FROM, "body": "hi" })).await;
    assert_eq!(control("GET", "waiting", Value::Null).await["deliveries"], 1);
    account.twilio.drain_webhooks().await;
    let sid = account.message(&TEXT).await;
    control("POST", "report", json!({ "sid": sid, "status": "failed", "error_code": 30008 })).await;
    let truth = control("GET", "truth", Value::Null).await;
    assert_eq!(truth.as_object().unwrap().len(), 6);
    assert_eq!((truth[&sid]["status"].as_str(), truth[&sid]["error_code"].as_u64()), (Some("failed"), Some(30008)));
    assert_eq!(truth[inbound["sid"].as_str().unwrap()]["direction"], "inbound");
    assert!(control("POST", "report", json!({ "sid": "SM0", "status": "sent" })).await["error"].is_string());
    control("POST", "keys", json!({ "shared_key": ["webhooks_sharedkey_1", "s"] })).await;
    control("POST", "receive", json!({ "from": TO, "to": FROM })).await;
    account.twilio.drain_webhooks().await;
    control("POST", "keys", json!({ "auth_token": "fresh" })).await;
    assert_eq!(account.twilio.auth_token(), "fresh");
    control("POST", "receive", json!({ "from": TO, "to": FROM })).await;
    account.twilio.drain_webhooks().await;
    let got = account.receiver.take_raw();
    let settings: Vec<&str> = got.iter().map(|one| header(one, "x-twilio-webhooks-signature-settings")).collect();
    assert_eq!(settings, ["", "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256", ""]);
    let ledger = control("GET", "ledger", Value::Null).await;
    assert_eq!(ledger["webhooks"]["acked"], 3, "{ledger}");
}
