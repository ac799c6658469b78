"""torch.compile: one program where counts are fixed, one break where only images know them, shared programs of blocks.

Programs run by torch's eager backend here, so that a difference comes from the trace. The registry is the matrix; most of it is slow.
"""

import copy
import pickle

import pytest
import torch
import torch._dynamo as dynamo
from torch._dynamo.testing import CompileCounter

import tokenprune
from tests.helpers.pairings import SIDE, each_selector_once, images, label, pruned, tiny_vit
from tokenprune.errors import IncompatiblePairing, InvalidConfig, UnsupportedBackbone
from tokenprune.registry import get

PLAN = {"name": "stages", "blocks": [1], "keep_rate": 0.7}
CASES = [(selector, treatment, train) for selector, treatment in each_selector_once() for train in (False, True)]
AT_ONCE = [("evit", "remove", False), ("tome", "remove", True), ("ats", "remove", False)]  # all others are slow tests
ANY_SIZE = [case for case in CASES if not get("selector", case[0]["name"]).mixing]  # whose weights are for one number of tokens
OTHER_SIZES = [("evit", "fuse", False), ("tome", "remove", True)]
SHARED = [
    ("ats", "remove"),
    pytest.param("svit", "reactivate", marks=pytest.mark.slow),
    pytest.param("evit", "fuse", marks=pytest.mark.slow),
]


def _chosen(cases, at_once=AT_ONCE):
    found = set()
    for selector, treatment, train in cases:
        key = (selector["name"], treatment, train)
        first = key not in found
        found.add(key)
        yield pytest.param(selector, treatment, train, marks=() if key in at_once and first else pytest.mark.slow)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def _model(selector, treatment, train=False):
    return pruned(selector, treatment, PLAN, vit=tiny_vit(depth=3)).train(train)


def _seeded(model, x):
    torch.manual_seed(0)
    return model(x)


def _same(compiled, model, dtype=torch.float32, counts=(3, 5), side=SIDE):
    for count in counts:
        x = images(count, side, seed=count).to(dtype)
        dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(_seeded(compiled, x), _seeded(model, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("selector", "treatment", "train"), list(_chosen(CASES)), ids=label)
def test_a_pass_is_one_program_or_breaks_at_most_once_a_decision(selector, treatment, train):
    model, counter = _model(selector, treatment, train), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=not model.asks_host)
    _same(compiled, model, counts=(3,))
    breaks = sum(dynamo.utils.counters["graph_break"].values())
    if model.asks_host:
        assert breaks == 1  # for all decisions
    else:
        _same(compiled, model, counts=(5,))
        assert (breaks, counter.frame_count) == (0, 1)  # two batch sizes, one program


@pytest.mark.parametrize(("selector", "treatment", "train"), list(_chosen(CASES)), ids=label)
def test_half_precision_is_one_program_too(selector, treatment, train):
    model = _model(selector, treatment, train).bfloat16()
    _same(torch.compile(model, backend="eager", fullgraph=not model.asks_host), model, torch.bfloat16)


@pytest.mark.parametrize(("selector", "treatment", "train"), list(_chosen(ANY_SIZE, OTHER_SIZES)), ids=label)
def test_each_size_of_images_has_one_program_for_any_batch(selector, treatment, train):
    model, counter = _model(selector, treatment, train), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=not model.asks_host)
    for number, (side, counts) in enumerate([(32, (3,)), (48, (3, 5)), (40, (2,)), (32, (4,))]):
        _same(compiled, model, counts=counts, side=side)
        assert model.asks_host or counter.frame_count == min(number, 2) + 1  # the last size is known


def test_progress_needs_a_new_program_only_where_it_changes_the_schedule():
    plan = {"name": "stages", "blocks": [1], "keep_rate": 0.5, "shrink_start": 0.5, "shrink_end": 0.5}
    model, counter = pruned("topk", "remove", plan, vit=tiny_vit(depth=3)).train(), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    shares = [(0.1, 1), (0.2, 1), (0.6, 2), (0.8, 3), (0.7, 3), (0.9, 3)]  # the third takes the share as a number that changes
    for share, programs in shares:
        model.progress = share
        _same(compiled, model, counts=(3,))
        assert counter.frame_count == programs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selector", "treatment"), [("evit", "fuse"), ("tome", "merge"), ("cropr", "last_layer_fusion"), ("ats", "remove")]
)
@pytest.mark.parametrize("mode", ["auto", "blocks"])
def test_inductor_computes_the_same(selector, treatment, mode):
    model = _model(selector, treatment)
    with torch.no_grad():
        _same(tokenprune.compile(copy.deepcopy(model), mode), model)


@pytest.mark.parametrize(("selector", "treatment"), SHARED, ids=label)
def test_blocks_of_a_kind_share_their_programs_for_any_number_of_tokens(selector, treatment):
    plan = {"name": "stages", "blocks": [1, 2, 4], "keep_rate": 0.7}
    plain, counter = pruned(selector, treatment, plan), CompileCounter()
    model = tokenprune.compile(copy.deepcopy(plain), "blocks", backend=counter)
    with torch.no_grad():
        _same(model, plain, counts=(3, 5, 4, 7))
    assert counter.frame_count <= 6 and not dynamo.utils.counters["graph_break"]  # for 6 blocks of five parts each


def test_a_compiled_model_keeps_its_keys_and_can_be_copied_and_pickled():
    plain = _model("evit", "fuse")
    model = tokenprune.compile(copy.deepcopy(plain), "blocks", backend="eager")
    assert model.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        _same(pickle.loads(pickle.dumps(copy.deepcopy(model))), plain, counts=(3,))


def test_the_mode_that_suits_a_method_is_chosen():
    fixed, varying = _model("evit", "fuse"), _model("ats", "remove")
    assert tokenprune.compile(fixed, backend="eager").compiled is None
    assert tokenprune.compile(varying, backend="eager").compiled == {"backend": "eager"}
    assert tokenprune.compile(_model("svit", "reactivate", train=True), backend="eager").compiled is None  # trains on all tokens


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(IncompatiblePairing, match="only the images say"):
        tokenprune.compile(_model("ats", "remove"), "whole")
    with pytest.raises(InvalidConfig, match="allowed: auto, whole, blocks"):
        tokenprune.compile(_model("evit", "fuse"), "graph")
    with pytest.raises(UnsupportedBackbone, match="what tokenprune.prune returned"):
        tokenprune.compile(tiny_vit())
