//! `palisade emulate`: an offline stand-in for a provider, until Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use palisade_emulator::stripe::{Seed, Stripe, StripeConfig};
use serde_json::json;

use super::{Failure, runtime, say, serve, signal};
use crate::config::secret::read_secret_file;

#[derive(Debug, Subcommand)]
pub(super) enum Provider {
    /// Emulates Stripe. The first line of its output is JSON with its base URL; faults are set under /_emulator/.
    Stripe(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// All identifiers and fault draws follow from this number.
    #[arg(long, default_value_t = 0)]
    seed: u64,
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

pub(super) fn run(provider: Provider) -> Result<(), Failure> {
    let Provider::Stripe(arguments) = provider;
    let secret = match &arguments.secret_file {
        Some(file) => Some(read_secret_file(file).map_err(Failure::usage)?.trim().to_owned()),
        None => None,
    };
    runtime()?.block_on(stripe(arguments, secret))
}

async fn stripe(arguments: Arguments, secret: Option<String>) -> Result<(), Failure> {
    let config = StripeConfig {
        listen: arguments.listen,
        seed: arguments.seed,
        api_key: arguments.api_key,
        connected: arguments.connected,
        ..StripeConfig::default()
    };
    let stripe =
        Stripe::start(config).await.map_err(|error| serve::cannot_listen(arguments.listen, "--listen", &error))?;
    if arguments.populate > 0 {
        stripe.populate(&seed(arguments.populate));
    }
    if let (Some(url), Some(secret)) = (&arguments.webhook, &secret) {
        stripe.webhook_endpoint(url, secret, None, &["*"]);
    }
    let mut stop = signal::stop();
    say(json!({ "provider": "stripe", "base_url": stripe.base_url(), "api_key": stripe.api_key() }));
    let _ = stop.wait_for(|stop| *stop).await;
    stripe.shutdown().await;
    Ok(())
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
