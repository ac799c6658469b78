"""SViT's published layout of detectors, filled by name, agrees with the authors' own code in features, gates and detections."""

from contextlib import contextmanager

import pytest
import torch

from tests.helpers.filled import SHARED, noise
from tests.helpers.image_sets import real
from tokenprune.backbones.deformable import cell_centres
from tokenprune.data.base import Sample
from tokenprune.measure.usage import record as usage

pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
from tests.helpers.detectors import Golden, imported, released  # noqa: E402
from tokenprune.tasks.detection.loader import Resize, test_input  # noqa: E402
from tokenprune.tasks.detection.settings import read_task  # noqa: E402

test_input.__test__ = False  # a function, no test

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not (SHARED / "svit").is_dir(), reason="shared/golden is not beside this checkout (TOKENPRUNE_GOLDEN)"),
]
needs_photos = pytest.mark.skipif(not real("coco_mini").is_dir(), reason="coco_mini is not in shared/data beside this checkout")
GATED = range(3, 12)
FEATURES, BOX, SCORE, PIXELS = 5e-5, 1e-3, 5e-5, 10  # pixels of a mask, whose border is a threshold
# oneDNN's convolutions sum in an order that depends on the number of threads: boxes of 500 px then move by up to 2e-3 px in float32.
# torch's own are steadier, so that the bounds above say something about the import and not about the machine.
STEADY = torch.backends.mkldnn.flags
MINI = [(name, picture) for name in ("vit_t", "svit_t") for picture in ("landscape", "portrait")]
SMALL = [pytest.param((name, "landscape"), marks=pytest.mark.slow) for name in ("vit_s", "svit_s")]  # ten seconds each, only to be filled


@pytest.fixture(scope="module", params=[*MINI, *SMALL], ids="-".join)
def mini(request):
    name, picture = request.param
    return imported(name), Golden(name, picture, "mini")


@contextmanager
def outputs(modules):
    """Collect what modules return: {name: [output, ...]}."""
    seen, handles = {name: [] for name in modules}, []
    for name, module in modules.items():
        handles.append(module.register_forward_hook(lambda _, __, out, name=name: seen[name].append(out)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def gates(detector):
    """The layers that give the two logits of a gate, by the goldens' names; none in a dense detector."""
    return {f"gate.{block}.logits": selector.gate.layers for block, selector in detector.pruned.selectors.items()}


@torch.no_grad()
def check(detector, golden, start=""):
    """Compare one pass of a detector; return the greatest differences of features, boxes and scores."""
    maps = {f"adapter.f{k}": norm for k, norm in enumerate(detector.backbone.dense.norms.values(), 1)}
    with outputs({**gates(detector), **maps}) as seen, usage(detector) as used, STEADY(enabled=False):
        found = detector([golden.record()])[0]["instances"]
    for block in GATED if detector.pruned.selectors else ():
        kept = golden.numbers[f"{start}gate.{block}.kept"].bool()
        assert torch.equal(used.images[0].blocks[block], kept[0]), f"gate {block}"
        assert golden.difference(f"{start}gate.{block}.logits", seen[f"gate.{block}.logits"][0]) < FEATURES
    features = max(golden.difference(start + name, seen[name][0]) for name in maps)
    return (features, *golden.twins(found, start))


def agrees(differences):
    features, box, score, pixels = differences
    print(f"features {features:.1e}, boxes {box:.1e} px, scores {score:.1e}, masks {pixels} pixels")
    assert features < FEATURES and box < BOX and score < SCORE and pixels <= PIXELS


def test_every_feature_gate_and_detection_agrees(mini):
    agrees(check(*mini))


@torch.no_grad()
def test_every_stage_agrees(mini):
    detector, golden = mini
    dense, heads = detector.backbone.dense, detector.roi_heads
    modules = {"pyramid": detector.backbone.pyramid, "rpn": detector.proposal_generator.rpn_head, "stem": dense.pruned.backbone.patch_embed}
    modules |= {f"inject.{g}": injector for g, injector in enumerate(dense.injectors)}
    modules |= {f"group.{g}.extracted.{e}": one for g, group in enumerate(dense.extractors) for e, one in enumerate(group)}
    with outputs(modules) as seen:
        image = detector.preprocess_image([golden.record()])
        levels = detector.backbone(image.tensor)
        proposals, _ = detector.proposal_generator(image, levels)
    assert golden.difference("input", image.tensor) == 0
    assert golden.difference("patch_embed", seen["stem"][0].flatten(1, 2)) < FEATURES
    for name in (name for name in modules if name.startswith("group.")):
        assert golden.difference(name, seen[name][0]) < FEATURES
    for group in range(4):
        assert golden.difference(f"group.{group}.injected", seen[f"inject.{group}"][0]) < FEATURES
    for place, (name, level) in enumerate(levels.items()):
        assert golden.difference(f"fpn.{name}", level) < FEATURES
        logits, deltas = seen["rpn"][0]
        assert (
            golden.difference(f"rpn.cls.{name}", logits[place]) < FEATURES
            and golden.difference(f"rpn.reg.{name}", deltas[place]) < FEATURES
        )
    assert len(proposals[0]) == golden.facts["count_proposals"]
    boxes = [type(proposals[0].proposal_boxes)(golden.numbers["box.boxes"])]
    pooled = heads.box_pooler([levels[name] for name in heads.box_in_features], boxes)
    classes, moves = heads.box_predictor(heads.box_head(pooled))
    assert golden.difference("box.pooled", pooled) < FEATURES
    assert golden.difference("box.cls", classes) < 2e-4 and golden.difference("box.deltas", moves) < 5e-5  # logits are of size 10
    some = [type(boxes[0])(golden.numbers["box.boxes"][golden.facts["mask_boxes"]])]
    masks = heads.mask_pooler([levels[name] for name in heads.mask_in_features], some)
    assert golden.difference("mask.pooled", masks) < FEATURES
    assert golden.difference("mask.logits_all", heads.mask_head.layers(masks)) < 1e-4


def test_gates_drawn_with_the_released_noise_agree(mini, monkeypatch):
    detector, golden = mini
    if not detector.pruned.selectors:
        pytest.skip("a dense detector has no gates")

    def noisy(seen, seed):
        """A uniform number u from the released noise: keep iff l0 + n0 > l1 + n1 is keep iff p > sigmoid(n1 - n0) = u."""
        drawn = golden.numbers[f"sampled.gate.{seen.block}.noise"]
        return (drawn[..., 1] - drawn[..., 0]).sigmoid()[:, seen.state.index[0]]

    monkeypatch.setattr("tokenprune.methods.selectors.shared.gated.uniform", noisy)
    for selector in detector.pruned.selectors.values():
        monkeypatch.setattr(selector, "eval_mode", "sample")
    agrees(check(detector, golden, "sampled."))


@pytest.mark.parametrize("name", ["vit_t", "svit_t", pytest.param("svit_s", marks=pytest.mark.slow)])
@torch.no_grad()
def test_parts_fed_with_small_tokens_show_the_eps_of_every_norm(name):
    probes(imported(name), Golden(name))


@needs_photos
@pytest.mark.parametrize("name", ["vit_t", "svit_t"])
@torch.no_grad()
def test_the_released_evaluation_agrees_from_the_photograph_to_the_detections(name):
    golden = Golden(name, "landscape", "mini")
    view = {"gates": "method", "dtype": "float32"}
    conventions = read_task({"evaluation": "released", "view": view}).conventions
    detector = imported(name, released(**view))
    short, long = sorted(golden.facts["img_scale"])
    record = test_input(Sample(golden.photo(), 1, None), Resize(short, long, conventions.resize, conventions.sizes))
    assert golden.difference("input", detector.preprocess_image([record]).tensor) == 0
    with STEADY(enabled=False):
        differences = golden.twins(detector([record])[0]["instances"])
    agrees((0.0, *differences))


@needs_photos
@pytest.mark.slow
@pytest.mark.parametrize(("name", "picture"), [*MINI])
def test_the_full_size_agrees(name, picture):
    agrees(check(imported(name), Golden(name, picture, "full")))


def probes(detector, golden):
    """Compare parts on tokens of standard deviation 0.003, so that an eps in the wrong place shows."""
    dense, grid, shapes = detector.backbone.dense, (4, 6), [(8, 12), (4, 6), (2, 3)]
    width = dense.pruned.embed_dim
    tokens = (0.003 * noise("probe.tokens", (1, 24, width), "dev")).float()
    pyramid = (0.003 * noise("probe.pyramid", (1, 126, width), "dev")).float()
    found = {
        "block.0": dense.pruned.backbone.blocks[0](tokens),
        "injector.0": dense.injectors[0](tokens, cell_centres([grid])[None], pyramid, shapes),
        "extractor.0": dense.extractors[0][0](pyramid, cell_centres(shapes)[None], tokens, grid, shapes),
    }
    found |= {"gate.3.logits": dense.pruned.selectors["3"].gate.layers(tokens)} if dense.pruned.selectors else {}
    for part, value in found.items():
        assert golden.difference(part, value) < 1e-5, part
