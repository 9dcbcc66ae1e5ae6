//! The adapters that are built into the binary: one line each.

use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::auth::jwt::{ServiceAccountConfig, ServiceAccountKey};
use palisade_core::auth::oauth2::{OAuth2Config, RevocationWay};
use palisade_core::sync::StreamKind;
use palisade_core::webhook::Webhook;
use palisade_core::webhook::standard::StandardWebhook;
use palisade_core::{Error, ErrorKind, Provider, Result, Secret};
use palisade_google::webhook::Jwks;
use palisade_google::{GoogleProvider, GoogleWebhook};
use palisade_sendgrid::{SendGridProvider, SendGridWebhook};
use palisade_slack::{SlackProvider, SlackSource, SlackWebhook};
use palisade_stripe::StripeProvider;
use palisade_stripe::webhook::StripeWebhook;
use palisade_twilio::{TwilioProvider, TwilioWebhook};

use crate::config::{Apps, Connection, Credential, Flow, Known};
use crate::credential::{ConnectionCredential, ServiceAccount};

/// An adapter as the binary configures it.
pub(crate) struct Builtin {
    /// Its name in the configuration.
    pub(crate) name: &'static str,
    /// Makes it, by what the product's app may do.
    pub(crate) provider: fn(&Apps) -> Arc<dyn Provider>,
    /// Checks an API key and says how it is sent.
    pub(crate) credential: fn(Secret) -> Result<Scheme>,
    /// Makes its own flow, where it has one.
    pub(crate) flow: Option<MakeFlow>,
    /// Its service accounts, where it has them.
    pub(crate) service_accounts: Option<ServiceAccounts>,
}

/// The service accounts of a provider.
#[derive(Clone, Copy)]
pub(crate) struct ServiceAccounts {
    /// Checks a key file.
    pub(crate) check: fn(&Secret) -> Result<ServiceAccountKey>,
    /// Says how they get their tokens, perhaps at another address than the provider's.
    pub(crate) config: fn(Option<&str>) -> ServiceAccountConfig,
}

/// Makes a provider's own flow of what the configuration says.
pub(crate) type MakeFlow = fn(FlowAsked<'_>) -> Result<OAuth2Config>;

/// What the configuration says of a flow.
pub(crate) struct FlowAsked<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) redirect_url: &'a str,
    pub(crate) secret: Option<Secret>,
}

/// Makes a webhook side of what a case or file says beside the secret.
pub(crate) type MakeWebhook = fn(Option<&[u8]>) -> Result<Box<dyn Webhook>>;

/// Every adapter.
#[rustfmt::skip]
pub(crate) const BUILTIN: &[Builtin] = &[
    Builtin { name: "google", provider: |_| Arc::new(GoogleProvider::new()), credential: palisade_google::auth::access_token, flow: Some(google_flow), service_accounts: Some(GOOGLE_ACCOUNTS) },
    Builtin { name: "slack", provider: |apps| Arc::new(SlackProvider::new().copying(SlackSource::new().reading(apps.slack_history))), credential: palisade_slack::auth::token, flow: Some(slack_flow), service_accounts: None },
    Builtin { name: "stripe", provider: |_| Arc::new(StripeProvider::new()), credential: palisade_stripe::auth::api_key, flow: Some(stripe_flow), service_accounts: None },
    Builtin { name: "twilio", provider: |_| Arc::new(TwilioProvider::new()), credential: palisade_twilio::auth::credential, flow: None, service_accounts: None },
    Builtin { name: "sendgrid", provider: |_| Arc::new(SendGridProvider::new()), credential: palisade_sendgrid::auth::api_key, flow: None, service_accounts: None },
];

const GOOGLE_ACCOUNTS: ServiceAccounts = ServiceAccounts {
    check: palisade_google::auth::service_account_key,
    config: |base_url| {
        let own = palisade_google::auth::service_accounts();
        match base_url {
            Some(base_url) => palisade_google::auth::service_accounts_at(own, base_url),
            None => own,
        }
    },
};

/// A signature scheme `palisade verify` knows.
pub(crate) struct Verifier {
    /// Its name.
    pub(crate) name: &'static str,
    /// Makes it, with the provider's published keys (JWKS) where it needs some.
    pub(crate) webhook: MakeWebhook,
}

/// Every signature scheme.
#[rustfmt::skip]
pub(crate) const WEBHOOKS: &[Verifier] = &[
    Verifier { name: "google", webhook: google },
    Verifier { name: "slack", webhook: |_| Ok(Box::new(SlackWebhook)) },
    Verifier { name: "stripe", webhook: |_| Ok(Box::new(StripeWebhook)) },
    Verifier { name: "twilio", webhook: |_| Ok(Box::new(TwilioWebhook::new())) },
    Verifier { name: "sendgrid", webhook: |_| Ok(Box::new(SendGridWebhook::new())) },
    Verifier { name: "standard_webhooks", webhook: |_| Ok(Box::new(StandardWebhook)) },
];

fn google(keys: Option<&[u8]>) -> Result<Box<dyn Webhook>> {
    let keys = keys.map(Jwks::parse).transpose()?.unwrap_or_default();
    Ok(Box::new(GoogleWebhook::with_keys(keys)))
}

fn google_flow(asked: FlowAsked<'_>) -> Result<OAuth2Config> {
    let FlowAsked { flow, redirect_url, secret } = asked;
    if flow.scopes.is_empty() {
        return Err(wrong(
            "it asks for nothing: give scopes (https://www.googleapis.com/auth/gmail.readonly and others)",
        ));
    }
    let secret = secret.ok_or_else(no_secret)?;
    let mut config = palisade_google::auth::connect(&flow.client_id, secret, redirect_url, &texts(&flow.scopes));
    if let Some(base_url) = &flow.base_url {
        config = palisade_google::auth::at(config, base_url);
    }
    config.pkce = flow.pkce.unwrap_or(true);
    Ok(config)
}

fn slack_flow(asked: FlowAsked<'_>) -> Result<OAuth2Config> {
    let FlowAsked { flow, redirect_url, secret } = asked;
    if flow.scopes.is_empty() && flow.user_scopes.is_empty() {
        return Err(wrong("it asks for nothing: give scopes (the bot's) or user_scopes"));
    }
    let (bot, user) = (texts(&flow.scopes), texts(&flow.user_scopes));
    let secret = secret.ok_or_else(no_secret)?;
    let mut config = palisade_slack::auth::oauth2(redirect_url, &flow.client_id, secret, &bot, &user);
    if let Some(base_url) = &flow.base_url {
        config = palisade_slack::auth::at(config, base_url);
    }
    Ok(if flow.pkce == Some(true) { palisade_slack::auth::with_pkce(config) } else { config })
}

fn stripe_flow(asked: FlowAsked<'_>) -> Result<OAuth2Config> {
    let FlowAsked { flow, redirect_url, secret } = asked;
    if flow.pkce == Some(true) {
        return Err(wrong("Stripe takes no PKCE: leave pkce out"));
    }
    let key = secret.ok_or_else(no_secret)?;
    let at = flow.base_url.as_deref().unwrap_or(palisade_stripe::auth::CONNECT_URL);
    let mut config = palisade_stripe::auth::connect_at(at, &flow.client_id, key, redirect_url)?;
    if !flow.scopes.is_empty() {
        config = config.scopes(&texts(&flow.scopes));
    }
    config.base_url = flow.base_url.clone();
    Ok(config)
}

/// Makes the flow of a provider that has none of its own here.
fn standard_flow(asked: FlowAsked<'_>) -> Result<OAuth2Config> {
    let FlowAsked { flow, redirect_url, secret } = asked;
    let Some(standard) = &flow.standard else { return Err(wrong("it needs authorize_url and token_url")) };
    let (authorize, token) = (&standard.authorize_url, &standard.token_url);
    let mut config = OAuth2Config::new("", authorize, token, redirect_url, &flow.client_id);
    if !flow.scopes.is_empty() {
        config = config.scopes(&texts(&flow.scopes));
    }
    config.client_secret = secret;
    config.client_auth = standard.client_auth();
    config.scope_joint = standard.scope_joint;
    config.pkce = flow.pkce.unwrap_or(true);
    config.issuer = standard.issuer.clone();
    config.authorize_params = standard.authorize_params.clone();
    config.policy.refresh_reusable = standard.refresh_reusable;
    config.revocation = standard.revoke_url.clone().map_or(RevocationWay::NotOffered, RevocationWay::Token);
    config.base_url = flow.base_url.clone();
    Ok(config)
}

/// Makes what authenticates a configured connection of its secret.
///
/// # Errors
/// [`ErrorKind::Config`] saying what cannot work; never the secret.
pub(crate) fn credential(one: &Builtin, connection: &Connection, secret: Secret) -> Result<ConnectionCredential> {
    match &connection.credential {
        Credential::Key(_) => (one.credential)(secret).map(ConnectionCredential::from),
        Credential::ServiceAccount { subject, scopes, .. } => {
            let accounts = one.service_accounts.ok_or_else(|| wrong("this provider has no service accounts"))?;
            (accounts.check)(&secret)?;
            if scopes.is_empty() {
                return Err(wrong("it asks for nothing: give scopes"));
            }
            let (subject, scopes) = (subject.clone(), scopes.clone());
            let config = (accounts.config)(connection.base_url.as_deref());
            Ok(ServiceAccount { key: secret, subject, scopes, config }.into())
        }
    }
}

/// Makes the settings of a configured flow.
///
/// # Errors
/// [`ErrorKind::Config`] saying what cannot work; never a secret.
pub(crate) fn flow(flow: &Flow, redirect_url: &str, secret: Option<Secret>) -> Result<OAuth2Config> {
    let make = find(&flow.provider).and_then(|one| one.flow).unwrap_or(standard_flow);
    let mut config = make(FlowAsked { flow, redirect_url, secret })?;
    config.name = flow.name();
    Ok(config)
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn wrong(what: &'static str) -> Error {
    Error::new(ErrorKind::Config, what)
}

fn no_secret() -> Error {
    wrong("it needs client_secret")
}

/// Says what is built in, as the configuration file needs to know it.
pub(crate) fn with_known<T>(read: impl FnOnce(Known<'_>) -> T) -> T {
    let providers: Vec<&str> = BUILTIN.iter().map(|one| one.name).collect();
    let having = |has: fn(&Builtin) -> bool| BUILTIN.iter().filter(move |one| has(one)).map(|one| one.name).collect();
    let flows: Vec<&str> = having(|one| one.flow.is_some());
    let service_accounts: Vec<&str> = having(|one| one.service_accounts.is_some());
    let accounts: Vec<&str> =
        having(|one| (one.provider)(&Apps::default()).webhook().is_some_and(Webhook::names_account));
    let walks: Vec<(&str, &str)> = BUILTIN.iter().filter_map(|one| Some((one.name, walk(one)?))).collect();
    read(Known {
        providers: &providers,
        flows: &flows,
        service_accounts: &service_accounts,
        accounts: &accounts,
        walks: &walks,
    })
}

/// Names the stream of an adapter's events, if it lists them.
fn walk(builtin: &Builtin) -> Option<&'static str> {
    let provider = (builtin.provider)(&Apps::default());
    let streams = provider.source()?.streams();
    streams.iter().find(|spec| spec.kind == StreamKind::Events).map(|spec| spec.name)
}

/// Finds an adapter.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|builtin| builtin.name == name)
}

/// Finds a signature scheme.
pub(crate) fn webhook(name: &str) -> Option<&'static Verifier> {
    WEBHOOKS.iter().find(|verifier| verifier.name == name)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use palisade_core::sync::{Next, Site, Span};
    use palisade_core::{Call, Timestamp};
    use palisade_slack::HistoryRule;

    use super::*;

    /// Fails when the binary's Slack does not know the rule of the configuration.
    #[test]
    fn slack_reads_messages_as_fast_as_the_configuration_says() {
        for (rule, limit) in [(HistoryRule::Full, "200"), (HistoryRule::Limited, "15")] {
            let provider = (find("slack").unwrap().provider)(&Apps { slack_history: rule });
            let source = provider.source().unwrap();
            let site = Site {
                base_url: "https://slack.com".into(),
                connection: "birch".into(),
                tenant: "acme".into(),
                account: None,
                page_size: 200,
            };
            let joined = r#"{"ok":true,"channels":[{"id":"C1","name":"general","is_channel":true,"is_member":true}]}"#;
            let answer = http::Response::new(Bytes::from_static(joined.as_bytes()));
            let page = source
                .page(&"messages".into(), None, &answer, Span::second(Timestamp::from_seconds(1_790_000_000)))
                .unwrap();
            let Next::More(cursor) = page.next else { panic!("there is a conversation to read") };
            let request = source.request(&site, &"messages".into(), Some(&cursor)).unwrap();
            let form = String::from_utf8_lossy(request.body());
            assert!(form.split('&').any(|pair| pair == format!("limit={limit}")), "{rule:?}: {form}");
            let bucket = request.extensions().get::<Call>().unwrap().operation.bucket;
            assert_eq!(bucket.units == 1, rule == HistoryRule::Limited, "{rule:?}: {bucket:?}");
        }
    }
}
