//! The Web API's methods: one table with each one's limit and scopes, and what every method does before its own work.

mod chat;
mod conversations;
mod users;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::SlackProvider;
use super::args::Args;
use super::limits::Rate;
use super::world::{Channel, Kind, Ordered, World, ts_parse};
use crate::oauth::state::Bearer;

/// Most rows a page may have (docs.slack.dev, pagination).
const LIMIT_MAX: usize = 1000;

/// A refusal in Slack's form: `ok: false`, an error word, sometimes more.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem(Map<String, Value>);

impl Problem {
    /// Adds a field.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Gives the whole body.
    pub(crate) fn body(self) -> Value {
        Value::Object(self.0)
    }
}

impl From<&str> for Problem {
    fn from(error: &str) -> Self {
        Self(Map::from_iter([("ok".to_owned(), json!(false)), ("error".to_owned(), json!(error))]))
    }
}

impl From<String> for Problem {
    fn from(error: String) -> Self {
        Self::from(error.as_str())
    }
}

/// What a method answers.
pub(crate) type Outcome = Result<Value, Problem>;

/// A method of the Web API.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) rate: Rate,
    /// The scope it needs whatever it is asked; others depend on the conversation.
    pub(crate) scope: Option<&'static str>,
    run: fn(&mut Call<'_>) -> Outcome,
}

/// Methods that need a token and work on the world. OAuth's own stand in `oauth.rs`.
const METHODS: &[Method] = &[
    Method { name: "chat.postMessage", rate: Rate::Post, scope: Some("chat:write"), run: chat::post },
    Method { name: "chat.update", rate: Rate::Tier(3), scope: Some("chat:write"), run: chat::update },
    Method { name: "chat.delete", rate: Rate::Tier(3), scope: Some("chat:write"), run: chat::delete },
    Method { name: "chat.scheduleMessage", rate: Rate::Tier(3), scope: Some("chat:write"), run: chat::schedule },
    Method {
        name: "chat.deleteScheduledMessage",
        rate: Rate::Tier(3),
        scope: Some("chat:write"),
        run: chat::unschedule,
    },
    Method { name: "chat.scheduledMessages.list", rate: Rate::Tier(3), scope: None, run: chat::scheduled },
    Method { name: "chat.getPermalink", rate: Rate::Special, scope: None, run: chat::permalink },
    Method { name: "conversations.list", rate: Rate::Tier(2), scope: None, run: conversations::list },
    Method { name: "users.conversations", rate: Rate::Tier(3), scope: None, run: conversations::mine },
    Method { name: "conversations.info", rate: Rate::Tier(3), scope: None, run: conversations::info },
    Method { name: "conversations.members", rate: Rate::Tier(4), scope: None, run: conversations::members },
    Method { name: "conversations.history", rate: Rate::History, scope: None, run: conversations::history },
    Method { name: "conversations.replies", rate: Rate::History, scope: None, run: conversations::replies },
    Method { name: "conversations.join", rate: Rate::Tier(3), scope: Some("channels:join"), run: conversations::join },
    Method { name: "conversations.open", rate: Rate::Tier(3), scope: Some("im:write"), run: conversations::open },
    Method { name: "users.list", rate: Rate::Tier(2), scope: Some("users:read"), run: users::list },
    Method { name: "users.info", rate: Rate::Tier(4), scope: Some("users:read"), run: users::info },
    Method { name: "users.lookupByEmail", rate: Rate::Tier(3), scope: Some("users:read.email"), run: users::by_email },
    Method { name: "team.info", rate: Rate::Tier(3), scope: Some("team:read"), run: users::team },
];

/// Finds a method.
pub(crate) fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// Gives how a method is limited, OAuth's own among them.
pub(crate) fn rate(name: &str) -> Option<Rate> {
    find(name).map(|method| method.rate).or(match name {
        "auth.test" => Some(Rate::Special),
        "auth.revoke" => Some(Rate::Tier(3)),
        "apps.uninstall" => Some(Rate::Tier(1)),
        _ => None,
    })
}

/// One call of a method.
pub(crate) struct Call<'a> {
    pub(crate) slack: &'a SlackProvider,
    pub(crate) held: &'a Bearer,
    pub(crate) args: &'a Args,
    pub(crate) world: &'a mut World,
    /// The workspace it works in.
    pub(crate) team: String,
    /// Who calls: the bot's user, or the person whose token it is.
    pub(crate) me: String,
    /// The bot, when a bot calls.
    pub(crate) bot: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) now: i64,
}

/// Runs a method for the holder of a token.
pub(crate) fn run(method: &Method, call: &mut Call<'_>) -> Outcome {
    if let Some(scope) = method.scope {
        call.needs(scope)?;
    }
    call.world.post_due(call.now);
    (method.run)(call)
}

impl Call<'_> {
    /// Refuses when the token lacks a scope.
    pub(crate) fn needs(&self, scope: &str) -> Result<(), Problem> {
        if self.has(scope) {
            return Ok(());
        }
        let provided = self.held.scopes.join(",");
        Err(Problem::from("missing_scope").with("needed", json!(scope)).with("provided", json!(provided)))
    }

    /// Tells whether the token has a scope.
    pub(crate) fn has(&self, scope: &str) -> bool {
        self.held.scopes.iter().any(|held| held == scope)
    }

    /// Gives an argument that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Problem> {
        self.args.get(name).ok_or_else(|| {
            let message = format!("[ERROR] missing required field: {name}");
            Problem::from("invalid_arguments").with("response_metadata", json!({ "messages": [message] }))
        })
    }

    /// Reads the page size: the default when absent, never more than the most.
    pub(crate) fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.args.get("limit") else { return Ok(default.min(most)) };
        match text.parse::<usize>() {
            // Nought means as many as Slack likes.
            Ok(0) => Ok(default.min(most)),
            Ok(limit) if limit <= LIMIT_MAX => Ok(limit.min(most)),
            Ok(_) | Err(_) => Err("invalid_limit".into()),
        }
    }

    /// Reads a `ts` argument.
    pub(crate) fn ts(&self, name: &str, error: &str) -> Result<Option<u64>, Problem> {
        self.args.get(name).map(|text| ts_parse(text).ok_or_else(|| Problem::from(error))).transpose()
    }

    /// Finds the conversation an argument names, if the caller may know of it, and checks the scope for its kind.
    pub(crate) fn channel(&self, id: &str, verb: &str) -> Result<&Channel, Problem> {
        let channel = self.world.look(&self.team).and_then(|team| team.channels.get(id)).ok_or("channel_not_found")?;
        if channel.kind != Kind::Public && !channel.members.contains(&self.me) {
            return Err("channel_not_found".into());
        }
        self.needs(&format!("{}:{verb}", channel.kind.names().1))?;
        Ok(channel)
    }
}

/// Writes a cursor; Slack's end with an equals sign more often than not.
fn cursor(word: &str, id: &str) -> String {
    STANDARD.encode(format!("{word}:{id}"))
}

/// Reads a cursor of a kind.
fn read_cursor(text: Option<&str>, word: &str) -> Result<Option<String>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let read = || -> Option<String> {
        let decoded = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
        Some(decoded.strip_prefix(word)?.strip_prefix(':')?.to_owned())
    };
    read().map(Some).ok_or_else(|| "invalid_cursor".into())
}

/// Rows with their identifiers, and the cursor of what follows.
type Page<'r, T> = (Vec<(&'r str, &'r T)>, String);

/// Cuts a page out of rows; gives it with the cursor of the next one, empty at the end.
fn page<'r, T>(rows: &'r Ordered<T>, word: &str, from: Option<&str>, limit: usize) -> Result<Page<'r, T>, Problem> {
    let from = read_cursor(from, word)?;
    let seat = from.map_or(Some(0), |id| rows.seat(&id)).ok_or("invalid_cursor")?;
    let mut rows = rows.from(seat);
    let page: Vec<(&str, &T)> = rows.by_ref().take(limit).collect();
    let next = rows.next().map(|(id, _)| cursor(word, id)).unwrap_or_default();
    Ok((page, next))
}

/// Puts the next cursor where Slack puts it.
fn paged(mut out: Value, next: &str) -> Value {
    super::shape::merge(&mut out, json!({ "response_metadata": { "next_cursor": next } }));
    out
}
