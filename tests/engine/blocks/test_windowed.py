"""Attention inside windows against an explicit partition and timm's own blocks, for models without and with rotary codes."""

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune
from tests.helpers.models import small
from tokenprune.engine.blocks.windowed import received, tables
from tokenprune.engine.blocks.windows import Windows
from tokenprune.engine.observation import Observation
from tokenprune.errors import InvalidConfig, InvalidSchedule

S, SIDE, GLOBAL = 2, 8, (1,)  # windows of 2 x 2 cells in 8 x 8; of three blocks the middle one is global
LABELS = {
    "vit_tiny_patch16_224": {"global_pool": "avg"},
    "eva02_base_patch14_224": {},
    "vit_base_patch16_rope_mixed_ape_224": {"global_pool": "avg"},
}
SQUARES = {"name": "explicit", "keep": {1: 36, 2: 16}}


def model_of(label, size=S, blocks=GLOBAL, rope="original"):
    model = small(label, class_token=False, img_size=8 * SIDE, dynamic_img_size=True, **LABELS[label])
    model.windows = Windows(size, blocks, rope)
    return model


def images(count=2, seed=1):
    return torch.randn(count, 3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(seed))


def table_of(model, side, number):
    """timm's own rotary table of a grid of its own, for one block."""
    if getattr(model, "rope", None) is None:
        return None
    table = model.rope.get_embed(shape=(side, side))
    return table if table.dim() == 2 else table[number]


def call(block, x, rope):
    return block(x) if rope is None else block(x, rope=rope)


def expected_map(model, x, keep=None, folded=False):
    """Block after block of timm, window after window; `keep` {block: positions} of one image, in raster order."""
    _, x, rope = tokenprune.prune(model).family.embed(x)
    places = torch.arange(SIDE * SIDE)
    for number, block in enumerate(model.blocks):
        if keep and number in keep:
            chosen = torch.isin(places, keep[number])
            x, places = x[:, chosen], places[chosen]
        side = round(len(places) ** 0.5)
        if number in model.windows.global_blocks:
            table = table_of(model, SIDE, number)
            x = call(block, x, None if table is None else table[..., places, :])
            continue
        near = table_of(model, S, number)
        cells = torch.arange(side * side).view(side, side)
        out = torch.empty_like(x)
        for top in range(0, side, S):
            for left in range(0, side, S):
                inside = cells[top : top + S, left : left + S].flatten()
                rows = torch.arange(S * S) if folded else places[inside] // SIDE % S * S + places[inside] % SIDE % S
                out[:, inside] = call(block, x[:, inside], None if near is None else near[..., rows, :])
        x = out
    return x, places


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_fold_lays_tokens_row_by_row_and_unfold_brings_them_back(batch, heads, size, across, seed):
    windows, side = Windows(size), size * across
    x = torch.randn(batch, heads, side * side, 3, generator=torch.Generator().manual_seed(seed))
    folded = windows.fold(x)
    assert folded.shape == (batch * across**2, heads, size**2, 3)
    assert torch.equal(windows.unfold(folded, side * side), x)
    square = x.view(batch, heads, side, side, 3)
    for image in range(batch):
        for top in range(across):
            for left in range(across):
                part = square[image, :, top * size : (top + 1) * size, left * size : (left + 1) * size]
                assert torch.equal(folded[(image * across + top) * across + left], part.flatten(1, 2))


@pytest.mark.parametrize("tokens", [0, 15, 9, 25])
def test_what_is_no_square_of_whole_windows_is_refused(tokens):
    with pytest.raises(InvalidSchedule, match=f"{tokens} tokens are no square of whole windows of 2 x 2; allowed near it: .*_squares"):
        Windows(2).fold(torch.zeros(1, 1, tokens, 4))


@pytest.mark.parametrize("label", LABELS)
@torch.no_grad()
def test_nothing_pruned_is_timms_blocks_window_by_window(label):
    model, x = model_of(label), images()
    ours = tokenprune.prune(model).encode(x)
    expected, _ = expected_map(model, x)
    torch.testing.assert_close(ours.state.tokens, expected, atol=1e-5, rtol=1e-5)
    plain = model_of(label, blocks=(0, 1, 2))
    assert not torch.allclose(tokenprune.prune(plain).encode(x).state.tokens, expected, atol=1e-2)


@pytest.mark.parametrize("label", LABELS)
@torch.no_grad()
def test_windows_as_large_as_the_grid_or_nowhere_are_no_windows(label):
    """The table of one window of the whole grid is that of the grid, and no block is windowed where all are global."""
    x, plain = images(), model_of(label)
    plain.windows = None
    expected = tokenprune.prune(plain).encode(x).map
    for size, blocks in ((SIDE, ()), (S, (0, 1, 2))):
        assert torch.allclose(tokenprune.prune(model_of(label, size, blocks)).encode(x).map, expected, atol=1e-5)


@pytest.mark.parametrize("rope", ["original", "folded"])
@pytest.mark.parametrize("label", LABELS)
@torch.no_grad()
def test_kept_tokens_are_folded_in_raster_order_with_their_rows(label, rope):
    model, x = model_of(label, rope=rope, blocks=(1,)), images(1)
    ours = tokenprune.prune(model, "random", "remove", SQUARES)
    seen = {}
    ours.watch = lambda block, state: seen.update({block: state.index[0].clone()})
    state = ours.encode(x).state
    assert all(torch.equal(index, index.sort().values) for index in seen.values())
    expected, places = expected_map(model, x, seen, folded=rope == "folded")
    assert torch.equal(places, state.index[0]) and [len(seen[b]) for b in range(3)] == [64, 36, 16]
    torch.testing.assert_close(state.tokens, expected, atol=1e-5, rtol=1e-5)
    if label != "vit_tiny_patch16_224":
        other, _ = expected_map(model, x, seen, folded=rope != "folded")
        assert not torch.allclose(state.tokens, other, atol=1e-3), "the two choices differ"


@torch.no_grad()
def test_last_layer_fusion_returns_every_position_to_its_cell():
    """With blocks that add nothing the map is the embedding, cell by cell, though windows moved tokens about."""
    model = model_of("eva02_base_patch14_224", blocks=(1, 2))
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_(), layer.bias.zero_()
    ours, x = tokenprune.prune(model, "random", "last_layer_fusion", {"name": "explicit", "keep": {1: 16}}), images()
    entered = []
    ours.watch = lambda _, state: entered.append(state.tokens.shape[1])
    outputs = ours.encode(x)
    torch.testing.assert_close(outputs.state.tokens, ours.family.embed(x)[1])
    assert entered == [64, 16, 64] and torch.equal(outputs.state.index[0], torch.arange(64))


def test_rotary_tables_are_eva02s():
    """Positions 0 ... 15 in a window, k * 16 / 96 on the whole grid; 16 frequencies an axis, each twice; rows before columns."""
    model = timm.create_model("eva02_large_patch14_448", depth=2, embed_dim=128, num_heads=2, dynamic_img_size=True, num_classes=0)
    found = tables(Windows(16, (1,)), model.rope.get_embed(shape=(96, 96)), model.rope, (96, 96), 2)
    assert [t.shape for t in found] == [(1, 9216, 128)] * 2
    for table, place in zip(found, (lambda k: k % 16, lambda k: k * 16 / 96), strict=True):
        for row, column in ((0, 0), (3, 17), (95, 31), (50, 95)):
            angles = torch.cat([place(at) * 10000.0 ** -(torch.arange(16) / 16) for at in (row, column)]).repeat_interleave(2)
            want = torch.cat([angles.sin(), angles.cos()])
            torch.testing.assert_close(table[0, row * 96 + column], want, atol=1e-5, rtol=1e-5)


def test_codes_of_one_shape_only_are_refused():
    model = model_of("eva02_base_patch14_224")
    table = model.rope.get_embed(shape=(8, 8))
    model.rope.get_embed = lambda shape: table
    with pytest.raises(InvalidConfig, match="dynamic_img_size=True"):
        tokenprune.prune(model).encode(images())


@pytest.mark.parametrize(("height", "width"), [(64, 32), (40, 40)])
def test_images_that_windows_do_not_tile_are_refused(height, width):
    model = tokenprune.prune(model_of("vit_tiny_patch16_224", size=4))
    with pytest.raises(InvalidConfig, match=f"grid of {height // 8} x {width // 8} patches, which windows of 4 do not tile"):
        model.encode(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize("mean", [False, True])
@torch.no_grad()
def test_received_attention_is_that_of_the_window(mean):
    """Explicit softmax in every window, window by window; heads and images apart."""
    model, seen = tokenprune.prune(model_of("eva02_base_patch14_224", blocks=())), {}
    model.probe = lambda observation: seen.setdefault(observation.block, observation)
    model.encode(images())
    observation: Observation = seen[2]
    p = observation.projection
    found = observation.mean_query() if mean else observation.column_mean()
    assert found.shape == (2, 4, 64) and torch.equal(found, received(p, p.windows, mean))
    cells = torch.arange(64).view(8, 8)
    for top in range(0, 8, S):
        for left in range(0, 8, S):
            inside = cells[top : top + S, left : left + S].flatten()
            q = p.q[:, :, inside].mean(2, keepdim=True) if mean else p.q[:, :, inside]
            attention = (q @ p.k[:, :, inside].transpose(-2, -1) * p.scale).softmax(-1)
            torch.testing.assert_close(found[:, :, inside], attention.mean(2))


@torch.no_grad()
def test_a_copy_for_inference_has_windows_of_its_own_model():
    model = tokenprune.prune(model_of("eva02_base_patch14_224"), "cropr", "last_layer_fusion", {"name": "explicit", "keep": {1: 36}})
    deployed, x = model.deploy(), images()
    assert torch.equal(deployed(x), model.eval()(x))
    model.backbone.blocks[0].attn.proj.weight.zero_()
    assert not torch.equal(deployed(x), model(x))


def test_images_drop_paths_as_a_whole_not_window_by_window():
    """DropPath of 1/2 in a windowed block: an image's attention branch is there everywhere or nowhere."""
    model = model_of("vit_tiny_patch16_224", blocks=())
    ours = tokenprune.prune(model)
    block = ours.family.blocks[0]
    model.blocks[0].drop_path1 = type(small("vit_tiny_patch16_224", drop_path_rate=0.5).blocks[-1].drop_path1)(0.5)
    model.blocks[0].train()
    torch.manual_seed(0)
    x = torch.randn(64, 16, 48)
    branch = block.attend(block.project(x)).abs().sum(-1) > 0  # (B,M)
    assert (branch.all(1) | ~branch.any(1)).all() and 16 < branch.all(1).sum() < 48
