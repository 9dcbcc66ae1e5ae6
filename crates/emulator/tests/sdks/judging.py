"""What the judges in Python share: the emulator's controls, and a server of the product for its webhooks."""

import http.server
import json
import os
import threading
import time
import urllib.request

BASE = os.environ["BASE_URL"].rstrip("/")


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + "/_emulator/" + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


class Receiver:
    """A server of the product: keeps path, body and headers of what it is sent, and answers what it was told to."""

    def __init__(self, path="/hook"):
        self.got, self.answers = [], []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                owner.got.append((self.path, body.decode(), self.headers))
                self.send_response(owner.answers.pop(0) if owner.answers else 204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}{path}"

    def take(self):
        """Waits until the emulator has posted all it has, and takes what came."""
        for _ in range(400):
            if control("GET", "waiting")["deliveries"] == 0:
                break
            time.sleep(0.05)
        taken, self.got = self.got, []
        return taken
