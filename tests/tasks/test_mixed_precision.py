"""Training in bfloat16 on a CPU (`training.amp=bf16`): each task, with a method of each kind, for a few steps."""

import math
from itertools import repeat

import pytest
import torch

from tokenprune.runs.composer import composer
from tokenprune.runs.config import resolve
from tokenprune.training.loop import fit

CASES = [  # a gate, scores by attention, a router with losses of its own, merging, clusters, mixtures, halting
    ("classification", "dynamicvit"),
    ("classification", "tome"),
    ("classification", "ats"),
    ("segmentation", "cropr"),
    ("segmentation", "evit"),
    ("detection", "svit"),
    *(pytest.param("classification", method, marks=pytest.mark.slow) for method in ("evo_vit", "dpc_knn", "kmedoids", "sinkhorn", "a_vit")),
    *(pytest.param("detection", method, marks=pytest.mark.slow) for method in ("evit", "evo_vit", "cropr")),
]


@pytest.mark.parametrize(("task", "method"), CASES)
def test_a_few_steps_end_with_finite_losses_and_weights_of_single_precision(task, method, tmp_path):
    with composer() as compose:
        settings = ["training.iterations=3", "training.amp=bf16", "training.warmup=0", "training.checkpoint_every=0", "init=scratch"]
        run = resolve(compose.compose([f"task={task}", f"method={method}", "scale=smoke", *settings]))
    kind, seen = run.task_kind(), []
    torch.manual_seed(0)
    model = kind.build_model(run)
    kind.begin(model)
    batch = next(iter(kind.train_batches(run, 0)))

    def losses(model, batch):
        found = kind.losses(model, batch)
        seen.append({name: value.dtype for name, value in found.items()})
        return found

    report = fit(model, lambda start: repeat(batch, 3 - start), losses, run.recipe, tmp_path)
    assert report.iterations == 3 and all(math.isfinite(value) for value in report.losses.values())
    assert all(set(types.values()) == {torch.float32} for types in seen) and len(seen) == 3
    assert all(bool(p.isfinite().all()) and p.dtype == torch.float32 for p in model.parameters())
