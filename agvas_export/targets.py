"""Which precision goes where, and which do not go together: settled before any work starts, and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from agvas_runtime.errors import InputError

OPSET = 23
"""The first with attention, RMS norm and rotary embedding as single nodes; ONNX Runtime 1.23 runs it, the last for
Python 3.10."""
LLM_GRAPHS = ("llm", "decode")
"""They share their weights."""
ENCODER_GRAPHS = ("semantic_encoder", "pixel_encoder")

ENCODERS = ("fp32", "fp16", "int8")
LLM = ("fp32", "fp16", "int8", "int4", "fp8")
TRT = ("fp16", "int8", "fp8")
OPSETS = range(17, OPSET + 1)
TRT_OPSET, TRT_OPSET_STATIC = 17, 19
"""For TensorRT: 8.6 reads up to 17, Q/DQ in half precision needs 19, and attention as a single node needs 10.15."""
STATIC = {"int8": "int8-static", "fp8": "fp8"}
"""Of an engine's precision: 8 bits with scales from a calibration set, as Q/DQ nodes in a half-precision graph."""


@dataclass(frozen=True)
class Targets:
    """What every graph becomes.

    Attributes:
        encoders, spam, llm, decoder: fp32, fp16, int8 (weights and activations, scales as they come), int4 (weights),
            int8-static and fp8 (weights and activations, calibrated).
        trt: precision of the native engines; None where there are to be none.
    """

    encoders: str = "fp32"
    spam: str = "fp32"
    llm: str = "fp32"
    decoder: str = "fp32"
    trt: str | None = None
    opset: int = OPSET

    def precision(self, graph: str) -> str:
        """Of a graph."""
        if graph in LLM_GRAPHS:
            return self.llm
        if graph in ENCODER_GRAPHS:
            return self.encoders
        return self.spam if graph == "spam" else self.decoder

    @property
    def calibrated(self) -> bool:
        """Whether a calibration set is needed."""
        return any(precision in STATIC.values() for precision in (self.encoders, self.llm))

    @property
    def lowest(self) -> str:
        """The precision that decides what the whole bundle may lose."""
        order = ("int4", "fp8", "int8-static", "int8", "fp16", "fp32")
        return min((self.encoders, self.spam, self.llm, self.decoder), key=order.index)

    @property
    def engine_graphs(self) -> list[str]:
        """Graphs that become native engines. Decoding token by token never does; int4 is ONNX Runtime's own."""
        names = [*ENCODER_GRAPHS, "spam", *(["llm"] if self.llm != "int4" else []), "decoder"]
        return names if self.trt else []


def resolve(
    *,
    trt: str | None = None,
    defer: bool = False,
    encoders: str | None = None,
    llm: str | None = None,
    calibration: bool = False,
    opset: int | None = None,
) -> Targets:
    """From the command line's options to the targets. Without an opset it is the one that most of where it runs reads.

    Raises:
        InputError: an option has an unknown value, or two do not go together.
    """
    known("--trt", trt, TRT)
    known("--encoders", encoders, ENCODERS)
    known("--llm", llm, LLM)
    if opset is not None and opset not in OPSETS:
        raise InputError(f"--opset: found {opset}, expected {OPSETS.start} to {OPSETS[-1]}")
    if defer and not trt:
        raise InputError("--defer leaves the building of engines to their device, and needs --trt, which names them")
    if trt and encoders:
        raise InputError("can't use both --trt and --encoders; --trt decides the encoders' precision")
    if trt and llm == "fp32":
        raise InputError("can't use --trt with --llm fp32; native engines have 16 or 8 bits: leave --llm out")
    if trt:
        model = llm or trt
        parts = (STATIC.get(trt, trt), "fp16", STATIC.get(model, model), "fp16")
        oldest = TRT_OPSET_STATIC if set(parts) & set(STATIC.values()) else TRT_OPSET
    else:
        part, model = encoders or "fp32", llm or "fp32"
        parts = (part, part, model, "fp16" if part == "fp16" else "fp32")
        oldest = TRT_OPSET_STATIC if model == "fp8" else OPSETS.start
    targets = Targets(*parts, trt, opset or (oldest if trt else OPSET))
    if targets.opset < oldest:
        raise InputError(f"--opset: found {opset}, expected {oldest} or more for 8 bits with scales in the graph")
    if targets.calibrated and not calibration:
        asks = f"--trt {trt}" if targets.encoders in STATIC.values() else f"--llm {llm}"
        beside = " beside --trt" if trt and targets.encoders == "fp16" else ""
        raise InputError(f"{asks}{beside} needs --calibration, a folder of images like those it will see")
    if calibration and not targets.calibrated and targets.llm != "int4":
        raise InputError("--calibration: nothing to calibrate; --trt int8, --trt fp8 and --llm fp8 need it, int4 may")
    return targets


def known(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Raise InputError, with the nearest choice, for a value that is none of them."""
    if value is None or value in choices:
        return
    close = get_close_matches(value.lower(), choices, n=1, cutoff=0.3)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"{option}: found {value!r}; {hint}it takes {', '.join(choices)}")


TABLE = (
    ("(nothing)", "fp32", "fp32", "fp32", "ONNX Runtime, any device", ""),
    ("--encoders fp16", "fp16", "fp32", "fp16", "ONNX Runtime; rounds on GPUs only", "not with --trt"),
    ("--encoders int8", "int8", "fp32", "fp32", "ONNX Runtime, CPU", "not with --trt"),
    ("--llm fp16", "fp32", "fp16", "fp32", "ONNX Runtime; rounds on GPUs only", ""),
    ("--llm int8", "fp32", "int8", "fp32", "ONNX Runtime, CPU", "--calibration beside --trt"),
    ("--llm int4", "fp32", "int4", "fp32", "ONNX Runtime", "--calibration: GPTQ, else HQQ"),
    ("--llm fp8", "fp32", "fp8", "fp32", "ONNX Runtime; in 8 bits on TensorRT only", "needs --calibration"),
    ("--trt fp16", "fp16", "fp16", "fp16", "TensorRT", "--llm int8, int4, fp8 instead"),
    ("--trt int8", "int8", "int8", "fp16", "TensorRT", "needs --calibration"),
    ("--trt fp8", "fp8", "fp8", "fp16", "TensorRT 10.6 and newer", "needs --calibration"),
)
"""Option, precision of encoders, language model and mask decoder, where the graphs run, what goes with it."""
