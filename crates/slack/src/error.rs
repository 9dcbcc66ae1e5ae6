//! What Slack's answers mean: `ok`, its error code and the status, to kind, outcome and repeat. One table.
//!
//! A method answers 200 whatever became of it and says `ok:false` with a code; only 429 means something by itself, all
//! other statuses come from machines in between (docs.slack.dev, web API; slack_sdk 3.47, @slack/web-api 8.2). Nothing
//! of a body but short machine codes and scope names reaches an [`Error`]: Slack's own texts name channels and people.

use std::error::Error as StdError;
use std::fmt;

use bytes::Bytes;
use http::Response;
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict, error_of_status};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use serde_json::Value;
use slack_morphism::errors::SlackClientError;

use crate::operation::{speaks_json, walk};

/// Slack's id of the request, for its support.
pub(crate) const REQUEST_ID: &str = "x-slack-req-id";
/// Codes, scopes and places in a request longer than this are not Slack's.
const WORD_BYTES_MAX: usize = 200;
/// Scopes and places kept of one answer.
const WORDS_MAX: usize = 20;
/// What a message about a field of a request names the field behind (docs.slack.dev, `response_metadata.messages`).
const POINTER: &str = "[json-pointer:";

/// Reads Slack's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlackClassifier;

/// The machine-readable part of a Slack error. Holds codes and scope names only, never a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// Slack's code (`channel_not_found`).
    pub code: String,
    /// The scopes that one of was needed, for `missing_scope`.
    pub needed: Vec<String>,
    /// The scopes the token has, for `missing_scope`.
    pub provided: Vec<String>,
    /// The fields of the request that were found wrong, as JSON pointers (`/blocks/0/text`).
    pub fields: Vec<String>,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slack error {}", self.code)?;
        if !self.needed.is_empty() {
            write!(f, ", needs {}, has {}", self.needed.join(" or "), self.provided.join(" "))?;
        }
        if !self.fields.is_empty() {
            write!(f, ", at {}", self.fields.join(" "))?;
        }
        Ok(())
    }
}

impl StdError for Detail {}

/// Returns Slack's codes behind an error, where Slack gave some.
#[must_use]
pub fn detail(error: &Error) -> Option<&Detail> {
    StdError::source(error)?.downcast_ref()
}

/// Takes our error out of slack-morphism's, for calls made with its own types.
///
/// ```
/// # async fn team(slack: &palisade_slack::Slack) -> palisade_core::Result<String> {
/// use slack_morphism::api::SlackApiTeamInfoRequest;
///
/// let team = slack.session().team_info(&SlackApiTeamInfoRequest::new()).await.map_err(palisade_slack::error::of)?;
/// # Ok(team.team.id.to_string())
/// # }
/// ```
#[must_use]
pub fn of(error: SlackClientError) -> Error {
    let wrong = |kind, why| Error::new(kind, why).during("slack", "call");
    match error {
        SlackClientError::SystemError(system) => match system.cause.map(|cause| cause.downcast::<Error>()) {
            Some(Ok(ours)) => *ours,
            Some(Err(_)) | None => wrong(ErrorKind::Transport, "the call failed"),
        },
        SlackClientError::HttpProtocolError(_) => wrong(ErrorKind::Invalid, "the parameters do not make a URL"),
        SlackClientError::ProtocolError(_) => {
            wrong(ErrorKind::Decode, "the request or answer is not the JSON it should be")
        }
        SlackClientError::EndOfStream(_) => wrong(ErrorKind::Invalid, "the list has no further page"),
        SlackClientError::ApiError(_)
        | SlackClientError::HttpError(_)
        | SlackClientError::RateLimitError(_)
        | SlackClientError::SocketModeProtocolError(_) => wrong(ErrorKind::Provider, "the call failed"),
    }
}

impl Classifier for SlackClassifier {
    fn classify(&self, operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        judge(operation, response)
    }
}

/// What is decided of an answer, before it is told as a verdict.
pub(crate) fn judge(operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
    let status = response.status();
    let request_id = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).and_then(short);
    let named = |error: Error| match &request_id {
        Some(id) => error.with_status(status.as_u16()).with_request_id(id.clone()),
        None => error.with_status(status.as_u16()),
    };
    let body = response.body().trim_ascii();
    if !speaks_json(operation) {
        return plain(response, body, named);
    }
    if status.is_success() && is_plainly_ok(body) {
        return Verdict::Success;
    }
    let answer = Answer::read(body);
    match answer {
        Answer::Ok if status.is_success() => Verdict::Success,
        Answer::Refused(detail) if status.is_success() || !status.is_server_error() => {
            let mut row = row(&detail.code, status.as_u16());
            if operation.name.starts_with(walk::PREFIX) {
                row = row.in_a_walk(operation, &detail.code);
            }
            row.verdict(detail, named)
        }
        Answer::Other if status.is_success() => {
            let error = named(unreadable(body));
            Verdict::Failed { error, repeat: Repeat::IfSafe }
        }
        Answer::Ok | Answer::Refused(_) | Answer::Other => by_status(response, named),
    }
}

/// Slack writes `ok` first; a page of a thousand messages need not be parsed to see it, only to have come whole.
fn is_plainly_ok(body: &[u8]) -> bool {
    body.starts_with(br#"{"ok":true"#) && body.last() == Some(&b'}')
}

/// What a body is.
enum Answer {
    Ok,
    Refused(Detail),
    /// Anything else: HTML, nothing, JSON cut on its way or nested too deep to be Slack's.
    Other,
}

impl Answer {
    fn read(body: &[u8]) -> Self {
        // serde_json stops at 128 levels, so a body that nests without end is refused here and not on the stack.
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Self::Other };
        match value.get("ok") {
            Some(Value::Bool(true)) => Self::Ok,
            Some(Value::Bool(false)) => Self::Refused(Detail::of(&value)),
            _ => Self::Other,
        }
    }
}

impl Detail {
    fn of(answer: &Value) -> Self {
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        // Scopes come as one text joined by commas.
        let words =
            |name: &str| text(name).into_iter().flat_map(|text| text.split(',')).filter_map(|word| short(word.trim()));
        let messages = answer.pointer("/response_metadata/messages").and_then(Value::as_array);
        let pointer = |message: &Value| {
            let (_, behind) = message.as_str()?.split_once(POINTER)?;
            short(behind.split_once(']')?.0)
        };
        Self {
            code: text("error").and_then(short).unwrap_or_else(|| "unknown_error".to_owned()),
            needed: words("needed").take(WORDS_MAX).collect(),
            provided: words("provided").take(WORDS_MAX).collect(),
            fields: messages.into_iter().flatten().filter_map(pointer).take(WORDS_MAX).collect(),
        }
    }
}

/// One line of the table.
struct Row {
    how: How,
    kind: ErrorKind,
    message: &'static str,
    user_message: Option<&'static str>,
}

/// What comes after the answer.
#[derive(Clone, Copy)]
enum How {
    /// Slack did nothing; the answer is final.
    Refused,
    /// Slack did nothing and will do it later.
    RefusedForNow,
    /// Slack did nothing; the same request may go again.
    Again,
    /// Slack did nothing; a fresh token may help.
    Unauthorized,
    /// Slack did nothing and asks to wait: with this method, or with all that share its wider limit.
    Throttled(Scope),
    /// Slack may have acted.
    Ambiguous,
}

impl Row {
    const fn new(how: How, kind: ErrorKind, message: &'static str) -> Self {
        Self { how, kind, message, user_message: None }
    }

    const fn refused(kind: ErrorKind, message: &'static str) -> Self {
        Self::new(How::Refused, kind, message)
    }

    const fn saying(mut self, user_message: &'static str) -> Self {
        self.user_message = Some(user_message);
        self
    }

    /// A sync reads conversations one after another: one the app has left, or that is gone, ends a part of the walk,
    /// and its records are gone with it.
    fn in_a_walk(self, operation: &Operation, code: &str) -> Self {
        let gone = matches!(code, "channel_not_found" | "not_in_channel" | "thread_not_found" | "message_not_found");
        match gone {
            true if [walk::CONVERSATION.name, walk::MESSAGE.name].contains(&operation.name) => {
                Self::refused(ErrorKind::NotFound, self.message)
            }
            true => Self::refused(ErrorKind::CursorExpired, "the conversation or thread is gone from the walk"),
            false => self,
        }
    }

    fn verdict(self, detail: Detail, named: impl Fn(Error) -> Error) -> Verdict {
        let outcome = if matches!(self.how, How::Ambiguous) { Outcome::Unknown } else { Outcome::Rejected };
        let mut error = named(Error::new(self.kind, self.message)).with_outcome(outcome).with_code(detail.code.clone());
        if let Some(message) = self.user_message {
            error = error.with_user_message(message);
        }
        if !detail.needed.is_empty() {
            error = error.with_scope(detail.needed.join(" or "));
        }
        let error = error.with_source(detail);
        let failed = |error, repeat| Verdict::Failed { error, repeat };
        match self.how {
            How::Refused => failed(error, Repeat::Never),
            How::RefusedForNow => failed(error.with_retryable(true), Repeat::Never),
            How::Again => failed(error.with_retryable(true), Repeat::Always),
            How::Unauthorized => Verdict::Unauthorized(error),
            How::Throttled(scope) => Verdict::Throttled { error, after: None, scope },
            How::Ambiguous => failed(error, Repeat::IfSafe),
        }
    }
}

const GONE: &str = "The connection to Slack has ended. Please reconnect it.";
const SCOPE: &str = "Slack has not been allowed to do this. Please reconnect Slack and accept the missing permission.";
const FORBIDDEN: &str = "An administrator of this Slack workspace does not allow this.";

/// The table (docs.slack.dev, the errors of each method; read 2026-11).
fn row(code: &str, status: u16) -> Row {
    use ErrorKind as K;
    match code {
        "rate_limited" | "message_limit_exceeded" => {
            Row::new(How::Throttled(Scope::Account), K::Throttled, "too many messages to one workspace")
        }
        _ if code == "ratelimited" || status == 429 => {
            Row::new(How::Throttled(Scope::Operation), K::Throttled, "too many calls")
        }
        // A token that was replaced meanwhile is refused by any of these; whether it was, the credential source knows.
        "token_expired" | "invalid_auth" | "token_revoked" | "not_authed" => {
            Row::new(How::Unauthorized, K::Auth, "the token was refused").saying(GONE)
        }
        "account_inactive" | "user_removed_from_team" => {
            Row::refused(K::Auth, "the account or workspace of the token is gone").saying(GONE)
        }
        "missing_scope" => Row::refused(K::Permission, "the token lacks a scope").saying(SCOPE),
        "not_allowed_token_type" => Row::refused(K::Permission, "the method does not take this type of token"),
        "not_in_channel" => Row::refused(K::Permission, "the app is not in the conversation")
            .saying("The app is not in this Slack channel. Invite it there and try again."),
        "cant_update_message" | "cant_delete_message" | "edit_window_closed" => {
            Row::refused(K::Permission, "the message may not be changed by this token")
                .saying("Slack does not allow this message to be changed any more.")
        }
        "no_permission"
        | "access_denied"
        | "accesslimited"
        | "ekm_access_denied"
        | "enterprise_is_restricted"
        | "team_access_not_granted"
        | "user_is_restricted"
        | "user_is_ultra_restricted"
        | "as_user_not_supported"
        | "not_authorized"
        | "two_factor_setup_required"
        | "cannot_dm_bot"
        | "cant_invite"
        | "cant_kick_self" => Row::refused(K::Permission, "the workspace does not permit this").saying(FORBIDDEN),
        _ if code.starts_with("restricted_action") || code.starts_with("posting_to_") => {
            Row::refused(K::Permission, "a preference of the workspace prevents this").saying(FORBIDDEN)
        }
        "channel_not_found" | "no_service" => Row::refused(K::NotFound, "no such conversation, or not for this token")
            .saying("This Slack channel does not exist any more, or the app cannot see it."),
        "user_not_found" | "users_not_found" | "user_not_visible" => {
            Row::refused(K::NotFound, "no such user, or not for this token")
                .saying("This person is not in the Slack workspace.")
        }
        "invalid_scheduled_message_id" | "not_found" | "no_such_subteam" => Row::refused(K::NotFound, "no such object"),
        "expired_url" => Row::refused(K::NotFound, "the address for answers has expired")
            .saying("It is too late to answer this in Slack. Please start again there."),
        _ if code.ends_with("_not_found") => Row::refused(K::NotFound, "no such object"),
        "invalid_cursor" => Row::refused(K::CursorExpired, "the cursor of a list is not valid any more"),
        "is_archived" | "channel_is_archived" => Row::refused(K::Conflict, "the conversation is archived")
            .saying("This Slack channel is archived. Unarchive it or choose another one."),
        "name_taken" => {
            Row::refused(K::Conflict, "the name is taken").saying("A Slack channel with this name exists already.")
        }
        "no_reaction"
        | "not_pinned"
        | "hash_conflict"
        | "expired_trigger_id"
        | "exchanged_trigger_id"
        | "used_url"
        | "token_already_exchanged" => Row::refused(K::Conflict, "the object is not in the state for this"),
        _ if code.starts_with("already_") => Row::refused(K::Conflict, "the object is in that state already"),
        "msg_too_long" | "msg_blocks_too_long" => Row::refused(K::Invalid, "the message is too long")
            .saying("This message is too long for Slack. Please shorten it."),
        "no_text" => {
            Row::refused(K::Invalid, "the message is empty").saying("This message is empty. Please write something.")
        }
        "time_in_past" => Row::refused(K::Invalid, "the time lies in the past")
            .saying("This time has passed. Please choose one in the future."),
        "time_too_far" => Row::refused(K::Invalid, "the time lies more than 120 days ahead")
            .saying("Slack schedules messages for the next 120 days only. Please choose an earlier time."),
        // The body came cut or not at all, so nothing can have been done with it.
        "request_timeout" => Row::new(How::Again, K::Transport, "the request did not arrive whole"),
        "org_login_required" | "team_added_to_org" => {
            Row::new(How::RefusedForNow, K::Provider, "the workspace is being moved into an organization")
        }
        "internal_error" | "fatal_error" | "service_unavailable" | "rollup_error" => {
            Row::new(How::Ambiguous, K::Provider, "Slack failed")
        }
        "unknown_method" | "method_deprecated" | "deprecated_endpoint" => {
            Row::refused(K::Config, "Slack has no such method any more")
        }
        "invalid_client_id" | "bad_client_secret" => Row::refused(K::Config, "the app's client id or secret is wrong"),
        _ => Row::refused(K::Invalid, "Slack did not accept the request"),
    }
}

/// An answer of 200 that is not Slack's.
fn unreadable(body: &[u8]) -> Error {
    let (message, outcome) = match body.first() {
        Some(b'{') if body.starts_with(br#"{"ok":true"#) => {
            ("the answer ends before its JSON does", Outcome::Processed)
        }
        Some(b'{') => ("the answer is not the JSON Slack sends", Outcome::Unknown),
        Some(_) => ("the answer is not Slack's JSON: does a proxy answer in its place?", Outcome::Unknown),
        None => ("the answer is empty where Slack sends JSON", Outcome::Unknown),
    };
    Error::new(ErrorKind::Decode, message).with_outcome(outcome)
}

/// An answer by a machine in between.
fn by_status(response: &Response<Bytes>, named: impl Fn(Error) -> Error) -> Verdict {
    let status = response.status();
    if matches!(status.as_u16(), 404 | 407) {
        let why = "nothing like Slack answers at this address: is the base URL right?";
        return Verdict::Failed {
            error: named(Error::new(ErrorKind::Config, why)).with_outcome(Outcome::Rejected),
            repeat: Repeat::Never,
        };
    }
    let error = named(error_of_status(status));
    match status.as_u16() {
        401 => Verdict::Unauthorized(error.with_user_message(GONE)),
        429 => Verdict::Throttled { error, after: None, scope: Scope::Operation },
        408 | 500.. => Verdict::Failed { error, repeat: Repeat::IfSafe },
        _ => Verdict::Failed { error, repeat: Repeat::Never },
    }
}

/// An answer of an address rather than a method: `ok`, a code in plain text (`no_service`, `invalid_payload`), the JSON
/// of methods (`expired_url`), or somebody else's page.
fn plain(response: &Response<Bytes>, body: &[u8], named: impl Fn(Error) -> Error) -> Verdict {
    let status = response.status();
    match Answer::read(body) {
        Answer::Refused(detail) if !status.is_server_error() => {
            return row(&detail.code, status.as_u16()).verdict(detail, named);
        }
        Answer::Other if status.is_success() && body.starts_with(b"<") => {
            return Verdict::Failed { error: named(unreadable(body)), repeat: Repeat::IfSafe };
        }
        Answer::Ok | Answer::Other if status.is_success() => return Verdict::Success,
        Answer::Ok | Answer::Refused(_) | Answer::Other => {}
    }
    let code = std::str::from_utf8(body).ok().and_then(short);
    match code {
        Some(code) if status.is_client_error() => {
            row(&code, status.as_u16()).verdict(Detail { code, ..Detail::default() }, named)
        }
        Some(_) | None => by_status(response, named),
    }
}

/// Takes a machine code: short, and made of the letters codes, scopes and pointers are made of. Anything else is a
/// message or somebody's data and is left out.
pub(crate) fn short(text: &str) -> Option<String> {
    let fits = !text.is_empty()
        && text.len() <= WORD_BYTES_MAX
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.:/".contains(&c));
    fits.then(|| text.to_owned())
}
