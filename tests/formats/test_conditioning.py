"""What stands for "no condition", against what diffusers does with it."""

import io
import struct

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import LabelEmbedding

from lipdiag.errors import UsageError
from lipdiag.formats.conditioning import blank, read_inputs


def test_no_class_is_the_row_that_diffusers_drops_labels_to():
    table = LabelEmbedding(10, 4, dropout_prob=1.0)
    dropped = table.token_drop(torch.tensor([3]))
    inputs, (note,) = blank("DiTTransformer2DModel", {"num_embeds_ada_norm": 10})
    assert inputs["class_labels"].tolist() == dropped.tolist() == [len(table.embedding_table.weight) - 1]
    assert "class_labels = 10" in note


def test_sdxl_is_told_a_whole_picture_of_its_own_size():
    """By the numbers of the published base model: size (1024, 1024), corner (0, 0), target (1024, 1024)."""
    config = {
        "sample_size": 128, "cross_attention_dim": 2048, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    inputs, _ = blank("UNet2DConditionModel", config)
    assert inputs["added_cond_kwargs/time_ids"].tolist() == [[1024, 1024, 0, 0, 1024, 1024]]
    assert inputs["added_cond_kwargs/text_embeds"].shape == (1, 1280)
    assert inputs["encoder_hidden_states"].shape == (1, 77, 2048)


def npz(arrays: dict[str, np.ndarray]) -> bytearray:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return bytearray(buffer.getvalue())


def changed(offset: int, value: int) -> bytearray:
    """The archive of one array with a number in its table of contents changed."""
    data = npz({"y": np.zeros((1, 4))})
    place = data.find(b"PK\x01\x02") + offset
    data[place : place + 4] = struct.pack("<I", value)
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed(8, 1), "encrypted"),
        (changed(24, 2**32 - 2), r"unpacks from \d+ bytes to 4294967294: save it as \.safetensors"),
        (npz({"y": np.zeros((1, 4))})[:-30], "cannot read the conditioning"),
        (npz({"y": np.array(["x"], dtype=object)}), "allow_pickle|Object arrays"),
    ],
    ids=["encrypted", "bomb", "cut", "objects"],
)
def test_an_array_file_of_a_stranger_is_refused_in_a_sentence(tmp_path, data, words):
    path = tmp_path / "x.npz"
    path.write_bytes(npz({"y": np.zeros((1, 4))}))
    assert read_inputs(path)["y"].shape == (1, 4)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as refusal:
        read_inputs(path)
    assert str(refusal.value).startswith(f"cannot read the conditioning {path}: ")
