"""Where is a diffusion model ill-conditioned, in time and in space?"""

from typing import TYPE_CHECKING

from .dialect import pythonic
from .lazy import lazy

__version__ = "0.1.0"

__all__ = [
    "Monitor",
    "NetworkPredictor",
    "Panel",
    "Plan",
    "Predictor",
    "__version__",
    "advise",
    "anatomy",
    "compare",
    "doctor",
    "evaluate",
    "explore",
    "geometry",
    "inspect",
    "likelihood",
    "load",
    "measure",
    "open_run",
    "plot",
    "report",
    "sample",
    "save",
    "share_timesteps",
    "summarize",
    "train",
    "unshare_timesteps",
]

if TYPE_CHECKING:
    from .checkpoints.load import inspect, load
    from .checkpoints.save import save
    from .comparison.comparison import compare
    from .design.plan import Plan
    from .diffusion.predictor import NetworkPredictor, Predictor
    from .figures import explore, plot
    from .findings.anatomy import anatomy
    from .findings.geometry import geometry, likelihood
    from .health.examine import doctor
    from .pages.page import report
    from .quality.evaluate import evaluate
    from .quality.sample import sample
    from .results.summary import summarize
    from .share import share_timesteps, unshare_timesteps
    from .store.store import open_run
    from .study.measure import measure
    from .training.door import train
    from .training.monitor import Monitor
    from .tuning.advise import advise
    from .watching.panel import Panel

__getattr__, __dir__ = lazy(
    __name__,
    {
        "advise": "tuning.advise",
        "anatomy": "findings.anatomy",
        "compare": "comparison.comparison",
        "doctor": "health.examine",
        "evaluate": "quality.evaluate",
        "explore": "figures.explorer",
        "geometry": "findings.geometry",
        "inspect": "checkpoints.load",
        "likelihood": "findings.geometry",
        "load": "checkpoints.load",
        "measure": "study.measure",
        "open_run": "store.store",
        "plot": "figures.gallery",
        "report": "pages.page",
        "sample": "quality.sample",
        "save": "checkpoints.save",
        "share_timesteps": "share",
        "summarize": "results.summary",
        "train": "training.door",
        "unshare_timesteps": "share",
        "Monitor": "training.monitor",
        "NetworkPredictor": "diffusion.predictor",
        "Panel": "watching.panel",
        "Plan": "design.plan",
        "Predictor": "diffusion.predictor",
    },
    pythonic,
)
