"""Commands that own the folder themselves, run in this process: what they say when things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mien.runtime.cli import main
from mien.runtime.cli.frame import Shown
from mien.runtime.cli.jobs import follow
from mien.runtime.client import Answered, connect
from mien.runtime.settings import get_settings
from mien.vision.models.catalog import INSIGHTFACE_LICENCE
from tests.given_models import FILES, SHARED, pull
from tests.photos import photo


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command on a folder of its own; stdin is no terminal, or the bytes that are given."""
    monkeypatch.setenv("MIEN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MIEN_OFFLINE", "true")

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main(list(arguments))
        out.flush()
        raw = out.buffer.getvalue()
        return Done(int(ended.value.code or 0), raw.decode("utf-8"), err.getvalue())

    return run


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A file that is no photo."""
    path = tmp_path / "bad.jpg"
    path.write_text("no photo")
    return path


def names(run: Run) -> list[str]:
    return [c["name"] for c in run("collections", "list", "--json").json["collections"]]


def test_a_fault_of_all_photos_ends_index_with_its_words(run: Run) -> None:
    assert run("collections", "create", "old").code == 0
    assert run("models", "use", "fused").code == 0
    done = run("index", "old", str(photo("astronaut")), "--json")
    assert done.code == 3, done.stderr
    assert "Something broke" not in done.stderr
    assert (done.json["status"], done.json["code"]) == (409, "space-mismatch")
    assert done.stderr.strip().endswith(done.json["detail"])


def test_names_that_are_not_utf8_stay_json(run: Run, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xff.png"
    Path(os.fsdecode(path)).write_bytes(photo("astronaut").read_bytes())
    given = os.fsdecode(path)
    assert run("detect", given, "--json").json["photos"][0]["path"].endswith("caf\ufffd.png")
    # A long path is wrapped at the width of the table.
    assert "caf\ufffd.png" in run("detect", given).stdout.replace("\n", "")
    missing = run("detect", given + ".png", "--json")
    assert "caf\ufffd.png.png" in missing.json["detail"]
    Path(given).write_bytes(b"no photo")
    report = run("index", "c", given, "--json")
    assert (report.code, report.json["errors"][0]["photo"]) == (3, "caf\ufffd.png")


def test_one_bad_photo_leaves_the_others_their_faces(run: Run, bad: Path) -> None:
    good = str(photo("astronaut"))
    done = run("detect", str(bad), good, "nowhere.jpg", "--json")
    assert done.code == 3
    assert [entry["path"] for entry in done.json["photos"]] == [good]
    assert len(done.json["photos"][0]["faces"]) == 1
    assert [entry["path"] for entry in done.json["errors"]] == [str(bad), "nowhere.jpg"]
    assert f"{bad}: " in done.stderr
    assert "nowhere.jpg" in done.stderr


def test_the_bad_photo_is_named(run: Run, bad: Path) -> None:
    good = str(photo("astronaut"))
    assert run("collections", "create", "c").code == 0
    for arguments in (
        ["detect", str(bad)],
        ["compare", good, str(bad)],
        ["compare", str(bad), good],
        ["search", "c", str(bad)],
    ):
        done = run(*arguments)
        assert done.code == 3
        assert f"{bad}: " in done.stderr, arguments
        assert good not in done.stderr


def test_errors_are_json_too(run: Run, bad: Path) -> None:
    for arguments, code, word in (
        (["collections", "describe", "nobody"], 3, "not-found"),
        (["compare", str(bad), str(photo("astronaut"))], 3, "unsupported-format"),
        (["detect", "nowhere.jpg"], 3, "bad-input"),
        (["detect", "x.jpg", "--attributes", "soul"], 2, "usage"),
        (["serch"], 2, "usage"),
    ):
        done = run(*arguments, "--json")
        assert (done.code, done.json["code"]) == (code, word), done.stderr
        assert done.json["detail"]


def test_a_failed_command_leaves_no_collection(run: Run, bad: Path, tmp_path: Path) -> None:
    assert run("index", "c", str(bad)).code == 3
    assert run("import", "c", str(bad)).code == 3
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(bad, "bad.jpg")
    assert run("import", "c", str(archive)).code == 3
    assert names(run) == []
    # One that was there before stays, and so does one with a photo that can be read.
    assert run("collections", "create", "mine").code == 0
    assert run("index", "mine", str(bad)).code == 3
    assert run("index", "empty", str(photo("coffee"))).code == 1
    assert sorted(names(run)) == ["empty", "mine"]


def test_an_import_tells_what_failed_by_its_exit_code(run: Run, bad: Path, tmp_path: Path) -> None:
    some, none = tmp_path / "some.zip", tmp_path / "none.zip"
    with zipfile.ZipFile(some, "w") as file:
        file.write(bad, "bad.jpg")
        file.write(photo("astronaut"), "astronaut.png")
    with zipfile.ZipFile(none, "w") as file:
        file.write(photo("coffee"), "coffee.png")
    done = run("import", "c", str(some), "--json")
    assert (done.code, done.json["result"]["faces"], done.json["result"]["failed"]) == (3, 1, 1)
    assert run("import", "c", str(none)).code == 1


def test_persons_are_made_of_faces_that_are_there(run: Run) -> None:
    assert run("index", "c", str(photo("astronaut"))).stdout == "1 photo: 1 face indexed\n"
    face = run("faces", "list", "c", "--json").json["faces"][0]["face_id"]
    other = "0190a5e0-0000-7000-8000-000000000000"
    done = run("persons", "create", "c", "Ann", "--face", face, "--face", other)
    assert done.code == 3
    assert other in done.stderr
    assert face not in done.stderr
    assert run("persons", "list", "c").code == 1
    assert ", 1 face." in run("persons", "create", "c", "Ann", "--face", face).stdout


def test_nobody_is_asked_without_a_terminal(run: Run) -> None:
    assert run("collections", "delete", "c").code == 3
    assert run("collections", "create", "c").code == 0
    done = run("collections", "delete", "c")
    assert done.code == 2
    assert "--yes" in done.stderr
    assert names(run) == ["c"]
    assert run("collections", "delete", "c", "--yes").code == 0


def test_policies_are_distances_too_and_in_their_range(run: Run) -> None:
    good = str(photo("astronaut"))
    for distance, code in (("0.5", 0), ("2.5", 2)):
        assert run("compare", good, good, "--distance", distance).code == code
    assert run("index", "c", good).code == 0
    assert run("search", "c", good, "--distance", "0.5").code == 0
    for wrong in (["--fpir", "0"], ["--score", "1.5"], ["--fmr", "1"], ["--score", "0.5", "--fmr", "0.1"]):
        assert run("search", "c", good, *wrong).code == 2


def test_annotate_says_at_once_what_it_cannot_write(run: Run, tmp_path: Path) -> None:
    good, six = str(photo("astronaut")), str(photo("six_faces"))
    target = tmp_path / "out.jpg"
    assert run("detect", good, six, "--annotate", str(target)).code == 2
    assert run("detect", good, "--annotate", str(tmp_path / "no" / "out.jpg")).code == 2
    assert run("detect", good, "--annotate", str(tmp_path / "out.txt")).code == 2
    assert not target.exists()
    assert not (tmp_path / "no").exists()
    assert run("detect", good, six, "--annotate", str(tmp_path / "marked")).code == 0
    assert len(list((tmp_path / "marked").iterdir())) == 2


def test_detect_takes_folders_and_stdin(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "inner"
    folder.mkdir(parents=True)
    shutil.copy(photo("astronaut"), folder)
    (folder / "notes.txt").write_text("no photo")
    done = run("detect", str(tmp_path / "photos"), "--json")
    assert done.code == 0, done.stderr
    assert [p["path"] for p in done.json["photos"]] == [str(folder / "astronaut.png")]
    done = run("detect", "-", "--json", stdin=photo("astronaut").read_bytes())
    assert len(done.json["photos"][0]["faces"]) == 1


def test_the_help_page_has_its_usage_once(run: Run) -> None:
    for arguments in ([], ["keys"]):
        done = run(*arguments)
        assert done.code == 2
        assert done.stderr.count("Usage:") == 1


def test_a_file_as_data_folder_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIEN_DATA_DIR", str(tmp_path / "file"))
    for arguments in (["collections", "list"], ["status"], ["models", "use", "sface"]):
        done = run(*arguments)
        assert done.code == 4, arguments
        assert "MIEN_DATA_DIR" in done.stderr


def test_missing_models_are_told_with_what_to_do(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_MODELS_DIR", str(tmp_path / "models"))
    done = run("detect", str(photo("astronaut")), "--json")
    assert (done.code, done.json["code"]) == (4, "model-error")
    assert done.stderr.startswith("mien: The model yunet of the pack sface is missing")
    assert "mien models import" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_licence_is_asked_for_at_use_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_models: Path
) -> None:
    monkeypatch.setenv("MIEN_MODELS_DIR", str(given_models))
    monkeypatch.setenv("MIEN_PACK", "insightface-s")
    people = tmp_path / "people"
    for person in ("ann", "bob"):
        (people / person).mkdir(parents=True)
        shutil.copy(photo("astronaut"), people / person)
    for arguments in (
        ["detect", str(photo("astronaut"))],
        ["index", "c", str(photo("astronaut"))],
        ["calibrate", str(people), "--pack", "insightface-s"],
    ):
        done = run(*arguments)
        assert done.code == 4, done.stderr
        assert f"MIEN_ACCEPT_LICENCES={INSIGHTFACE_LICENCE.id}" in done.stderr
    assert INSIGHTFACE_LICENCE.id in run("status", "--json").json["packs"]["insightface-s"]
    packs = {pack["name"]: pack for pack in run("models", "list", "--json").json["packs"]}
    assert packs["insightface-s"]["licence_to_accept"] == INSIGHTFACE_LICENCE.id
    assert packs["sface"]["licence_to_accept"] is None
    # Accepted for one command, or in the settings.
    accept = ["--accept-licence", INSIGHTFACE_LICENCE.id]
    assert run("calibrate", str(people), *accept).code != 4
    monkeypatch.setenv("MIEN_ACCEPT_LICENCES", INSIGHTFACE_LICENCE.id)
    assert run("detect", str(photo("astronaut"))).code == 0


@pytest.fixture(scope="module")
def given_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the models that only an operator can give."""
    if not all((SHARED / file).is_file() for file in FILES.values()):
        pytest.skip("the models that are given as files are not on this machine")
    folder = tmp_path_factory.mktemp("given")
    pull(folder)
    return folder


def test_commands_print_no_key_and_the_last_one_is_not_revoked_by_the_way(run: Run) -> None:
    done = run("collections", "list")
    assert done.code == 1
    assert "mien_" not in done.stdout + done.stderr
    assert run("keys", "list", "--json").json == {"keys": []}
    made = run("keys", "create", "--expires-in-days", "2", "--json").json
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=1.9) < left < timedelta(days=2)
    done = run("keys", "revoke", made["id"])
    assert done.code == 2
    assert "last administrator" in done.stderr
    second = run("keys", "create", "--json").json
    assert run("keys", "revoke", made["id"]).code == 0
    assert run("keys", "revoke", second["id"], "--yes").code == 0


def test_folders_are_imported_where_the_operator_allows_it(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photo("astronaut"), folder)

    async def imported(**given: Any) -> tuple[int, dict[str, Any]]:
        async with connect(get_settings(data_dir=tmp_path / "data", offline=True, **given)) as client:
            with contextlib.suppress(Answered):
                await client.call("POST", "/v1/collections", json={"name": "c"})
            try:
                job = await client.call("POST", "/v1/collections/c/imports", json={"folder": str(folder)})
            except Answered as error:
                return error.status, {}
            return 202, await follow(Shown(as_json=True, data_dir=None), client, job["id"])

    assert asyncio.run(imported())[0] == 403
    status, job = asyncio.run(imported(import_roots=(tmp_path,)))
    assert (status, job["state"], job["result"]["faces"]) == (202, "succeeded", 1)
