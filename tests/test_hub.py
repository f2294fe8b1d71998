"""Without a network the hub is asked once per process; switched off, never."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from focus import hub

ASK = """
import focus
from focus.benchmarks.mirb import MIRB
for action in (lambda: focus.load("Qwen/Qwen2.5-VL-7B-Instruct"), lambda: len(MIRB())) * 2:
    try:
        action()
    except focus.FocusError as error:
        print(error)
"""


@pytest.fixture
def refusing():
    """A port that hangs up on everybody, and the number of those who tried."""
    tries = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                # `huggingface_hub` looks up a list for its own user agent: not a try of ours.
                if b"/api/agent-harnesses" not in connection.recv(400):
                    tries.append(1)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield server.getsockname()[1], tries


def test_models_and_data_sets_ask_once_together(refusing, tmp_path):
    port, tries = refusing
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("connect to the network once") == 2
    assert done.stdout.count("the hub cannot be reached") == 2
    assert len(tries) == 1


def test_switched_off_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("asked the hub"))
    assert not hub.hub_answers.__wrapped__()
