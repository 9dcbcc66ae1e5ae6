//! Measures what the emulator itself costs: pages of customers in memory and over a socket. Run with `--release`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement prints and reads the real clock")]

use std::error::Error;
use std::time::Instant;

use palisade_emulator::stripe::{Seed, Stripe, StripeConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let stripe = Stripe::start(StripeConfig { seed: 7, ..StripeConfig::default() }).await?;
    let begun = Instant::now();
    stripe.populate(&Seed { customers: 100_000, customer_bytes: 1024, ..Seed::default() });
    println!("populate 100,000 customers: {:?}", begun.elapsed());
    let begun = Instant::now();
    let (mut pages, mut after, mut bytes) = (0, String::new(), 0);
    loop {
        let request = http::Request::get(format!("http://stripe.invalid/v1/customers?limit=100{after}"))
            .header("authorization", "Bearer sk_test_emulator")
            .body(bytes::Bytes::new())?;
        let response = stripe.handle(request).await.map_err(|cut| format!("{cut:?}"))?;
        pages += 1;
        bytes += response.body().len();
        let text = std::str::from_utf8(response.body())?;
        let last = text.rfind("\"id\":\"cus_").and_then(|at| text.get(at + 6..at + 24));
        let (Some(last), true) =
            (last, text.starts_with("{\"object\":\"list\",\"url\":\"/v1/customers\",\"has_more\":true"))
        else {
            break;
        };
        after = format!("&starting_after={last}");
    }
    println!("{pages} pages, {bytes} bytes in memory: {:?}, {:?} a page", begun.elapsed(), begun.elapsed() / pages);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let begun = Instant::now();
    for _ in 0..1_000 {
        let url = format!("{}/v1/customers?limit=100", stripe.base_url());
        client.get(url).bearer_auth(stripe.api_key()).send().await?.bytes().await?;
    }
    println!("1,000 pages over a socket, client included: {:?}, {:?} a page", begun.elapsed(), begun.elapsed() / 1_000);
    Ok(())
}
