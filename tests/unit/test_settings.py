"""Settings: where values come from, what is refused, and the page made from them."""

from pathlib import Path

import pytest

from mien.kit.errors import SetupError
from mien.runtime.chosen import read_chosen, write_chosen
from mien.runtime.settings import get_settings, settings_markdown, unknown_variables
from tests.paths_to_data import ROOT


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("MIEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_defaults_follow_the_base_directories(tmp_path: Path) -> None:
    settings = get_settings()
    assert settings.data_dir == tmp_path / "data" / "mien"
    assert settings.models_dir == tmp_path / "cache" / "mien" / "models"
    assert (settings.host, settings.port, settings.pack) == ("127.0.0.1", 8000, None)
    assert settings.pipeline_threads >= 1


def test_an_argument_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mien.toml"
    file.write_text("port = 1\nhost = '0.0.0.0'\n[limits]\nbody_mb = 1\nrequest_s = 7\n")
    monkeypatch.setenv("MIEN_CONFIG", str(file))
    monkeypatch.setenv("MIEN_PORT", "2")
    monkeypatch.setenv("MIEN_LIMITS__BODY_MB", "2")
    settings = get_settings(port=3, host=None)
    assert (settings.port, settings.host) == (3, "0.0.0.0")  # noqa: S104
    assert (settings.limits.body_mb, settings.limits.request_s) == (2, 7)
    assert settings.limits.connections == 512
    assert get_settings().port == 2


def test_a_file_in_the_data_folder_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mien.toml").write_text("pack = 'fused'\naccept_licences = ['a', 'b']\n")
    monkeypatch.setenv("MIEN_DATA_DIR", str(tmp_path))
    settings = get_settings()
    assert settings.pack == "fused"
    assert settings.accept_licences == {"a", "b"}


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_ACCEPT_LICENCES", "one, two,")
    monkeypatch.setenv("MIEN_PACK", "")
    settings = get_settings()
    assert settings.accept_licences == {"one", "two"}
    assert settings.pack is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIEN_PORT", "high"),
        ("MIEN_PORT", "70000"),
        ("MIEN_RUNTIME", "tensorrt"),
        ("MIEN_LIMITS__BODY_MB", "-1"),
        ("MIEN_LIMITS__BODY_MEGA", "1"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=name):
        get_settings()


@pytest.mark.parametrize("text", ["prot = 1\n", "port = \n", "[limits]\nbody = 1\n"])
def test_a_wrong_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    monkeypatch.setenv("MIEN_CONFIG", str(file))
    with pytest.raises(SetupError, match=r"PROT|TOML|LIMITS__BODY"):
        get_settings()


def test_variables_that_are_no_settings_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_DATADIR", "x")
    monkeypatch.setenv("MIEN_LIMITS__BODY_MB", "1")
    monkeypatch.setenv("MIEN_DATA_DIR", "/x")
    assert unknown_variables() == ["MIEN_DATADIR"]


def test_the_page_is_made_from_the_settings() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert page == settings_markdown(), "run `mien settings --markdown > docs/settings.md`"
    assert "`MIEN_LIMITS__BODY_MB` | number | `96.0` |" in page


def test_the_chosen_pack_is_kept(tmp_path: Path) -> None:
    assert read_chosen(tmp_path / "new") is None
    write_chosen(tmp_path / "new", "fused")
    assert read_chosen(tmp_path / "new") == "fused"
    (tmp_path / "new" / "config.json").write_text("[]")
    with pytest.raises(SetupError, match="models use"):
        read_chosen(tmp_path / "new")
