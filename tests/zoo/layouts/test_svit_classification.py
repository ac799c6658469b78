"""SViT's classifier against what its authors' code computes on weights filled by name, gates by threshold and drawn."""

import pytest
import torch

from tests.helpers.goldens import built, filled, golden, imported, noise
from tokenprune.errors import CheckpointMismatch

GATES = range(3, 12)


def images(count):
    """Return the images that the goldens were made of, (count,3,224,224)."""
    coarse = (0.8 * noise("cls.coarse", (16, 3, 14, 14))).repeat_interleave(16, 2).repeat_interleave(16, 3)
    return (coarse + 0.4 * noise("cls.fine", (16, 3, 224, 224))).float()[:count]


def state():
    return filled("svit/keys_svit_cls_s.json", "svit_cls_s")


def followed(model, x):
    """Return kept tokens of each gate with the class token first {block: (B,197)}, the class token at each block's entry, and logits."""
    kept, cls = {}, {}

    def watch(block, s):
        here = torch.zeros(len(x), 196, dtype=torch.bool).scatter(1, s.index.clamp(min=0), s.live)
        first = torch.ones(len(x), 1, dtype=torch.bool) if s.prefix_live is None else s.prefix_live
        kept[block], cls[block] = torch.cat([first, here], 1), s.prefix[:, 0]

    model.watch = watch
    with torch.no_grad():
        return kept, cls, model(x)


@pytest.mark.parametrize("execution", ["packed", "masked"])
@pytest.mark.parametrize("mode", ["threshold", "gumbel"])
def test_gates_and_logits_are_the_authors(mode, execution, tmp_path):
    numbers, start = golden("svit/dev/svit_cls_s.safetensors"), "sampled." if mode == "gumbel" else ""
    model = built(imported(tmp_path, state(), eval_mode=mode), execution)
    torch.manual_seed(0)  # as the goldens were drawn
    kept, cls, logits = followed(model, images(4 if mode == "gumbel" else 16 if execution == "packed" else 4))
    for block in GATES:
        assert torch.equal(kept[block], numbers[f"{start}gate.{block}.kept"].bool()[: len(logits)]), block
    for block in (8, 9, 10, 11):
        torch.testing.assert_close(cls[block][:4], numbers[f"{start}block.{block}.input_cls"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits, numbers[f"{start}logits"][: len(logits)], atol=2e-5, rtol=0)
    assert not kept[11][:, 0].any()  # here the last gate drops every class token


def test_files_that_lack_a_gate_are_refused(tmp_path):
    whole = {key: torch.zeros(64, 64) for key in ("cls_token", *(f"blocks.{i}.TransformerEncoderLayer.linear1.weight" for i in range(5)))}
    with pytest.raises(CheckpointMismatch, match=r"has gates \[0, 2\] for 5 blocks"):
        imported(tmp_path, whole | {f"selective_modules.{k}.mlp.fc1.weight": torch.zeros(2, 2) for k in (0, 2)})
