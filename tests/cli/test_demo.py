"""The command `tokenprune demo`: its steps are commands that exist, its page links what they made, and a failed step ends it."""

import re
import shlex

import pytest

from tokenprune.cli import COMMANDS
from tokenprune.cli.demo import __main__ as demo
from tokenprune.cli.demo.steps import EXPERIMENT, onward, steps
from tokenprune.cli.show import _parser as show
from tokenprune.runs.config import compose
from tokenprune.runs.presets import files

TABLE = "# first_look\n\n| Method | top-1 |\n|---|---|\n| Dense | 86.0 |\n| <b>ToMe</b> | 85.0 |\n"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return the commands that are run in an empty folder, of which each leaves what the real one would."""
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(demo, "ran", lambda step: commands.append(step.command) or left_behind(step.command, demo.Path("results/demo")))
    return commands


def left_behind(command, out):
    files = {"report": {"report/report.html": "report"}}
    files["run"] = {f"tables/{EXPERIMENT}/table.md": TABLE, f"tables/{EXPERIMENT}/keep_rates.png": "curve"}
    if command[1] == "show":
        given = show().parse_args(command[2:])
        files["show"] = {given.out.relative_to(out): "pictures"}
        files["show"] |= {given.png.relative_to(out).with_stem("picture_0"): "still"} if given.png else {}
    for name, text in files[command[1]].items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    return 0


def test_one_page_links_all_that_was_made(made, tmp_path, capsys):
    assert demo.main(["schedule.keep_rate=0.8,0.6"]) == 0
    out = tmp_path / "results/demo"
    text = (out / "index.html").read_text()
    links = set(re.findall(r'(?:href|src)="([^"#]+)"', text))
    assert [link for link in links if not (out / link).is_file()] == []
    assert {"pictures.html", "picture_0.png", f"tables/{EXPERIMENT}/keep_rates.png", "report/report.html"} <= links
    assert "<td>86.0</td>" in text and "&lt;b&gt;ToMe" in text and "://" not in text
    said = capsys.readouterr().out
    assert [command for command in made if shlex.join(command) not in said] == []
    assert any(command[-1] == "schedule.keep_rate=0.8,0.6" for command in made if command[1] == "run")
    assert f"1 of {len(made)}: a picture." in said and "since the start: the table and the curve are in" in said
    assert "Open results/demo/index.html in a browser" in said


def test_the_page_is_there_after_the_first_step_and_a_failed_step_ends_the_demo(made, tmp_path, monkeypatch, capsys):
    working = demo.ran
    monkeypatch.setattr(demo, "ran", lambda step: 3 if step.command[1] == "run" else working(step))
    assert demo.main([]) == 3
    text = (tmp_path / "results/demo/index.html").read_text()
    assert 'id="picture"' in text and 'id="table"' not in text and 'id="curve"' not in text and "What to try next" in text
    assert "report" not in [command[1] for command in made] and "ended with exit status 3" in capsys.readouterr().err


def test_without_detectron2_there_are_no_boxes(monkeypatch):
    monkeypatch.setattr("tokenprune.cli.demo.steps.find_spec", lambda name: None)
    assert [step.command[1] for step in steps(demo.Path("there"))] == ["show", "run", "report"]
    monkeypatch.setattr("tokenprune.cli.demo.steps.find_spec", lambda name: name)
    assert [step.command[1] for step in steps(demo.Path("there"))] == ["show", "show", "run", "report"]


def test_every_command_that_it_runs_or_names_exists():
    run = [step.command for step in steps(demo.Path("there"))] + [tuple(shlex.split(command)) for _, command in onward(demo.Path("there"))]
    assert {command[1] for command in run} <= set(COMMANDS)
    for command in (command for command in run if command[1] == "run"):
        words = [word for word in command[2:] if not word.startswith("+experiment=")]
        chosen = [word.partition("=")[2] for word in command if word.startswith("+experiment=")]
        assert set(chosen) <= {path.stem for path in files("experiment")}
        compose([word for word in words if "," not in word])


@pytest.mark.parametrize(
    "arguments, words", [(["fast"], "'fast' is no setting; give KEY=VALUE"), (["--nothing"], "unrecognized arguments")]
)
def test_words_that_are_no_settings_are_refused(made, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err and made == []


def test_a_folder_that_takes_no_files(made, tmp_path, capsys):
    (tmp_path / "results/demo/index.html").mkdir(parents=True)
    assert demo.main([]) == 2 and "cannot write results/demo/index.html" in capsys.readouterr().err


def test_times_in_words():
    assert demo.in_words(59.4) == "59 s" and demo.in_words(125) == "2 min 5 s"


@pytest.mark.slow
def test_the_whole_demo_at_the_size_of_a_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert demo.main(["scale=smoke", "schedule.keep_rate=0.7"]) == 0
    text = (tmp_path / "results/demo/index.html").read_text()
    links = {link for link in re.findall(r'(?:href|src)="([^"#]+)"', text)}
    assert len(links) >= 5 and [link for link in links if not (tmp_path / "results/demo" / link).is_file()] == []
