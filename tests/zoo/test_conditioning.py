"""What stands for "no condition", against what diffusers does with it."""

import torch
from diffusers.models.embeddings import LabelEmbedding

from lipdiag.zoo.conditioning import blank


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
