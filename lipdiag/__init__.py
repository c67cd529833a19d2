"""Where is a diffusion model ill-conditioned, in time and in space?

Every public name is imported when it is first used, so that `import lipdiag` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "zoo",
    "save": "training.checkpoint",
    "inspect": "zoo",
    "measure": "run",
    "open_run": "study.store",
    "summarize": "study.statistics",
    "plot": "report",
    "report": "report",
    "advise": "report",
    "explore": "report",
    "compare": "report.comparison",
    "share_timesteps": "share",
    "unshare_timesteps": "share",
    "Plan": "study.plan",
    "Predictor": "diffusion.predictor",
    "NetworkPredictor": "diffusion.predictor",
}

__all__ = [
    "NetworkPredictor",
    "Plan",
    "Predictor",
    "__version__",
    "advise",
    "compare",
    "explore",
    "inspect",
    "load",
    "measure",
    "open_run",
    "plot",
    "report",
    "save",
    "share_timesteps",
    "summarize",
    "unshare_timesteps",
]

if TYPE_CHECKING:
    from . import pages as report
    from .advice.sharing import advise
    from .checkpoints import inspect, load
    from .checkpoints.native import save
    from .comparison.comparison import compare
    from .diffusion.predictor import NetworkPredictor, Predictor
    from .figures import explore, plot
    from .share import share_timesteps, unshare_timesteps
    from .statistics import summarize
    from .store.store import open_run
    from .study.measure import measure
    from .study.plan import Plan


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lipdiag' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
