//! What is sent to authorisation servers, and what their answers mean.

use super::*;
use crate::auth::testing::Script;
use crate::error::Outcome;

mod google;
mod slack;

pub(in crate::auth) use google::google;
pub(in crate::auth) use slack::{both, slack};

const TOKEN_URL: &str = "https://id.example/token";

pub(in crate::auth) fn config() -> OAuth2Config {
    OAuth2Config::new("acme", "https://id.example/authorize", TOKEN_URL, "https://app.example/callback", "client 1")
        .secret("s3cret/+".into())
        .scopes(&["read", "write"])
}

fn flow(config: OAuth2Config) -> (Script, OAuth2Flow) {
    let script = Script::default();
    let flow = OAuth2Flow::new(config, script.transport()).unwrap();
    (script, flow)
}

fn ask(renewal: Renewal) -> RenewalAsk {
    RenewalAsk {
        name: MAIN.into(),
        renewal,
        requested: vec!["read".to_owned(), "write".to_owned()],
        granted: vec!["read".to_owned()],
        now: crate::clock::Timestamp(0),
    }
}

fn refresh_token() -> RenewalAsk {
    ask(Renewal::RefreshToken("rt-old".into()))
}

/// A failure as one word, with the code that is kept of it.
fn told(failure: &RenewalFailure) -> (&'static str, Option<&str>) {
    match failure {
        RenewalFailure::Passing { error, .. } => ("passing", error.code()),
        RenewalFailure::Over(error) => ("over", error.code()),
        RenewalFailure::Lost(error) => ("lost", error.code()),
        RenewalFailure::Wrong(error) => ("wrong", error.code()),
    }
}

/// Fails when a status kills a grant, when a code other than `invalid_grant` does, or when `invalid_grant` does not.
#[tokio::test(start_paused = true)]
async fn a_grant_is_over_by_its_code_alone() {
    for (status, body, meaning) in [
        (
            400,
            r#"{"error":"invalid_grant","error_description":"Token has been revoked: rt-old"}"#,
            ("over", Some("invalid_grant")),
        ),
        (401, r#"{"error":"invalid_grant"}"#, ("over", Some("invalid_grant"))),
        (403, r#"{"error":"invalid_grant"}"#, ("over", Some("invalid_grant"))),
        (500, r#"{"error":"invalid_grant"}"#, ("passing", Some("invalid_grant"))),
        (400, r#"{"error":"temporarily_unavailable"}"#, ("passing", Some("temporarily_unavailable"))),
        (400, r#"{"error":"internal_failure"}"#, ("passing", Some("internal_failure"))),
        (400, r#"{"error":"server_error"}"#, ("passing", Some("server_error"))),
        (408, "", ("passing", None)),
        (425, "", ("passing", None)),
        (429, "slow down", ("passing", None)),
        (500, "<html>", ("passing", None)),
        (502, "", ("passing", None)),
        (503, r#"{"error":"whatever"}"#, ("passing", Some("whatever"))),
        (401, r#"{"error":"invalid_client"}"#, ("wrong", Some("invalid_client"))),
        (400, r#"{"error":"unauthorized_client"}"#, ("wrong", Some("unauthorized_client"))),
        (400, r#"{"error":"invalid_scope"}"#, ("wrong", Some("invalid_scope"))),
        (400, r#"{"error":"invalid_request"}"#, ("wrong", Some("invalid_request"))),
        (400, r#"{"error":"of their own"}"#, ("wrong", None)),
        (400, r#"{"error":{"type":"invalid_grant"}}"#, ("wrong", None)),
        (400, "invalid_grant", ("wrong", None)),
        (401, "", ("wrong", None)),
        (403, "<html>a proxy</html>", ("wrong", None)),
        (404, "", ("wrong", None)),
        (302, "", ("wrong", None)),
        (200, "", ("lost", None)),
        (200, "<html>", ("lost", None)),
        (200, "[]", ("lost", None)),
        (200, r#"{"token_type":"bearer"}"#, ("lost", None)),
        (200, r#"{"access_token":"","token_type":"bearer"}"#, ("lost", None)),
        (200, r#"{"access_token":7,"token_type":"bearer"}"#, ("lost", None)),
        (200, r#"{"error":"invalid_grant"}"#, ("over", Some("invalid_grant"))),
    ] {
        let (script, flow) = flow(config());
        script.answer(status, body);
        let failure = flow.renew(refresh_token()).await.unwrap_err();
        assert_eq!(told(&failure), meaning, "{status} {body}");
        let said = format!("{failure:?}");
        assert!(!said.contains("rt-old") && !said.contains("revoked:"), "{said}");
    }
}

/// Fails when a request that may have arrived is called one that did not, or the other way round.
#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_is_lost_unless_it_provably_never_left() {
    let error = |kind, outcome| Error::new(kind, "as planned").with_outcome(outcome);
    for (failed, meaning) in [
        (error(ErrorKind::Connect, Outcome::NotSent), "passing"),
        (error(ErrorKind::Throttled, Outcome::NotSent), "passing"),
        (error(ErrorKind::Transport, Outcome::Unknown), "lost"),
        (error(ErrorKind::BodyTooLarge, Outcome::Processed), "lost"),
    ] {
        let (script, flow) = flow(config());
        script.fail(failed);
        assert_eq!(told(&flow.renew(refresh_token()).await.unwrap_err()).0, meaning);
    }
    // Nothing comes: the flow's own time ends it.
    let (script, flow) = flow(config());
    let start = tokio::time::Instant::now();
    assert_eq!(told(&flow.renew(refresh_token()).await.unwrap_err()).0, "lost");
    assert_eq!((start.elapsed(), script.seen().len()), (Duration::from_secs(60), 1));
    // Too much comes.
    script.answer(200, vec![b' '; 300_000]);
    assert_eq!(told(&flow.renew(refresh_token()).await.unwrap_err()).0, "lost");
    // What cannot be sent is not.
    let mut unsendable = config();
    unsendable.client_auth = ClientAuth::Bearer("line\nbreak".into());
    let flow = OAuth2Flow::new(unsendable, script.transport()).unwrap();
    assert_eq!(told(&flow.renew(refresh_token()).await.unwrap_err()).0, "passing");
    assert_eq!(script.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_the_server_asks_for_is_kept() {
    let (script, flow) = flow(config());
    for (header, wait) in [
        (("retry-after", "7"), Some(Duration::from_secs(7))),
        (("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), Some(Duration::ZERO)),
        (("x-other", "7"), None),
    ] {
        script.answer_with(429, header, "{}");
        match flow.renew(refresh_token()).await.unwrap_err() {
            RenewalFailure::Passing { after, error } => {
                assert_eq!((after, error.kind()), (wait, ErrorKind::Throttled), "{header:?}");
            }
            other @ (RenewalFailure::Over(_) | RenewalFailure::Lost(_) | RenewalFailure::Wrong(_)) => {
                panic!("{other:?}")
            }
        }
    }
}

/// Fails when an answer that has one meaning only is refused for its form, or when a scope or token is misread.
#[tokio::test(start_paused = true)]
async fn answers_are_read_leniently_where_that_is_safe() {
    let hour = Some(Duration::from_secs(3_600));
    for (joint, body, expires_in, granted, refresh) in [
        (
            ScopeJoint::Space,
            r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"scope":"a b","refresh_token":"rt"}"#,
            hour,
            "a b",
            "rt",
        ),
        (ScopeJoint::Space, r#"{"access_token":"at","expires_in":"3600","scope":["a","b"]}"#, hour, "a b", "rt-old"),
        (
            ScopeJoint::Space,
            r#"{"access_token":"at","token_type":null,"expires_in":3600.0,"refresh_token":""}"#,
            hour,
            "read",
            "rt-old",
        ),
        (
            ScopeJoint::Space,
            r#"{"access_token":"at","token_type":"bot","expires_in":null,"scope":null,"refresh_token":null}"#,
            None,
            "read",
            "rt-old",
        ),
        (
            ScopeJoint::Space,
            r#"{"access_token":"at","token_type":"mac","expires_in":0,"scope":""}"#,
            None,
            "read",
            "rt-old",
        ),
        (
            ScopeJoint::Space,
            r#"{"access_token":"at","token_type":"bearer","expires_in":-5,"scope":"a,b"}"#,
            None,
            "a,b",
            "rt-old",
        ),
        (
            ScopeJoint::Comma,
            r#"{"access_token":"at","token_type":"bearer","expires_in":"soon","scope":"a,b"}"#,
            None,
            "a b",
            "rt-old",
        ),
        (
            ScopeJoint::Space,
            r#"{"access_token":"at","token_type":"bearer","expires_in":99999999999999}"#,
            Some(Duration::from_secs(10 * 366 * 24 * 3600)),
            "read",
            "rt-old",
        ),
    ] {
        let mut config = config();
        config.scope_joint = joint;
        let (script, flow) = flow(config);
        script.answer(200, body);
        let tokens = flow.renew(refresh_token()).await.unwrap();
        assert_eq!(
            (tokens.access.expose(), tokens.expires_in, tokens.granted.join(" ").as_str()),
            ("at", expires_in, granted),
            "{body}"
        );
        assert!(matches!(&tokens.renewal, Renewal::RefreshToken(token) if token.expose() == refresh), "{body}");
        assert_eq!(tokens.requested, ["read", "write"], "{body}");
        assert!(!format!("{tokens:?}").contains("rt"), "{tokens:?}");
    }
    let mut config = config();
    config.lifetime = hour;
    let (script, flow) = flow(config);
    script.answer(201, r#"{"access_token":"at","expires_in":0}"#);
    assert_eq!(flow.renew(refresh_token()).await.unwrap().expires_in, hour, "what the provider does not say");
}

/// Fails when id or secret are not encoded before they are joined, or stand in two places at once.
#[tokio::test(start_paused = true)]
async fn the_client_shows_who_it_is_in_one_way() {
    use base64::Engine;
    let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let encoded = basic("client+1:s3cret%2F%2B");
    for (auth, authorization, id, secret) in [
        (ClientAuth::Basic, Some(encoded.as_str()), None, None),
        (ClientAuth::Body, None, Some("client 1"), Some("s3cret/+")),
        (ClientAuth::Bearer("sk_1".into()), Some("Bearer sk_1"), Some("client 1"), None),
    ] {
        let mut config = config();
        config.client_auth = auth;
        config.revocation = RevocationWay::Token("https://id.example/revoke".to_owned());
        config.token_params = vec![("resource".to_owned(), "https://api.example/".to_owned())];
        let (script, flow) = flow(config);
        script.answer(200, r#"{"access_token":"at"}"#).answer(200, "").answer(200, r#"{"access_token":"at"}"#);
        flow.renew(refresh_token()).await.unwrap();
        let secrets =
            super::super::grant::GrantSecrets { access: "at".into(), renewal: Renewal::RefreshToken("rt".into()) };
        flow.revoke(RevocationAsk { name: MAIN.into(), secrets, account: None }).await.unwrap();
        flow.renew(ask(Renewal::Client(None))).await.unwrap();
        for seen in script.seen() {
            assert_eq!(seen.header("authorization"), authorization, "{}", seen.url);
            assert_eq!((seen.field("client_id").as_deref(), seen.field("client_secret").as_deref()), (id, secret));
            assert_eq!(seen.header("accept"), Some("application/json"));
        }
        let [refresh, revoke, credentials] = <[_; 3]>::try_from(script.seen()).unwrap();
        assert_eq!((refresh.url.as_str(), revoke.url.as_str()), (TOKEN_URL, "https://id.example/revoke"));
        assert_eq!(refresh.field("grant_type").as_deref(), Some("refresh_token"));
        assert_eq!(refresh.field("refresh_token").as_deref(), Some("rt-old"));
        assert_eq!(refresh.field("resource").as_deref(), Some("https://api.example/"));
        assert_eq!(
            (revoke.field("token").as_deref(), revoke.field("token_type_hint").as_deref()),
            (Some("rt"), Some("refresh_token"))
        );
        assert_eq!(credentials.field("grant_type").as_deref(), Some("client_credentials"));
        assert_eq!(credentials.field("scope").as_deref(), Some("read write"));
    }
    // A public client has no secret to show.
    let mut public = config();
    public.client_secret = None;
    let (script, flow) = flow(public);
    script.answer(200, r#"{"access_token":"at"}"#);
    flow.renew(refresh_token()).await.unwrap();
    assert_eq!(
        (script.last().header("authorization"), script.last().field("client_id").as_deref()),
        (None, Some("client 1"))
    );
}

/// Client credentials may be those of the grant: a tenant's own client.
#[tokio::test(start_paused = true)]
async fn client_credentials_come_from_the_flow_or_from_the_grant() {
    let (script, flow) = flow(config());
    script.answer(200, r#"{"access_token":"at","expires_in":60}"#).answer(200, r#"{"access_token":"at"}"#);
    let own = Renewal::Client(Some(("theirs".to_owned(), "pw".into())));
    let tokens = flow.renew(ask(own)).await.unwrap();
    assert!(matches!(&tokens.renewal, Renewal::Client(Some((id, _))) if id == "theirs"));
    assert_eq!(script.last().header("authorization"), Some("Basic dGhlaXJzOnB3"));
    let tokens = flow.client_credentials(None).await.unwrap();
    assert!(matches!(tokens.renewal, Renewal::Client(None)));
    assert_eq!(tokens.granted, ["read", "write"]);
    for wrong in [Renewal::Never, Renewal::ServiceAccount { key: "{}".into(), subject: None }] {
        assert_eq!(told(&flow.renew(ask(wrong)).await.unwrap_err()).0, "wrong");
    }
    assert_eq!(told(&flow.exchange(MAIN.into(), &"old".into()).await.unwrap_err()).0, "wrong");
    assert_eq!(script.seen().len(), 2, "nothing else was sent");
}

/// Fails when a provider that does not know the token any more is asked for ever, or when its trouble is taken for a no.
#[tokio::test(start_paused = true)]
async fn what_a_provider_says_to_a_revocation() {
    let secrets = || super::super::grant::GrantSecrets { access: "at".into(), renewal: Renewal::Never };
    let asked = |account: Option<&str>| RevocationAsk {
        name: MAIN.into(),
        secrets: secrets(),
        account: account.map(str::to_owned),
    };
    for (status, body, said) in [
        (200, "", Some(Revocation::Confirmed)),
        (200, "{}", Some(Revocation::Confirmed)),
        (204, "", Some(Revocation::Confirmed)),
        (400, r#"{"error":"invalid_token"}"#, Some(Revocation::Confirmed)),
        (400, r#"{"error":"unsupported_token_type"}"#, Some(Revocation::NotConfirmed)),
        (401, r#"{"error":"invalid_client"}"#, Some(Revocation::NotConfirmed)),
        (404, "<html>", Some(Revocation::NotConfirmed)),
        (429, "", None),
        (503, "", None),
    ] {
        let mut config = config();
        config.revocation = RevocationWay::Token("https://id.example/revoke".to_owned());
        let (script, flow) = flow(config);
        script.answer(status, body);
        let answer = flow.revoke(asked(None)).await;
        assert_eq!(answer.as_ref().ok().copied(), said, "{status} {body} {answer:?}");
        assert_eq!(script.last().field("token_type_hint").as_deref(), Some("access_token"));
    }
    let (script, flow) = flow(config());
    assert_eq!(flow.revoke(asked(None)).await.unwrap(), Revocation::NotOffered);
    assert!(script.seen().is_empty());
    let mut by_account = config();
    by_account.revocation =
        RevocationWay::Account { url: "https://id.example/off".to_owned(), parameter: "account_id".to_owned() };
    let (script, flow) = self::flow(by_account);
    assert_eq!(flow.revoke(asked(None)).await.unwrap(), Revocation::NotConfirmed, "which one?");
    script.answer(200, "{}");
    assert_eq!(flow.revoke(asked(Some("a1"))).await.unwrap(), Revocation::Confirmed);
    assert_eq!(script.last().field("account_id").as_deref(), Some("a1"));
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let transport = Script::default().transport();
    let refused = |change: &dyn Fn(&mut OAuth2Config), part: &str| {
        let mut config = config();
        change(&mut config);
        let error = OAuth2Flow::new(config, transport.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(part), "{error}");
    };
    refused(&|c| c.token_url = "http://id.example/token".to_owned(), "token address");
    refused(&|c| c.token_url = "/token".to_owned(), "token address");
    refused(&|c| c.authorize_url = "ftp://id.example/".to_owned(), "authorize address");
    refused(&|c| c.redirect_url = "https://app.example/cb#top".to_owned(), "redirect address");
    refused(&|c| c.redirect_url = "https://me@app.example/cb".to_owned(), "redirect address");
    refused(&|c| c.revocation = RevocationWay::Bearer("http://id.example/".to_owned()), "revocation address");
    refused(&|c| c.exchange_url = Some("x".to_owned()), "exchange address");
    refused(&|c| c.client_id.clear(), "client id");
    refused(&|c| c.name.clear(), "name");
    refused(&|c| c.policy.renew_at = 1.0, "renew_at");
    refused(&|c| c.policy.renew_at = f64::NAN, "renew_at");
    let mut local = config();
    local.token_url = "http://127.0.0.1:4444/token".to_owned();
    local.redirect_url = "http://localhost:8080/cb".to_owned();
    let flow = OAuth2Flow::new(local, transport.clone()).unwrap();
    assert!(!format!("{flow:?} {:?}", flow.config()).contains("s3cret"));
}

#[test]
fn scopes_of_one_connect_go_to_their_groups() {
    let list = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>();
    let config = config();
    assert_eq!(config.scopes_for(None)[0].scopes, ["read", "write"]);
    let groups = config.scopes_for(Some(&list(&["admin", "x=y"])));
    assert_eq!((groups.len(), groups[0].parameter.as_str(), &groups[0].scopes), (1, "scope", &list(&["admin", "x=y"])));
    assert!(config.scopes_for(Some(&[])).is_empty());
    let groups = slack("slack").scopes_for(Some(&list(&["chat:write", "user_scope=search:read"])));
    let pairs: Vec<_> = groups.iter().map(|group| (group.parameter.as_str(), group.scopes.join(","))).collect();
    assert_eq!(pairs, [("scope", "chat:write".to_owned()), ("user_scope", "search:read".to_owned())]);
    let mut none = self::config();
    none.scopes.clear();
    assert_eq!(none.scopes_for(Some(&list(&["a"])))[0].parameter, "scope");
}
