//! What only Stripe Connect has: the platform's key as credential, accounts, flat errors, deauthorising.

use serde_json::json;

use super::support::{CLIENT, Emulator, SECRET, get_as, post, text};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn the_platforms_key_is_the_credential() {
    let connect = Emulator::connect().await;
    let secret = SECRET.replace('%', "%25").replace('+', "%2B").replace(' ', "%20");
    let cases: [(Option<String>, String, u16, &str); 5] = [
        (None, format!("&client_secret={secret}"), 200, ""),
        (Some(bearer(SECRET)), String::new(), 200, ""),
        (None, String::new(), 401, "invalid_client"),
        (Some(bearer("sk_test_wrong")), String::new(), 401, "invalid_client"),
        (None, "&client_secret=sk_test_wrong".to_owned(), 401, "invalid_client"),
    ];
    for (header, field, status, word) in cases {
        let code = connect.code(&[]).await;
        let body = format!("grant_type=authorization_code&code={code}{field}");
        let seen = post(&format!("{}/oauth/token", connect.base()), body, header.as_deref()).await;
        assert_eq!(
            (seen.status, seen.json()["error"].as_str().unwrap_or_default()),
            (status, word),
            "{header:?}{field}"
        );
    }
    let connected = text(&connect.connected().await, "access_token");
    let code = connect.code(&[]).await;
    let body = format!("grant_type=authorization_code&code={code}");
    let seen = post(&format!("{}/oauth/token", connect.base()), body, Some(&bearer(&connected))).await;
    assert_eq!(seen.status, 401, "an account's token is not the platform's key");
}

#[tokio::test]
async fn a_reply_has_the_documented_shape() {
    let connect = Emulator::connect().await;
    let reply = connect.connected().await;
    let mut names: Vec<&str> = reply.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = "access_token livemode refresh_token scope stripe_publishable_key stripe_user_id token_type";
    assert_eq!(names.join(" "), expected);
    assert_eq!((reply["livemode"].as_bool(), text(&reply, "scope").as_str()), (Some(false), "read_write"));
    let account =
        get_as(&format!("{}/v1/account", connect.base()), &bearer(&text(&reply, "access_token"))).await.json();
    assert_eq!(account["id"], reply["stripe_user_id"], "the token speaks for the connected account");
}

#[tokio::test]
async fn refresh_tokens_stay_and_scopes_narrow() {
    let connect = Emulator::connect().await;
    let reply = connect.connected().await;
    let refresh = text(&reply, "refresh_token");
    let narrow = connect
        .token(&[("grant_type", "refresh_token"), ("refresh_token", &refresh), ("scope", "read_only")])
        .await
        .json();
    assert_eq!((text(&narrow, "scope"), text(&narrow, "refresh_token")), ("read_only".to_owned(), refresh.clone()));
    let again = connect.refresh(&refresh).await.json();
    assert_eq!(text(&again, "scope"), "read_write");
    let write = async |token: &str| {
        post(&format!("{}/v1/customers", connect.base()), "name=x".to_owned(), Some(&bearer(token))).await.status
    };
    assert_eq!(write(&text(&narrow, "access_token")).await, 403, "fails when a narrowed token still writes");
    assert_eq!(write(&text(&again, "access_token")).await, 200);
    assert_eq!(connect.call(&text(&narrow, "access_token")).await, "", "it reads");
    let code = connect.code(&[("scope", "read_only")]).await;
    let reply = connect.redeem(&code, &[]).await.json();
    let wide = [("grant_type", "refresh_token"), ("refresh_token", &text(&reply, "refresh_token")), ("scope", "all")];
    assert_eq!(connect.error(&connect.token(&wide).await), "invalid_scope");
}

#[tokio::test]
async fn wrong_requests_are_told_why() {
    let connect = Emulator::connect().await;
    for (pairs, word) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (vec![("grant_type", "authorization_code")], "invalid_request"),
        (vec![("grant_type", "authorization_code"), ("code", "ac_unknown")], "invalid_grant"),
        (vec![("grant_type", "refresh_token"), ("refresh_token", "rt_unknown")], "invalid_grant"),
    ] {
        let seen = connect.token(&pairs).await;
        assert_eq!(connect.error(&seen), word, "{pairs:?}");
        assert!(seen.json()["error_description"].is_string());
    }
}

#[tokio::test]
async fn deauthorising_ends_the_account_and_says_so() {
    let connect = Emulator::connect().await;
    let Emulator::Connect(stripe) = &connect else { panic!() };
    let reply = connect.connected().await;
    let (account, access) = (text(&reply, "stripe_user_id"), text(&reply, "access_token"));
    let leave =
        async |body: String| post(&format!("{}/oauth/deauthorize", connect.base()), body, Some(&bearer(SECRET))).await;
    let wrong = leave(format!("client_id=ca_other&stripe_user_id={account}")).await;
    assert_eq!((wrong.status, text(&wrong.json(), "error")), (401, "invalid_client".to_owned()));
    let gone = leave(format!("client_id={CLIENT}&stripe_user_id={account}")).await;
    assert_eq!(gone.json(), json!({ "stripe_user_id": account }));
    assert_eq!(connect.call(&access).await, "401");
    assert_eq!(connect.error(&connect.refresh(&text(&reply, "refresh_token")).await), "invalid_grant");
    assert_eq!(leave(format!("client_id={CLIENT}&stripe_user_id={account}")).await.status, 401, "once");
    let told = stripe.call_on(&account, "GET", "/v1/events", &[]).unwrap();
    assert_eq!(told["data"][0]["type"], "account.application.deauthorized");
}
