"""Tiny networks of the kinds that are measured, with random weights: f(x, t) and where to linearize it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Network(NamedTuple):
    """A function of (x, t) and the shape of its x."""

    make: Callable[[], tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]
    shape: tuple[int, ...]


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unet(attention: bool):
    from diffusers import UNet2DModel

    kind = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    network = UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", kind[0]),
        up_block_types=(kind[1], "UpBlock2D"),
        add_attention=attention,
    )
    return network, lambda x, t: network(x, t.to(x.dtype)).sample


def conditional_unet():
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=6,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )

    def f(x, t):
        text = randn(1, 5, 6).to(x).expand(len(x), -1, -1)
        return network(x, t.to(x.dtype), encoder_hidden_states=text).sample

    return network, f


def dit():
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=2,
        out_channels=2,
        num_layers=2,
        norm_num_groups=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    )

    def f(x, t):
        labels = torch.arange(len(x), device=x.device)
        return network(x, timestep=t.to(x.dtype), class_labels=labels).sample

    return network, f


def sd3():
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=2,
        out_channels=2,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=8,
        pooled_projection_dim=6,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )

    def f(x, t):
        text, pooled = randn(1, 5, 6).to(x).expand(len(x), -1, -1), randn(1, 6, seed=2).to(x).expand(len(x), -1)
        t = t.to(x.dtype)
        return network(x, encoder_hidden_states=text, pooled_projections=pooled, timestep=t).sample

    return network, f


def flux():
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        pooled_projection_dim=6,
        guidance_embeds=False,
        axes_dims_rope=(2, 2, 4),
    )

    def f(x, t):
        text, pooled = randn(1, 5, 6).to(x).expand(len(x), -1, -1), randn(1, 6, seed=2).to(x).expand(len(x), -1)
        image_ids = torch.stack([torch.zeros(9), torch.arange(9) // 3, torch.arange(9) % 3], dim=-1).to(x)
        return network(
            x,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=t.to(x.dtype) / 1000,
            img_ids=image_ids,
            txt_ids=torch.zeros(5, 3).to(x),
        ).sample

    return network, f


class Layers(nn.Module):
    """Layers that the networks above do not have: strided and transposed convolutions, torch's own attention."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(2, 8, 3, stride=2, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.embed = nn.Linear(1, 8)
        self.up = nn.ConvTranspose2d(8, 2, 4, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x, t):
        h = self.act(self.norm(self.down(x)))
        h = h + torch.tanh(self.embed(t[:, None].to(x.dtype) / 1000))[:, :, None, None]
        tokens = h.flatten(2).mT
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.up(self.mix(tokens).mT.unflatten(2, h.shape[2:]))


def layers():
    network = Layers()
    return network, network


NETWORKS = {
    "UNet2DModel": Network(lambda: unet(attention=False), (2, 8, 8)),
    "UNet2DModel with attention": Network(lambda: unet(attention=True), (2, 8, 8)),
    "UNet2DConditionModel": Network(conditional_unet, (2, 8, 8)),
    "DiTTransformer2DModel": Network(dit, (2, 8, 8)),
    "SD3Transformer2DModel": Network(sd3, (2, 8, 8)),
    "FluxTransformer2DModel": Network(flux, (9, 4)),
    "layers": Network(layers, (2, 8, 8)),
}


def made(name: str, dtype: torch.dtype = torch.float64, device="cpu"):
    """f, a batch of x, and their times; weights are random, those that start as zeros too."""
    torch.manual_seed(0)
    network, f = NETWORKS[name].make()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    network.eval().to(device, dtype)
    x = randn(3, *NETWORKS[name].shape, seed=3).to(device, dtype)
    return f, x, torch.tensor([3.0, 250.0, 900.0], dtype=torch.float64, device=device)
