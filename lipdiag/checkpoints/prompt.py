"""What a text is to a network: its embeddings, by the tokenizers and text encoders that lie in the model's folder.

They are made by transformers and by the `encode_prompt` of diffusers' own pipeline, which knows how long a text is cut
and which layer is taken. The classes are on a closed list, the weights safetensors, and nothing is fetched.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..errors import LipdiagError, UsageError
from ..files import read_json, shown
from ..formats.diffusers_directory import weight_map
from ..weights.refusal import refuse

HIDDEN, POOLED = "encoder_hidden_states", "pooled_projections"
TOKENIZERS = {
    "CLIPTextModel": "CLIPTokenizer",
    "CLIPTextModelWithProjection": "CLIPTokenizer",
    "T5EncoderModel": "T5TokenizerFast",
}
"""The tokenizer of each text encoder that is known."""

PIPELINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "UNet2DConditionModel": ("StableDiffusionPipeline", (HIDDEN, "")),
    "UNet2DConditionModel, text_time": ("StableDiffusionXLPipeline", (HIDDEN, "", "added_cond_kwargs/text_embeds", "")),
    "SD3Transformer2DModel": ("StableDiffusion3Pipeline", (HIDDEN, "", POOLED, "")),
    "FluxTransformer2DModel": ("FluxPipeline", (HIDDEN, POOLED, "txt_ids")),
    "PixArtTransformer2DModel": ("PixArtAlphaPipeline", (HIDDEN, "encoder_attention_mask", "", "")),
}
"""The pipeline of each network, and what its `encode_prompt` returns as the network calls it."""

WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json")
WORDS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "spiece.model",
)  # fmt: skip
LONGER = "PixArtSigmaPipeline"
"""The pipeline of the same network with longer texts."""


def embeddings(path: str | Path, network: str, config: Mapping[str, Any], prompt: str) -> dict[str, Tensor]:
    """The inputs of a network that tell it a text.

    Args:
        path: Of the pipeline, or of the network inside of it.
        network: Its class.
        config: The arguments of the class.
        prompt: The text; "" is the one that stands for none.

    Raises:
        UsageError: If the network is told no text, there is no text encoder, or transformers is not installed.
        CheckpointError: If an encoder is damaged or of a class that is not on the list.
    """
    added = config.get("addition_embed_type")
    name, outputs = PIPELINES.get(f"{network}, {added}" if added else network, (None, ()))
    if name is None:
        known = ", ".join(dict.fromkeys(known.partition(",")[0] for known in PIPELINES))
        raise UsageError(
            f"the {network} in {shown(path)} cannot be told a --prompt, which {known} can: leave it out, or give what "
            "the network is told by --conditioning"
        )
    home = next((p for p in (Path(path), Path(path).parent) if (p / "text_encoder" / "config.json").is_file()), None)
    if home is None:
        raise UsageError(
            f"there is no folder text_encoder in {shown(path)} for the --prompt: give the embeddings of the text by "
            "--conditioning"
        )
    if find_spec("transformers") is None:
        raise UsageError(
            "a --prompt is encoded by transformers, which is not installed: pip install transformers, or give the "
            "embeddings of the text by --conditioning"
        )
    stated = read_json(home / "model_index.json").get("_class_name") if (home / "model_index.json").is_file() else None
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return encoded(home, LONGER if stated == LONGER else name, outputs, prompt)
    except LipdiagError:
        raise
    except Exception as error:  # a stranger's files can fail in any way
        refuse(home / "text_encoder", f"cannot be used to encode the prompt ({type(error).__name__}: {shown(error)})")


def encoded(home: Path, name: str, outputs: tuple[str, ...], prompt: str) -> dict[str, Tensor]:
    """What the pipeline of that name in diffusers makes of a text, with the encoders in a folder and nothing else."""
    diffusers: Any = importlib.import_module("diffusers")
    pipeline = getattr(diffusers, name)
    places = [f"text_encoder{number}" for number in ("", "_2", "_3")]
    parts = {}
    for place in (place for place in places if (home / place / "config.json").is_file()):
        parts[place], parts[place.replace("text_encoder", "tokenizer")] = encoder(home, place)
    needed = [key for key, p in inspect.signature(pipeline.__init__).parameters.items() if p.default is p.empty]
    quiet = {"requires_safety_checker": False} if "safety_checker" in needed else {}
    made = pipeline(**{key: parts.get(key) for key in needed if key != "self"}, **quiet)
    told = {"prompt": prompt, "device": torch.device("cpu"), "num_images_per_prompt": 1}
    told |= {"do_classifier_free_guidance": False, "prompt_2": None, "prompt_3": None}
    taken = inspect.signature(made.encode_prompt).parameters
    tensors = made.encode_prompt(**{key: value for key, value in told.items() if key in taken})
    return {key: value.float() for key, value in zip(outputs, tensors, strict=True) if key}


def encoder(home: Path, place: str) -> tuple[Any, Any]:
    """A text encoder, in float32 on the CPU, and its tokenizer."""
    folder, transformers = home / place, importlib.import_module("transformers")
    config = read_json(folder / "config.json")
    (kind,) = config.get("architectures") or ["nothing"]
    if kind not in TOKENIZERS:
        refuse(folder, f"holds a {shown(kind)}, which is not among {', '.join(TOKENIZERS)}: use --conditioning")
    made = getattr(transformers, kind)
    # what a config may also name is code on a hub, quantized kernels and other implementations
    known = {name: config[name] for name in set(inspect.signature(made.config_class).parameters) & set(config)}
    halves = [kind for kind in ("fp16", "bf16") if any(folder.glob(f"model.{kind}*.safetensors"))]
    variant = None if (folder / "model.safetensors").is_file() else next(iter(halves), None)
    told = {"config": made.config_class(**known), "variant": variant, "use_safetensors": True}
    with alone(folder, WEIGHTS) as closed:
        network = made.from_pretrained(closed, **told, local_files_only=True, trust_remote_code=False)
    with alone(home / place.replace("text_encoder", "tokenizer"), WORDS) as closed:
        tokenizer = getattr(transformers, TOKENIZERS[kind])
        return network.float().eval(), tokenizer.from_pretrained(closed, local_files_only=True, trust_remote_code=False)


@contextmanager
def alone(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """A folder that shows the wanted files of another one and no more.

    transformers follows whatever else it knows of in a folder: an adapter's config there leads it to another model, and
    through the adapter's library to modules by name.
    """
    with TemporaryDirectory() as closed:
        names = {file.name: file for pattern in patterns for file in folder.glob(pattern)}
        for name, file in names.items():
            (Path(closed) / name).symlink_to(file.resolve())
            shards = weight_map(file).values() if name.endswith(".index.json") else ()
            if outside := set(shards) - set(names):
                refuse(file, f"names the weights {shown(min(outside))}, which are none beside it: download it again")
        yield Path(closed)
