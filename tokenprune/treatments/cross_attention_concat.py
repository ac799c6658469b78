"""The treatment `cross_attention_concat`."""

from dataclasses import dataclass

from tokenprune.registry import register
from tokenprune.treatments.cross_attention import CrossAttend


@register("treatment", "cross_attention_concat")
@dataclass(frozen=True)
class CrossAttendConcat(CrossAttend):
    """Dropped tokens keep their last value; behind the last block learned queries look at them, too (Cropr Table 5)."""

    memory: str = "remember"
