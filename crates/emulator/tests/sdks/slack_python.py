"""Drives the official Python SDK (slack_sdk 3.47), unpatched, against a running emulator.

BASE_URL=http://127.0.0.1:PORT CLIENT_ID=… CLIENT_SECRET=… python3 slack_python.py
Prints one line per check; exits with 1 at the first that fails.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
from slack_sdk.oauth import AuthorizeUrlGenerator
from slack_sdk.oauth.installation_store import Installation
from slack_sdk.oauth.token_rotation import TokenRotator
from slack_sdk.signature import SignatureVerifier

sys.dont_write_bytecode = True
from judging import BASE, Receiver, control  # noqa: E402

ID, SECRET = os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
SIGNING = os.environ.get("SIGNING_SECRET", "slack-emulator-signing-secret")
BACK = "http://127.0.0.1:9/slack/callback"
SCOPES = [
    "chat:write", "channels:read", "channels:history", "groups:read", "groups:history", "users:read",
    "users:read.email", "team:read", "im:write", "im:read",
]


def client(token=None):
    return WebClient(token=token, base_url=BASE + "/api/", retry_handlers=[])


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def install(consent="allow"):
    control("POST", "oauth", {
        "client": {"id": ID, "secret": SECRET, "name": "SDK", "redirect_uris": [BACK]},
        "dials": {"consent": consent},
    })
    url = AuthorizeUrlGenerator(
        client_id=ID, scopes=SCOPES, user_scopes=["users:read"], redirect_uri=BACK,
        authorization_url=BASE + "/oauth/v2/authorize",
    ).generate("state-1")
    try:
        urllib.request.build_opener(NoRedirect).open(url)
    except urllib.error.HTTPError as answer:
        assert answer.code == 302, answer.code
        back = urllib.parse.urlparse(answer.headers["location"])
        query = dict(urllib.parse.parse_qsl(back.query))
        assert query["state"] == "state-1", query
        return query
    raise AssertionError("expected a redirect")


def connected():
    code = install()["code"]
    return client().oauth_v2_access(client_id=ID, client_secret=SECRET, code=code, redirect_uri=BACK)


def word(work):
    try:
        work()
    except SlackApiError as error:
        return error.response["error"]
    raise AssertionError("expected a SlackApiError")


def oauth():
    assert install("deny")["error"] == "access_denied"
    code = install()["code"]
    trade = dict(client_id=ID, client_secret=SECRET, redirect_uri=BACK)
    reply = client().oauth_v2_access(code=code, **trade)
    assert reply["token_type"] == "bot" and reply["authed_user"]["token_type"] == "user", reply
    assert word(lambda: client().oauth_v2_access(code=code, **trade)) == "code_already_used"
    assert word(lambda: client(reply["access_token"]).auth_test()) == "token_revoked", "the replay revoked it"
    assert word(lambda: client().oauth_v2_access(client_id=ID, client_secret="x", code=code)) == "bad_client_secret"


def rotation():
    reply = connected()
    user = reply["authed_user"]
    held = Installation(
        app_id=reply["app_id"], team_id=reply["team"]["id"], user_id=user["id"], bot_id="B", bot_user_id=reply["bot_user_id"],
        bot_token=reply["access_token"], bot_refresh_token=reply["refresh_token"], bot_token_expires_in=reply["expires_in"],
        user_token=user["access_token"], user_refresh_token=user["refresh_token"], user_token_expires_in=user["expires_in"],
    )
    rotator = TokenRotator(client_id=ID, client_secret=SECRET, client=client())
    assert rotator.perform_token_rotation(installation=held, minutes_before_expiration=120) is None, "not due"
    fresh = rotator.perform_token_rotation(installation=held, minutes_before_expiration=60 * 24)
    assert fresh.bot_token != held.bot_token and fresh.user_token != held.user_token
    assert client(fresh.bot_token).auth_test()["team_id"] == reply["team"]["id"]
    assert word(lambda: client().oauth_v2_access(
        client_id=ID, client_secret=SECRET, grant_type="refresh_token", refresh_token=reply["refresh_token"],
    )) == "invalid_refresh_token"
    control("POST", "oauth", {"expire": [fresh.bot_token]})
    assert word(lambda: client(fresh.bot_token).auth_test()) == "token_expired"


def tokens():
    old = control("POST", "token", {"scopes": ["chat:write"]})["access_token"]
    assert client(old).auth_test()["ok"]
    fresh = client().oauth_v2_exchange(token=old, client_id=ID, client_secret=SECRET)
    assert fresh["expires_in"] == 43_200 and fresh["refresh_token"], fresh
    assert word(lambda: client(old).auth_test()) == "token_revoked"
    assert word(lambda: client().oauth_v2_exchange(token=old, client_id=ID, client_secret=SECRET)) == "token_already_exchanged"
    held = client(fresh["access_token"])
    assert held.auth_revoke(test=True)["revoked"] is False and held.auth_test()["ok"]
    assert held.auth_revoke()["revoked"] is True
    assert word(lambda: held.auth_test()) == "token_revoked"


def messages():
    api = client(connected()["access_token"])
    channel = next(c for c in api.conversations_list(limit=200)["channels"] if c["is_member"])["id"]
    posted = api.chat_postMessage(channel=channel, text="hi & <b>", blocks=[{"type": "divider"}])
    assert posted["message"]["blocks"][0]["type"] == "divider"
    api.chat_update(channel=channel, ts=posted["ts"], text="changed")
    answer = api.chat_postMessage(channel=channel, text="answer", thread_ts=posted["ts"])
    replies = api.conversations_replies(channel=channel, ts=posted["ts"])["messages"]
    assert [m["text"] for m in replies] == ["changed", "answer"], replies
    newest = api.conversations_history(channel=channel, limit=1)["messages"][0]
    assert newest["ts"] == posted["ts"] and newest["reply_count"] == 1
    api.chat_delete(channel=channel, ts=answer["ts"])
    due = int(time.time()) + 3600
    waiting = api.chat_scheduleMessage(channel=channel, text="later", post_at=due)
    assert api.chat_scheduledMessages_list()["scheduled_messages"][0]["post_at"] == due
    api.chat_deleteScheduledMessage(channel=channel, scheduled_message_id=waiting["scheduled_message_id"])
    assert word(lambda: api.chat_postMessage(channel="C0", text="x")) == "channel_not_found"
    assert word(lambda: api.chat_postMessage(channel=channel, text="")) == "no_text"


def pages():
    api = client(connected()["access_token"])
    users = [user for page in api.users_list(limit=7) for user in page["members"]]
    assert len({user["id"] for user in users}) == len(users) >= 20, len(users)
    kinds = "public_channel,private_channel"
    channels = [row for page in api.conversations_list(limit=2, types=kinds) for row in page["channels"]]
    assert len(channels) >= 6, len(channels)
    channel = next(row for row in channels if row["is_member"])["id"]
    rows = [row for page in api.conversations_history(channel=channel, limit=5) for row in page["messages"]]
    stamps = [row["ts"] for row in rows]
    assert stamps == sorted(set(stamps), reverse=True) and len(stamps) > 10, stamps
    assert api.users_lookupByEmail(email="ada@example.com")["user"]["name"] == "ada"
    assert word(lambda: api.users_list(cursor="nonsense")) == "invalid_cursor"


def limits():
    api = client(connected()["access_token"])
    control("POST", "faults", {"next": [{"route": "POST /api/auth.test", "faults": [{"throttle": {"seconds": 1}}]}]})
    api.retry_handlers.append(RateLimitErrorRetryHandler(max_retry_count=1))
    assert api.auth_test()["ok"]
    control("POST", "faults", {"next": [{"route": "POST /api/auth.test", "faults": [{"status": 503}, "html"]}]})
    for _ in range(2):
        try:
            client(api.token).auth_test()
            raise AssertionError("expected a failure")
        except (SlackApiError, ValueError):
            pass


def events():
    receiver = Receiver("/")
    control("POST", "subscribe", {"url": receiver.url, "events": ["*"]})
    connected()
    control("POST", "mutate", {"random": 20, "seed": 3})
    taken = [(body, dict(headers.items())) for _, body, headers in receiver.take()]
    got = [(SignatureVerifier(SIGNING).is_valid_request(body, headers), json.loads(body)) for body, headers in taken]
    assert len(got) == 20 and all(valid for valid, _ in got), [valid for valid, _ in got]
    assert {event["type"] for _, event in got} == {"event_callback"}


control("POST", "limits", {"limits": False})
control("POST", "populate", {"users": 20, "channels": 5, "private_channels": 1, "messages_per_channel": 20})
for check in [oauth, rotation, tokens, messages, pages, limits, events]:
    try:
        check()
    except Exception as error:
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {check.__name__}")
