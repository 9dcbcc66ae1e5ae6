//! Answers of any status with any headers and body: classified, never a panic, and nothing of the body in the error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_core::client::Verdict;
use palisade_fuzz::{Cut, answer, providers};

/// What no error may show: it stands in every body and header here.
const MARK: &str = "c4n4ry-0f-th3-f1xt";

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let providers = providers();
    let at = usize::from(cut.byte()) % providers.len();
    let status = 100 + (u16::from(cut.byte()) << 2 | u16::from(cut.byte() & 3)) % 500;
    let headers = cut.headers();
    let body = [cut.rest().as_ref(), MARK.as_bytes()].concat();
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
    for shown in [error.to_string(), format!("{error:?}"), error.user_message()] {
        assert!(!shown.contains(MARK), "the body is in the error: {shown}");
    }
});
