//! Cursors as they come back from a store or a consumer, and pages and records as a provider, or somebody in between,
//! answers them: never a panic, and no request leaves for a host that is not the provider's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_core::sync::{Cursor, Next};
use palisade_core::{RecordId, StreamName};
use palisade_fuzz::{Cut, answer, providers, site, span};

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let providers = providers();
    let provider = &providers[usize::from(cut.byte()) % providers.len()];
    let source = provider.source().expect("every adapter has streams");
    let streams = source.streams();
    let stream = StreamName::new(streams[usize::from(cut.byte()) % streams.len()].name);
    let cursor = Cursor::new(cut.text());
    let id = RecordId::new(cut.text());
    let site = site(provider.as_ref());
    for request in
        [source.request(&site, &stream, Some(&cursor)), source.fetch(&site, &stream, &id)].into_iter().flatten()
    {
        let host = request.uri().host().unwrap_or_default();
        assert!(provider.manifest().hosts.contains(&host), "a request would leave for {host}");
    }
    let _ = source.step_back(&stream, &cursor);
    let headers = cut.headers();
    let response = answer(200, headers, cut.rest());
    if let Ok(page) = source.page(&stream, Some(&cursor), &response, span())
        && let Next::More(next) = page.next
        && let Ok(request) = source.request(&site, &stream, Some(&next))
    {
        let host = request.uri().host().unwrap_or_default();
        assert!(provider.manifest().hosts.contains(&host), "a page leads to {host}");
    }
    let _ = source.fetched(&stream, &id, &response, span());
});
