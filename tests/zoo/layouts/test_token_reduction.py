"""TokenReduction's files against what its authors' code computes on weights filled by name."""

import pytest
import torch

from tests.helpers.goldens import filled, golden, imported, pictures
from tests.zoo.layouts.test_mae import tiny
from tokenprune.errors import CheckpointMismatch
from tokenprune.zoo.load import built

ARGS = {"keep_rate": [0.7], "reduction_loc": [3, 6, 9], "sinkhorn_eps": 1.0, "cluster_iters": 3, "k_neighbors": 5, "equal_weight": False}
MIXING = {"tr_sit_t": "sit", "tr_sinkhorn_t": "sinkhorn", "tr_patchmerger_t": "patchmerger"}


def decided(model):
    """Return {block: Decision} and the logits of the pictures."""
    found = {}
    for number, selector in model.selectors.items():

        def score(seen, budget, number=int(number), original=selector.score):
            found[number] = original(seen, budget)
            return found[number]

        selector.score = score
    with torch.no_grad():
        return found, model(pictures())


@pytest.mark.parametrize("said", [True, False], ids=["arguments", "shapes"])
@pytest.mark.parametrize("name", MIXING)
def test_mixing_methods_are_the_authors(name, said, tmp_path):
    """Assignments are the greatest weight of a token; where the authors' own differ in double precision, they are not compared."""
    numbers = golden(f"methods/dev/{name}.safetensors")
    args = {"model": f"{MIXING[name]}_tiny_patch16_224", **ARGS} if said else None
    decisions, logits = decided(built(imported(tmp_path, filled(f"methods/dev/keys_{name}.json"), args=args), name))
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    assert [decisions[block].mix.shape[1] for block in (3, 6, 9)] == [137, 96, 67]
    exact = (3, 6, 9) if name == "tr_patchmerger_t" else (3,)
    for block in exact:
        assert torch.equal(decisions[block].mix.argmax(1), numbers[f"assignment_block{block}"].long())


def test_dpc_knn_is_the_authors(tmp_path):
    """Theirs orders the tokens of a stage by the score of centres; centres and clusters are compared as positions."""
    name = "tr_dpcknn_t"
    numbers = golden(f"methods/dev/{name}.safetensors")
    found = imported(tmp_path, filled(f"methods/dev/keys_{name}.json"), args={"model": "dpcknn_tiny_patch16_224", **ARGS})
    model, entering = built(found, name), {}
    model.watch = lambda block, state: entering.update({block: state})
    decisions, logits = decided(model)
    torch.testing.assert_close(logits, numbers["logits"], atol=1e-5, rtol=0)
    theirs = torch.arange(196).expand(4, -1)  # positions of their slots
    owner = torch.arange(196).expand(4, -1)
    for block in (3, 6, 9):
        centres = theirs.gather(1, numbers[f"centre_block{block}"].long())
        assert torch.equal(entering[block].index.sort(1).values, centres.sort(1).values) and decisions[block].keep.sum() == centres.numel()
        moves = torch.zeros(4, 196, dtype=torch.long).scatter(1, theirs, centres.gather(1, numbers[f"assignment_block{block}"].long()))
        owner, theirs = moves.gather(1, owner), centres
        assert torch.equal(entering[block].owner, owner)
    assert any("noise" in note for note in found.notes)


def test_noise_comes_back_if_it_is_asked_for(tmp_path):
    state = {**tiny(), "cluster_layers.0.score.weight": torch.zeros(1, 64)}
    quiet, noisy = (imported(tmp_path, state, keep_rate=0.5, blocks=[1], noise=noise) for noise in (False, True))
    assert quiet.settings["selector"] == {"name": "dpc_knn", "variant": "released", "noise": False} and quiet.notes
    assert noisy.settings["selector"]["noise"] is True and not noisy.notes


@pytest.mark.parametrize(
    ("state", "args", "given", "words"),
    [
        ({"cluster_layers.0.score.weight": torch.zeros(1, 64)}, {}, {"blocks": [1]}, "keep_rate is not given"),
        ({"cluster_layers.0.v": torch.zeros(2, 64)}, {}, {}, "1 cluster layers, blocks are"),
        (
            {"cluster_layers.0.v": torch.zeros(2, 64)},
            {"keep_rate": [0.25], "reduction_loc": [1]},
            {},
            "make .2. tokens, keep_rate would be .1.",
        ),
        (
            {"cluster_layers.0.v": torch.zeros(2, 64)},
            {"model": "sit_tiny_patch16_224", "reduction_loc": [1]},
            {},
            "of sit, its keys of sinkhorn",
        ),
        (
            {"cluster_layers.0.score.weight": torch.zeros(1, 64)},
            {"k_neighbors": 7, "keep_rate": [0.5], "reduction_loc": [1]},
            {},
            "k_neighbors=7",
        ),
    ],
    ids=["rate", "blocks", "counts", "method", "neighbours"],
)
def test_other_files_are_refused_by_reason(state, args, given, words, tmp_path):
    method = "dpcknn" if any("score" in key for key in state) else "sinkhorn"
    args = {"model": f"{method}_tiny_patch16_224", **args} if args else {}
    with pytest.raises(CheckpointMismatch, match=words):
        imported(tmp_path, {**tiny(), **state}, args=args, **given)
