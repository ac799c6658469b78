"""Installs Detectron2 from the package index alone, without a compiler: `python -m tokenprune.install_detectron2`.

It does nothing if Detectron2 is importable, be it an official build or the main branch. Otherwise it fetches the 0.6 source archive by name
(pip verifies its sha256 before it runs anything of it), repacks its Python files as a wheel and installs that.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenprune.cli.install_detectron2 import repack
from tokenprune.errors import MissingDependency, TokenPruneError
from tokenprune.tasks.detection.guard import find_detectron2, require_detectron2
from tokenprune.utils import console

__all__ = ["main", "require_detectron2"]


def describe(folder: Path) -> str:
    """Return version and kind of the Detectron2 in `folder`, read from its files and metadata without importing it."""
    match = re.search(r"^__version__ = ['\"](.+?)['\"]", (folder / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    version = match.group(1) if match else "of unknown version"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a clone on PYTHONPATH has no metadata
        version = importlib.metadata.version("detectron2")
    compiled = any(folder.glob("_C*.so")) or any(folder.glob("_C*.pyd"))
    return f"detectron2 {version} ({'with' if compiled else 'without'} the compiled extension _C)"


def run_pip(arguments: list[str], purpose: str) -> None:
    """Run this environment's pip.

    Raises:
        MissingDependency: pip is absent or fails; the message holds pip's last error line.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no message"]
        raise MissingDependency(f"cannot {purpose}: {errors[-1]}")


def fetch() -> bytes:
    """Download the source archive by name through pip, which honours the user's index configuration.

    pip asks an archive for its metadata, and the set-up script of this one imports torch and setuptools. Therefore there is no build
    isolation, and this function checks that both are installed.

    Raises:
        MissingDependency: torch or setuptools is absent, the index is out of reach or lacks the archive, or its sha256 differs.
    """
    absent = [name for name in ("torch", "setuptools") if importlib.util.find_spec(name) is None]
    if absent:
        needs, cure = " and ".join(absent), " ".join(absent)
        raise MissingDependency(f"cannot fetch Detectron2: pip needs {needs} here for its metadata; run `pip install {cure}`")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"{repack.SDIST_NAME}=={repack.SDIST_VERSION} --hash=sha256:{repack.SDIST_SHA256}\n", encoding="utf-8")
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "-d", folder, "-r", str(wanted)]
        advice = f"fetch {repack.SDIST_NAME} {repack.SDIST_VERSION} (without network, pass --sdist PATH)"
        run_pip(["download", "-q", *options], advice)
        return next(Path(folder).glob("*.tar.gz")).read_bytes()


def read_archive(path: Path) -> bytes:
    """Return the bytes of the archive that the user has.

    Raises:
        MissingDependency: There is no such file.
    """
    if not path.is_file():
        raise MissingDependency(f"cannot install Detectron2: --sdist {path} is no file; give {repack.SDIST_FILE}")
    return path.read_bytes()


def write_wheel(sdist: bytes, folder: Path) -> Path:
    """Verify the archive, write the wheel into `folder`, which is made if missing, and return its path.

    Raises:
        MissingDependency: The archive is another one.
    """
    repack.verify(sdist)
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / repack.WHEEL_NAME
    wheel.write_bytes(repack.build_wheel(sdist))
    return wheel


def install(sdist: Path | None) -> None:
    """Fetch or read the archive, repack it and install the wheel.

    Raises:
        MissingDependency: One of the steps failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = write_wheel(read_archive(sdist) if sdist else fetch(), Path(folder))
        run_pip(["install", "-q", "--no-deps", "--no-index", "--force-reinstall", str(wheel)], "install the Detectron2 wheel")
    importlib.invalidate_caches()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=console.program("install-detectron2"), description="Install Detectron2 without a compiler.")
    parser.add_argument("--sdist", type=Path, metavar="PATH", help=f"use this {repack.SDIST_FILE} instead of fetching it")
    parser.add_argument("--wheel-dir", type=Path, metavar="DIR", help="only write the wheel there (for a machine without network)")
    parser.add_argument("--force", action="store_true", help="install even where a Detectron2 is importable (it is replaced)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command, write one line, and return the exit code 0 or 1."""
    options = parse(argv)
    try:
        if options.wheel_dir:
            wheel = write_wheel(read_archive(options.sdist) if options.sdist else fetch(), options.wheel_dir)
            console.say(f"wrote {wheel}; install it with `pip install --no-deps {wheel}`")
            return 0
        found = find_detectron2()
        if found and not options.force:
            console.say(f"{describe(found)} is importable: nothing to do")
            return 0
        install(options.sdist)
        console.say(f"installed detectron2 {repack.VERSION} (without the compiled extension _C)")
        return 0
    except (TokenPruneError, OSError) as error:
        console.fail(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
