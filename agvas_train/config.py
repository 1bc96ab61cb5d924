"""How a model is trained: one record, every field an option of a recipe file or of the command line."""

from __future__ import annotations

from math import inf
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agvas_train.data.conversation import Task
from agvas_train.data.synth import SynthConfig

SYNTHETIC = "agvas-data synth, streamed"
"""What a checkpoint's provenance calls images that are drawn by this package and by nobody else."""


class DataConfig(BaseModel):
    """Public data sets to draw from, by the groups of Table A.1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    root: str
    """Folder of the data sets in the paper's tree (`agvas-data check`)."""
    sets: list[str] | None = Field(None, min_length=1)
    """Names of the sets, all of which must be there; None: those of Table A.1 that are."""
    unreadable_limit: float = Field(0.01, ge=0)
    """How many unreadable samples of a set (of an anomaly set's normal or anomalous images) one process passes over: a
    share, below 1, of those it has met, judged from 100 on; a count, from 1 on; 0: none."""
    samples: dict[str, int] | None = None
    """How many samples each set has; filled in when the run begins, checked when it goes on."""


class TrainConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: str | None = None
    """What to train from scratch ("tiny"); beside a base, the preset that the base must be."""
    base: str | None = None
    """Folder of the checkpoint to start from; None trains the preset from scratch."""
    base_sha256: str | None = None
    """Of the base's weights; filled in when the run begins, checked when it goes on."""
    fresh_spam: bool = False
    """Begin with a SPAM of fresh weights, as today's preset has it, in the base's place."""
    frozen: tuple[Literal["semantic_encoder", "pixel_encoder"], ...] = ()
    """Encoders of the base that stay as they are where the rest is trained in full; a step takes less time then."""
    lora: int | None = Field(None, gt=0)
    """Rank of LoRA adapters on the base (the paper's is 16); None trains every parameter."""
    lora_alpha: int = Field(32, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    steps: int = Field(4000, gt=0)
    batch_size: int = Field(16, gt=0)
    """Samples of one optimiser step, over all processes."""
    micro_batch: int | None = Field(None, gt=0)
    """Samples that one process computes at a time; gradients accumulate up to `batch_size`. None: its whole share."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: products in bfloat16, and the frozen weights of a LoRA run stored in it; all else stays float32."""
    gradient_checkpointing: bool = False
    """Compute the language model's activations again in the backward pass instead of keeping them."""
    deepspeed: str | None = None
    """DeepSpeed configuration file (JSON); a path that is not absolute counts from the recipe's folder."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: matrices of weights take orthogonalised steps (Jordan, "Muon", 2024), the rest AdamW's; for training all of
    a model, without DeepSpeed."""
    learning_rate: float = Field(1e-3, gt=0)
    """The paper's 3e-4 is for LoRA on a trained model; a model from scratch takes more."""
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0, lt=1 << 31)
    data: DataConfig | None = None
    """The data sets to draw from; None draws synthetic images."""
    mixture: dict[Task, float] = {
        Task.DIRECT: 0.60,
        Task.DESCRIBE: 0.12,
        Task.EXPLAIN: 0.08,
        Task.GENERAL: 0.12,
        Task.CONVERSATION: 0.08,
    }
    """Weight of each task; those of the tasks of a group of Table A.1 add up to the group's. Synthetic images teach
    defects; few of them teach general segmentation."""
    normal_share: float = Field(0.4, ge=0, le=1)
    """Share of synthetic images without a defect."""
    empty_maps: float = Field(0, ge=0, le=1)
    """Share of the direct turns about normal synthetic images that teach empty maps and no words. The paper's are
    answered by a rejection alone, of which maps learn nothing; a small model answers some of them in spite of it."""
    usual_words: float = Field(0, ge=0, le=1)
    """Share of the answers and rejections about synthetic images in the words of one template each ("It is ...", "It
    looks normal to me."). With 22 rejections of many first words, and answers of which three in five begin with "Sure",
    greedy decoding rejects only where an answer is less likely than about one in three."""
    false_alarms: float = Field(0, ge=0)
    """Weight, at the end of a training, of log(1 + what is called defective) where there is nothing to be found; it
    rises through the second half of the steps. Dice alone hardly tells a large false alarm from a larger one."""
    orientations: int = Field(1, ge=1, le=8)
    """How often each synthetic picture is in a micro-batch, each time turned or mirrored another way and with a turn of
    its own: where painting takes longer than learning, a step has so many more samples for the same time."""
    text_weight: float = Field(1, gt=0)
    """Of L_txt beside L_seg; the paper's is 1. In a model from scratch the choice between answer and rejection is a few
    hundredths of the loss."""
    bce_weight: float = Field(0.5, gt=0)
    """Of the maps' cross-entropy beside Dice, which counts twofold; the paper's is 0.5. Dice alone makes maps sure of
    whatever they call defective, so that images can hardly be ranked by them."""
    place_weight: float = Field(0, ge=0)
    """Of a term that asks SPAM's tokens whether a defect lies at their place (ours); words for places count so often,
    too, besides once. Where nothing is pretrained, descriptions learn places sooner with it."""
    subtle_share: float = Field(0.4, ge=0, le=1)
    """Share of defects with low contrast. A model from scratch begins best with few."""
    min_visibility: float = Field(0.025, ge=0, le=1)
    """Smallest mean change of brightness that a defect makes; from its surface it differs by 1.4 to 2.5 times this."""
    vocabulary_size: int = Field(1536, ge=512)
    """Of the tokenizer that a model from scratch gets; bytes and special tokens take 263."""
    small_view: int | None = Field(None, gt=0)
    """Side in pixels of the pixel view in the first steps, which cost less while coarse things are learnt. Only for
    pixel encoders that take any side (the kind conv: multiples of 32)."""
    small_view_share: float = Field(0.5, gt=0, lt=1)
    """Of the steps, those that see it."""
    corpus_samples: int = 1500
    """Samples whose texts train that tokenizer."""
    overfit: bool = False
    """Every step sees the samples of the first: a check that a model can learn at all."""
    save_every: int = Field(500, gt=0)
    keep: int | None = Field(None, gt=0)
    """How many checkpoints of the run stay, the newest; None keeps all."""
    workers: int = Field(1, ge=0)
    """Processes that make batches; 0 makes them in the training process."""

    @field_validator("mixture")
    @classmethod
    def _has_a_task(cls, mixture: dict[Task, float]) -> dict[Task, float]:
        if min(mixture.values(), default=0) < 0 or not 0 < sum(mixture.values()) < inf:
            raise ValueError("the weights of the tasks must not be negative, nor all zero")
        return mixture

    @model_validator(mode="after")
    def _options_go_together(self) -> TrainConfig:
        if self.optimizer == "muon" and (self.deepspeed or self.lora):
            beside = "under DeepSpeed" if self.deepspeed else "on LoRA adapters"
            raise ValueError(f"optimizer muon does not run {beside}; expected adamw")
        if (self.fresh_spam or self.frozen) and self.lora:
            given = "fresh_spam" if self.fresh_spam else "frozen"
            raise ValueError(f"{given} is about a base that is trained in full; expected no lora")
        if self.data and (self.empty_maps or self.usual_words):
            raise ValueError("empty_maps and usual_words are about synthetic images; expected 0 beside data")
        if self.data and self.orientations > 1:
            raise ValueError("orientations is about synthetic images; expected 1 beside data")
        return self

    @property
    def synth(self) -> SynthConfig:
        """The stream's configuration."""
        return SynthConfig(
            normal_share=self.normal_share, subtle_share=self.subtle_share, min_visibility=self.min_visibility
        )

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """(samples of a micro-batch, micro-batches that a process accumulates).

        Raises:
            ValueError: the batch does not divide.
        """
        if self.batch_size % processes:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of the {processes} processes")
        share = self.batch_size // processes
        micro = self.micro_batch or share
        if share % micro:
            raise ValueError(
                f"batch_size {self.batch_size} gives each of {processes} processes {share} samples, "
                f"which is not a multiple of micro_batch {micro}"
            )
        if micro % self.orientations:
            raise ValueError(f"a micro-batch of {micro} samples is not a multiple of {self.orientations} orientations")
        return micro, share // micro
