"""How a model is trained: one record per preset, every field a command-line or file option."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from agvas_train.data.conversation import Task
from agvas_train.data.synth import SynthConfig


class TrainConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = "tiny"
    base: str | None = None
    """Folder of the checkpoint to start from; None trains the preset from scratch."""
    base_sha256: str | None = None
    """Of the base's weights; filled in when the run begins, checked when it goes on."""
    lora: int | None = Field(None, gt=0)
    """Rank of LoRA adapters on the base; None trains every parameter."""
    steps: int = Field(4000, gt=0)
    batch_size: int = Field(16, gt=0)
    """Samples a step and process."""
    learning_rate: float = Field(1e-3, gt=0)
    """The paper's 3e-4 is for LoRA on a trained model; a model from scratch takes more."""
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    mixture: dict[Task, float] = {
        Task.DIRECT: 0.60,
        Task.DESCRIBE: 0.12,
        Task.EXPLAIN: 0.08,
        Task.GENERAL: 0.12,
        Task.CONVERSATION: 0.08,
    }
    """Weight of each task. Synthetic images teach defects; few of them teach general segmentation."""
    normal_share: float = Field(0.4, ge=0, le=1)
    """Share of synthetic images without a defect."""
    subtle_share: float = Field(0.4, ge=0, le=1)
    """Share of defects with low contrast. A model from scratch begins best with few."""
    min_visibility: float = Field(0.025, ge=0, le=1)
    """Smallest mean change of brightness that a defect makes."""
    vocabulary_size: int = 1536
    """Of the tokenizer that a model from scratch gets."""
    corpus_samples: int = 1500
    """Synthetic samples whose captions train that tokenizer."""
    save_every: int = Field(500, gt=0)
    workers: int = Field(1, ge=0)
    """Processes that make batches; 0 makes them in the training process."""

    @property
    def synth(self) -> SynthConfig:
        """The stream's configuration."""
        return SynthConfig(
            normal_share=self.normal_share, subtle_share=self.subtle_share, min_visibility=self.min_visibility
        )
