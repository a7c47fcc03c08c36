"""A small `jupyterhub.singleuser` for jobs in tests: proves its key, and ends when told. Omits Jupyter altogether.

`STAND_IN` in its environment says how it behaves: `serve`, `fail`, `hang` (never listens), `foreign` (listens, proves
nothing) or `quit` (serves one proof, then ends well).
"""

from __future__ import annotations

from pathlib import Path

SERVER = """
import hmac, json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

how = os.environ.get("STAND_IN", "serve")
signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), os._exit(0)))
print("stand-in:", how, file=sys.stderr, flush=True)
if how == "fail":
    print("no such module: torch", file=sys.stderr, flush=True)
    sys.exit(3)
while how == "hang":
    time.sleep(60)
folder = os.environ["PYTHONPATH"].split(os.pathsep)[0]
with open(os.path.join(folder, "farlab-secrets.json")) as file:
    key = bytes.fromhex(json.load(file)["proof_key"])
url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        challenge = bytes.fromhex(parse_qs(urlsplit(self.path).query)["challenge"][0])
        proof = "0" * 64 if how == "foreign" else hmac.new(key, challenge, "sha256").hexdigest()
        body = json.dumps({"proof": proof, "cwd": os.getcwd(), "path": urlsplit(self.path).path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if how == "quit":
            threading.Timer(0.3, os._exit, [0]).start()
    def log_message(self, *_):
        pass

try:
    server = ThreadingHTTPServer((url.hostname, url.port), Handler)
except OSError:
    sys.exit(1)
server.serve_forever()
"""


def install(folder: Path) -> str:
    """Puts the stand-in into a folder; what a job must have in `PYTHONPATH` to run it."""
    package = folder / "stand-in" / "jupyterhub"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "singleuser.py").write_text(SERVER)
    return str(package.parent)
