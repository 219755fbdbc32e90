"""The LFW format of pair lists."""

from pathlib import Path

import pytest

from mien.kit.errors import BadInput, NotFound
from mien.vision.lfw_pairs import Pair, PhotoName, parse_pairs, read_pairs
from tests.paths_to_data import shared_dir


def test_view_one() -> None:
    got = parse_pairs("1\nAda L\t1\t13\nAda L\t1\tGrace_Hopper\t2\n")
    assert got.pairs == (
        Pair(PhotoName("Ada L", 1), PhotoName("Ada L", 13)),
        Pair(PhotoName("Ada L", 1), PhotoName("Grace_Hopper", 2)),
    )
    assert [p.same for p in got.pairs] == [True, False]
    assert got.fold_of is None
    assert got.photos() == (PhotoName("Ada L", 1), PhotoName("Ada L", 13), PhotoName("Grace_Hopper", 2))


def test_view_two_has_folds() -> None:
    fold = "A 1 2\nB 1 2\nA 1 B 1\nA 2 C 1\n"
    got = parse_pairs("3 2\r\n" + fold.replace("\n", "\r\n") * 3)
    assert got.fold_of == (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)


def test_without_a_header() -> None:
    assert len(parse_pairs("A 1 2\nA 1 B 1\n\n").pairs) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("500\n", "0 pairs"),
        ("2\nA 1 2\nA 1 B 1\n", "promises 4"),
        ("A 1 2\nA 1\n", "Line 2"),
        ("A 1 x\n", "Line 1"),
        ("A 0 1\n", "Line 1"),
        ("../../etc/passwd 1 2\n", "Line 1"),
        ("..\t1\t2\n", "Line 1"),
        ("A\t1\tB/C\t2\n", "Line 1"),
        ("A 1 B 2 3\n", "Line 1"),
    ],
)
def test_bad_lists(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_pairs(text)


def test_photos_are_found(tmp_path: Path) -> None:
    (tmp_path / "Ada").mkdir()
    (tmp_path / "Ada" / "Ada_0002.png").touch()
    assert PhotoName("Ada", 2).path(tmp_path).name == "Ada_0002.png"
    with pytest.raises(NotFound, match="Ada_0003"):
        PhotoName("Ada", 3).path(tmp_path)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_pairs(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("José 1 2\n".encode("latin-1"))
    with pytest.raises(BadInput, match="UTF-8"):
        read_pairs(tmp_path / "latin.txt")


def test_the_published_lists() -> None:
    folder = shared_dir("testdata", "lfw-dev")
    got = read_pairs(folder / "pairsDevTest.txt")
    assert len(got.pairs) == 1000
    assert sum(p.same for p in got.pairs) == 500
    photos = got.photos()
    assert len(photos) == 1549
    assert all(p.path(folder).is_file() for p in photos)
