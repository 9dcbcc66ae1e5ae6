"""Drives the official Python SDK (twilio 9.13), unpatched, against a running emulator.

BASE_URL=http://127.0.0.1:PORT ACCOUNT_SID=… AUTH_TOKEN=… API_KEY_SID=… API_KEY_SECRET=… python3 twilio_python.py
Prints one line per check; exits with 1 at the first that fails.
"""

import datetime
import os
import sys
import urllib.parse

from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.request_validator import SIGNATURE_HEADER, SIGNATURE_SETTINGS_HEADER, RequestValidator
from twilio.request_validator import get_signature_algorithm
from twilio.rest import Client

sys.dont_write_bytecode = True
from judging import BASE, Receiver, control  # noqa: E402

ACCOUNT, TOKEN = os.environ["ACCOUNT_SID"], os.environ["AUTH_TOKEN"]
KEY, SECRET = os.environ["API_KEY_SID"], os.environ["API_KEY_SECRET"]
SENDER, OTHER = "+15005550006", "+15005550001"
SERVICE = "MG00000000000000000000000000000000"
TO = "+15005550010"
UTC = datetime.timezone.utc


def client(user=ACCOUNT, secret=TOKEN, **options):
    made = Client(user, secret, ACCOUNT, **options)
    made.api.base_url = BASE
    return made


def refused(work, status, code):
    try:
        work()
    except TwilioRestException as error:
        assert (error.status, error.code) == (status, code), (error.status, error.code, error.msg)
        return error
    raise AssertionError(f"expected {code}")


def unfetched(work, status, code):
    """Of a page that is refused the SDK tells no more than the answer."""
    try:
        work()
    except TwilioException as error:
        assert f"HTTP {status}" in str(error) and f'"code":{code}' in str(error), error
        return
    raise AssertionError(f"expected {code}")


def messages():
    api = client()
    made = api.messages.create(to=TO, from_=SENDER, body="hi")
    assert made.status == "queued" and made.sid.startswith("SM") and made.date_sent is None, made.status
    assert made.num_segments == "1" and made.direction == "outbound-api"
    read = api.messages(made.sid).fetch()
    assert read.status == "delivered" and read.date_sent.tzinfo is not None, read.status
    assert abs((datetime.datetime.now(UTC) - read.date_sent).total_seconds()) < 60, read.date_sent
    assert api.messages(made.sid).update(body="").body == ""
    assert api.messages(made.sid).delete() is True
    refused(lambda: api.messages(made.sid).fetch(), 404, 20404)
    picture = api.messages.create(to=TO, from_=SENDER, media_url=["https://example.com/a.jpg", "https://example.com/b.jpg"])
    assert picture.sid.startswith("MM") and picture.num_media == "2"
    assert api.api.accounts(ACCOUNT).fetch().status == "active"


def api_keys_and_services():
    api = client(KEY, SECRET)
    made = api.messages.create(to=TO, messaging_service_sid=SERVICE, body="hi")
    assert made.status == "accepted" and made.from_ is None and made.messaging_service_sid == SERVICE
    assert api.messages(made.sid).fetch().from_ == SENDER
    at = datetime.datetime.now(UTC) + datetime.timedelta(hours=1)
    waits = api.messages.create(to=TO, messaging_service_sid=SERVICE, body="later", send_at=at, schedule_type="fixed")
    assert waits.status == "scheduled"
    assert api.messages(waits.sid).update(status="canceled").status == "canceled"
    refused(lambda: api.messages(waits.sid).update(status="canceled"), 400, 30409)


def pages():
    control("POST", "populate", {"messages": 120})
    api = client()
    since = datetime.datetime(2026, 1, 1, tzinfo=UTC)
    rows = api.messages.list(date_sent_after=since, page_size=1000)
    assert len(rows) >= 120, len(rows)
    sids = [row.sid for row in rows]
    assert len(set(sids)) == len(sids)
    for size in [1, 7, 50]:
        assert [row.sid for row in api.messages.stream(date_sent_after=since, page_size=size)] == sids, size
    assert [row.sid for row in api.messages.list(limit=9, page_size=4)] == sids[:9]
    page = api.messages.page(page_size=5)
    first = [row.sid for row in page]
    second = [row.sid for row in page.next_page()]
    assert first + second == sids[:10], (first, second)
    of_one = api.messages.list(to="+15550000007")
    assert [row.to for row in of_one] == ["+15550000007"]
    moment = of_one[0].date_sent
    window = api.messages.list(date_sent_after=moment, date_sent_before=moment + datetime.timedelta(minutes=2))
    assert of_one[0].sid in [row.sid for row in window] and len(window) <= 4, len(window)


def errors():
    api = client()
    said = refused(lambda: api.messages.create(to="bad", from_=OTHER, body="x"), 400, 21211)
    assert "is not a valid phone number" in said.msg and said.method == "POST", said.msg
    for to, code in [("+15005550001", 21211), ("+15005550002", 21612), ("+15005550003", 21408), ("+15005550009", 21614)]:
        refused(lambda: api.messages.create(to=to, from_=SENDER, body="x"), 400, code)
    refused(lambda: api.messages.create(to=TO, from_="+15005550099", body="x"), 400, 21606)
    refused(lambda: api.messages.create(to=TO, from_=SENDER, body="x" * 1601), 400, 21617)
    refused(lambda: api.messages.create(to=TO, from_=SENDER), 400, 21619)
    unfetched(lambda: api.messages.list(page_size=1001), 400, 20007)
    unfetched(lambda: client(ACCOUNT, "wrong").messages.list(), 401, 20003)
    refused(lambda: client(ACCOUNT, "wrong").messages.create(to=TO, from_=SENDER, body="x"), 401, 20003)
    control("POST", "receive", {"from": TO, "to": SENDER, "body": "STOP"})
    refused(lambda: api.messages.create(to=TO, from_=SENDER, body="x"), 400, 21610)
    control("POST", "receive", {"from": TO, "to": SENDER, "body": "START"})
    api.messages.create(to=TO, from_=SENDER, body="x")


def limits():
    api = client()
    route = "GET /2010-04-01/Accounts/{sid}/Messages.json"
    control("POST", "faults", {"next": [{"route": route, "faults": [{"throttle": {"seconds": 1}}, {"status": 503}, "html"]}]})
    unfetched(lambda: api.messages.list(limit=1), 429, 20429)
    unfetched(lambda: api.messages.list(limit=1), 503, 20503)
    try:
        api.messages.list(limit=1)
        raise AssertionError("a web page is no list")
    except (TwilioException, ValueError):
        pass
    assert len(api.messages.list(limit=1)) == 1


def hook():
    return Receiver("/hook?a=1")


def taken(receiver):
    """What came: path, form and headers of each."""
    got = receiver.take()
    return [(path, dict(urllib.parse.parse_qsl(body, keep_blank_values=True)), headers) for path, body, headers in got]


def webhooks():
    receiver = hook()
    own, other = RequestValidator(TOKEN), RequestValidator("wrong")
    made = client().messages.create(to=TO, from_=SENDER, body="hi", status_callback=receiver.url)
    control("POST", "inbound", {"url": receiver.url + "#rc=2&rp=5xx"})
    receiver_got = taken(receiver)
    # Callbacks keep no order, as at Twilio.
    assert sorted(form["MessageStatus"] for _, form, _ in receiver_got) == ["delivered", "queued", "sending", "sent"]
    receiver.answers = [500]
    control("POST", "receive", {"from": TO, "to": SENDER, "body": "Grüße & mehr = 1+1", "media": ["https://m.invalid/1"]})
    inbound = taken(receiver)
    assert len(inbound) == 2, "it is tried again as the fragment asks"
    assert len({headers["I-Twilio-Idempotency-Token"] for _, _, headers in inbound}) == 1
    assert inbound[0][1]["Body"] == "Grüße & mehr = 1+1" and inbound[0][1]["MediaUrl0"] == "https://m.invalid/1"
    for path, form, headers in receiver_got + inbound:
        assert form["AccountSid"] == ACCOUNT and path == "/hook?a=1", path
        signature = headers[SIGNATURE_HEADER]
        assert get_signature_algorithm(headers[SIGNATURE_SETTINGS_HEADER]) == "HMAC_SHA1"
        assert own.validate(receiver.url, form, signature)
        assert not other.validate(receiver.url, form, signature)
        assert not own.validate(receiver.url + "&b=2", form, signature)
        assert not own.validate(receiver.url, {**form, "From": "+1"}, signature)
    assert all(form["MessageSid"] == made.sid for _, form, _ in receiver_got)


def shared_keys():
    receiver = hook()
    control("POST", "inbound", {"url": receiver.url})
    control("POST", "keys", {"shared_key": ["webhooks_sharedkey_1", "shared secret"]})
    control("POST", "receive", {"from": TO, "to": SENDER, "body": "hi"})
    [(_, form, headers)] = taken(receiver)
    control("POST", "keys", {"auth_token": TOKEN})
    algorithm = get_signature_algorithm(headers[SIGNATURE_SETTINGS_HEADER])
    signature = headers[SIGNATURE_HEADER]
    assert algorithm == "HMAC_SHA256", headers[SIGNATURE_SETTINGS_HEADER]
    assert RequestValidator("shared secret").validate(receiver.url, form, signature, algorithm)
    assert not RequestValidator("shared secret").validate(receiver.url, form, signature), "read as HMAC-SHA1"
    assert not RequestValidator(TOKEN).validate(receiver.url, form, signature, algorithm)


def forgeries():
    receiver = hook()
    control("POST", "inbound", {"url": receiver.url})
    control("POST", "faults", {"webhooks": {"forge": 1.0}})
    control("POST", "receive", {"from": TO, "to": SENDER, "body": "hi"})
    valid = [RequestValidator(TOKEN).validate(receiver.url, form, headers[SIGNATURE_HEADER]) for _, form, headers in taken(receiver)]
    control("POST", "faults", {"clear": True})
    control("POST", "inbound", {})
    assert sorted(valid) == [False, True], valid


for check in [messages, api_keys_and_services, pages, errors, limits, webhooks, shared_keys, forgeries]:
    try:
        check()
    except Exception as error:
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {check.__name__}")
