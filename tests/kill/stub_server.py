"""A user's server that is light enough to run fifty of: proves its session and says which server it is. No Jupyter.

It stands in for `jupyterhub.singleuser` in the job; everything before and around it is the product's.
"""

from __future__ import annotations

from pathlib import Path

SERVER = """
import hmac, json, os, signal, socketserver, sys
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
folder = os.environ["PYTHONPATH"].split(os.pathsep)[0]
with open(os.path.join(folder, "farlab-secrets.json")) as file:
    key = bytes.fromhex(json.load(file)["proof_key"])
url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        asked = urlsplit(self.path)
        said = {"server": url.path, "pid": os.getpid()}
        if asked.path.endswith("/farlab/proof"):
            challenge = bytes.fromhex(parse_qs(asked.query)["challenge"][0])
            said["proof"] = hmac.new(key, challenge, "sha256").hexdigest()
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

try:
    server = Server((url.hostname, url.port), Handler)
except OSError:
    sys.exit(1)
server.serve_forever()
"""


def install(folder: Path) -> Path:
    """Puts the stub into a folder; what a job must have in `PYTHONPATH` to run it."""
    package = folder / "stub" / "jupyterhub"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "singleuser.py").write_text(SERVER)
    return package.parent
