"""Builds the layers that teach Cropr's router, in training only: an aggregator over all tokens and an auxiliary head (section 3.1)."""

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import Tensor, nn

EPS = 1e-6  # eps of the LayerNorms of the cross-attention and the MLP; the head's LayerNorm has torch's 1e-5, as released


class AuxiliaryHead(nn.Module):
    """Predicts from the tokens that the queries attend to: X' = softmax(A d^-0.5) V, Y = X' + MLP(LN(X')) (Eq. 5), then LN and Linear.

    With one head, V is the tokens themselves and d is C. With h heads, V is a projection of the tokens, d is C/h, and X' goes through one
    more projection.

    Args:
        dim: Channels C.
        classes: Number of outputs K.
        heads: Number of attention heads h.
        mlp: Whether the MLP is there; without it Y = X' (Table 4c).
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
        """Return the logits: (B,K) for one query, (B,Nq,K) for several.

        Args:
            query: Queries, (Nq,C).
            keys: Keys, (B,T,C); equal to `tokens` with one head.
            tokens: Tokens, (B,T,C).
            live: Which tokens count, (B,T); None for all.
        """
        query = query.expand(len(tokens), -1, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, keys, self.value(tokens)))
        mask = None if live is None else live[:, None, None, :]
        seen = self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))  # X' (B,Nq,C)
        if self.mlp is not None and self.norm is not None:
            seen = seen + self.mlp(self.norm(seen))
        return self.head(seen).squeeze(1)


def start(module: nn.Module) -> None:
    """Initialise a linear layer: truncated normal weights of std 0.02 and zero bias, as the released classifiers end up."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def first_queries(queries: int, dim: int) -> nn.Parameter:
    """Return the initial queries Q (Nq,C): normal of std C^-0.5, truncated at two standard deviations."""
    std = dim**-0.5
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(queries, dim), std=std, a=-2 * std, b=2 * std))
