//! Serves an emulated Stripe until standard input closes: `cargo run -p palisade-emulator --example stripe [PORT]`.
//!
//! Prints one line of JSON, `{"base_url": …, "api_key": …}`, once it listens. The scripts in `tests/sdks` use it.
#![allow(clippy::print_stdout, reason = "printing the address is what this program is for")]

use std::error::Error;
use std::net::SocketAddr;

use palisade_emulator::stripe::{Stripe, StripeConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(0), |text| text.parse())?;
    let connected = vec!["acct_connected".to_owned()];
    let config = StripeConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        seed: 7,
        connected,
        ..StripeConfig::default()
    };
    let stripe = Stripe::start(config).await?;
    println!("{}", serde_json::json!({ "base_url": stripe.base_url(), "api_key": stripe.api_key() }));
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    stripe.shutdown().await;
    Ok(())
}
