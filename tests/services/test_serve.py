"""The serving process: its first words, its end, its owner's rights, models that are missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from mien.kit.errors import ModelError, Unavailable
from mien.runtime.fetch import told
from mien.runtime.owner import find_owner
from mien.runtime.settings import get_settings
from tests.photos import photo
from tests.services.serving import Serving


def mien(*arguments: str, data_dir: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the real CLI."""
    return subprocess.run(
        [sys.executable, "-m", "mien", *arguments],
        env={**os.environ, "MIEN_OFFLINE": "true", "MIEN_DATA_DIR": str(data_dir), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_key_is_shown_at_the_first_start_only(tmp_path: Path) -> None:
    # A command before it makes the folder, and no key: what commands print may end in a log.
    assert "mien_" not in mien("collections", "list", data_dir=tmp_path / "data").stderr
    with Serving(tmp_path / "data") as first:
        said = first.log.read_text()
        keys = [word for word in said.split() if word.startswith("mien_")]
        assert len(keys) == 1
        with first.tcp(keys[0]) as client:
            assert client.get("/v1/tenants/me").json()["role"] == "system_admin"
        assert first.stop() == 0
        first.log.write_text("")
    with Serving(tmp_path / "data") as second:
        assert "mien_" not in second.log.read_text()
        with second.tcp(keys[0]) as client:
            assert client.get("/v1/collections").status_code == 200
        # The text of the key is nowhere on the disk.
        for path in (tmp_path / "data").rglob("*"):
            assert path.is_dir() or path.is_socket() or keys[0].encode() not in path.read_bytes()


def test_sigterm_finishes_what_is_in_hand_and_exits_with_0(tmp_path: Path) -> None:
    with Serving(tmp_path / "data") as serving, serving.tcp(serving.new_key()) as client:
        assert client.post("/v1/collections", json={"name": "late"}).status_code == 201
        body = photo("six_faces").read_bytes()
        sent = threading.Event()
        answers: list[httpx.Response] = []

        def slowly() -> None:
            def chunks() -> object:
                yield body[:1000]
                sent.set()
                assert gone.wait(30)
                yield body[1000:]

            answers.append(
                client.post(
                    "/v1/collections/late/faces",
                    content=chunks(),  # type: ignore[arg-type]
                    headers={"Content-Type": "image/jpeg"},
                )
            )

        gone = threading.Event()
        thread = threading.Thread(target=slowly)
        thread.start()
        assert sent.wait(30)
        serving.process.send_signal(signal.SIGTERM)
        # It accepts nobody new ...
        while True:
            try:
                httpx.get(f"{serving.url}/healthz", trust_env=False)
            except httpx.TransportError:
                break
        # ... and still answers who was there.
        gone.set()
        thread.join(60)
        assert answers[0].status_code == 201
        assert serving.process.wait(60) == 0
        assert find_owner(tmp_path / "data") is None
        assert not (tmp_path / "data" / "mien.sock").exists()
    with Serving(tmp_path / "data") as again, again.local() as client:
        assert client.get("/v1/collections/late").json()["face_count"] == 6


def test_a_second_server_is_refused_with_the_pid(serving: Serving) -> None:
    refused = mien("serve", "--port", "0", data_dir=serving.data_dir)
    assert refused.returncode == 4
    assert str(serving.process.pid) in refused.stderr
    assert "MIEN_DATA_DIR" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_taken_port_is_said(serving: Serving, tmp_path: Path) -> None:
    port = serving.url.rsplit(":", 1)[1]
    refused = mien("serve", "--port", port, data_dir=tmp_path / "other")
    assert refused.returncode == 4
    assert f"Port {port}" in refused.stderr
    assert find_owner(tmp_path / "other") is None


def test_who_may_not_read_the_folder_may_not_use_the_socket(serving: Serving) -> None:
    assert stat.S_IMODE(serving.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(serving.data_dir.stat().st_mode) & 0o077 == 0 or os.environ.get("CI")
    assert stat.S_IMODE((serving.data_dir / "owner.lock").stat().st_mode) == 0o600


def test_without_models_it_serves_and_says_what_is_missing(tmp_path: Path) -> None:
    with Serving(tmp_path / "data", MIEN_MODELS_DIR=str(tmp_path / "models")) as serving:
        with serving.local() as client:
            assert client.get("/healthz").status_code == 200
            answer = client.get("/readyz")
            assert answer.status_code == 503
            assert "yunet" in answer.json()["missing"]["models"]
            assert "retry-after" in answer.headers
            answer = client.post("/v1/detect", files={"file": photo("astronaut").read_bytes()})
            assert answer.status_code == 503
            assert "mien models import" in answer.json()["detail"]
            assert client.post("/v1/collections", json={"name": "early"}).status_code == 201
        status = mien(
            "status", "--json", data_dir=tmp_path / "data", MIEN_MODELS_DIR=str(tmp_path / "models")
        )
        assert status.returncode == 4
        assert json.loads(status.stdout)["server"]["ready"] is False
        assert serving.stop() == 0


def test_a_damaged_database_is_said_without_a_stack(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mien.db").write_bytes(b"this is no database" * 1000)
    refused = mien("serve", "--port", "0", data_dir=tmp_path / "data")
    assert refused.returncode in (4, 5)
    assert "Traceback" not in refused.stderr
    assert find_owner(tmp_path / "data") is None


def test_metrics_tell_about_requests_pipelines_and_jobs(serving: Serving) -> None:
    with serving.local() as client:
        client.post("/v1/detect", files={"file": photo("astronaut").read_bytes()})
        page = client.get("/metrics").text
    for name in (
        'mien_http_requests_total{method="POST",route="/v1/detect",status="200"}',
        'mien_http_request_seconds_bucket{le="0.05",method="POST",route="/v1/detect"}',
        "mien_pipeline_capacity ",
        "mien_pipeline_done_total ",
        "mien_analysis_cache_entries ",
        'mien_jobs{state="queued"}',
    ):
        assert name in page, name


def test_an_attribute_whose_models_are_missing_is_said(tmp_path: Path) -> None:
    store = Path(os.environ.get("MIEN_MODELS_DIR", get_settings().models_dir))
    for name in ("yunet", "sface"):
        shutil.copytree(store / name, tmp_path / "models" / name)
    data = {"file": photo("astronaut").read_bytes()}
    models = str(tmp_path / "models")
    with Serving(tmp_path / "data", MIEN_MODELS_DIR=models) as serving, serving.local() as client:
        assert len(client.post("/v1/detect", files=data).json()["faces"]) == 1
        answer = client.post("/v1/detect", files=data, data={"attributes": "emotion"})
        assert answer.status_code == 503
        assert "mien models import" in answer.json()["detail"]
        # What comes later is used without a new start.
        for model in ("fer-xception", "human-emotion", "faceplugin-expression"):
            shutil.copytree(store / model, tmp_path / "models" / model)
        answer = client.post("/v1/detect", files=data, data={"attributes": "emotion"})
        assert answer.status_code == 200
        assert answer.json()["faces"][0]["emotion"]["label"]


def test_a_model_that_is_being_fetched_is_asked_for_again_later() -> None:
    missing = ModelError("The model nanodet is missing.", model="nanodet")
    told_now = told(missing, {"nanodet": "waiting"})
    assert isinstance(told_now, Unavailable)
    assert told_now.retry_after_s >= 1
    assert told(missing, {}) is missing
