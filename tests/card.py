"""A card that is only pretended: its tensors' numbers lie on the processor, yet they refuse to be mixed with its own.

What a program would do wrong on an accelerator shows here without one: operations that mix devices, and numbers that
are read while the accelerator works. Nothing of its speed, memory or rounding does.
"""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from lipdiag.linalg import attention

NAME = "card"
aten = torch.ops.aten

MIXING = {aten._to_copy, aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Operations that take tensors of the processor beside the card's: copies, and indices by lists of places."""

WAITED_FOR = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten._unique2}
"""Operations whose answer, or its shape, the processor goes on with."""

reads: Counter[str] = Counter()
"""How often numbers of the card were waited for, by operation; copies to the processor too."""


class Module(_DummyBackendModule):
    """What torch asks of a device's module."""

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, Module())
CARD = torch.device(NAME, 0)


class Generator(torch.Generator):
    """A generator of the processor, whatever the device."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        return super().__new__(cls, "cpu" if torch.device(device).type == NAME else device)


torch.Generator = Generator  # type: ignore[misc]


class OnCard(Tensor):
    """A tensor of the card.

    Attributes:
        held: Its numbers.
    """

    held: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CARD,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return carried_out(func, *args, **(kwargs or {}))

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({self.held})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, numbers: Tensor) -> None:
        torch.utils.swap_tensors(self, nn.Parameter(numbers, self.requires_grad))

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> "OnCard":
        return OnCard(inner["held"])


def carried_out(func, *args, **kwargs):
    """An operation of the card's tensors, or one that makes them, done by the processor."""
    if func.namespace == "lipdiag":  # of many operations, each of them done here
        return getattr(attention, func.overloadpacket.__name__)(*args, **kwargs)
    packet, flat, spec = func.overloadpacket, *pytree.tree_flatten((args, kwargs))
    given = [z for z in flat if isinstance(z, Tensor)]
    strange = [z.device for z in given if not isinstance(z, OnCard) and z.dim()]
    if strange and packet not in MIXING and any(isinstance(z, OnCard) for z in given):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got one on {strange[0]} too")
    if packet is aten._efficientzerotensor:
        return OnCard(torch.zeros(args[0], dtype=kwargs.get("dtype")))
    leaves = kwargs.get("device", CARD) not in (None, CARD, torch.device(NAME))
    leaves |= packet is aten.copy_ and not isinstance(args[0], OnCard)
    if leaves or packet in WAITED_FOR:
        reads[str(packet)] += 1
    inside_args, inside_kwargs = pytree.tree_unflatten([_held(z) for z in flat], spec)
    out = func(*inside_args, **inside_kwargs)
    if packet is aten.set_:
        return OnCard(out)
    if leaves:
        return args[0] if packet is aten.copy_ else out
    return return_and_correct_aliasing(func, args, kwargs, pytree.tree_map_only(Tensor, OnCard, out))


def _held(z: Any) -> Any:
    if isinstance(z, torch.device) and z.type == NAME:
        return torch.device("cpu")
    return z.held if isinstance(z, OnCard) else z


# Operations that make tensors reach these past all subclasses.
everything = torch.library.Library("_", "IMPL")
everything.fallback(carried_out, "PrivateUse1")
some = torch.library.Library("aten", "IMPL")  # which torch.tensor calls where a fallback is not told what is called
for func in (aten._to_copy.default, aten.copy_.default, aten.empty.memory_format, aten.empty_strided.default):
    some.impl(func, partial(carried_out, func), "PrivateUse1")
