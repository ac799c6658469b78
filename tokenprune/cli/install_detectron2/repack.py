"""Turns Detectron2 0.6's source archive, in memory, into a pure-Python wheel that today's torch, numpy and Pillow accept.

The archive on the package index holds the Python tree of tag v0.6 unchanged, but not the C++ sources, so pip cannot build it. This project
needs nothing of the compiled part: the standard operators come from torchvision.
"""

import base64
import hashlib
import io
import tarfile
import zipfile
from typing import NamedTuple

from tokenprune.errors import MissingDependency

SDIST_NAME = "pb1-detectron2"
SDIST_VERSION = "0.6"
SDIST_FILE = f"{SDIST_NAME}-{SDIST_VERSION}.tar.gz"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = f"{SDIST_VERSION}+purepy1"  # a local version: an official install replaces it instead of overlaying its files
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
TIMESTAMP = (2021, 10, 25, 0, 0, 0)  # the day of tag v0.6; fixed, so that two builds give the same bytes


class Edit(NamedTuple):
    """Replaces `old` by `new` in `path`, which must hold it exactly `count` times."""

    path: str
    old: str
    new: str
    count: int


EDITS = (
    Edit("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", 1),
    Edit("detectron2/data/build.py", "dtype=np.int", "dtype=int", 2),
    Edit("detectron2/structures/masks.py", "np.bool", "bool", 3),
    Edit("detectron2/utils/visualizer.py", "np.bool", "bool", 3),
)

# The packages that 0.6 needs at run time without its caffe2 export and developer tools. fvcore and iopath may be newer than its own
# metadata allows.
REQUIRES = (
    "torch>=2.4,!=2.13.0",
    "torchvision>=0.19",
    "numpy>=1.26",
    "pillow>=9.1",
    "pycocotools>=2.0.7",
    "matplotlib>=3.7",
    "hydra-core>=1.3",
    "omegaconf>=2.3",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "yacs>=0.1.8",
    "termcolor",
    "tabulate",
    "cloudpickle",
    "tqdm",
    "shapely>=2.0",
)

# Three modules say `from detectron2 import _C` at their top; collect_env asks for the three functions.
EXTENSION = '''"""Stands in for Detectron2's compiled extension, which this pure-Python build does not have."""


def get_compiler_version():
    return "n/a (pure-Python build)"


def get_cuda_version():
    return "n/a (pure-Python build)"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name} needs the compiled Detectron2, and this is the pure-Python build: "
        "pass use_fast_impl=False to COCOEvaluator, avoid rotated boxes and deformable convolution, or install the official package"
    )
'''


def verify(sdist: bytes) -> None:
    """Compare the archive's digest with `SDIST_SHA256`.

    Raises:
        MissingDependency: They differ.
    """
    got = hashlib.sha256(sdist).hexdigest()
    if got != SDIST_SHA256:
        raise MissingDependency(
            f"cannot install Detectron2: sha256 mismatch of the source archive: got {got} ({len(sdist)} bytes), expected {SDIST_SHA256}; "
            f"give the unmodified {SDIST_FILE} with --sdist"
        )


def read_sdist(sdist: bytes) -> dict[str, bytes]:
    """Return the archive's package files and licence by path below its top folder, all in memory."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(sdist), mode="r:gz") as tar:
        for member in tar.getmembers():
            path = member.name.partition("/")[2]
            if member.isfile() and (path.startswith("detectron2/") or path == "LICENSE") and ".." not in path.split("/"):
                files[path] = tar.extractfile(member).read()
    return files


def apply_edits(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files with each of `EDITS` made and noted at the end of its file, as the Apache licence (section 4b) asks.

    Raises:
        MissingDependency: A file is absent, or holds the text another number of times than expected.
    """
    edited = dict(files)
    for path, old, new, count in EDITS:
        text = edited.get(path, b"").decode()
        if text.count(old) != count:
            raise MissingDependency(
                f"cannot install Detectron2: {path} has {old!r} {text.count(old)} times, expected {count}; "
                f"the archive is not that of {SDIST_NAME} {SDIST_VERSION}"
            )
        note = f"\n# Changed when repacked by tokenprune: {old} became {new}\n"
        edited[path] = (text.replace(old, new).rstrip("\n") + note).encode()
    return edited


def build_wheel(sdist: bytes) -> bytes:
    """Return the bytes of the wheel `WHEEL_NAME` made from a verified source archive; equal input gives equal bytes.

    Raises:
        MissingDependency: An edit does not fit the archive.
    """
    files = apply_edits(read_sdist(sdist))
    files[f"{DIST_INFO}/licenses/LICENSE"] = files.pop("LICENSE", b"")
    files["detectron2/_C.py"] = EXTENSION.encode()
    files[f"{DIST_INFO}/METADATA"] = _metadata().encode()
    files[f"{DIST_INFO}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tokenprune\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in sorted(files.items())]
    files[f"{DIST_INFO}/RECORD"] = "\n".join([*record, f"{DIST_INFO}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files, key=lambda p: (p.startswith(DIST_INFO), p)):
            archive.writestr(_entry(path), files[path])
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, TIMESTAMP)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, whatever builds it, for equal bytes
    return entry


def _metadata() -> str:
    head = (
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        f"Summary: Detectron2 {SDIST_VERSION}, its Python files repacked without the compiled extension",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "Requires-Python: >=3.8",
    )
    requires = [f"Requires-Dist: {line}" for line in REQUIRES]
    changes = [f"- {path}: `{old}` became `{new}`, {count} times" for path, old, new, count in EDITS]
    body = ["", "Changed from the source archive:", "", *changes, "- detectron2/_C.py: added, in place of the compiled extension", ""]
    return "\n".join([*head, *requires, *body])
