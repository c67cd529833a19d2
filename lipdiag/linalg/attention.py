"""Forward mode of attention, in the memory of a few tiles.

Of o = p v with p = softmax(s), s = c q k' + mask, the tangent is

  do = dp v + p dv,   dp = p (ds - sum(p ds)),   ds = c (dq k' + q dk'),

rows of different queries and heads being independent. The fused kernels of torch have no forward mode, and p for a
whole batch is the largest thing in a transformer; so p is computed again for every tangent, tile by tile, each small
enough to stay in the cache of a processor. That is also faster than reading p from memory.
"""

import math
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .dual import unpacked, with_tangent

TILE = {"cpu": 2**18}  # scores in a tile: one megabyte in float32
LARGE_TILE = 2**25
NARROW = 16  # features, up to which a processor multiplies (queries, keys) by (keys, features) faster transposed


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """The rule of attention; like torch's, whose arguments it takes, except for the tangent."""
    attend: Any = functional.scaled_dot_product_attention
    values, tangents = map(list, zip(*map(unpacked, (query, key, value)), strict=True))
    mask_moves = unpacked(attn_mask)[1] is not None
    if all(dz is None for dz in tangents):
        return attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if mask_moves or dropout_p:  # torch's own rules, which only the unfused kernel has
        with sdpa_kernel(SDPBackend.MATH):
            return attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    y = attend(*values, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    c = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        values[1:] = (z.repeat_interleave(repeats, -3) for z in values[1:])
        tangents[1:] = (z if z is None else z.repeat_interleave(repeats, -3) for z in tangents[1:])
    dy = torch.ops.lipdiag.attention_tangent(*tangents, *values, attn_mask, is_causal, c, y.stride())
    return with_tangent(y, dy)


# An operator of its own, so that what records a pass sees one linear map and not its tiles. Defined by the plain means:
# torch.library.custom_op would load a compiler, for a second, with the first call.
torch.library.define(
    "lipdiag::attention_tangent",
    "(Tensor? dq, Tensor? dk, Tensor? dv, Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale,"
    " int[] stride) -> Tensor",
)


def attention_tangent(dq, dk, dv, q, k, v, mask, causal, scale, stride):
    """do of the formula above, for tensors (..., tokens, features); a tangent of None is zero.

    The result has the strides of o, as a tangent must, which fused kernels give to suit what follows.
    """
    leading = torch.broadcast_tensors(*(z[..., 0, 0] for z in (q, k, v)))[0].shape
    queries, keys = q.shape[-2], k.shape[-2]

    def flat(z):
        return None if z is None else z.expand(leading + z.shape[-2:]).reshape(-1, *z.shape[-2:])

    q, k, v, dq, dk, dv = (flat(z) for z in (q, k, v, dq, dk, dv))
    q, dq = q * scale, None if dq is None else dq * scale
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        mask = mask.expand(*leading, queries, keys)
    tile = TILE.get(q.device.type, LARGE_TILE)
    heads = max(1, tile // (queries * keys))
    rows = queries if heads > 1 else max(1, min(queries, tile // keys))
    do = v.new_zeros(len(q), queries, v.shape[-1])
    for i in range(0, len(q), heads):
        h = slice(i, i + heads)
        kt, dkt, vs, dvs = k[h].mT, None if dk is None else dk[h].mT, v[h], None if dv is None else dv[h]
        for j in range(0, queries, rows):
            r = slice(j, j + rows)
            qs = q[h, r]
            s = torch.bmm(qs, kt)
            if mask is not None:
                here = torch.unravel_index(torch.arange(i, i + len(s), device=s.device), leading) if leading else ()
                s += mask[(*here, r)]
            if causal:
                hidden = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu_(j + 1)
                s.masked_fill_(hidden, -math.inf)
            p = torch.softmax(s, -1)
            if mask is not None:
                p.nan_to_num_(nan=0.0)  # a query that sees no key gets zeros
            ds = None if dq is None else torch.bmm(dq[h, r], kt, out=s)
            if dkt is not None:
                ds = torch.bmm(qs, dkt, out=s) if ds is None else ds.baddbmm_(qs, dkt)
            if ds is not None:
                add_product(do[h, r], torch._softmax_backward_data(ds, p, -1, p.dtype), vs)
            if dvs is not None:
                add_product(do[h, r], p, dvs)
    do = do.view(*leading, queries, v.shape[-1])
    if do.stride() == tuple(stride):
        return do
    return torch.empty_strided(do.shape, stride, dtype=do.dtype, device=do.device).copy_(do)


torch.library.impl("lipdiag::attention_tangent", "CompositeExplicitAutograd", attention_tangent)


def add_product(out, weights, values):
    """Adds weights @ values to `out`."""
    if values.device.type == "cpu" and values.shape[-1] <= NARROW:
        out += torch.bmm(values.mT, weights.mT).mT
    else:
        out.baddbmm_(weights, values)
