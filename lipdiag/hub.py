"""Names of models on the Hugging Face hub: `hf://owner/name@revision/subfolder`.

A model in the local cache lies at models--owner--name/snapshots/COMMIT, so the path tells its whole name.
"""

import re
from pathlib import Path
from typing import NamedTuple

from .errors import UsageError
from .files import shown

OWNED = r"(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9][\w.-]*?)"
REVISION = r"(?:@(?P<revision>refs/(?:pr|convert)/[\w-]+|[\w.-]+))?"
SCHEME = re.compile(r"hf:/{1,2}")  # a path makes one stroke of two
FULL = re.compile(rf"hf:/{{1,2}}{OWNED}{REVISION}(?:/(?P<inside>.+?))?/?", re.ASCII)
PLAIN = re.compile(OWNED + REVISION, re.ASCII)
PLACE = re.compile(r".*models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})/?(?P<inside>.*)")
FILES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".zarr", ".npz")
"""What names of files end in, and not those of models on the hub."""


class Name(NamedTuple):
    """A model on the hub; the revision is None where none was given, `inside` a folder or file of it or empty."""

    owner: str
    name: str
    revision: str | None = None
    inside: str = ""

    @property
    def model(self) -> str:
        """owner/name."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.model}{revision}{'/' + self.inside if self.inside else ''}"


def parse(text: str | Path) -> Name | None:
    """The model that a text names: by hf://, or as a plain owner/name that is no path and does not look like one.

    Raises:
        UsageError: If it begins with hf: and is no name.
    """
    asked = SCHEME.match(str(text)) is not None
    match = (FULL if asked else PLAIN).fullmatch(str(text))
    if asked and (match is None or ".." in str(text).split("/")):
        raise UsageError(f"{shown(text)} names no model on the hub: write hf://owner/name[@revision][/subfolder]")
    if match is None or (not asked and local(Path(text))):
        return None
    return Name(match["owner"], match["name"], match["revision"], match["inside"] if asked and match["inside"] else "")


def local(path: Path) -> bool:
    """Whether a text of the form owner/name means a place on this machine, be there something or not."""
    return path.exists() or path.is_symlink() or path.parent.exists() or path.suffix in FILES


def spelled(path: str | Path) -> str:
    """The name of a model in the hub's cache, with its commit, and any other path as it is."""
    match = PLACE.fullmatch(str(path))
    return str(path) if match is None else str(Name(**match.groupdict()))


def titled(text: str | Path) -> str:
    """A path without its folders; of a model on the hub its name without owner, revision and what is inside."""
    match = FULL.fullmatch(spelled(text)) or (None if local(Path(text)) else PLAIN.fullmatch(str(text)))
    return Path(text).name if match is None else match["name"]
