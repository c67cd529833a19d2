"""Forward mode of attention, tile by tile.

Of o = p v with p = softmax(s), s = c q k' + mask, the tangent is

  do = (p ds) v + p dv - sum(p ds) o,   ds = c (dq k' + q dk') = c [dq q] [k dk]',

rows of different queries and heads being independent. The fused kernels of torch have no forward mode. A tangent takes
four products of the size of the two that o takes; p, the largest thing in a transformer, is computed again for each
tile, small enough to stay in the cache of a processor, which takes a fifth product and the exponentials. A recorded
tangent, which is computed many times, keeps p where it has room for it.

Where keys are many and features few, the queries of a tile are next to each other in memory: a processor multiplies
from this side up to 1.6 times as fast. Tiles that are kept lie one after another.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .dual import unpacked, with_tangent

TILE = {"cpu": 2**18}  # scores in a tile: one megabyte in float32
LARGE_TILE = 2**25
KEPT = ContextVar("KEPT", default=2**30)  # numbers of p that a recording may keep for each sample: 4 GiB in float32


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
    dy = torch.ops.lipdiag.attention_tangent(*tangents, *values, attn_mask, is_causal, c, y)
    return with_tangent(y, dy)


# An operator of its own, so that what records a pass sees one linear map and not its tiles. Defined by the plain means:
# torch.library.custom_op would load a compiler, for a second, with the first call.
torch.library.define(
    "lipdiag::attention_tangent",
    "(Tensor? dq, Tensor? dk, Tensor? dv, Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale,"
    " Tensor o, Tensor? p=None) -> Tensor",
)


def attention_tangent(dq, dk, dv, q, k, v, mask, causal, scale, o, p=None):
    """do of the formula above, for tensors (..., tokens, features); a tangent of None is zero.

    The result has the strides of o, as a tangent must, which fused kernels give to suit what follows. Where p is given,
    by `probabilities`, it is not computed again.
    """
    if p is None and mask is None and not causal and small(dq, dk, dv, q, k, v):
        return strided(small_tangent(dq, dk, dv, q, k, v, scale), o.stride())
    leading = shared(q, k, v)
    q, k, v, dq, dk, dv = (None if z is None else flat(z, leading) for z in (q, k, v, dq, dk, dv))
    factors = [(a, b) for a, b in ((dq, k), (q, dk)) if a is not None and b is not None]
    if turned(q, k) and len(factors) > 1:
        factors = [(torch.cat((dq, q), -1), torch.cat((k, dk), -1))]
    do = tile((*q.shape[:2], v.shape[-1]), q, k).zero_()
    sums = do.new_zeros(*do.shape[:2], 1)
    for h, r, weights, ds in computed(q, k, mask, causal, scale, leading) if p is None else stored(p, q, k):
        for i, (a, b) in enumerate(factors):
            add_product(ds, a[h, r], b[h].mT, beta=int(i > 0), alpha=scale)
        if factors:
            ds *= weights
            add_product(do[h, r], ds, v[h])
            sums[h, r] = ds.sum(-1, keepdim=True)
        if dv is not None:
            add_product(do[h, r], weights, dv[h])
    result = strided(do.view(o.shape), o.stride())
    return result.addcmul_(sums.view(*leading, *sums.shape[1:]), o, value=-1) if factors else result


torch.library.impl("lipdiag::attention_tangent", "CompositeExplicitAutograd", attention_tangent)


def small(*tensors):
    """Whether they are all there and of one shape, with few scores and not many more of them than features."""
    q = tensors[-1]
    tokens, features = q.shape[-2:]
    few = q.numel() // features * tokens <= TILE.get("cpu", 0) and tokens <= 4 * features
    return few and all(z is not None and z.shape == q.shape for z in tensors)


def small_tangent(dq, dk, dv, q, k, v, scale):
    """do in a third of the operations: where there are few scores, each takes longer to start than to compute."""
    shape = q.shape
    dq, dk, dv, q, k, v = torch.stack((dq, dk, dv, q, k, v)).view(6, -1, *shape[-2:])
    p = torch.softmax(torch.bmm(q, k.mT).mul_(scale), -1)
    ds = torch.bmm(dq, k.mT).baddbmm_(q, dk.mT, beta=scale, alpha=scale)
    return torch.bmm(torch._softmax_backward_data(ds, p, -1, p.dtype), v).baddbmm_(p, dv).view(shape)


def strided(z, stride):
    """z with these strides."""
    return z if z.stride() == tuple(stride) else z.new_empty_strided(z.shape, stride).copy_(z)


def probabilities(q, k, v, mask, causal, scale):
    """p for all queries, tile after tile, as `attention_tangent` takes it."""
    leading = shared(q, k, v)
    q, k = flat(q, leading), flat(k, leading)
    p = q.new_empty(len(q) * q.shape[1] * k.shape[1])
    for kept, found in zip(stored(p, q, k), computed(q, k, mask, causal, scale, leading), strict=True):
        kept[2].copy_(found[2])
    return p


def shared(*tensors):
    """The leading axes that (..., tokens, features) have in common."""
    return torch.broadcast_tensors(*(z[..., 0, 0] for z in tensors))[0].shape


def flat(z, leading):
    """(..., tokens, features) with its leading axes made one."""
    return z.expand(leading + z.shape[-2:]).reshape(-1, *z.shape[-2:])


@contextmanager
def keeping(numbers: int) -> Iterator[None]:
    """A context in which a recording keeps so many numbers of p for each sample, and no more."""
    before = KEPT.set(numbers)
    try:
        yield
    finally:
        KEPT.reset(before)


Tile = tuple[slice, slice, torch.Tensor, torch.Tensor]
"""Heads, queries, their p for all keys, and as much memory to compute in."""


def stored(p, q, k) -> Iterator[Tile]:
    """The tiles of p from where they are kept."""
    free = None
    for h, r, shape in tiles(q, k):
        free = tile(shape, q, k, free)
        yield h, r, tile(shape, q, k, p[: free.numel()]), free
        p = p[free.numel() :]


def computed(q, k, mask, causal, scale, leading) -> Iterator[Tile]:
    """The tiles of p from their scores."""
    s = p = None
    if mask is not None:
        added = mask if mask.dtype != torch.bool else q.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)
        added = added.expand(*leading, q.shape[1], k.shape[1])
    for h, r, shape in tiles(q, k):
        s, p = tile(shape, q, k, s), tile(shape, q, k, p)
        add_product(s, q[h, r], k[h].mT, beta=0, alpha=scale)
        if mask is not None:
            head = torch.arange(h.start, h.stop, device=s.device)
            s += added[(*(torch.unravel_index(head, leading) if leading else ()), r)]
        if causal:
            s.masked_fill_(torch.ones(shape[1:], dtype=torch.bool, device=s.device).triu_(r.start + 1), -math.inf)
        torch.softmax(s.mT, -2, out=p.mT) if turned(q, k) else torch.softmax(s, -1, out=p)
        yield h, r, p if mask is None else p.nan_to_num_(nan=0.0), s  # a query that sees no key gets zeros


def tiles(q, k) -> Iterator[tuple[slice, slice, tuple[int, int, int]]]:
    """Heads and queries of each tile, and its shape."""
    heads, queries, keys = len(q), q.shape[1], k.shape[1]
    size = TILE.get(q.device.type, LARGE_TILE)
    many = max(1, size // (queries * keys))
    rows = queries if many > 1 else max(1, min(queries, size // keys))
    for i in range(0, heads, many):
        for j in range(0, queries, rows):
            h, r = min(i + many, heads), min(j + rows, queries)
            yield slice(i, h), slice(j, r), (h - i, r - j, keys)


def turned(q, k) -> bool:
    """Whether a tile's queries are next to each other in memory, and not its keys."""
    return q.device.type == "cpu" and k.shape[1] >= q.shape[-1] ** 2 / 2


def tile(shape, q, k, numbers=None):
    """Numbers for each (head, query, key) or (head, query, feature): these, in a row or a tile, or new ones."""
    if numbers is None or (numbers.ndim > 1 and numbers.shape != shape):
        numbers = q.new_empty(math.prod(shape))
    if numbers.ndim > 1:
        return numbers
    heads, rows, columns = shape
    return numbers.view(heads, columns, rows).mT if turned(q, k) else numbers.view(shape)


def add_product(out, a, b, **factors):
    """out + a b in the place of out, as it lies in memory."""
    if out.stride(-1) == 1:
        out.baddbmm_(a, b, **factors)
    else:
        out.mT.baddbmm_(b.mT, a.mT, **factors)
