"""The invariants of ViT-Adapter around a pruned ViT, for one selector of every kind with the treatments that differ between blocks."""

import pytest
import torch

from tests.helpers.adapters import EVERYTHING, adapter, images
from tests.helpers.pairings import OPTIONS, label, pairings
from tokenprune.registry import get

# Gates with uneven counts, a score inside the block, kept rows only, memory between blocks, merging, a plain score before the block,
# outputs that are means over blocks, blocks of which parts are switched off, an interpreter.
KINDS = (
    {"name": "svit", "eval_mode": "threshold"},
    *({"name": n, **OPTIONS[n][0]} for n in ("a_vit", "ats", "adavit")),
    *({"name": n} for n in ("evit", "evo_vit", "tome", "random", "ia_red2")),
)


def representatives():
    """Return every kind with the treatments that the adapter tells apart, and each other treatment with one kind a site, merging or not."""
    seen, found = set(), []
    for selector, treatment in pairings():
        if selector not in KINDS:
            continue
        kind = get("selector", selector["name"])
        place = (kind.site, kind.merging, treatment)
        if treatment in ("remove", "preserve", "reactivate") or place not in seen:
            found.append((selector, treatment))
        seen.add(place)
    return found


LEGAL = representatives()
FORGETTING = [(s, t) for s, t in LEGAL if not (get("treatment", t)().remembers or get("treatment", t).learns)]
FREE_OF_WEIGHTS = [(s, t) for s, t in LEGAL if not get("treatment", t).learns]
KEEPING = [(s, t) for s, t in LEGAL if t in ("preserve", "reactivate")]


def test_the_kinds_are_in_the_registry():
    assert {s["name"] for s, _ in LEGAL} == {s["name"] for s in KINDS} and len(LEGAL) > 25


def run(model, x):
    with torch.no_grad():
        return model(x)


def close(a, b, atol=2e-5):
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=1e-4)


@pytest.mark.parametrize(("selector", "treatment"), FREE_OF_WEIGHTS, ids=label)
def test_with_everything_kept_it_is_the_dense_adapter(selector, treatment):
    x = images(2)
    dense, kept = run(adapter(), x), run(adapter(selector, treatment, EVERYTHING), x)
    for name in dense:
        assert (dense[name] - kept[name]).abs().max() == 0, name


@pytest.mark.parametrize(("selector", "treatment"), LEGAL, ids=label)
def test_executions_agree(selector, treatment):
    x = images(3)
    masked = adapter(selector, treatment, execution="masked")
    maps = run(masked, x)
    for execution in ["packed"] if get("selector", selector["name"]).budget == "dynamic" else ["gathered", "packed"]:
        other = adapter(selector, treatment, execution=execution)
        close(run(other, x), maps)
        assert torch.equal(other.last_outputs.present, masked.last_outputs.present)
        for a, b in zip(masked.last_outputs.usage, other.last_outputs.usage, strict=True):
            assert torch.equal(a.attended, b.attended) and torch.equal(a.fed, b.fed)


@pytest.mark.parametrize(("selector", "treatment"), LEGAL, ids=label)
def test_an_image_does_not_depend_on_its_batch_mates(selector, treatment):
    x, model = images(2), adapter(selector, treatment)
    together = run(model, x)
    for i in range(len(x)):
        close(run(model, x[i : i + 1]), {name: m[i : i + 1] for name, m in together.items()})


class Seen:
    """Maps between the parts of one forward, and which positions each block's attention used."""

    def __init__(self, model, x):
        self.injected, self.extracted, self.active = [], [], {}
        handles = [i.register_forward_hook(lambda _, a, out: self.injected.append((a[0], out))) for i in model.injectors]
        handles += [e[0].register_forward_pre_hook(lambda _, a: self.extracted.append(a[2])) for e in model.extractors]
        model.pruned.watch = self.note
        run(model, x)
        model.pruned.watch = None
        for handle in handles:
            handle.remove()

    def note(self, block, state):
        used = torch.zeros(len(state.live), state.positions + 1, dtype=torch.bool)
        self.active[block] = used.scatter(1, state.index.where(state.live & (state.index >= 0), state.positions), True)[:, :-1]


@pytest.mark.parametrize(("selector", "treatment"), KEEPING, ids=label)
def test_kept_values_are_constant_inside_a_group_and_written_between(selector, treatment):
    model, idle = adapter(selector, treatment), 0
    seen = Seen(model, images(3))
    for (first, stop), (before, entering), leaving in zip(model.groups, seen.injected, seen.extracted, strict=True):
        used = torch.stack([seen.active[block] for block in range(first, stop)]).any(0)
        moved = (leaving != entering).any(-1)
        assert not moved[~used].any()
        kind = get("selector", selector["name"])  # `rows`: a block attends to tokens that it then drops; masked parts leave tokens alone
        assert moved[used].all() or kind.site == "rows" or not kind.saves_computation
        assert (before != entering).any(-1).all()
        idle += int((~used).sum())
    assert idle > 0
    back = seen.active[3] & ~seen.active[2]  # two blocks of one group, a decision between them
    assert not back.any() or treatment == "reactivate"
    assert back.any() or treatment != "reactivate" or selector["name"] not in ("svit", "random")


@pytest.mark.parametrize(("selector", "treatment"), FORGETTING, ids=label)
def test_removed_positions_are_zeros_for_every_extractor_and_never_written(selector, treatment):
    model = adapter(selector, treatment)
    seen = Seen(model, images(3))
    filled = [map_.abs().sum(-1) > 0 for map_ in seen.extracted]
    for earlier, later in zip(filled, filled[1:], strict=False):
        assert not (later & ~earlier).any()
    assert torch.equal(filled[-1], model.last_outputs.present)
    assert filled[-1].sum(1).max() < 64
    for (_, stop), used in zip(model.groups, filled, strict=True):
        if stop in seen.active:  # who enters the next group is who was left, unless that group's first block drops some more
            assert not (seen.active[stop] & ~used).any()
    if treatment == "remove":
        for (_, stop), used in zip(model.groups, filled, strict=True):
            assert torch.equal(used.sum(1), model.last_outputs.usage[stop - 1].fed - model.pruned.prefix_tokens)


@pytest.mark.parametrize(("selector", "treatment"), LEGAL, ids=label)
def test_training_reaches_every_part(selector, treatment):
    model = adapter(selector, treatment).train()
    torch.manual_seed(7)
    sum((m * torch.randn_like(m)).mean() for m in model(images(3)).values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(n.startswith("pruned.") for n in silent), silent
    assert model.pruned.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
