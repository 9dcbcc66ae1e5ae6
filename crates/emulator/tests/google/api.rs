//! What neither the adapter nor Google's client looks at: the exact forms of refusals, tokens and quotas, in memory.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use palisade_emulator::google::{Google, GoogleConfig, Person, Quotas};
use serde_json::{Value, json};

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";
const ALL: &[&str] = &["https://mail.google.com/", "https://www.googleapis.com/auth/calendar"];

struct World {
    google: Google,
    token: String,
}

impl World {
    fn new(scopes: &[&str]) -> Self {
        let people = vec![Person::new(ADA, "Ada"), Person::new(BOB, "Bob")];
        let google = Google::offline(GoogleConfig { seed: 7, people, ..GoogleConfig::default() });
        let token = google.access_token(ADA, scopes);
        Self { google, token }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Response<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://www.googleapis.com{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("content-length", "1");
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        self.google.handle(request.body(body).unwrap()).await.unwrap()
    }

    async fn json(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.ask(method, path, body).await;
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.json("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }
}

/// Status, canonical name, reason, domain and place of a refusal.
type Told<'a> = (u16, Option<&'a str>, &'a str, &'a str, Option<&'a str>);

#[track_caller]
fn check(answer: &(u16, Value), expected: Told<'_>) {
    let error = &answer.1["error"];
    let first = &error["errors"][0];
    let told = (
        answer.0,
        error["status"].as_str(),
        first["reason"].as_str().unwrap_or_default(),
        first["domain"].as_str().unwrap_or_default(),
        first["location"].as_str(),
    );
    assert_eq!(told, expected, "{}", answer.1);
    assert_eq!(error["code"], answer.0);
    assert_eq!(error["message"], first["message"]);
}

#[tokio::test(start_paused = true)]
async fn refusals_have_googles_forms() {
    let world = World::new(ALL);
    let events = "/calendar/v3/calendars/primary/events";
    for (path, expected) in [
        ("/gmail/v1/users/me/messages/x", (404, Some("NOT_FOUND"), "notFound", "global", None)),
        ("/gmail/v1/users/me/history", (400, Some("INVALID_ARGUMENT"), "invalidArgument", "global", None)),
        ("/gmail/v1/users/me/history?startHistoryId=1", (404, Some("NOT_FOUND"), "notFound", "global", None)),
        (
            "/gmail/v1/users/me/messages?maxResults=0",
            (400, Some("INVALID_ARGUMENT"), "invalidArgument", "global", Some("maxResults")),
        ),
        ("/gmail/v1/users/bob%40example.com/profile", (403, Some("PERMISSION_DENIED"), "forbidden", "global", None)),
        (&format!("{events}?syncToken=x"), (400, None, "invalid", "global", Some("syncToken"))),
        (&format!("{events}?pageToken=x"), (400, None, "invalid", "global", Some("pageToken"))),
        (&format!("{events}?orderBy=startTime"), (400, None, "badRequest", "global", None)),
        (
            &format!("{events}?updatedMin=2020-01-01T00:00:00Z"),
            (410, None, "updatedMinTooLongAgo", "calendar", Some("updatedMin")),
        ),
        ("/calendar/v3/calendars/bob%40example.com/events", (404, None, "notFound", "global", None)),
    ] {
        check(&world.json("GET", path, None).await, expected);
    }
    let token = world.get(events).await["nextSyncToken"].as_str().unwrap().to_owned();
    world.google.forget_sync_tokens(ADA);
    let token = token.replace('=', "%3D");
    let gone = world.json("GET", &format!("{events}?syncToken={token}"), None).await;
    check(&gone, (410, None, "fullSyncRequired", "calendar", Some("syncToken")));
}

#[tokio::test(start_paused = true)]
async fn a_token_opens_what_its_scopes_name_and_nothing_else() {
    let world = World::new(&["https://www.googleapis.com/auth/gmail.metadata"]);
    let id = world.google.receive(ADA, "s", "t").unwrap();
    world.get("/gmail/v1/users/me/profile").await;
    world.get(&format!("/gmail/v1/users/me/messages/{id}?format=metadata")).await;
    for path in ["/gmail/v1/users/me/messages?q=x".to_owned(), format!("/gmail/v1/users/me/messages/{id}")] {
        let refused = world.json("GET", &path, None).await;
        check(&refused, (403, Some("PERMISSION_DENIED"), "forbidden", "global", None));
    }
    let refused = world.json("GET", "/calendar/v3/calendars/primary/events", None).await;
    check(&refused, (403, Some("PERMISSION_DENIED"), "insufficientPermissions", "global", None));
    assert_eq!(refused.1["error"]["details"][0]["reason"], "ACCESS_TOKEN_SCOPE_INSUFFICIENT");
    let stranger = World { token: "ya29.nobody".to_owned(), ..world };
    let answer = stranger.ask("GET", "/gmail/v1/users/me/profile", None).await;
    assert_eq!(answer.status(), 401);
    assert!(answer.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    assert_eq!(stranger.google.ledger().auth_failures, 1);
    let account = "palisade@emulated-project.iam.gserviceaccount.com";
    let account = World { token: stranger.google.access_token(account, ALL), google: stranger.google };
    let refused = account.json("GET", "/gmail/v1/users/me/profile", None).await;
    check(&refused, (400, Some("FAILED_PRECONDITION"), "failedPrecondition", "global", None));
    account.get("/calendar/v3/calendars/primary/events").await;
}

/// Fails when a mail is lost between two people of the emulator, or its blind copy is shown.
#[tokio::test(start_paused = true)]
async fn a_mail_arrives_at_the_other_person_without_its_blind_copy() {
    let world = World::new(ALL);
    let raw = "To: bob@example.com\r\nBcc: ada@example.com\r\nSubject: hi\r\n\r\nx";
    let raw = URL_SAFE_NO_PAD.encode(raw);
    let (status, sent) = world.json("POST", "/gmail/v1/users/me/messages/send", Some(json!({ "raw": raw }))).await;
    assert_eq!((status, &sent["labelIds"]), (200, &json!(["SENT", "INBOX", "UNREAD"])));
    let headers = |email: &str| {
        let all = world.google.messages(email);
        let one = all.values().next().unwrap().clone();
        one["payload"]["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(headers(ADA).contains(&"Bcc".to_owned()));
    assert!(!headers(BOB).contains(&"Bcc".to_owned()) && headers(BOB).contains(&"From".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_is_used_up_says_so_as_each_api_does() {
    let world = World::new(ALL);
    world.google.set_quotas(Quotas { gmail_user: 2, calendar_user: 1, ..Quotas::default() });
    world.get("/gmail/v1/users/me/profile").await;
    world.get("/gmail/v1/users/me/profile").await;
    let refused = world.json("GET", "/gmail/v1/users/me/profile", None).await;
    check(&refused, (429, Some("RESOURCE_EXHAUSTED"), "rateLimitExceeded", "global", None));
    assert!(refused.1["error"]["message"].as_str().unwrap().starts_with("User-rate limit exceeded.  Retry after 20"));
    world.get("/calendar/v3/users/me/calendarList").await;
    let refused = world.json("GET", "/calendar/v3/users/me/calendarList", None).await;
    check(&refused, (403, None, "userRateLimitExceeded", "usageLimits", None));
    tokio::time::advance(Duration::from_secs(60)).await;
    world.get("/calendar/v3/users/me/calendarList").await;
    assert_eq!(world.google.ledger().throttles_by_reason["user"], 2);
}

/// Fails when the control plane does less than the story methods.
#[tokio::test(start_paused = true)]
async fn the_control_plane_plays_people() {
    let world = World::new(ALL);
    let post = async |path: &str, body: Value| {
        let (status, value) = world.json("POST", &format!("/_emulator/{path}"), Some(body)).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    };
    let token = post("token", json!({ "email": BOB, "scopes": ALL })).await;
    assert!(token["access_token"].as_str().unwrap().starts_with("ya29."));
    let id = post("receive", json!({ "to": ADA, "subject": "hi" })).await["id"].as_str().unwrap().to_owned();
    post("relabel", json!({ "email": ADA, "id": id, "add": ["STARRED"] })).await;
    post("calendar", json!({ "owner": ADA, "id": "team@group.calendar.google.com" })).await;
    post("populate", json!({ "email": ADA, "messages": 3, "events": 4 })).await;
    post("mutate", json!({ "email": ADA, "random": 10, "seed": 1 })).await;
    post("limits", json!({ "limits": false })).await;
    post("forget", json!({ "email": ADA, "history": true })).await;
    let event = json!({ "summary": "x", "start": { "date": "2026-01-01" }, "end": { "date": "2026-01-02" } });
    let made = post("event", json!({ "calendar": ADA, "event": event })).await["id"].as_str().unwrap().to_owned();
    post("event", json!({ "calendar": ADA, "id": made, "cancel": true })).await;
    let truth = world.get("/_emulator/truth").await;
    assert_eq!(truth[ADA]["events"], json!(world.google.events(ADA)));
    assert!(!world.google.events(ADA).contains_key(&made));
    let calendars = world.get("/calendar/v3/users/me/calendarList").await;
    assert_eq!(calendars["items"].as_array().unwrap().len(), 2);
    let (status, _) = world.json("POST", "/_emulator/relabel", Some(json!({ "email": ADA, "id": "none" }))).await;
    assert_eq!(status, 400);
}
