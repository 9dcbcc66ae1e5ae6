//! Typed events.

use palisade_core::Timestamp;
use palisade_sendgrid::TypedEvent;
use palisade_sendgrid::event::Happened;

use super::webhook::parse;

fn typed(fields: &str) -> palisade_core::Result<TypedEvent> {
    let body = format!(
        r#"[{{"email":"a@x","timestamp":1767225599,"sg_event_id":"e","sg_message_id":"14c5d75ce93.dfd.0",{fields}}}]"#
    );
    TypedEvent::parse(&parse(&body).unwrap()[0])
}

fn happened(fields: &str) -> Happened {
    let TypedEvent::Mail(event) = typed(fields).unwrap() else { panic!("{fields}") };
    assert_eq!((event.email.as_str(), event.at), ("a@x", Some(Timestamp::from_seconds(1_767_225_599))));
    event.happened
}

#[test]
fn every_documented_type_has_one_of_ours() {
    let text = |text: &str| Some(text.to_owned());
    for (fields, expected) in [
        (r#""event":"processed""#, Happened::Processed),
        (r#""event":"dropped","reason":"Bounced Address""#, Happened::Dropped { reason: text("Bounced Address") }),
        (r#""event":"delivered","response":"250 OK""#, Happened::Delivered),
        (r#""event":"deferred","attempt":"5""#, Happened::Deferred { attempt: Some(5) }),
        (r#""event":"deferred","attempt":-1"#, Happened::Deferred { attempt: None }),
        (
            r#""event":"bounce","type":"bounce","reason":"550","status":"5.1.1""#,
            Happened::Bounced { blocked: false, reason: text("550"), status: text("5.1.1") },
        ),
        (r#""event":"bounce","type":"blocked""#, Happened::Bounced { blocked: true, reason: None, status: None }),
        (r#""event":"open","sg_machine_open":true"#, Happened::Opened { by_machine: true }),
        (r#""event":"open""#, Happened::Opened { by_machine: false }),
        (r#""event":"click","url":"https://x""#, Happened::Clicked { url: text("https://x") }),
        (r#""event":"spamreport""#, Happened::SpamReported),
        (r#""event":"unsubscribe""#, Happened::Unsubscribed),
        (r#""event":"group_unsubscribe","asm_group_id":10"#, Happened::GroupUnsubscribed { group: Some(10) }),
        (r#""event":"group_resubscribe","asm_group_id":10"#, Happened::GroupResubscribed { group: Some(10) }),
    ] {
        assert_eq!(happened(fields), expected, "{fields}");
    }
}

#[test]
fn a_mails_reference_arguments_and_categories_come_back() {
    let fields = r#""event":"delivered","palisade_ref":"order-1","own":"v","n":7,"category":["c1","c2"],"tls":1"#;
    let TypedEvent::Mail(event) = typed(fields).unwrap() else { panic!() };
    assert_eq!(event.reference.as_deref(), Some("order-1"));
    assert_eq!(event.categories, ["c1", "c2"]);
    let own: Vec<_> = event.custom_args.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(own, [("n", "7"), ("own", "v")]);
    assert!(event.is_of("14c5d75ce93") && event.is_of("14c5d75ce93.dfd.0"));
    assert!(!event.is_of("14c5d75ce9") && !event.is_of("") && !event.is_of("x"));
    let TypedEvent::Mail(event) = typed(r#""event":"delivered","category":"one""#).unwrap() else { panic!() };
    assert_eq!(event.categories, ["one"]);
}

#[test]
fn unknown_events_stay_raw_and_broken_ones_say_so() {
    let TypedEvent::Unknown { kind, .. } = typed(r#""event":"account_status_change","type":"x""#).unwrap() else {
        panic!()
    };
    assert_eq!(kind, "account_status_change");
    assert!(TypedEvent::parse(&parse(r#"[{"event":"open"}]"#).unwrap()[0]).is_err(), "it names no recipient");
    let mut event = parse(r#"[{"event":"open"}]"#).unwrap().remove(0);
    event.payload = "no json".into();
    assert!(TypedEvent::parse(&event).is_err());
}
