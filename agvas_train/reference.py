"""The reference engine: the paper's route in plain PyTorch, token by token with a cache. The yardstick of parity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from agvas_runtime.cpu import usable_cores
from agvas_runtime.errors import EngineError
from agvas_runtime.frames import AnyImage, decoded
from agvas_runtime.manifest import weights_note
from agvas_runtime.maps import AnomalyMap, merged, window
from agvas_runtime.modes import AnchorGroup, Mode, Request, read_answer
from agvas_runtime.outcome import Stopwatch, finish, path_scores
from agvas_runtime.plan import Known, rejections_of, template_trie
from agvas_runtime.result import Result, Scores
from agvas_runtime.verdict import Recipe
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.model import Visual
from agvas_train.model.agmd import fuse


class Decoded(NamedTuple):
    """What greedy decoding wrote."""

    tokens: list[int]
    """Without the end token."""
    states: Tensor
    """Last-layer states [T + 1, d] of the last prompt token and of every written token but one that the limit cut."""
    min_margin: float
    """Smallest gap between the best two logits."""
    finished: bool
    """Whether the end token came before the token limit."""


class ReferenceSegmenter:
    """The method as the paper runs it, in every mode: encode, decode greedily, read the anchors' states, decode masks.

    Runs where the checkpoint's model is, in its dtype. Not thread-safe: callers take turns.

    Args:
        checkpoint: the model and everything that belongs to it.
        max_new_tokens: token limit of an answer; the mode's own when None.
        template_scores: compute p_answer and p_reject where a mode is answered by templates. The paper's route knows no
            such figures, and they take more time than the answer.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, max_new_tokens: int | None = None, template_scores: bool = True
    ) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model.eval()
        self.config = checkpoint.config.model
        self.device: torch.device = self.model.llava.get_input_embeddings().weight.device
        self.prompter = checkpoint.prompter
        self.templates = checkpoint.templates
        made = checkpoint.provenance
        self.weights_note = weights_note(bool(made.get("random_weights", False)), made.get("plant"))
        self.max_new_tokens = max_new_tokens
        self.template_scores = template_scores
        self._last_rejections: dict[str, frozenset[tuple[int, ...]]] = {}

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        threads: int | None = None,
        device: torch.device | str | None = None,
        template_scores: bool = True,
    ) -> Self:
        """Load a checkpoint folder (None: the embedded one).

        Args:
            path: checkpoint folder.
            threads: for PyTorch, process-wide; None takes every core.
            device: None takes CUDA where there is one.
            template_scores: as for the class.
        """
        torch.set_num_threads(threads or usable_cores())
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        checkpoint = load_checkpoint(Path(path) if path else default_checkpoint_path(), device=device)
        return cls(checkpoint, template_scores=template_scores)

    @torch.inference_mode()
    def segment(
        self,
        image: AnyImage,
        instruction: str | None = None,
        recipe: Recipe | None = None,
        *,
        mode: Mode = Mode.DIRECT,
        class_name: str | None = None,
        normal_look: str | None = None,
    ) -> Result:
        """Segment one image, or talk about it; arguments, result and errors are those of `Segmenter.segment`.

        The answer is whatever greedy decoding writes. With several groups of anchors in it the map is the pixelwise
        maximum of the groups' maps at the image's size. A conversation, an answer that the token limit stopped, and a
        text without anchors that is no rejection have verdict NO_ANSWER.
        """
        request = Request(mode, instruction, class_name, normal_look)
        asked = request.text(self.templates, self.checkpoint.config.prompt.default_instruction)
        watch, recipe = Stopwatch(), recipe or Recipe()
        frame = decoded(image)
        size = (frame.shape[0], frame.shape[1])
        window(recipe.roi, size)  # refused before it costs anything
        watch.lap("decode")
        semantic = torch.from_numpy(self.config.semantic_view.apply(frame))
        pixels, resized = self.config.pixel_view.apply(frame)
        watch.lap("preprocess")
        visual = self.encode(semantic.to(self.device), torch.from_numpy(pixels).to(self.device))
        self._lap(watch, "encoders")
        embeds = self.prompt_embeds(asked, visual)
        written = self.decode(embeds, self.max_new_tokens or mode.token_limit)
        self._lap(watch, "llm")
        if not math.isfinite(written.min_margin):
            raise EngineError(
                "the language model's logits are not finite numbers: the weights or the precision are at fault"
            )
        reading = read_answer(
            written.tokens,
            finished=written.finished,
            mode=mode,
            anchor_ids=self.prompter.anchor_ids,
            rejections=self._rejections(asked),
        )
        states = written.states
        small = [self.group_map(group, states, visual, recipe.alpha).cpu().numpy() for group in reading.groups]
        maps = [AnomalyMap(each, self.config.pixel_view.size, resized, size, recipe.roi) for each in small]
        watch.lap("decoder")
        scores = Scores.unknown(written.min_margin)
        if self.template_scores and mode is not Mode.CONVERSATION:
            scores = self._scores(Known.of(mode), asked, embeds, written.min_margin)
            watch.lap("scores")
        return finish(
            merged(maps, size),
            reading,
            self.prompter.decode(written.tokens),
            scores,
            self.config.threshold,
            recipe,
            watch,
            instruction=asked,
            group_maps=tuple(each.whole for each in maps) if len(maps) > 1 else (),
            tokens=len(written.tokens),
        )

    def encode(self, semantic: Tensor, pixels: Tensor) -> Visual:
        """Both views, float32 [1, 3, S, S] and [1, 3, P, P], to what the language model and the mask decoder read."""
        return self.model.encode(semantic, pixels)

    def prompt_embeds(self, instruction: str, visual: Visual) -> Tensor:
        """Input embeddings of the whole prompt, [1, P, d]."""
        prompt = self.prompter.prompt(instruction)
        before, after = (
            self.model.embed(torch.tensor([ids], device=self.device)) for ids in (prompt.before, prompt.after)
        )
        return torch.cat((before, visual.tokens, after), dim=1)

    def decode(self, embeds: Tensor, limit: int) -> Decoded:
        """Greedy decoding with a cache: plain argmax over float32 logits, lowest id on ties.

        Args:
            embeds: input embeddings of the prompt [1, P, d].
            limit: most tokens to write, the end token included.
        """
        cache = DynamicCache()
        tokens: list[int] = []
        states: list[Tensor] = []
        margins: list[float] = []
        for _ in range(limit):
            state = self.model.hidden_states(embeds, cache=cache)[0, -1]
            logits = self.model.logits(state).float()
            best = logits.topk(2).values
            states.append(state)
            margins.append(float(best[0] - best[1]))
            token = int(np.argmax(logits.cpu().numpy()))  # torch leaves open which of equal maxima it names
            if token == self.prompter.end_id:
                return Decoded(tokens, torch.stack(states), float(np.min(margins)), True)
            tokens.append(token)
            embeds = self.model.embed(torch.tensor([[token]], device=self.device))
        return Decoded(tokens, torch.stack(states), float(np.min(margins)), False)

    def group_map(self, group: AnchorGroup, states: Tensor, visual: Visual, alpha: float | None = None) -> Tensor:
        """A group's map P, float32 [4 g, 4 g], from the states of decoding [T + 1, d]; absent anchors are left out.

        `alpha` is the model's own where None.
        """
        # states[i] belongs to the token before tokens[i]: the one that predicts it
        shift = 0 if self.config.anchor_state == "predicting" else 1
        picked = states[[place + shift for _, place in group]][None]  # 1, A, d
        return self.fused(picked, visual.pixel, tuple(kind for kind, _ in group), alpha)

    def fused(
        self, anchor_states: Tensor, pixel: Tensor, present: tuple[int, ...], alpha: float | None = None
    ) -> Tensor:
        """Anchor states [1, A, d] and f_p [1, C, g, g] to P, float32 [4 g, 4 g]; the model's own alpha where None."""
        products = self.model.products(anchor_states, pixel, present)
        return fuse(products, self.config.alpha if alpha is None else alpha, present)[0]

    def _rejections(self, instruction: str) -> frozenset[tuple[int, ...]]:
        """Every rejection of the class that an instruction names, without the end token; the last ones are kept."""
        if instruction not in self._last_rejections:
            self._last_rejections = {instruction: rejections_of(instruction, self.prompter, self.templates)}
        return self._last_rejections[instruction]

    def _scores(self, known: Known, instruction: str, embeds: Tensor, min_margin: float) -> Scores:
        """Every known answer's probability, one after another behind the prompt's keys and values."""
        trie = template_trie(known, instruction, self.prompter, self.templates)
        cache = DynamicCache()
        last = self.model.hidden_states(embeds, cache=cache)[:, -1:]
        logprobs = np.zeros(len(trie.edge_rows))
        for answer in trie.answers:
            texts = self.model.embed(torch.tensor([answer.tokens], device=self.device))
            states = torch.cat((last, self.model.hidden_states(texts, cache=cache)), dim=1)[0]
            cache.crop(-len(answer.tokens))
            steps = self.model.logits(states).float().log_softmax(-1)
            targets = torch.from_numpy(trie.edge_tokens[list(answer.edges)]).to(self.device)
            found = steps[: len(targets)].gather(1, targets[:, None])[:, 0].double()
            logprobs[list(answer.edges)] = found.cpu().numpy()
        return path_scores(known, trie, logprobs, min_margin)

    def _lap(self, watch: Stopwatch, stage: str) -> None:
        """End a stage when the device has ended it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        watch.lap(stage)


def open_engine(path: Path | None, *, threads: int | None = None) -> ReferenceSegmenter:
    """`--engine reference`: the paper's route alone, without the templates' probabilities, which it does not know."""
    return ReferenceSegmenter.open(path, threads=threads, template_scores=False)
