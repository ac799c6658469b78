"""Defines the settings of a training run."""

from dataclasses import dataclass

from tokenprune.errors import InvalidConfig
from tokenprune.training.points import ElasticConfig
from tokenprune.utils import distributed

_AMP = (False, True, "bf16")
_SCHEDULES = ("cosine", "poly", "steps", "linear_tail", "constant")


@dataclass(frozen=True)
class TrainingConfig:
    """Sets the recipe of a training run.

    Args:
        iterations: Number of AdamW steps.
        batch_size: Images in the whole batch, as papers give it. Several processes take equal slices of it.
        lr: Learning rate of a step.
        weight_decay: AdamW's weight decay.
        betas: AdamW's betas.
        warmup: Iterations of linear warm-up.
        schedule: `cosine`, `poly`, `steps`, `linear_tail` or `constant`.
        steps: Shares of the run in (0,1) at which the schedule `steps` multiplies the learning rate by `gamma`.
        gamma: Factor of the schedule `steps`.
        clip: Greatest norm of the gradient; null clips nothing.
        amp: Whether CUDA runs in mixed precision; `bf16` for bfloat16 on every device, a CPU with AMX or AVX-512 BF16 among them.
        checkpoint_every: Iterations between checkpoints; 0 for one at the end only.
        selector_lr_scale: Factor on the learning rate of selectors and learned fusions.
        backbone_lr_scale: Factor on the learning rate of a pruned encoder's backbone.
        workers: Number of processes that load data.
        seed: Seed of the run.
        ema: Decay of a moving average of the weights, which is then the result of the run (DeiT: 0.99996); null for none.
        min_lr: Learning rate at the end of the cosine.
        backbone_freeze: Share of the run in which a pruned encoder's backbone learns nothing (DynamicViT).
        drop_path: False turns the model's DropPath off, as scripts do that fine-tune in evaluation mode (EViT).
        layer_decay: Each block of a pruned encoder's backbone learns this many times as fast as the block above it (MAE: 0.75); null for
            all alike.
        power: Exponent of the schedule `poly`: (1 - share of the run)^power, as in segmentation.
        elastic: What is drawn in each step of an elastic training (`+recipe=elastic`); null for a training of the run's own method.

    Raises:
        InvalidConfig: One or more values are out of range; the message names each.
    """

    iterations: int
    batch_size: int = 4
    lr: float = 3e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    schedule: str = "cosine"
    steps: tuple[float, ...] = ()
    gamma: float = 0.1
    clip: float | None = 1.0
    amp: bool | str = False
    checkpoint_every: int = 0
    selector_lr_scale: float = 1.0
    backbone_lr_scale: float = 1.0
    workers: int = 0
    seed: int = 0
    ema: float | None = None
    min_lr: float = 0.0
    backbone_freeze: float = 0.0
    drop_path: bool = True
    layer_decay: float | None = None
    power: float = 0.9
    elastic: ElasticConfig | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        parts, decay = distributed.world(), self.layer_decay
        uneven = f"training.batch_size is {self.batch_size}, the whole batch, of which each of {parts} processes takes an equal slice"
        bad = [
            (self.iterations < 0, f"training.iterations is {self.iterations}, allowed are 0 and more"),
            (self.batch_size < 1, f"training.batch_size is {self.batch_size}, allowed are 1 and more"),
            (self.batch_size % parts != 0, f"{uneven}: give a multiple of {parts}, or start another number of processes"),
            (self.lr < 0, f"training.lr is {self.lr}, allowed are 0 and more"),
            (self.amp not in _AMP, f"training.amp is {self.amp!r}, allowed are true (CUDA alone), false and 'bf16' (everywhere)"),
            (self.schedule not in _SCHEDULES, f"training.schedule is {self.schedule!r}, allowed are {', '.join(_SCHEDULES)}"),
            (any(not 0 < s < 1 for s in self.steps), f"training.steps is {self.steps}, allowed are shares of the run between 0 and 1"),
            (self.schedule == "steps" and not self.steps, "training.steps is empty: the schedule 'steps' needs at least one share"),
            (min(self.selector_lr_scale, self.backbone_lr_scale) < 0, "training: learning rate scales are 0 or more"),
            (not 0 <= self.min_lr <= self.lr, f"training.min_lr is {self.min_lr}, allowed are 0 to training.lr, {self.lr}"),
            (self.min_lr > 0 and self.schedule != "cosine", f"training.min_lr, a cosine's end, has no meaning in {self.schedule!r}: set 0"),
            (not 0 <= self.backbone_freeze < 1, f"training.backbone_freeze is {self.backbone_freeze}, allowed: 0 to below 1"),
            (self.ema is not None and not 0 <= self.ema < 1, f"training.ema is {self.ema}, allowed are null and 0 <= decay < 1"),
            (not (decay is None or 0 < decay <= 1), f"training.layer_decay is {decay}, allowed are null and 0 < decay <= 1"),
            (not self.power > 0, f"training.power is {self.power}, allowed are values above 0"),
            (min(self.warmup, self.checkpoint_every, self.workers) < 0, "training: warmup, checkpoint_every and workers are 0 or more"),
        ]
        problems = [text for wrong, text in bad if wrong]
        if problems:
            raise InvalidConfig(problems)
