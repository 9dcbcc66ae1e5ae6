//! What is signed, and that it is what a server checks.

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::json;

use super::*;
use crate::auth::grant::MAIN;
use crate::auth::testing::Script;
use crate::clock::ManualClock;
use crate::random::SeededRandom;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

/// An RSA key pair made for this run: the private key in PKCS #8 PEM, and what checks its signatures.
fn rsa() -> (String, DecodingKey) {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;
    use base64::Engine;
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    (pem, DecodingKey::from_rsa_der(pair.public_key().as_ref()))
}

/// Checks the signature and returns header and claims.
#[track_caller]
fn opened(token: &str, key: &DecodingKey, algorithm: Algorithm) -> (Header, Value) {
    let mut validation = Validation::new(algorithm);
    // Time and audience are compared by the test itself.
    (validation.validate_exp, validation.validate_aud) = (false, false);
    validation.required_spec_claims.clear();
    let data = jsonwebtoken::decode::<Value>(token, key, &validation).unwrap();
    (data.header, data.claims)
}

fn key_file(pem: &str) -> Secret {
    json!({"type": "service_account", "client_email": "robot@p.iam.example", "private_key": pem,
        "private_key_id": "k1", "token_uri": "http://169.254.169.254/steal"})
    .to_string()
    .into()
}

fn ask(key: Secret, subject: Option<&str>) -> RenewalAsk {
    RenewalAsk {
        name: MAIN.into(),
        renewal: Renewal::ServiceAccount { key, subject: subject.map(str::to_owned) },
        requested: vec!["a".to_owned(), "b".to_owned()],
        granted: Vec::new(),
        now: NOW,
    }
}

/// Fails when the assertion is not what Google's own library sends, or goes where the key file says.
#[tokio::test(start_paused = true)]
async fn a_service_account_trades_an_assertion_with_and_without_a_user() {
    let (pem, public) = rsa();
    for subject in [None, Some("ada@example.com")] {
        let script = Script::default();
        let flow = ServiceAccountFlow::new(ServiceAccountConfig::new(TOKEN_URL), script.transport()).unwrap();
        script.answer(200, r#"{"access_token":"ya29.c.1","expires_in":3599,"token_type":"Bearer"}"#);
        let tokens = flow.renew(ask(key_file(&pem), subject)).await.unwrap();
        assert_eq!((tokens.access.expose(), tokens.expires_in), ("ya29.c.1", Some(Duration::from_secs(3_599))));
        assert!(matches!(tokens.renewal, Renewal::ServiceAccount { .. }), "the key stays");
        assert_eq!(tokens.granted, ["a", "b"]);
        let seen = script.last();
        assert_eq!((seen.url.as_str(), seen.field("grant_type").as_deref()), (TOKEN_URL, Some(GRANT_TYPE)));
        assert_eq!((seen.field("client_id"), seen.header("authorization")), (None, None));
        let (header, claims) = opened(&seen.field("assertion").unwrap(), &public, Algorithm::RS256);
        assert_eq!((header.kid.as_deref(), header.typ.as_deref()), (Some("k1"), Some("JWT")));
        let mut wanted = json!({"iss": "robot@p.iam.example", "aud": TOKEN_URL, "scope": "a b",
            "iat": 1_799_999_990, "exp": 1_800_003_590});
        if let Some(subject) = subject {
            wanted["sub"] = subject.into();
        }
        assert_eq!(claims, wanted);
    }
}

/// The audience stays Google's own wherever the request goes.
#[tokio::test(start_paused = true)]
async fn the_audience_is_not_the_address() {
    let (pem, public) = rsa();
    let script = Script::default();
    let mut config = ServiceAccountConfig::new("http://127.0.0.1:9/token");
    config.audience = TOKEN_URL.to_owned();
    let flow = ServiceAccountFlow::new(config, script.transport()).unwrap();
    script.answer(400, r#"{"error":"invalid_grant","error_description":"Invalid JWT"}"#).answer(503, "");
    let failure = flow.renew(ask(key_file(&pem), None)).await.unwrap_err();
    assert!(matches!(failure, RenewalFailure::Over(_)), "{failure:?}");
    assert!(matches!(flow.renew(ask(key_file(&pem), None)).await.unwrap_err(), RenewalFailure::Passing { .. }));
    let (_, claims) = opened(&script.last().field("assertion").unwrap(), &public, Algorithm::RS256);
    assert_eq!((claims["aud"].as_str(), script.last().url.as_str()), (Some(TOKEN_URL), "http://127.0.0.1:9/token"));
    assert!(flow.policy().refresh_reusable, "an assertion is signed anew each time");
    let secrets = crate::auth::grant::GrantSecrets { access: "a".into(), renewal: Renewal::Never };
    let asked = RevocationAsk { name: MAIN.into(), secrets, account: None };
    assert_eq!(flow.revoke(asked).await.unwrap(), Revocation::NotOffered);
    let plain = ServiceAccountConfig::new("http://oauth2.googleapis.com/token");
    assert!(ServiceAccountFlow::new(plain, script.transport()).is_err());
}

/// Fails when a token that needs no trade is traded, or when one for a user is not.
#[tokio::test(start_paused = true)]
async fn a_self_signed_token_needs_no_request_unless_there_is_a_user() {
    let (pem, public) = rsa();
    for (way, aud, scope) in [
        (
            SelfSigned::Audience("https://pubsub.googleapis.com/".to_owned()),
            Some("https://pubsub.googleapis.com/"),
            None,
        ),
        (SelfSigned::Scopes, None, Some("a b")),
    ] {
        let script = Script::default();
        let mut config = ServiceAccountConfig::new(TOKEN_URL);
        config.self_signed = Some(way);
        let flow = ServiceAccountFlow::new(config, script.transport()).unwrap();
        let tokens = flow.renew(ask(key_file(&pem), None)).await.unwrap();
        assert!(script.seen().is_empty());
        let (_, claims) = opened(tokens.access.expose(), &public, Algorithm::RS256);
        assert_eq!((claims["aud"].as_str(), claims["scope"].as_str()), (aud, scope));
        assert_eq!(claims["iss"], claims["sub"]);
        assert_eq!(tokens.expires_in, Some(Duration::from_secs(3_590)), "as its exp says");
        script.answer(200, r#"{"access_token":"at"}"#);
        flow.renew(ask(key_file(&pem), Some("ada@example.com"))).await.unwrap();
        assert_eq!(script.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_file_that_is_none_is_refused_without_being_told() {
    let (pem, _) = rsa();
    let text = |kind: &str, pem: &str| json!({"type": kind, "client_email": "e", "private_key": pem}).to_string();
    let script = Script::default();
    let flow = ServiceAccountFlow::new(ServiceAccountConfig::new(TOKEN_URL), script.transport()).unwrap();
    for wrong in [
        String::new(),
        "{}".to_owned(),
        text("authorized_user", &pem),
        text("service_account", "MIISECRET"),
        text("service_account", "-----BEGIN PRIVATE KEY-----\nTUlJU0VDUkVU\n-----END PRIVATE KEY-----\n"),
    ] {
        let failure = flow.renew(ask(wrong.into(), None)).await.unwrap_err();
        let said = format!("{failure:?}");
        assert!(
            matches!(failure, RenewalFailure::Wrong(_)) && !said.contains("SECRET") && !said.contains("TUlJ"),
            "{said}"
        );
    }
    assert!(script.seen().is_empty());
    let other = RenewalAsk { renewal: Renewal::RefreshToken("rt".into()), ..ask("{}".into(), None) };
    assert!(matches!(flow.renew(other).await.unwrap_err(), RenewalFailure::Wrong(_)));
    assert!(!format!("{:?}", ServiceAccountKey::parse(&key_file(&pem)).unwrap()).contains("BEGIN"));
}

fn token_of(credential: &Credential) -> String {
    let mut request = http::Request::get("https://svc.example/").body(()).unwrap();
    credential.apply(&mut request).unwrap();
    request.headers()["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}

/// An EC key pair made for this run: the private key in PKCS #8 PEM, and what checks its signatures.
fn ec() -> (String, DecodingKey) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    (pair.serialize_pem(), DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap())
}

/// Fails when a token is signed for each call, is used to its very end, or is signed in a loop against a server that
/// does not know the key; or when a pair's token is not what its public half checks.
#[tokio::test(start_paused = true)]
async fn a_bearer_between_services_is_signed_when_it_is_time() {
    let secret = "0123456789abcdef0123456789abcdef";
    let shared = DecodingKey::from_secret(secret.as_bytes());
    bearer(SigningKey::shared(&secret.into()).unwrap(), secret, &shared, Algorithm::HS256).await;
    let (pem, public) = ec();
    bearer(SigningKey::ec(&pem.as_str().into()).unwrap(), &pem, &public, Algorithm::ES256).await;
    let (pem, public) = rsa();
    bearer(SigningKey::rsa(&pem.as_str().into()).unwrap(), &pem, &public, Algorithm::RS256).await;
}

async fn bearer(key: SigningKey, secret: &str, public: &DecodingKey, algorithm: Algorithm) {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let source = JwtBearer::new(key.named("2026-11"), "hub", "billing", clock.clone(), Arc::new(SeededRandom::new(1)))
        .subject("worker")
        .claim("role", "writer".into())
        .claim("exp", 0.into());
    let get = async || source.credential("any".into()).await.unwrap();
    let first = get().await;
    let (header, claims) = opened(&token_of(&first), public, algorithm);
    assert_eq!(header.kid.as_deref(), Some("2026-11"));
    assert_eq!(
        (claims["iss"].as_str(), claims["sub"].as_str(), claims["aud"].as_str()),
        (Some("hub"), Some("worker"), Some("billing"))
    );
    assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(1_799_999_990), Some(1_800_000_300)));
    assert_eq!(claims["role"], "writer");
    clock.advance(Duration::from_secs(239));
    assert_eq!(get().await.version(), first.version());
    clock.advance(Duration::from_secs(1));
    let second = get().await;
    assert_ne!(token_of(&second), token_of(&first));
    assert_eq!(source.refresh("any".into(), first.version()).await.unwrap().version(), second.version());
    assert_eq!(source.refresh("any".into(), second.version()).await.unwrap_err().kind(), ErrorKind::Auth);
    clock.advance(FRESH);
    assert_eq!(source.refresh("any".into(), second.version()).await.unwrap().version(), 3);
    // The clock goes back: what was signed later is not valid yet for others.
    clock.set(NOW);
    assert_eq!(get().await.version(), 4);
    assert!(!format!("{source:?}").contains(secret));
}

/// Fails when a key is taken for one of another kind, and is found out at the first call.
#[test]
fn a_key_of_another_kind_is_refused_when_it_is_given() {
    #[track_caller]
    fn check(made: Result<SigningKey>) {
        assert_eq!(made.unwrap_err().kind(), ErrorKind::Config);
    }
    let longer = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    check(SigningKey::shared(&"short".into()));
    check(SigningKey::ec(&"no pem".into()));
    check(SigningKey::ec(&rsa().0.into()));
    check(SigningKey::ec(&longer.into()));
    check(SigningKey::rsa(&ec().0.into()));
}
