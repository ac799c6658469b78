"""What losses of a method may read, and what a loss plugin is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tokenprune.engine.observation import Observation
from tokenprune.engine.outputs import Outputs
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT

IGNORED = -1  # label of what has no class


@dataclass(frozen=True)
class LossInputs:
    """One training pass, as losses see it.

    outputs: of the encoder. model: the encoder itself, for a pass of one's own. images (B,3,h,w) normalised; logits (B,K); targets (B,)
    classes or (B,K) soft ones; patches (B,N) the class of each grid position, `IGNORED` for none; presence (B,K) which classes an image
    holds, 0/1; foreground (B,N) the share of each grid position that objects cover; teacher: a PrunedViT without a selector, frozen, as
    the model was before training. What a task does not give is None; a loss says in `needs` what it cannot do without.
    """

    outputs: Outputs
    model: "PrunedViT"
    images: Tensor | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None
    patches: Tensor | None = None
    presence: Tensor | None = None
    foreground: Tensor | None = None
    teacher: "PrunedViT | None" = None

    def given(self, loss: str, *names: str) -> tuple[Any, ...]:
        """Return the named fields for a loss that cannot do without.

        Raises:
            InvalidConfig: one of them is None.
        """
        values = tuple(getattr(self, name) for name in names)
        if missing := [name for name, value in zip(names, values, strict=True) if value is None]:
            remedy = f"model.losses(outputs, {', '.join(f'{name}=...' for name in names)})"
            raise InvalidConfig(f"losses.{loss} was given no {', '.join(missing)}; give what it needs: {remedy}")
        return values

    def of(self, name: str) -> list[Any]:
        """Return the payloads of the records of that name, in the order of blocks."""
        return [payload for kind, _, payload in self.outputs.aux if kind == name]


class Loss:
    """A weighted term of the total loss; a subclass is a dataclass of its options, registered as `@register("loss", NAME)`.

    needs: fields of `LossInputs` that must be given; a run of a task that does not give them (`Task.gives`) is refused.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def observes(self) -> bool:
        """Tell whether `observe` does anything; the engine calls it only then."""
        return type(self).observe is not Loss.observe

    def observe(self, seen: Observation) -> Any:
        """Return what the loss wants to remember of a block's attention, None for nothing.

        It is called in training, in every block, with the block's projections, before its attention. `loss` finds what it returned in
        `facts.of(name)`.
        """
        return None

    def loss(self, facts: LossInputs) -> Tensor | None:
        """Return the weighted scalar, None where the pass has nothing that it reads."""
        raise TypeError(f"loss {type(self).__name__} must define loss(facts) -> Tensor | None")

    @classmethod
    def refusal(cls, task: str, gives: Collection[str]) -> str | None:
        """Return why a task that gives these facts cannot train with the loss, or None."""
        missing = [name for name in cls.needs if name not in gives]
        wants = f"losses.{cls.name} needs {', '.join(missing)}"
        return f"{wants}, which task={task} does not give; use task=classification" if missing else None


def noted(terms: Mapping[str, Loss], seen: Observation, state: TokenState) -> TokenState:
    """Return the state with what losses want to remember of a block's attention, under their names."""
    for name, term in terms.items():
        payload = term.observe(seen) if term.observes else None
        state = state if payload is None else state.note(name, seen.block, payload)
    return state


def weighted(terms: Mapping[str, Loss], facts: LossInputs) -> dict[str, Tensor]:
    """Return the weighted losses of one training pass as `loss_<name>`, without those that found nothing to read."""
    found = {f"loss_{name}": term.loss(facts) for name, term in terms.items()}
    return {name: value for name, value in found.items() if value is not None}
