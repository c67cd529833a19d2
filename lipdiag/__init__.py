"""Where is a diffusion model ill-conditioned, in time and in space?"""

from typing import TYPE_CHECKING

from .lazy import lazy

__version__ = "0.1.0"

__all__ = [
    "NetworkPredictor",
    "Plan",
    "Predictor",
    "__version__",
    "advise",
    "anatomy",
    "compare",
    "doctor",
    "explore",
    "geometry",
    "inspect",
    "likelihood",
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
    from .advisor.front import advise
    from .checkpoints.load import inspect, load
    from .checkpoints.save import save
    from .comparison.comparison import compare
    from .diffusion.predictor import NetworkPredictor, Predictor
    from .figures import explore, plot
    from .health.examine import doctor
    from .pages.page import report
    from .results.anatomy import anatomy
    from .results.geometry import geometry, likelihood
    from .share import share_timesteps, unshare_timesteps
    from .statistics import summarize
    from .store.store import open_run
    from .study.measure import measure
    from .study.plan import Plan

__getattr__, __dir__ = lazy(
    __name__,
    {
        "advise": "advisor.front",
        "anatomy": "results.anatomy",
        "compare": "comparison.comparison",
        "doctor": "health.examine",
        "explore": "figures.explorer",
        "geometry": "results.geometry",
        "inspect": "checkpoints.load",
        "likelihood": "results.geometry",
        "load": "checkpoints.load",
        "measure": "study.measure",
        "open_run": "store.store",
        "plot": "figures.gallery",
        "report": "pages.page",
        "save": "checkpoints.save",
        "share_timesteps": "share",
        "summarize": "statistics",
        "unshare_timesteps": "share",
        "NetworkPredictor": "diffusion.predictor",
        "Plan": "study.plan",
        "Predictor": "diffusion.predictor",
    },
)
