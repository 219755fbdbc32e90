"""kill -9 at any point while indexing loses no acknowledged face, and doubles none."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.photos import photo
from tests.services.serving import Serving

CLIENTS = 4


@dataclass
class Ledger:
    """What clients know: what they sent, and what was acknowledged (external id -> face ids).

    `in_doubt` are faces whose delete got no answer: it may or may not have happened.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))
    enough: threading.Event = field(default_factory=threading.Event)


def _client(serving: Serving, ledger: Ledger, photos: dict[str, bytes], after: int, seed: int) -> None:
    """Index, and now and then delete, until the server is gone."""
    dice = random.Random(seed)
    with serving.local() as http:
        try:
            while True:
                kind = dice.choice(sorted(photos))
                with ledger.lock:
                    name = f"{next(ledger.numbers)}-{kind}"
                    ledger.sent[name] = kind
                answer = http.post(
                    "/v1/collections/people/faces",
                    data={"external_image_id": name},
                    files={"file": photos[kind]},
                )
                assert answer.status_code == 201, answer.text
                faces = [face["face_id"] for face in answer.json()["faces"]]
                with ledger.lock:
                    ledger.acknowledged[name] = faces
                    if len(ledger.acknowledged) >= after:
                        ledger.enough.set()
                if dice.random() < 0.15:
                    with ledger.lock:
                        ledger.in_doubt.add(faces[0])
                    answer = http.delete(f"/v1/collections/people/faces/{faces[0]}")
                    assert answer.status_code == 204, answer.text
                    with ledger.lock:
                        ledger.in_doubt.remove(faces[0])
                        ledger.deleted.add(faces[0])
                        ledger.acknowledged[name].remove(faces[0])
        except httpx.TransportError:
            ledger.enough.set()


def _stored(http: httpx.Client) -> dict[str, list[str]]:
    """External id -> face ids, as the server lists them."""
    found: dict[str, list[str]] = {}
    cursor: str | None = None
    while True:
        params = {"limit": "1000", **({"cursor": cursor} if cursor else {})}
        page = http.get("/v1/collections/people/faces", params=params).json()
        for face in page["faces"]:
            found.setdefault(face["external_image_id"], []).append(face["face_id"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def _findable(http: httpx.Client, data: bytes, label: str) -> set[str]:
    """All stored faces of the people on a photo, as a search finds them."""
    answer = http.post(
        "/v1/collections/people/search",
        data={"max_matches": "1000", "policy": json.dumps({"score": 0.9})},
        files={"file": data},
    )
    assert answer.status_code == 200, f"{label}: {answer.text}"
    return {match["face_id"] for face in answer.json()["faces"] for match in face["matches"]}


def _check(serving: Serving, ledger: Ledger, photos: dict[str, bytes], faces_of: dict[str, int]) -> None:
    with serving.local() as http:
        stored = _stored(http)
        everything = {face for faces in stored.values() for face in faces}
        assert sum(map(len, stored.values())) == len(everything), "a face is listed twice"
        # What a delete without an answer did is settled at the first look, for good.
        done = ledger.in_doubt - everything
        ledger.in_doubt.clear()
        for name, faces in ledger.acknowledged.items():
            faces[:] = [face for face in faces if face not in done]
            assert set(faces) <= set(stored.get(name, [])), f"{name}: an acknowledged face is lost"
        assert not ledger.deleted & everything, "a face came back after its delete was acknowledged"
        for name, faces in stored.items():
            assert name in ledger.sent, f"{name} was never sent"
            # All faces of a photo or none, none twice; a delete without an answer may have happened.
            whole = faces_of[ledger.sent[name]]
            missing = whole - len(faces)
            assert 0 <= missing <= 1, f"{name}: {len(faces)} of {whole} faces"
            if missing:
                assert name in ledger.acknowledged
        found = set()
        for kind, data in photos.items():
            found |= _findable(http, data, kind)
        assert found == everything, (
            f"{len(everything - found)} stored faces are not found, {len(found - everything)} found ones"
            " are not stored"
        )
        described = http.get("/v1/collections/people").json()
        assert described["face_count"] == len(everything)


def _run(folder: Path, rounds: int, seed: int) -> Ledger:
    dice = random.Random(seed)
    photos = {name: photo(name).read_bytes() for name in ("astronaut", "six_faces", "portrait")}
    ledger = Ledger()
    faces_of: dict[str, int] = {}
    for number in range(rounds):
        with Serving(folder / "data") as serving:
            with serving.local() as http:
                if number == 0:
                    assert http.post("/v1/collections", json={"name": "people"}).status_code == 201
                    for name, data in photos.items():
                        reply = http.post("/v1/detect", files={"file": data}).json()
                        faces_of[name] = len(reply["faces"])
                    assert faces_of["six_faces"] == 6
            if number:
                _check(serving, ledger, photos, faces_of)
            ledger.enough.clear()
            after = len(ledger.acknowledged) + dice.randint(1, 25)
            with ThreadPoolExecutor(CLIENTS) as pool:
                clients = [
                    pool.submit(_client, serving, ledger, photos, after, dice.random().__hash__())
                    for _ in range(CLIENTS)
                ]
                assert ledger.enough.wait(120)
                # Not to wait for anything: so that the kill meets other points of the work each time.
                time.sleep(dice.random() * 0.02)
                serving.kill()
                for client in clients:
                    client.result()
    with Serving(folder / "data") as serving:
        _check(serving, ledger, photos, faces_of)
        assert serving.stop() == 0
    return ledger


def test_twelve_kills_lose_nothing(tmp_path: Path) -> None:
    ledger = _run(tmp_path, rounds=12, seed=7)
    assert len(ledger.acknowledged) > 60


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_sixty_kills_lose_nothing(tmp_path: Path) -> None:
    ledger = _run(tmp_path, rounds=60, seed=11)
    assert len(ledger.acknowledged) > 500
