"""The loop: schedules, groups, exact resume, divergence."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import DropPath
from torch import nn

from tests.helpers.fakes import Killed, kill_at
from tokenprune.errors import CheckpointMismatch, Diverged, InvalidConfig
from tokenprune.training.learning_rates import lr_factor, parameter_groups
from tokenprune.training.loop import fit
from tokenprune.training.settings import TrainingConfig

ITERATIONS = 12


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(16), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def batches(start):
    for i in range(start, 10**6):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(i))
        yield x, x.sum(1, keepdim=True)


def loss(model, batch):
    noise = torch.rand(())  # drawn from the global generator, as Gumbel noise and RoI sampling are
    return {"loss_fit": (model(batch[0]) - batch[1]).pow(2).mean(), "loss_noise": noise * model.body[0].weight.pow(2).mean()}


def recipe(**changes):
    return TrainingConfig(**{"iterations": ITERATIONS, "lr": 1e-2, "warmup": 3, "checkpoint_every": 4, **changes})


def new_net():
    torch.manual_seed(3)
    return Net()


def test_loss_falls_and_is_reported(tmp_path):
    short = fit(new_net(), batches, loss, recipe(iterations=2), tmp_path / "a")
    long = fit(new_net(), batches, loss, recipe(iterations=150), tmp_path / "b")
    assert long.losses["loss_fit"] < 0.5 * short.losses["loss_fit"]
    assert set(long.losses) == {"loss_fit", "loss_noise"} and long.iterations == 150 and long.seconds > 0


@pytest.mark.parametrize("killed_at", [2, 4, 5, 9, 11])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, killed_at):
    whole, resumed = new_net(), new_net()
    report = fit(whole, batches, loss, recipe(), tmp_path / "whole")
    with pytest.raises(Killed):
        fit(resumed, batches, loss, recipe(), tmp_path / "killed", before_step=kill_at(killed_at))
    resumed = new_net()
    torch.rand(100)  # whatever the new process did with the generator must not matter
    again = fit(resumed, batches, loss, recipe(), tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert again.losses == report.losses


@pytest.mark.parametrize("killed_at", [3, 5, 11])
def test_a_killed_run_with_averaged_weights_ends_with_the_same_bits(tmp_path, killed_at):
    whole, resumed = new_net(), new_net()
    fit(whole, batches, loss, recipe(ema=0.8), tmp_path / "whole")
    with pytest.raises(Killed):
        fit(resumed, batches, loss, recipe(ema=0.8), tmp_path / "killed", before_step=kill_at(killed_at))
    resumed, finished = new_net(), new_net()
    fit(resumed, batches, loss, recipe(ema=0.8), tmp_path / "killed")
    fit(finished, batches, loss, recipe(ema=0.8), tmp_path / "killed", before_step=kill_at(0))  # what is done is read, not trained
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, finished.state_dict()[name]), name


def test_a_run_ends_with_the_moving_average_of_its_weights(tmp_path):
    """Against the recursion by hand; the steps themselves are those of a run without an average."""
    seen = []
    plain, averaged = new_net(), new_net()
    fit(plain, batches, loss, recipe(), tmp_path / "plain", before_step=lambda m, i: seen.append(m.body[0].weight.detach().clone()))
    fit(averaged, batches, loss, recipe(ema=0.7), tmp_path / "averaged")
    expected = seen[0]
    for weight in [*seen[1:], plain.body[0].weight.detach()]:
        expected = 0.7 * expected + 0.3 * weight
    assert torch.allclose(averaged.body[0].weight, expected, atol=1e-6) and averaged.training
    assert (averaged.body[0].weight - plain.body[0].weight).abs().max() > 1e-3


def test_a_checkpoint_of_a_run_without_average_is_another_recipe(tmp_path):
    with pytest.raises(Killed):
        fit(new_net(), batches, loss, recipe(), tmp_path, before_step=kill_at(6))
    with pytest.raises(CheckpointMismatch, match="ema: stored None, now 0.9"):
        fit(new_net(), batches, loss, recipe(ema=0.9), tmp_path)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    del saved["average"], saved["recipe"]["ema"]  # as written before there was a choice
    torch.save(saved, tmp_path / "last.pt")
    assert fit(new_net(), batches, loss, recipe(), tmp_path).iterations == ITERATIONS


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(InvalidConfig, match=f"training.ema is {decay}, allowed are null and 0 <= decay < 1"):
        recipe(ema=decay)


def test_no_iterations_are_no_training(tmp_path):
    net = new_net()
    report = fit(net, batches, loss, recipe(iterations=0, ema=0.9), tmp_path, before_step=kill_at(0))
    assert (report.iterations, report.losses) == (0, {})
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), new_net().state_dict().values(), strict=True))


@pytest.mark.system
def test_resume_across_processes(tmp_path):
    """The first process ends by os._exit, as a killed one does."""
    code = (
        "import os, sys, torch; sys.path.insert(0, {tests!r}); import test_loop as t\n"
        "from tokenprune.training.loop import fit\n"
        "def die(model, i):\n    if i == 6: os._exit(9)\n"
        "fit(t.new_net(), t.batches, t.loss, t.recipe(), {folder!r}, before_step=die)\n"
    ).format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == 9
    whole, resumed = new_net(), new_net()
    started = []
    fit(whole, batches, loss, recipe(), tmp_path / "whole")
    fit(resumed, batches, loss, recipe(), tmp_path / "killed", before_step=lambda m, i: started.append(i))
    assert started[0] == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_a_finished_run_is_not_trained_again(tmp_path):
    net = new_net()
    first = fit(net, batches, loss, recipe(), tmp_path)
    fresh = new_net()
    again = fit(fresh, batches, loss, recipe(), tmp_path, before_step=kill_at(0))
    assert torch.equal(fresh.body[0].weight, net.body[0].weight) and again.losses == first.losses


def test_the_checkpoint_loads_without_code(tmp_path):
    fit(new_net(), batches, loss, recipe(), tmp_path)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert saved["iteration"] == ITERATIONS
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]  # no temporary files stay


def test_another_recipe_or_model_is_refused(tmp_path):
    fit(new_net(), batches, loss, recipe(), tmp_path)
    with pytest.raises(CheckpointMismatch, match="lr: stored 0.01, now 0.1"):
        fit(new_net(), batches, loss, recipe(lr=0.1), tmp_path)
    other = new_net()
    other.body[4] = nn.Linear(16, 2)
    with pytest.raises(CheckpointMismatch, match="another model"):
        fit(other, batches, loss, recipe(), tmp_path)


def test_divergence_names_iteration_and_losses(tmp_path):
    def bad(model, batch):
        bad.calls += 1
        return {"loss_a": model(batch[0]).mean(), "loss_b": model(batch[0]).mean() * (float("nan") if bad.calls == 4 else 1)}

    bad.calls = 0
    with pytest.raises(Diverged, match=r"iteration 3: .*loss_b': nan"):
        fit(new_net(), batches, bad, recipe(), tmp_path)


def test_data_that_ends_is_an_error(tmp_path):
    with pytest.raises(InvalidConfig, match="ended after 5 of 12"):
        fit(new_net(), lambda start: (b for b, _ in zip(batches(start), range(5), strict=False)), loss, recipe(), tmp_path)


def test_drop_path_can_be_off_while_the_rest_trains(tmp_path):
    """As in scripts that fine-tune in evaluation mode; dropout stays, as does every gate."""
    modes = []

    def watching(model, batch):
        modes.append((model.training, model.body[2].training, model.drop.training))
        return {"loss": model.drop(model(batch[0])).pow(2).mean()}

    for drop_path in (True, False):
        net = new_net()
        net.drop = DropPath(0.5)
        fit(net, batches, watching, recipe(iterations=1, drop_path=drop_path), tmp_path / str(drop_path))
    assert modes == [(True, True, True), (True, True, False)]


def test_a_checkpoint_from_before_a_setting_existed_goes_on(tmp_path):
    fit(new_net(), batches, loss, recipe(), tmp_path)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    for name in ("min_lr", "backbone_freeze", "drop_path", "ema"):
        saved["recipe"].pop(name)
    for group in saved["optimizer"]["param_groups"]:
        group.pop("freeze")
    saved["iteration"] = ITERATIONS - 1
    torch.save(saved, tmp_path / "last.pt")
    assert fit(new_net(), batches, loss, recipe(), tmp_path).iterations == ITERATIONS
    with pytest.raises(CheckpointMismatch, match="min_lr: stored 0.0, now 0.001"):
        fit(new_net(), batches, loss, recipe(min_lr=1e-3), tmp_path)


def test_clipping_bounds_the_gradient(tmp_path):
    seen = []
    net = new_net()
    huge = lambda model, batch: {"loss": 1e4 * model(batch[0]).pow(2).mean()}  # noqa: E731

    def norm(model, i):
        if i:
            seen.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())

    fit(net, batches, huge, recipe(clip=0.5), tmp_path, before_step=norm)
    assert seen and max(seen) <= 0.5 + 1e-4


@given(st.sampled_from(["cosine", "steps", "linear_tail", "constant"]), st.integers(0, 20), st.integers(21, 300))
def test_every_schedule_warms_up_and_never_rises_after(name, warmup, iterations):
    cfg = TrainingConfig(iterations=iterations, warmup=warmup, schedule=name, steps=(0.5, 0.8) if name == "steps" else ())
    factors = [lr_factor(cfg, i) for i in range(iterations)]
    assert all(0 <= f <= 1 for f in factors)
    if warmup:
        assert factors[0] == pytest.approx(1 / warmup) if name == "constant" else factors[0] <= 1 / warmup + 1e-12
    flat = factors[warmup:]
    assert all(b <= a + 1e-12 for a, b in zip(flat, flat[1:], strict=False))


def test_schedule_values():
    steps = TrainingConfig(iterations=36, schedule="steps", steps=(27 / 36, 33 / 36))
    assert [lr_factor(steps, i) for i in (0, 26, 27, 32, 33, 35)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    tail = TrainingConfig(iterations=100, schedule="linear_tail")
    assert [lr_factor(tail, i) for i in (0, 80, 90, 95)] == pytest.approx([1, 1, 0.5, 0.25])
    cosine = TrainingConfig(iterations=110, warmup=10, schedule="cosine")
    assert [lr_factor(cosine, i) for i in (0, 9, 10, 60)] == pytest.approx([0.1, 1, 1, 0.5])


def test_every_bad_value_at_once():
    with pytest.raises(InvalidConfig) as error:
        TrainingConfig(iterations=-1, batch_size=0, schedule="cosin", steps=(2.0,))
    assert len(error.value.problems) == 4


def test_parameter_groups():
    from timm.models.vision_transformer import VisionTransformer

    from tokenprune import prune

    vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=12, depth=12, num_heads=3, num_classes=5)
    model = nn.ModuleDict({"encoder": prune(vit, selector="svit"), "head": nn.Linear(4, 4)})
    cfg = TrainingConfig(iterations=1, lr=1.0, selector_lr_scale=10, backbone_lr_scale=0.5, weight_decay=0.3)
    rates, decays = {}, {}
    names = {id(p): n for n, p in model.named_parameters()}
    for group in parameter_groups(model, cfg):
        for p in group["params"]:
            rates[names[id(p)]], decays[names[id(p)]] = group["lr"], group["weight_decay"]
    assert set(rates) == set(names.values())
    assert {rates[n] for n in rates if ".selectors." in n} == {10.0}
    assert {rates[n] for n in rates if ".backbone." in n} == {0.5}
    assert rates["head.weight"] == 1.0
    undecayed = {n for n, d in decays.items() if d == 0}
    assert {"encoder.backbone.pos_embed", "encoder.backbone.cls_token", "encoder.backbone.norm.weight", "head.bias"} <= undecayed
    assert decays["encoder.backbone.blocks.0.attn.qkv.weight"] == 0.3 and decays["head.weight"] == 0.3


def seen_types(tmp_path, amp):
    """Return the types of a layer's output and of its weights in two steps."""
    seen, net = [], new_net()
    net.body[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    report = fit(net, batches, loss, recipe(iterations=2, amp=amp), tmp_path / str(amp))
    assert all(torch.isfinite(torch.tensor(v)) for v in report.losses.values())
    return set(seen), {p.dtype for p in net.parameters()}


@pytest.mark.parametrize(("amp", "expected"), [(False, torch.float32), (True, torch.float32), ("bf16", torch.bfloat16)])
def test_a_cpu_computes_in_bfloat16_only_where_that_is_asked_for(tmp_path, amp, expected):
    assert seen_types(tmp_path, amp) == ({expected}, {torch.float32})


def test_bfloat16_learns_as_float32_does(tmp_path):
    ends = {
        amp: fit(new_net(), batches, loss, recipe(iterations=150, amp=amp), tmp_path / str(amp)).losses["loss_fit"]
        for amp in (False, "bf16")
    }
    assert ends["bf16"] == pytest.approx(ends[False], rel=0.25)


def test_another_precision_is_refused():
    with pytest.raises(InvalidConfig, match=r"training\.amp is 'fp8', allowed are true \(CUDA alone\), false and 'bf16'"):
        recipe(amp="fp8")
