"""Elastic training: one set of weights for many keep rates, treatments and selectors, drawn anew in each step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.engine.loss import Loss, LossInputs
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.outputs import Outputs
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidConfig
from tokenprune.registry import build
from tokenprune.training.points import ElasticConfig, Point, drawn, pairs, plan_of

LossFn = Callable[[nn.Module, Any], dict[str, Tensor]]
_FULL = "full_"  # begins the names of the losses of the pass without pruning
_DISTILL = "elastic"


class Elastic:
    """Computes the losses of elastic training: those of the model without pruning, and those at the points drawn for the step.

    All points share the weights of the model, and only its encoder is exchanged for a pass: another PrunedViT around the same backbone.
    The losses are means over the passes of a step, so that a recipe keeps its learning rate and its clipping.

    Args:
        cfg: What is drawn.
        model: The model of a task, or a PrunedViT itself.
        losses: (model, batch) -> named losses, the task's.
        seed: Seed of the training.
        cls: The class token that selectors read, see `prune`.
        positions: N of the training images; None for the model's own.

    Raises:
        InvalidConfig: The model's own selector has weights, which no pass would train, or a drawn one has; or pairs are illegal.
    """

    def __init__(
        self, cfg: ElasticConfig, model: nn.Module, losses: LossFn, seed: int = 0, cls: str = "learned", positions: int | None = None
    ) -> None:
        """Build the encoder without pruning, and one for each legal triple."""
        self.cfg, self.task_losses, self.seed = cfg, losses, seed
        self.pruned = next(m for m in model.modules() if isinstance(m, PrunedViT))
        size = positions or self.pruned.family.own_positions
        self.legal = pairs(cfg, self.pruned.depth, size, self.pruned.prefix_tokens)
        self.distance = _Distance(cfg.distill / cfg.draws)
        _refuse_weights(self.pruned, "the method's selector")
        self.full = prune(self.pruned.backbone)
        self.full.loss_terms = {
            _DISTILL: self.distance.teacher,
            **{name: build("loss", {"name": name, **o}) for name, o in cfg.losses.items()},
        }
        self.points = {triple: self._encoder(Point(*triple, min(cfg.keep_rates)), cls, positions) for triple in self.legal}
        self.now: list[Point] = []

    def before_step(self, iteration: int) -> None:
        """Draw the points of a step."""
        self.now = drawn(self.cfg, self.legal, self.seed, iteration)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a step: `full_NAME` of the pass without pruning and NAME of the drawn points, and their distance."""
        weight = 1 / (1 + len(self.now))
        found = {f"{_FULL}{name}": weight * value for name, value in self._of(model, self.full, batch).items()}
        for point in self.now:
            encoder = self.points[point[:3]]
            encoder.set_keep_rate(point.keep_rate)
            for name, value in self._of(model, encoder, batch).items():
                found[name] = found[name] + weight * value if name in found else weight * value
        self.distance.forget()
        return found

    @property
    def note(self) -> str:
        """Return what a reader of the row must know."""
        cfg, (low, high) = self.cfg, self.cfg.keep_rates
        lists = "; ".join(", ".join(dict.fromkeys(names)) for names in zip(*self.legal, strict=True))
        return f"trained elastically: in each step whole and at {cfg.draws} point(s) of keep rates {low} to {high} ({lists})"

    def _encoder(self, point: Point, cls: str, positions: int | None) -> PrunedViT:
        """Return an encoder that prunes at a point, around the model's own backbone and class token."""
        plan = plan_of(self.cfg, point.schedule, point.keep_rate)
        built = prune(self.pruned.backbone, point.selector, point.treatment, plan, cls=cls, positions=positions)
        _refuse_weights(built, f"training.elastic.selectors: {point.selector!r}")
        if built.class_token is not None and any(True for _ in built.class_token.parameters()):
            if self.pruned.class_token is None:
                raise InvalidConfig(
                    f"training.elastic: selector {point.selector!r} reads a new class token (cls={cls}), which the model of this run does"
                    " not have; use a method that reads one (method=topk), cls=mean, or selectors that need none (random)"
                )
            built.class_token = self.pruned.class_token
        built.loss_terms = {_DISTILL: self.distance}
        return built

    def _of(self, model: nn.Module, encoder: PrunedViT, batch: Any) -> dict[str, Tensor]:
        """Return the task's losses of a batch with an encoder in the place of the model's own."""
        encoder.progress, encoder.training = self.pruned.progress, self.pruned.training  # not train(): DropPath may be off
        encoder.selectors.train(self.pruned.training)
        with exchanged(model, self.pruned, encoder) as changed:
            return self.task_losses(changed, batch)


@contextmanager
def exchanged(model: nn.Module, encoder: PrunedViT, other: PrunedViT) -> Iterator[nn.Module]:
    """Return a model with another encoder in the place of its own, as long as the `with` block lasts.

    Args:
        model: A model around `encoder`, or `encoder` itself.
        encoder: Its encoder.
        other: Another encoder.
    """
    if model is encoder:
        yield other
        return
    places = [(owner, name) for owner in model.modules() for name, child in owner._modules.items() if child is encoder]
    for owner, name in places:
        owner._modules[name] = other
    try:
        yield model
    finally:
        for owner, name in places:
            owner._modules[name] = encoder


class _Teacher(Loss):
    """Remembers what the pass without pruning made of the images of a step."""

    name = _DISTILL

    def __init__(self) -> None:
        self.outputs: Outputs | None = None
        self.logits: Tensor | None = None

    def loss(self, facts: LossInputs) -> None:
        """Take note; there is no loss of its own."""
        self.outputs, self.logits = facts.outputs, None if facts.logits is None else facts.logits.detach()


class _Distance(Loss):
    """Distance of a pruned pass from the pass without pruning: of kept tokens, of the class token and, for a classifier, of logits.

    Tokens are compared after a LayerNorm without weights, by the mean square over kept positions and channels, because encoders with an
    adapter have no final norm. Of logits it is KL(whole || pruned). The pass without pruning gets no gradient from it.
    """

    name = _DISTILL

    def __init__(self, weight: float) -> None:
        self.weight, self.teacher = weight, _Teacher()

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the weighted distance, None without a weight."""
        whole = self.teacher.outputs
        if not self.weight or whole is None:
            return None
        kept = facts.outputs.state.present()
        near = (_normed(facts.outputs.map) - _normed(whole.map.detach())).square().mean(-1)
        total = near.where(kept, 0.0).sum() / kept.sum().clamp(min=1)
        own, its = facts.outputs.prefix, whole.prefix
        if own.shape[1] and own.shape == its.shape:
            total = total + (_normed(own) - _normed(its.detach())).square().mean()
        if facts.logits is not None and self.teacher.logits is not None:
            told, said = self.teacher.logits.log_softmax(-1), facts.logits.float().log_softmax(-1)
            total = total + F.kl_div(said, told, reduction="batchmean", log_target=True)
        return self.weight * total

    def forget(self) -> None:
        """Let go of the pass without pruning."""
        self.teacher.outputs = self.teacher.logits = None


def _normed(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens.float(), tokens.shape[-1:])


def _refuse_weights(encoder: PrunedViT, what: str) -> None:
    """Refuse selectors and treatments with weights, which a draw now and then would not train."""
    owned: Mapping[str, Any] = dict(encoder.selectors.named_parameters())
    owned |= {} if encoder.fusion is None else dict(encoder.fusion.named_parameters())
    if owned:
        raise InvalidConfig(
            f"{what} has weights of its own ({', '.join(sorted(owned)[:3])}, ...), which elastic training would leave random; use a"
            " selector and a treatment without weights (random, topk, evit; remove, preserve, reactivate), and fine-tune the other from the"
            " elastic weights"
        )


__all__ = ["Elastic", "exchanged"]
