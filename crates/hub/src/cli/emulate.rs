//! `palisade emulate`: an offline stand-in for a provider, until Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use palisade_emulator::google::{Google, GoogleConfig, ServiceAccount};
use palisade_emulator::oauth::{Client, Consent, Dials};
use palisade_emulator::sendgrid::{SendGrid, SendGridConfig};
use palisade_emulator::slack::{Slack, SlackConfig};
use palisade_emulator::stripe::{Seed, Stripe, StripeConfig};
use palisade_emulator::twilio::{Twilio, TwilioConfig};
use serde_json::json;

use super::{Failure, runtime, say, serve, signal};
use crate::config::secret::read_secret_file;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade emulate stripe --listen 127.0.0.1:12111 --populate 100
  palisade emulate slack --listen 127.0.0.1:12112 --redirect-uri http://127.0.0.1:8080/auth/slack/callback";

#[derive(Debug, Subcommand)]
pub(super) enum Provider {
    /// Emulates Stripe. The first line of its output is JSON with its base URL; faults are set under /_emulator/.
    Stripe(StripeArguments),
    /// Emulates Slack. The first line of its output is JSON with its base URL and the app's credentials.
    Slack(SlackArguments),
    /// Emulates Google. The first line of its output is JSON with its base URL, the app's credentials and the key file
    /// of a service account (a published test key).
    Google(GoogleArguments),
    /// Emulates Twilio. The first line of its output is JSON with its base URL and the account's credentials; the auth
    /// token signs its webhooks.
    Twilio(TwilioArguments),
    /// Emulates SendGrid. The first line of its output is JSON with its base URL, the key it accepts and the public key
    /// its webhooks are verified with.
    Sendgrid(SendGridArguments),
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// All identifiers and fault draws follow from this number.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Place {
    fn cannot_listen(&self, error: &std::io::Error) -> Failure {
        serve::cannot_listen(self.listen, "--listen", error)
    }
}

#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    place: Place,
    /// An address the authorisation page may send people back to, exactly; may be given several times.
    #[arg(long = "redirect-uri", value_name = "URL")]
    redirect_uris: Vec<String>,
    /// The name of the app that the authorisation page shows.
    #[arg(long, default_value = "Example app")]
    app_name: String,
    /// Allows every authorisation at once, without showing a page.
    #[arg(long)]
    auto_allow: bool,
}

impl Common {
    /// Names the app and registers where people may be sent.
    fn register(&self, client: Client) -> Client {
        Client { name: self.app_name.clone(), redirect_uris: self.redirect_uris.clone(), ..client }
    }

    fn dials(&self) -> Dials {
        let consent = if self.auto_allow { Consent::Allow } else { Consent::Ask };
        Dials { consent, ..Dials::default() }
    }
}

#[derive(Debug, Args)]
pub(super) struct StripeArguments {
    #[command(flatten)]
    common: Common,
    /// Begins with this many customers, and products, prices, subscriptions, invoices and charges to match.
    #[arg(long, default_value_t = 0)]
    populate: usize,
    /// The secret key that is accepted.
    #[arg(long, default_value = "sk_test_emulator")]
    api_key: String,
    /// A connected account that `Stripe-Account` may name; may be given several times.
    #[arg(long = "connected", value_name = "ACCOUNT")]
    connected: Vec<String>,
    /// Posts signed webhooks of every event to this URL.
    #[arg(long, requires = "secret_file")]
    webhook: Option<String>,
    /// A file with the signing secret of the webhooks.
    #[arg(long, requires = "webhook")]
    secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SlackArguments {
    #[command(flatten)]
    common: Common,
    /// Gives tokens that never expire, as to an app that has not switched token rotation on.
    #[arg(long)]
    no_rotation: bool,
    /// Begins with this many people, and channels and messages to match.
    #[arg(long, default_value_t = 0)]
    populate: usize,
    /// Posts signed events of every kind to this URL.
    #[arg(long)]
    webhook: Option<String>,
    /// A file with the signing secret of the events.
    #[arg(long)]
    secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct GoogleArguments {
    #[command(flatten)]
    common: Common,
    /// Begins with this many mails and calendar events of the person at the browser.
    #[arg(long, default_value_t = 0)]
    populate: usize,
    /// A scope the service account may use in that person's name (domain-wide delegation); may be given several times.
    #[arg(long = "delegate", value_name = "SCOPE")]
    delegated: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TwilioArguments {
    #[command(flatten)]
    place: Place,
    /// Begins with this many messages, one a minute until now.
    #[arg(long, default_value_t = 0)]
    populate: usize,
    /// The auth token that is accepted and that signs webhooks.
    #[arg(long, default_value = "twilio_emulator_auth_token")]
    auth_token: String,
    /// Leaves messages where they are, until /_emulator/report moves them.
    #[arg(long)]
    no_delivery: bool,
    /// Posts signed inbound messages to this URL. Status callbacks go where each message asks.
    #[arg(long)]
    webhook: Option<String>,
    /// A file with the secret of a shared key: it signs webhooks in the auth token's place, with HMAC-SHA256.
    #[arg(long)]
    secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SendGridArguments {
    #[command(flatten)]
    place: Place,
    /// Begins with this many addresses on each of the five lists of suppressed ones.
    #[arg(long, default_value_t = 0)]
    populate: usize,
    /// The API key that is accepted.
    #[arg(long, default_value = "SG.emulator")]
    api_key: String,
    /// Posts signed batches of events to this URL. The key that signs follows from the seed.
    #[arg(long)]
    webhook: Option<String>,
    /// Posts inbound mail to this URL.
    #[arg(long)]
    inbound: Option<String>,
    /// Signs inbound mail, too.
    #[arg(long, requires = "inbound")]
    sign_inbound: bool,
}

pub(super) fn run(provider: Provider) -> Result<(), Failure> {
    match provider {
        Provider::Stripe(arguments) => {
            let secret = secret_of(arguments.secret_file.as_ref())?;
            runtime()?.block_on(stripe(arguments, secret))
        }
        Provider::Slack(arguments) => {
            let secret = secret_of(arguments.secret_file.as_ref())?;
            runtime()?.block_on(slack(arguments, secret))
        }
        Provider::Google(arguments) => runtime()?.block_on(google(arguments)),
        Provider::Twilio(arguments) => {
            let secret = secret_of(arguments.secret_file.as_ref())?;
            runtime()?.block_on(twilio(arguments, secret))
        }
        Provider::Sendgrid(arguments) => runtime()?.block_on(sendgrid(arguments)),
    }
}

fn secret_of(file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    let secret = file.map(|file| read_secret_file(file).map_err(Failure::usage)).transpose()?;
    Ok(secret.map(|secret| secret.trim().to_owned()))
}

async fn stripe(arguments: StripeArguments, secret: Option<String>) -> Result<(), Failure> {
    let common = &arguments.common;
    let defaults = StripeConfig::default();
    let config = StripeConfig {
        listen: common.place.listen,
        seed: common.place.seed,
        api_key: arguments.api_key,
        connected: arguments.connected,
        platform: common.register(defaults.platform.clone()),
        ..defaults
    };
    let client = config.platform.id.clone();
    let stripe = Stripe::start(config).await.map_err(|error| common.place.cannot_listen(&error))?;
    stripe.oauth().set_dials(common.dials());
    if arguments.populate > 0 {
        stripe.populate(&seed(arguments.populate));
    }
    if let (Some(url), Some(secret)) = (&arguments.webhook, &secret) {
        stripe.webhook_endpoint(url, secret, None, &["*"]);
    }
    let mut stop = signal::stop();
    say(json!({
        "provider": "stripe", "base_url": stripe.base_url(), "api_key": stripe.api_key(), "client_id": client,
    }));
    let _ = stop.wait_for(|stop| *stop).await;
    stripe.shutdown().await;
    Ok(())
}

async fn slack(arguments: SlackArguments, secret: Option<String>) -> Result<(), Failure> {
    let common = &arguments.common;
    let defaults = SlackConfig::default();
    let clients = defaults.clients.iter().map(|client| common.register(client.clone())).collect();
    let rotation = !arguments.no_rotation;
    let signing_secret = secret.unwrap_or_else(|| defaults.signing_secret.clone());
    let config = SlackConfig {
        listen: common.place.listen,
        seed: common.place.seed,
        clients,
        rotation,
        signing_secret,
        ..defaults
    };
    let signing_secret = config.signing_secret.clone();
    let slack = Slack::start(config).await.map_err(|error| common.place.cannot_listen(&error))?;
    slack.oauth().set_dials(common.dials());
    if arguments.populate > 0 {
        slack.populate(&workspace(arguments.populate));
    }
    if let Some(url) = &arguments.webhook {
        slack.subscribe(url, &["*"]);
    }
    let (id, secret) = slack.client();
    let mut stop = signal::stop();
    say(json!({
        "provider": "slack", "base_url": slack.base_url(), "client_id": id, "client_secret": secret,
        "signing_secret": signing_secret,
    }));
    let _ = stop.wait_for(|stop| *stop).await;
    slack.shutdown().await;
    Ok(())
}

async fn google(arguments: GoogleArguments) -> Result<(), Failure> {
    let common = &arguments.common;
    let defaults = GoogleConfig::default();
    let clients = defaults.clients.iter().map(|client| common.register(client.clone())).collect();
    let account = ServiceAccount { delegated: arguments.delegated, ..ServiceAccount::built_in() };
    let person = defaults.people.first().map(|person| person.email.clone()).unwrap_or_default();
    let service_accounts = vec![account];
    let (listen, seed) = (common.place.listen, common.place.seed);
    let config = GoogleConfig { listen, seed, clients, service_accounts, ..defaults };
    let google = Google::start(config).await.map_err(|error| common.place.cannot_listen(&error))?;
    google.oauth().set_dials(common.dials());
    if arguments.populate > 0 {
        google.populate(&person, arguments.populate, arguments.populate);
    }
    let (id, secret) = google.client();
    let mut stop = signal::stop();
    say(json!({
        "provider": "google", "base_url": google.base_url(), "client_id": id, "client_secret": secret,
        "person": person, "service_account": google.service_account_key(),
    }));
    let _ = stop.wait_for(|stop| *stop).await;
    google.shutdown().await;
    Ok(())
}

async fn twilio(arguments: TwilioArguments, secret: Option<String>) -> Result<(), Failure> {
    let place = &arguments.place;
    let config = TwilioConfig {
        listen: place.listen,
        seed: place.seed,
        auth_token: arguments.auth_token,
        delivers: !arguments.no_delivery,
        inbound_url: arguments.webhook,
        shared_key: secret.map(|secret| ("webhooks_sharedkey_emulator".to_owned(), secret)),
        ..TwilioConfig::default()
    };
    let (api_key, senders) = (config.api_keys.first().cloned().unwrap_or_default(), config.senders.clone());
    let services: Vec<String> = config.services.iter().map(|(sid, _)| sid.clone()).collect();
    let twilio = Twilio::start(config).await.map_err(|error| place.cannot_listen(&error))?;
    twilio.populate(arguments.populate);
    let mut stop = signal::stop();
    say(json!({
        "provider": "twilio", "base_url": twilio.base_url(), "account_sid": twilio.account_sid(),
        "auth_token": twilio.auth_token(), "api_key_sid": api_key.0, "api_key_secret": api_key.1,
        "senders": senders, "messaging_services": services,
    }));
    let _ = stop.wait_for(|stop| *stop).await;
    twilio.shutdown().await;
    Ok(())
}

async fn sendgrid(arguments: SendGridArguments) -> Result<(), Failure> {
    let place = &arguments.place;
    let config = SendGridConfig {
        listen: place.listen,
        seed: place.seed,
        api_key: arguments.api_key,
        event_url: arguments.webhook,
        inbound_url: arguments.inbound.map(|url| (url, arguments.sign_inbound)),
        ..SendGridConfig::default()
    };
    let sendgrid = SendGrid::start(config).await.map_err(|error| place.cannot_listen(&error))?;
    for list in SUPPRESSIONS {
        sendgrid.populate(list, arguments.populate);
    }
    let mut stop = signal::stop();
    say(json!({
        "provider": "sendgrid", "base_url": sendgrid.base_url(), "api_key": sendgrid.api_key(),
        "public_key": sendgrid.public_key(),
    }));
    let _ = stop.wait_for(|stop| *stop).await;
    sendgrid.shutdown().await;
    Ok(())
}

/// SendGrid's lists of suppressed addresses.
const SUPPRESSIONS: [&str; 5] = ["bounces", "blocks", "invalid_emails", "spam_reports", "unsubscribes"];

/// Returns a workspace of a given number of people with channels and messages in proportion.
fn workspace(users: usize) -> palisade_emulator::slack::Seed {
    palisade_emulator::slack::Seed {
        users,
        channels: users / 5 + 1,
        private_channels: users / 20,
        messages_per_channel: 30,
    }
}

/// Returns an account of a given number of customers with everything else in proportion.
fn seed(customers: usize) -> Seed {
    Seed {
        customers,
        products: 20,
        prices: 40,
        subscriptions: customers / 20,
        invoices: customers / 12,
        charges: customers / 30,
        ..Seed::default()
    }
}
