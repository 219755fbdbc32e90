"""Bytes to oriented RGB pixels, with the limits checked before anything is decoded.

Formats: JPEG, PNG, WebP, BMP, TIFF (first page) and GIF; animated GIF and WebP are refused, since
which of the pictures is meant can't be known (an APNG's default image is taken, as PNG says).
Alpha is composited on white, the ground of most cut-out portraits. Colour profiles are not applied:
detectors and embedders were trained on pixels as they come. 16-bit samples keep their upper byte.
"""

import io
import threading
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray

from mien.kit.errors import BadInput, BadPhoto, SetupError, TooLarge, UnsupportedFormat
from mien.kit.units import size_text
from mien.vision.formats import PhotoFormat, describe_foreign, hidden_file, jpeg_end, jpeg_header, sniff
from mien.vision.values import Image

READS = "JPEG, PNG, WebP, BMP, TIFF or GIF"
_PILLOW_PIXELS = 178_956_970
"""Pillow refuses more by itself (`PIL.Image.MAX_IMAGE_PIXELS` x 2), and that is a global we leave."""
_MAX_SCANS = 200
"""Scans of a progressive JPEG; encoders make about 10. Each costs a pass over the whole photo."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is refused before decoding.

    64 megapixels (8192 x 8192): over any phone's usual 12 to 50, under 200 MB of pixels.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 1 << 26
    max_side: int = 65_500

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= _PILLOW_PIXELS:
            raise SetupError(f"The pixel limit of photos is 1 to {_PILLOW_PIXELS}.")


DEFAULT_LIMITS = DecodeLimits()


class Photo:
    """An encoded photo whose header was read and found good. Use it in one thread at a time."""

    def __init__(
        self, data: bytes, photo_format: PhotoFormat, size: tuple[int, int], orientation: int, fast: bool
    ) -> None:
        self._data = data
        self._coded_size = size
        self._orientation = orientation
        self._fast = fast
        self._whole: Image | None = None
        self.format = photo_format
        turned = orientation >= 5
        self.width, self.height = (size[1], size[0]) if turned else size

    @property
    def long_side(self) -> int:
        """Of the source, px."""
        return max(self.width, self.height)

    def image(self, min_long_side: int | None = None) -> Image:
        """Oriented pixels at the smallest scale the decoder offers whose long side is at least this.

        JPEG offers the whole, a half, a quarter and an eighth (scaled inverse DCT; its other eighths
        have no SIMD code: 2 megapixels take 9.2 ms at 7/8 and 4.8 ms in whole). The other formats,
        and None, give the whole.
        Raises BadPhoto if the pixel data is damaged or cut short.
        """
        if self._whole is not None:
            return self._whole
        pixels = self._jpeg(min_long_side) if self._fast else _by_pillow(self._data, self.format)
        pixels = oriented(pixels, self._orientation)
        height, width = pixels.shape[:2]
        scale = (width / self.width, height / self.height)
        image = Image(pixels, (self.width, self.height), scale)
        if (width, height) == (self.width, self.height):
            self._whole = image
        return image

    def _jpeg(self, min_long_side: int | None) -> NDArray[np.uint8]:
        wide = self._coded_size[0] >= self._coded_size[1]
        long_side = max(self._coded_size)
        halvings = 8
        while halvings > 1 and long_side / halvings < (min_long_side or long_side):
            halvings //= 2
        bounds = {"min_width" if wide else "min_height": -(-long_side // halvings)}
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(self._data, "RGB", strict=True, **bounds)
        except ValueError as error:
            if not _harmless(str(error)):
                raise _damaged_jpeg(str(error)) from None
            # The fast decoder gives up on some of these files; Pillow reads them. It too would take
            # one that has no end, when the first warning hid that.
            if jpeg_end(self._data) is None:
                raise _damaged_jpeg("premature end") from None
            pixels = _by_pillow(self._data, "JPEG")
        return pixels


def open_photo(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Photo:
    """Read a photo's header and check it against the limits; nothing is decoded yet.

    Raises BadPhoto (empty, damaged, or another file hides in it), UnsupportedFormat (no photo, or a
    kind that Mien does not read), TooLarge.
    """
    if not data:
        raise BadPhoto("The photo is empty (0 bytes).")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"The photo is {size_text(len(data))}; the limit is {size_text(limits.max_bytes)}.")
    kind = sniff(data)
    if kind is None:
        what = describe_foreign(data)
        seems = f"It seems to be {what}. " if what else ""
        raise UnsupportedFormat(f"The bytes are no photo that Mien reads. {seems}Send {READS}.")
    hidden = hidden_file(data, kind)
    if hidden:
        raise BadPhoto(f"The {kind} photo also holds {hidden}; send the photo alone.")
    if kind == "JPEG":
        return _open_jpeg(data, limits)
    return _open_other(data, kind, limits)


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    if width < 1 or height < 1:
        raise BadPhoto(f"The photo's header says {width} x {height} px.")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        # Only the header was read: of a damaged photo it may say anything.
        damaged = width * height > _PILLOW_PIXELS or max(width, height) > limits.max_side
        pixels = limits.max_pixels
        most = f"{pixels / 1e6:.4g} megapixels" if pixels >= 1_000_000 else f"{pixels} pixels"
        raise TooLarge(
            f"The photo's header says {width} x {height} px; the limit is {most} and {limits.max_side} px "
            f"a side. Send a smaller one"
            f"{'; if it is not that big, the file is damaged' if damaged else ''}.",
            width=width,
            height=height,
        )


def _open_jpeg(data: bytes, limits: DecodeLimits) -> Photo:
    orientation, scans = jpeg_header(data)
    if scans and data.count(b"\xff\xda") > _MAX_SCANS:
        raise BadPhoto(f"The JPEG has more than {_MAX_SCANS} scans, which no camera or editor makes.")
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # what the fast decoder can't open, Pillow may, or says why not
        return _open_other(data, "JPEG", limits)
    _check_size(width, height, limits)
    # Only Pillow undoes the inversion of Adobe's four-colour JPEGs.
    fast = colour not in ("CMYK", "YCCK")
    return Photo(data, "JPEG", (width, height), orientation, fast)


def _open_other(data: bytes, kind: PhotoFormat, limits: DecodeLimits) -> Photo:
    if kind == "PNG" and len(data) >= 24:
        # Before Pillow looks, so that its own bomb warning has nothing to warn of.
        _check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), limits)
    with _pillow(data, kind) as image:
        _check_size(*image.size, limits)
        if kind in ("GIF", "WebP") and _animated(image):
            raise UnsupportedFormat(f"The {kind} is animated; send one picture of it as {READS}.")
        orientation = _orientation(image)
        # Pillow turns TIFFs itself, and gives the turned size.
        return Photo(data, kind, image.size, 1 if kind == "TIFF" else orientation, fast=False)


def _animated(image: PIL.Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except (OSError, ValueError, EOFError):
        return False


def _orientation(image: PIL.Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow's EXIF reader raises many kinds; a photo with bad EXIF is still a photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


_plugins = threading.Lock()
_PILLOW_NAMES = {"JPEG": ("JPEG", "MPO"), "PNG": ("PNG",), "WebP": ("WEBP",), "BMP": ("BMP",),
                 "TIFF": ("TIFF",), "GIF": ("GIF",)}  # fmt: skip


def _pillow(data: bytes, kind: PhotoFormat) -> PIL.Image.Image:
    with _plugins:  # Pillow fills its registry of formats once, and not in a thread-safe way
        PIL.Image.preinit()
        PIL.Image.init()
    try:
        return PIL.Image.open(io.BytesIO(data), formats=_PILLOW_NAMES[kind])
    except PIL.Image.DecompressionBombError:
        raise TooLarge(
            f"The {kind} photo's header says more pixels than any limit of Mien allows; it may be damaged."
        ) from None
    except Exception as error:  # by format, Pillow raises OSError, SyntaxError, struct.error, ...
        raise BadPhoto(f"The {kind}'s header is damaged or cut short ({_reason(error)}).") from None


def _by_pillow(data: bytes, kind: PhotoFormat) -> NDArray[np.uint8]:
    with _pillow(data, kind) as image:
        try:
            image.load()
            return _rgb(image, kind)
        except BadInput:
            raise
        except MemoryError:
            raise TooLarge(f"There is not enough memory to decode the {kind} photo.") from None
        except Exception as error:
            raise BadPhoto(f"The {kind} is damaged or cut short ({_reason(error)}).") from None


def _rgb(image: PIL.Image.Image, kind: PhotoFormat) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if image.mode in ("I", "F"):
        raise UnsupportedFormat(
            f"The {kind} has {'32-bit' if image.mode == 'I' else 'floating-point'} samples, whose white "
            "is not known; send 8 or 16 bits."
        )
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", whole.size, (255, 255, 255, 255))
        ground.alpha_composite(whole)
        image = ground
    if image.mode != "RGB":
        try:
            image = image.convert("RGB")
        except ValueError:
            raise UnsupportedFormat(f"The {kind}'s colour mode {image.mode} is not supported.") from None
    return np.array(image, np.uint8)


def oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation 1..8 (CIPA DC-008, tag 0x0112) so that the photo stands upright."""
    match orientation:
        case 2:
            turned = cv2.flip(pixels, 1)
        case 3:
            turned = cv2.rotate(pixels, cv2.ROTATE_180)
        case 4:
            turned = cv2.flip(pixels, 0)
        case 5:
            turned = cv2.transpose(pixels)
        case 6:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            turned = cv2.flip(cv2.transpose(pixels), -1)
        case 8:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
        case _:
            return pixels
    return np.asarray(turned, np.uint8)


def _harmless(warning: str) -> bool:
    """Warnings of libjpeg about photos that are whole: real cameras write such files."""
    text = warning.lower()
    known = ("extraneous bytes", "unknown adobe", "jfif revision", "invalid sos parameters")
    return any(words in text for words in known)


def _damaged_jpeg(warning: str) -> BadPhoto:
    if "premature end" in warning.lower():
        return BadPhoto("The JPEG is cut short: its pixel data ends before the photo does.")
    return BadPhoto(f"The JPEG's pixel data is damaged ({warning[:120]}).")


def _reason(error: Exception) -> str:
    text = str(error).split("\n", 1)[0]
    # Pillow names the buffer object, which tells a client nothing.
    return "not readable as such" if not text or "BytesIO" in text else text[:120]
