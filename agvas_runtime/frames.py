"""From an encoded image (bytes or file) to an upright RGB array, or to one line that says why not.

Reads PNG, JPEG, BMP, TIFF and WebP; of several frames or pages the first. Colour profiles are ignored. Nothing here
knows what the image is for.
"""

import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from agvas_runtime.errors import InputError

Scalar = TypeVar("Scalar", bound=np.generic)

AnyImage = NDArray[np.uint8] | bytes | Path | str
"""RGB uint8 [H, W, 3], grey uint8 [H, W], an encoded image, or a file."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 200_000_000
MOST_SCANS = 100
"""Of a JPEG file: a few bytes are one, and one goes over all pixels. libtiff has the same limit for JPEG in TIFF."""
MOST_EXIF = 16
"""Blocks of a JPEG file, of 64 KB each: PIL puts them together one by one, and unpacks some values at once."""
MOST_LISTED = 65_536
"""Values of a TIFF file's tag: PIL makes a Python object of each, and two of each strip."""
MOST_TILE_SIDE, MOST_BESIDE = 65_536, 4096**2
"""Pixels of a TIFF tile's side; and of all tiles beyond `max_pixels`, because those at the edges are unpacked whole."""

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_WIDTH, _LENGTH, _BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 262, 274
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0")
"""How files begin that PIL takes for TIFF; the last one is BigTIFF."""
_BIG_ENDIAN_BIGTIFF = b"MM\0+"
_RAW_KINDS = (1, 2, 7)
"""Of values: bytes, text, anything. PIL makes one object of all of them, and goes through those of some tags."""
_GONE_THROUGH = frozenset({258, 273, 279, 320, 324, 325, 338, 339})
_RUN_LENGTHS = (1, 2)
"""Compressions of BMP that PIL unpacks in Python, pixel by pixel."""
_EXIF = b"Exif\0\0"
_PIL_LIMIT = threading.Lock()


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Image file -> uint8 RGB [H,W,3]. Raises InputError with the file's name and the reason."""
    return decode_image(read_bytes(path), str(path))


def decode_image(
    data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS, most_side: int | None = None
) -> NDArray[np.uint8]:
    """Encoded image -> uint8 RGB [H,W,3], upright by its EXIF orientation; the array may be read-only, see `as_rgb`.

    One of more pixels, or of a longer side, is refused by its header, before anything is unpacked. Grey deeper than
    8 bits is scaled by its nominal depth, never by what a frame holds (of 16-bit colour PIL gives the upper byte);
    alpha is dropped, the colour kept. Raises InputError with the name and the reason.
    """
    image = open_image(data, name, max_pixels, most_side)
    pixels = np.asarray(_to_rgb(image, name))
    if pixels.dtype != np.uint8:
        top = nominal_range(image, name)
        pixels = ((pixels.astype(np.uint32) * 510 + top) // (2 * top)).astype(np.uint8)  # v * 255 / top, rounded
        if _tiff_tag(image, _PHOTOMETRIC, 1) == 0:  # white is zero; PIL turns 8-bit images only
            pixels = 255 - pixels
    turned = upright(pixels, image)
    return as_rgb(turned) if turned.ndim == 2 else turned


def decoded(image: AnyImage) -> NDArray[np.uint8]:
    """A frame in any of its forms as uint8 RGB [H, W, 3], see `as_rgb`; raises InputError naming what was found."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2 or not image.size:
            found = f"found {image.dtype} {list(image.shape)}"
            raise InputError(f"image: {found}, expected uint8 RGB [H, W, 3] or grey [H, W]")
        return as_rgb(image) if image.ndim == 2 else image
    if isinstance(image, bytes):
        return decode_image(image, "image")
    if isinstance(image, str | Path):
        return decode_image(read_bytes(image), str(image))
    raise InputError(f"image: found {type(image).__name__}, expected an array, bytes, or a path")


def as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey [H, W] as RGB [H, W, 3], read-only: its channels are one and the same, which costs no memory."""
    return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))


def grey_of(image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """What `as_rgb` made [H, W, 3] of; None where it was RGB all along."""
    return image[:, :, 0] if image.strides[2] == 0 else None


def read_bytes(path: Path | str) -> bytes:
    """The file's content. Raises InputError when there is none to read."""
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not an image file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise InputError(f"{path}: the file is empty")
    return data


def open_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS, most_side: int | None = None) -> Image.Image:
    """The decoded first frame as PIL has it, in its own mode. Raises InputError."""
    if data.startswith(_BIG_ENDIAN_BIGTIFF):  # libtiff reads other tags in it than PIL, whose tags are checked below
        raise InputError(f"{name}: found a big-endian BigTIFF file, expected a little-endian one or a TIFF file")
    if (listed := _listed(data)) > MOST_LISTED:
        raise InputError(f"{name}: found a TIFF file with a list of {listed} values, expected at most {MOST_LISTED}")
    if data.startswith(b"\xff\xd8") and (blocks := data.count(_EXIF)) > MOST_EXIF:
        raise InputError(f"{name}: found a JPEG file of {blocks} EXIF blocks, expected at most {MOST_EXIF}")
    image = _open(data, name)
    if image.width * image.height > max_pixels:
        limit = f"the limit of {max_pixels / 10**6:g} megapixels"
        raise InputError(f"{name}: {image.width} x {image.height} pixels are more than {limit}")
    if most_side is not None and max(image.size) > most_side:
        found = f"found {image.width} x {image.height} pixels, expected at most {most_side} along either side"
        raise InputError(f"{name}: {found}")
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise InputError(f"{name}: found a BMP file of run lengths, expected one without compression")
    if image.format == "TIFF":
        _check_tiles(image, name, max_pixels)
        image.is_animated = True  # type: ignore[attr-defined]  # else PIL unpacks all of its EXIF, which nobody asks for
    if (scans := _scans(data)) > MOST_SCANS:
        raise InputError(f"{name}: found a JPEG file of {scans} scans, expected at most {MOST_SCANS}")
    try:
        image.load()
    except Exception as error:  # decoders meet hostile bytes here and raise nearly anything
        raise InputError(f"{name}: {_damage(error, data)}") from None
    return image


def nominal_range(image: Image.Image, name: str) -> int:
    """The largest value that a grey image of more than 8 bits can hold: 65535, or 4095 for a TIFF of 12 bits."""
    bits = _tiff_tag(image, _BITS_PER_SAMPLE, 16)
    if image.mode == "I" and image.format == "TIFF":  # signed 16 bit or any 32 bit; PNG's I is unsigned 16 bit
        kind = "signed" if bits == 16 else "integer"
        raise InputError(f"{name}: {bits}-bit {kind} pixels; save the image as 8 or 16 bit unsigned")
    return (1 << min(bits, 16)) - 1


def upright(pixels: NDArray[Scalar], image: Image.Image) -> NDArray[Scalar]:
    """The array [H,W,...] turned as the image's EXIF orientation (1 to 8) says."""
    try:
        exif = image.info.get("exif", b"").removeprefix(_EXIF).removeprefix(_EXIF)  # PIL takes two, too
        orientation = image.getexif().get(_ORIENTATION, 1) if _listed(exif) <= MOST_LISTED else 1
    except Exception:  # a broken EXIF block does not make the pixels worse
        orientation = 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def find_images(path: Path | str) -> list[Path]:
    """The file itself, or the folder's image files by name, without its subfolders. Raises InputError when none."""
    path = Path(path)
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise InputError(f"{path}: no such file or folder")
        found = (item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and not item.name.startswith("."))
        images = sorted(item for item in found if item.is_file())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if not images:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise InputError(f"{path}: no images in this folder ({suffixes}; subfolders are not searched)")
    return images


def _open(data: bytes, name: str) -> Image.Image:
    """PIL's lazy image: the header is read, no pixel yet. PIL's own size limit is global: ours stands in its place."""
    with _PIL_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            if data.startswith(_SIGNATURES):
                raise InputError(f"{name}: truncated, damaged or unsupported image (header)") from None
            raise InputError(f"{name}: not an image file agvas can read (PNG, JPEG, BMP, TIFF, WebP)") from None
        except Exception as error:
            raise InputError(f"{name}: {_damage(error, data)}") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _scans(data: bytes) -> int:
    """How many scans a JPEG file may have: no fewer than are decoded. 0 for other files.

    A scan begins with a marker, the length of its header and its number of components, of which the length follows:
    libjpeg takes no other. Looking for all of that finds none in what some cameras put behind the image.
    """
    if not data.startswith(b"\xff\xd8"):
        return 0
    return sum(data.count(bytes((0xFF, 0xDA, 0, 6 + 2 * components, components))) for components in range(5))


def _listed(data: bytes) -> int:
    """The longest list on a TIFF file's first page that PIL makes objects of, its tags included; 0 for other files."""
    if not data.startswith(_TIFF):
        return 0
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    at, size, head, entry = (8, 8, 8, "HHQ8x") if data[2] == 43 else (4, 4, 2, "HHI4x")
    start = int.from_bytes(data[at : at + size], order)
    tags = int.from_bytes(data[start : start + head], order)
    entries = struct.Struct(("<" if order == "little" else ">") + entry)
    held = data[start + head : start + head + min(tags, MOST_LISTED) * entries.size]
    held = held[: len(held) // entries.size * entries.size]
    counts = [n for tag, kind, n in entries.iter_unpack(held) if kind not in _RAW_KINDS or tag in _GONE_THROUGH]
    return int(max(tags, *counts, 0))


def _check_tiles(image: Image.Image, name: str, max_pixels: int) -> None:
    """Raise InputError for TIFF tiles that are far larger than the image, and unpacked all the same."""
    tags = getattr(image, "tag_v2", {})
    if _TILE_WIDTH not in tags and _TILE_LENGTH not in tags:
        return
    covered = 1
    for side, tag in ((_tiff_tag(image, _WIDTH, 1), _TILE_WIDTH), (_tiff_tag(image, _LENGTH, 1), _TILE_LENGTH)):
        tile = tags.get(tag, side)
        tile = tile[0] if isinstance(tile, bytes) else tile
        if not isinstance(tile, int) or not 1 <= tile <= MOST_TILE_SIDE:
            found = tile if isinstance(tile, int) else type(tile).__name__
            raise InputError(f"{name}: found a TIFF tile's side of {found}, expected 1 to {MOST_TILE_SIDE} pixels")
        covered *= -(-side // tile) * tile
    if covered > max_pixels + MOST_BESIDE:
        limit = f"{max_pixels / 10**6:g} megapixels and a tile beside"
        raise InputError(f"{name}: found a TIFF file whose tiles hold {covered} pixels, expected at most {limit}")


def _damage(error: Exception, data: bytes) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    short_riff = data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 > len(data)
    short_jpeg = data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-64:]
    cut = short_riff or short_jpeg or isinstance(error, EOFError) or "truncat" in text.lower()
    return f"{'truncated' if cut else 'damaged'} image ({text})"


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """A TIFF's tag (the first of several values); the default for other formats and absent tags."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """8-bit images in mode L or RGB, deeper grey as it is. Raises InputError for modes without a nominal range."""
    if image.mode in ("L", "RGB") or image.mode.startswith("I"):
        return image
    if image.mode == "F":
        raise InputError(f"{name}: 32-bit float pixels have no nominal range; save the image as 8 or 16 bit")
    try:
        if image.mode in ("P", "PA"):  # by way of RGBA: PIL warns of a palette's transparency otherwise
            return image.convert("RGBA").convert("RGB")
        return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    except (ValueError, OSError) as error:
        raise InputError(f"{name}: pixels in mode {image.mode} cannot become RGB ({error})") from None
