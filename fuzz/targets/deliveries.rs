//! Bodies of deliveries whose signature was good: JSON, forms, multipart. Events are split, applied to records and asked
//! everything that the worker asks; never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_core::Secret;
use palisade_core::webhook::Verified;
use palisade_fuzz::{Cut, NOW, Trusting, delivery, providers};

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let providers = providers();
    let provider = &providers[usize::from(cut.byte()) % providers.len()];
    let url = format!("https://hub.example/webhooks/{}", cut.text());
    let headers = cut.headers();
    let webhook = provider.webhook().expect("every adapter has webhooks");
    let delivery = delivery(url, headers, cut.rest());
    let Ok(verified) = Verified::check(&Trusting(webhook), delivery, &[Secret::from("any")], NOW) else { return };
    let Ok(parsed) = webhook.events(&verified) else { return };
    for event in parsed.events {
        let _ = (webhook.ends_grant(&event), webhook.of_sandbox(&event.payload));
        if let Some(source) = provider.source() {
            let _ = (source.concerns(&event.kind), source.due(&event), source.resyncs(&event));
            let _ = source.apply(&event);
        }
    }
});
