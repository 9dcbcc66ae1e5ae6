//! What only Google has: ID tokens and their keys, tokeninfo, service accounts.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::support::{CALENDAR, CLIENT, Emulator, MAIL, Seen, get, get_as, post, text};

const ACCOUNT: &str = "palisade@emulated-project.iam.gserviceaccount.com";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn emulated(emulator: &Emulator) -> &palisade_emulator::google::Google {
    match emulator {
        Emulator::Google(google) => google,
        Emulator::Slack(_) | Emulator::Connect(_) => panic!("not google"),
    }
}

fn now() -> i64 {
    let since = palisade_emulator::system_clock()().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// Signs as a service account's client would, from its key file.
fn sign(key: &Value, header: &Value, claims: &Value) -> String {
    let pem = text(key, "private_key");
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let pair = KeyPair::from_pkcs8(&STANDARD.decode(der).unwrap()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn header(key: &Value) -> Value {
    json!({ "alg": "RS256", "typ": "JWT", "kid": key["private_key_id"] })
}

fn claims() -> Value {
    json!({ "iss": ACCOUNT, "aud": "https://oauth2.googleapis.com/token", "iat": now(), "exp": now() + 3600, "scope": MAIL })
}

async fn assert_it(google: &Emulator, assertion: &str) -> Seen {
    post(
        &format!("{}/token", google.base()),
        format!("grant_type={}&assertion={assertion}", GRANT.replace(':', "%3A")),
        None,
    )
    .await
}

#[tokio::test]
async fn a_service_accounts_assertion_is_judged() {
    let google = Emulator::google().await;
    let key = emulated(&google).service_account_key();
    assert_eq!(text(&key, "token_uri"), format!("{}/token", google.base()));
    let late = "a person of a domain that delegated";
    // What is changed in the claims, status and error word; nothing for a good one.
    let cases: [(&str, Value, u16, &str); 17] = [
        ("as the libraries write it", json!({}), 200, ""),
        ("the address that was called", json!({ "aud": format!("{}/token", google.base()) }), 200, ""),
        ("half an hour", json!({ "exp": now() + 1800 }), 200, ""),
        ("its own address as subject", json!({ "sub": ACCOUNT }), 200, ""),
        (late, json!({ "sub": "ada@example.com" }), 200, ""),
        ("another audience", json!({ "aud": "https://example.com/token" }), 400, "invalid_grant"),
        ("no audience", json!({ "aud": null }), 400, "invalid_grant"),
        ("an hour and a second", json!({ "exp": now() + 3602 }), 400, "invalid_grant"),
        ("expired", json!({ "iat": now() - 7200, "exp": now() - 3600 }), 400, "invalid_grant"),
        ("from the future", json!({ "iat": now() + 900, "exp": now() + 1800 }), 400, "invalid_grant"),
        ("no times", json!({ "iat": null, "exp": null }), 400, "invalid_grant"),
        ("ends before it begins", json!({ "exp": now() - 1 }), 400, "invalid_grant"),
        ("an unknown account", json!({ "iss": "other@x.iam.gserviceaccount.com" }), 400, "invalid_grant"),
        ("no scope", json!({ "scope": null }), 400, "invalid_scope"),
        ("a scope that is none", json!({ "scope": "mail" }), 400, "invalid_scope"),
        ("an unknown person", json!({ "sub": "eve@example.com" }), 400, "invalid_grant"),
        ("a scope not delegated", json!({ "sub": "ada@example.com", "scope": CALENDAR }), 401, "unauthorized_client"),
    ];
    for (case, changes, status, word) in cases {
        let mut claims = claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let seen = assert_it(&google, &sign(&key, &header(&key), &claims)).await;
        assert_eq!((seen.status, seen.json()["error"].as_str().unwrap_or_default()), (status, word), "{case}");
        if status == 200 {
            let reply = seen.json();
            assert_eq!((reply["expires_in"].as_u64(), reply["token_type"].as_str()), (Some(3599), Some("Bearer")));
            assert!(reply["refresh_token"].is_null());
            let bearer = format!("Bearer {}", text(&reply, "access_token"));
            let who = get_as(&format!("{}/oauth2/v3/userinfo", google.base()), &bearer).await;
            assert_eq!(who.status, 200, "{case}");
            assert_eq!(who.json()["email"] == ACCOUNT, case != late, "{case}: {}", who.text);
        }
    }
    assert_eq!(google.oauth().ledger().minted, 5);
}

#[tokio::test]
async fn a_forged_assertion_is_refused() {
    let google = Emulator::google().await;
    let key = emulated(&google).service_account_key();
    let good = sign(&key, &header(&key), &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut wider = claims();
    wider["scope"] = json!("https://mail.google.com/");
    let forged = [
        format!("{}.{}.{}", parts[0], part(&wider), parts[2]),
        format!("{}.{}.", part(&json!({ "alg": "none" })), parts[1]),
        format!("{}.{}.{}", part(&json!({ "alg": "HS256", "kid": key["private_key_id"] })), parts[1], parts[2]),
        sign(&key, &json!({ "alg": "RS256", "kid": "other" }), &claims()),
        "a.b.c".to_owned(),
        String::new(),
    ];
    for assertion in forged {
        let seen = assert_it(&google, &assertion).await;
        // Fails when the claims are believed before the signature.
        assert_eq!(seen.status, 400, "{assertion}");
        assert_ne!(text(&seen.json(), "error"), "");
    }
    assert_eq!(google.oauth().ledger().minted, 0);
}

#[tokio::test]
async fn a_self_signed_token_needs_no_token_endpoint() {
    let google = Emulator::google().await;
    let key = emulated(&google).service_account_key();
    let own = json!({ "iss": ACCOUNT, "sub": ACCOUNT, "aud": "https://gmail.googleapis.com/", "iat": now(), "exp": now() + 3600 });
    for (claims, good) in [
        (own.clone(), true),
        (json!({ "iss": ACCOUNT, "sub": ACCOUNT, "scope": MAIL, "iat": now(), "exp": now() + 60 }), true),
        (
            json!({ "iss": ACCOUNT, "sub": "ada@example.com", "aud": "https://x/", "iat": now(), "exp": now() + 60 }),
            false,
        ),
        (json!({ "iss": ACCOUNT, "sub": ACCOUNT, "iat": now(), "exp": now() + 60 }), false),
        (json!({ "iss": ACCOUNT, "sub": ACCOUNT, "aud": "https://x/", "iat": now() - 90, "exp": now() - 30 }), false),
    ] {
        let bearer = format!("Bearer {}", sign(&key, &header(&key), &claims));
        let seen = get_as(&format!("{}/oauth2/v3/userinfo", google.base()), &bearer).await;
        assert_eq!(seen.status == 200, good, "{claims}");
    }
}

#[tokio::test]
async fn an_id_token_is_signed_by_the_published_key() {
    let google = Emulator::google().await;
    let page = google.visit(&google.ask_with(&[("nonce", "n-1"), ("scope", "openid email profile")])).await;
    let mut form = page.form();
    let bob = form.choices()[1].1.to_owned();
    assert!(form.choose(&bob), "Bob, not Ada");
    let code = google.send(&form, "allow").await.back()["code"].clone();
    let reply = google.redeem(&code, &[]).await.json();
    let token = text(&reply, "id_token");
    let (signed, signature) = token.rsplit_once('.').unwrap();

    let keys = get(&format!("{}/oauth2/v3/certs", google.base())).await;
    assert!(keys.header("cache-control").contains("max-age"));
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let head: Value = serde_json::from_slice(&decode(signed.split('.').next().unwrap())).unwrap();
    let keys = keys.json();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == head["kid"]).unwrap();
    let public = RsaPublicKeyComponents { n: decode(&text(key, "n")), e: decode(&text(key, "e")) };
    public.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &decode(signature)).unwrap();
    let pem = get(&format!("{}/oauth2/v1/certs", google.base())).await.json();
    assert!(text(&pem, head["kid"].as_str().unwrap()).starts_with("-----BEGIN CERTIFICATE-----"));

    let claims: Value = serde_json::from_slice(&decode(signed.split('.').nth(1).unwrap())).unwrap();
    let expected = ["https://accounts.google.com", CLIENT, "bob@example.com", "n-1", "Bob"];
    assert_eq!(["iss", "aud", "email", "nonce", "name"].map(|name| text(&claims, name)), expected.map(str::to_owned));
    assert_eq!(
        (claims["email_verified"].as_bool(), claims["exp"].as_i64()),
        (Some(true), claims["iat"].as_i64().map(|at| at + 3600))
    );

    let info = async |pair: String| get(&format!("{}/tokeninfo?{pair}", google.base())).await;
    assert_eq!(info(format!("id_token={token}")).await.json()["sub"], claims["sub"]);
    assert_eq!(info(format!("id_token={}x", token)).await.status, 400);
    let access = text(&reply, "access_token");
    let of_access = info(format!("access_token={access}")).await.json();
    assert_eq!((of_access["azp"].as_str(), of_access["email"].as_str()), (Some(CLIENT), Some("bob@example.com")));
    assert_eq!(info("access_token=nonsense".to_owned()).await.status, 400);
    assert!(google.connected().await["id_token"].is_string());
    let code = google.code(&[("scope", MAIL)]).await;
    assert!(google.redeem(&code, &[]).await.json()["id_token"].is_null(), "no openid, no ID token");
}

#[tokio::test]
async fn the_discovery_document_leads_to_what_is_served() {
    let google = Emulator::google().await;
    let found = get(&format!("{}/.well-known/openid-configuration", google.base())).await.json();
    assert_eq!(found["issuer"], "https://accounts.google.com");
    assert_eq!(get(&text(&found, "jwks_uri")).await.status, 200);
    assert_eq!(get(&text(&found, "userinfo_endpoint")).await.status, 401);
    assert_eq!(post(&text(&found, "token_endpoint"), String::new(), None).await.status, 400);
    assert_eq!(get(&text(&found, "authorization_endpoint")).await.status, 400);
}

#[tokio::test]
async fn a_malformed_token_request_is_told_why() {
    let google = Emulator::google().await;
    let all = [
        ("", "invalid_request"),
        ("grant_type=password", "unsupported_grant_type"),
        ("grant_type=authorization_code&client_id=ca_app", "invalid_client"),
        ("grant_type=authorization_code&grant_type=refresh_token", "invalid_request"),
        ("grant_type=%ff", "invalid_request"),
        ("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer", "invalid_request"),
    ];
    for (body, word) in all {
        let seen = post(&format!("{}/token", google.base()), body.to_owned(), None).await;
        assert_eq!(text(&seen.json(), "error"), word, "{body}");
        assert_eq!(seen.status, if word == "invalid_client" { 401 } else { 400 }, "{body}");
    }
    for missing in ["code", "refresh_token"] {
        let kind = if missing == "code" { "authorization_code" } else { "refresh_token" };
        assert_eq!(google.error(&google.token(&[("grant_type", kind)]).await), "invalid_request", "{missing}");
    }
    assert_eq!(get(&format!("{}/token", google.base())).await.status, 404);
}
