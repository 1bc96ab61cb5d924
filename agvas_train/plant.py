"""Planting: make a model with random weights write one given answer, to measure speed on the product's own path.

A random language model never writes a template. Rows of its output head are edited until plain greedy decoding does;
nothing else is touched, so no part becomes faster or slower.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agvas_runtime.errors import EngineError, InputError
from agvas_train.checkpoint import Checkpoint
from agvas_train.data.synth import generate

IMAGES, PROOFS, SEED = 4, 3, 20_260_302
"""Synthetic images that the rows are fitted on, and others that greedy decoding is proved on."""
RIDGE = 1e-2
"""Share of the states' mean energy that the fit leaves to noise: small rows, so that other images do as well."""

RGB = NDArray[np.uint8]
Step = Callable[[str], None]
"""Called with what is being done now."""


@torch.inference_mode()
def plant(checkpoint: Checkpoint, answer: str, *, step: Step = lambda text: None) -> None:
    """Edit a checkpoint's output head in place so that greedy decoding answers `answer` to the default instruction.

    What was done stands in the checkpoint's provenance afterwards.

    Raises:
        InputError: the answer is blank, or the output head is tied: editing it would edit what the model reads.
        EngineError: greedy decoding does not write the answer; the checkpoint is not to be used then.
    """
    if not answer.strip():
        raise InputError("--plant: found a blank text, expected an answer or a rejection")
    if checkpoint.config.model.language["tie_word_embeddings"]:
        raise InputError("--plant: the output head is tied to the token embeddings, expected one of its own")
    model, prompter, templates = checkpoint.model, checkpoint.prompter, checkpoint.templates
    tokens = prompter.answer(answer, anchors=True)
    images = [generate(SEED, index).image for index in range(IMAGES + PROOFS)]
    states = []
    for number, image in enumerate(images[:IMAGES], start=1):
        step(f"planting: states of image {number} of {IMAGES}")
        states.append(_states(checkpoint, image, tokens))
    _fit(model.llava.lm_head.weight, torch.stack(states), torch.tensor(tokens))
    _prove(checkpoint, answer, images[IMAGES:], step)
    checkpoint.provenance["plant"] = {
        "answer": answer,
        "instruction": checkpoint.config.prompt.default_instruction,
        "is_template": answer in (*templates.direct_answers, *templates.rejections_of(templates.default_class)),
        "proved_on_images": PROOFS,
    }


def _states(checkpoint: Checkpoint, image: RGB, tokens: tuple[int, ...]) -> Tensor:
    """States [n, d] that predict each of the answer's n tokens, the answer so far given."""
    model, config = checkpoint.model, checkpoint.config
    device = model.llava.lm_head.weight.device
    prompt = checkpoint.prompter.prompt(config.prompt.default_instruction)
    semantic = torch.from_numpy(config.model.semantic_view.apply(image)).to(device)
    pixel = torch.from_numpy(config.model.pixel_view.apply(image)[0]).to(device)
    before, after = (
        model.embed(torch.tensor([ids], device=device)) for ids in (prompt.before, (*prompt.after, *tokens[:-1]))
    )
    embeds = torch.cat((before, model.encode(semantic, pixel).tokens, after), dim=1)
    return model.hidden_states(embeds)[0, -len(tokens) :].float()


def _fit(head: Tensor, states: Tensor, tokens: Tensor) -> None:
    """Set the rows of the answer's tokens in `head` [vocabulary, d] by ridge regression on states [images, n, d].

    At each place of the answer its own token gets twice the best of all other logits (and ten more), the answer's other
    tokens get zero.
    """
    rows = tokens.unique()
    samples = states.flatten(0, 1).double().cpu()  # images * n, d
    places = tokens.repeat(len(states))
    every = states.flatten(0, 1).to(head.device)
    best = max(float((piece.float() @ every.T).max()) for piece in head.split(8192))
    level = 2 * best + 10
    wanted = (places[:, None] == rows).double() * level  # images * n, rows
    gram = samples @ samples.T
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    fitted = wanted.T @ torch.linalg.solve(gram + ridge, samples)  # rows, d
    head[rows.to(head.device)] = fitted.to(head)


def _prove(checkpoint: Checkpoint, answer: str, images: list[RGB], step: Step) -> None:
    from agvas_train.reference import ReferenceSegmenter

    segmenter = ReferenceSegmenter(checkpoint, template_scores=False)
    for number, image in enumerate(images, start=1):
        step(f"planting: plain greedy decoding on image {number} of {len(images)}")
        found = segmenter.segment(image).answer
        if found != answer:
            raise EngineError(f"--plant: greedy decoding writes {found!r}, expected {answer!r}; use another seed")
