"""What made a result, for the record: the versions of the libraries."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from . import __version__


def versions(*names: str) -> dict[str, str]:
    """The version of each library, by its name; "unknown" where it lies in a folder of sources, not installed."""
    return {name: __version__ if name == "lipdiag" else installed(name) for name in names}


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        if find_spec(name) is None:
            return "none"
        return str(getattr(__import__(name), "__version__", "unknown"))
