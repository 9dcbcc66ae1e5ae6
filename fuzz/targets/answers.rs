//! Answers of any status with any headers and body: classified, never a panic, nothing of the body in the
//! error, and no wait without a bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_core::client::{HINT_MAX, Verdict, retry_after};
use palisade_core::clock::ManualClock;
use palisade_fuzz::{Cut, NOW, answer, providers};

/// What no error may show: it stands in a body for every `@`, and where nothing of it can be read, behind it. No name or
/// code of a provider has a space in it.
const MARK: &str = "c4n4ry of the f1xt";

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let providers = providers();
    let at = usize::from(cut.byte()) % providers.len();
    let status = 100 + (u16::from(cut.byte()) << 2 | u16::from(cut.byte() & 3)) % 500;
    let headers = cut.headers();
    let hint = retry_after(&headers, &ManualClock::starting_at(NOW));
    assert!(hint.is_none_or(|hint| hint <= HINT_MAX), "a hint of {hint:?} is believed");
    let body = cut.rest();
    let marked: Vec<&[u8]> = body.split(|byte| *byte == b'@').collect();
    let mut body = marked.join(MARK.as_bytes());
    if marked.len() == 1 {
        body.extend(MARK.as_bytes());
    }
    let profile = providers[at].profile();
    let operation = match at {
        0 => &palisade_stripe::operation::OPERATIONS[0],
        1 => &palisade_slack::operation::OPERATIONS[0],
        2 => &palisade_google::operation::MESSAGES_LIST,
        3 => &palisade_twilio::operation::CREATE_MESSAGE,
        _ => &palisade_sendgrid::operation::SEND_MAIL,
    };
    let (Verdict::Unauthorized(error) | Verdict::Throttled { error, .. } | Verdict::Failed { error, .. }) =
        profile.classifier.classify(operation, &answer(status, headers, body.into()))
    else {
        return;
    };
    for shown in [error.to_string(), format!("{error:?}"), error.user_message().into_owned()] {
        assert!(!shown.contains(MARK), "the body is in the error: {shown}");
    }
});
