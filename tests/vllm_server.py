"""vLLM servers on the CPU: for the tests that need a real one, and to record what others replay.

make test-vllm                                            # builds .venv-vllm, `pytest -m vllm`
.venv/bin/python tests/vllm_server.py qwen2_5_vl-abstaining --port 8000   # until interrupted
.venv/bin/python tests/vllm_server.py --record            # writes tests/vllm_exchanges.json.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from focus.models.loading import embedded_path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
START_SECONDS = 300
#: Compiling takes longer than all tests; one core is enough for models of a million weights.
ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-num-seqs", "64"),
    *("--max-logprobs", "-1", "--enable-scale-out", "--enable-prompt-tokens-details"),
    *("--limit-mm-per-prompt", '{"image": 6, "video": 0}', "--enable-prefix-caching"),
)
#: Video processors that upstream processors want beside their images, of each model type.
VIDEO = {
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "internvl": "InternVLVideoProcessor",
}


def served_folder(model: str, folder: Path) -> Path:
    """A copy of an embedded model that says what upstream processors need to know."""
    shutil.copytree(embedded_path(model), folder, dirs_exist_ok=True)
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    images = settings["image_processor"]
    same = {k: v for k, v in images.items() if not k.startswith(("image_processor", "crop_to"))}
    same = {k: v for k, v in same.items() if k not in ("max_patches", "min_patches")}
    settings["video_processor"] = {**same, "video_processor_type": VIDEO[kind]}
    settings["processor_class"] = settings["processor_class"].replace("ImageProcessor", "Processor")
    path.write_text(json.dumps(settings, indent=2))
    return folder


@contextmanager
def serving(model: str, *options: str, port: int | None = None) -> Iterator[str]:
    """Base URL of a server of an embedded model, by its name, until the context is left."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = served_folder(model, Path(scratch) / model), Path(scratch) / "log.txt"
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder,
                   "--served-model-name", model, "--port", port, *OPTIONS, *options]  # fmt: skip
        with log.open("w") as output:
            server = subprocess.Popen(
                [str(each) for each in command], env={**os.environ, **ENVIRONMENT}, stdout=output,
                stderr=subprocess.STDOUT, cwd=scratch, start_new_session=True,
            )  # fmt: skip
        try:
            _wait(server, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, 15)
            server.wait(timeout=60)


def _wait(server: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vLLM did not start:\n{log.read_text()[-6000:]}") from None
            time.sleep(0.5)


def record() -> None:
    """Asks real servers all that the tests ask, and writes what they answer."""
    import test_vllm
    from vllm_stub import EVALUATED, MODELS, RECORDED, exchange_of, key_of

    from focus.engines import LocalEngine
    from focus.engines import serving as client

    post, found = client.Connection.post, {}

    async def listened(self: client.Connection, place: int, body: dict) -> dict:
        answer = await post(self, place, body)
        found.setdefault(self._servers.model, {}).setdefault(key_of(body), exchange_of(answer))
        return answer

    client.Connection.post = listened
    for model in MODELS:
        local = LocalEngine(test_vllm.loaded(model, weights=True))
        with serving(model) as url, tempfile.TemporaryDirectory() as scratch:
            engine = test_vllm.engine_of(test_vllm.loaded(model, weights=False), url, timeout=60)
            print(model, test_vllm.compare(engine, local), test_vllm.compare_scores(engine, local))
            if f"engine.model={model}" in EVALUATED:
                test_vllm.evaluate(Path(scratch), url)
        print(f"{len(found[model])} exchanges", flush=True)
    text = json.dumps(found, separators=(",", ":"), sort_keys=True)
    RECORDED.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{RECORDED.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="qwen2_5_vl-abstaining")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    if asked.record:
        record()
        raise SystemExit
    with serving(asked.model, port=asked.port) as url:
        print(f"{asked.model} on {url}", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
