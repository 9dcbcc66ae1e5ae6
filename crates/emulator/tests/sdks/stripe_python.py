"""Drives the official Python SDK (stripe 16.x), unpatched, against a running emulator.

BASE_URL=http://127.0.0.1:PORT API_KEY=sk_test_emulator python3 stripe_python.py
Prints one line per check; exits with 1 at the first that fails.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

import stripe

BASE = os.environ["BASE_URL"].rstrip("/")
KEY = os.environ["API_KEY"]
OLD = "2024-06-20"


def client(**options):
    options.setdefault("max_network_retries", 0)
    return stripe.StripeClient(KEY, base_addresses={"api": BASE}, **options)


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + "/_emulator/" + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def raises(kind, work):
    try:
        work()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


def shop(api):
    product = api.v1.products.create({"name": "Tea"})
    price = api.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 900, "recurring": {"interval": "month"}}
    )
    return api.v1.customers.create({"email": "ada@example.com"}), price


def customers():
    api = client()
    made = api.v1.customers.create({"email": "a@example.com", "name": "Ada", "metadata": {"k": "v"}})
    assert made.metadata["k"] == "v" and made.id.startswith("cus_")
    assert api.v1.customers.retrieve(made.id).email == "a@example.com"
    changed = api.v1.customers.update(made.id, {"name": "", "metadata": {"n": "1"}})
    assert changed.name is None and changed.metadata["k"] == "v" and changed.metadata["n"] == "1"
    assert api.v1.customers.delete(made.id).deleted is True
    assert api.v1.customers.retrieve(made.id).deleted is True
    error = raises(stripe.InvalidRequestError, lambda: api.v1.customers.retrieve("cus_nobody"))
    assert error.http_status == 404 and error.code == "resource_missing", error


def auto_pagination():
    control("POST", "populate", {"customers": 250, "products": 2, "prices": 4, "subscriptions": 5, "invoices": 7, "charges": 3})
    api = client()
    seen = [customer.id for customer in api.v1.customers.list({"limit": 100}).auto_paging_iter()]
    assert len(seen) == len(set(seen)) >= 250, len(seen)
    back = list(api.v1.customers.list({"limit": 50, "ending_before": seen[-1]}).auto_paging_iter())
    assert [customer.id for customer in back] == list(reversed(seen[:-1]))


def subscription_new():
    api = client()
    customer, price = shop(api)
    made = api.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "payment_behavior": "default_incomplete",
            "payment_settings": {"save_default_payment_method": "on_subscription"},
            "expand": ["latest_invoice.confirmation_secret", "pending_setup_intent"],
        }
    )
    assert made.status == "incomplete"
    assert made.latest_invoice.confirmation_secret.client_secret.startswith("pi_")
    assert made["items"].data[0].current_period_end > made["items"].data[0].current_period_start
    return made


def subscription_old():
    api = client(stripe_version=OLD)
    customer, price = shop(api)
    made = api.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "payment_behavior": "default_incomplete",
            "expand": ["latest_invoice.payment_intent"],
        }
    )
    assert made.latest_invoice["payment_intent"]["client_secret"]
    assert made["current_period_end"] > made["current_period_start"]
    error = raises(
        stripe.InvalidRequestError,
        lambda: client().v1.subscriptions.retrieve(made.id, {"expand": ["latest_invoice.payment_intent"]}),
    )
    assert error.http_status == 400


def cancel_at_period_end():
    api = client()
    made = subscription_new()
    assert api.v1.subscriptions.update(made.id, {"cancel_at_period_end": True}).cancel_at is not None
    assert api.v1.subscriptions.update(made.id, {"cancel_at_period_end": False}).cancel_at is None
    assert api.v1.subscriptions.cancel(made.id).status == "canceled"
    assert made.id not in [item.id for item in api.v1.subscriptions.list({"limit": 100}).data]
    assert made.id in [item.id for item in api.v1.subscriptions.list({"limit": 100, "status": "all"}).data]


def pay(api, method, **options):
    form = {"amount": 900, "currency": "usd", "confirm": True, "payment_method": method}
    return api.v1.payment_intents.create(form, options)


def refund():
    api = client()
    intent = pay(api, "pm_card_visa")
    assert api.v1.refunds.create({"payment_intent": intent.id, "amount": 300}).status == "succeeded"
    error = raises(stripe.InvalidRequestError, lambda: api.v1.refunds.create({"charge": intent.latest_charge, "amount": 700}))
    assert error.code == "charge_already_refunded"
    assert api.v1.charges.retrieve(intent.latest_charge, {"expand": ["refunds"]}).refunds.data[0].amount == 300


def card_error():
    error = raises(stripe.CardError, lambda: pay(client(), "pm_card_chargeDeclinedInsufficientFunds"))
    assert (error.http_status, error.code, error.error.decline_code) == (402, "card_declined", "insufficient_funds")
    assert error.error.payment_intent.status == "requires_payment_method"
    assert error.user_message == "Your card has insufficient funds."


def checkout():
    api = client()
    _, price = shop(api)
    session = api.v1.checkout.sessions.create(
        {"mode": "payment", "line_items": [{"price": price.id, "quantity": 1}], "success_url": "https://example.com/ok"}
    )
    assert session.status == "open" and session.url
    control("POST", "mutate", {"story": "complete_checkout", "id": session.id})
    assert api.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"


def events():
    api = client()
    customer = api.v1.customers.create({"name": "x"})
    api.v1.customers.update(customer.id, {"name": "y"})
    newest = api.v1.events.list({"types": ["customer.created", "customer.updated"], "limit": 2}).data
    assert [event.type for event in newest] == ["customer.updated", "customer.created"]
    assert newest[0].data.previous_attributes["name"] == "x"
    assert newest[0].request.idempotency_key
    newer = api.v1.events.list({"ending_before": newest[1].id})
    assert [event.id for event in newer.data] == [newest[0].id]


def idempotency():
    api = client()
    first = api.v1.customers.create({"name": "x"}, {"idempotency_key": "python-1"})
    again = api.v1.customers.create({"name": "x"}, {"idempotency_key": "python-1"})
    assert first.id == again.id and again.last_response.headers["Idempotent-Replayed"] == "true"
    error = raises(
        stripe.IdempotencyError, lambda: api.v1.customers.create({"name": "z"}, {"idempotency_key": "python-1"})
    )
    assert error.http_status == 400


def rate_limit():
    control("POST", "faults", {"next": [{"route": "GET /v1/customers", "faults": [{"throttle": {"seconds": 1}}]}]})
    error = raises(stripe.RateLimitError, lambda: client().v1.customers.list())
    assert error.http_status == 429 and error.headers["Retry-After"] == "1"


def retries_on_500_do_not_double():
    api = client(max_network_retries=2)
    control("POST", "faults", {"next": [{"route": "POST /v1/customers", "faults": ["reset_after", {"status": 503}]}]})
    made = api.v1.customers.create({"email": "retry-python@example.com"})
    found = api.v1.customers.list({"email": "retry-python@example.com"}).data
    assert [customer.id for customer in found] == [made.id]


def credentials():
    bad = stripe.StripeClient("sk_test_wrong", base_addresses={"api": BASE}, max_network_retries=0)
    assert raises(stripe.AuthenticationError, lambda: bad.v1.customers.list()).http_status == 401
    error = raises(stripe.PermissionError, lambda: client().v1.customers.list({}, {"stripe_account": "acct_nobody"}))
    assert error.error.code == "account_invalid"
    client().v1.customers.list({}, {"stripe_account": "acct_connected"})


def webhooks():
    endpoint = control("POST", "webhook_endpoints", {"url": "http://127.0.0.1:9/", "secret": "whsec_python"})
    made = client().v1.customers.create({"name": "Zoë", "description": "line\nbreak"})
    event = client().v1.events.list({"limit": 1}).data[0]
    signed = control("GET", f"signed?endpoint={endpoint['id']}&event={event.id}")
    parsed = stripe.Webhook.construct_event(signed["body"], signed["header"], "whsec_python")
    assert parsed.data.object.id == made.id
    raises(
        stripe.SignatureVerificationError,
        lambda: stripe.Webhook.construct_event(json.dumps(json.loads(signed["body"])), signed["header"], "whsec_python"),
    )
    client().v1.webhook_endpoints.delete(endpoint["id"])


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def connect():
    place, back = "ca_emulator", "http://127.0.0.1:9/stripe/callback"
    control("POST", "oauth", {
        "client": {"id": place, "secret": KEY, "name": "SDK", "redirect_uris": [back]}, "dials": {"consent": "allow"},
    })
    api = stripe.StripeClient(KEY, client_id=place, base_addresses={"api": BASE, "connect": BASE}, max_network_retries=0)
    ask = api.oauth.authorize_url({"redirect_uri": back, "scope": "read_write", "state": "s"})
    try:
        urllib.request.build_opener(NoRedirect).open(ask)
        raise AssertionError("expected a redirect")
    except urllib.error.HTTPError as answer:
        code = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(answer.headers["location"]).query))["code"]
    made = api.oauth.token({"grant_type": "authorization_code", "code": code})
    assert made.stripe_user_id.startswith("acct_") and made.scope == "read_write", made
    error = raises(
        stripe.oauth_error.InvalidGrantError,
        lambda: api.oauth.token({"grant_type": "authorization_code", "code": "ac_bad"}),
    )
    assert (error.code, error.http_status) == ("invalid_grant", 400), error
    assert api.oauth.deauthorize({"stripe_user_id": made.stripe_user_id}).stripe_user_id == made.stripe_user_id
    raises(stripe.oauth_error.InvalidClientError, lambda: api.oauth.deauthorize({"stripe_user_id": made.stripe_user_id}))


def thin_events():
    api = client()
    made = api.v2.core.event_destinations.create({
        "name": "SDK", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": ["v1.customer.updated"],
        "webhook_endpoint": {"url": "http://127.0.0.1:9/"}, "include": ["webhook_endpoint.signing_secret"],
    })
    secret = made.webhook_endpoint.signing_secret
    customer = api.v1.customers.create({"name": "x"})
    api.v1.customers.update(customer.id, {"name": "y"})
    snapshot = api.v1.events.list({"types": ["customer.updated"], "limit": 1}).data[0]
    signed = control("GET", f"signed?endpoint={made.id}&event={snapshot.id}")
    notice = api.parse_event_notification(signed["body"], signed["header"], secret)
    assert type(notice).__name__ == "V1CustomerUpdatedEventNotification" and notice.related_object.id == customer.id
    raises(
        stripe.SignatureVerificationError,
        lambda: api.parse_event_notification(signed["body"] + " ", signed["header"], secret),
    )
    event = notice.fetch_event()
    assert event.snapshot_event == snapshot.id and event.changes["before"]["name"] == "x", event
    assert notice.fetch_related_object().name == "y"
    assert api.v2.core.events.retrieve(notice.id).type == "v1.customer.updated"
    assert raises(stripe.InvalidRequestError, lambda: api.v2.core.events.retrieve("evt_test_none")).http_status == 404
    raises(stripe.InvalidRequestError, lambda: api.v2.core.event_destinations.create({"name": "x"}))


def search():
    api = client()
    api.v1.customers.create({"email": "needle@example.com", "metadata": {"shelf": "7"}})
    assert api.v1.customers.search({"query": "email:'needle@example.com'"}).data[0].email == "needle@example.com"
    found = list(api.v1.customers.search({"query": 'metadata["shelf"]:"7"'}).auto_paging_iter())
    assert found[0].metadata["shelf"] == "7"


def invoices():
    api = client()
    customer, _ = shop(api)
    invoice = api.v1.invoices.create({"customer": customer.id})
    api.v1.invoice_items.create({"customer": customer.id, "invoice": invoice.id, "amount": 500, "currency": "usd"})
    assert api.v1.invoices.finalize_invoice(invoice.id).amount_due == 500
    assert api.v1.invoices.pay(invoice.id, {"payment_method": "pm_card_visa"}).status == "paid"


CHECKS = [
    customers, auto_pagination, subscription_new, subscription_old, cancel_at_period_end, refund, card_error, checkout,
    events, idempotency, rate_limit, retries_on_500_do_not_double, credentials, webhooks, connect, thin_events, search,
    invoices,
]

for check in CHECKS:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - every failure is reported the same way
        print(f"FAIL {check.__name__}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {check.__name__}")
