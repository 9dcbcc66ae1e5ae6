"""Drives Google's API client for Python (google-api-python-client 2.202), unpatched, against a running emulator.

BASE_URL=http://127.0.0.1:PORT CLIENT_ID=… CLIENT_SECRET=… python3 google_api_python.py
Prints one line per check; exits with 1 at the first that fails.
"""

import base64
import importlib.resources
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import google.auth.transport.requests
from google.oauth2 import credentials, id_token
from googleapiclient.discovery import build, build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaInMemoryUpload

sys.dont_write_bytecode = True
from judging import BASE, Receiver, control  # noqa: E402

ID, SECRET = os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
BACK = "http://127.0.0.1:9/google/callback"
ADA = "ada@example.com"
SCOPES = ["https://mail.google.com/", "https://www.googleapis.com/auth/calendar"]


def fault(route, *faults):
    control("POST", "faults", {"next": [{"route": route, "faults": list(faults)}]})


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def connected():
    control("POST", "oauth", {
        "client": {"id": ID, "secret": SECRET, "name": "SDK", "redirect_uris": [BACK]}, "dials": {"consent": "allow"},
    })
    query = urllib.parse.urlencode({
        "client_id": ID, "redirect_uri": BACK, "response_type": "code", "scope": " ".join(SCOPES), "access_type": "offline",
        "prompt": "consent", "state": "s",
    })
    try:
        urllib.request.build_opener(NoRedirect).open(f"{BASE}/o/oauth2/v2/auth?{query}")
        raise AssertionError("expected a redirect")
    except urllib.error.HTTPError as answer:
        back = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(answer.headers["location"]).query))
    form = {
        "grant_type": "authorization_code", "code": back["code"], "client_id": ID, "client_secret": SECRET,
        "redirect_uri": BACK,
    }
    with urllib.request.urlopen(BASE + "/token", urllib.parse.urlencode(form).encode()) as answer:
        reply = json.load(answer)
    return credentials.Credentials(
        reply["access_token"], refresh_token=reply["refresh_token"], token_uri=BASE + "/token", client_id=ID,
        client_secret=SECRET,
    )


HELD = connected()


def gmail(held=HELD):
    # The upload route is built from the document's root, whatever the endpoint is set to: so the document is changed.
    path = importlib.resources.files("googleapiclient") / "discovery_cache/documents/gmail.v1.json"
    document = json.loads(path.read_text())
    document["rootUrl"] = document["baseUrl"] = BASE + "/"
    return build_from_document(document, credentials=held).users()


def calendar(held=HELD):
    options = {"api_endpoint": BASE + "/calendar/v3/"}
    return build("calendar", "v3", credentials=held, client_options=options, static_discovery=True)


def refused(work, status, reason):
    try:
        work.execute()
    except HttpError as error:
        body = json.loads(error.content)["error"]
        assert error.resp.status == status == body["code"], (error.resp.status, body)
        assert body["errors"][0]["reason"] == reason, body
        return error
    raise AssertionError(f"expected {status} {reason}")


def encoded(message):
    return base64.urlsafe_b64encode(message.as_bytes()).decode()


def mail(subject, text="x", to="bob@elsewhere.example"):
    message = MIMEText(text)
    message["To"], message["Subject"] = to, subject
    return message


def pages(method, first, field, **arguments):
    request, rows = first, []
    while request is not None:
        answer = request.execute()
        rows += answer.get(field, [])
        request = method(request, answer)
    return rows, answer


def refresh():
    held = connected()
    api = gmail(held)
    assert api.getProfile(userId="me").execute()["emailAddress"] == ADA
    before = held.token
    control("POST", "oauth", {"expire": [before]})
    assert api.getProfile(userId="me").execute()["emailAddress"] == ADA, "refreshed after a 401"
    assert held.token != before and held.refresh_token, "the refresh token stays"
    control("POST", "oauth", {"revoke_all": True})
    try:
        gmail(held).getProfile(userId="me").execute()
        raise AssertionError("expected a RefreshError")
    except google.auth.exceptions.RefreshError as error:
        assert "invalid_grant" in str(error), error
    global HELD
    HELD = connected()


def messages():
    api = gmail(HELD).messages()
    sent = api.send(userId="me", body={"raw": encoded(mail("first"))}).execute()
    assert sent["labelIds"] == ["SENT"] and sent["threadId"] == sent["id"], sent
    shown = api.get(userId="me", id=sent["id"]).execute()
    headers = {row["name"]: row["value"] for row in shown["payload"]["headers"]}
    assert headers["From"] == ADA and headers["Message-ID"], headers
    answer = mail("Re: first")
    answer["In-Reply-To"] = answer["References"] = headers["Message-ID"]
    reply = api.send(userId="me", body={"raw": encoded(answer), "threadId": sent["threadId"]}).execute()
    assert reply["threadId"] == sent["threadId"], reply
    few = api.get(userId="me", id=sent["id"], format="metadata", metadataHeaders=["Subject"]).execute()
    assert [row["value"] for row in few["payload"]["headers"]] == ["first"], few
    found = api.list(userId="me", q="in:sent subject:first").execute()
    assert found["resultSizeEstimate"] == 2, found
    assert "messages" not in api.list(userId="me", q="subject:nowhere").execute()
    refused(api.send(userId="me", body={"raw": encoded(MIMEText("to nobody"))}), 400, "invalidArgument")
    refused(api.get(userId="me", id="0000000000000000"), 404, "notFound")


def uploads():
    api = gmail(HELD).messages()
    message = MIMEMultipart()
    message["To"], message["Subject"] = ADA, "with a file"
    message.attach(MIMEText("see there"))
    file = MIMEApplication(bytes(range(256)) * 8_000, Name="x.bin")
    file["Content-Disposition"] = 'attachment; filename="x.bin"'
    message.attach(file)
    media = MediaInMemoryUpload(message.as_bytes(), mimetype="message/rfc822")
    first = api.send(userId="me", media_body=media).execute()
    thread = api.get(userId="me", id=first["id"], format="metadata").execute()
    own = next(row["value"] for row in thread["payload"]["headers"] if row["name"] == "Message-ID")
    message["References"] = own
    media = MediaInMemoryUpload(message.as_bytes(), mimetype="message/rfc822")
    second = api.send(userId="me", body={"threadId": first["threadId"]}, media_body=media).execute()
    assert second["threadId"] == first["threadId"] and "INBOX" in second["labelIds"], second
    part = api.get(userId="me", id=second["id"]).execute()["payload"]["parts"][1]
    data = api.attachments().get(userId="me", messageId=second["id"], id=part["body"]["attachmentId"]).execute()
    assert base64.urlsafe_b64decode(data["data"]) == bytes(range(256)) * 8_000


def lists():
    control("POST", "populate", {"email": ADA, "messages": 23, "events": 0})
    api = gmail(HELD).messages()
    rows, _ = pages(api.list_next, api.list(userId="me", maxResults=7, includeSpamTrash=True), "messages")
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids) and len(ids) >= 23, len(ids)
    api.modify(userId="me", id=ids[0], body={"addLabelIds": ["STARRED"], "removeLabelIds": ["INBOX"]}).execute()
    starred = api.list(userId="me", labelIds=["STARRED"]).execute()["messages"]
    assert [row["id"] for row in starred] == [ids[0]], starred
    api.trash(userId="me", id=ids[1]).execute()
    assert ids[1] not in [row["id"] for row in pages(api.list_next, api.list(userId="me"), "messages")[0]]
    api.untrash(userId="me", id=ids[1]).execute()
    api.batchModify(userId="me", body={"ids": ids[2:5], "addLabelIds": ["IMPORTANT"]}).execute()
    assert len(api.list(userId="me", labelIds=["IMPORTANT"]).execute()["messages"]) == 3
    api.delete(userId="me", id=ids[1]).execute()
    refused(api.get(userId="me", id=ids[1]), 404, "notFound")
    labels = gmail(HELD).labels()
    made = labels.create(userId="me", body={"name": "Work"}).execute()
    assert made["id"] in [row["id"] for row in labels.list(userId="me").execute()["labels"]]
    refused(api.list(userId="me", pageToken="nonsense"), 400, "invalidArgument")


def history():
    api = gmail(HELD)
    start = api.getProfile(userId="me").execute()["historyId"]
    control("POST", "mutate", {"email": ADA, "random": 60, "seed": 3})
    got = control("POST", "receive", {"to": ADA, "subject": "new"})["id"]
    api.messages().delete(userId="me", id=got).execute()
    first = api.history().list(userId="me", startHistoryId=start, maxResults=3)
    rows, last = pages(api.history().list_next, first, "history")
    ids = [int(row["id"]) for row in rows]
    assert ids == sorted(set(ids)) and len(ids) > 5 and int(last["historyId"]) >= ids[-1], ids
    assert rows[-1]["messagesDeleted"][0]["message"]["id"] == got, rows[-1]
    added = api.history().list(userId="me", startHistoryId=start, historyTypes=["messageAdded"]).execute()["history"]
    assert all("messagesAdded" in row for row in added) and len(added) < len(ids)
    control("POST", "forget", {"email": ADA, "history": True})
    refused(api.history().list(userId="me", startHistoryId=start), 404, "notFound")
    refused(api.history().list(userId="me", startHistoryId="x"), 400, "invalidArgument")


def notifications():
    receiver = Receiver("/")
    url = receiver.url

    def received():
        return [(dict(headers.items()), body) for _, body, headers in receiver.take()]

    control("POST", "subscription", {
        "name": "projects/p/subscriptions/s", "topic": "projects/p/topics/t", "url": url, "audience": "https://aud.example",
        "email": "push@p.iam.gserviceaccount.com",
    })
    api = gmail(HELD)
    refused(api.watch(userId="me", body={"topicName": "t"}), 400, "invalidArgument")
    watch = api.watch(userId="me", body={"topicName": "projects/p/topics/t", "labelIds": ["INBOX"]}).execute()
    assert int(watch["expiration"]) > time.time() * 1000 and watch["historyId"], watch
    (headers, body), = received()
    held = google.auth.transport.requests.Request()
    token = headers["authorization"].removeprefix("Bearer ")
    claims = id_token.verify_token(token, held, "https://aud.example", certs_url=BASE + "/oauth2/v1/certs")
    assert claims["email"] == "push@p.iam.gserviceaccount.com" and claims["email_verified"], claims
    data = json.loads(base64.b64decode(json.loads(body)["message"]["data"]))
    assert data["emailAddress"] == ADA and data["historyId"] == int(watch["historyId"]), data
    time.sleep(1.1)
    control("POST", "receive", {"to": ADA, "subject": "told"})
    assert len(received()) == 1
    api.stop(userId="me").execute()
    time.sleep(1.1)
    control("POST", "receive", {"to": ADA, "subject": "untold"})
    assert received() == []

    events = calendar(HELD).events()
    channel = {"id": "01234567-89ab", "type": "web_hook", "address": url, "token": "t", "params": {"ttl": "3600"}}
    opened = events.watch(calendarId="primary", body=channel).execute()
    assert opened["kind"] == "api#channel" and opened["resourceId"], opened
    refused(events.watch(calendarId="primary", body=channel), 400, "channelIdNotUnique")
    refused(events.watch(calendarId="primary", body={**channel, "id": "x", "address": "http://h.example/"}), 400, "push.webhookUrlNotHttps")
    made = events.insert(calendarId="primary", body=meeting("told")).execute()
    (first, empty), (second, _) = received()
    names = ["X-Goog-Channel-Id", "X-Goog-Channel-Token", "X-Goog-Resource-Id", "X-Goog-Resource-State"]
    of = lambda headers: [next(value for name, value in headers.items() if name.lower() == one.lower()) for one in names]
    assert of(first) == ["01234567-89ab", "t", opened["resourceId"], "sync"] and empty == "", first
    assert of(second)[3] == "exists"
    stop = calendar(HELD).channels().stop
    refused(stop(body={"id": "01234567-89ab", "resourceId": "other"}), 404, "notFound")
    stop(body={"id": "01234567-89ab", "resourceId": opened["resourceId"]}).execute()
    events.delete(calendarId="primary", eventId=made["id"]).execute()
    assert received() == []


def meeting(summary, **more):
    return {
        "summary": summary, "start": {"dateTime": "2026-03-02T10:00:00Z"}, "end": {"dateTime": "2026-03-02T11:00:00Z"}, **more,
    }


def events():
    api = calendar(HELD).events()
    made = api.insert(calendarId="primary", body=meeting("mine", id="mine0"), sendUpdates="all").execute()
    assert made["status"] == "confirmed" and made["etag"] and made["iCalUID"], made
    refused(api.insert(calendarId="primary", body=meeting("again", id="mine0")), 409, "duplicate")
    refused(api.insert(calendarId="primary", body=meeting("bad", id="UPPER")), 400, "invalid")
    assert api.get(calendarId=ADA, eventId="mine0").execute()["summary"] == "mine"
    patched = api.patch(calendarId="primary", eventId="mine0", body={"location": "here"}).execute()
    assert patched["summary"] == "mine" and patched["location"] == "here" and patched["etag"] != made["etag"]
    updated = api.update(calendarId="primary", eventId="mine0", body=meeting("other")).execute()
    assert updated["summary"] == "other" and "location" not in updated, updated
    api.delete(calendarId="primary", eventId="mine0").execute()
    refused(api.delete(calendarId="primary", eventId="mine0"), 410, "deleted")
    refused(api.get(calendarId="primary", eventId="nothere0"), 404, "notFound")
    refused(api.list(calendarId="somebody@elsewhere.example"), 404, "notFound")
    calendars = calendar(HELD).calendarList().list().execute()["items"]
    assert [row["id"] for row in calendars if row.get("primary")] == [ADA], calendars


def sync_tokens():
    control("POST", "populate", {"email": ADA, "messages": 0, "events": 23})
    api = calendar(HELD).events()
    rows, last = pages(api.list_next, api.list(calendarId="primary", maxResults=7), "items")
    assert len({row["id"] for row in rows}) == len(rows) >= 23, len(rows)
    series = api.insert(calendarId="primary", body=meeting("series", recurrence=["RRULE:FREQ=DAILY;COUNT=3"])).execute()
    instances = api.instances(calendarId="primary", eventId=series["id"]).execute()["items"]
    assert [row["recurringEventId"] for row in instances] == [series["id"]] * 3, instances
    api.delete(calendarId="primary", eventId=instances[1]["id"]).execute()
    api.delete(calendarId="primary", eventId=rows[0]["id"]).execute()
    changed, next_last = pages(
        api.list_next, api.list(calendarId="primary", syncToken=last["nextSyncToken"], maxResults=1), "items")
    states = {row["id"]: row["status"] for row in changed}
    assert states == {series["id"]: "confirmed", instances[1]["id"]: "cancelled", rows[0]["id"]: "cancelled"}, states
    off = next(row for row in changed if row["id"] == instances[1]["id"])
    assert off["recurringEventId"] == series["id"] and off["originalStartTime"], off
    everything, _ = pages(api.list_next, api.list(calendarId="primary"), "items")
    assert off["id"] in [row["id"] for row in everything], "a called-off instance stays in a full list"
    single, _ = pages(api.list_next, api.list(calendarId="primary", singleEvents=True, q="series"), "items")
    assert len(single) == 2, single
    token = next_last["nextSyncToken"]
    assert api.list(calendarId="primary", syncToken=token).execute()["items"] == []
    refused(api.list(calendarId="primary", syncToken=token, timeMin="2026-01-01T00:00:00Z"), 400, "badRequest")
    control("POST", "forget", {"email": ADA, "sync_tokens": True})
    error = refused(api.list(calendarId="primary", syncToken=token), 410, "fullSyncRequired")
    assert "full sync" in error.reason, error.reason


def quotas():
    api = gmail(HELD)
    route = "GET /gmail/v1/users/{user}/profile"
    fault(route, {"refuse": "rateLimitExceeded"})
    assert api.getProfile(userId="me").execute(num_retries=1)["emailAddress"] == ADA, "a 403 of a limit is tried again"
    fault(route, {"refuse": "insufficientPermissions"})
    refused(api.getProfile(userId="me"), 403, "insufficientPermissions")
    fault(route, {"throttle": "none"}, {"status": 503})
    assert api.getProfile(userId="me").execute(num_retries=2)["emailAddress"] == ADA, "429 and 503 are tried again"
    control("POST", "limits", {"limits": True})
    for _ in range(60):
        try:
            api.messages().send(userId="me", body={"raw": encoded(mail("many"))}).execute()
        except HttpError as error:
            assert error.resp.status == 429 and "Retry after" in error.reason, error
            break
    else:
        raise AssertionError("6,000 units a minute hold nobody up")


control("POST", "limits", {"limits": False})
for check in [refresh, messages, uploads, lists, history, notifications, events, sync_tokens, quotas]:
    try:
        check()
    except Exception as error:
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {check.__name__}")
