//! Conversations: lists, members, history and answers.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Call, LIMIT_MAX, Outcome, Problem, cursor, page, paged, read_cursor};
use crate::slack::shape;
use crate::slack::world::{Channel, Kind, Message, ts_parse, ts_text};

/// Page size of lists when none is asked for.
const LIST_DEFAULT: usize = 100;
/// Most messages a page may have outside the Marketplace.
const SCARCE_MAX: usize = 15;

/// Reads `types` and refuses those the token may not read.
fn kinds(call: &Call<'_>) -> Result<Vec<Kind>, Problem> {
    let text = call.args.get("types").unwrap_or("public_channel");
    let mut kinds = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let kind = Kind::ALL.into_iter().find(|kind| kind.names().0 == word).ok_or("invalid_types")?;
        call.needs(&format!("{}:read", kind.names().1))?;
        kinds.push(kind);
    }
    Ok(kinds)
}

/// `conversations.list`: types and archived ones are filtered after the page is cut, so a page may be short or empty
/// although more follow, as Slack warns.
pub(crate) fn list(call: &mut Call<'_>) -> Outcome {
    lists(call, false)
}

/// `users.conversations`: those the caller is a member of.
pub(crate) fn mine(call: &mut Call<'_>) -> Outcome {
    lists(call, true)
}

fn lists(call: &mut Call<'_>, only_mine: bool) -> Outcome {
    let kinds = kinds(call)?;
    let limit = call.limit(LIST_DEFAULT, LIMIT_MAX)?;
    let live_only = call.args.flag("exclude_archived");
    let (team, me) = (call.team.clone(), call.me.clone());
    let channels = &call.world.team(&team).channels;
    let (rows, next) = page(channels, "team", call.args.get("cursor"), limit)?;
    let shown = |channel: &Channel| {
        let known = channel.members.contains(&me) || (channel.kind == Kind::Public && !only_mine);
        known && kinds.contains(&channel.kind) && !(live_only && channel.archived)
    };
    let rows = rows.into_iter().filter(|(_, channel)| shown(channel));
    let channels: Vec<_> = rows.map(|(id, channel)| shape::channel(&team, id, channel, &me)).collect();
    Ok(paged(json!({ "ok": true, "channels": channels }), &next))
}

/// `conversations.info`.
pub(crate) fn info(call: &mut Call<'_>) -> Outcome {
    let id = call.required("channel")?.to_owned();
    let channel = call.channel(&id, "read")?;
    let mut out = shape::channel(&call.team, &id, channel, &call.me);
    if !call.args.flag("include_num_members")
        && let Some(map) = out.as_object_mut()
    {
        map.remove("num_members");
    }
    Ok(json!({ "ok": true, "channel": out }))
}

/// `conversations.members`.
pub(crate) fn members(call: &mut Call<'_>) -> Outcome {
    let id = call.required("channel")?.to_owned();
    let limit = call.limit(LIST_DEFAULT, LIMIT_MAX)?;
    let channel = call.channel(&id, "read")?;
    let from = read_cursor(call.args.get("cursor"), "user")?;
    let mut rest = channel.members.iter().skip_while(|member| from.as_ref().is_some_and(|from| *member < from));
    let members: Vec<&String> = rest.by_ref().take(limit).collect();
    let next = rest.next().map(|member| cursor("user", member)).unwrap_or_default();
    Ok(paged(json!({ "ok": true, "members": members }), &next))
}

fn readable<'c>(call: &'c Call<'_>) -> Result<&'c Channel, Problem> {
    let channel = call.channel(call.required("channel")?, "history")?;
    // A person reads every public channel; a bot only those it was brought into.
    if call.bot.is_some() && !channel.members.contains(&call.me) {
        return Err("not_in_channel".into());
    }
    Ok(channel)
}

fn scarce(call: &Call<'_>) -> usize {
    if call.slack.meter().limits.outside_marketplace { SCARCE_MAX } else { LIMIT_MAX }
}

/// Reads `oldest` and `latest` as inclusive bounds.
fn span(call: &Call<'_>) -> Result<(u64, u64), Problem> {
    let inclusive = call.args.flag("inclusive");
    let oldest = call.ts("oldest", "invalid_ts_oldest")?;
    let latest = call.ts("latest", "invalid_ts_latest")?;
    let from = oldest.map_or(0, |ts| if inclusive || ts == 0 { ts } else { ts.saturating_add(1) });
    let to = latest.map_or(u64::MAX, |ts| if inclusive { ts } else { ts.saturating_sub(1) });
    Ok((from, to))
}

/// `conversations.history`: newest first, without the answers in threads.
pub(crate) fn history(call: &mut Call<'_>) -> Outcome {
    let most = scarce(call);
    let limit = call.limit(if most == SCARCE_MAX { SCARCE_MAX } else { LIST_DEFAULT }, most)?;
    let (from, mut to) = span(call)?;
    let channel = readable(call)?;
    if let Some(next) = read_cursor(call.args.get("cursor"), "next_ts")? {
        to = to.min(ts_parse(&next).ok_or("invalid_cursor")?);
    }
    let mut rows: Vec<&Message> = Vec::new();
    let mut next = String::new();
    if from <= to {
        let mut newest = channel.messages.range(from..=to).rev().map(|(_, message)| message);
        let mut on_top = newest.by_ref().filter(|message| message.is_on_top());
        rows.extend(on_top.by_ref().take(limit));
        next = on_top.next().map(|message| cursor("next_ts", &ts_text(message.ts))).unwrap_or_default();
    }
    let messages: Vec<_> = rows
        .into_iter()
        .map(|message| shape::message(&call.team, message, shape::thread(channel, message.ts).as_ref()))
        .collect();
    let mut out = json!({
        "ok": true, "messages": messages, "has_more": !next.is_empty(), "pin_count": 0,
        "channel_actions_ts": null, "channel_actions_count": 0,
    });
    if !next.is_empty() {
        out = paged(out, &next);
    }
    Ok(out)
}

/// `conversations.replies`: the parent, then its answers, oldest first.
pub(crate) fn replies(call: &mut Call<'_>) -> Outcome {
    let most = scarce(call);
    let limit = call.limit(if most == SCARCE_MAX { SCARCE_MAX } else { LIMIT_MAX }, most)?;
    call.required("ts")?;
    let ts = call.ts("ts", "invalid_ts")?.ok_or("invalid_ts")?;
    let (from, to) = span(call)?;
    let channel = readable(call)?;
    let parent = channel.messages.get(&ts).ok_or("thread_not_found")?;
    let after = match read_cursor(call.args.get("cursor"), "next_ts")? {
        Some(next) => ts_parse(&next).ok_or("invalid_cursor")?,
        None => 0,
    };
    let answers = channel.messages.range(ts..).map(|(_, message)| message);
    let of_thread =
        answers.filter(|message| message.thread == Some(ts) && message.ts != ts && (from..=to).contains(&message.ts));
    let mut rest = std::iter::once(parent).chain(of_thread).filter(|message| message.ts >= after);
    let rows: Vec<&Message> = rest.by_ref().take(limit).collect();
    let next = rest.next().map(|message| cursor("next_ts", &ts_text(message.ts))).unwrap_or_default();
    let messages: Vec<_> = rows
        .into_iter()
        .map(|message| shape::message(&call.team, message, shape::thread(channel, message.ts).as_ref()))
        .collect();
    let out = json!({ "ok": true, "messages": messages, "has_more": !next.is_empty() });
    Ok(if next.is_empty() { out } else { paged(out, &next) })
}

/// `conversations.join`.
pub(crate) fn join(call: &mut Call<'_>) -> Outcome {
    let id = call.required("channel")?.to_owned();
    let (team, me, now) = (call.team.clone(), call.me.clone(), call.now);
    let channel = call.world.team(&team).channels.get(&id).ok_or("channel_not_found")?;
    if channel.kind != Kind::Public {
        return Err("method_not_supported_for_channel_type".into());
    }
    if channel.archived {
        return Err("is_archived".into());
    }
    let joined = call.world.invite(&team, &id, &me, now);
    let channel = call.world.team(&team).channels.get(&id).ok_or("channel_not_found")?;
    let mut out = json!({ "ok": true, "channel": shape::channel(&team, &id, channel, &me) });
    if !joined {
        shape::merge(
            &mut out,
            json!({ "warning": "already_in_channel", "response_metadata": { "warnings": ["already_in_channel"] } }),
        );
    }
    Ok(out)
}

/// `conversations.open` with one person.
pub(crate) fn open(call: &mut Call<'_>) -> Outcome {
    let users = call.required("users")?.to_owned();
    let (id, new) = direct(call, &users)?;
    Ok(json!({ "ok": true, "no_op": !new, "already_open": !new, "channel": { "id": id } }))
}

/// Finds or opens the direct conversation with a person; tells whether it is new.
pub(crate) fn direct(call: &mut Call<'_>, user: &str) -> Result<(String, bool), Problem> {
    let (team, me, now) = (call.team.clone(), call.me.clone(), call.now);
    let row = call.world.team(&team);
    let person = row.users.get(user).ok_or("user_not_found")?;
    if person.deleted {
        return Err("user_disabled".into());
    }
    let both = BTreeSet::from([me, user.to_owned()]);
    let known = row.channels.iter().find(|(_, channel)| channel.kind == Kind::Direct && channel.members == both);
    if let Some((id, _)) = known {
        return Ok((id.to_owned(), false));
    }
    Ok((call.world.open(&team, "", Kind::Direct, both, now), true))
}
