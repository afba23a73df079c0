#!/usr/bin/env bash
# Version: tritonclient 2.66.0 (HTTP), Python 3.11.
# Expectation: `infer(..., headers=H)` leaves the caller's mapping H as it is, so that one H with the authorization serves
#   every call.
# Behaviour: it writes Inference-Header-Content-Length into H, as a number. A later call with H whose tensors are JSON
#   (binary_data=False) is sent with the length of the earlier one: by the protocol its JSON would end there.
# Output: "H after a call in bytes: ['Authorization', 'Inference-Header-Content-Length']",
#   "sent with the call in JSON: the length of the call before, of a body of another length".
# Exits 1 if that changes. Takes about half a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'tritonclient[http]==2.66.0' numpy >&2
cat >"$folder/headers.py" <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
from tritonclient import http as triton

LENGTH = "Inference-Header-Content-Length"
seen: list[tuple[str | None, int]] = []


class Server(BaseHTTPRequestHandler):
    """Notes the header and the length of each body, and answers the same."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen.append((self.headers[LENGTH], len(body)))
        answer = json.dumps({"model_name": "m", "outputs": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = triton.InferenceServerClient(f"127.0.0.1:{server.server_port}")
headers = {"Authorization": "Bearer key"}
for binary in (True, False):
    tensor = triton.InferInput("x", [64], "FP32")
    tensor.set_data_from_numpy(np.zeros(64, np.float32), binary_data=binary)
    client.infer("m", [tensor], headers=headers)
    if binary:
        print("H after a call in bytes:", sorted(headers))
        kept = sorted(headers) == ["Authorization", LENGTH]
(first, _), (second, size) = seen
stale = second == first and int(second or -1) != size
print("sent with the call in JSON:", "the length of the call before, of a body of another length" if stale else second)
sys.exit(not (kept and stale))
PY
"$folder/venv/bin/python" "$folder/headers.py"
