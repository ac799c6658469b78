"""Ragged attention: the ways that devices need give what a loop over images gives."""

import pytest
import torch
import torch.nn.functional as F

from tokenprune.engine.blocks import ragged
from tokenprune.engine.packing import Packing


def case(counts, asked, seed=0):
    """Packed q, k, v (1,h,.,d) and packings for images of `counts` keys of which `asked` are queries."""
    generator = torch.Generator().manual_seed(seed)
    seen = Packing.of(torch.arange(max(counts)) < torch.tensor(counts)[:, None], 1)
    asking = Packing.of(torch.arange(max(asked)) < torch.tensor(asked)[:, None], 1)
    q, k, v = (torch.randn(1, 2, sum(p.lengths), 4, generator=generator) for p in (asking, seen, seen))
    return q, k, v, asking, seen


def alone(q, k, v, asking, seen, bias):
    """Softmax written out, image by image."""
    out, a, s = [], 0, 0
    for n, m in zip(asking.lengths, seen.lengths, strict=True):
        logits = q[:, :, a : a + n] @ k[:, :, s : s + m].transpose(-2, -1) / 2
        logits = logits if bias is None else logits + bias[0, s : s + m]
        out.append(logits.softmax(-1) @ v[:, :, s : s + m])
        a, s = a + n, s + m
    return torch.cat(out, 2)


CASES = [((3, 7, 1), (2, 4, 1)), ((3, 7, 1), (3, 7, 1)), ((5, 5), (5, 5)), ((5, 5), (2, 3)), ((4,), (2,))]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("counts", "asked"), CASES)
def test_every_way_is_a_loop_over_images(counts, asked, biased):
    q, k, v, asking, seen = case(counts, asked)
    bias = torch.randn(1, k.shape[2]) if biased else None
    expected = alone(q, k, v, asking, seen, bias)
    ways = [ragged.ragged_attention, ragged.looped, ragged.padded, *([ragged.even] if asking.even and seen.even else [])]
    for way in ways:
        torch.testing.assert_close(way(q, k, v, asking, seen, bias, 0.0), expected, msg=lambda text, way=way: f"{way.__name__}: {text}")


def test_variable_length_attention_is_called_with_starts_and_rows_of_heads(monkeypatch):
    def varlen(q, k, v, starts_q, starts_k, longest_q, longest_k):
        assert starts_q.dtype == starts_k.dtype == torch.int32 and (longest_q, longest_k) == (5, 8)
        parts = zip(starts_q.tolist()[:-1], starts_q.tolist()[1:], starts_k.tolist()[:-1], starts_k.tolist()[1:], strict=True)
        heads = [F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q[a:b], k[c:d], v[c:d]))) for a, b, c, d in parts]
        return torch.cat(heads, 1).transpose(0, 1)

    q, k, v, asking, seen = case((3, 7, 1), (2, 4, 1))
    monkeypatch.setattr(ragged, "_varlen_attn", lambda: varlen)
    torch.testing.assert_close(ragged.varlen(q, k, v, asking, seen), alone(q, k, v, asking, seen, None))


@pytest.mark.parametrize(
    ("dtype", "width", "there", "capability", "takes"),
    [
        (torch.bfloat16, 64, True, (9, 0), True),
        (torch.float32, 64, True, (9, 0), False),
        (torch.float16, 60, True, (9, 0), False),
        (torch.float16, 64, False, (9, 0), False),
        (torch.float16, 64, True, (7, 5), False),
    ],
)
def test_variable_length_attention_is_taken_where_it_has_a_kernel(monkeypatch, dtype, width, there, capability, takes):
    monkeypatch.setattr(ragged, "_varlen_attn", lambda: (lambda: None) if there else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert ragged.varlen_takes(torch.zeros(1, 2, 3, width, dtype=dtype)) is takes
