"""Photos of every kind come out upright and alike; what is no good photo says why."""

import contextlib
import io
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from mien.kit.errors import BadPhoto, TooLarge, UnsupportedFormat
from mien.vision.decode import DecodeLimits, open_photo
from mien.vision.formats import jpeg_end, sniff
from tests.paths_to_data import shared_dir
from tests.photos import photo

Pixels = NDArray[np.uint8]
GetPixels = Callable[[str], Pixels]
Encode = Callable[..., bytes]


def decoded(data: bytes) -> Pixels:
    return open_photo(data).image().pixels


def difference(a: Pixels, b: Pixels) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        ("PNG", {}, 0.0),
        ("BMP", {}, 0.0),
        ("TIFF", {}, 0.0),
        ("TIFF", {"compression": "tiff_lzw"}, 0.0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0.0),
        ("WEBP", {"lossless": True}, 0.0),
        ("WEBP", {"quality": 90}, 4.0),
        ("JPEG", {"quality": 95}, 3.0),
        ("JPEG", {"quality": 95, "progressive": True}, 3.0),
        ("JPEG", {"quality": 95, "subsampling": "4:4:4"}, 3.0),
        ("GIF", {}, 12.0),
    ],
)
def test_formats_decode_to_the_same_photo(
    pixels: GetPixels, encoded: Encode, name: str, options: dict[str, object], most: float
) -> None:
    source = pixels("astronaut")
    result = open_photo(encoded(source, name, **options)).image()
    assert result.pixels.dtype == np.uint8
    assert result.pixels.flags.c_contiguous
    assert result.scale == (1.0, 1.0)
    assert difference(result.pixels, source) <= most


ORIENTED = {  # how a viewer of the upright photo stored it (CIPA DC-008, table of tag 0x0112)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(pixels: GetPixels, encoded: Encode, name: str, orientation: int) -> None:
    upright = np.ascontiguousarray(pixels("astronaut")[:400, :288])
    stored = np.ascontiguousarray(ORIENTED[orientation](upright))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    found = open_photo(encoded(stored, name, exif=exif.tobytes(), lossless=True, quality=95))
    assert (found.width, found.height) == (288, 400)
    assert difference(found.image().pixels, upright) <= (3.0 if name == "JPEG" else 0.0)


@pytest.mark.parametrize("order", ["II", "MM"])
def test_exif_of_both_byte_orders_and_damaged_exif(pixels: GetPixels, encoded: Encode, order: str) -> None:
    jpeg = encoded(pixels("astronaut"), "JPEG")
    sign = "<" if order == "II" else ">"
    tag = struct.pack(sign + "HHIHH", 0x0112, 3, 1, 6, 0)
    block = order.encode() + struct.pack(sign + "HIH", 42, 8, 1) + tag + bytes(4)

    def with_exif(content: bytes) -> bytes:
        segment = b"Exif\0\0" + content
        return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]

    turned = np.rot90(decoded(jpeg), -1)
    assert np.array_equal(decoded(with_exif(block)), turned)
    for cut in range(len(block)):  # never an error: the photo is whole
        assert decoded(with_exif(block[:cut])).shape == (512, 512, 3)


def test_greyscale_palette_one_bit_and_sixteen_bits(pixels: GetPixels, encoded: Encode) -> None:
    grey = PIL.Image.fromarray(pixels("camera")).convert("L")
    expected = np.repeat(np.array(grey)[:, :, None], 3, axis=2)
    for name in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(decoded(encoded(grey, name)), expected)
    assert difference(decoded(encoded(grey, "JPEG", quality=95)), expected) < 2
    deep = PIL.Image.fromarray(np.array(grey, np.uint16) * 257)
    assert np.array_equal(decoded(encoded(deep, "PNG")), expected)
    assert np.array_equal(decoded(encoded(deep, "TIFF")), expected)
    bits = grey.convert("1")
    for name in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(decoded(encoded(bits, name)), np.array(bits.convert("RGB")))
    palette = PIL.Image.fromarray(pixels("astronaut")).quantize(64)
    assert np.array_equal(decoded(encoded(palette, "PNG")), np.array(palette.convert("RGB")))


def test_sixteen_bit_colour_png_keeps_its_upper_byte() -> None:
    samples = np.arange(2 * 3 * 3, dtype=np.uint16).reshape(2, 3, 3) * 3001
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    assert np.array_equal(decoded(png(3, 2, rows, depth=16)), (samples >> 8).astype(np.uint8))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG by the book (ISO/IEC 15948): signature, IHDR, IDAT, IEND."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(pixels: GetPixels, encoded: Encode, name: str) -> None:
    source = pixels("astronaut")
    alpha = np.zeros(source.shape[:2], np.uint8)
    alpha[100:300] = 255
    alpha[300:] = 51  # a fifth
    image = PIL.Image.fromarray(np.dstack([source, alpha]))
    result = decoded(encoded(image, name, **({"lossless": True, "exact": True} if name == "WEBP" else {})))
    assert (result[:100] == 255).all()
    assert np.array_equal(result[100:300], source[100:300])
    blend = 255 - (255 - source[300:].astype(float)) / 5
    assert np.abs(result[300:] - blend).max() <= 1.0


def test_transparent_palette_and_grey(encoded: Encode) -> None:
    grey = PIL.Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8))
    assert decoded(encoded(grey, "PNG", transparency=0))[:, :, 0].tolist() == [[255, 100], [200, 255]]
    palette = PIL.Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    result = decoded(encoded(palette, "PNG", transparency=0))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[0, 1].tolist() == [40, 50, 60]


def test_cmyk_jpeg_with_and_without_adobes_inversion(pixels: GetPixels, encoded: Encode) -> None:
    source = pixels("astronaut")
    inks = PIL.Image.fromarray(source).convert("CMYK")
    written = encoded(inks, "JPEG", quality=95)  # Pillow writes Adobe's marker and inverts
    assert b"Adobe" in written[:200]
    assert difference(decoded(written), source) < 6
    assert difference(decoded(encoded(inks, "TIFF")), source) < 2


def test_float_and_32_bit_samples_are_refused(encoded: Encode) -> None:
    for mode in ("F", "I"):
        with pytest.raises(UnsupportedFormat, match="samples"):
            decoded(encoded(PIL.Image.new(mode, (8, 8)), "TIFF"))


def test_tiff_gives_its_first_page(encoded: Encode) -> None:
    pages = [PIL.Image.new("RGB", (20, 10), c) for c in ("red", "blue")]
    result = decoded(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert result[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_animations_are_refused_and_stills_are_not(encoded: Encode, name: str) -> None:
    frames = [PIL.Image.new("RGB", (20, 10), c) for c in ("red", "blue")]
    with pytest.raises(UnsupportedFormat, match="animated"):
        open_photo(encoded(frames[0], name, save_all=True, append_images=frames[1:]))
    assert decoded(encoded(frames[0], name)).shape == (10, 20, 3)


def test_scaled_decode_agrees_with_the_full_one(pixels: GetPixels, encoded: Encode) -> None:
    big = np.array(
        PIL.Image.fromarray(pixels("astronaut")).resize((4000, 3000), PIL.Image.Resampling.BICUBIC)
    )
    for image, wide in ((big, True), (np.ascontiguousarray(np.rot90(big)), False)):
        found = open_photo(encoded(image, "JPEG", quality=92))
        small = found.image(1280)
        height, width = small.pixels.shape[:2]
        assert max(width, height) == 2000
        assert (width > height) == wide
        assert small.source_size == (found.width, found.height) == image.shape[1::-1]
        assert small.scale == (width / found.width, height / found.height)
        full = found.image()
        assert full.scale == (1.0, 1.0)
        shrunk = np.array(PIL.Image.fromarray(full.pixels).resize((width, height), PIL.Image.Resampling.BOX))
        assert difference(small.pixels, shrunk) < 2.0
        assert found.image(1280) is full  # what is decoded in whole is not decoded again


def test_a_small_photo_is_never_enlarged(pixels: GetPixels, encoded: Encode) -> None:
    assert open_photo(encoded(pixels("astronaut"), "JPEG")).image(1280).pixels.shape == (512, 512, 3)


def test_one_pixel(encoded: Encode) -> None:
    for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        assert decoded(encoded(PIL.Image.new("RGB", (1, 1), "white"), name)).shape == (1, 1, 3)


# What is refused, and how


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", BadPhoto, "empty"),
        (b"Hello, this is a letter and no photo.\n" * 50, UnsupportedFormat, "text"),
        (b"%PDF-1.7\n%\xe2\xe3", UnsupportedFormat, "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedFormat, "markup"),
        (b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00", UnsupportedFormat, "HEIC"),
        (b"\x00\x00\x00\x1cftypisom\x00\x00\x00\x00", UnsupportedFormat, "video"),
        (b"\x00\x01\x02\x03" * 20, UnsupportedFormat, "no photo"),
        (b"\xff\xd8\xff", BadPhoto, "cut short"),
        (b"\xff\xd8\xff\xe0" + bytes(60), BadPhoto, "cut short"),
        (b"\x89PNG\r\n\x1a\n", BadPhoto, "header"),
        (b"RIFF\x00\x00\x00\x00WEBP", BadPhoto, "header"),
        (b"II*\x00", BadPhoto, "header"),
        (b"GIF89a", BadPhoto, "header"),
        (b"BM" + bytes(12) + b"\x28\x00\x00\x00", BadPhoto, "header"),
        (b"BM is how this text begins", UnsupportedFormat, "text"),
    ],
)
def test_what_is_no_photo(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        open_photo(data).image()
    assert type(caught.value) is error


def test_a_bomb_is_refused_by_its_header() -> None:
    rows = zlib.compress(b"\0" * 3 * 20_000)  # the pixel data need not even be there
    with pytest.raises(TooLarge, match="header says 20000 x 20000 px; the limit is 64 megapixels"):
        open_photo(png(20_000, 20_000, rows), DecodeLimits(max_pixels=64_000_000))
    with pytest.raises(TooLarge, match=r"1375731715 x 2000000000 px.* the file is damaged"):
        open_photo(png(1_375_731_715, 2_000_000_000, rows))
    with pytest.raises(TooLarge, match="33 MB; the limit is 32 MB"):
        open_photo(b"\xff\xd8\xff" + bytes(33_000_000), DecodeLimits(max_bytes=32_000_000))
    for name in ("TIFF", "BMP", "WEBP", "GIF", "JPEG"):
        out = io.BytesIO()
        PIL.Image.new("L", (300, 200)).save(out, name)
        with pytest.raises(TooLarge, match="300 x 200"):
            open_photo(out.getvalue(), DecodeLimits(max_pixels=59_999))
        assert open_photo(out.getvalue(), DecodeLimits(max_pixels=60_000)).width == 300


def test_pillows_own_limit_is_told_as_ours() -> None:
    # A BMP of 60,000 x 60,000 by its header.
    header = struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    with pytest.raises(TooLarge):
        open_photo(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(100))


def test_too_many_bytes() -> None:
    with pytest.raises(TooLarge, match="11 bytes; the limit is 10 bytes"):
        open_photo(b"\xff\xd8\xff" + bytes(8), DecodeLimits(max_bytes=10))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_jpeg_is_refused(
    pixels: GetPixels, encoded: Encode, options: dict[str, object], share: float
) -> None:
    whole = encoded(pixels("astronaut"), "JPEG", quality=90, **options)
    cut = whole[: int(len(whole) * share)]
    for data in (cut, cut + b"\xff\xd9"):  # an end marker put behind the cut doesn't help
        with pytest.raises(BadPhoto, match=r"cut short|damaged"):
            open_photo(data).image(None)
        with pytest.raises(BadPhoto, match=r"cut short|damaged"):
            open_photo(data).image(128)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_other_truncated_photos_are_refused(
    pixels: GetPixels, encoded: Encode, name: str, share: float
) -> None:
    whole = encoded(pixels("astronaut"), name)
    with pytest.raises(BadPhoto) as caught:
        open_photo(whole[: int(len(whole) * share)]).image()
    assert "BytesIO" not in str(caught.value)


def test_a_jpeg_with_a_harmless_warning_is_read(pixels: GetPixels, encoded: Encode) -> None:
    whole = encoded(pixels("astronaut"), "JPEG", quality=90)
    end = whole.rindex(b"\xff\xd9")
    odd = whole[:end] + b"\x00\x00\x12" + whole[end:]  # extraneous bytes before the end marker
    assert np.array_equal(decoded(odd), decoded(whole))
    scan = whole.index(b"\xff\xda")
    early = whole[:scan] + b"\x00\x00\x12" + whole[scan:]  # and before the pixel data
    assert np.array_equal(decoded(early), decoded(whole))
    with pytest.raises(BadPhoto, match="cut short"):  # leniency does not hide that the rest is missing
        decoded(early[: len(early) // 2])


def test_damaged_pixel_data_is_refused(pixels: GetPixels, encoded: Encode) -> None:
    whole = bytearray(encoded(pixels("astronaut"), "PNG"))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(BadPhoto, match="damaged"):
        decoded(bytes(whole))


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("payload.txt", "not a photo")
    return out.getvalue()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_polyglots_are_refused(pixels: GetPixels, encoded: Encode, name: str) -> None:
    whole = encoded(pixels("astronaut"), name)
    with pytest.raises(BadPhoto, match="ZIP"):
        open_photo(whole + zipped())


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"Rar!\x1a\x07\x00" + bytes(40), "RAR"),
        (b"\n<script>alert(1)</script>", "markup"),
        (b"\x7fELF" + bytes(60), "program"),
        (b"<?php system($_GET['c']); ?>", "script"),
    ],
)
def test_what_hides_behind_the_end_is_named(
    pixels: GetPixels, encoded: Encode, name: str, tail: bytes, words: str
) -> None:
    with pytest.raises(BadPhoto, match=words):
        open_photo(encoded(pixels("astronaut"), name) + tail)


def test_a_pdf_in_a_comment_is_refused(pixels: GetPixels, encoded: Encode) -> None:
    with pytest.raises(BadPhoto, match="PDF"):
        open_photo(encoded(pixels("astronaut"), "JPEG", comment=b"%PDF-1.4 1 0 obj"))


def test_what_cameras_append_is_fine(pixels: GetPixels, encoded: Encode) -> None:
    whole = encoded(pixels("astronaut"), "JPEG")
    reference = decoded(whole)
    motion = b"\x00\x00\x00\x18ftypmp42" + bytes(200)
    for tail in (bytes(512), whole, motion, b"\x00\x00\x01\x0a\x0e\x00\x00\x00Image_UTC_Data1", b"SEFT"):
        assert np.array_equal(decoded(whole + tail), reference)


def test_jpeg_end_is_found_in_progressive_photos_with_thumbnails(pixels: GetPixels, encoded: Encode) -> None:
    thumbnail = encoded(PIL.Image.new("RGB", (8, 8)), "JPEG")
    exif = b"Exif\0\0" + thumbnail  # an end marker inside a segment is not the photo's
    for options in ({}, {"progressive": True}):
        whole = encoded(pixels("astronaut"), "JPEG", exif=exif, **options)
        assert jpeg_end(whole + b"tail") == len(whole)
        assert jpeg_end(whole[:-100]) is None


def test_scan_bombs_are_refused(pixels: GetPixels, encoded: Encode) -> None:
    whole = encoded(pixels("astronaut"), "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    with pytest.raises(BadPhoto, match="scans"):
        open_photo(whole[:-2] + whole[start:-2] * 300 + b"\xff\xd9")


def test_sniffing_goes_by_content_alone() -> None:
    assert sniff(photo("astronaut").read_bytes()) == "PNG"
    assert sniff(photo("six_faces").read_bytes()) == "JPEG"


def test_many_threads_decode_at_once_and_pillow_is_left_alone(pixels: GetPixels, encoded: Encode) -> None:
    from PIL import ImageFile

    before = (PIL.Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    whole = {name: encoded(pixels("astronaut"), name) for name in ("JPEG", "PNG", "GIF", "TIFF")}
    expected = {name: decoded(data) for name, data in whole.items()}
    wrong: list[str] = []

    def work() -> None:
        for name, data in whole.items():
            if not np.array_equal(decoded(data), expected[name]):
                wrong.append(name)
            try:
                decoded(data[: len(data) // 2])
                wrong.append(f"cut {name}")
            except BadPhoto:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert before == (PIL.Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_any_cut_or_flip_gives_a_photo_or_bad_photo(encoded: Encode, pixels: GetPixels) -> None:
    """Nothing but the errors of our family, whatever the bytes (a small fuzz, seeded)."""
    rng = np.random.default_rng(7)
    small = np.ascontiguousarray(pixels("astronaut")[60:160, 180:280])
    for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        whole = encoded(small, name)
        for _ in range(120):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for at in rng.integers(0, len(data), rng.integers(0, 6)):
                data[at] = rng.integers(0, 256)
            with contextlib.suppress(BadPhoto, TooLarge):
                open_photo(bytes(data), DecodeLimits(max_pixels=1 << 20)).image()


def test_broken_samples_of_another_product() -> None:
    outcomes: dict[str, int | str] = {}
    for path in sorted(shared_dir("testdata", "compreface-samples", "broken").iterdir()):
        try:
            outcomes[path.name] = open_photo(path.read_bytes()).image().pixels.ndim
        except (BadPhoto, TooLarge) as error:
            outcomes[path.name] = error.message
    assert outcomes
    assert all(outcome == 3 or isinstance(outcome, str) for outcome in outcomes.values())
