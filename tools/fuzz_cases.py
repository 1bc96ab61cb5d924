"""Hostile requests, each made from a seed alone: bytes, messages, images, streams, connections. `fuzz.py` sends it."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from agvas_runtime.proto.agvas.v1 import admin_pb2
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

Random = random.Random
NAN, INFINITY = float("nan"), float("inf")

UNARY = (
    "/agvas.v1.Inspection/Segment",
    "/agvas.v1.Inspection/GetModel",
    "/agvas.v1.Admin/ReloadRecipes",
    "/agvas.v1.Admin/GetStatistics",
    "/grpc.health.v1.Health/Check",
)
STREAMED = (
    "/agvas.v1.Inspection/Explain",
    "/agvas.v1.Admin/Swap",
    "/grpc.health.v1.Health/Watch",
)
BOTH_WAYS = (
    "/agvas.v1.Inspection/Inspect",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
DRAIN = "/agvas.v1.Admin/Drain"
NO_MESSAGE = b"\xff\xff\xff\xff\xff"
"""Bytes that are no message of any type: a tag that does not end."""


@dataclass(frozen=True)
class Call:
    """A call of a method with raw bytes as its messages.

    Attributes:
        messages: what is sent; endless where `endless`, until the answers were looked at.
        frames: of a stream of `Inspect`: how many frames it sends that must each be answered; -1 where its opening is
            wrong, so that the stream ends with a status.
        gzip: whether the messages are compressed.
    """

    method: str
    messages: tuple[bytes, ...]
    frames: int = 0
    endless: bool = False
    gzip: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    leave: bool = False
    """Whether the caller goes away after the first answer."""


@dataclass(frozen=True)
class Wire:
    """Bytes written to the port as they are."""

    data: bytes
    half_close: bool = True
    """Whether the caller says that nothing more comes; else the server must close by itself."""
    grpc_frame: bool = False
    """Whether it is HTTP/2 with a malformed gRPC frame in it: gRPC's own core answers that."""


Case = Call | Wire


def some_bytes(rng: Random, most: int = 300) -> bytes:
    """Random bytes."""
    return rng.randbytes(rng.randrange(most))


def small_image(rng: Random, kind: str = "PNG") -> bytes:
    """A valid image file of a few pixels."""
    size = rng.randrange(1, 40), rng.randrange(1, 40)
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)).save(buffer, kind)
    return buffer.getvalue()


def valid(rng: Random) -> pb.SegmentRequest:
    """A request that the server can answer, and cheaply."""
    request = pb.SegmentRequest(mask_format=rng.choice(pb.MaskFormat.values()))
    if rng.random() < 0.5:
        width, height = rng.randrange(1, 40), rng.randrange(1, 40)
        data = rng.randbytes(width * height * 3)
        raw = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, width=width, height=height, data=data)
        request.frame.raw.CopyFrom(raw)
    else:
        request.frame.encoded = small_image(rng)
    request.decoding.max_new_tokens = rng.randrange(1, 12)
    request.frame.identity.camera_id = f"camera {rng.randrange(100)}"
    return request


def mutated(rng: Random, data: bytes) -> bytes:
    """The bytes with some flipped, cut, doubled or put in between."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at:at] = some_bytes(rng, 20)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randrange(1, 60)]
        elif at < len(out):
            out[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
    return bytes(out)


def _raw_bytes(rng: Random) -> Case:
    method = rng.choice(UNARY + STREAMED + BOTH_WAYS + (DRAIN,))
    data = some_bytes(rng)
    if method == DRAIN:  # whatever decodes would stop the server's work
        data = NO_MESSAGE + data
    if method == "/agvas.v1.Inspection/Inspect":
        return Call(method, (data,), frames=-1)
    return Call(method, (data,), metadata=_metadata(rng))


def _mutated_request(rng: Random) -> Case:
    method = rng.choice(("/agvas.v1.Inspection/Segment", "/agvas.v1.Inspection/Explain"))
    return Call(method, (mutated(rng, valid(rng).SerializeToString()),))


ODD_NUMBERS = (NAN, INFINITY, -INFINITY, -1.0, -0.0, 1e308, 5e-324, 2.0)
ODD_CHOICES = tuple(range(-5, 50))
ODD_INTEGERS = (0, 1, 2**31 - 1, 2**32 - 1)
ODD_TEXTS = (
    *("", " ", "\x00", "\n", "a" * 5000, "\u202e", "\U0001f4a5" * 70),
    *("bracket", "default", "cam-03", "[NOR][ANO][SEG]", "<image>", "<|im_end|>", "../../etc/passwd"),
)


def _odd_fields(rng: Random) -> Case:
    request = valid(rng)
    for _ in range(rng.randrange(1, 4)):
        _spoil(rng, request)
    if not 0 < request.decoding.max_new_tokens <= 12:
        request.decoding.no_text = True  # an answer to its end would take the engine's time
        return Call("/agvas.v1.Inspection/Segment", (request.SerializeToString(),))
    method = rng.choice(("/agvas.v1.Inspection/Segment", "/agvas.v1.Inspection/Explain"))
    return Call(method, (request.SerializeToString(),))


def _spoil(rng: Random, request: pb.SegmentRequest) -> None:
    """Put an odd value into one field."""
    places: list[tuple[object, str, tuple[object, ...]]] = [
        (request.recipe, "threshold", ODD_NUMBERS),
        (request.recipe, "alpha", ODD_NUMBERS),
        (request.recipe, "min_score", ODD_NUMBERS),
        (request.recipe, "min_area_px", ODD_INTEGERS),
        (request.recipe, "on_no_answer", ODD_CHOICES),
        (request, "deadline_ms", ODD_NUMBERS),
        (request.decoding, "temperature", ODD_NUMBERS),
        (request.decoding, "top_p", ODD_NUMBERS),
        (request.decoding, "strict_below", ODD_NUMBERS),
        (request.decoding, "max_new_tokens", ODD_INTEGERS),
        (request.decoding, "seed", (2**64 - 1,)),
        (request, "mask_format", ODD_CHOICES),
        (request, "probability_format", ODD_CHOICES),
        (request, "mode", ODD_CHOICES),
        (request, "instruction", ODD_TEXTS),
        (request, "class_name", ODD_TEXTS),
        (request, "normal_look", ODD_TEXTS),
        (request, "recipe_name", ODD_TEXTS),
        (request.frame.identity, "camera_id", ODD_TEXTS),
        (request.frame.identity.capture_time, "nanos", (-(2**31),)),
        (request.recipe, "roi", ()),
    ]
    message, field, values = rng.choice(places)
    if values:
        setattr(message, field, rng.choice(values))
    else:
        _odd_roi(rng, request.recipe.roi)


def _odd_roi(rng: Random, roi: pb.Box) -> None:
    roi.x0, roi.y0, roi.x1, roi.y1 = (rng.choice((*ODD_INTEGERS, 5, 10)) for _ in range(4))


def _odd_raw(rng: Random) -> Case:
    raw = pb.RawImage(
        pixel_format=rng.choice((*pb.PixelFormat.values(), 77, -1)),
        width=rng.choice((0, 1, 7, 16, 100_000, 2**32 - 1)),
        height=rng.choice((0, 1, 7, 16, 100_000, 2**32 - 1)),
        stride=rng.choice((0, 1, 3, 47, 48, 1000, 2**32 - 1)),
        data=some_bytes(rng, 1200),
    )
    return Call("/agvas.v1.Inspection/Segment", (pb.SegmentRequest(frame=pb.Frame(raw=raw)).SerializeToString(),))


def png_claiming(width: int, height: int, data: bytes) -> bytes:
    """A PNG file whose header says so, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(50 << 20), 9)
"""50 MiB of zeros in 50 kB."""


def bmp_claiming(width: int, height: int) -> bytes:
    """The head of a BMP file."""
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def tiff_claiming(width: int, height: int) -> bytes:
    """A TIFF file of one strip that is not there."""
    tags = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 2**31))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def _odd_image(rng: Random) -> Case:
    huge = rng.choice((100_000, 2**31 - 1, 60_000))
    data = rng.choice(
        (
            lambda: png_claiming(huge, huge, b""),
            lambda: png_claiming(100_000, 100_000, BOMB),
            lambda: png_claiming(20_000, 20_000, BOMB),
            lambda: png_claiming(2, 2, BOMB),
            lambda: png_claiming(0, rng.randrange(9), b""),
            lambda: bmp_claiming(huge, rng.choice((huge, -huge, 1, 0))),
            lambda: tiff_claiming(huge, huge),
            lambda: tiff_claiming(3, 3),
            lambda: mutated(rng, small_image(rng, rng.choice(("PNG", "JPEG", "BMP", "TIFF", "WEBP")))),
            lambda: small_image(rng, "GIF"),
            lambda: small_image(rng)[: rng.randrange(60)],
            lambda: some_bytes(rng),
        )
    )()
    return Call("/agvas.v1.Inspection/Segment", (pb.SegmentRequest(frame=pb.Frame(encoded=data)).SerializeToString(),))


def _large_bomb(rng: Random) -> Case:
    """Within the limit of pixels: it must be unpacked to be found wanting, or answered."""
    if rng.random() < 0.3:
        width = rng.choice((65_536, 65_537, 20_000_000))  # a row
        raw = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_MONO8, width=width, height=1, data=bytes(width))
        return Call("/agvas.v1.Inspection/Segment", (pb.SegmentRequest(frame=pb.Frame(raw=raw)).SerializeToString(),))
    data = png_claiming(4000, 4000, zlib.compress(bytes(rng.choice((4000 * 12001, 4000 * 6000))), 9))
    return Call("/agvas.v1.Inspection/Segment", (pb.SegmentRequest(frame=pb.Frame(encoded=data)).SerializeToString(),))


def _stream(rng: Random) -> Case:
    opening = pb.CameraStream(
        camera_id=rng.choice(("a", "b", "\n", "x" * 300)),
        policy=rng.choice((0, 1, 2, 2, 9)),
        heartbeat_ms=rng.choice((100, 1000, 0, 2**32 - 1)),
    )
    if rng.random() < 0.3:
        opening.queue = rng.choice((0, 1, 4, 65))
    if rng.random() < 0.3:
        opening.defaults.recipe.min_score = rng.choice(ODD_NUMBERS)
    wrong = opening.policy == 9 or opening.heartbeat_ms in (0, 2**32 - 1)
    wrong |= opening.HasField("queue") and opening.queue in (0, 65)
    wrong |= not 0 <= opening.defaults.recipe.min_score <= 1
    if rng.random() < 0.1:
        return Call("/agvas.v1.Inspection/Inspect", tuple(_event(rng) for _ in range(3)), frames=-1)
    frames = tuple(_event(rng) for _ in range(rng.randrange(8)))
    messages = (pb.InspectRequest(open=opening).SerializeToString(), *frames)
    leave = rng.random() < 0.1
    return Call("/agvas.v1.Inspection/Inspect", messages, frames=-1 if wrong else len(frames), leave=leave)


def _event(rng: Random) -> bytes:
    """A frame of a stream, or what stands in its place."""
    return rng.choice(
        (
            lambda: pb.InspectRequest(frame=valid(rng)).SerializeToString(),
            lambda: mutated(rng, pb.InspectRequest(frame=valid(rng)).SerializeToString()),
            lambda: NO_MESSAGE + some_bytes(rng),
            lambda: b"",
            lambda: pb.InspectRequest(frame=pb.SegmentRequest()).SerializeToString(),
            lambda: pb.InspectRequest(
                frame=pb.SegmentRequest(frame=pb.Frame(encoded=some_bytes(rng)))
            ).SerializeToString(),
        )
    )()


def _no_image(rng: Random) -> pb.SegmentRequest:
    return pb.SegmentRequest(frame=pb.Frame(encoded=some_bytes(rng)))


def _endless(rng: Random) -> Case:
    policy = rng.choice((1, 2))
    opening = pb.InspectRequest(open=pb.CameraStream(camera_id="endless", policy=policy, heartbeat_ms=100))
    return Call("/agvas.v1.Inspection/Inspect", (opening.SerializeToString(), _event(rng)), frames=1, endless=True)


def _compressed(rng: Random) -> Case:
    data = rng.choice((lambda: bytes(80 << 20), lambda: some_bytes(rng), lambda: valid(rng).SerializeToString()))()
    return Call("/agvas.v1.Inspection/Segment", (data,), gzip=True)


def _metadata(rng: Random) -> tuple[tuple[str, str], ...]:
    return rng.choice(
        (
            (),
            (("authorization", "Bearer nonsense"),),
            (("authorization", "Basic " + "A" * 2000),),
            (("x-request-id", "../" * 20),),
            (("x-request-id", "r-1"),),
            (("grpc-timeout-x", "9" * 50),),
        )
    )


def _swap(rng: Random) -> Case:
    request = admin_pb2.SwapRequest(
        bundle=rng.choice((*ODD_TEXTS, "bundle", "..", "/", "bundle/..", "a/b", ".", "bundle\0")),
        shadow_frames=rng.choice(ODD_INTEGERS),
        shadow_timeout_s=rng.choice((*ODD_NUMBERS, 0.1)),
        max_disagreement=rng.choice(ODD_NUMBERS),
        min_iou=rng.choice(ODD_NUMBERS),
        max_slowdown=rng.choice(ODD_NUMBERS),
        dry_run=True,
    )
    return Call("/agvas.v1.Admin/Swap", (request.SerializeToString(),))


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def http2_frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def malformed_grpc_frame(body: bytes) -> bytes:
    """A call of `GetModel` over HTTP/2 whose message frame says something else than it is."""
    path = b"/agvas.v1.Inspection/GetModel"
    headers = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a"))
    headers += ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
    block = b"".join(_header(name, value) for name, value in headers)
    return PREFACE + SETTINGS + http2_frame(1, 4, 1, block) + http2_frame(0, 1, 1, body)


def _wire(rng: Random) -> Case:
    if rng.random() < 0.3:
        body = rng.choice((b"\xff" + some_bytes(rng, 30), b"\0\xff\xff\xff\xff", b"\x02\0\0\0\0", b"\0\0"))
        return Wire(malformed_grpc_frame(body), grpc_frame=True)
    if rng.random() < 0.5:
        http = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
        return Wire(
            rng.choice((http, b"\x16\x03\x01" + rng.randbytes(200), b"\0" + rng.randbytes(500))), half_close=False
        )
    return Wire(
        rng.choice(
            (
                lambda: some_bytes(rng, 2000),
                lambda: PREFACE + some_bytes(rng, 500),
                lambda: PREFACE + SETTINGS + http2_frame(rng.randrange(12), rng.randrange(256), 1, some_bytes(rng)),
                lambda: b"",
            )
        )()
    )


KINDS: dict[str, tuple[Callable[[Random], Case], float]] = {
    "random bytes": (_raw_bytes, 0.30),
    "mutated requests": (_mutated_request, 0.16),
    "odd fields": (_odd_fields, 0.14),
    "raw frames": (_odd_raw, 0.14),
    "images": (_odd_image, 0.14),
    "large bombs": (_large_bomb, 0.0005),
    "streams": (_stream, 0.05),
    "endless streams": (_endless, 0.001),
    "compressed": (_compressed, 0.002),
    "swaps": (_swap, 0.01),
    "connections": (_wire, 0.06),
}
"""Name of a kind of case -> how one is made, and its share."""


def cases(seed: int, count: int) -> Iterator[tuple[int, str, Case]]:
    """So many cases with their numbers and kinds; case `i` depends on the seed and on `i` alone."""
    names, shares = list(KINDS), [share for _, share in KINDS.values()]
    for index in range(count):
        rng = Random(seed * 1_000_003 + index)
        name = rng.choices(names, shares)[0]
        yield index, name, KINDS[name][0](rng)
