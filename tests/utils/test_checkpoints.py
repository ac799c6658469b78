"""Weights on disk: round trips, complete mismatch lists, files that would run code."""

import os
import pickle
from argparse import Namespace

import pytest
import torch
from torch import nn

from tokenprune import prune
from tokenprune.errors import CheckpointMismatch
from tokenprune.utils import checkpoints
from tokenprune.utils.checkpoints import load_dense, load_weights, read_metadata, read_weights, save_weights


def net(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def test_round_trip_and_metadata(tmp_path):
    a, b = net(), net()
    save_weights(tmp_path / "w.safetensors", a, metadata={"what": "a test"})
    assert load_weights(tmp_path / "w.safetensors", b)["what"] == "a test"
    assert read_metadata(tmp_path / "w.safetensors")["what"] == "a test"
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_half_precision_halves_the_file_and_loads_as_float(tmp_path):
    big = nn.Linear(200, 200)
    save_weights(tmp_path / "full.safetensors", big)
    save_weights(tmp_path / "half.safetensors", big, dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * (tmp_path / "full.safetensors").stat().st_size + 500
    other = nn.Linear(200, 200)
    load_weights(tmp_path / "half.safetensors", other)
    assert other.weight.dtype == torch.float32 and torch.allclose(other.weight, big.weight, atol=1e-3)


def test_integers_keep_their_type_in_half_precision(tmp_path):
    save_weights(tmp_path / "w.safetensors", net(), dtype=torch.float16)
    assert read_weights(tmp_path / "w.safetensors")["1.num_batches_tracked"].dtype == torch.int64


def test_tied_weights_can_be_stored(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    save_weights(tmp_path / "w.safetensors", tied)
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["1.weight"], tied[0].weight)


def test_all_mismatches_are_listed_and_nothing_is_loaded(tmp_path):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = dict(net().state_dict())
    del state["0.bias"], state["1.running_var"]
    state.update({"2.weight": torch.zeros(5, 5), "extra.one": torch.zeros(1), "extra.two": torch.zeros(2)})
    save_weights(tmp_path / "w.safetensors", state)
    with pytest.raises(CheckpointMismatch) as error:
        load_weights(tmp_path / "w.safetensors", model)
    expected = ("5 keys", "missing 0.bias", "missing 1.running_var", "unexpected extra.one", "unexpected extra.two", "(5, 5), model (2, 4)")
    assert all(part in str(error.value) for part in expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_prefix_drop_and_allow_missing(tmp_path):
    source, target = net(), net()
    state = {f"model.net.{k}": v for k, v in source.state_dict().items() if not k.startswith("2.")}
    save_weights(tmp_path / "w.safetensors", {**state, "model.net.head.x": torch.zeros(1), "other": torch.zeros(1)})
    load_weights(tmp_path / "w.safetensors", target, prefix="model.net.", drop=("head.",), allow_missing=("2.",))
    assert torch.equal(source[0].weight, target[0].weight) and not torch.equal(source[2].weight, target[2].weight)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_torch_files_wrapped_or_not(tmp_path, wrapper):
    source, target = net(), net()
    state = source.state_dict()
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    load_weights(tmp_path / "w.pth", target)
    assert torch.equal(source[2].weight, target[2].weight)


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_arguments_of_a_training_script_are_read_over(tmp_path):
    source, target = net(), net()
    torch.save({"model": source.state_dict(), "args": Namespace(lr=0.1, betas=(0.9, 0.95), out="x"), "epoch": 3}, tmp_path / "w.pth")
    load_weights(tmp_path / "w.pth", target)
    assert torch.equal(source[2].weight, target[2].weight)
    assert Namespace not in torch.serialization.get_safe_globals()  # for that file alone


def test_a_malicious_pickle_runs_nothing(tmp_path):
    trace = tmp_path / "ran"
    torch.save({"model": net().state_dict(), "args": Namespace(lr=Malicious(f"touch {trace}"))}, tmp_path / "args.pth")
    torch.save({"model": Malicious(f"touch {trace}")}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(f"touch {trace}"), protocol=2))
    for name in ("zip.pth", "plain.pth", "args.pth"):
        with pytest.raises(CheckpointMismatch, match="no code is run"):
            load_weights(tmp_path / name, net())
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_damaged_and_missing_files(tmp_path, name):
    with pytest.raises(CheckpointMismatch, match="there is no file"):
        load_weights(tmp_path / name, net())
    if name.endswith("pth"):
        torch.save(net().state_dict(), tmp_path / name)
    else:
        save_weights(tmp_path / name, net())
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointMismatch):
            load_weights(tmp_path / name, net())


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, old = tmp_path / "w.safetensors", net()
    save_weights(path, old)

    def broken(tensors, part, metadata):
        part.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, net())
    assert torch.equal(read_weights(path)["0.weight"], old[0].weight)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def vit(**changes):
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**{"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 12, "num_heads": 3, "num_classes": 0, **changes})


@pytest.mark.parametrize("options", [{"selector": "svit"}, {"selector": "dynamicvit"}, {"selector": "evit", "cls": "random"}])
def test_load_dense_leaves_only_what_pruning_adds(tmp_path, options):
    dense = nn.ModuleDict({"encoder": prune(vit()), "head": nn.Linear(2, 2)})
    save_weights(tmp_path / "w.safetensors", dense)
    pruned = nn.ModuleDict({"encoder": prune(vit(), **options), "head": nn.Linear(2, 2)})
    load_dense(pruned, tmp_path / "w.safetensors")
    for name, value in dense.state_dict().items():
        assert torch.equal(pruned.state_dict()[name], value), name
    with pytest.raises(CheckpointMismatch, match="missing head.weight"):
        save_weights(tmp_path / "v.safetensors", {k: v for k, v in dense.state_dict().items() if k != "head.weight"})
        load_dense(pruned, tmp_path / "v.safetensors")


def test_load_dense_refuses_another_backbone(tmp_path):
    save_weights(tmp_path / "w.safetensors", prune(vit()))
    with pytest.raises(CheckpointMismatch, match="backbone.blocks.0.attn.qkv.weight"):
        load_dense(prune(vit(embed_dim=24), selector="evit"), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointMismatch, match="backbone.cls_token"):
        load_dense(prune(vit(), selector="evit"), _without(tmp_path, "backbone.cls_token"))


def _without(folder, key):
    save_weights(folder / "cut.safetensors", {k: v for k, v in prune(vit()).state_dict().items() if k != key})
    return folder / "cut.safetensors"
