"""Published files as data: the form of all entries, grids of files, faults by name, and numbers that stand in tables, too."""

from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tokenprune.errors import InvalidConfig
from tokenprune.registry import get, names
from tokenprune.report.tables.expected import NUMBERS, Expected
from tokenprune.runs.sources import is_group
from tokenprune.runs.zoo_rows import entries_for
from tokenprune.utils.paths import config_dir
from tokenprune.zoo import catalog
from tokenprune.zoo.catalog import entries, entries_of, entry

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHARED = "method: evit\npaper: A paper\ncode: https://example.org/code\ntask: classification\nlayout: deit\nrun: {method: evit}\n"


def read(tmp_path, text, name="family.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return entries_of(path)


def faults(tmp_path, text):
    with pytest.raises(InvalidConfig) as raised:
        read(tmp_path, text)
    return str(raised.value)


def one(**values):
    """Return a file with one entry, which has these values in the place of its own."""
    lines = {"model": "DeiT-S", "file": "a.pth", **values}
    return SHARED + "entries:\n  a:\n" + "".join(f"    {key}: {value}\n" for key, value in lines.items() if value is not None)


@pytest.mark.parametrize("path", sorted(Path(catalog.__file__).parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_entries_is_in_form(path):
    found = entries_of(path)
    assert all(e.family == path.stem for e in found)
    assert bool(found) is (path.stem != "unpublished")


def test_names_are_unique():
    assert [name for name, count in Counter(e.name for e in entries()).items() if count > 1] == []


def test_links_lead_to_addresses_alone():
    for e in entries():
        for address in filter(None, (e.link, e.code)):
            parts = urlsplit(address)
            assert parts.scheme in ("http", "https") and "." in parts.netloc and parts.username is None, (e.name, address)


def test_no_two_loadable_entries_ask_for_one_file_under_other_digests_or_links():
    by_file: dict[str, set[tuple[str | None, str | None]]] = {}
    for e in entries():
        by_file.setdefault(e.file, set()).add((e.link, e.sha256))
    assert {file: found for file, found in by_file.items() if len(found) > 1} == {}


def test_printed_numbers_are_metrics_of_tables_with_a_place():
    for e in entries():
        assert set(e.printed) <= set(NUMBERS), e.name
        assert e.printed_in or not e.printed, e.name


def test_a_score_is_printed_of_every_file_of_a_table():
    score = {"classification": "top1", "detection": "ap_box", "segmentation": "miou"}
    for e in entries():
        if e.printed and e.name not in ("eva02-b-coco-sys-masks", "eva02-l-coco-sys-masks", "eva02-l-coco-seg-sys-o365"):
            assert score[e.task] in e.printed, e.name


@pytest.mark.parametrize(
    ("family", "count"),
    [("evit", 10), ("dynamicvit", 15), ("evo_vit", 11), ("svit", 5), ("a_vit", 2), ("adavit", 2), ("token_reduction", 489), ("eva02", 14)],
)
def test_how_many_files_each_publication_has(family, count):
    assert sum(e.family == family for e in entries()) == count


def test_a_run_chooses_what_there_is():
    for e in entries():
        chosen = {key: value for key, value in e.run.items() if isinstance(value, str) and is_group(key)}
        missing = [f"{group}/{name}" for group, name in chosen.items() if not (config_dir() / group / f"{name}.yaml").is_file()]
        assert not missing, (e.name, missing)
        assert bool(e.refused) or "method" in chosen, e.name


def test_code_adds_what_every_run_has():
    taken = {"task", "scale", "init", "training.iterations", "label"}
    assert [e.name for e in entries() if taken & set(e.run)] == []


def test_given_settings_are_those_of_the_layout():
    known = [e for e in entries() if not e.refused and e.layout in names("layout")]
    assert known
    for e in known:
        layout = get("layout", e.layout)
        assert set(e.given) <= {*layout.asks, *layout.offers}, e.name
        assert layout.task == e.task, e.name


def test_a_refused_file_says_why_and_has_no_run():
    refused = [e for e in entries() if e.refused]
    assert refused and all(len(e.refused) > 20 and not e.run for e in refused)


def test_the_table_of_classifiers_has_those_with_a_printed_number():
    found = entries_for("classification").split(",")
    assert {"evit-deit-s-0.7-fuse", "svit-small", "tome-mae-b-r16"} <= set(found)
    assert all(entry(name).printed and not entry(name).refused for name in found)
    assert not any(name.startswith(("tr-", "dynamicvit-lvvit")) for name in found)


# (entry, experiment, the line of its expected.csv, metrics that both have)
IN_TABLES = [
    ("vit-adapter-tiny", "table5_sota", {"method": "Dense", "size": "tiny"}, "ap_box ap_mask fps_whole fps_backbone"),
    ("vit-adapter-small", "table5_sota", {"method": "Dense", "size": "small"}, "ap_box ap_mask fps_whole fps_backbone"),
    ("svit-adapter-tiny", "table5_sota", {"method": "SViT", "size": "tiny"}, "ap_box ap_mask fps_whole fps_backbone"),
    ("svit-adapter-small", "table5_sota", {"method": "SViT", "size": "small"}, "ap_box ap_mask fps_whole fps_backbone"),
    ("svit-adapter-tiny", "table3_reactivation", {"method": "SViT dynamic, reactivation"}, "ap_box ap_mask"),
    ("svit-adapter-small", "table4_gating", {"method": "SViT 2-layer MLP", "size": "small"}, "ap_box ap_mask"),
    ("svit-small", "table6_throughput", {"method": "SViT"}, "top1 gmacs images_per_second"),
    ("svit-small", "table7_imagenet", {"method": "SViT"}, "top1 gmacs"),
    ("evit-deit-s-0.7-fuse", "table7_imagenet", {"method": "EViT"}, "top1 gmacs"),
    ("ada-deit-s", "table7_imagenet", {"method": "AdaViT"}, "top1 gmacs"),
    ("dynamicvit-deit-s-0.7", "table7_imagenet", {"method": "DynamicViT"}, "top1"),
    ("a-vit-s", "table7_imagenet", {"method": "A-ViT"}, "gmacs"),
]


@pytest.mark.parametrize(("name", "experiment", "line", "metrics"), IN_TABLES, ids=lambda value: value if isinstance(value, str) else None)
def test_printed_numbers_are_those_of_the_tables(name, experiment, line, metrics):
    """A README may print one digit more than the table."""
    found = [
        row
        for row in Expected(EXPERIMENTS / experiment / "expected.csv").lines
        if all(row.get(key, "") == value for key, value in {"treatment": row.get("treatment", ""), **line}.items())
    ]
    assert len(found) == 1
    for metric in metrics.split():
        table, printed = found[0][metric], entry(name).printed[metric]
        assert round(printed, len(table.partition(".")[2])) == float(table), metric


def test_numbers_of_a_publication_stand_as_its_readme_prints_them():
    fused = [entry(f"evit-deit-s-{rate}-fuse").printed["top1"] for rate in (0.9, 0.8, 0.7, 0.6, 0.5)]
    removed = [entry(f"evit-deit-s-{rate}").printed["top1"] for rate in (0.9, 0.8, 0.7, 0.6, 0.5)]
    assert fused == [79.8, 79.8, 79.5, 78.9, 78.5] and removed == [79.9, 79.7, 79.4, 79.1, 78.4]
    assert [entry(f"evo-vit-{size}").printed["top1"] for size in ("t", "s", "b", "b-384")] == [72.0, 79.4, 81.3, 82.0]
    tome = ("tome-deit-t-r13", "tome-deit-s-r13", "tome-mae-b-r16", "tome-mae-l-r8", "tome-mae-h-r7")
    assert [entry(name).printed["top1"] for name in tome] == [71.27, 79.36, 81.91, 85.09, 86.46]


def test_a_grid_is_written_once(tmp_path):
    text = 'entries:\n  "${size}-${rate}":\n    each: {size: [tiny, small], rate: [0.9, 0.5]}\n    model: "${size} at ${rate}"\n'
    found = read(tmp_path, SHARED + text + '    file: "${size}.pth"\n    given: {rate: "${rate}", word: "r${rate}"}\n')
    assert [e.name for e in found] == ["tiny-0.9", "tiny-0.5", "small-0.9", "small-0.5"]
    assert found[1].model == "tiny at 0.5" and found[1].file == "tiny.pth"
    assert found[1].given == {"rate": 0.5, "word": "r0.5"}  # a word alone stays a number


def test_a_value_of_a_grid_gives_several_words(tmp_path):
    rows = "[{name: a, top1: 79.5, runs: {method: ats}}, {name: b, top1: 78, runs: {method: tome}}]"
    text = f'entries:\n  "x-${{name}}-${{k}}":\n    each: {{file: {rows}, k: [1, 2]}}\n    model: M\n    file: "${{name}}.pth"\n'
    found = read(tmp_path, SHARED + text + '    printed: {top1: "${top1}"}\n    printed_in: README\n    run: "${runs}"\n')
    assert [e.name for e in found] == ["x-a-1", "x-a-2", "x-b-1", "x-b-2"]
    assert [e.printed["top1"] for e in found] == [79.5, 79.5, 78, 78]
    assert found[3].run == {"method": "tome"}


def test_an_own_value_wins_over_that_of_the_file(tmp_path):
    (found,) = read(tmp_path, one(task="detection", licence="MIT"))
    assert (found.task, found.licence, found.method) == ("detection", "MIT", "evit")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", ["no file of entries"]),
        ("entries: [", ["no YAML"]),
        (one(colour="red"), ["unknown 'colour'", "allowed: method"]),
        (one(file=None), ["no 'file'"]),
        (one(task="depth"), ["'depth'", "classification, detection, segmentation"]),
        (one(run="{}"), ["neither `run` nor `refused`"]),
        (one(link="ftp://host/file"), ["ftp://host/file", "http"]),
        (one(link="file:///etc/passwd"), ["file:///etc/passwd", "http"]),
        (one(sha256="abc"), ["sha256", "64"]),
        (one(size="-1"), ["size is -1"]),
        (one(printed="{top1: 79.5}"), ["`printed` without `printed_in`"]),
        (one(printed="{top1: high}", printed_in="README"), ["printed.top1 is 'high'", "a number"]),
        (one(printed="[79.5]", printed_in="README"), ["printed is [79.5]", "a mapping"]),
        (one(run="[evit]"), ["run is ['evit']", "a mapping"]),
        (one(given="deit"), ["given is 'deit'"]),
        (one(model='"DeiT-${size}"'), ["${size} stands for nothing"]),
        (one(each="{size: tiny}"), ["each is {'size': 'tiny'}", "[tiny, small]"]),
        (one(each="[tiny]"), ["each is ['tiny']"]),
        (one(file="a.pth") + "    file: b.pth\n", ["no YAML", "file is there twice"]),
        (one() + "  a:\n    model: B\n    file: b.pth\n", ["no YAML", "a is there twice"]),
        (SHARED + "entries:\n  A_B:\n    model: M\n    file: f\n", ["A_B", "other letters"]),
    ],
)
def test_faults_are_named(tmp_path, text, words):
    message = faults(tmp_path, text)
    assert "family.yaml" in message and all(word in message for word in words), message


def test_every_fault_of_a_file_is_named_at_once(tmp_path):
    message = faults(tmp_path, one(task="depth", sha256="abc") + "  b:\n    model: M\n")
    assert all(word in message for word in ("a: task", "a: sha256", "b: no 'file'"))


def test_a_name_twice_over_the_files_is_refused(tmp_path, monkeypatch):
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(one(), encoding="utf-8")
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "catalog.py"))
    with pytest.raises(InvalidConfig, match="several entries of the name a"):
        entries.__wrapped__()


def test_a_wrong_name_gets_a_hint():
    with pytest.raises(InvalidConfig, match="svit-adapter-tiny"):
        entry("svit-adapter-tyni")
