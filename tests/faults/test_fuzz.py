"""Whatever comes from outside ends in a right result or in one clear error.

A few examples of each kind run with the tests. `TOKENPRUNE_FUZZ=2000 pytest tests/faults/test_fuzz.py` runs that many.
"""

import copy
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tests.helpers.fakes import row as result_row
from tokenprune.data.coco import CocoDetection
from tokenprune.data.imagefolder import ImageFolder
from tokenprune.data.readers import is_hidden
from tokenprune.data.semantic import Labelling, SemanticFolder
from tokenprune.errors import TokenPruneError
from tokenprune.runs.results import collect, finished, read_result
from tokenprune.utils.checkpoints import load_dense, load_weights, read_metadata, read_weights, save_weights

EXAMPLES = int(os.environ.get("TOKENPRUNE_FUZZ", 40))
often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
rarely = settings(often, max_examples=max(4, EXAMPLES // 10))

NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 1, 2, 0.5, 1e308, float("nan")]))
TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["", "..", "../x", "/", "nan", "1", "\0", "ä/é", "a\\b", "C:x", "{}", "${x}"]))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
VALUES = st.recursive(PLAIN, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=6)

COCO = {
    "images": [{"id": k, "file_name": f"{k}.png", "width": 24, "height": 16} for k in (9, 4)],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 40, "bbox": [2, 2, 8, 6], "iscrowd": 0, "area": 48.0,
         "segmentation": [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0]]},
        {"id": 2, "image_id": 4, "category_id": 7, "bbox": [0, 0, 6, 16], "iscrowd": 1, "area": 96,
         "segmentation": {"size": [16, 24], "counts": [0, 96, 288]}},
        {"id": 3, "image_id": 4, "category_id": 7, "bbox": [0, 0, 6, 16], "iscrowd": 0, "area": 96,
         "segmentation": {"size": [16, 24], "counts": "0`32"}},
    ],
    "categories": [{"id": 40, "name": "forty"}, {"id": 7, "name": "seven"}],
    "info": {}, "licenses": [],
}  # fmt: skip


def places(document, path=()):
    """Yield the path of everything in a JSON document."""
    yield path
    inner = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@st.composite
def edited(draw, document):
    """A JSON document of which one or two parts are replaced, removed, repeated or renamed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([path for path in places(document) if path] or [()]))
        if not path:
            return draw(VALUES)
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        action, key = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "rename"])), path[-1]
        if action == "replace":
            parent[key] = draw(VALUES)
        elif action == "remove":
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif isinstance(parent, dict):
            parent[draw(TEXT)] = parent.pop(key)
    return document


@st.composite
def damaged(draw, content):
    """Bytes of which some are changed, cut off, doubled or inserted."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        action = draw(st.sampled_from(["change", "cut", "double", "insert"]))
        if action == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif action == "cut":
            del data[place:]
        elif action == "double":
            data += data[place:]
        else:
            data[place:place] = draw(st.binary(max_size=8))
    return bytes(data)


def right_or_refused(function):
    """Run a function; a TokenPruneError with a message is an answer, and anything else that is raised is a fault."""
    try:
        return function()
    except TokenPruneError as error:
        assert len(str(error)) > 20
        return None


def png(pixels, mode=None):
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG")
    return file.getvalue()


PICTURE = png(np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3))
JPEG = io.BytesIO()
Image.open(io.BytesIO(PICTURE)).save(JPEG, "JPEG")


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    for folder in ("val2017", "annotations"):
        (root / folder).mkdir()
    for key in (9, 4):
        (root / "val2017" / f"{key}.png").write_bytes(PICTURE)
    return root


def read_all(root):
    data = CocoDetection(root, "val")
    for sample in data:
        found = sample.instances
        assert sample.image.shape == (16, 24, 3) and len(found.boxes) == len(found.masks) == len(found.labels) == len(found.crowd)
        assert np.isfinite(found.boxes).all() and all(0 <= label < len(data.classes) for label in found.labels)
    assert all(a["category_id"] in data.category_ids for a in data.coco_json()["annotations"])
    return data


@often
@given(edited(COCO))
def test_annotations_of_coco(coco_root, document):
    (coco_root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    right_or_refused(lambda: read_all(coco_root))


@often
@given(damaged(json.dumps(COCO).encode()))
def test_a_damaged_file_of_annotations(coco_root, content):
    (coco_root / "annotations" / "instances_val2017.json").write_bytes(content)
    right_or_refused(lambda: read_all(coco_root))


@often
@given(st.one_of(damaged(PICTURE), damaged(JPEG.getvalue())), st.sampled_from(["png", "jpg", "JPEG", "bmp", "tif", "webp"]))
def test_damaged_pictures(tmp_path_factory, content, ending):
    root = tmp_path_factory.mktemp("pictures")
    for folder in ("val/a", "val/b", "images/val", "labels/val"):
        (root / folder).mkdir(parents=True)
    (root / "val" / "a" / f"0.{ending}").write_bytes(content)
    (root / "val" / "b" / "1.png").write_bytes(PICTURE)
    (root / "images" / "val" / "0.png").write_bytes(content)
    (root / "labels" / "val" / "0.png").write_bytes(png(np.zeros((16, 24), np.uint8)))

    def classes():
        data = ImageFolder(root)
        for image, label in (data[i] for i in range(len(data))):
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and label in (0, 1)

    def semantic():
        image, labels = SemanticFolder(root, "val", Labelling(("a", "b")))[0]
        assert image.shape[:2] == labels.shape

    right_or_refused(classes)
    right_or_refused(semantic)


@often
@given(
    st.lists(st.integers(-3, 300), min_size=6, max_size=6),
    st.sampled_from(["L", "P", "1", "I", "I;16", "RGB", "F", "LA"]),
    st.lists(st.one_of(st.integers(-2, 300)), max_size=3),
    st.integers(-2, 300),
)
def test_label_images(tmp_path_factory, values, mode, ignore, offset):
    root = tmp_path_factory.mktemp("labels")
    for folder in ("images/val", "labels/val"):
        (root / folder).mkdir(parents=True)
    (root / "images" / "val" / "0.png").write_bytes(png(np.zeros((2, 3, 3), np.uint8)))
    try:
        Image.fromarray(np.array(values, np.int32).reshape(2, 3)).convert(mode).save(root / "labels" / "val" / "0.tif")
    except (ValueError, OSError):  # not a mode that the library writes
        return

    def read():
        names = ("a", "b", "c")
        labels = SemanticFolder(root, "val", Labelling(names, tuple(ignore), offset))[0][1]
        assert labels.min() >= -1 and labels.max() < len(names)

    right_or_refused(read)


@often
@given(st.lists(st.one_of(TEXT, st.integers(0, 12).map(str)), min_size=1, max_size=4), st.booleans())
def test_names_of_class_folders(tmp_path_factory, names, packed):
    root = tmp_path_factory.mktemp("classes")
    (root / "val").mkdir()
    made = set()
    for name in names:
        try:
            folder = root / "val" / name
            if folder.resolve().parent != (root / "val").resolve():
                continue
            folder.mkdir(exist_ok=True)
            (folder / "0.png").write_bytes(PICTURE)
        except (ValueError, OSError, UnicodeError):  # no name for a file here
            continue
        made.add(folder.name)
    if packed:
        with zipfile.ZipFile(root / "val.zip", "w") as archive:
            for name in made:
                archive.write(root / "val" / name / "0.png", f"val/{name}/0.png")
        for path in sorted((root / "val").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (root / "val").rmdir()

    def read():
        data = ImageFolder(root)
        assert set(data.classes) == {name for name in made if not is_hidden([name])} and len(data) == len(data.classes)
        assert sorted(data[i][1] for i in range(len(data))) == list(range(len(data)))

    right_or_refused(read)


def weights(ending):
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzz_{os.getpid()}.{ending}"
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    save_weights(path, state) if ending == "safetensors" else torch.save({"model": state, "epoch": 3}, path)
    content = path.read_bytes()
    path.unlink()
    return content


@often
@given(st.data(), st.sampled_from(["safetensors", "pt"]), st.sampled_from(["safetensors", "pt", "bin"]))
def test_damaged_checkpoints(tmp_path_factory, data, kind, ending):
    path = tmp_path_factory.mktemp("weights") / f"w.{ending}"
    path.write_bytes(data.draw(damaged(weights(kind))))
    found = right_or_refused(lambda: read_weights(path))
    assert found is None or all(isinstance(value, torch.Tensor) for value in found.values())
    right_or_refused(lambda: load_dense(nn.Linear(3, 2), path))
    right_or_refused(lambda: read_metadata(path))


@often
@given(st.dictionaries(TEXT, st.one_of(VALUES, st.sampled_from([
    torch.ones(2, 3), torch.ones(3, 2), torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, dtype=torch.int64), torch.tensor(1.0),
    torch.ones(2, 3).to_sparse(), torch.full((2,), float("nan")), torch.ones(2, 3, device="meta"),
])), max_size=4), st.sampled_from(["", "weight", "bias"]))  # fmt: skip
def test_odd_checkpoints(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    if name:
        content = {"weight": torch.ones(2, 3), "bias": torch.zeros(2), **({name: next(iter(content.values()))} if content else {})}
    torch.save(content, path)
    layer = nn.Linear(3, 2)
    right_or_refused(lambda: load_weights(path, layer))
    assert not layer.weight.is_complex() and layer.weight.shape == (2, 3)


@often
@given(edited(result_row()))
def test_results(tmp_path_factory, document):
    folder = tmp_path_factory.mktemp("results")
    path = folder / "rows" / "abc" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    right_or_refused(lambda: read_result(path))
    finished(path.parent)
    right_or_refused(lambda: collect(folder))


@often
@given(st.binary(max_size=30))
def test_results_that_are_no_text(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("results")
    (folder / "result.json").write_bytes(content)
    assert finished(folder) is None
    right_or_refused(lambda: read_result(folder / "result.json"))


KEYS = (
    "method", "selector", "treatment", "schedule", "scale", "task", "data", "seed", "cls", "execution", "init", "schedule.keep_rate",
    "schedule.blocks", "selector.tau", "training.iterations", "training.lr", "training", "data.root", "losses.ratio", "losses.ratio.weight",
    "measure", "backbone.depth", "backbone.img_size", "results_dir", "init_weights", "treatment_labels", "reports", "rows", "hydra", "x.y",
)  # fmt: skip
SPELT = st.one_of(
    st.sampled_from(["null", "true", "???", "[]", "{}", "[1,2]", "{a: 1}", "nan", "inf", "-1", "0", "1e400", "''", "${scale}", "${x}", "~",
                     "evit",
                     "range(1,3)", "choice(1,2)", "glob(*)", "'a,b'", "a b", "é", "%", "$", "\\", "(", "]", "a=b", "a:b", "@", "+"]),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=6),
)  # fmt: skip


@pytest.fixture
def typed(cli, fake):  # noqa: F811
    """The command line with a task that takes milliseconds."""
    return cli


@rarely
@given(st.lists(st.tuples(st.sampled_from(["", "", "", "+", "++", "~"]), st.sampled_from(KEYS), SPELT), min_size=1, max_size=2))
def test_values_on_the_command_line(typed, words):
    """A run is valid, or one line says why not."""
    arguments = [f"{sign}{key}={value}" for sign, key, value in words]
    code, _, err = typed(*TINY, "validate_only=true", *arguments)
    assert code in (0, 2, 3), arguments
    assert "Traceback" not in err and (code == 0) == (not [line for line in err.splitlines() if line.startswith("error: ")]), (
        arguments,
        err,
    )
    assert len(err.splitlines()) <= 4 or code == 0, (arguments, err)
