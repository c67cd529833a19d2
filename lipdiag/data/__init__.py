"""Where x0 comes from: embedded sets, folders, arrays, the model's own samples."""
