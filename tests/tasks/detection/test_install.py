"""The Detectron2 installer, on a small synthetic archive; the real download runs only with TOKENPRUNE_TEST_NETWORK=1."""

import base64
import csv
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tokenprune.cli.install_detectron2 import __main__ as install
from tokenprune.cli.install_detectron2 import repack
from tokenprune.errors import MissingDependency
from tokenprune.tasks.detection import guard

EXTRA_FILES = {
    "detectron2/__init__.py": '__version__ = "0.6"\n',
    "detectron2/model_zoo/configs/a.yaml": "a: 1\n",
    "LICENSE": "Apache License\n",
    "setup.py": "raise SystemExit('never run')\n",
    "projects/other.py": "",
}


def make_sdist(changes: dict[str, str] | None = None) -> bytes:
    """Build an archive with the texts that `EDITS` expects, as often as expected."""
    files = {edit.path: f"import x\nuse({edit.old})\n" + f"also({edit.old})\n" * (edit.count - 1) for edit in repack.EDITS}
    files |= EXTRA_FILES | (changes or {})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{path}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def sdist(tmp_path, monkeypatch) -> Path:
    """Give a synthetic archive whose digest the installer accepts."""
    path = tmp_path / repack.SDIST_FILE
    path.write_bytes(make_sdist())
    monkeypatch.setattr(repack, "SDIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def no_detectron2(monkeypatch) -> None:
    """Hide any Detectron2 from the installer and the guard."""
    monkeypatch.setitem(sys.modules, "detectron2", None)


def read_wheel(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_edit_is_made_as_often_as_declared_and_nothing_else_changes():
    files = read_wheel(repack.build_wheel(make_sdist()))
    for path, old, new, count in repack.EDITS:
        body, _, note = files[path].decode().partition("# Changed when repacked")
        assert body.count(old) == 0
        assert body.count(f"({new})") == count
        assert f"{old} became {new}" in note
    assert files["detectron2/__init__.py"].decode() == EXTRA_FILES["detectron2/__init__.py"]
    assert "detectron2/model_zoo/configs/a.yaml" in files
    assert not any(name.startswith(("setup.py", "projects")) for name in files)
    assert files[f"{repack.DIST_INFO}/licenses/LICENSE"].decode() == EXTRA_FILES["LICENSE"]


@pytest.mark.parametrize("text", ["nothing to edit\n", "Image.LINEAR Image.LINEAR\n"])
def test_another_number_of_matches_is_refused(text):
    with pytest.raises(MissingDependency, match=r"transform\.py has 'Image\.LINEAR' [02] times, expected 1"):
        repack.build_wheel(make_sdist({repack.EDITS[0].path: text}))


def test_record_lists_every_file_with_its_digest_and_size():
    files = read_wheel(repack.build_wheel(make_sdist()))
    rows = {path: (digest, size) for path, digest, size in csv.reader(files[f"{repack.DIST_INFO}/RECORD"].decode().splitlines())}
    assert rows.keys() == files.keys()
    assert rows.pop(f"{repack.DIST_INFO}/RECORD") == ("", "")
    for path, (digest, size) in rows.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={expected}", str(len(files[path])))


def test_two_builds_give_the_same_bytes():
    assert repack.build_wheel(make_sdist()) == repack.build_wheel(make_sdist())


def test_metadata_names_version_and_requirements():
    metadata = read_wheel(repack.build_wheel(make_sdist()))[f"{repack.DIST_INFO}/METADATA"].decode()
    assert metadata.startswith("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6+purepy1\n")
    assert "Requires-Dist: torch>=2.4,!=2.13.0\n" in metadata
    assert "black" not in metadata


def test_a_member_that_climbs_out_is_left_out():
    assert not any(".." in path for path in repack.read_sdist(make_sdist({"detectron2/../evil.py": "x"})))


def test_extension_stand_in_raises_on_use_and_answers_dunder_lookups():
    module: dict = {}
    exec(repack.EXTENSION, module)
    assert module["has_cuda"]() is False
    assert "n/a" in module["get_compiler_version"]() and "n/a" in module["get_cuda_version"]()
    with pytest.raises(AttributeError):
        module["__getattr__"]("__path__")
    with pytest.raises(ImportError, match="COCOevalEvaluateImages needs the compiled Detectron2.*use_fast_impl=False"):
        module["__getattr__"]("COCOevalEvaluateImages")


def test_pip_installs_the_wheel_and_its_extension_imports(sdist, tmp_path):
    wheel = install.write_wheel(sdist.read_bytes(), tmp_path / "wheels")
    target = tmp_path / "site"
    install.run_pip(["install", "-q", "--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)], "install")
    code = "import detectron2, detectron2._C as c; print(hasattr(c, '__spam__'), c.has_cuda(), detectron2.__version__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False 0.6\n", "")


def test_wrong_digest_exits_1_with_both_digests(tmp_path, capsys, no_detectron2):
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(make_sdist())
    assert install.main(["--sdist", str(wrong)]) == 1
    error = capsys.readouterr().err
    assert "sha256 mismatch" in error and repack.SDIST_SHA256 in error and hashlib.sha256(wrong.read_bytes()).hexdigest() in error
    assert error.count("\n") == 1


def test_missing_archive_exits_1(tmp_path, capsys, no_detectron2):
    assert install.main(["--sdist", str(tmp_path / "absent.tar.gz")]) == 1
    assert "absent.tar.gz is no file" in capsys.readouterr().err


def fake_detectron2(folder: Path, compiled: bool) -> None:
    package = folder / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("imported")\n__version__ = "9.9"\n')
    if compiled:
        (package / "_C.cpython-311-x86_64-linux-gnu.so").touch()


@pytest.mark.parametrize("compiled", [False, True])
def test_an_importable_detectron2_is_left_alone_and_not_imported(tmp_path, monkeypatch, capsys, compiled):
    fake_detectron2(tmp_path, compiled)
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(install, "run_pip", lambda *a: pytest.fail("pip was called"))
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "9.9")
    assert install.main([]) == 0
    kind = "with" if compiled else "without"
    assert capsys.readouterr().out == f"detectron2 9.9 ({kind} the compiled extension _C) is importable: nothing to do\n"


def test_version_is_read_from_a_clone_that_has_no_metadata(tmp_path, monkeypatch):
    fake_detectron2(tmp_path, compiled=False)

    def absent(name):
        raise install.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(install.importlib.metadata, "version", absent)
    assert install.describe(tmp_path / "detectron2").startswith("detectron2 9.9 (without")


@pytest.mark.parametrize("arguments, present", [([], False), (["--force"], True)])
def test_install_hands_pip_the_wheel(sdist, tmp_path, monkeypatch, arguments, present):
    calls = []
    monkeypatch.setattr(install, "find_detectron2", lambda: tmp_path if present else None)
    monkeypatch.setattr(install, "run_pip", lambda command, purpose: calls.append((command, Path(command[-1]).read_bytes())))
    assert install.main([*arguments, "--sdist", str(sdist)]) == 0
    ((command, wheel),) = calls
    assert command[:-1] == ["install", "-q", "--no-deps", "--no-index", "--force-reinstall"]
    assert Path(command[-1]).name == "detectron2-0.6+purepy1-py3-none-any.whl"
    assert wheel == repack.build_wheel(sdist.read_bytes())


def test_wheel_dir_only_writes_the_wheel(sdist, tmp_path, monkeypatch):
    monkeypatch.setattr(install, "run_pip", lambda *a: pytest.fail("pip was called"))
    assert install.main(["--sdist", str(sdist), "--wheel-dir", str(tmp_path / "new" / "wheels")]) == 0
    assert [p.name for p in (tmp_path / "new" / "wheels").iterdir()] == [repack.WHEEL_NAME]


def test_an_unreachable_index_is_one_line_and_exit_1(monkeypatch, capsys, no_detectron2):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert install.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot fetch pb1-detectron2 0.6 (without network, pass --sdist PATH): ERROR: ")
    assert error.count("\n") == 1


def test_fetching_without_torch_says_so(monkeypatch, capsys, no_detectron2):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert install.main([]) == 1
    assert "pip needs torch here for its metadata; run `pip install torch`" in capsys.readouterr().err


def test_guard_names_the_command(no_detectron2):
    with pytest.raises(MissingDependency, match="Detectron2 is not installed: run `python -m tokenprune.install_detectron2`"):
        install.require_detectron2()


def test_guard_passes_where_it_is_importable(tmp_path, monkeypatch):
    fake_detectron2(tmp_path, compiled=False)
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert install.require_detectron2() is None
    assert guard.find_detectron2() == tmp_path / "detectron2"


def test_a_bare_folder_of_that_name_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert importlib.util.find_spec("detectron2").submodule_search_locations  # Python itself would take it for a namespace package
    assert guard.find_detectron2() is None


@pytest.mark.skipif(os.environ.get("TOKENPRUNE_TEST_NETWORK") != "1", reason="downloads: set TOKENPRUNE_TEST_NETWORK=1")
def test_the_real_archive_is_fetched_and_repacked(tmp_path):
    assert install.main(["--wheel-dir", str(tmp_path)]) == 0
    assert (tmp_path / repack.WHEEL_NAME).stat().st_size > 500_000
