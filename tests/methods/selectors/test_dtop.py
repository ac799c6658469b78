"""DToP with a fixed number: who leaves, what is remembered of it, what teaches the heads, which tasks can have it."""

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.exits import Exits
from tests.helpers.pairings import images, pruned
from tests.helpers.routers import PER_BLOCK
from tokenprune.engine.loss import IGNORED
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig
from tokenprune.measure.macs import planned_macs
from tokenprune.methods.selectors.dtop import DToP
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate
from tokenprune.tasks.segmentation.model import Segmenter

EXECUTIONS = ("masked", "gathered", "packed")


def predicted(head, tokens):
    norm, linear = head
    return F.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, 1e-5) @ linear.weight.T + linear.bias


def awake(model):
    """Heads that tell tokens apart."""
    torch.manual_seed(4)
    with torch.no_grad():
        for selector in model.selectors.values():
            for p in selector.parameters():
                p.copy_(torch.randn_like(p) * 0.5)
    return model


@torch.no_grad()
def test_the_least_confident_stay_by_hand():
    torch.manual_seed(1)
    made = DToP(Context(12, 3, 1, Budget(1, 4, 9, 4 / 9), 6, 1, classes=5)).eval()
    for p in made.parameters():
        p.copy_(torch.randn_like(p))
    state = TokenState.start(torch.randn(2, 1, 12), torch.randn(2, 9, 12), (3, 3))
    live = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 1, 1], [1] * 9]).bool()
    for seen in (Observation(state, 1), Observation(state.replace(live=live, complete=False), 1)):
        decision = made.score(seen, Budget(1, 4, 9, 4 / 9))
        for image in range(2):
            logits = predicted(made.head, seen.tokens[image])
            confidence = [max((row - row.logsumexp(0)).exp()) for row in logits]
            there = [n for n in range(9) if seen.live[image, n]]
            stay = sorted(there, key=lambda n: float(confidence[n]))[:4]
            assert decision.keep[image].nonzero().flatten().tolist() == sorted(stay)
            torch.testing.assert_close(decision.traits["logits"][image], logits)
        assert decision.notes == {}


def merged(outputs, head):
    """Logits (B,N,K) as DToP merges them: the model's own head of what is there, the logits of its exit of what has left."""
    stored = outputs.state.traits["logits"][:, outputs.prefix.shape[1] :]
    return head(outputs.map).where(outputs.present.unsqueeze(-1), stored)


@pytest.mark.parametrize("treatment", ["remove", "preserve"])
@pytest.mark.parametrize("execution", EXECUTIONS)
@torch.no_grad()
def test_what_has_left_keeps_the_logits_of_its_exit(execution, treatment):
    """To the bit those of the head that let it go, of the token as it then was; and so they are in the merged answer."""
    model = awake(pruned("dtop", treatment, PER_BLOCK, execution))
    exits = Exits(model)
    outputs = model.encode(images(3))
    answer = merged(outputs, model.family.label)
    torch.testing.assert_close(Segmenter(model).label_logits(outputs), answer)
    assert len(exits.left) == int((~outputs.state.present()).sum()) == 3 * (8 + 7 * 3)
    for (image, place), number in exits.left.items():
        own = predicted(model.selectors[str(number)].head, exits.tokens[image, place])
        torch.testing.assert_close(outputs.state.traits["logits"][image, 1 + place], own, atol=1e-5, rtol=1e-5)
        if treatment == "remove":
            torch.testing.assert_close(answer[image, place], own, atol=1e-5, rtol=1e-5)
    there = outputs.present
    torch.testing.assert_close(answer[there], model.backbone.head(outputs.map[there]))


@torch.no_grad()
def test_as_many_heads_as_decisions():
    """Each of 2 C + C K + K parameters and M C K MACs, M the patch tokens that come; the norm's M C elements are counted as norms."""
    model = pruned("dtop", "remove", PER_BLOCK).eval()
    other = pruned("random", "remove", PER_BLOCK).eval()
    assert list(model.selectors) == [str(b) for b in model.budgets(64)] and len(model.selectors) == 4
    C, K, coming = 24, 5, 64 + 56 + 49 + 42
    assert sum(p.numel() for p in model.deploy().selectors.parameters()) == 4 * (2 * C + C * K + K)
    plan, without = planned_macs(model, 64), planned_macs(other, 64)
    assert plan.selector == coming * C * K and plan.linear == without.linear
    assert plan.norm - without.norm == 5 * coming * C


def test_the_loss_is_of_tokens_at_their_positions_and_reaches_the_encoder():
    labels = torch.randint(0, 5, (3, 64), generator=torch.Generator().manual_seed(0))
    labels[:, ::7] = IGNORED
    found = {}
    for execution in EXECUTIONS:
        model = awake(pruned("dtop", "remove", PER_BLOCK, execution, losses={"auxiliary": {}})).train()
        outputs = model.encode(images(3))
        loss = model.losses(outputs, patches=labels)["loss_auxiliary"]
        total = 0.0
        for name, number, (logits, places) in outputs.aux:
            assert name == "token_logits" and str(number) in model.selectors
            rows = [(logits[b, m], int(labels[b, places[b, m]])) for b, m in (places >= 0).nonzero().tolist()]
            told = [row.logsumexp(0) - row[label] for row, label in rows if label != IGNORED]
            total += float(sum(told).detach()) / len(told)
        assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in model.selectors.parameters())
        blocks = model.backbone.blocks
        assert all(p.grad.abs().sum() > 0 for n in range(4) for p in blocks[n].parameters()), "blocks 0 to 3 are before the last decision"
        assert all(p.grad is None for n in (4, 5) for p in blocks[n].parameters())
        found[execution] = [loss, *(p.grad for p in model.parameters() if p.grad is not None)]
    for execution in EXECUTIONS[1:]:
        for a, b in zip(found["masked"], found[execution], strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("classes", [0, 1])
def test_without_classes_there_is_nothing_to_be_confident_of(classes):
    """Such a model can be planned, which is done before a task knows its data, and not run."""
    model = pruned("dtop", "remove", classes=classes)
    assert planned_macs(model, 64) == planned_macs(pruned("random", "remove"), 64)
    with pytest.raises(InvalidConfig, match=rf"dtop: there are {classes} classes to tell; allowed: 2 and more.*task=segmentation"):
        model.encode(images(1))


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_tasks_without_labels_of_patches_are_refused(task):
    config = resolve(compose(["method=dtop", f"task={task}", "scale=smoke"]))
    with pytest.raises(InvalidConfig, match=f"'dtop', which learns from patches, and task={task} gives none.*use task=segm") as told:
        validate(config, files=False)
    suited = str(told.value).split("allowed there: ")[1].split(";")[0].split(", ")
    assert "dtop" not in suited and "cropr" in suited and ("sit" in suited) == (task == "classification")
