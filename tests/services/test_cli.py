"""The commands, as a user calls them: over a running server's socket and as the folder's owner."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from PIL import ImageChops

from tests.photos import photo
from tests.services.serving import Serving
from tests.services.test_serve import mien


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos in sub-folders, with one that is broken and one that is none."""
    folder = tmp_path / "photos"
    for name, person in (("astronaut", "eileen"), ("six_faces", "friends"), ("coffee", "things")):
        (folder / person).mkdir(parents=True)
        source = photo(name)
        shutil.copy(source, folder / person / f"{name}{source.suffix}")
    (folder / "things" / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (folder / "things" / "notes.txt").write_text("no photo")
    return folder


def out(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    """The JSON on stdout, after a look at the exit code."""
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def plain(value: Any) -> Any:
    """A reply without what differs from run to run: ids, times, names of folders."""
    if isinstance(value, dict):
        gone = {"created_at", "updated_at", "timings_ms"}
        return {k: plain(v) for k, v in value.items() if k not in gone}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", value)
    return value


def session(data_dir: Path, photos: Path, name: str) -> list[Any]:
    """What a user does with a collection, and what each command answered."""
    six = str(photo("six_faces"))

    def run(*arguments: str, code: int = 0) -> Any:
        return out(mien(*arguments, "--json", data_dir=data_dir), code)

    answers = [
        run("index", name, str(photos), "--person-per-folder", "--at-once", "1", code=3),
        run("collections", "describe", name),
        run("search", name, six),
        run("search", name, six, "--persons"),
        run("detect", six, "--attributes", "quality,pose,emotion"),
        run("compare", six, str(photo("astronaut")), code=1),
        run("faces", "list", name),
        run("persons", "list", name),
    ]
    face = answers[-2]["faces"][0]["face_id"]
    answers.append(run("faces", "delete", name, face))
    answers.append(run("faces", "delete", name, face, code=1))
    answers.append(run("collections", "delete", name, "--yes"))
    return answers


def test_the_same_over_the_socket_and_in_process(serving: Serving, photos: Path, tmp_path: Path) -> None:
    served = session(serving.data_dir, photos, "album")
    alone = session(tmp_path / "own", photos, "album")
    for over_socket, in_process in zip(served, alone, strict=True):
        assert plain(over_socket) == plain(in_process)
    indexed = served[0]
    assert (indexed["photos"], indexed["faces"], indexed["without_face"]) == (4, 7, 1)
    assert [e["photo"] for e in indexed["errors"]] == ["things/broken.jpg"]
    assert [len(face["matches"]) for face in served[2]["faces"]] == [1] * 6


def test_indexing_twice_adds_nothing(serving: Serving, photos: Path) -> None:
    arguments = ["index", "twice", str(photos / "eileen"), "--json"]
    assert out(mien(*arguments, data_dir=serving.data_dir))["faces"] == 1
    again = out(mien(*arguments, data_dir=serving.data_dir))
    assert (again["faces"], again["already_there"]) == (0, 1)
    assert out(mien(*arguments, "--again", data_dir=serving.data_dir))["faces"] == 1


def test_an_archive_is_imported(serving: Serving, photos: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", photos)
    job = out(mien("import", "zipped", archive, "--json", data_dir=serving.data_dir), code=3)  # one is broken
    assert job["state"] == "succeeded"
    jobs = out(mien("jobs", "list", "--json", data_dir=serving.data_dir))["jobs"]
    assert job["id"] in [entry["id"] for entry in jobs]
    assert out(mien("jobs", "show", job["id"], "--json", data_dir=serving.data_dir))["state"] == "succeeded"
    described = out(mien("collections", "describe", "zipped", "--json", data_dir=serving.data_dir))
    assert described["face_count"] == 7


def test_annotated_photos_are_written(serving: Serving, tmp_path: Path) -> None:
    target = tmp_path / "out.jpg"
    done = mien("detect", str(photo("six_faces")), "--annotate", str(target), data_dir=serving.data_dir)
    assert done.returncode == 0, done.stderr
    with PIL.Image.open(target) as drawn, PIL.Image.open(photo("six_faces")) as source:
        assert drawn.size == source.size
        differing = ImageChops.difference(drawn.convert("L"), source.convert("L"))
        assert differing.point(lambda v: 255 if v > 60 else 0).getbbox() is not None


def test_keys_are_made_shown_once_and_revoked(serving: Serving) -> None:
    made = out(mien("keys", "create", "--name", "door", "--json", data_dir=serving.data_dir))
    with serving.tcp(made["key"]) as client:
        assert client.get("/v1/collections").status_code == 200
    assert made["key"] not in mien("keys", "list", data_dir=serving.data_dir).stdout
    out(mien("keys", "revoke", made["id"], "--json", data_dir=serving.data_dir))
    with serving.tcp(made["key"]) as client:
        assert client.get("/v1/collections").status_code == 401
    shown = mien("keys", "create", data_dir=serving.data_dir)
    assert re.fullmatch(r"mien_[a-z0-9]{8}_\S{43}\n", shown.stdout)


def test_tables_for_people_hold_no_colour_in_a_pipe(serving: Serving) -> None:
    done = mien("detect", str(photo("six_faces")), data_dir=serving.data_dir)
    assert "\x1b" not in done.stdout
    assert len(re.findall(r"^\s+\d+\s+\d+,\d+ \d+x\d+", done.stdout, re.MULTILINE)) == 6
    done = mien("detect", str(photo("coffee")), data_dir=serving.data_dir)
    assert done.returncode == 1
    assert "no face" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frobnicate"], 2, "There is no command"),
        (["serch", "a"], 2, "mien search"),
        (["detect"], 2, "Missing argument"),
        (["detect", "nowhere.jpg"], 3, "nowhere.jpg"),
        (["detect", "pyproject.toml"], 3, "photo"),
        (["detect", "x.jpg", "--attributes", "soul"], 2, "soul"),
        (["search", "nobody", "README.md"], 3, ""),
        (["collections", "describe", "nobody"], 3, "no collection"),
        (["index", "empty", "tests/architecture"], 3, "no photo"),
        (["jobs", "show", "no-id"], 3, ""),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    serving: Serving, arguments: list[str], code: int, words: str
) -> None:
    done = mien(*arguments, data_dir=serving.data_dir)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.strip().splitlines()[-1].startswith("mien: ")


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    done = mien("collections", "list", data_dir=tmp_path / "data", MIEN_PORT="high")
    assert done.returncode == 4
    assert "MIEN_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_and_help_load_no_command() -> None:
    code = (
        "import sys; from mien.runtime.cli import cli; from click.testing import CliRunner;"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0;"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'faiss', 'sqlalchemy', 'fastapi', 'pydantic', 'rich'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    done = mien("completion", shell, data_dir=tmp_path)
    assert done.returncode == 0
    assert "_MIEN_COMPLETE" in done.stdout
    assert not list(tmp_path.iterdir())


def test_openapi_needs_no_data(tmp_path: Path) -> None:
    done = mien("openapi", data_dir=tmp_path / "data")
    assert "/v1/detect" in json.loads(done.stdout)["paths"]
    assert not (tmp_path / "data").exists()


def test_help_is_quick() -> None:
    """Under 0.5 s on an idle machine; here the processor's time is looked at, as others may run, too."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mien", "--help"], check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.5, f"{used:.2f} s of processor, {time.perf_counter() - started:.2f} s in all"
