//! Typed events.

use palisade_twilio::event::{InboundMessage, Wish};
use palisade_twilio::{MessageStatus, TypedEvent};

use super::webhook::{only, parse};

#[test]
fn reports_messages_calls_and_recordings_have_types() {
    let body = "MessageSid=SM00000000000000000000000000000001&MessageStatus=undelivered&To=%2B15005550006&ErrorCode=30003&MessagingServiceSid=MG00000000000000000000000000000000";
    let TypedEvent::MessageStatus(report) = TypedEvent::parse(&only(body)).unwrap() else { panic!() };
    assert_eq!((report.status.clone(), report.error_code), (MessageStatus::Undelivered, Some(30_003)));
    assert_eq!(report.to.as_deref(), Some("+15005550006"));
    assert!(report.service.is_some() && report.advice().unwrap().message.contains("cannot be reached"));

    let body = "MessageSid=MM00000000000000000000000000000001&SmsStatus=received&From=whatsapp%3A%2B1&To=whatsapp%3A%2B2&Body=hi&NumMedia=2&MediaUrl0=https%3A%2F%2Fm%2F0&MediaContentType0=image%2Fpng&MediaUrl1=https%3A%2F%2Fm%2F1&ProfileName=Ada&OptOutType=START";
    let events = parse(body).unwrap().events;
    let TypedEvent::MessageReceived(InboundMessage { from, media, profile_name, body, .. }) =
        TypedEvent::parse(&events[0]).unwrap()
    else {
        panic!()
    };
    assert_eq!((from.as_str(), body.as_str(), profile_name.as_deref()), ("whatsapp:+1", "hi", Some("Ada")));
    assert_eq!(
        (media.len(), media[0].content_type.as_deref(), media[1].content_type.as_deref()),
        (2, Some("image/png"), None)
    );
    let TypedEvent::OptOut(opted) = TypedEvent::parse(&events[1]).unwrap() else { panic!() };
    assert_eq!(opted.wish, Wish::Start);

    let call = "CallSid=CA00000000000000000000000000000001&CallStatus=completed&CallDuration=12&From=%2B1";
    let TypedEvent::Call(report) = TypedEvent::parse(&only(call)).unwrap() else { panic!() };
    assert_eq!((report.status.as_str(), report.duration_seconds, report.to), ("completed", Some(12), None));

    let recording =
        "RecordingSid=RE00000000000000000000000000000001&RecordingStatus=completed&RecordingUrl=https%3A%2F%2Fr";
    let TypedEvent::Recording(report) = TypedEvent::parse(&only(recording)).unwrap() else { panic!() };
    assert_eq!(report.url.as_deref(), Some("https://r"));
}

#[test]
fn unknown_events_stay_raw_and_broken_ones_say_so() {
    let other = only("Level=ERROR");
    let TypedEvent::Unknown { kind, raw } = TypedEvent::parse(&other).unwrap() else { panic!() };
    assert_eq!((kind.as_str(), &raw), ("other", &other.payload));
    let mut event = only("MessageSid=SM00000000000000000000000000000001&MessageStatus=sent");
    event.payload = "{}".into();
    assert!(TypedEvent::parse(&event).is_err());
    event.payload = "no json".into();
    assert!(TypedEvent::parse(&event).is_err());
}
