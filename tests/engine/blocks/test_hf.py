"""Every covered model of transformers against transformers itself: nothing dropped, tokens dropped, executions, outputs."""

import copy
import pickle

import pytest
import torch

import tokenprune
from tests.helpers.hf_models import DEPTH, EVERY, FAMILIES, PAIRS, TOWERS, WHOLES, class_token, images, inputs, small, transformers
from tokenprune.errors import CheckpointMismatch, IncompatiblePairing, InvalidConfig, UnsupportedBackbone
from tokenprune.measure.macs import planned_macs
from tokenprune.measure.timm_macs import counted
from tokenprune.registry import get
from tokenprune.utils.checkpoints import save_weights

PLAN = {"name": "stages", "blocks": [1, 2], "keep_rate": 0.6}
KEEP_ALL = {"name": "stages", "blocks": [1, 2], "keep_rate": 1.0}
PAIRINGS = {
    "uneven": ({"name": "svit"}, "remove"),
    "fused": ({"name": "topk", "score": "mean_query"}, "fuse"),
    "merged": ({"name": "tome"}, "merge"),
    "class token": ({"name": "evit"}, "fuse"),
    "back again": ({"name": "dynamicvit"}, "reactivate"),
    "grouped": ({"name": "mctf"}, "merge"),
    "kept rows": ({"name": "ats"}, "preserve"),
}

CASES = [(label, "uneven") for label in FAMILIES] + [(label, p) for label in ("ViTModel", "SiglipVisionModel") for p in list(PAIRINGS)[1:]]


def pruned(label, selector=None, treatment=None, execution="auto", plan=PLAN, model=None, **options):
    model = small(label) if model is None else model
    torch.manual_seed(3)
    plan = None if selector is None else plan
    return tokenprune.prune(model, selector, treatment, plan, execution=execution, cls=class_token(label), **options)


def same(found, expected, exactly=True):
    """Compare two outputs of a model, field by field."""
    assert type(found) is type(expected) and list(found) == list(expected)
    for name in expected:
        if hasattr(expected[name], "keys"):
            same(found[name], expected[name], exactly)
        elif exactly:
            assert torch.equal(found[name], expected[name]), name
        else:
            torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("label", EVERY)
@torch.no_grad()
def test_nothing_dropped_is_transformers_bit_for_bit(label):
    model, x = small(label), images()
    config, keys, values = model.config.to_dict(), list(model.state_dict()), {n: p.clone() for n, p in model.named_parameters()}
    expected = model(**inputs(label, x))
    for selector in (None, "random", "svit", {"name": "topk", "score": "column_mean"}):
        same(pruned(label, selector, None if selector is None else "remove", plan=KEEP_ALL, model=model)(**inputs(label, x)), expected)
    ours = pruned(label, "evit", model=model)
    ours(**inputs(label, x))
    assert model.config.to_dict() == config and list(model.state_dict()) == keys == list(ours.backbone.state_dict())
    assert all(torch.equal(p, values[n]) for n, p in model.named_parameters())
    same(model(**inputs(label, x)), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("label", FAMILIES)
@torch.no_grad()
def test_half_precision_and_explicit_attention(label, attention):
    """The parts of each block, one after the other, are the block bit for bit under the attention that the model is set to.

    Executions differ by the rounding of bfloat16 alone: by two of its steps at the largest value, and by a tenth of a step on average.
    """
    model, x = small(label, attention).bfloat16(), images()
    ours = pruned(label, "svit", "preserve", model=model).bfloat16()
    state, _ = ours.run(ours.start(x), 0, 1)
    adapter, sequence = ours.family.blocks[1], state.sequence()
    middle = sequence + adapter.attend(adapter.project(sequence))
    assert adapter.fused == (attention == "sdpa")
    assert torch.equal(middle + adapter.feed(middle), adapter.whole(sequence))
    masked, packed = (pruned(label, "variance", "remove", e, model=model).encode(x).map.float() for e in ("masked", "packed"))
    step, off = torch.finfo(torch.bfloat16).eps, (packed - masked).abs()
    assert off.max() <= 2 * step * masked.abs().max() and off.mean() <= 0.1 * step * masked.abs().max()


@pytest.mark.parametrize("label", FAMILIES)
@torch.no_grad()
def test_attention_in_two_steps_is_attention(label):
    ours = pruned(label)
    state, _ = ours.run(ours.start(images()), 0, 1)
    adapter, x = ours.family.blocks[1], state.sequence()
    p = adapter.asks(x)
    map_ = ((p.q * p.scale) @ p.k.transpose(-2, -1)).softmax(-1)
    torch.testing.assert_close(adapter.answer(x, map_, p.call), adapter.attend(adapter.project(x)), atol=1e-5, rtol=1e-5)
    assert adapter.macs(17, 17, 17, 17**2, 17).linear == pytest.approx(adapter.macs(17, 17, 17, 17**2).linear)


@pytest.mark.parametrize(
    "execution", [pytest.param("masked", marks=pytest.mark.slow), "gathered", pytest.param("packed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("label", TOWERS)
@torch.no_grad()
def test_dropped_tokens_are_as_if_never_there(label, execution):
    """transformers' own blocks over the kept tokens give what the engine gives, each in its own place and zeros elsewhere."""
    model = small(label)
    ours = pruned(label, "variance", "remove", execution, {"name": "explicit", "keep": {1: 0.5}}, model)
    x = images(1)
    outputs, P = ours.encode(x), ours.prefix_tokens
    kept = outputs.present[0].nonzero().squeeze(1)
    assert len(kept) == 32
    sequence = torch.cat(ours.family.embed(x)[:2], 1)
    for number, block in enumerate(ours.family.layers(model)):
        sequence = torch.cat([sequence[:, :P], sequence[:, P:][:, kept]], 1) if number == 1 else sequence
        sequence = block(sequence, None)
    expected = sequence if label == "CLIPVisionModel" else ours.family.norm(sequence)
    found = ours(x).last_hidden_state
    torch.testing.assert_close(torch.cat([found[:, :P], found[:, P:][:, kept]], 1), expected, atol=1e-5, rtol=1e-5)
    assert found.shape == (1, P + 64, 24) and not found[:, P:][~outputs.present].any()


@pytest.mark.parametrize(("label", "pairing"), CASES)
@torch.no_grad()
def test_executions_agree(label, pairing):
    agree(label, *PAIRINGS[pairing])


def agree(label, selector, treatment):
    """Hold the other executions of a pairing against `masked`: maps, counts, and what the model answers."""
    model, x = small(label), images(3)
    told = {"classes": 5} if selector["name"] == "dtop" and label in TOWERS else {}  # a tower has no classes of its own
    masked = pruned(label, selector, treatment, "masked", model=model, **told)
    reference, answer = masked.encode(x), masked(x)
    for execution in ["packed"] if get("selector", selector["name"]).budget == "dynamic" else ["gathered", "packed"]:
        ours = pruned(label, selector, treatment, execution, model=model, **told)
        other = ours.encode(x)
        assert torch.equal(other.present, reference.present)
        torch.testing.assert_close(other.map, reference.map, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other.prefix, reference.prefix, atol=1e-5, rtol=1e-5)
        for a, b in zip(reference.usage, other.usage, strict=True):
            assert torch.equal(a.attended, b.attended) and torch.equal(a.rows, b.rows) and torch.equal(a.fed, b.fed)
        same(ours(x), answer, exactly=False)


@pytest.mark.parametrize("label", WHOLES)
@torch.no_grad()
def test_heads_read_what_is_left(label):
    """By hand: class token, the mean of the kept tokens, or both; a merged token counts as often as tokens went into it."""
    model, x = small(label), images(3)
    for selector, treatment in (({"name": "svit"}, "remove"), ({"name": "tome"}, "merge"), ({"name": "svit"}, "preserve")):
        ours = pruned(label, selector, treatment, model=model)
        outputs = ours.encode(x)
        weight = outputs.present.float().unsqueeze(-1)
        mean = (outputs.map * weight).sum(1) / weight.sum(1)  # a merged position shows its token, so it counts as often as it should
        cls = outputs.prefix[:, 0] if outputs.prefix.shape[1] else None
        if "WithTeacher" in label:
            expected = (model.cls_classifier(cls) + model.distillation_classifier(outputs.prefix[:, 1])) / 2
        elif "Dinov2" in label:
            expected = model.classifier(torch.cat([cls, mean], 1))
        elif "Projection" in label:
            expected = model.visual_projection(cls)
        else:
            expected = model.classifier(mean if label.startswith(("CLIP", "Siglip")) else cls)
        answer = ours(x)
        torch.testing.assert_close(answer.image_embeds if "Projection" in label else answer.logits, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(ours.logits(outputs), ours.classify(x))
        torch.testing.assert_close(ours.classify(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_siglips_query_sees_live_tokens_only():
    ours, x = pruned("SiglipVisionModel", "svit", "remove"), images(3)
    outputs, answer = ours.encode(x), ours(x)
    for image, (map_, there) in enumerate(zip(outputs.map, outputs.present, strict=True)):
        alone = ours.backbone.head(map_[there].unsqueeze(0))
        torch.testing.assert_close(answer.pooler_output[image], alone[0], atol=1e-5, rtol=1e-5)
    assert outputs.present.sum(1).unique().numel() > 1


@pytest.mark.parametrize("label", PAIRS)
@torch.no_grad()
def test_a_text_tower_is_the_models_own(label):
    model, x = small(label), images(2)
    ours, given = pruned(label, "tome", model=model), inputs(label, x)
    answer = ours(**given)
    assert torch.equal(answer.text_embeds, model(**given).text_embeds)
    features = ours.get_image_features(x).pooler_output
    assert torch.equal(features, ours.classify(x)) and not torch.equal(features, model.get_image_features(x).pooler_output)
    torch.testing.assert_close(answer.image_embeds, features / features.norm(dim=-1, keepdim=True))
    assert torch.equal(ours.get_text_features(given["input_ids"]).pooler_output, model.get_text_features(given["input_ids"]).pooler_output)
    assert len(ours(**given, return_dict=False)) == len(model(**given, return_dict=False))
    with pytest.raises(IncompatiblePairing, match="ViTModel has no get_image_features"):
        pruned("ViTModel", "tome").get_image_features(x)


@pytest.mark.parametrize("label", [name for name in EVERY if not name.endswith("Teacher")])
def test_macs_are_those_that_torch_counts(label):
    size = {"intermediate_size": 80} if "Dinov2" not in label else {}
    if label in PAIRS or label.startswith(("CLIPFor", "SiglipFor")):
        pytest.skip("the configuration holds two towers; the tower alone is counted")
    build = (lambda: small(label)) if label.startswith("Dinov2") else (lambda: small(label, **size))
    cost, plan = counted(build, 32), planned_macs(pruned(label, model=build()), 64, head=True)
    pooling = (2 * 64 * 24**2 + 2 * 24**2 + 2 * 24 * 80, 2 * 64 * 24) if label == "SiglipVisionModel" else (0, 0)  # not planned
    assert cost.linear - plan.linear == pytest.approx(pooling[0]) and cost.attention - plan.attention == pytest.approx(pooling[1])


@torch.no_grad()
@pytest.mark.parametrize("label", ["ViTModel", "CLIPModel"])
def test_speed_is_measured_at_the_models_own_size(label):
    """A small model has no configuration of timm that says one."""
    model = pruned(label, {"name": "topk", "score": "mean_query"}, "remove")
    assert model.family.own_size == (32, 32)
    if label == "ViTModel":  # a pair of towers takes texts, too
        assert tokenprune.speed(model, rounds=1, warmup=0).batch == 1


def test_other_image_sizes_are_taken_where_the_model_is_asked_to():
    x = images(2, 48)
    for label in FAMILIES:
        model = small(label)
        asks = {} if "Dinov2" in label else {"interpolate_pos_encoding": True}
        same(pruned(label, model=model)(x, **asks), model(x, **asks))
        ours = pruned(label, "svit", "preserve", model=model)
        assert ours.encode(x, resize_codes=True).grid == (12, 12)
        if asks:
            with pytest.raises(InvalidConfig, match=r"images are 48 x 48 pixels.*for 32 x 32.*interpolate_pos_encoding=True"):
                ours(x)


def test_training_is_transformers_own():
    """Losses from labels, dropout of values, attention and paths, and gradients, with the same random numbers and with blocks run again."""
    labels, x = torch.tensor([0, 3]), images()
    cases = {
        "ViTForImageClassification": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2},
        "Dinov2ForImageClassification": {"drop_path_rate": 0.3, "attention_probs_dropout_prob": 0.2},
        "CLIPForImageClassification": {},
    }
    for label, rates in cases.items():
        model = small(label, **rates).train()
        ours, results = pruned(label, model=model), []
        for call in (model, ours, ours):
            if len(results) == 2:
                ours.set_grad_checkpointing()
                assert ours.family.recomputes
            torch.manual_seed(7)
            model.zero_grad()
            loss = call(pixel_values=x, labels=labels).loss
            loss.backward()
            results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for other in results[1:]:
            assert len(other) == len(results[0])
            for a, b in zip(other, results[0], strict=True):
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("label", FAMILIES)
def test_training_reaches_every_block_and_gate(label):
    ours = pruned(label, "svit", "reactivate", losses={"ratio": {"weight": 1.0}}).train()
    torch.manual_seed(5)
    outputs = ours.encode(images(3))
    (sum(ours.losses(outputs).values()) + ours.logits(outputs).square().mean() + outputs.map.square().mean()).backward()
    blocks = ours.family.layers(ours.backbone)
    assert len(blocks) == DEPTH
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in (*blocks.parameters(), *ours.selectors.parameters()))


@torch.no_grad()
def test_hooks_of_modules_are_called():
    """Hooks on the model, a block and its attention see and change what they would without pruning."""
    model, x, seen = small("ViTModel"), images(), []
    block = model.layers[1]
    handles = [
        model.register_forward_hook(lambda m, i, o: seen.append("model")),
        block.register_forward_pre_hook(lambda m, i: seen.append(i[0].shape)),
        block.attention.register_forward_hook(lambda m, i, o: (seen.append("attention"), (o[0] * 2, o[1]))[1]),
    ]
    expected = model(x)
    own, seen[:] = list(seen), []
    found = pruned("ViTModel", "svit", "remove", plan=KEEP_ALL, model=model)(x)
    assert seen == own and len(own) == 3
    same(found, expected)
    for handle in handles:
        handle.remove()
    assert not torch.equal(model(x).last_hidden_state, expected.last_hidden_state)


@torch.no_grad()
def test_folders_copies_and_files(tmp_path):
    """A folder of from_pretrained, a copy, a pickled model and the deployed one give the same."""
    x = images()
    small("ViTForImageClassification").save_pretrained(tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, local_files_only=True).eval()
    ours = pruned("ViTForImageClassification", "cropr", model=model)
    expected = ours(x).logits
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ours.deploy()):
        torch.testing.assert_close(other(x).logits, expected)
        assert other.family.model is other.backbone is not model
    again = pruned("ViTForImageClassification", "cropr", model=small("ViTForImageClassification"))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(x).logits, expected)
    save_weights(tmp_path / "row.safetensors", ours)
    for init in (tmp_path, tmp_path / "row.safetensors"):
        other = small("ViTForImageClassification")
        other.classifier.weight.mul_(2)
        torch.manual_seed(3 if init.is_dir() else 4)  # a folder has no selectors
        loaded = tokenprune.prune(other, "cropr", schedule=PLAN, init=init)
        torch.testing.assert_close(loaded(x).logits, expected)
    with pytest.raises(CheckpointMismatch):
        tokenprune.prune(small("DeiTModel"), "cropr", schedule=PLAN, init=tmp_path / "row.safetensors")
    ours.backbone.save_pretrained(tmp_path / "again")
    assert not transformers.ViTForImageClassification.from_pretrained(tmp_path / "again").training


@torch.no_grad()
def test_exchanged_parts_are_seen():
    model, other, x = small("ViTForImageClassification"), small("ViTForImageClassification"), images()
    ours = pruned("ViTForImageClassification", "svit", plan=KEEP_ALL, model=model)
    other.vit.layers[2].mlp.fc1.weight.mul_(2)
    model.vit = other.vit
    same(ours(x), other(x))


@torch.no_grad()
def test_blocks_compile():
    """With the parts as programs of torch's eager backend: the same numbers; one program of the whole model is refused."""
    ours, x = pruned("Dinov2Model", "evit"), images()
    expected = ours(x)
    with pytest.raises(IncompatiblePairing, match="code of Dinov2Model around its tower cannot be traced; allowed: mode='blocks'"):
        tokenprune.compile(ours, mode="whole")
    compiled = tokenprune.compile(ours, backend="eager")
    assert compiled.compiled == {"backend": "eager"}
    same(compiled(x), expected, exactly=False)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"output_hidden_states": True}, "hidden states of single blocks"),
        ({"output_attentions": True}, "attention maps"),
        ({"attention_mask": torch.ones(2, 65)}, "masks of its own"),
        ({"bool_masked_pos": torch.ones(2, 64, dtype=torch.bool)}, "masked image modelling"),
        ({"colour": 3}, "has no argument colour"),
    ],
)
def test_what_cannot_be_given_is_refused(asked, words):
    for label in ("ViTModel", "ViTForImageClassification"):
        if not (label != "ViTModel" and "bool_masked_pos" in asked):
            with pytest.raises(InvalidConfig, match=words):
                pruned(label, "tome")(images(), **asked)
    with pytest.raises(InvalidConfig, match="pixel_values is None"):
        pruned("ViTModel", "tome")()


def test_a_configuration_that_asks_for_hidden_states_is_refused_too():
    with pytest.raises(InvalidConfig, match="output_hidden_states is True"):
        pruned("CLIPVisionModel", "tome", model=small("CLIPVisionModel", output_hidden_states=True))(images())


def refused(model, words):
    with pytest.raises(UnsupportedBackbone, match=words):
        tokenprune.prune(model, "tome")


def test_other_models_are_refused_by_name():
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 32, "patch_size": 4}
    refused(transformers.SwinModel(transformers.SwinConfig(embed_dim=24, depths=[1], num_heads=[2])), "not a transformers ViTModel or DeiT")
    refused(transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**size)), "ViTForMaskedImageModeling cannot be pruned")
    refused(small("ViTModel", "flex_attention"), r"attention is set to 'flex_attention'; allowed: sdpa, eager")
    patched = small("ViTModel")
    patched.layers[1].attention.forward = lambda *x: x
    refused(patched, "attention has a forward that was set on the instance")
    extended = small("CLIPVisionModel")
    extended.encoder.layers[0].extra = torch.nn.Linear(2, 2)
    refused(extended, "parts that this adapter does not know: extra")
    exchanged = small("Dinov2Model")
    exchanged.encoder.layer[0].mlp = torch.nn.Linear(24, 24)
    refused(exchanged, "its MLP is .*Linear.*known: Dinov2MLP, Dinov2SwiGLUFFN")

    class Other(transformers.ViTModel):
        def forward(self, pixel_values):
            return pixel_values

    refused(Other(small("ViTModel").config), "its class Other has a forward of its own")
    with pytest.raises(InvalidConfig, match="num_labels=3"):
        pruned("ViTModel", "tome").reset_classifier(3)
