"""Drives the official Python SDK (sendgrid 6.12), unpatched, against a running emulator.

BASE_URL=http://127.0.0.1:PORT API_KEY=SG.… PUBLIC_KEY=… python3 sendgrid_python.py
Prints one line per check; exits with 1 at the first that fails.
"""

import base64
import json
import os
import sys
import time

from python_http_client import exceptions
from sendgrid import SendGridAPIClient
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.eventwebhook.eventwebhook_header import EventWebhookHeader
from sendgrid.helpers.mail import (
    Attachment, Category, Content, CustomArg, Disposition, FileContent, FileName, FileType, Mail, MailSettings,
    Personalization, SandBoxMode, To,
)

sys.dont_write_bytecode = True
from judging import BASE, Receiver, control  # noqa: E402

KEY, PUBLIC = os.environ["API_KEY"], os.environ["PUBLIC_KEY"]
LISTS = ["bounces", "blocks", "spam_reports", "unsubscribes", "invalid_emails"]


def api(key=KEY, **options):
    return SendGridAPIClient(key, host=BASE, **options)


def refused(kind, work, field=None):
    try:
        work()
    except exceptions.HTTPError as error:
        assert type(error) is kind, (type(error).__name__, error.body)
        if kind not in (exceptions.PayloadTooLargeError, exceptions.ServiceUnavailableError):
            assert error.to_dict["errors"][0]["field"] == field, error.to_dict
        return error
    raise AssertionError(f"expected {kind.__name__}")


def simple(to="b@example.com"):
    return Mail(from_email="a@example.com", to_emails=to, subject="s", plain_text_content="t")


def mail():
    answer = api().send(simple())
    assert answer.status_code == 202 and answer.body == b"" and answer.headers["X-Message-Id"], answer.headers
    rich = Mail(from_email=("a@example.com", "Ada"), subject="Grüße")
    for name in ["b", "c"]:
        one = Personalization()
        one.add_to(To(f"{name}@example.com", name))
        one.dynamic_template_data = {"name": name}
        rich.add_personalization(one)
    rich.add_content(Content("text/plain", "t"))
    rich.add_content(Content("text/html", "<b>t</b>"))
    rich.template_id = "d-0123456789abcdef0123456789abcdef"
    rich.attachment = Attachment(
        FileContent(base64.b64encode(b"%PDF-\0\xff").decode()), FileName("a.pdf"), FileType("application/pdf"),
        Disposition("attachment"),
    )
    rich.add_category(Category("orders"))
    rich.add_custom_arg(CustomArg("order", "17"))
    sent = api().send(rich)
    stored = control("GET", "mails")[-1]
    assert stored["id"] == sent.headers["X-Message-Id"]
    assert stored["body"]["attachments"][0]["content"] == "JVBERi0A/w==", stored["body"]["attachments"]
    people = sorted(one["to"][0]["email"] for one in stored["body"]["personalizations"])
    assert people == ["b@example.com", "c@example.com"], people
    found = api().client.messages.get(query_params={"query": "unique_args['order']=\"17\"", "limit": 10})
    assert {one["to_email"] for one in found.to_dict["messages"]} == {"b@example.com", "c@example.com"}
    before = len(control("GET", "mails"))
    checked = simple()
    checked.mail_settings = MailSettings(sandbox_mode=SandBoxMode(True))
    assert api().send(checked).status_code == 200 and len(control("GET", "mails")) == before


def errors():
    refused(exceptions.UnauthorizedError, lambda: api("SG.wrong").send(simple()))
    refused(exceptions.ForbiddenError, lambda: api(impersonate_subuser="nobody").send(simple()))
    refused(exceptions.NotFoundError, lambda: api().client.nothing.get())
    wrong = simple().get()
    del wrong["subject"]
    refused(exceptions.BadRequestsError, lambda: api().send(wrong), "subject")
    wrong = simple().get()
    wrong["from"]["email"] = "nobody"
    said = refused(exceptions.BadRequestsError, lambda: api().send(wrong), "from.email")
    assert "valid address" in said.to_dict["errors"][0]["message"]
    wrong = simple().get()
    wrong["personalizations"] = [{"to": [{"email": f"p{at}@example.com"} for at in range(1001)]}]
    refused(exceptions.BadRequestsError, lambda: api().send(wrong), "personalizations")
    faults = [{"status": 413}, {"status": 500}, {"status": 503}, {"throttle": {"seconds": 1}}]
    control("POST", "faults", {"next": [{"route": "POST /v3/mail/send", "faults": faults}]})
    refused(exceptions.PayloadTooLargeError, lambda: api().send(simple()))
    refused(exceptions.InternalServerError, lambda: api().send(simple()))
    refused(exceptions.ServiceUnavailableError, lambda: api().send(simple()))
    throttled = refused(exceptions.TooManyRequestsError, lambda: api().send(simple()))
    assert throttled.headers["Retry-After"] == "1"


def lists():
    for name in LISTS:
        control("POST", "populate", {"list": name, "addresses": 23})
        place = getattr(api().client.suppression, name)
        rows = []
        while True:
            page = place.get(query_params={"limit": 7, "offset": len(rows)}).to_dict
            rows += page
            if len(page) < 7:
                break
        emails = [row["email"] for row in rows]
        assert len(set(emails)) == len(emails) == 23, (name, len(emails))
        later = place.get(query_params={"start_time": rows[20]["created"]}).to_dict
        assert [row["email"] for row in later] == emails[20:], name
        if name == "unsubscribes":
            one = getattr(api().client.asm.suppressions, "global")._(emails[0])
            assert one.get().to_dict == {"recipient_email": emails[0]}
        else:
            one = place._(emails[0])
            assert one.get().to_dict[0]["email"] == emails[0]
        assert one.delete().status_code == 204
        refused(exceptions.NotFoundError, lambda: one.delete())
    bounces = api().client.suppression.bounces
    assert bounces.delete(request_body={"delete_all": True}).status_code == 204
    assert bounces.get().to_dict == []
    added = getattr(api().client.asm.suppressions, "global").post(request_body={"recipient_emails": ["u@example.com"]})
    assert added.status_code == 201 and "mail.send" in api().client.scopes.get().to_dict["scopes"]


def limits():
    control("POST", "limits", {"requests": 3, "period": {"secs": 3600, "nanos": 0}})
    for left in [2, 1, 0]:
        headers = api().client.scopes.get().headers
        assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("3", str(left)), headers
        assert 0 < int(headers["X-RateLimit-Reset"]) - time.time() <= 3601
    over = refused(exceptions.TooManyRequestsError, lambda: api().client.scopes.get())
    assert over.to_dict["errors"][0]["message"] == "too many requests" and over.headers["X-RateLimit-Remaining"] == "0"
    control("POST", "limits", {})
    api().client.scopes.get()


def verifies(body, headers):
    signature, timestamp = headers[EventWebhookHeader.SIGNATURE], headers[EventWebhookHeader.TIMESTAMP]
    return EventWebhook(PUBLIC).verify_signature(body, signature, timestamp)


def events():
    shown = api().client.user.webhooks.event.settings.signed.get().to_dict
    assert shown["public_key"] == PUBLIC
    receiver = Receiver()
    control("POST", "endpoints", {"event_url": receiver.url})
    receiver.answers = [500]
    recipients = ["new@example.com", "bounce+1@example.com", "click@example.com"]
    sent = [api().send(simple(to)).headers["X-Message-Id"] for to in recipients]
    got = [(body, headers) for _, body, headers in receiver.take()]
    assert len(got) == 4 and all(verifies(body, headers) for body, headers in got), "one was tried again, signed anew"
    assert all(body.endswith("\r\n") for body, _ in got)
    told = {}
    for body, _ in got:
        for event in json.loads(body):
            told[event["sg_event_id"]] = (event["email"], event["event"], event["sg_message_id"])
    assert sorted(told.values())[0][:2] == ("bounce+1@example.com", "bounce"), told
    assert len(told) == 2 + 2 + 3 and {kind for _, kind, _ in told.values()} == {"processed", "delivered", "bounce", "click"}
    assert all(any(of.startswith(id) for id in sent) for _, _, of in told.values())
    body, headers = got[0]
    assert not verifies(body.rstrip(), headers) and not verifies(body.replace("example", "exbmple"), headers)
    control("POST", "faults", {"webhooks": {"forge": 1.0}})
    api().send(simple("new@example.com"))
    valid = [verifies(body, headers) for _, body, headers in receiver.take()]
    control("POST", "faults", {"clear": True})
    assert sorted(valid) == [False, True], valid


def inbound():
    receiver = Receiver()
    written = {"from": "a@example.com", "to": "in@example.com", "subject": "Grüße", "text": "t", "attachments": [["a.txt", "text/plain", "inside"]]}
    for signed in [True, False]:
        control("POST", "endpoints", {"inbound_url": receiver.url, "inbound_signed": signed})
        control("POST", "inbound", written)
        [(_, body, headers)] = receiver.take()
        assert headers["content-type"].startswith("multipart/form-data; boundary=") and "Grüße" in body and "inside" in body
        assert (EventWebhookHeader.SIGNATURE in headers) == signed
        assert not signed or verifies(body, headers)
    control("POST", "endpoints", {})


for check in [mail, errors, lists, limits, events, inbound]:
    try:
        check()
    except Exception as error:
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {check.__name__}")
