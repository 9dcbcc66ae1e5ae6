//! Messages: posting, changing, taking back, scheduling.

use serde_json::{Value, json};

use super::conversations::direct;
use super::{Call, Outcome, Problem};
use crate::slack::shape;
use crate::slack::world::{Kind, Message, Scheduled, ts_parse, ts_text};

/// Most characters of a text, and most blocks (docs.slack.dev, chat.postMessage).
const TEXT_CHARS_MAX: usize = 40_000;
const BLOCKS_MAX: usize = 50;
/// How far ahead a message may be scheduled, in seconds.
const AHEAD_MAX: i64 = 120 * 24 * 3600;

/// Reads a JSON argument.
fn structured(call: &Call<'_>, name: &str, error: &str) -> Result<Option<Value>, Problem> {
    call.args.get(name).map(|text| serde_json::from_str(text).map_err(|_| Problem::from(error))).transpose()
}

fn blocks(call: &Call<'_>) -> Result<Option<Value>, Problem> {
    let Some(blocks) = structured(call, "blocks", "invalid_blocks_format")? else { return Ok(None) };
    let list = blocks.as_array().ok_or("invalid_blocks_format")?;
    let bad = |at: String| {
        let message = format!("[ERROR] {at}");
        Problem::from("invalid_blocks")
            .with("errors", json!([at]))
            .with("response_metadata", json!({ "messages": [message] }))
    };
    if list.len() > BLOCKS_MAX {
        return Err(bad(format!("no more than {BLOCKS_MAX} items allowed [json-pointer:/blocks]")));
    }
    for (at, block) in list.iter().enumerate() {
        if block.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(bad(format!("missing required field: type [json-pointer:/blocks/{at}]")));
        }
    }
    Ok((!list.is_empty()).then_some(blocks))
}

/// Reads what a message says, and refuses what Slack refuses.
fn content(call: &Call<'_>) -> Result<(String, Option<Value>), Problem> {
    let text = call.args.get("text").unwrap_or_default().to_owned();
    let blocks = blocks(call)?;
    let attachments = structured(call, "attachments", "invalid_attachments")?;
    let empty = |value: &Option<Value>| value.as_ref().and_then(Value::as_array).is_none_or(Vec::is_empty);
    if text.trim().is_empty() && empty(&blocks) && empty(&attachments) {
        return Err("no_text".into());
    }
    if text.chars().count() > TEXT_CHARS_MAX {
        return Err("msg_too_long".into());
    }
    Ok((text, blocks))
}

/// Finds the conversation to write to: by identifier, by `#name`, or a person, with whom one is opened.
fn target(call: &mut Call<'_>) -> Result<String, Problem> {
    let wanted = call.required("channel").map_err(|_| Problem::from("channel_not_found"))?.to_owned();
    let team = call.team.clone();
    let channels = &call.world.team(&team).channels;
    if channels.get(&wanted).is_none() {
        if call.world.team(&team).users.get(&wanted).is_some() {
            return direct(call, &wanted).map(|(id, _)| id);
        }
        let name = wanted.trim_start_matches('#');
        let mut rows = call.world.team(&team).channels.iter();
        let found = rows.find(|(_, channel)| channel.kind != Kind::Direct && channel.name == name);
        return found.map(|(id, _)| id.to_owned()).ok_or_else(|| "channel_not_found".into());
    }
    Ok(wanted)
}

/// Checks that the caller may write there.
fn writable(call: &mut Call<'_>, id: &str) -> Result<(), Problem> {
    let (team, me) = (call.team.clone(), call.me.clone());
    let everywhere = call.has("chat:write.public");
    let channel = call.world.team(&team).channels.get(id).ok_or("channel_not_found")?;
    if !channel.members.contains(&me) {
        match channel.kind {
            Kind::Public if everywhere => {}
            Kind::Public => return Err("not_in_channel".into()),
            Kind::Private | Kind::Group | Kind::Direct => return Err("channel_not_found".into()),
        }
    }
    if channel.archived {
        return Err("is_archived".into());
    }
    Ok(())
}

fn compose(call: &mut Call<'_>, id: &str) -> Result<Message, Problem> {
    let (text, blocks) = content(call)?;
    let team = call.team.clone();
    let mut thread = call.ts("thread_ts", "invalid_thread_ts")?;
    if let Some(ts) = thread {
        let channel = call.world.team(&team).channels.get(id).ok_or("channel_not_found")?;
        let parent = channel.messages.get(&ts).ok_or("thread_not_found")?;
        // An answer to an answer goes to the thread's beginning.
        thread = Some(parent.thread.unwrap_or(parent.ts));
    }
    Ok(Message {
        bot: call.bot.clone(),
        blocks,
        thread,
        broadcast: thread.is_some() && call.args.flag("reply_broadcast"),
        client_msg_id: call.args.get("client_msg_id").map(str::to_owned),
        metadata: structured(call, "metadata", "invalid_metadata_format")?,
        ..Message::plain(&call.me, &text)
    })
}

/// `chat.postMessage`.
pub(crate) fn post(call: &mut Call<'_>) -> Outcome {
    let id = target(call)?;
    writable(call, &id)?;
    let message = compose(call, &id)?;
    let (team, now) = (call.team.clone(), call.now);
    let posted = call.world.post(&team, &id, message, now).ok_or("channel_not_found")?;
    let ts = ts_text(posted.ts);
    Ok(json!({ "ok": true, "channel": id, "ts": ts, "message": shape::message(&team, &posted, None) }))
}

/// Finds a message of the caller's own.
fn own(call: &mut Call<'_>, error: &str) -> Result<(String, u64), Problem> {
    let id = call.required("channel").map_err(|_| Problem::from("channel_not_found"))?.to_owned();
    let ts = call.args.get("ts").and_then(ts_parse).ok_or("message_not_found")?;
    let (team, me) = (call.team.clone(), call.me.clone());
    let channel = call.world.team(&team).channels.get(&id).ok_or("channel_not_found")?;
    if channel.kind != Kind::Public && !channel.members.contains(&me) {
        return Err("channel_not_found".into());
    }
    let message = channel.messages.get(&ts).filter(|message| !message.tombstone).ok_or("message_not_found")?;
    if message.user != me {
        return Err(error.into());
    }
    Ok((id, ts))
}

/// `chat.update`.
pub(crate) fn update(call: &mut Call<'_>) -> Outcome {
    let (id, ts) = own(call, "cant_update_message")?;
    let (text, blocks) = content(call)?;
    let (team, me, now) = (call.team.clone(), call.me.clone(), call.now);
    let changed = call.world.edit(&team, &id, ts, &me, now, |message| {
        message.text.clone_from(&text);
        message.blocks = blocks;
    });
    let message = shape::message(&team, &changed.ok_or("message_not_found")?, None);
    Ok(json!({ "ok": true, "channel": id, "ts": ts_text(ts), "text": text, "message": message }))
}

/// `chat.delete`.
pub(crate) fn delete(call: &mut Call<'_>) -> Outcome {
    let (id, ts) = own(call, "cant_delete_message")?;
    let (team, now) = (call.team.clone(), call.now);
    call.world.erase(&team, &id, ts, now).ok_or("message_not_found")?;
    Ok(json!({ "ok": true, "channel": id, "ts": ts_text(ts) }))
}

/// `chat.scheduleMessage`.
pub(crate) fn schedule(call: &mut Call<'_>) -> Outcome {
    let id = target(call)?;
    writable(call, &id)?;
    let at: i64 = call.args.get("post_at").and_then(|at| at.parse().ok()).ok_or("invalid_time")?;
    let now = call.now / 1000;
    if at <= now {
        return Err("time_in_past".into());
    }
    if at > now.saturating_add(AHEAD_MAX) {
        return Err("time_too_far".into());
    }
    let message = compose(call, &id)?;
    let scheduled = Scheduled { id: call.world.id("Q"), channel: id.clone(), at, message };
    let team = call.team.clone();
    let shown = json!({
        "text": scheduled.message.text, "type": "delayed_message", "user": scheduled.message.user,
        "bot_id": scheduled.message.bot, "team": team,
    });
    let out = json!({
        "ok": true, "channel": id, "scheduled_message_id": scheduled.id, "post_at": at.to_string(), "message": shown,
    });
    call.world.team(&team).scheduled.push(scheduled);
    Ok(out)
}

/// `chat.deleteScheduledMessage`.
pub(crate) fn unschedule(call: &mut Call<'_>) -> Outcome {
    let id = call.required("scheduled_message_id")?.to_owned();
    let channel = call.required("channel")?.to_owned();
    let team = call.team.clone();
    let scheduled = &mut call.world.team(&team).scheduled;
    let before = scheduled.len();
    scheduled.retain(|one| one.id != id || one.channel != channel);
    if scheduled.len() == before {
        return Err("invalid_scheduled_message_id".into());
    }
    Ok(json!({ "ok": true }))
}

/// `chat.scheduledMessages.list`, all on one page.
pub(crate) fn scheduled(call: &mut Call<'_>) -> Outcome {
    let channel = call.args.get("channel").map(str::to_owned);
    let team = call.team.clone();
    let rows = call.world.team(&team).scheduled.iter();
    let rows = rows.filter(|one| channel.as_ref().is_none_or(|channel| *channel == one.channel));
    let messages: Vec<Value> = rows
        .map(|one| {
            json!({
                "id": one.id, "channel_id": one.channel, "post_at": one.at, "date_created": call.now / 1000,
                "text": one.message.text,
            })
        })
        .collect();
    Ok(super::paged(json!({ "ok": true, "scheduled_messages": messages }), ""))
}

/// `chat.getPermalink`.
pub(crate) fn permalink(call: &mut Call<'_>) -> Outcome {
    let id = call.required("channel")?.to_owned();
    let ts = call.args.get("message_ts").and_then(ts_parse).ok_or("message_not_found")?;
    let team = call.team.clone();
    let channel = call.world.team(&team).channels.get(&id).ok_or("channel_not_found")?;
    channel.messages.get(&ts).ok_or("message_not_found")?;
    let link = format!("https://{}.slack.com/archives/{id}/p{ts}", team.to_ascii_lowercase());
    Ok(json!({ "ok": true, "channel": id, "permalink": link }))
}
