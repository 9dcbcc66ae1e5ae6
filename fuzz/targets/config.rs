//! Configuration files of any text: read, or refused with at least one problem that names its place; never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_hub::config::{Config, Known};

const KNOWN: Known<'_> = Known {
    providers: &["google", "sendgrid", "slack", "stripe", "twilio"],
    flows: &["google", "slack", "stripe"],
    service_accounts: &["google"],
    accounts: &["google", "slack", "stripe"],
    walks: &[("stripe", "events")],
};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Err(problems) = Config::parse(&text, KNOWN) {
        assert!(!problems.is_empty(), "refused without a reason");
    }
});
