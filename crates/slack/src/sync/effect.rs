//! Which events concern which streams, and how. One table.

use super::{CONVERSATIONS, MESSAGES, USERS};
use crate::webhook::ECHO;

/// What an event says about our records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It carries a message as it stands, or says which one was deleted.
    Message,
    /// It happened to a message and carries none of it.
    OfMessage,
    /// It carries a person as they stand.
    User,
    /// It happened to a conversation and carries a part of it at the most.
    OfConversation,
    /// The conversation is gone for good.
    ConversationDeleted,
    /// The conversation goes on under another id.
    ConversationMoved,
    /// More happened than it says: the streams must be read anew.
    More(&'static [&'static str]),
}

const MESSAGE: &[Effect] = &[Effect::Message];
/// Slack tells these as messages in the conversation, which they change too.
const MESSAGE_OF_CHANGE: &[Effect] = &[Effect::Message, Effect::OfConversation];
const OF_CONVERSATION: &[Effect] = &[Effect::OfConversation];
const ALL: &[&str] = &[USERS, CONVERSATIONS, MESSAGES];

/// Returns what events of a type say about our records (docs.slack.dev, event types, 2026-11).
pub(crate) fn effects(kind: &str) -> &'static [Effect] {
    let kind = kind.strip_prefix(ECHO).unwrap_or(kind);
    match kind {
        "message" => MESSAGE,
        "reaction_added" | "reaction_removed" | "pin_added" | "pin_removed" => &[Effect::OfMessage],
        "user_change" | "team_join" => &[Effect::User],
        "channel_deleted" | "group_deleted" => &[Effect::ConversationDeleted],
        "channel_id_changed" => const { &[Effect::ConversationMoved, Effect::More(&[MESSAGES])] },
        // Messages were changed in bulk, and Slack does not say which.
        "channel_history_changed" | "group_history_changed" | "im_history_changed" => {
            const { &[Effect::More(&[MESSAGES])] }
        }
        "app_rate_limited" => const { &[Effect::More(ALL)] },
        "channel_archive"
        | "channel_created"
        | "channel_joined"
        | "channel_left"
        | "channel_rename"
        | "channel_shared"
        | "channel_unarchive"
        | "channel_unshared"
        | "group_archive"
        | "group_close"
        | "group_joined"
        | "group_left"
        | "group_open"
        | "group_rename"
        | "group_unarchive"
        | "im_close"
        | "im_created"
        | "im_open"
        | "member_joined_channel"
        | "member_left_channel"
        | "mpim_close"
        | "mpim_joined"
        | "mpim_open" => OF_CONVERSATION,
        _ => match kind.strip_prefix("message.") {
            Some(
                "channel_name"
                | "channel_purpose"
                | "channel_topic"
                | "group_name"
                | "group_purpose"
                | "group_topic"
                | "channel_convert_to_private"
                | "channel_convert_to_public",
            ) => MESSAGE_OF_CHANGE,
            Some(_) => MESSAGE,
            None => &[],
        },
    }
}

/// Tells whether events of a type concern any of the streams.
pub(crate) fn concerns(kind: &str) -> bool {
    !effects(kind).is_empty()
}

/// Returns the streams that must be read anew after an event of a type.
pub(crate) fn more(kind: &str) -> &'static [&'static str] {
    effects(kind)
        .iter()
        .find_map(|effect| match effect {
            Effect::More(streams) => Some(*streams),
            Effect::Message
            | Effect::OfMessage
            | Effect::User
            | Effect::OfConversation
            | Effect::ConversationDeleted
            | Effect::ConversationMoved => None,
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::STREAMS;
    use super::*;

    #[test]
    fn names_that_only_begin_alike_are_told_apart() {
        assert_eq!(effects("message.message_changed"), MESSAGE);
        assert_eq!(effects("echo.message.message_deleted"), MESSAGE);
        assert_eq!(effects("message.channel_topic"), MESSAGE_OF_CHANGE);
        assert_eq!(effects("channel_rename"), OF_CONVERSATION);
        assert_eq!(more("channel_id_changed"), [MESSAGES]);
        assert_eq!(more("app_rate_limited"), ALL);
        assert_eq!(more("message"), [""; 0]);
        for kind in ["", "messages", "app_mention", "channel", "echo.", "echo", "slash_command.message", "user_changed"]
        {
            assert!(!concerns(kind), "{kind}");
        }
        for stream in ALL {
            assert!(STREAMS.iter().any(|spec| spec.name == *stream), "{stream}");
        }
    }
}
