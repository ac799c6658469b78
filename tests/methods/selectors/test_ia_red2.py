"""IA-RED2: the interpreter by its formula, its phases, and REINFORCE on a task whose best answer is known."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

import tokenprune
from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.loss import LossInputs
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig
from tokenprune.methods.losses.reinforce import ReinforceLoss
from tokenprune.methods.selectors.ia_red2 import IARed2Interpreter, log_probability
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate

GROUPS = {"name": "free", "start": 0, "groups": 3}  # blocks 0, 2 and 4 of 6


def model_of(execution="auto", **options):
    return pruned("ia_red2", "remove", GROUPS, execution, **options)


def facts_of(model, x, targets):
    outputs = model.encode(x)
    return LossInputs(outputs, model, images=x, logits=model.logits(outputs), targets=targets)


def test_the_score_is_the_mean_over_heads_of_the_sigmoid_of_a_product():
    selector = model_of().selectors["2"]
    with torch.no_grad():
        selector.policy_token.normal_()
        tokens = torch.randn(2, 7, 24)
        query, key = selector.query(tokens), selector.key(selector.policy_token)
        for b in range(2):
            for j in range(7):
                parts = [torch.sigmoid(query[b, j, 8 * h : 8 * h + 8] @ key[8 * h : 8 * h + 8]) for h in range(3)]
                torch.testing.assert_close(selector.interpret(tokens)[b, j], torch.stack(parts).mean())


def test_at_test_time_patches_above_one_half_stay_and_the_rest_never_returns():
    vit, x = tiny_vit(), images(3)
    model = model_of(vit=vit)
    with torch.no_grad():
        states = []
        model.watch = lambda block, state: states.append(state)
        model.encode(x)
        first = model.selectors["0"].interpret(model.family.embed(x)[1]) > 0.5
    present = [state.present() for state in states]
    assert torch.equal(present[0], first) and 0 < first.sum() < first.numel()
    assert torch.equal(present[1], present[0]) and not (present[2] & ~present[1]).any() and not (present[4] & ~present[3]).any()
    assert sorted(model.selectors, key=int) == ["0", "2", "4"] and [model.selectors[n].group for n in ("0", "2", "4")] == [0, 1, 2]


def test_published_groups_of_deit_are_before_blocks_0_4_8():
    import timm

    model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), "ia_red2")
    assert sorted(model.selectors, key=int) == ["0", "4", "8"] and model.treatment.name == "remove"


@pytest.mark.parametrize(("progress", "phase"), [(0.0, 0), (0.32, 0), (0.34, 1), (0.66, 1), (0.67, 2), (1.0, 2)])
def test_each_phase_teaches_one_group(progress, phase):
    model, x = model_of(losses={"reinforce": {}}).train(), images(3)
    model.progress = progress
    with torch.no_grad():
        for parameter in model.selectors.parameters():  # p far from 1/2, so that what is greedy is seen
            parameter.mul_(4)
    torch.manual_seed(0)
    facts = facts_of(model, x, torch.tensor([0, 1, 2]))
    (model.losses(facts.outputs, images=x, logits=facts.logits, targets=facts.targets)["loss_reinforce"] + facts.logits.sum()).backward()
    gradients = [any(p.grad is not None for p in model.selectors[n].parameters()) for n in ("0", "2", "4")]
    assert gradients == [group == phase for group in range(3)]
    assert model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0 and model.training
    counts = [int(u.attended.sum()) - 3 for u in facts.outputs.usage]
    drops = [before > after for before, after in zip([3 * 64, counts[1], counts[3]], counts[::2], strict=True)]
    assert drops == [group <= phase for group in range(3)]  # later groups keep everything
    repeated = [int(u.attended.sum()) - 3 for u in model.encode(x).usage]
    assert (counts[: 2 * phase] == repeated[: 2 * phase]) and counts[2 * phase] != repeated[2 * phase]  # greedy before, drawn now
    with torch.no_grad():
        assert torch.equal(model.eval()(x), model(x))
    model.train()


def test_the_backbone_does_not_learn_from_the_reward():
    model, x = model_of(losses={"reinforce": {}}).train(), images(3)
    facts = facts_of(model, x, torch.tensor([0, 1, 2]))
    model.losses(facts.outputs, images=x, logits=facts.logits, targets=facts.targets)["loss_reinforce"].backward()
    assert all(p.grad is None for p in model.backbone.parameters())


def test_the_greedy_pass_puts_every_module_back_in_its_own_mode():
    """As `training.drop_path=false` leaves them: DropPath off in a model that trains."""
    model, x = model_of(vit=tiny_vit(drop_path_rate=0.5)).train(), images(3)
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    for path in paths:
        path.eval()
    before = {name: module.training for name, module in model.named_modules()}
    ReinforceLoss().greedy(model, x, torch.tensor([0, 1, 2]))
    assert len(paths) > 5 and {name: module.training for name, module in model.named_modules()} == before
    with pytest.raises(InvalidConfig, match="images are"):  # in the pass: images without channels
        ReinforceLoss().greedy(model, x[0, 0], torch.tensor([0, 1, 2]))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_log_probability_by_hand_and_its_sign():
    p = torch.tensor([[0.9, 0.2, 0.6, 0.5]], requires_grad=True)
    keep, live = torch.tensor([[True, False, False, True]]), torch.tensor([[True, True, True, False]])
    log_p = log_probability(p, keep, live)
    assert float(log_p.detach()) == pytest.approx(float(torch.tensor(0.9 * 0.8 * 0.4).log()))
    (gradient,) = torch.autograd.grad(log_p.sum(), p)
    assert gradient[0, 0] > 0 > max(gradient[0, 1], gradient[0, 2]) and gradient[0, 3] == 0


def test_the_reward_and_the_loss_by_formula():
    loss = ReinforceLoss(weight=2.0, tau=0.25)
    logits, policies = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 3.0]]), [(torch.zeros(3), torch.tensor([0.5, 0.5, 0.1]))]
    reward = loss.reward(logits, torch.tensor([0, 1, 1]), policies)
    torch.testing.assert_close(reward, torch.tensor([0.75, -0.25, 0.99]))
    assert torch.equal(loss.reward(logits, torch.eye(2)[[0, 1, 1]], policies), reward)  # soft targets of a mixed batch

    model, x = model_of(losses={"reinforce": {"weight": 2.0, "tau": 0.25}}), images(3)
    with torch.no_grad():
        greedy = model.encode(x)
        chosen = greedy.usage[4].attended - 1
        right = model.logits(greedy).argmax(1) == torch.tensor([0, 1, 2])
        baseline = torch.where(right, 1 - (chosen / 64.0) ** 2, -0.25)
    torch.manual_seed(0)
    facts = facts_of(model.train(), x, torch.tensor([0, 1, 2]))
    ((log_prob, kept),) = facts.of("policy")
    assert torch.equal(kept * 64, (facts.outputs.usage[4].attended - 1).float())
    drawn = torch.where(facts.logits.argmax(1) == torch.tensor([0, 1, 2]), 1 - kept**2, -0.25)
    expected = -2 * ((drawn - baseline) * log_prob).mean()
    found = model.losses(facts.outputs, images=x, logits=facts.logits, targets=facts.targets)["loss_reinforce"]
    torch.testing.assert_close(found, expected)
    assert model.training


class Bandit(nn.Module):
    """One interpreter over two kinds of patches; the answer is right if, and only if, every informative one is kept."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.selector = IARed2Interpreter(Context(8, 2, 0, Budget(0, 16, 16, 1), 1, 0), groups=1)
        self.kinds = torch.zeros(4, 16, dtype=torch.bool)
        self.kinds[torch.arange(4)[:, None], torch.rand(4, 16).argsort(1)[:, :4]] = True

    def tokens(self):
        directions = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
        return directions[self.kinds.long()]

    def encode(self, images):
        tokens = self.tokens()
        state = TokenState.start(tokens[:, :0], tokens, (4, 4))
        decision = self.selector.score(Observation(state, 0), None)
        return type("Outputs", (), {"keep": decision.keep, "aux": tuple((k, 0, v) for k, v in decision.notes.items())})()

    def logits(self, outputs):
        right = (outputs.keep | ~self.kinds).all(1)
        return torch.stack([right, ~right], 1).float()


def test_reinforcement_drops_what_the_answer_does_not_need_and_keeps_what_it_needs():
    bandit, loss = Bandit().train(), ReinforceLoss(tau=1.0)
    optimizer, targets = torch.optim.Adam(bandit.parameters(), lr=0.02), torch.zeros(4, dtype=torch.long)

    def reward():
        facts = LossInputs(bandit.eval().encode(None), bandit)
        result = loss.reward(bandit.logits(facts.outputs), targets, facts.of("policy")).mean()
        bandit.train()
        return float(result)

    begin = reward()
    for _ in range(300):
        outputs = bandit.encode(None)
        facts = LossInputs(outputs, bandit, images=targets, logits=bandit.logits(outputs), targets=targets)
        optimizer.zero_grad()
        loss.loss(facts).backward()
        optimizer.step()
    keep = bandit.eval().encode(None).keep
    assert torch.equal(keep, bandit.kinds)  # the four informative patches of each image, and nothing else
    assert reward() == pytest.approx(1 - (4 / 16) ** 2) and begin < reward()


def test_the_loss_needs_a_class():
    config = resolve(compose(["method=ia_red2", "scale=smoke", "task=detection"]))
    with pytest.raises(InvalidConfig, match="losses.reinforce needs images, logits, targets, which task=detection does not give"):
        validate(config, files=False)
    assert ReinforceLoss().loss(facts_of(pruned("random", "remove").train(), images(2), torch.zeros(2))) is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pruned({"name": "ia_red2", "groups": 0}, "remove", GROUPS), "groups is 0; allowed: 1 and more"),
        (lambda: ReinforceLoss(tau=-1.0), "tau is -1.0; allowed are 0 and more"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(InvalidConfig, match=message):
        build()
