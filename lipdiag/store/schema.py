"""What the attributes of runs and evaluations are made of, so that their readers need not ask of each what it is.

What is not listed is kept as it is, for later versions; what is listed may be missing.
"""

from typing import Any

from ..text import printable

TEXT, NUMBER, COUNT, FLAG = (str, type(None)), (int, float, type(None)), (int, type(None)), (bool, type(None))
LONG = (type(None), str)
"""A text that may be long: a schedule is told with all of its betas, 22 characters for each."""

LARGEST_TEXT = {TEXT: 20_000, LONG: 1_000_000}
"""Characters."""

LAUNCH = {
    **dict.fromkeys(("started", "device", "device_type", "ended"), TEXT),
    **dict.fromkeys(("threads", "pairs"), COUNT),
    "deterministic": FLAG,
    "seconds": NUMBER,
    "argv": [TEXT],
    "versions": {None: TEXT},
}
MODEL = {
    **dict.fromkeys(("network", "weights_sha256", "parameterization", "function"), TEXT),
    **dict.fromkeys(("schedule", "clock"), LONG),
    "conditioning_sha256": TEXT,
    "shape": [(int,)],
}
PLAN = {
    **dict.fromkeys(("step", "tolerance", "certified_width", "confidence"), NUMBER),
    **dict.fromkeys(("krylov_steps", "ranks", "probes", "seed", "batch"), COUNT),
    **dict.fromkeys(("dtype", "products"), TEXT),
    "quantities": [TEXT],
    "timesteps": [NUMBER],
}
RUN = {
    **dict.fromkeys(("format", "checkpoint", "data", "function"), TEXT),
    "frozen": {"model": MODEL, "data": {"name": TEXT, "sha256": TEXT}, "plan": PLAN, "numerics": COUNT},
    "launches": [LAUNCH],
    "notes": [TEXT],
    "edges": [NUMBER],
}
EVALUATION = {
    **dict.fromkeys(("checkpoint", "name", "extractor", "extractor_sha256", "data", "data_sha256", "sha256"), TEXT),
    **dict.fromkeys(("weights", "parameterization", "device", "dtype"), TEXT),
    **dict.fromkeys(("schedule", "clock"), LONG),
    **dict.fromkeys(("n", "n_real", "features", "floor_n"), COUNT),
    **dict.fromkeys(("floor_fid", "floor_kid", "copy"), NUMBER),
    "versions": {None: TEXT},
    "command": [TEXT],
}
ARRAY = {
    **dict.fromkeys(("long_name", "units", "norm", "quantity", "confidence", "coordinates"), TEXT),
    "step": NUMBER,
    "modules": [TEXT],
}


def fit(value: Any, schema: Any, name: str = "") -> None:
    """Whether a value is made as a schema says: an object by its keys, a list by its items, else one of some types.

    Raises:
        ValueError: If not, with the name of what is not.
    """
    if isinstance(schema, tuple):
        if not isinstance(value, schema) or (isinstance(value, bool) and bool not in schema):
            raise ValueError(f"its attribute {name} is not {'a text' if str in schema else 'a number'}")
        if isinstance(value, str) and len(value) > LARGEST_TEXT[schema]:
            raise ValueError(f"its attribute {name} is a text of {len(value)} characters")
    elif not isinstance(value, type(schema)):
        raise ValueError(f"its attribute {name} is not {'a list' if isinstance(schema, list) else 'an object'}")
    elif isinstance(value, list):
        for item in value:
            fit(item, schema[0], name)
    else:
        for key, item in value.items():
            if (part := schema.get(key, schema.get(None))) is not None:
                fit(item, part, printable(f"{name}.{key:.60}").removeprefix("."))
