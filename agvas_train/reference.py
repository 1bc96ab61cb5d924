"""The reference engine: the paper's route in plain PyTorch, token by token with a cache. The yardstick of parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from agvas_runtime.maps import to_image_size
from agvas_runtime.plan import template_trie
from agvas_runtime.result import AnswerKind, Result, Scores
from agvas_runtime.segmenter import Image, Stopwatch, decoded, finish, path_scores
from agvas_runtime.trie import Trie, Walk
from agvas_runtime.verdict import Recipe
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.model import Visual
from agvas_train.model.agmd import fuse

MAX_NEW_TOKENS = 128


class ReferenceSegmenter:
    """Direct segmentation as the paper runs it: encode, decode greedily, read the anchors' states, decode the masks."""

    def __init__(self, checkpoint: Checkpoint, *, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model.eval()
        self.config = checkpoint.config.model
        self.prompter = checkpoint.prompter
        self.templates = checkpoint.templates
        self.max_new_tokens = max_new_tokens

    @classmethod
    def open(cls, path: Path | str | None = None, *, threads: int | None = None) -> ReferenceSegmenter:
        """Load a checkpoint folder (None: the embedded one).

        Args:
            path: checkpoint folder.
            threads: for PyTorch, process-wide; None leaves its own default.
        """
        if threads:
            torch.set_num_threads(threads)
        return cls(load_checkpoint(Path(path) if path else default_checkpoint_path()))

    @torch.inference_mode()
    def segment(self, image: Image, instruction: str | None = None, recipe: Recipe | None = None) -> Result:
        """Segment one image; arguments, result and errors are those of `agvas_runtime.segmenter.Segmenter.segment`.

        The answer is whatever greedy decoding writes; p_answer and p_reject are computed from the same model by
        running every template behind the prompt.
        """
        watch = Stopwatch()
        frame = decoded(image)
        watch.lap("decode")
        semantic = torch.from_numpy(self.config.semantic_view.apply(frame))
        pixels, resized = self.config.pixel_view.apply(frame)
        watch.lap("preprocess")
        visual = self.model.encode(semantic, torch.from_numpy(pixels))
        watch.lap("encoders")
        text = self.checkpoint.config.prompt.default_instruction if instruction is None else instruction
        embeds = self.prompt_embeds(text, visual)
        tokens, states, margins, finished = self.decode(embeds)
        watch.lap("llm")
        anchors = [tokens.index(a) for a in self.prompter.anchor_ids if a in tokens]
        kind = self._kind(tokens, finished, text, len(anchors))
        size = (frame.shape[0], frame.shape[1])
        probability = np.zeros(size, np.float32)
        if kind is AnswerKind.SEGMENTED:
            shift = 1 if self.config.anchor_state == "predicting" else 0
            # states[i] belongs to the token before tokens[i]: the one that predicts it
            picked = torch.stack([states[at + 1 - shift] for at in anchors])[None]
            small = fuse(self.model.products(picked, visual.pixel, (0, 1, 2)), self.config.alpha)[0]
            probability = to_image_size(small.numpy(), self.config.pixel_view.size, resized, size)
        watch.lap("decoder")
        scores = self._scores(template_trie(text, self.prompter, self.templates), embeds, min(margins))
        watch.lap("scores")
        answer = self.prompter.decode(tokens)
        return finish(probability, kind, answer, scores, self.config.threshold, recipe or Recipe(), watch)

    def prompt_embeds(self, instruction: str, visual: Visual) -> Tensor:
        """Input embeddings of the whole prompt, [1, P + V + S, d]."""
        prompt = self.prompter.prompt(instruction)
        before, after = (self.model.embed(torch.tensor([ids])) for ids in (prompt.before, prompt.after))
        return torch.cat((before, visual.tokens, after), dim=1)

    def decode(self, embeds: Tensor) -> tuple[list[int], list[Tensor], list[float], bool]:
        """Greedy decoding with a cache: plain argmax, lowest id on ties.

        Returns:
            The tokens written (without the end token), the last-layer states [d] of the last prompt token and of every
            written token, the top-2 margins, and whether the end token came before the token limit.
        """
        cache = DynamicCache()
        tokens: list[int] = []
        states: list[Tensor] = []
        margins: list[float] = []
        for _ in range(self.max_new_tokens):
            state = self.model.hidden_states(embeds, cache=cache)[0, -1]
            logits = self.model.logits(state).float()
            best = logits.topk(2).values
            token = int(np.argmax(logits.numpy()))
            states.append(state)
            margins.append(float(best[0] - best[1]))
            if token == self.prompter.end_id:
                return tokens, states, margins, True
            tokens.append(token)
            embeds = self.model.embed(torch.tensor([[token]]))
        return tokens, states, margins, False

    def _kind(self, tokens: list[int], finished: bool, instruction: str, anchors: int) -> AnswerKind:
        if anchors == len(self.prompter.anchor_ids) and finished:
            return AnswerKind.SEGMENTED
        rejections = self.templates.rejections_of(self.templates.class_of(instruction))
        known = {self.prompter.answer(text, anchors=False)[:-1] for text in rejections}
        return AnswerKind.REJECTED if finished and tuple(tokens) in known else AnswerKind.OTHER

    def _scores(self, trie: Trie, embeds: Tensor, min_margin: float) -> Scores:
        """Every template's probability by plain causal passes, one sequence a template."""
        logprobs = np.zeros(len(trie.edge_rows))
        ids = [torch.tensor(answer.tokens) for answer in trie.answers]
        texts = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)  # padded on the right: never attended to
        prompts = embeds.expand(len(ids), -1, -1)
        states = self.model.hidden_states(torch.cat((prompts, self.model.embed(texts)), dim=1))
        steps = self.model.logits(states[:, embeds.shape[1] - 1 :]).float().log_softmax(-1)
        for answer, row in zip(trie.answers, steps, strict=True):
            targets = torch.tensor([*answer.tokens, self.prompter.end_id])
            logprobs[list(answer.edges)] = row[torch.arange(len(targets)), targets].double().numpy()
        return path_scores(trie, Walk((0,), None), logprobs, np.array([min_margin]))
