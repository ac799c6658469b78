"""What losses may read, and who refuses one that reads too much."""

import pytest
import torch

from tests.helpers.pairings import images, pruned
from tokenprune.engine.decision import Decision
from tokenprune.engine.loss import Loss
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate


@register("loss", "reads_labels")
class ReadsLabels(Loss):
    """A loss of the labels, noted by nobody but the task."""

    needs = ("targets", "teacher")

    def loss(self, facts):
        return facts.targets.float().mean() * len(facts.of("counted")) if facts.of("counted") else None


def noting(model):
    """Let every selector of a model note how many slots it saw."""
    for selector in model.selectors.values():
        score = selector.score
        selector.score = lambda seen, budget, score=score: with_note(score(seen, budget), seen)
    return model


def with_note(decision: Decision, seen) -> Decision:
    return Decision(decision.keep, score=decision.score, notes={"counted": int(seen.live.sum())})


def test_notes_reach_losses_in_the_order_of_blocks():
    model = noting(pruned("variance", "remove", losses={"reads_labels": {}})).train()
    outputs = model.encode(images(2))
    assert [(name, block) for name, block, _ in outputs.aux] == [("counted", 1), ("counted", 2), ("counted", 4)]
    assert [payload for _, _, payload in outputs.aux] == [128, 88, 62]
    assert model.losses(outputs, targets=torch.tensor([1, 4]))["loss_reads_labels"] == pytest.approx(7.5)
    assert model.eval().losses(outputs, targets=torch.tensor([1, 4])) == {}


def test_a_loss_with_nothing_to_read_is_left_out():
    model = pruned("variance", "remove", losses={"reads_labels": {}, "ratio": {}}).train()
    assert model.losses(model.encode(images(2))) == {}


def test_a_task_that_does_not_give_what_a_loss_needs_refuses_it_before_training():
    config = resolve(compose(["method=variance", "scale=smoke", "task=detection", "+losses.reads_labels={}"]))
    with pytest.raises(InvalidConfig, match="losses.reads_labels needs targets, teacher, which task=detection does not give"):
        validate(config, files=False)
    validate(resolve(compose(["method=variance", "scale=smoke", "task=classification", "+losses.reads_labels={}"])), files=False)


@pytest.mark.parametrize(
    ("selector", "loss", "message"),
    [
        (
            "random",
            "distill",
            r"losses.distill was given no logits, teacher; give what it needs: model.losses\(outputs, images=..., ",
        ),
        ("ia_red2", "reinforce", r"losses.reinforce was given no logits, targets; give what it needs: model.losses\(outputs, images=..., "),
    ],
)
def test_a_pass_that_lacks_what_a_loss_needs_is_told_what_to_give(selector, loss, message):
    model, x = pruned(selector, "remove", losses={loss: {}}).train(), images(2)
    with pytest.raises(InvalidConfig, match=message):
        model.losses(model.encode(x), images=x)
