"""Our best honest decoding token by token: compiled, with a cache in fixed memory, as CUDA graphs on a GPU.

It exists so that the single pass is compared with a fast rival, not with the plain reference. What is asked, how the
answer is read and what a map is are the reference engine's; encoders, decoding and mask decoder are compiled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig
from transformers.cache_utils import Cache, StaticLayer

from agvas_runtime.errors import EngineError
from agvas_train.checkpoint import Checkpoint
from agvas_train.model import Visual
from agvas_train.reference import Decoded, ReferenceSegmenter

ATTENTION = "agvas-slots"
SLOT_STEP = 256
"""Caches come in multiples of this many tokens, so that instructions of different lengths share a compiled step."""
SHAPES = 64
"""Prompt lengths that are compiled; longer lists run eagerly."""
CUDA = {"triton.cudagraphs": True}
"""torch.compile's mode "reduce-overhead"."""
CUDA_TOKEN = {**CUDA, "coordinate_descent_tuning": True}
"""For a token's pass also tuned kernels for products with one row, which only read the weights; they compile long."""
CPU = {"cpp_wrapper": True}
"""One library a graph instead of one a kernel: compiles faster, and calls cost less."""
RECORDING_CALLS = 2
"""The first compiles and runs as it is, the second records a CUDA graph; from then on it is replayed."""


class SlotLayer(StaticLayer):
    """Keys and values of one layer in fixed memory: the prompt overwrites what was there, every token adds a slot."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep keys and values [1, heads, T, d]; a prompt's attention sees the prompt alone, a token's all slots."""
        length = key_states.shape[2]
        if length == 1:
            return super().update(key_states, value_states)
        self.keys[:, :, :length] = key_states
        self.values[:, :, :length] = value_states
        self.cumulative_length.fill_(length)
        return key_states, value_states


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of the whole prompt (without a mask, causal) or of one token over all slots (with their mask).

    The library repeats keys and values for a masked token; here the query heads that share a key head become rows.
    """
    groups = query.shape[1] // key.shape[1]
    if mask is None:
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        return out.transpose(1, 2), None
    rows = query.squeeze(2).unflatten(1, (-1, groups))  # 1, key heads, groups, d
    out = scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    return out.flatten(1, 2)[:, None], None


AttentionInterface.register(ATTENTION, _attention)


class CompiledDecodeSegmenter(ReferenceSegmenter):
    """The reference engine with compiled encoders and compiled decoding. The first call of a prompt length compiles.

    Raises:
        EngineError: at the first call, where nothing can be compiled on this machine.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, max_new_tokens: int | None = None, template_scores: bool = True
    ) -> None:
        super().__init__(checkpoint, max_new_tokens=max_new_tokens, template_scores=template_scores)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
        language = self.model.llava.model.language_model.config
        self._language: PretrainedConfig = language
        self._token_ids = torch.arange(language.vocab_size, device=self.device)
        self._slots: dict[int, tuple[Cache, Tensor]] = {}
        self._recorded: set[object] = set()
        options, token_options = (CUDA, CUDA_TOKEN) if self.device.type == "cuda" else (CPU, CPU)
        self._encode = _compiled(self.model.encode, options)
        self._prefill = _compiled(self._prompt_pass, options)
        self._step = _compiled(self._token_pass, token_options)
        self._fused = _compiled(super().fused, options)

    def encode(self, semantic: Tensor, pixels: Tensor) -> Visual:
        """As the reference, compiled."""
        self._record("encode", lambda: self._encode(semantic, pixels))
        return Visual(*(part.clone() for part in self._encode(semantic, pixels)))

    def fused(
        self, anchor_states: Tensor, pixel: Tensor, present: tuple[int, ...], alpha: float | None = None
    ) -> Tensor:
        """As the reference, compiled; another alpha compiles again."""
        self._record((present, alpha), lambda: self._fused(anchor_states, pixel, present, alpha))
        return self._fused(anchor_states, pixel, present, alpha).clone()

    def decode(self, embeds: Tensor, limit: int) -> Decoded:
        """As the reference: greedy, lowest id on ties. The device is waited for once a token, to see the end."""
        length = -(-(embeds.shape[1] + limit) // SLOT_STEP) * SLOT_STEP
        self._record((embeds.shape[1], length), lambda: self._decode(embeds, limit, length))
        return self._decode(embeds, limit, length)

    def _decode(self, embeds: Tensor, limit: int, length: int) -> Decoded:
        cache, slots = self._cache(length)
        positions = torch.arange(embeds.shape[1], device=self.device)[None]
        tokens: list[int] = []
        states: list[Tensor] = []
        margins: list[Tensor] = []
        finished = False
        with _attention_of(self._language, ATTENTION):
            token, state, margin = self._prefill(embeds, positions, cache)
            while True:
                # the next replay of a CUDA graph overwrites its outputs
                token = token.clone()
                states.append(state.clone())
                margins.append(margin.clone())
                written = int(token)
                finished = written == self.prompter.end_id
                if finished:
                    break
                tokens.append(written)
                if len(tokens) == limit:
                    break
                token, state, margin = self._step(token, slots, cache)
        return Decoded(tokens, torch.stack(states), float(np.min(torch.stack(margins).cpu().numpy())), finished)

    def _prompt_pass(self, embeds: Tensor, positions: Tensor, cache: Cache) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt [1, P, d] into the cache; the first token, the last state [d] and its margin."""
        state = self.model.hidden_states(embeds, position_ids=positions, cache=cache)[0, -1]
        return self._pick(state)

    def _token_pass(self, token: Tensor, slots: Tensor, cache: Cache) -> tuple[Tensor, Tensor, Tensor]:
        """A token, int64 [], into the next of the slots, int64 [L]; the token after it, its state [d] and margin."""
        position = cache.get_seq_length().clone()  # the slot is counted while the layers run
        embeds = self.model.embed(token.view(1, 1))
        mask = (slots <= position)[None, None, None]
        state = self.model.hidden_states(embeds, mask=mask, position_ids=position.view(1, 1), cache=cache)[0, -1]
        return self._pick(state)

    def _pick(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The greedy token, int64 [], lowest id on ties, of a state [d], the state itself, and the top-2 margin."""
        logits = self.model.logits(state).float()
        best = logits.topk(2).values
        # without finite logits no id is found: the last one keeps the embedding's index valid, the margin tells
        token = torch.where(logits == best[0], self._token_ids, len(self._token_ids) - 1).amin()
        return token, state, best[0] - best[1]

    def _cache(self, length: int) -> tuple[Cache, Tensor]:
        """The cache of so many slots, and their numbers; made once, since compiled code knows its address."""
        if length not in self._slots:
            config = self._language
            cache = Cache(layers=[SlotLayer(max_cache_len=length) for _ in range(config.num_hidden_layers)])
            head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            dtype = self.model.llava.get_input_embeddings().weight.dtype
            cache.early_initialization(1, config.num_key_value_heads, head_dim, dtype, self.device)
            self._slots[length] = cache, torch.arange(length, device=self.device)
        return self._slots[length]

    def _record(self, shape: object, call: Callable[[], object]) -> None:
        """Before a shape's first real call, run until its CUDA graphs are recorded: the first frame bears all of it."""
        if self.device.type != "cuda" or shape in self._recorded:
            return
        self._recorded.add(shape)
        for _ in range(RECORDING_CALLS):
            call()


@contextmanager
def _attention_of(config: PretrainedConfig, name: str) -> Iterator[None]:
    """Run a language model with another attention; the model may serve others too."""
    usual = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """The function compiled for each shape it meets; what the compiler cannot do is one EngineError."""
    compiled = torch.compile(function, dynamic=False, options=options)

    def call(*arguments: Any) -> Any:
        if options is not CPU:
            torch.compiler.cudagraph_mark_step_begin()  # every caller has taken what the last replay left
        try:
            return compiled(*arguments)
        except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
            inner = getattr(error, "inner_exception", error)
            if isinstance(inner, InvalidCxxCompiler):
                raise EngineError(
                    "engine compiled-decode needs a C++ compiler: install g++, or name one in CXX"
                ) from error
            reason = str(inner).strip().partition("\n")[0]
            raise EngineError(
                f"engine compiled-decode: torch.compile failed: {type(inner).__name__}: {reason}"
            ) from error

    return call


def open_engine(path: Path | None, *, threads: int | None = None) -> CompiledDecodeSegmenter:
    """`--engine compiled-decode`: decoding alone, without the templates' probabilities, which it does not know."""
    return CompiledDecodeSegmenter.open(path, threads=threads, template_scores=False)
