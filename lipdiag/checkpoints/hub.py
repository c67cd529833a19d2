"""Models on the Hugging Face hub, from the local cache, or fetched into it where that is asked for.

The cache is huggingface_hub's. For each model it holds

models--owner--name/refs/main           the commit that a branch or tag stood at
models--owner--name/snapshots/COMMIT/   the files, as links

and is read here without that library: only `fetch` goes to the network.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import CheckpointError, LipdiagError, StorageError
from ..files import json_or_empty, open_regular, read_all, reason, shown
from ..formats.diffusers_directory import AVERAGED, PARTS, STEM, SUFFIXES
from ..hub import Name, parse

WEIGHTS = re.compile(r".*\.(safetensors|pt|pth|ckpt|bin|pkl)")
SHARD = re.compile(r"-\d{5}-of-(\d{5})")


def located(path: str | Path, download: bool = False) -> str | Path:
    """Where a checkpoint is on this machine: a model on the hub in the local cache, any other path as it is.

    Args:
        path: A path, the name of an embedded model, hf://owner/name[@revision][/subfolder], or a plain owner/name.
        download: Whether what the cache lacks is fetched.

    Raises:
        CheckpointError: If the cache has no such model, or a part of it, or it cannot be fetched.
        StorageError: If the cache may not be written.
    """
    name = parse(path)
    if name is None:
        return path
    if download:
        with suppress(CheckpointError):
            return cached(name)
        fetch(name)
    return cached(name)


def cache() -> Path:
    """The folder of huggingface_hub's cache."""
    told = os.environ.get
    above = told("HF_HOME") or os.path.join(told("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    place = told("HF_HUB_CACHE") or told("HUGGINGFACE_HUB_CACHE") or os.path.join(above, "hub")
    return Path(os.path.expandvars(place)).expanduser()


def cached(name: Name) -> Path:
    """The folder or file of a model in the cache.

    Raises:
        CheckpointError: If the model, the revision or a part of it is not there.
    """
    home = cache() / f"models--{name.owner}--{name.name}"
    commits = sorted(path.name for path in home.glob("snapshots/*"))
    revision = name.revision or "main"
    commit = commits_of(home, revision, commits)
    remedy = f"run `{download_command(name)}`, or add --download"
    if not commits:
        raise CheckpointError(f"there is no {name} in the cache {shown(cache())}, nor a path of that name: {remedy}")
    if commit is None:
        others = ", ".join(commit[:12] for commit in commits)
        raise CheckpointError(f"the cache has {name.model} at {others} and not at {shown(revision)}: {remedy}")
    place = home / "snapshots" / commit / name.inside
    if not place.exists():
        raise CheckpointError(f"the cached {name.model} at {commit[:12]} has no {shown(name.inside)}: {remedy}")
    lost = lacking(place)
    if lost is not None:
        raise CheckpointError(f"the cached {name.model} at {commit[:12]} is not whole, it lacks {lost}: {remedy}")
    return only_file(place)


def commits_of(home: Path, revision: str, commits: list[str]) -> str | None:
    """The commit in the cache that a branch, a tag, or the beginning of a commit stands for."""
    reference = home / "refs" / revision
    with suppress(LipdiagError, ValueError), open_regular(reference) as file:
        told = read_all(file, reference, 100).decode("ascii").strip()
        return told if told in commits else None
    begun = [commit for commit in commits if len(revision) >= 7 and commit.startswith(revision)]
    return begun[0] if len(begun) == 1 else None


def download_command(name: Name) -> str:
    """What fetches a model into the cache."""
    return f"hf download {name.model}" + (f" --revision {name.revision}" if name.revision else "")


def lacking(place: Path) -> str | None:
    """What a model in the cache lacks to be measured, in words; None where it is whole."""
    if place.is_file():
        return None
    told = [part for part in (*PARTS, "scheduler") if part in json_or_empty(place / "model_index.json")]
    for part in told:
        if not any(file.exists() for file in (place / part).glob("*.json")):
            return f"{part}/"
    parts = [place / part for part in PARTS if part in told or (place / part).is_dir()]
    for folder in parts or [place]:
        names = [file.name for file in folder.iterdir() if file.exists()]
        if not weights_among(names) and (parts or (folder / "config.json").exists() or not names):
            return "the weights" if folder == place else f"the weights of {folder.name}/"
    return None


def weights_among(names: Iterable[str]) -> list[str]:
    """The files, in one folder, of the weights that would be read: the first kind whose shards are all there."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        if WEIGHTS.fullmatch(name):
            kinds.setdefault(SHARD.sub("", name), []).append(name)
    whole = {
        kind: files for kind, files in kinds.items() if len(files) == int((SHARD.search(files[0]) or ["", "1"])[1])
    }
    best = next((f"{STEM}.{suffix}" for suffix in SUFFIXES if f"{STEM}.{suffix}" in whole), None)
    if best is None:
        safe = [kind for kind in whole if kind.endswith(".safetensors")]
        return [file for kind in safe or whole for file in whole[kind]]
    return whole[best]


def only_file(place: Path) -> Path:
    """The one file of weights in a folder that says nothing of them; any other place as it is."""
    if place.is_file() or (place / "config.json").exists() or (place / "model_index.json").exists():
        return place
    files = weights_among(file.name for file in place.iterdir())
    return place / files[0] if len(files) == 1 else place


def needed(names: list[str], name: Name) -> list[str]:
    """The files of a model on the hub that are wanted: of denoiser and scheduler the JSON, and one kind of weights.

    Raises:
        CheckpointError: If there is no such folder or file, or several files of weights and none is chosen.
    """
    root = f"{name.inside}/" if name.inside else ""
    if name.inside in names:
        return [name.inside]
    inside = [file.removeprefix(root) for file in names if file.startswith(root)]
    if not inside:
        raise CheckpointError(f"{name.model} on the hub has no {shown(name.inside)}: it has {', '.join(tops(names))}")
    part = next((part for part in PARTS if f"{part}/config.json" in inside), None)
    folders = ["", f"{part}/", f"{part}{AVERAGED}/"] if part else [""]
    wanted = [root + file for file in inside if re.fullmatch(r"(scheduler/)?[^/]+\.json", file)]
    for folder in folders[1:] or folders:
        here = [file.removeprefix(folder) for file in inside if file.startswith(folder)]
        flat = [file for file in here if "/" not in file]
        weights = weights_among(flat)
        kinds = {SHARD.sub("", file) for file in weights}
        if len(kinds) > 1:
            raise CheckpointError(
                f"{name.model} on the hub has {len(kinds)} files of weights: name one, such as "
                f"{name._replace(inside=root + folder + weights[0])}"
            )
        wanted += [root + folder + file for file in flat if file.endswith(".json") or file in weights]
    above = root.rstrip("/").rpartition("/")[0]
    beside = f"{above}/scheduler/" if above else "scheduler/"
    return sorted({*wanted, *(file for file in names if root and file.startswith(beside))})


def tops(names: list[str]) -> list[str]:
    """The files and folders at the top, a dozen at most."""
    return sorted({file.partition("/")[0] for file in names})[:12]


def fetch(name: Name) -> None:
    """Bring the files of a model that are needed from the hub into the cache, under huggingface_hub's bar.

    Raises:
        CheckpointError: If the hub does not have it, does not give it, or is not reached.
        StorageError: If the cache may not be written.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        listed = HfApi(endpoint=hub).model_info(name.model, revision=name.revision).siblings or []
        files = needed([file.rfilename for file in listed], name)
        snapshot_download(
            name.model, revision=name.revision, cache_dir=cache(), endpoint=hub, allow_patterns=[*map(literal, files)]
        )
    except LipdiagError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub gives {name.model} to those alone who accepted its terms: accept them at {hub}/{name.model}, log "
            "in by `hf auth login`, and try again"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{name.model} has no revision {shown(name.revision)} on the hub: give a branch, tag or commit that it has"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {name.model}, or it is private: check the spelling, or log in by `hf auth login`"
        ) from error
    except Exception as error:  # whatever the network and its libraries do
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            why = reason(error, cache())
            raise StorageError(
                f"cannot write the cache {shown(cache())}: {why}; set HF_HOME to a folder of yours"
            ) from error
        cause = shown(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise CheckpointError(
            f"cannot fetch {name.model} from {hub} ({cause}): check the network, or run `{download_command(name)}` "
            "where there is one and copy the cache"
        ) from error


def literal(file: str) -> str:
    """The pattern that matches one file alone."""
    return re.sub(r"([*?\[])", r"[\1]", file)
