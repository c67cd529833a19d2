"""Numbers on disk: written so that nothing is lost, read as a stranger may have left them.

Nothing here asks zarr or xarray to open anything: they would look up whatever codec a file names.
"""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
