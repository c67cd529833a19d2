"""Forward mode of attention, tile by tile.

Of o = p v with p = softmax(s), s = c q k' + mask, the tangent is

  do = dp v + p dv,   dp = p (ds - sum(p ds)),   ds = c (dq k' + q dk'),

rows of different queries and heads being independent. The fused kernels of torch have no forward mode. A tangent takes
four products of the size of the two that o takes; p, the largest thing in a transformer, is computed again for each
tile, small enough to stay in the cache of a processor, which takes a fifth product and the exponentials. A recorded
tangent, which is computed many times, keeps p where it has room for it.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .dual import unpacked, with_tangent

TILE = {"cpu": 2**18}  # scores in a tile: one megabyte in float32
LARGE_TILE = 2**25
KEPT = 2**30  # numbers of p that a recording may keep for each sample: four gigabytes in float32
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
    " int[] stride, Tensor? p=None) -> Tensor",
)


def attention_tangent(dq, dk, dv, q, k, v, mask, causal, scale, stride, p=None):
    """do of the formula above, for tensors (..., tokens, features); a tangent of None is zero.

    The result has the strides of o, as a tangent must, which fused kernels give to suit what follows. Where p is given,
    by `probabilities`, it is not computed again.
    """
    leading = shared(q, k, v)
    q, k, v, dq, dk, dv = (flat(z, leading) for z in (q, k, v, dq, dk, dv))
    q, dq = q * scale, None if dq is None else dq * scale
    hidden = None if p is not None else additive(mask, q)
    do, s = v.new_zeros(len(q), q.shape[1], v.shape[-1]), None
    for h, r in tiles(len(q), q.shape[1], k.shape[1], q.device):
        s = room(s, q[h, r], k)
        weights = p[h, r] if p is not None else softmax(scores(q, k, hidden, causal, leading, h, r, s), mask)
        ds = None if dq is None else torch.bmm(dq[h, r], k[h].mT, out=s)
        if dk is not None:
            ds = torch.bmm(q[h, r], dk[h].mT, out=s) if ds is None else ds.baddbmm_(q[h, r], dk[h].mT)
        if ds is not None:
            add_product(do[h, r], softmax_tangent(ds, weights), v[h])
        if dv is not None:
            add_product(do[h, r], weights, dv[h])
    do = do.view(*leading, *do.shape[1:])
    if do.stride() == tuple(stride):
        return do
    return torch.empty_strided(do.shape, stride, dtype=do.dtype, device=do.device).copy_(do)


torch.library.impl("lipdiag::attention_tangent", "CompositeExplicitAutograd", attention_tangent)


def probabilities(q, k, v, mask, causal, scale):
    """p for all queries, as `attention_tangent` takes it."""
    leading = shared(q, k, v)
    q, k = flat(q, leading) * scale, flat(k, leading)
    hidden, p, s = additive(mask, q), q.new_empty(len(q), q.shape[1], k.shape[1]), None
    for h, r in tiles(len(q), q.shape[1], k.shape[1], q.device):
        s = room(s, q[h, r], k)
        p[h, r] = softmax(scores(q, k, hidden, causal, leading, h, r, s), mask)
    return p


def shared(*tensors):
    """The leading axes that (..., tokens, features) have in common."""
    return torch.broadcast_tensors(*(z[..., 0, 0] for z in tensors))[0].shape


def flat(z, leading):
    """(..., tokens, features) with its leading axes made one; None stays None."""
    return None if z is None else z.expand(leading + z.shape[-2:]).reshape(-1, *z.shape[-2:])


def tiles(heads, queries, keys, device) -> Iterator[tuple[slice, slice]]:
    """Heads and queries of each tile."""
    tile = TILE.get(device.type, LARGE_TILE)
    many = max(1, tile // (queries * keys))
    rows = queries if many > 1 else max(1, min(queries, tile // keys))
    for i in range(0, heads, many):
        for j in range(0, queries, rows):
            yield slice(i, i + many), slice(j, j + rows)


def room(s, q, k):
    """Memory for the scores of a tile: that of the last one, or new where it has another shape."""
    return s if s is not None and s.shape[:2] == q.shape[:2] else q.new_empty(*q.shape[:2], k.shape[1])


def additive(mask, q):
    """A mask as it is added to scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -math.inf)


def scores(q, k, mask, causal, leading, h: slice, r: slice, out):
    """s for the queries of a tile, which are scaled already."""
    s = torch.bmm(q[h, r], k[h].mT, out=out)
    if mask is not None:
        head = torch.arange(h.start, h.start + len(s), device=s.device)
        here = torch.unravel_index(head, leading) if leading else ()
        s += mask.expand(*leading, q.shape[1], k.shape[1])[(*here, r)]
    if causal:
        hidden = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu_(r.start + 1)
        s.masked_fill_(hidden, -math.inf)
    return s


def softmax(s, mask):
    """p of such scores."""
    p = torch.softmax(s, -1)
    return p if mask is None else p.nan_to_num_(nan=0.0)  # a query that sees no key gets zeros


def softmax_tangent(ds, p):
    """p (ds - sum(p ds)); on a processor in the memory of ds, which is in its cache."""
    if ds.device.type != "cpu":
        return torch._softmax_backward_data(ds, p, -1, p.dtype)
    ds *= p
    return ds.addcmul_(p, ds.sum(-1, keepdim=True), value=-1)


def add_product(out, weights, values):
    """Adds weights @ values to `out`."""
    if values.device.type == "cpu" and values.shape[-1] <= NARROW:
        out += torch.bmm(values.mT, weights.mT).mT
    else:
        out.baddbmm_(weights, values)
