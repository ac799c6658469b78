"""SViT's gate before the last block, which may drop the class token, and gates that are drawn as released."""

from dataclasses import replace

import pytest
import torch

import tokenprune
from tests.helpers.pairings import DEPTH, encode_checked, images, pruned, tiny_vit
from tokenprune.engine.hooks import DecisionListener
from tokenprune.errors import InvalidConfig

EVERY = {"name": "every_block", "start": 3}


def model_of(treatment="reactivate", execution="auto", bias=None, **options):
    """Return a tiny SViT whose last gate may drop the class token; `bias` says which it does, None leaves it to the image."""
    model = pruned({"name": "svit", "drops_cls": True, **options}, treatment, EVERY, execution)
    if bias is not None:
        with torch.no_grad():
            model.selectors[str(DEPTH - 1)].gate.last.bias.copy_(torch.tensor([bias, -bias]))
    return model


def entering_last(model, x):
    """Return the state that the last block sees, and the outputs."""
    seen = {}
    model.watch = lambda block, state: seen.update({block: state})
    with torch.no_grad():
        outputs = encode_checked(model, x)
    model.watch = None
    return seen[DEPTH - 1], outputs


@pytest.mark.parametrize("treatment", ["reactivate", "preserve", "remove", "fuse", "merge"])
@pytest.mark.parametrize("mode", ["threshold", "sample"])
def test_executions_agree_and_images_do_not_depend_on_each_other(treatment, mode):
    x = images(6)
    masked, packed = (model_of(treatment, execution, eval_mode=mode) for execution in ("masked", "packed"))
    (state, a), (_, b) = entering_last(masked, x), entering_last(packed, x)
    assert state.prefix_live.shape == (6, 1) and (mode == "threshold" or 0 < state.prefix_live.sum() < 6)
    for one, other in ((a.map, b.map), (a.prefix, b.prefix)):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        alone = torch.cat([packed(image[None]) for image in x])
        torch.testing.assert_close(packed(x), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("execution", ["masked", "packed"])
def test_a_dropped_class_token_is_unseen_and_unchanged(execution):
    x = images(3)
    model, away = model_of(execution=execution, bias=-60.0), 100.0
    model.selectors[str(DEPTH - 1)].score = keep_all_patches(model.selectors[str(DEPTH - 1)].score)
    with torch.no_grad():
        state, _ = model.run(model.start(x), 0, DEPTH - 1)
        after, _ = model.run(state, DEPTH - 1, DEPTH)
        moved, _ = model.run(state.replace(prefix=state.prefix + away), DEPTH - 1, DEPTH)
    assert torch.equal(after.prefix, state.prefix) and not after.prefix_live.any()
    assert torch.equal(moved.tokens, after.tokens) and not torch.equal(after.dense(), state.dense())


def keep_all_patches(score):
    """Return a selector's score whose decision drops no patch."""
    return lambda seen, budget: replace(score(seen, budget), keep=seen.live)


def test_a_class_token_that_stays_is_as_if_it_was_no_candidate():
    x = images(3)
    with torch.no_grad():
        stays = model_of(bias=60.0)(x)
        plain = pruned("svit", "reactivate", EVERY)
        plain.selectors[str(DEPTH - 1)].gate.last.bias.copy_(torch.tensor([60.0, -60.0]))
        assert torch.equal(stays, plain(x))


def test_the_gate_learns_from_the_class_token():
    model = model_of(bias=0.0).train()
    torch.manual_seed(5)
    outputs = encode_checked(model, images(8))
    gate = outputs.state.prefix_gate
    assert gate.shape == (8, 1) and 0 < (gate > 0.5).sum() < 8
    outputs.prefix.square().sum().backward()  # the class token alone
    assert model.selectors[str(DEPTH - 1)].gate.last.weight.grad.abs().sum() > 0
    held = gate[:, 0].detach() < 0.5
    with torch.no_grad():
        torch.manual_seed(5)
        state, _ = model.run(model.start(images(8)), 0, DEPTH - 1)
        after, _ = model.run(state, DEPTH - 1, DEPTH)
    assert torch.equal(after.prefix[held], state.prefix[held]) and not torch.equal(after.prefix, state.prefix)


def test_without_a_class_token_the_option_is_refused():
    vit = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(InvalidConfig, match="no class token to drop"):
        tokenprune.prune(vit, {"name": "svit", "drops_cls": True}, "reactivate", EVERY)


def test_drawn_gates_are_repeated_by_torchs_seed_alone():
    model, x = model_of(eval_mode="gumbel"), images(4)
    logits = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            logits.append(model(x))
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    assert "anew in every pass" in model.selectors["3"].caveat


def test_drawn_gates_keep_with_their_probability():
    model, x = pruned({"name": "svit", "eval_mode": "gumbel"}, "reactivate", EVERY), images(1).expand(200, -1, -1, -1)
    kept = []
    model.listener = DecisionListener(3, lambda seen, budget, decision: kept.append((decision.keep, decision.score)))
    torch.manual_seed(0)
    with torch.no_grad():
        model.encode(x)
    (keep, p) = kept[0]
    assert (keep.float().mean(0) - p[0]).abs().max() < 0.13 and abs(float(keep.float().mean() - p.mean())) < 0.01
