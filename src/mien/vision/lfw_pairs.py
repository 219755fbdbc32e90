"""Lists of pairs in the format of Labeled Faces in the Wild (`pairs.txt`).

G. Huang et al., UMass Amherst TR 07-49, 2007. A line is `name i j` for two photos of one person or
`name1 i name2 j` for two people, separated by tabs or spaces; the header is the number N of pairs of
either kind (view 1), or `folds N` (view 2), or missing. Photo i of a name is `NAME/NAME_000i.jpg`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mien.kit.errors import BadInput, NotFound

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MOST_PAIRS = 10_000_000


@dataclass(frozen=True, slots=True)
class PhotoName:
    """A name and the number of the photo, from 1."""

    name: str
    number: int

    def path(self, images: Path) -> Path:
        """The photo under `images`; NotFound if there is none of a known suffix."""
        stem = images / self.name / f"{self.name}_{self.number:04d}"
        for suffix in SUFFIXES:
            path = stem.with_name(stem.name + suffix)
            if path.is_file():
                return path
        raise NotFound(f"There is no photo {self.name}/{stem.name}.jpg in the folder of images.")


@dataclass(frozen=True, slots=True)
class Pair:
    first: PhotoName
    second: PhotoName

    @property
    def same(self) -> bool:
        """Whether it is a pair of one person."""
        return self.first.name == self.second.name


@dataclass(frozen=True, slots=True)
class PairList:
    """`fold_of` holds the fold of each pair (from 0) if the list defines folds."""

    pairs: tuple[Pair, ...]
    fold_of: tuple[int, ...] | None = None

    def photos(self) -> tuple[PhotoName, ...]:
        """Every photo once, in the order of first use."""
        return tuple(dict.fromkeys(photo for pair in self.pairs for photo in (pair.first, pair.second)))


def read_pairs(path: Path) -> PairList:
    """The pairs of a file; BadInput naming the line that is wrong, NotFound without the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no file {path.name}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} can't be read as UTF-8 text ({type(error).__name__}).") from None
    return parse_pairs(text)


def parse_pairs(text: str) -> PairList:
    """See the module; BadInput naming the line that is wrong."""
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadInput("The list of pairs is empty.")
    header = _numbers(lines[0][1])
    pairs = tuple(_parsed(lines[1:] if header else lines))
    if not pairs or len(pairs) > _MOST_PAIRS:
        raise BadInput(f"The list holds {len(pairs)} pairs; it may hold 1 to {_MOST_PAIRS}.")
    if not header:
        return PairList(pairs)
    folds, each = header if len(header) == 2 else (1, header[0])
    if folds * each * 2 != len(pairs):
        raise BadInput(
            f"The header promises {folds * each * 2} pairs, the list holds {len(pairs)}; is the file whole?"
        )
    if folds < 2:
        return PairList(pairs)
    return PairList(pairs, tuple(i // (2 * each) for i in range(len(pairs))))


def _numbers(line: str) -> list[int]:
    parts = line.split()
    if len(parts) in (1, 2) and all(p.isascii() and p.isdigit() and 0 < int(p) < 10**7 for p in parts):
        return [int(p) for p in parts]
    return []


def _parsed(lines: list[tuple[int, str]]) -> Iterator[Pair]:
    for number, line in lines:
        parts = [p.strip() for p in line.split("\t")] if "\t" in line else line.split()
        try:
            if len(parts) == 3:
                yield Pair(_photo(parts[0], parts[1]), _photo(parts[0], parts[2]))
            elif len(parts) == 4:
                yield Pair(_photo(parts[0], parts[1]), _photo(parts[2], parts[3]))
            else:
                raise ValueError
        except ValueError:
            raise BadInput(
                f"Line {number} of the list is neither `name i j` nor `name1 i name2 j`.", line=number
            ) from None


def _photo(name: str, number: str) -> PhotoName:
    # A name becomes part of a path.
    if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise ValueError(name)
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 10**6):
        raise ValueError(number)
    return PhotoName(name, int(number))
