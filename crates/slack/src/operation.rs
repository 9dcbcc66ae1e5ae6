//! What the pipeline must know of each Web API method: one static table, and an honest row for every other one.
//!
//! Limits: Slack counts per method, workspace and app, a minute at a time, in four tiers (docs.slack.dev, rate limits;
//! the tier of each method is that of java-slack-sdk's `rate_limit_tiers.json`, 2026-11; agents.* are slack-morphism's).
//! `chat.postMessage` is counted per channel and, besides, per workspace.
//!
//! Replay: Slack deduplicates nothing, so a method that makes something new (a message, a channel, a dialog) is never
//! repeated blindly. What sets, adds to a set or removes has the same effect however often it is sent: a repetition
//! that finds its work done is told so (`already_reacted`, `message_not_found`), and nothing happens twice.

use std::time::Duration;

use palisade_core::call::{Bucket, Limit, Scope};
use palisade_core::{Operation, Replay};

/// Slack's own SDKs wait 30 seconds for an answer.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Long enough to wait once for a method that is granted one call a minute.
const OVERALL: Duration = Duration::from_secs(80);
/// One object with its blocks: 50 blocks of 3,000 characters stay below 1 MiB.
const OBJECT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A page of two hundred such messages, most of them short.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const MINUTE: Duration = Duration::from_secs(60);

const fn a_minute(name: &'static str, units: u32, burst: u32) -> Bucket {
    Bucket { name, units, per: MINUTE, burst }
}

/// One call a minute. They are a whole minute apart, so no minute sees two.
const fn tier_1(name: &'static str) -> Bucket {
    a_minute(name, 1, 1)
}

/// 20 a minute. As in the tiers above, rate and burst add up to the limit, so that no minute of Slack's clock sees
/// more, wherever it begins; the burst is small because a long run goes at the rate.
const fn tier_2(name: &'static str) -> Bucket {
    a_minute(name, 19, 1)
}

/// 50 a minute.
const fn tier_3(name: &'static str) -> Bucket {
    a_minute(name, 47, 3)
}

/// 100 a minute.
const fn tier_4(name: &'static str) -> Bucket {
    a_minute(name, 95, 5)
}

/// "Hundreds of requests a minute" (docs.slack.dev, auth.test and chat.getPermalink): 600 in java-slack-sdk.
const fn hundreds(name: &'static str) -> Bucket {
    a_minute(name, 570, 30)
}

/// One message a second and channel (docs.slack.dev, rate limits).
const fn a_second(name: &'static str) -> Bucket {
    Bucket { name, units: 1, per: Duration::from_secs(1), burst: 1 }
}

/// What all of an app's messages to one workspace add up to: "several hundred a minute" (docs.slack.dev, rate limits).
/// Three hundred is the least that can be called so.
pub static WORKSPACE_MESSAGES: Bucket = a_minute("chat.postMessage.workspace", 285, 15);

const WORKSPACE: &[Limit] = &[Limit { bucket: &WORKSPACE_MESSAGES, scope: Scope::Account, class: None }];

const READ: Operation = Operation {
    provider: "slack",
    name: "auth.test",
    url_template: "/api/auth.test",
    replay: Replay::Safe,
    bucket: &hundreds("auth.test"),
    also: &[],
    cost: 1,
    attempt_timeout: ATTEMPT,
    overall_timeout: OVERALL,
    body_bytes_max: OBJECT_BYTES_MAX,
};
const LIST: Operation = Operation { body_bytes_max: PAGE_BYTES_MAX, ..READ };
const REPEATABLE: Operation = Operation { replay: Replay::Idempotent, ..READ };
const WRITE: Operation = Operation { replay: Replay::Never, ..READ };

const HISTORY: Operation = Operation {
    name: "conversations.history",
    url_template: "/api/conversations.history",
    bucket: &tier_3("conversations.history"),
    ..LIST
};
const REPLIES: Operation = Operation {
    name: "conversations.replies",
    url_template: "/api/conversations.replies",
    bucket: &tier_3("conversations.replies"),
    ..LIST
};
const INFO: Operation = Operation {
    name: "conversations.info",
    url_template: "/api/conversations.info",
    bucket: &tier_3("conversations.info"),
    ..READ
};

/// The methods that are limited and named one by one, sorted by name.
#[rustfmt::skip]
pub static OPERATIONS: &[Operation] = &[
    Operation { name: "admin.apps.uninstall", url_template: "/api/admin.apps.uninstall", bucket: &tier_1("admin.apps.uninstall"), ..WRITE },
    Operation { name: "admin.conversations.restrictAccess.removeGroup", url_template: "/api/admin.conversations.restrictAccess.removeGroup", bucket: &tier_1("admin.conversations.restrictAccess.removeGroup"), ..WRITE },
    Operation { name: "admin.conversations.whitelist.remove", url_template: "/api/admin.conversations.whitelist.remove", bucket: &tier_1("admin.conversations.whitelist.remove"), ..WRITE },
    Operation { name: "admin.teams.create", url_template: "/api/admin.teams.create", bucket: &tier_1("admin.teams.create"), ..WRITE },
    Operation { name: "admin.usergroups.addChannels", url_template: "/api/admin.usergroups.addChannels", bucket: &tier_1("admin.usergroups.addChannels"), ..WRITE },
    Operation { name: "admin.users.unsupportedVersions.export", url_template: "/api/admin.users.unsupportedVersions.export", bucket: &tier_1("admin.users.unsupportedVersions.export"), ..WRITE },
    Operation { name: "agents.sessions.rename", url_template: "/api/agents.sessions.rename", bucket: &tier_3("agents.sessions.rename"), ..REPEATABLE },
    Operation { name: "agents.sessions.setStatus", url_template: "/api/agents.sessions.setStatus", bucket: &tier_3("agents.sessions.setStatus"), ..REPEATABLE },
    Operation { name: "api.test", url_template: "/api/api.test", bucket: &tier_4("api.test"), ..READ },
    Operation { name: "apps.connections.open", url_template: "/api/apps.connections.open", bucket: &tier_1("apps.connections.open"), ..READ },
    Operation { name: "apps.event.authorizations.list", url_template: "/api/apps.event.authorizations.list", bucket: &tier_4("apps.event.authorizations.list"), ..LIST },
    Operation { name: "apps.manifest.create", url_template: "/api/apps.manifest.create", bucket: &tier_1("apps.manifest.create"), ..WRITE },
    Operation { name: "apps.manifest.delete", url_template: "/api/apps.manifest.delete", bucket: &tier_1("apps.manifest.delete"), ..WRITE },
    Operation { name: "apps.manifest.export", url_template: "/api/apps.manifest.export", bucket: &tier_3("apps.manifest.export"), ..READ },
    Operation { name: "apps.manifest.update", url_template: "/api/apps.manifest.update", bucket: &tier_1("apps.manifest.update"), ..WRITE },
    Operation { name: "apps.manifest.validate", url_template: "/api/apps.manifest.validate", bucket: &tier_3("apps.manifest.validate"), ..READ },
    Operation { name: "apps.uninstall", url_template: "/api/apps.uninstall", bucket: &tier_1("apps.uninstall"), ..WRITE },
    Operation { name: "assistant.threads.setStatus", url_template: "/api/assistant.threads.setStatus", bucket: &hundreds("assistant.threads.setStatus"), ..REPEATABLE },
    Operation { name: "assistant.threads.setSuggestedPrompts", url_template: "/api/assistant.threads.setSuggestedPrompts", bucket: &tier_3("assistant.threads.setSuggestedPrompts"), ..REPEATABLE },
    Operation { name: "assistant.threads.setTitle", url_template: "/api/assistant.threads.setTitle", bucket: &tier_3("assistant.threads.setTitle"), ..REPEATABLE },
    Operation { name: "auth.revoke", url_template: "/api/auth.revoke", bucket: &tier_3("auth.revoke"), ..REPEATABLE },
    Operation { name: "auth.teams.list", url_template: "/api/auth.teams.list", bucket: &tier_2("auth.teams.list"), ..LIST },
    READ,
    Operation { name: "blocks.validate", url_template: "/api/blocks.validate", bucket: &tier_2("blocks.validate"), ..READ },
    Operation { name: "bookmarks.add", url_template: "/api/bookmarks.add", bucket: &tier_2("bookmarks.add"), ..WRITE },
    Operation { name: "bookmarks.edit", url_template: "/api/bookmarks.edit", bucket: &tier_2("bookmarks.edit"), ..REPEATABLE },
    Operation { name: "bookmarks.list", url_template: "/api/bookmarks.list", bucket: &tier_3("bookmarks.list"), ..LIST },
    Operation { name: "bookmarks.remove", url_template: "/api/bookmarks.remove", bucket: &tier_2("bookmarks.remove"), ..REPEATABLE },
    Operation { name: "bots.info", url_template: "/api/bots.info", bucket: &tier_3("bots.info"), ..READ },
    Operation { name: "calls.add", url_template: "/api/calls.add", bucket: &tier_2("calls.add"), ..WRITE },
    Operation { name: "calls.end", url_template: "/api/calls.end", bucket: &tier_2("calls.end"), ..REPEATABLE },
    Operation { name: "calls.info", url_template: "/api/calls.info", bucket: &tier_2("calls.info"), ..READ },
    Operation { name: "calls.update", url_template: "/api/calls.update", bucket: &tier_2("calls.update"), ..REPEATABLE },
    Operation { name: "canvases.access.delete", url_template: "/api/canvases.access.delete", bucket: &tier_3("canvases.access.delete"), ..REPEATABLE },
    Operation { name: "canvases.access.set", url_template: "/api/canvases.access.set", bucket: &tier_3("canvases.access.set"), ..REPEATABLE },
    Operation { name: "canvases.create", url_template: "/api/canvases.create", bucket: &tier_2("canvases.create"), ..WRITE },
    Operation { name: "canvases.delete", url_template: "/api/canvases.delete", bucket: &tier_3("canvases.delete"), ..REPEATABLE },
    Operation { name: "canvases.edit", url_template: "/api/canvases.edit", bucket: &tier_3("canvases.edit"), ..WRITE },
    Operation { name: "canvases.sections.lookup", url_template: "/api/canvases.sections.lookup", bucket: &tier_3("canvases.sections.lookup"), ..READ },
    Operation { name: "chat.appendStream", url_template: "/api/chat.appendStream", bucket: &tier_4("chat.appendStream"), ..WRITE },
    Operation { name: "chat.delete", url_template: "/api/chat.delete", bucket: &tier_3("chat.delete"), ..REPEATABLE },
    Operation { name: "chat.deleteScheduledMessage", url_template: "/api/chat.deleteScheduledMessage", bucket: &tier_3("chat.deleteScheduledMessage"), ..REPEATABLE },
    Operation { name: "chat.getPermalink", url_template: "/api/chat.getPermalink", bucket: &hundreds("chat.getPermalink"), ..READ },
    Operation { name: "chat.meMessage", url_template: "/api/chat.meMessage", bucket: &tier_3("chat.meMessage"), ..WRITE },
    Operation { name: "chat.postEphemeral", url_template: "/api/chat.postEphemeral", bucket: &tier_4("chat.postEphemeral"), ..WRITE },
    Operation { name: "chat.postMessage", url_template: "/api/chat.postMessage", bucket: &a_second("chat.postMessage"), also: WORKSPACE, ..WRITE },
    Operation { name: "chat.scheduleMessage", url_template: "/api/chat.scheduleMessage", bucket: &tier_3("chat.scheduleMessage"), ..WRITE },
    Operation { name: "chat.scheduledMessages.list", url_template: "/api/chat.scheduledMessages.list", bucket: &tier_3("chat.scheduledMessages.list"), ..LIST },
    Operation { name: "chat.startStream", url_template: "/api/chat.startStream", bucket: &tier_2("chat.startStream"), ..WRITE },
    Operation { name: "chat.stopStream", url_template: "/api/chat.stopStream", bucket: &tier_2("chat.stopStream"), ..WRITE },
    Operation { name: "chat.unfurl", url_template: "/api/chat.unfurl", bucket: &tier_3("chat.unfurl"), ..REPEATABLE },
    Operation { name: "chat.update", url_template: "/api/chat.update", bucket: &tier_3("chat.update"), ..REPEATABLE },
    Operation { name: "conversations.acceptSharedInvite", url_template: "/api/conversations.acceptSharedInvite", bucket: &tier_1("conversations.acceptSharedInvite"), ..WRITE },
    Operation { name: "conversations.approveSharedInvite", url_template: "/api/conversations.approveSharedInvite", bucket: &tier_1("conversations.approveSharedInvite"), ..WRITE },
    Operation { name: "conversations.archive", url_template: "/api/conversations.archive", bucket: &tier_2("conversations.archive"), ..REPEATABLE },
    Operation { name: "conversations.canvases.create", url_template: "/api/conversations.canvases.create", bucket: &tier_2("conversations.canvases.create"), ..WRITE },
    Operation { name: "conversations.close", url_template: "/api/conversations.close", bucket: &tier_2("conversations.close"), ..REPEATABLE },
    Operation { name: "conversations.create", url_template: "/api/conversations.create", bucket: &tier_2("conversations.create"), ..WRITE },
    Operation { name: "conversations.declineSharedInvite", url_template: "/api/conversations.declineSharedInvite", bucket: &tier_1("conversations.declineSharedInvite"), ..WRITE },
    HISTORY,
    INFO,
    Operation { name: "conversations.invite", url_template: "/api/conversations.invite", bucket: &tier_3("conversations.invite"), ..REPEATABLE },
    Operation { name: "conversations.inviteShared", url_template: "/api/conversations.inviteShared", bucket: &tier_2("conversations.inviteShared"), ..WRITE },
    Operation { name: "conversations.join", url_template: "/api/conversations.join", bucket: &tier_3("conversations.join"), ..REPEATABLE },
    Operation { name: "conversations.kick", url_template: "/api/conversations.kick", bucket: &tier_3("conversations.kick"), ..REPEATABLE },
    Operation { name: "conversations.leave", url_template: "/api/conversations.leave", bucket: &tier_3("conversations.leave"), ..REPEATABLE },
    Operation { name: "conversations.list", url_template: "/api/conversations.list", bucket: &tier_2("conversations.list"), ..LIST },
    Operation { name: "conversations.listConnectInvites", url_template: "/api/conversations.listConnectInvites", bucket: &tier_1("conversations.listConnectInvites"), ..READ },
    Operation { name: "conversations.mark", url_template: "/api/conversations.mark", bucket: &tier_3("conversations.mark"), ..REPEATABLE },
    Operation { name: "conversations.members", url_template: "/api/conversations.members", bucket: &tier_4("conversations.members"), ..LIST },
    Operation { name: "conversations.open", url_template: "/api/conversations.open", bucket: &tier_3("conversations.open"), ..REPEATABLE },
    Operation { name: "conversations.rename", url_template: "/api/conversations.rename", bucket: &tier_2("conversations.rename"), ..REPEATABLE },
    REPLIES,
    Operation { name: "conversations.requestSharedInvite.list", url_template: "/api/conversations.requestSharedInvite.list", bucket: &tier_2("conversations.requestSharedInvite.list"), ..LIST },
    Operation { name: "conversations.setPurpose", url_template: "/api/conversations.setPurpose", bucket: &tier_2("conversations.setPurpose"), ..REPEATABLE },
    Operation { name: "conversations.setTopic", url_template: "/api/conversations.setTopic", bucket: &tier_2("conversations.setTopic"), ..REPEATABLE },
    Operation { name: "conversations.unarchive", url_template: "/api/conversations.unarchive", bucket: &tier_2("conversations.unarchive"), ..REPEATABLE },
    Operation { name: "dialog.open", url_template: "/api/dialog.open", bucket: &tier_4("dialog.open"), ..WRITE },
    Operation { name: "dnd.endDnd", url_template: "/api/dnd.endDnd", bucket: &tier_2("dnd.endDnd"), ..REPEATABLE },
    Operation { name: "dnd.endSnooze", url_template: "/api/dnd.endSnooze", bucket: &tier_2("dnd.endSnooze"), ..REPEATABLE },
    Operation { name: "dnd.info", url_template: "/api/dnd.info", bucket: &tier_3("dnd.info"), ..READ },
    Operation { name: "dnd.teamInfo", url_template: "/api/dnd.teamInfo", bucket: &tier_2("dnd.teamInfo"), ..READ },
    Operation { name: "emoji.list", url_template: "/api/emoji.list", bucket: &tier_2("emoji.list"), ..LIST },
    Operation { name: "files.completeUploadExternal", url_template: "/api/files.completeUploadExternal", bucket: &tier_4("files.completeUploadExternal"), ..WRITE },
    Operation { name: "files.delete", url_template: "/api/files.delete", bucket: &tier_3("files.delete"), ..REPEATABLE },
    Operation { name: "files.getUploadURLExternal", url_template: "/api/files.getUploadURLExternal", bucket: &tier_4("files.getUploadURLExternal"), ..READ },
    Operation { name: "files.info", url_template: "/api/files.info", bucket: &tier_4("files.info"), ..READ },
    Operation { name: "files.list", url_template: "/api/files.list", bucket: &tier_3("files.list"), ..LIST },
    Operation { name: "files.remote.add", url_template: "/api/files.remote.add", bucket: &tier_2("files.remote.add"), ..WRITE },
    Operation { name: "files.remote.info", url_template: "/api/files.remote.info", bucket: &tier_2("files.remote.info"), ..READ },
    Operation { name: "files.remote.list", url_template: "/api/files.remote.list", bucket: &tier_2("files.remote.list"), ..LIST },
    Operation { name: "files.remote.remove", url_template: "/api/files.remote.remove", bucket: &tier_2("files.remote.remove"), ..REPEATABLE },
    Operation { name: "files.remote.share", url_template: "/api/files.remote.share", bucket: &tier_2("files.remote.share"), ..WRITE },
    Operation { name: "files.revokePublicURL", url_template: "/api/files.revokePublicURL", bucket: &tier_3("files.revokePublicURL"), ..REPEATABLE },
    Operation { name: "files.sharedPublicURL", url_template: "/api/files.sharedPublicURL", bucket: &tier_3("files.sharedPublicURL"), ..REPEATABLE },
    Operation { name: "files.upload", url_template: "/api/files.upload", bucket: &tier_2("files.upload"), ..WRITE },
    Operation { name: "functions.completeError", url_template: "/api/functions.completeError", bucket: &tier_3("functions.completeError"), ..WRITE },
    Operation { name: "functions.completeSuccess", url_template: "/api/functions.completeSuccess", bucket: &tier_3("functions.completeSuccess"), ..WRITE },
    Operation { name: "oauth.access", url_template: "/api/oauth.access", bucket: &tier_4("oauth.access"), ..WRITE },
    Operation { name: "oauth.v2.access", url_template: "/api/oauth.v2.access", bucket: &tier_4("oauth.v2.access"), ..WRITE },
    Operation { name: "oauth.v2.exchange", url_template: "/api/oauth.v2.exchange", bucket: &tier_3("oauth.v2.exchange"), ..WRITE },
    Operation { name: "openid.connect.token", url_template: "/api/openid.connect.token", bucket: &tier_4("openid.connect.token"), ..WRITE },
    Operation { name: "openid.connect.userInfo", url_template: "/api/openid.connect.userInfo", bucket: &tier_3("openid.connect.userInfo"), ..READ },
    Operation { name: "pins.add", url_template: "/api/pins.add", bucket: &tier_2("pins.add"), ..REPEATABLE },
    Operation { name: "pins.list", url_template: "/api/pins.list", bucket: &tier_2("pins.list"), ..LIST },
    Operation { name: "pins.remove", url_template: "/api/pins.remove", bucket: &tier_2("pins.remove"), ..REPEATABLE },
    Operation { name: "reactions.add", url_template: "/api/reactions.add", bucket: &tier_3("reactions.add"), ..REPEATABLE },
    Operation { name: "reactions.get", url_template: "/api/reactions.get", bucket: &tier_3("reactions.get"), ..READ },
    Operation { name: "reactions.list", url_template: "/api/reactions.list", bucket: &tier_2("reactions.list"), ..LIST },
    Operation { name: "reactions.remove", url_template: "/api/reactions.remove", bucket: &tier_2("reactions.remove"), ..REPEATABLE },
    Operation { name: "reminders.add", url_template: "/api/reminders.add", bucket: &tier_2("reminders.add"), ..WRITE },
    Operation { name: "reminders.complete", url_template: "/api/reminders.complete", bucket: &tier_2("reminders.complete"), ..REPEATABLE },
    Operation { name: "reminders.delete", url_template: "/api/reminders.delete", bucket: &tier_2("reminders.delete"), ..REPEATABLE },
    Operation { name: "reminders.info", url_template: "/api/reminders.info", bucket: &tier_2("reminders.info"), ..READ },
    Operation { name: "reminders.list", url_template: "/api/reminders.list", bucket: &tier_2("reminders.list"), ..LIST },
    Operation { name: "search.all", url_template: "/api/search.all", bucket: &tier_2("search.all"), ..LIST },
    Operation { name: "search.files", url_template: "/api/search.files", bucket: &tier_2("search.files"), ..LIST },
    Operation { name: "search.messages", url_template: "/api/search.messages", bucket: &tier_2("search.messages"), ..LIST },
    Operation { name: "slackLists.access.delete", url_template: "/api/slackLists.access.delete", bucket: &tier_3("slackLists.access.delete"), ..REPEATABLE },
    Operation { name: "slackLists.access.set", url_template: "/api/slackLists.access.set", bucket: &tier_3("slackLists.access.set"), ..REPEATABLE },
    Operation { name: "slackLists.create", url_template: "/api/slackLists.create", bucket: &tier_2("slackLists.create"), ..WRITE },
    Operation { name: "slackLists.items.create", url_template: "/api/slackLists.items.create", bucket: &tier_3("slackLists.items.create"), ..WRITE },
    Operation { name: "slackLists.items.delete", url_template: "/api/slackLists.items.delete", bucket: &tier_2("slackLists.items.delete"), ..REPEATABLE },
    Operation { name: "slackLists.items.deleteMultiple", url_template: "/api/slackLists.items.deleteMultiple", bucket: &tier_2("slackLists.items.deleteMultiple"), ..REPEATABLE },
    Operation { name: "slackLists.items.info", url_template: "/api/slackLists.items.info", bucket: &tier_2("slackLists.items.info"), ..READ },
    Operation { name: "slackLists.items.list", url_template: "/api/slackLists.items.list", bucket: &tier_2("slackLists.items.list"), ..LIST },
    Operation { name: "slackLists.items.update", url_template: "/api/slackLists.items.update", bucket: &tier_3("slackLists.items.update"), ..REPEATABLE },
    Operation { name: "slackLists.update", url_template: "/api/slackLists.update", bucket: &tier_2("slackLists.update"), ..REPEATABLE },
    Operation { name: "stars.add", url_template: "/api/stars.add", bucket: &tier_2("stars.add"), ..REPEATABLE },
    Operation { name: "stars.list", url_template: "/api/stars.list", bucket: &tier_3("stars.list"), ..LIST },
    Operation { name: "stars.remove", url_template: "/api/stars.remove", bucket: &tier_2("stars.remove"), ..REPEATABLE },
    Operation { name: "team.accessLogs", url_template: "/api/team.accessLogs", bucket: &tier_2("team.accessLogs"), ..READ },
    Operation { name: "team.billableInfo", url_template: "/api/team.billableInfo", bucket: &tier_2("team.billableInfo"), ..READ },
    Operation { name: "team.billing.info", url_template: "/api/team.billing.info", bucket: &tier_3("team.billing.info"), ..READ },
    Operation { name: "team.externalTeams.disconnect", url_template: "/api/team.externalTeams.disconnect", bucket: &tier_1("team.externalTeams.disconnect"), ..WRITE },
    Operation { name: "team.externalTeams.list", url_template: "/api/team.externalTeams.list", bucket: &tier_2("team.externalTeams.list"), ..LIST },
    Operation { name: "team.info", url_template: "/api/team.info", bucket: &tier_3("team.info"), ..READ },
    Operation { name: "team.integrationLogs", url_template: "/api/team.integrationLogs", bucket: &tier_2("team.integrationLogs"), ..READ },
    Operation { name: "team.preferences.list", url_template: "/api/team.preferences.list", bucket: &tier_3("team.preferences.list"), ..LIST },
    Operation { name: "team.profile.get", url_template: "/api/team.profile.get", bucket: &tier_3("team.profile.get"), ..READ },
    Operation { name: "tooling.tokens.rotate", url_template: "/api/tooling.tokens.rotate", bucket: &tier_1("tooling.tokens.rotate"), ..WRITE },
    Operation { name: "usergroups.create", url_template: "/api/usergroups.create", bucket: &tier_2("usergroups.create"), ..WRITE },
    Operation { name: "usergroups.disable", url_template: "/api/usergroups.disable", bucket: &tier_2("usergroups.disable"), ..REPEATABLE },
    Operation { name: "usergroups.enable", url_template: "/api/usergroups.enable", bucket: &tier_2("usergroups.enable"), ..REPEATABLE },
    Operation { name: "usergroups.list", url_template: "/api/usergroups.list", bucket: &tier_2("usergroups.list"), ..LIST },
    Operation { name: "usergroups.update", url_template: "/api/usergroups.update", bucket: &tier_2("usergroups.update"), ..REPEATABLE },
    Operation { name: "usergroups.users.list", url_template: "/api/usergroups.users.list", bucket: &tier_2("usergroups.users.list"), ..LIST },
    Operation { name: "usergroups.users.update", url_template: "/api/usergroups.users.update", bucket: &tier_2("usergroups.users.update"), ..REPEATABLE },
    Operation { name: "users.conversations", url_template: "/api/users.conversations", bucket: &tier_2("users.conversations"), ..LIST },
    Operation { name: "users.deletePhoto", url_template: "/api/users.deletePhoto", bucket: &tier_2("users.deletePhoto"), ..REPEATABLE },
    Operation { name: "users.discoverableContacts.lookup", url_template: "/api/users.discoverableContacts.lookup", bucket: &tier_2("users.discoverableContacts.lookup"), ..READ },
    Operation { name: "users.getPresence", url_template: "/api/users.getPresence", bucket: &tier_3("users.getPresence"), ..READ },
    Operation { name: "users.identity", url_template: "/api/users.identity", bucket: &tier_3("users.identity"), ..READ },
    Operation { name: "users.info", url_template: "/api/users.info", bucket: &tier_4("users.info"), ..READ },
    Operation { name: "users.list", url_template: "/api/users.list", bucket: &tier_2("users.list"), ..LIST },
    Operation { name: "users.lookupByEmail", url_template: "/api/users.lookupByEmail", bucket: &tier_3("users.lookupByEmail"), ..READ },
    Operation { name: "users.profile.get", url_template: "/api/users.profile.get", bucket: &tier_4("users.profile.get"), ..READ },
    Operation { name: "users.profile.set", url_template: "/api/users.profile.set", bucket: &tier_3("users.profile.set"), ..REPEATABLE },
    Operation { name: "users.setPhoto", url_template: "/api/users.setPhoto", bucket: &tier_2("users.setPhoto"), ..REPEATABLE },
    Operation { name: "users.setPresence", url_template: "/api/users.setPresence", bucket: &tier_2("users.setPresence"), ..REPEATABLE },
    Operation { name: "views.open", url_template: "/api/views.open", bucket: &tier_4("views.open"), ..WRITE },
    Operation { name: "views.publish", url_template: "/api/views.publish", bucket: &tier_4("views.publish"), ..REPEATABLE },
    Operation { name: "views.push", url_template: "/api/views.push", bucket: &tier_4("views.push"), ..WRITE },
    Operation { name: "views.update", url_template: "/api/views.update", bucket: &tier_4("views.update"), ..REPEATABLE },
    Operation { name: "workflows.stepCompleted", url_template: "/api/workflows.stepCompleted", bucket: &tier_2("workflows.stepCompleted"), ..WRITE },
    Operation { name: "workflows.stepFailed", url_template: "/api/workflows.stepFailed", bucket: &tier_2("workflows.stepFailed"), ..WRITE },
    Operation { name: "workflows.updateStep", url_template: "/api/workflows.updateStep", bucket: &tier_2("workflows.updateStep"), ..WRITE },
];

const FEW_PAGES: Operation = Operation { bucket: &tier_1("conversations.history"), ..HISTORY };
const FEW_THREADS: Operation = Operation { bucket: &tier_1("conversations.replies"), ..REPLIES };
/// `conversations.history` for an app the rule of 2025-05-29 applies to: one call a minute.
pub static HISTORY_LIMITED: Operation = FEW_PAGES;
/// `conversations.replies` for an app the rule of 2025-05-29 applies to: one call a minute.
pub static REPLIES_LIMITED: Operation = FEW_THREADS;

/// The calls of a sync, by their own names: a conversation that is gone is no failure there but the end of one part of
/// the walk. They draw from the same limits as the methods they call.
pub(crate) mod walk {
    use super::{FEW_PAGES, FEW_THREADS, HISTORY, INFO, Operation, REPLIES};

    /// What the names of these calls begin with.
    pub(crate) const PREFIX: &str = "sync.";

    pub(crate) static PAGE: Operation = Operation { name: "sync.conversations.history", ..HISTORY };
    pub(crate) static PAGE_LIMITED: Operation = Operation { name: "sync.conversations.history", ..FEW_PAGES };
    pub(crate) static THREAD: Operation = Operation { name: "sync.conversations.replies", ..REPLIES };
    pub(crate) static THREAD_LIMITED: Operation = Operation { name: "sync.conversations.replies", ..FEW_THREADS };
    /// One message, by its `ts`.
    pub(crate) static MESSAGE: Operation = Operation { name: "sync.message", ..REPLIES };
    pub(crate) static MESSAGE_LIMITED: Operation = Operation { name: "sync.message", ..FEW_THREADS };
    pub(crate) static CONVERSATION: Operation = Operation { name: "sync.conversations.info", ..INFO };
}

/// Every method without a row: a lane for each of them, at the rate of the second tier (every method of the first has a
/// row), and never repeated, because nobody has said what a repetition does.
pub static OTHER: Operation = Operation {
    name: "other",
    url_template: "/api/{method}",
    bucket: &tier_2("other"),
    body_bytes_max: PAGE_BYTES_MAX,
    ..WRITE
};
/// A message to a `response_url` or an incoming webhook, one a second and address. Slack answers in plain text.
pub static HOOK: Operation = Operation { name: "hook", url_template: "/{hook}", bucket: &a_second("hook"), ..WRITE };
/// The bytes of a file, to the address that `files.getUploadURLExternal` gave. Slack answers in plain text.
pub static UPLOAD: Operation =
    Operation { name: "upload", url_template: "/upload/{file}", bucket: &tier_4("upload"), ..WRITE };

/// Returns the operation of a method.
#[must_use]
pub fn find(method: &str) -> &'static Operation {
    let row = OPERATIONS.binary_search_by(|row| row.name.cmp(method)).ok().and_then(|at| OPERATIONS.get(at));
    row.unwrap_or(&OTHER)
}

/// Returns the operations a request may be: a method's own, or one to an address that Slack gave.
pub(crate) fn of_request(method: &http::Method, path: &str) -> Vec<&'static Operation> {
    if *method != http::Method::POST && *method != http::Method::GET {
        return Vec::new();
    }
    match path.strip_prefix("/api/") {
        Some(name) if name.contains('/') || name.is_empty() => Vec::new(),
        Some(name) => vec![find(name)],
        None if *method == http::Method::POST => vec![&HOOK, &UPLOAD],
        None => Vec::new(),
    }
}

/// Tells whether answers to an operation are JSON with `ok`, as those of all methods are.
pub(crate) fn speaks_json(operation: &Operation) -> bool {
    operation.url_template.starts_with("/api/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_find_their_row_and_others_are_called_other() {
        for row in OPERATIONS {
            assert_eq!(find(row.name).name, row.name);
            assert_eq!(row.url_template, format!("/api/{}", row.name));
            assert_eq!((row.provider, row.bucket.per.is_zero()), ("slack", false));
        }
        assert!(OPERATIONS.is_sorted_by(|a, b| a.name < b.name), "the search is by name");
        for other in ["", "chat", "chat.postMessage ", "CHAT.POSTMESSAGE", "admin.users.list", "../chat.delete"] {
            assert_eq!(find(other).name, "other", "{other}");
        }
    }

    /// Fails when a bucket lets more through in some minute than its tier.
    #[test]
    fn every_method_has_a_lane_of_its_own_and_no_minute_sees_more_than_its_tier() {
        let mut lanes = std::collections::HashSet::new();
        for row in OPERATIONS.iter().chain([&OTHER, &UPLOAD]) {
            assert!(lanes.insert(row.bucket.name), "{} shares a lane", row.name);
            let Bucket { units, burst, per, .. } = *row.bucket;
            if row.name == "chat.postMessage" {
                assert_eq!((units, burst, per), (1, 1, Duration::from_secs(1)));
                assert_eq!((row.also.len(), WORKSPACE_MESSAGES.units + WORKSPACE_MESSAGES.burst), (1, 300));
                continue;
            }
            assert_eq!(per, MINUTE, "{}", row.name);
            assert!(
                (units, burst) == (1, 1) || matches!(units + burst, 20 | 50 | 100 | 600),
                "{}: {units} and {burst}",
                row.name
            );
        }
    }

    /// Fails when a message, channel or dialog could be made twice, or a read is not repeated.
    #[test]
    fn what_makes_something_new_is_never_repeated() {
        for method in
            ["chat.postMessage", "chat.postEphemeral", "chat.scheduleMessage", "conversations.create", "views.open"]
        {
            assert_eq!(find(method).replay, Replay::Never, "{method}");
        }
        for method in ["chat.update", "chat.delete", "reactions.add", "conversations.open"] {
            assert_eq!(find(method).replay, Replay::Idempotent, "{method}");
        }
        for row in OPERATIONS.iter().filter(|row| row.name.ends_with(".list") || row.name.ends_with(".info")) {
            assert_eq!(row.replay, Replay::Safe, "{}", row.name);
        }
        assert_eq!(OTHER.replay, Replay::Never);
    }
}
