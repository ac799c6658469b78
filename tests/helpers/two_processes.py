"""Work of each of two processes for tests/utils/test_distributed.py.

Run as `torchrun --nproc_per_node=2 -m tests.helpers.two_processes FOLDER`.
"""

import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from tests.helpers.fakes import TINY, FakeTask, Killed, kill_at
from tokenprune import registry
from tokenprune.methods.losses.ratio import RatioLoss
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.row import run_row
from tokenprune.tasks.batching import BatchPlan, batches_from
from tokenprune.training.elastic import Elastic
from tokenprune.training.loop import fit
from tokenprune.training.points import ElasticConfig
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils import distributed

BATCH, SAMPLES = 8, 40
CROPR = {
    "selector": {"name": "cropr"}, "treatment": {"name": "last_layer_fusion"}, "schedule": {"name": "per_block", "remove": 3},
    "cls": "learned", "execution": "auto", "losses": {},
    "backbone": {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 3},
    "task": {"name": "classification"}, "data": {"name": "shapes", "side": 64, "train_size": 16, "val_size": 4, "seed": 0},
    "training": {"batch_size": BATCH, "seed": 0},
}  # fmt: skip


def recipe(**changes):
    return TrainingConfig(**{"iterations": 2, "batch_size": BATCH, "lr": 1e-2, "clip": None, **changes})


LONGER = recipe(iterations=4, checkpoint_every=2)


def batches(start):
    """Samples (x (6,), place) that depend on the place in the run alone."""

    def make(index, place):
        return torch.randn(6, generator=torch.Generator().manual_seed(place))

    return batches_from(BatchPlan(SAMPLES, BATCH, seed=0), make, torch.stack, start)


class Net(nn.Module):
    """Without noise and batch norm two processes compute what one does."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        middle = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Unflatten(1, (16, 1, 1)), middle, nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(16, 1)


def fit_loss(model, x):
    return {"loss": (model.head(model.body(x)) - x.sum(1, keepdim=True)).square().mean()}


class Gates(nn.Module):
    """Three gates; the usage of an image is the mean of a sigmoid over its 6 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))


def ratio_loss(**options):
    term = RatioLoss(**options)

    def loss(model, x):
        usages = [((w * x).sigmoid().mean(1), target) for w, target in zip(model.weights, (0.7, 0.49, 0.343), strict=True)]
        return {"loss_ratio": term(usages)}

    return loss


RATIOS = {"global": {}, "per_device": {"scope": "per_device"}, "image": {"form": "image"}}


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def trained(folder):
    """Weights of a network after two steps, gradients of a pruned ViT and of the ratio losses."""
    net = Net()
    fit(net, batches, fit_loss, recipe(), folder / "net")
    task = get("task", "classification")()
    torch.manual_seed(0)
    vit = task.build_model(CROPR)
    report = fit(vit, lambda start: task.train_batches(CROPR, start), task.losses, recipe(lr=1e-4), folder / "vit")
    taught = {**CROPR, "losses": {"auxiliary": {}}}
    torch.manual_seed(0)
    heads = task.build_model(taught)
    learned = fit(heads, lambda start: task.train_batches(taught, start), task.losses, recipe(lr=1e-4), folder / "heads").losses
    ratios = {}
    for name, options in RATIOS.items():
        gates = Gates()
        losses = fit(gates, batches, ratio_loss(**options), recipe(iterations=1), folder / name).losses
        ratios[name] = (losses["loss_ratio"], gates.weights.grad.clone())
    found_elastic, draws = elastic(task, folder / "elastic")
    found = {
        "elastic": found_elastic,
        "draws": draws,
        "net": net.state_dict(),
        "vit": gradients(vit),
        "losses": report.losses,
        "ratios": ratios,
    }
    return {**found, "heads": gradients(heads), "auxiliary": learned["loss_auxiliary"]}


def elastic(task, folder):
    """Gradients of a pruned ViT after two steps of elastic training, and the points that were drawn."""
    torch.manual_seed(0)
    vit = task.build_model({**CROPR, "selector": {"name": "none"}, "treatment": {"name": "none"}, "schedule": {"name": "none"}})
    cfg = ElasticConfig((0.4, 0.8), selectors=("topk",), treatments=("remove", "preserve"), schedules={"stages": {"blocks": [1, 2]}})
    trainer, draws = Elastic(cfg, vit, task.losses), []

    def before(model, iteration):
        trainer.before_step(iteration)
        draws.append([tuple(point) for point in trainer.now])

    fit(vit, lambda start: task.train_batches(CROPR, start), trainer.losses, recipe(lr=1e-4), folder, before_step=before)
    return gradients(vit), draws


def resumed(folder):
    """A run with noise of each process's own, killed and resumed; and one that a single process began."""
    noisy = {"iterations": 6, "checkpoint_every": 2}
    whole, again, other = Net(dropout=0.4), Net(dropout=0.4), Net()
    fit(whole, batches, fit_loss, recipe(**noisy), folder / "whole")
    with suppress(Killed):
        fit(again, batches, fit_loss, recipe(**noisy), folder / "killed", before_step=kill_at(3))
    torch.rand(100)
    fit(again, batches, fit_loss, recipe(**noisy), folder / "killed")
    fit(other, batches, fit_loss, LONGER, folder / "begun")
    with suppress(Killed):
        fit(Net(), batches, fit_loss, LONGER, folder / "left", before_step=kill_at(3))
    notes = fit(Net(norm=True), batches, fit_loss, recipe(), folder / "norm").notes
    return {"whole": whole.state_dict(), "again": again.state_dict(), "begun": other.state_dict(), "notes": notes}


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ArithmeticError("no gradient")


def faulty(where):
    """Only the second process fails, in its second step."""
    calls = []

    def loss(model, x):
        calls.append(1)
        losses = fit_loss(model, x)
        if distributed.is_main() or len(calls) < 2:
            return losses
        if where == "forward":
            raise KeyError("no such token")
        return {"loss": FailsBackward.apply(losses["loss"]) if where == "backward" else losses["loss"] * float("nan")}

    return loss


def failures(folder):
    found = {}
    for where in ("forward", "backward", "nan"):
        try:
            with distributed.together():
                fit(Net(), batches, faulty(where), recipe(), folder / where)
        except Exception as error:
            found[where] = (type(error).__name__, str(error))
    return found


class OneFails(FakeTask):
    """As its parent, in the second process only; `selector=random` fails before training, `variance` is NaN in it."""

    def build_model(self, cfg):
        good = {**cfg, "selector": {"name": "evit"}} if distributed.is_main() else cfg
        return super().build_model(good)


def rows(folder):
    registry.names("task")
    registry._plugins["task"]["fake"] = OneFails
    found = []
    for method in ("random", "variance", "evit"):
        config = resolve(compose([*TINY, f"method={method}", f"results_dir={folder}/results", "init=scratch"]))
        row = run_row(config)
        found.append((method, row["status"], row["reason"]))
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    with distributed.processes():
        found = {part.__name__: part(folder) for part in (trained, resumed, failures, rows)}
        torch.save(found, folder / f"process{distributed.rank()}.pt")


if __name__ == "__main__":
    main()
