"""What Cropr's router learns from, in training alone: an aggregator over all tokens and an auxiliary head (section 3.1)."""

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import Tensor, nn

EPS = 1e-6  # of the norms of the cross-attention and of the MLP; the head's has torch's 1e-5, as released


class AuxiliaryHead(nn.Module):
    """Predicts from what the queries attend to: X' = softmax(A d^-0.5) V, Y = X' + MLP(LN(X')) (Eq. 5), then LN and a linear layer.

    With one head V are the tokens themselves and d is C; with h heads V is projected, d = C/h and X' goes through one more projection.

    Args:
        dim: C. classes: K outputs. heads: h. mlp: False leaves Y = X' (Table 4c).
    """

    def __init__(self, dim: int, classes: int, heads: int = 1, mlp: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(dim, dim, bias=False) if heads > 1 else nn.Identity()
        self.proj = nn.Linear(dim, dim) if heads > 1 else nn.Identity()
        self.norm, self.mlp = (nn.LayerNorm(dim, eps=EPS) if mlp else None), (Mlp(dim, 4 * dim) if mlp else None)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))
        self.apply(start)

    def forward(self, query: Tensor, keys: Tensor, tokens: Tensor, live: Tensor | None = None) -> Tensor:
        """Return logits (B,K) of one query, (B,Nq,K) of several.

        Args:
            query: (Nq,C). keys, tokens: (B,T,C), equal with one head. live: (B,T) which of them count, None for all.
        """
        query = query.expand(len(tokens), -1, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, keys, self.value(tokens)))
        mask = None if live is None else live[:, None, None, :]
        seen = self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))  # X' (B,Nq,C)
        if self.mlp is not None and self.norm is not None:
            seen = seen + self.mlp(self.norm(seen))
        return self.head(seen).squeeze(1)


def start(module: nn.Module) -> None:
    """Give a linear layer its first weights, truncated normal of std 0.02 and no bias, as those of the released classifiers end up."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def first_queries(queries: int, dim: int) -> nn.Parameter:
    """Return Q (Nq,C), normal of std C^-0.5 cut off at two of them."""
    std = dim**-0.5
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(queries, dim), std=std, a=-2 * std, b=2 * std))
