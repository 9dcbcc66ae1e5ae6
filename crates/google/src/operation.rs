//! What the pipeline must know of each operation: one static table of quota costs, timeouts and replay, and honest rows
//! for every other path.
//!
//! Quotas are data (Gmail API and Calendar API usage limits, read 2026-11; Gmail's are those of projects made since
//! 2026-05-01, the lower ones): 6,000 units a minute and user and 1,200,000 a minute and project for Gmail, 600 and
//! 10,000 requests for Calendar. Rate and burst add up to what is published, so that no minute of Google's clock sees
//! more, wherever it begins. The table is matched by method and path, so that a request built by anybody finds its row.

use std::time::Duration;

use http::Method;
use palisade_core::call::{Bucket, Limit, Scope};
use palisade_core::{Operation, Replay};

/// What one Gmail user takes: 6,000 units a minute.
pub static GMAIL_USER: Bucket = bucket("gmail_user", 5_700, 300);
/// What one project takes of Gmail in all: 1,200,000 units a minute.
pub static GMAIL_PROJECT: Bucket = bucket("gmail_project", 1_140_000, 60_000);
/// What one Calendar user takes: 600 requests a minute. A service account counts as one user.
pub static CALENDAR_USER: Bucket = bucket("calendar_user", 570, 30);
/// What one project takes of Calendar in all: 10,000 requests a minute.
pub static CALENDAR_PROJECT: Bucket = bucket("calendar_project", 9_500, 500);

const fn bucket(name: &'static str, units: u32, burst: u32) -> Bucket {
    Bucket { name, units, per: Duration::from_secs(60), burst }
}

const ATTEMPT: Duration = Duration::from_secs(30);
const OVERALL: Duration = Duration::from_secs(80);
/// An upload of 35 MiB over a line of 4 Mbit/s.
const UPLOAD_ATTEMPT: Duration = Duration::from_secs(90);
const UPLOAD_OVERALL: Duration = Duration::from_secs(180);
/// One object without mail in it: an event with 200 attendees and the longest description stays below 200 KiB.
const OBJECT_BYTES_MAX: usize = 2 << 20;
/// A page of 2,500 events, or of 500 message ids.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// The largest message Gmail takes is 35 MiB; base64 in JSON adds a third, twice where parts are encoded already.
const MAIL_BYTES_MAX: usize = 64 << 20;

/// One row: a method and what it is.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) method: Method,
    pub(crate) operation: Operation,
}

const GMAIL: Operation = Operation {
    provider: "google",
    name: "gmail.profile.get",
    url_template: "/gmail/v1/users/{user}/profile",
    replay: Replay::Safe,
    bucket: &GMAIL_USER,
    also: &[Limit { bucket: &GMAIL_PROJECT, scope: Scope::Client, class: None }],
    cost: 1,
    attempt_timeout: ATTEMPT,
    overall_timeout: OVERALL,
    body_bytes_max: OBJECT_BYTES_MAX,
};
const CALENDAR: Operation = Operation {
    name: "calendar.events.get",
    url_template: "/calendar/v3/calendars/{calendar}/events/{event}",
    bucket: &CALENDAR_USER,
    also: &[Limit { bucket: &CALENDAR_PROJECT, scope: Scope::Client, class: None }],
    ..GMAIL
};
const SENDING: Operation = Operation {
    replay: Replay::Never,
    cost: 100,
    attempt_timeout: UPLOAD_ATTEMPT,
    overall_timeout: UPLOAD_OVERALL,
    ..GMAIL
};
const READING: Operation = Operation { body_bytes_max: MAIL_BYTES_MAX, cost: 20, ..GMAIL };

const fn row(method: Method, operation: Operation) -> Row {
    Row { method, operation }
}

/// The account behind the token: cheap, and it proves that the token works.
pub static PROFILE: Operation = GMAIL;
/// Lists ids of messages.
pub static MESSAGES_LIST: Operation = Operation {
    name: "gmail.messages.list",
    url_template: "/gmail/v1/users/{user}/messages",
    cost: 5,
    body_bytes_max: PAGE_BYTES_MAX,
    ..GMAIL
};
/// Reads one message.
pub static MESSAGES_GET: Operation =
    Operation { name: "gmail.messages.get", url_template: "/gmail/v1/users/{user}/messages/{id}", ..READING };
/// Reads one attachment.
pub static ATTACHMENTS_GET: Operation = Operation {
    name: "gmail.attachments.get",
    url_template: "/gmail/v1/users/{user}/messages/{id}/attachments/{attachment}",
    ..READING
};
/// Sends a message. Gmail deduplicates nothing: a failure that may have sent it is for [`crate::Google::find_sent`].
pub static MESSAGES_SEND: Operation =
    Operation { name: "gmail.messages.send", url_template: "/gmail/v1/users/{user}/messages/send", ..SENDING };
/// Sends a large message.
pub static MESSAGES_UPLOAD: Operation =
    Operation { name: "gmail.messages.upload", url_template: "/upload/gmail/v1/users/{user}/messages/send", ..SENDING };
/// Lists what happened since a history id. Its 404 means that the id is too old.
pub static HISTORY_LIST: Operation = Operation {
    name: "gmail.history.list",
    url_template: "/gmail/v1/users/{user}/history",
    cost: 2,
    body_bytes_max: PAGE_BYTES_MAX,
    ..GMAIL
};
/// Starts notifications, or lets those there are live for another week.
pub static WATCH: Operation = Operation {
    name: "gmail.watch",
    url_template: "/gmail/v1/users/{user}/watch",
    replay: Replay::Idempotent,
    cost: 100,
    ..GMAIL
};
/// Ends notifications.
pub static STOP: Operation = Operation {
    name: "gmail.stop",
    url_template: "/gmail/v1/users/{user}/stop",
    replay: Replay::Idempotent,
    cost: 50,
    ..GMAIL
};
/// Lists events: all, or with a sync token those changed since. Its 410 means that the token is too old.
pub static EVENTS_LIST: Operation = Operation {
    name: "calendar.events.list",
    url_template: "/calendar/v3/calendars/{calendar}/events",
    body_bytes_max: PAGE_BYTES_MAX,
    ..CALENDAR
};
/// Reads one event.
pub static EVENTS_GET: Operation = CALENDAR;
/// Makes an event under an id of ours: a repetition is answered 409 `duplicate`.
pub static EVENTS_INSERT: Operation = Operation {
    name: "calendar.events.insert",
    url_template: "/calendar/v3/calendars/{calendar}/events",
    replay: Replay::Idempotent,
    ..CALENDAR
};
/// Makes an event whose request may carry no id: what [`find`] gives a request of somebody else's.
pub static EVENTS_INSERT_ANY: Operation = Operation { replay: Replay::Never, ..EVENTS_INSERT };
/// Changes fields of an event, whatever they were.
pub static EVENTS_PATCH: Operation =
    Operation { name: "calendar.events.patch", replay: Replay::Idempotent, ..CALENDAR };
/// Changes fields of an event if nobody else did: a repetition would be answered 412 by its own first success.
pub static EVENTS_PATCH_IF: Operation =
    Operation { name: "calendar.events.patch_if", replay: Replay::Never, ..CALENDAR };
/// Deletes an event; deleting it again is answered 410.
pub static EVENTS_DELETE: Operation =
    Operation { name: "calendar.events.delete", replay: Replay::Idempotent, ..CALENDAR };
/// Opens a channel; a second one of the same id is refused, without the resource id that ends the first.
pub static EVENTS_WATCH: Operation = Operation {
    name: "calendar.events.watch",
    url_template: "/calendar/v3/calendars/{calendar}/events/watch",
    replay: Replay::Never,
    ..CALENDAR
};
/// Closes a channel.
pub static CHANNELS_STOP: Operation = Operation {
    name: "calendar.channels.stop",
    url_template: "/calendar/v3/channels/stop",
    replay: Replay::Idempotent,
    ..CALENDAR
};

const MAIL_READ: Operation = READING;
const MAIL_WRITE: Operation = Operation { replay: Replay::Never, ..READING };
const MAIL_SET: Operation = Operation { replay: Replay::Idempotent, ..READING };

/// The operations that are named and priced one by one, without those above.
#[rustfmt::skip]
pub(crate) static MORE: &[Row] = &[
    row(Method::POST, Operation { name: "gmail.messages.modify", url_template: "/gmail/v1/users/{user}/messages/{id}/modify", cost: 5, ..MAIL_SET }),
    row(Method::POST, Operation { name: "gmail.messages.batch_modify", url_template: "/gmail/v1/users/{user}/messages/batchModify", cost: 50, ..MAIL_SET }),
    row(Method::POST, Operation { name: "gmail.messages.batch_delete", url_template: "/gmail/v1/users/{user}/messages/batchDelete", cost: 50, ..MAIL_SET }),
    row(Method::POST, Operation { name: "gmail.messages.trash", url_template: "/gmail/v1/users/{user}/messages/{id}/trash", cost: 5, ..MAIL_SET }),
    row(Method::POST, Operation { name: "gmail.messages.untrash", url_template: "/gmail/v1/users/{user}/messages/{id}/untrash", cost: 5, ..MAIL_SET }),
    row(Method::DELETE, Operation { name: "gmail.messages.delete", url_template: "/gmail/v1/users/{user}/messages/{id}", cost: 10, ..MAIL_SET }),
    row(Method::POST, Operation { name: "gmail.messages.insert", url_template: "/gmail/v1/users/{user}/messages", cost: 25, ..MAIL_WRITE }),
    row(Method::POST, Operation { name: "gmail.messages.import", url_template: "/gmail/v1/users/{user}/messages/import", cost: 25, ..MAIL_WRITE }),
    row(Method::GET, Operation { name: "gmail.threads.list", url_template: "/gmail/v1/users/{user}/threads", cost: 10, ..MAIL_READ }),
    row(Method::GET, Operation { name: "gmail.threads.get", url_template: "/gmail/v1/users/{user}/threads/{id}", cost: 40, ..MAIL_READ }),
    row(Method::POST, Operation { name: "gmail.threads.modify", url_template: "/gmail/v1/users/{user}/threads/{id}/modify", cost: 10, ..MAIL_SET }),
    row(Method::DELETE, Operation { name: "gmail.threads.delete", url_template: "/gmail/v1/users/{user}/threads/{id}", cost: 20, ..MAIL_SET }),
    row(Method::GET, Operation { name: "gmail.labels.list", url_template: "/gmail/v1/users/{user}/labels", cost: 1, ..MAIL_READ }),
    row(Method::GET, Operation { name: "gmail.labels.get", url_template: "/gmail/v1/users/{user}/labels/{id}", cost: 1, ..MAIL_READ }),
    row(Method::POST, Operation { name: "gmail.labels.create", url_template: "/gmail/v1/users/{user}/labels", cost: 5, ..MAIL_WRITE }),
    row(Method::POST, Operation { name: "gmail.drafts.create", url_template: "/gmail/v1/users/{user}/drafts", cost: 10, ..MAIL_WRITE }),
    row(Method::PUT, Operation { name: "gmail.drafts.update", url_template: "/gmail/v1/users/{user}/drafts/{id}", cost: 15, ..MAIL_SET }),
    row(Method::POST, Operation { name: "gmail.drafts.send", url_template: "/gmail/v1/users/{user}/drafts/send", ..SENDING }),
    row(Method::GET, Operation { name: "calendar.calendars.get", url_template: "/calendar/v3/calendars/{calendar}", ..CALENDAR }),
    row(Method::GET, Operation { name: "calendar.calendar_list.list", url_template: "/calendar/v3/users/me/calendarList", ..CALENDAR }),
    row(Method::GET, Operation { name: "calendar.events.instances", url_template: "/calendar/v3/calendars/{calendar}/events/{event}/instances", body_bytes_max: PAGE_BYTES_MAX, ..CALENDAR }),
    row(Method::PUT, Operation { name: "calendar.events.update", replay: Replay::Idempotent, ..CALENDAR }),
    row(Method::POST, Operation { name: "calendar.free_busy.query", url_template: "/calendar/v3/freeBusy", body_bytes_max: PAGE_BYTES_MAX, ..CALENDAR }),
];

/// The dearest read of Gmail that has no row; every one without a row of its own costs as much.
static OTHER_GMAIL_READ: Operation =
    Operation { name: "gmail.other.read", url_template: "/gmail/v1/{other}", cost: 40, ..MAIL_READ };
static OTHER_GMAIL_WRITE: Operation =
    Operation { name: "gmail.other.write", url_template: "/gmail/v1/{other}", ..SENDING };
static OTHER_CALENDAR_READ: Operation = Operation {
    name: "calendar.other.read",
    url_template: "/calendar/v3/{other}",
    body_bytes_max: PAGE_BYTES_MAX,
    ..CALENDAR
};
static OTHER_CALENDAR_WRITE: Operation =
    Operation { name: "calendar.other.write", url_template: "/calendar/v3/{other}", replay: Replay::Never, ..CALENDAR };

/// Lists the operations of the handful of calls, each with its method.
#[must_use]
pub fn named() -> [(Method, &'static Operation); 18] {
    [
        (Method::GET, &PROFILE),
        (Method::GET, &MESSAGES_LIST),
        (Method::GET, &MESSAGES_GET),
        (Method::GET, &ATTACHMENTS_GET),
        (Method::POST, &MESSAGES_SEND),
        (Method::POST, &MESSAGES_UPLOAD),
        (Method::GET, &HISTORY_LIST),
        (Method::POST, &WATCH),
        (Method::POST, &STOP),
        (Method::GET, &EVENTS_LIST),
        (Method::POST, &EVENTS_INSERT_ANY),
        (Method::GET, &EVENTS_GET),
        (Method::PATCH, &EVENTS_PATCH),
        (Method::PATCH, &EVENTS_PATCH_IF),
        (Method::DELETE, &EVENTS_DELETE),
        (Method::POST, &EVENTS_WATCH),
        (Method::POST, &CHANNELS_STOP),
        (Method::POST, &EVENTS_INSERT),
    ]
}

/// Returns the operation of a method and a path, without a query. What has no row of its own is called `other`, is
/// priced as the dearest there is and never repeated unless it only reads.
#[must_use]
pub fn find(method: &Method, path: &str) -> &'static Operation {
    // A row without a placeholder comes before the row with one at the same place (`/messages/send` before `/{id}`).
    let own = named().into_iter().chain(MORE.iter().map(|row| (row.method.clone(), &row.operation)));
    let fitting = own.filter(|(known, row)| known == method && fits(row.url_template, path));
    if let Some((_, row)) = fitting.min_by_key(|(_, row)| row.url_template.matches('{').count()) {
        return row;
    }
    let gmail = path.starts_with("/gmail/") || path.starts_with("/upload/gmail/");
    match (gmail, *method == Method::GET) {
        (true, true) => &OTHER_GMAIL_READ,
        (true, false) => &OTHER_GMAIL_WRITE,
        (false, true) => &OTHER_CALENDAR_READ,
        (false, false) => &OTHER_CALENDAR_WRITE,
    }
}

/// Returns the operations a request may be, the one of [`find`] first: an insert may carry an id of its own or not.
pub(crate) fn of_request(method: &Method, path: &str) -> Vec<&'static Operation> {
    if !["/gmail/", "/upload/gmail/", "/calendar/"].iter().any(|api| path.starts_with(api)) {
        return Vec::new();
    }
    let first = find(method, path);
    let others = named().into_iter().filter(|(of, row)| of == method && row.url_template == first.url_template);
    let others = others.map(|(_, row)| row).filter(|row| row.name != first.name || row.replay != first.replay);
    std::iter::once(first).chain(others).collect()
}

fn fits(template: &str, path: &str) -> bool {
    let mut given = path.split('/');
    let fitting = template.split('/').all(|part| match given.next() {
        Some(text) => text == part || (part.starts_with('{') && !text.is_empty()),
        None => false,
    });
    fitting && given.next().is_none()
}

/// Tells whether an operation's success may come without a body (Google answers 204).
pub(crate) fn may_be_empty(operation: &Operation) -> bool {
    operation.replay != Replay::Safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, name: &str) {
        assert_eq!(find(&method, path).name, name, "{method} {path}");
    }

    #[test]
    fn paths_find_their_row_and_others_are_called_other() {
        check(Method::POST, "/gmail/v1/users/me/messages/send", "gmail.messages.send");
        check(Method::POST, "/upload/gmail/v1/users/me/messages/send", "gmail.messages.upload");
        check(Method::POST, "/gmail/v1/users/me/messages/batchModify", "gmail.messages.batch_modify");
        check(Method::GET, "/gmail/v1/users/me/messages/m1", "gmail.messages.get");
        check(Method::DELETE, "/gmail/v1/users/me/messages/m1", "gmail.messages.delete");
        check(Method::GET, "/gmail/v1/users/me/settings/filters", "gmail.other.read");
        check(Method::POST, "/upload/gmail/v1/users/me/messages", "gmail.other.write");
        check(Method::GET, "/calendar/v3/calendars/a%40b/events", "calendar.events.list");
        check(Method::POST, "/calendar/v3/calendars/a%40b/events", "calendar.events.insert");
        check(Method::PATCH, "/calendar/v3/calendars/a%40b/events/e1", "calendar.events.patch");
        check(Method::POST, "/calendar/v3/calendars/primary/events/watch", "calendar.events.watch");
        check(Method::POST, "/calendar/v3/channels/stop", "calendar.channels.stop");
        check(Method::GET, "/calendar/v3/colors", "calendar.other.read");
        check(Method::POST, "/calendar/v3/calendars//events", "calendar.other.write");
    }

    /// Fails when a request of unknown content is taken for one that may be repeated.
    #[test]
    fn an_insert_of_unknown_content_is_never_repeated() {
        assert_eq!(find(&Method::POST, "/calendar/v3/calendars/primary/events").replay, Replay::Never);
        assert_eq!(EVENTS_INSERT.replay, Replay::Idempotent);
        for (_, row) in named() {
            assert_eq!(
                row.replay == Replay::Never,
                row.name.contains("send")
                    || row.name.contains("upload")
                    || ["calendar.events.watch", "calendar.events.patch_if"].contains(&row.name)
                    || std::ptr::eq(row, &raw const EVENTS_INSERT_ANY),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn no_call_costs_more_than_may_be_spent_at_once_and_no_minute_exceeds_what_is_published() {
        for (published, bucket) in
            [(6_000, &GMAIL_USER), (1_200_000, &GMAIL_PROJECT), (600, &CALENDAR_USER), (10_000, &CALENDAR_PROJECT)]
        {
            assert_eq!((bucket.units + bucket.burst, bucket.per), (published, Duration::from_secs(60)));
        }
        for row in named().into_iter().map(|(_, row)| row).chain(MORE.iter().map(|row| &row.operation)) {
            assert!(row.cost <= row.bucket.burst, "{}", row.name);
            assert_eq!(row.bucket.name == "gmail_user", row.name.starts_with("gmail."), "{}", row.name);
            assert_eq!(row.provider, "google");
        }
    }

    /// The costs of Google's table (usage limits, 2026-05-01), written a second time.
    #[test]
    fn the_costs_are_googles() {
        for (name, cost) in [
            ("gmail.messages.send", 100),
            ("gmail.messages.get", 20),
            ("gmail.attachments.get", 20),
            ("gmail.messages.list", 5),
            ("gmail.history.list", 2),
            ("gmail.profile.get", 1),
            ("gmail.messages.modify", 5),
            ("gmail.messages.batch_modify", 50),
            ("gmail.messages.batch_delete", 50),
            ("gmail.messages.delete", 10),
            ("gmail.threads.get", 40),
            ("gmail.threads.list", 10),
            ("gmail.labels.list", 1),
            ("gmail.watch", 100),
            ("gmail.stop", 50),
            ("calendar.events.list", 1),
        ] {
            let rows = named().into_iter().map(|(_, row)| row).chain(MORE.iter().map(|row| &row.operation));
            let found: Vec<u32> = rows.filter(|row| row.name == name).map(|row| row.cost).collect();
            assert_eq!(found, [cost], "{name}");
        }
    }
}
