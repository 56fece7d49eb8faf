"""`--pretrained` with and without `--download`: timm's weights from a server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

NAME, COMMIT = "resnet10t", "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves one file of one repository as huggingface.co does: its commit and hash in the headers."""

    contents = b""
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, whole: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        known = self.path == f"/timm/{NAME}.c3_in1k/resolve/main/model.safetensors"
        self.send_response(200 if known else 404)
        contents = self.contents if known else b""
        if known:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(contents).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        if whole:
            self.wfile.write(contents)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    torch.manual_seed(11)
    state = timm.create_model(NAME).state_dict()
    torch.save(state, tmp_path / "state.pth")
    handler = type("Handler", (Hub,), {"contents": save(state), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


SCRIPT = f"""
import dataclasses, sys
connections = []
watched = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, _: connections.append(event) if event in watched else None)
import torch
from fastclr.methods.encoders import build_encoder
from fastclr.methods.start import start
from fastclr.training.config import PretrainConfig
config = PretrainConfig(encoder={NAME!r}, stem="imagenet", pretrained=True)
encoder = build_encoder({NAME!r}, size=32, stem="imagenet")
try:
    start(encoder, config)
except FileNotFoundError as error:
    print("refused:", error)
print("connections:", len(connections))
print(start(encoder, config, download=True)[0])
state = torch.load(sys.argv[1], weights_only=True)
print("same:", all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items()))
asked = len(connections)
start(encoder, config)
print("again:", len(connections) - asked)
try:
    other = build_encoder("resnet14t", size=32, stem="imagenet")
    start(other, dataclasses.replace(config, encoder="resnet14t"), download=True)
except OSError as error:
    print("missing:", error)
"""


def test_weights_are_fetched_only_when_asked_for(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "hub")}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "state.pth")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith(f"refused: pretrained: the weights of timm's {NAME}.c3_in1k are not on this machine")
    assert said[1:4] == ["connections: 0", f"starting weights: timm's {NAME}.c3_in1k", "same: True"]
    assert said[4] == "again: 0"  # what was fetched lies in the cache
    assert said[5].startswith("missing: timm's resnet14t.c3_in1k could not be fetched from ") and "\n" not in said[5]
    asked = hub.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert asked[0].startswith("HEAD ") and f"GET /timm/{NAME}.c3_in1k/resolve/main/model.safetensors" in asked
