"""Compares the device with the CPU, and the executions with each other, for every legal pairing of the registry."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tokenprune.cli.gpu.cases import Case, Row, Setup, status
from tokenprune.engine.legality import check_pairing
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.observation import Observation
from tokenprune.engine.prune import prune
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Decision
from tokenprune.errors import IncompatiblePairing, reason_of
from tokenprune.registry import get, names

DEPTH, SIDE, POSITIONS = 6, 32, 64
SCHEDULE = {"name": "stages", "blocks": [1, 2, 4], "keep_rate": 0.7}
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
LIVELY = {"a_vit": {"gamma": 5.0, "beta": 1.0}}  # with the paper's beta nothing halts in a model this small
Decided = dict[int, Tensor]  # {block: (B,N) bool, the positions that stay}


def cases(setup: Setup) -> Iterator[Case]:
    """Yield a case for each legal pairing."""
    for selector, treatment in pairings()[:: setup.pairings]:
        yield Case(f"{selector} x {treatment}", partial(compared, selector, treatment, setup.device))


def pairings() -> list[tuple[str, str]]:
    """Return every selector with every treatment that it is legal with."""
    treatments = [name for name in names("treatment") if name != "none"]
    return [(selector, treatment) for selector in names("selector") for treatment in treatments if _legal(selector, treatment)]


def _legal(selector: str, treatment: str) -> bool:
    try:
        check_pairing(selector, treatment, SCHEDULE, depth=DEPTH, positions=POSITIONS)
    except IncompatiblePairing:
        return False
    return True


def compared(selector: str, treatment: str, device: torch.device) -> list[Row]:
    """Return the differences of one pairing: device from CPU in each precision, and each execution from the masked one.

    In half precision both take the decisions of the CPU, because rounding, which differs between devices, may swap two tokens of nearly
    equal score. Merging is left out there: who is most similar to whom is a decision, too.
    """
    model, images = small(selector, treatment), batch()
    rows = []
    for dtype, limit in LIMITS.items():
        half = dtype != torch.float32
        if half and get("treatment", treatment)().fold == "merge":
            continue
        decided: Decided | None = {} if half else None
        wanted = _passed(model, "masked", torch.device("cpu"), dtype, images, decided)
        for execution in executions(selector, treatment, half):
            rows.append(_row(model, execution, device, dtype, images, decided, wanted, limit))
    return rows


def executions(selector: str, treatment: str, half: bool) -> list[str]:
    """Return the executions of a pairing. Fused tokens always stay when decisions are followed, so that counts are no longer equal."""
    kind = get("selector", selector)
    uneven = kind.budget == "dynamic" or (half and treatment == "fuse")
    return ["masked", "packed"] if uneven else ["masked", "gathered", "packed"]


def _row(
    model: PrunedViT, execution: str, device: torch.device, dtype: torch.dtype, images: Tensor, decided: Any, wanted: Any, limit: float
) -> Row:
    about = {"execution": execution, "dtype": str(dtype).removeprefix("torch."), "limit": limit}
    try:
        difference = worst(_passed(model, execution, device, dtype, images, decided), wanted)
    except Exception as error:  # one execution that fails says nothing of the others
        return {**about, "status": status(error), "reason": reason_of(error)}
    good = difference <= limit
    return {**about, "difference": difference, "status": "ok" if good else "differs", "reason": "" if good else "above its limit"}


def _passed(
    model: PrunedViT, execution: str, device: torch.device, dtype: torch.dtype, images: Tensor, decided: Decided | None
) -> tuple[Tensor, ...]:
    """Return map, prefix, logits and presence of one pass as float32 on the CPU."""
    model = copy.deepcopy(model).to(device, dtype)
    model.execution = execution
    if decided is not None:
        follow(model, decided)
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # the patch embedding is a convolution, which TF32 would round
    with torch.no_grad(), exact:
        outputs = model.encode(images.to(device, dtype))
        found = (outputs.map, outputs.prefix, model.logits(outputs), outputs.present)
    return tuple(value.float().cpu() for value in found)


def worst(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """Return the largest |a - b| / (1 + |b|) of all values; infinite where one is not finite."""
    largest = max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in zip(found, wanted, strict=True))
    return largest if all(bool(a.isfinite().all()) for a in found) else float("inf")


def follow(model: PrunedViT, decided: Decided) -> None:
    """Let selectors score as ever, but keep what `decided` says; a block that it does not have is noted in it."""
    for number, selector in model.selectors.items():
        selector.score = partial(_following, selector.score, int(number), decided)  # type: ignore[method-assign]


def _following(score: Any, number: int, decided: Decided, seen: Observation, budget: Budget) -> Decision:
    decision, index = score(seen, budget), seen.state.index
    if decision.mix is not None:  # its new tokens are made of all
        return decision
    fused = (index < 0) & seen.live
    if number not in decided:
        here = torch.zeros(len(index), seen.state.positions + 1, dtype=torch.bool, device=index.device)
        decided[number] = here.scatter(1, index.where(index >= 0, seen.state.positions), decision.keep)[:, :-1].cpu()
    kept = decided[number].to(index.device).gather(1, index.clamp(min=0))
    return replace(decision, keep=kept & seen.live & (index >= 0) | fused, slots=None, order=None)


def small(selector: str, treatment: str) -> PrunedViT:
    """Return a seeded model of 6 blocks and 64 positions whose attention is not flat; its heads are as wide as FlashAttention wants."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = VisionTransformer(SIDE, 4, embed_dim=48, depth=DEPTH, num_heads=3, num_classes=5)
        with torch.no_grad():
            for block in vit.blocks:
                block.attn.qkv.weight.mul_(8.0)
                block.attn.qkv.bias.normal_(std=0.5)
        torch.manual_seed(3)
        spec: Mapping[str, Any] = {"name": selector, **LIVELY.get(selector, {})}
        return prune(vit.eval(), spec, treatment, SCHEDULE)


def batch(count: int = 8) -> Tensor:
    """Return seeded images that differ in contrast, so that dynamic methods keep different counts."""
    generator = torch.Generator().manual_seed(1)
    contrast = torch.linspace(0.3, 2.0, count).view(-1, 1, 1, 1)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator) * contrast
