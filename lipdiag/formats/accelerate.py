"""Folders that accelerate's save_state writes: weights without a description, beside what a training needs to go on.

model.safetensors           or pytorch_model.bin; model_1.safetensors where there is a second model
custom_checkpoint_0.pkl     an object that was registered, such as averages
optimizer.bin, scheduler.bin, random_states_0.pkl

The weights are read, and the objects that were registered, as far as they hold tensors; nothing else is opened.
"""

from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import shown
from ..weights.averages import averages
from ..weights.refusal import refuse
from ..weights.tensors import read_tensors

MODELS = ("model.safetensors", "pytorch_model.bin")
SIGNS = ("optimizer*.bin", "scheduler*.bin", "random_states_*.pkl", "custom_checkpoint_*.pkl", "scaler.pt")


def recognizes(path: Path) -> bool:
    """Whether this is such a folder, judged by the names in it."""
    bare = path.is_dir() and not (path / "config.json").exists() and not (path / "model_index.json").exists()
    return bare and any(file.match(pattern) for file in path.iterdir() for pattern in SIGNS)


def weights_file(path: Path) -> Path:
    """The file of the one model in such a folder.

    Raises:
        CheckpointError: If there is none, or more than one.
    """
    files = [path / name for name in MODELS if (path / name).exists()]
    others = [*path.glob("model_*.safetensors"), *path.glob("pytorch_model_*.bin")]
    if others:
        refuse(
            path, f"is accelerate's folder of {1 + len(others)} models: give the file of one, such as {others[0].name}"
        )
    if not files:
        refuse(
            path,
            f"is a folder of accelerate's without {' or '.join(MODELS)}: give the folder or the file that holds the "
            "weights in one piece, as accelerator.save_model(model, folder) writes them",
        )
    return files[0]


def read(path: Path, weights: str) -> dict[str, Any]:
    """The weights, and where averages are asked for, those among the objects that were registered.

    Raises:
        CheckpointError: If a file is damaged, or an object that was registered cannot be read.
    """
    file = weights_file(path)
    content: dict[str, Any] = {"model": read_tensors(file)}
    for other in sorted(path.glob("custom_checkpoint_*.pkl")) if weights == "ema" else ():
        try:
            content[f"ema of {other.stem}"] = read_tensors(other)
        except CheckpointError as error:
            refuse(
                path,
                f"has beside its weights {shown(other.name)}, which may hold averages and cannot be read: give "
                f"{file.name} itself, or ask for --weights raw",
                error,
            )
    if file.suffix == ".safetensors" and any(isinstance(average, list) for _, average in averages(content)):
        refuse(
            path,
            f"holds averages as a list in the order of the parameters, which {file.name} does not keep: save the "
            "averages under their names, or ask for --weights raw",
        )
    return content
