"""Judges what a hub forwards with the official library of Standard Webhooks for Python, as a receiver uses it.

HUB=http://127.0.0.1:PORT TOKEN=… python3 forwarded.py
Prints one line per check; exits with 1 at the first that fails.
"""

import http.server
import json
import os
import threading
import urllib.error
import urllib.request

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

HUB, TOKEN = os.environ["HUB"].rstrip("/"), os.environ["TOKEN"]
came = []


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        came.append((body, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{HUB}/api/v1/destinations{path}", data=data, method=method)
    request.add_header("authorization", f"Bearer {TOKEN}")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def verifies(secret, body, headers):
    try:
        return Webhook(secret).verify(body, headers)["type"] == "palisade.test"
    except WebhookVerificationError:
        return False


def check(name, holds):
    if not holds:
        raise SystemExit(f"FAILED {name}")
    print("ok", name, flush=True)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/hooks"

status, answer = ask("POST", "", {"name": "judged", "url": url})
check("an address of this machine is refused unless it is allowed", status == 400)
status, answer = ask("POST", "", {"name": "judged", "url": url, "allow_private": True, "allow_http": True})
check("a destination is made and its secret shown", status == 201 and answer["secret"].startswith("whsec_"))
old = answer["secret"]
check("a trial arrives", ask("POST", "/judged/test")[1]["delivered"])
body, headers = came.pop()
check("the library verifies what is forwarded", verifies(old, body, headers))
check("and not when the body was changed", not verifies(old, body + b" ", headers))
check("nor under another id", not verifies(old, body, {**headers, "webhook-id": "msg_other"}))
status, answer = ask("POST", "/judged/rotate")
new = answer["secret"]
check("a key is replaced by another one", status == 200 and new != old)
check("a trial arrives after that", ask("POST", "/judged/test")[1]["delivered"])
body, headers = came.pop()
check("the old key verifies while they overlap", verifies(old, body, headers))
check("and so does the new one", verifies(new, body, headers))
check("no credential goes along", "authorization" not in headers and TOKEN not in str(headers))
check("it is removed", ask("DELETE", "/judged")[0] == 200)
