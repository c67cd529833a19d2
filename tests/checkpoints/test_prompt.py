"""What a network is told of a text, against the text encoder's own output; skipped where transformers is not."""

import json
import sys
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.checkpoints.prompt import embeddings, encoder
from lipdiag.cli import main
from lipdiag.errors import CheckpointError, UsageError

VOCABULARY = ["l", "o", "w", "e", "r", "s", "t", "n", "lo", "w</w>", "r</w>", "low</w>", "er</w>", "<unk>"]
START, END, LENGTH = len(VOCABULARY), len(VOCABULARY) + 1, 77
LOW, ER = VOCABULARY.index("low</w>"), VOCABULARY.index("er</w>")
TIME = torch.tensor([0.3], dtype=torch.float64)


def unet(**changes):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4, attention_head_dim=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **{"cross_attention_dim": 16} | changes,
    ).eval()  # fmt: skip


def written(path, encoders, network):
    """A pipeline's folder with a network and text encoders, none of which is trained."""
    network.save_pretrained(path / "unet")
    diffusers.DDIMScheduler().save_pretrained(path / "scheduler")
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    for number, text in enumerate(encoders):
        ending = f"_{number + 1}" if number else ""
        text.save_pretrained(path / f"text_encoder{ending}")
        home = path / f"tokenizer{ending}"
        home.mkdir()
        names = [*VOCABULARY, "<|startoftext|>", "<|endoftext|>"]
        (home / "vocab.json").write_text(json.dumps({name: k for k, name in enumerate(names)}))
        (home / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\ne r</w>\n")
        told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "unk_token": "<|endoftext|>"}
        marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        (home / "tokenizer_config.json").write_text(json.dumps(told | marks))
    return path


def clip(kind="CLIPTextModel"):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY) + 2, hidden_size=16, intermediate_size=16, num_hidden_layers=2, projection_dim=12,
        num_attention_heads=2, bos_token_id=START, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def ids(*words):
    return torch.tensor([[START, *words, *[END] * (LENGTH - 1 - len(words))]])


@pytest.mark.parametrize(("prompt", "words"), [("low er", (LOW, ER)), ("", ())])
def test_a_network_is_told_what_its_text_encoder_makes_of_the_text(tmp_path, prompt, words):
    encoder, network = clip(), unet()
    path = written(tmp_path, [encoder], network)
    state = torch.get_rng_state()
    predictor = lipdiag.load(path, prompt=prompt)
    assert torch.equal(torch.get_rng_state(), state)
    x, k = torch.randn(2, 4, 8, 8), torch.tensor([300, 300])
    t = predictor.clock.time(k.double())
    with torch.no_grad():
        hidden = encoder(ids(*words)).last_hidden_state
        truth = network(x, k, hidden.expand(2, -1, -1)).sample
        torch.testing.assert_close(predictor(x, t), truth, atol=1e-5, rtol=1e-4)
    (note,) = [note for note in predictor.notes if "text encoder makes of" in note]
    assert repr(prompt) in note
    assert lipdiag.inspect(path / "unet", prompt=prompt).notes == predictor.notes
    (blank,) = lipdiag.inspect(path).notes
    assert '--prompt ""' in blank


def test_two_encoders_tell_sdxl_their_last_but_one_layers_and_a_pooled_vector(tmp_path):
    encoders = [clip(), clip("CLIPTextModelWithProjection")]
    network = unet(
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
    )  # fmt: skip
    predictor = lipdiag.load(written(tmp_path, encoders, network), prompt="low er")
    with torch.no_grad():
        said = [encoder(ids(LOW, ER), output_hidden_states=True) for encoder in encoders]
    found = predictor.conditioning
    hidden = torch.cat([of.hidden_states[-2] for of in said], -1)
    torch.testing.assert_close(found["encoder_hidden_states"], hidden, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["added_cond_kwargs/text_embeds"], said[1].text_embeds, atol=1e-5, rtol=1e-4)
    assert found["added_cond_kwargs/time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]]


def test_a_t5_tells_pixart_its_last_layer_and_which_words_are_none(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    encoder, path = transformers.T5EncoderModel(config).eval(), written(tmp_path, [], unet())
    vocabulary = ["<pad>", "</s>", "<unk>", "\u2581low", "\u2581", "er"]
    tokenizer = transformers.T5TokenizerFast(vocab=[(word, -float(k)) for k, word in enumerate(vocabulary)])
    encoder.save_pretrained(path / "text_encoder")
    tokenizer.save_pretrained(path / "tokenizer")
    told = tokenizer("low er", padding="max_length", max_length=120, return_tensors="pt")
    found = embeddings(path, "PixArtTransformer2DModel", {}, "low er")
    with torch.no_grad():
        torch.testing.assert_close(found["encoder_hidden_states"], encoder(**told)[0])
    assert found["encoder_attention_mask"].tolist() == told["attention_mask"].tolist()
    assert told["attention_mask"].sum() in range(2, 120)


def test_given_embeddings_come_before_those_of_the_text_and_encoders_of_strangers_are_refused(tmp_path):
    path = written(tmp_path, [clip()], unet())
    np.savez(tmp_path / "told.npz", encoder_hidden_states=np.ones((1, 3, 16), "f"))
    predictor = lipdiag.load(path, prompt="low", conditioning=tmp_path / "told.npz")
    assert predictor.conditioning["encoder_hidden_states"].shape == (1, 3, 16)
    config = json.loads((path / "text_encoder" / "config.json").read_text())
    (path / "text_encoder" / "config.json").write_text(json.dumps(config | {"architectures": ["Evil"]}))
    with pytest.raises(CheckpointError, match="holds a Evil, which is not among CLIPTextModel"):
        lipdiag.load(path, prompt="low")
    (path / "text_encoder" / "config.json").write_text(json.dumps(config))
    (path / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be used to encode the prompt"):
        lipdiag.load(path, prompt="low")


class Followed:
    """A class of transformers' that notes which files it could have followed."""

    seen = None

    def __init__(self, vocab_size=1):
        pass

    @classmethod
    def from_pretrained(cls, folder, config=None, **told):
        cls.seen = sorted(file.name for file in folder.iterdir())
        return SimpleNamespace(float=lambda: SimpleNamespace(eval=lambda: cls))


def test_transformers_sees_weights_and_words_and_nothing_that_leads_elsewhere(tmp_path, monkeypatch):
    network, words = type("Network", (Followed,), {"config_class": Followed}), type("Words", (Followed,), {})
    stub = SimpleNamespace(CLIPTextModel=network, CLIPTokenizer=words)
    monkeypatch.setitem(sys.modules, "transformers", stub)
    shards = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    files = {
        "text_encoder/config.json": {"architectures": ["CLIPTextModel"], "auto_map": {"AutoModel": "evil.Evil"}},
        "text_encoder/adapter_config.json": {"base_model_name_or_path": "/elsewhere", "megatron_core": "evil"},
        "text_encoder/model.safetensors.index.json": shards,
        "text_encoder/model-00001-of-00001.safetensors": {},
        "text_encoder/pytorch_model.bin": {},
        "text_encoder/evil.py": {},
        "tokenizer/vocab.json": {},
        "tokenizer/merges.txt": {},
        "tokenizer/config.json": {"auto_map": {"AutoTokenizer": "evil.Evil"}},
        "tokenizer/chat_template.jinja": {},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    encoder(tmp_path, "text_encoder")
    assert network.seen == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    assert words.seen == ["merges.txt", "vocab.json"]
    for outside in ("/tmp/evil.bin", "../evil.bin", "pytorch_model.bin"):
        shards["weight_map"]["b"] = outside
        (tmp_path / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(shards))
        with pytest.raises(CheckpointError, match="none beside it"):
            encoder(tmp_path, "text_encoder")


def test_an_adapter_beside_a_text_encoder_is_not_followed(tmp_path):
    path = written(tmp_path, [clip()], unet())
    plain = embeddings(path, "UNet2DConditionModel", {}, "low")["encoder_hidden_states"]
    told = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "none"), "target_modules": ["q_proj"]}
    (path / "text_encoder" / "adapter_config.json").write_text(json.dumps(told))
    assert torch.equal(embeddings(path, "UNet2DConditionModel", {}, "low")["encoder_hidden_states"], plain)


def test_refusals_say_what_to_do(tmp_path, monkeypatch):
    network = unet()
    path = written(tmp_path, [], network)
    with pytest.raises(UsageError, match=r"no folder text_encoder .* give the embeddings of the text by conditioning="):
        lipdiag.load(path, prompt="low")
    done = CliRunner().invoke(main, ["inspect", "digits-ddpm", "--prompt", "low"])
    assert done.exit_code == 2
    assert "the UNet2DModel in" in done.stderr
    assert "leave it out" in done.stderr
    (path / "text_encoder").mkdir()
    (path / "text_encoder" / "config.json").write_text("{}")
    monkeypatch.setattr("lipdiag.checkpoints.prompt.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install transformers, or give the embeddings .* by conditioning="):
        lipdiag.load(path, prompt="low")
    with pytest.raises(UsageError, match="leave prompt= out"):
        lipdiag.load(path, prompt="low", factory="torch:relu")
