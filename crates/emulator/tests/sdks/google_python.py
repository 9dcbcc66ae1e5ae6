"""Drives Google's own Python libraries (google-auth 2.62), unpatched, against a running emulator.

BASE_URL=http://127.0.0.1:PORT CLIENT_ID=… CLIENT_SECRET=… SERVICE_ACCOUNT='{…}' python3 google_python.py
Prints one line per check; exits with 1 at the first that fails.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

import google.auth.exceptions
import google.auth.transport.requests
from google.oauth2 import credentials, id_token, service_account

BASE = os.environ["BASE_URL"].rstrip("/")
ID, SECRET = os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
KEY = json.loads(os.environ["SERVICE_ACCOUNT"])
BACK = "http://127.0.0.1:9/google/callback"
MAIL = "https://www.googleapis.com/auth/gmail.send"
HTTP = google.auth.transport.requests.Request()


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + "/_emulator/" + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def connected(scope=f"openid email {MAIL}"):
    control("POST", "oauth", {
        "client": {"id": ID, "secret": SECRET, "name": "SDK", "redirect_uris": [BACK]}, "dials": {"consent": "allow"},
    })
    query = urllib.parse.urlencode({
        "client_id": ID, "redirect_uri": BACK, "response_type": "code", "scope": scope, "access_type": "offline",
        "prompt": "consent", "state": "s",
    })
    try:
        urllib.request.build_opener(NoRedirect).open(f"{BASE}/o/oauth2/v2/auth?{query}")
        raise AssertionError("expected a redirect")
    except urllib.error.HTTPError as answer:
        back = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(answer.headers["location"]).query))
    assert back["iss"] == "https://accounts.google.com", back
    form = {
        "grant_type": "authorization_code", "code": back["code"], "client_id": ID, "client_secret": SECRET,
        "redirect_uri": BACK,
    }
    with urllib.request.urlopen(BASE + "/token", urllib.parse.urlencode(form).encode()) as answer:
        return json.load(answer)


def userinfo(token):
    request = urllib.request.Request(BASE + "/oauth2/v3/userinfo", headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def raises(work):
    try:
        work()
    except google.auth.exceptions.RefreshError as error:
        return error
    raise AssertionError("expected a RefreshError")


def user(reply, **more):
    return credentials.Credentials(
        None, refresh_token=reply["refresh_token"], token_uri=BASE + "/token", client_id=ID, client_secret=SECRET, **more
    )


def refresh():
    held = user(connected())
    held.refresh(HTTP)
    assert held.valid and userinfo(held.token)["email"] == "ada@example.com"
    narrow = user(connected(), scopes=[MAIL])
    narrow.refresh(HTTP)
    assert narrow.granted_scopes == [MAIL], narrow.granted_scopes


def dead_grants():
    reply = connected()
    held = user(reply)
    control("POST", "oauth", {"revoke_all": True})
    error = raises(lambda: held.refresh(HTTP))
    assert "invalid_grant" in str(error) and not error.retryable, error
    again = user(connected())
    control("POST", "faults", {"next": [{"route": "POST /token", "faults": [{"status": 503}]}]})
    again.refresh(HTTP)
    assert again.valid, "a 503 is tried again"


def identity():
    reply = connected()
    claims = id_token.verify_token(reply["id_token"], HTTP, ID, certs_url=BASE + "/oauth2/v1/certs")
    assert claims["email"] == "ada@example.com" and claims["iss"] == "https://accounts.google.com", claims
    try:
        id_token.verify_token(reply["id_token"], HTTP, "another app", certs_url=BASE + "/oauth2/v1/certs")
        raise AssertionError("another audience must not pass")
    except google.auth.exceptions.GoogleAuthError:
        pass


def service_accounts():
    held = service_account.Credentials.from_service_account_info(KEY, scopes=[MAIL])
    held.refresh(HTTP)
    assert userinfo(held.token)["sub"] == KEY["client_email"]
    error = raises(lambda: held.with_subject("ada@example.com").refresh(HTTP))
    assert "unauthorized_client" in str(error), "nobody delegated anything"
    own = held.with_always_use_jwt_access(True)
    own._create_self_signed_jwt("https://gmail.googleapis.com/")
    own.refresh(HTTP)
    assert userinfo(own.token)["email"] == KEY["client_email"], "self-signed, no token endpoint"


for check in [refresh, dead_grants, identity, service_accounts]:
    try:
        check()
    except Exception as error:
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {check.__name__}")
