"""Numbers on disk, as a stranger may have left them: how a store's folder is checked, and how it is read.

Nothing here asks zarr or xarray to open anything: they would look up whatever codec a file names.
"""
