//! How Slack shows its objects (shapes from the samples of the official Java SDK, read November 2026).

#![allow(clippy::indexing_slicing, reason = "writes go to objects made here")]

use serde_json::{Value, json};

use super::world::{Channel, Kind, Message, User, ts_text};

/// Shows a person; the address only to those who may see it.
pub(crate) fn user(team: &str, id: &str, user: &User, with_email: bool) -> Value {
    let first = user.real_name.split(' ').next().unwrap_or_default();
    let mut profile = json!({
        "title": "", "phone": "", "skype": "", "real_name": user.real_name, "real_name_normalized": user.real_name,
        "display_name": user.name, "display_name_normalized": user.name, "fields": null, "status_text": "",
        "status_emoji": "", "status_emoji_display_info": [], "status_expiration": 0, "avatar_hash": "g0",
        "first_name": first, "team": team,
        "image_24": "https://secure.gravatar.com/avatar/0.jpg?s=24", "image_512": "https://secure.gravatar.com/avatar/0.jpg?s=512",
    });
    if let Some(email) = user.email.as_ref().filter(|_| with_email) {
        profile["email"] = json!(email);
    }
    let mut out = json!({
        "id": id, "team_id": team, "name": user.name, "deleted": user.deleted, "profile": profile,
        "is_bot": user.is_bot, "updated": user.updated, "is_app_user": false,
    });
    if !user.deleted {
        // Slack leaves these out for people who are gone.
        let more = json!({
            "color": "9f69e7", "real_name": user.real_name, "tz": "Europe/Amsterdam",
            "tz_label": "Central European Time", "tz_offset": 3600, "is_admin": user.is_admin, "is_owner": false,
            "is_primary_owner": false, "is_restricted": false, "is_ultra_restricted": false,
            "is_email_confirmed": true, "who_can_share_contact_card": "EVERYONE",
        });
        merge(&mut out, more);
    }
    out
}

/// Adds the fields of one object to another.
pub(crate) fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// Shows a conversation as a caller sees it.
pub(crate) fn channel(team: &str, id: &str, channel: &Channel, me: &str) -> Value {
    if channel.kind == Kind::Direct {
        let peer = channel.members.iter().find(|member| *member != me);
        return json!({
            "id": id, "created": channel.created, "is_archived": false, "is_im": true, "is_org_shared": false,
            "context_team_id": team, "updated": channel.updated, "user": peer, "is_user_deleted": false,
            "priority": 0,
        });
    }
    let of = |kind: Kind| channel.kind == kind;
    let mut out = json!({
        "id": id, "name": channel.name, "is_channel": of(Kind::Public), "is_group": of(Kind::Private), "is_im": false,
        "is_mpim": of(Kind::Group), "is_private": !of(Kind::Public), "created": channel.created,
        "is_archived": channel.archived, "is_general": channel.name == "general", "unlinked": 0,
        "name_normalized": channel.name, "is_shared": false, "is_org_shared": false,
        "is_pending_ext_shared": false, "pending_shared": [], "context_team_id": team,
        "updated": channel.updated, "parent_conversation": null, "creator": channel.creator,
        "is_ext_shared": false, "shared_team_ids": [team], "pending_connected_team_ids": [],
        "is_member": channel.members.contains(me),
        "topic": { "value": channel.topic, "creator": "", "last_set": 0 },
        "purpose": { "value": "", "creator": "", "last_set": 0 },
        "previous_names": channel.previous_names,
    });
    if !of(Kind::Group) {
        out["num_members"] = json!(channel.members.len());
    }
    out
}

/// What hangs from the first message of a thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) replies: usize,
    pub(crate) users: Vec<String>,
    pub(crate) latest: u64,
}

/// Finds what hangs from a message.
pub(crate) fn thread(channel: &Channel, ts: u64) -> Option<Thread> {
    let replies = channel.messages.range(ts..).map(|(_, message)| message);
    let mut thread = Thread { replies: 0, users: Vec::new(), latest: 0 };
    for reply in replies.filter(|message| message.thread == Some(ts) && message.ts != ts) {
        thread.replies += 1;
        thread.latest = reply.ts;
        if !thread.users.contains(&reply.user) {
            thread.users.push(reply.user.clone());
        }
    }
    (thread.replies > 0).then_some(thread)
}

/// Shows a message.
pub(crate) fn message(team: &str, message: &Message, thread: Option<&Thread>) -> Value {
    let mut out = json!({
        "type": "message", "user": message.user, "text": message.text, "ts": ts_text(message.ts),
    });
    if message.tombstone {
        merge(&mut out, json!({ "subtype": "tombstone", "hidden": true }));
    } else {
        out["team"] = json!(team);
    }
    if let Some(bot) = &message.bot {
        merge(&mut out, json!({ "bot_id": bot, "app_id": "A0EMULATOR" }));
    }
    let optional = [
        ("blocks", message.blocks.clone()),
        ("client_msg_id", message.client_msg_id.clone().map(Value::String)),
        ("metadata", message.metadata.clone()),
        ("thread_ts", message.thread.map(|ts| json!(ts_text(ts)))),
        ("edited", message.edited.as_ref().map(|(user, ts)| json!({ "user": user, "ts": ts_text(*ts) }))),
        ("subtype", message.broadcast.then(|| json!("thread_broadcast"))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            out[name] = value;
        }
    }
    if let Some(thread) = thread {
        let more = json!({
            "thread_ts": ts_text(message.ts), "reply_count": thread.replies, "reply_users": thread.users,
            "reply_users_count": thread.users.len(), "latest_reply": ts_text(thread.latest), "is_locked": false,
            "subscribed": false,
        });
        merge(&mut out, more);
    }
    out
}
