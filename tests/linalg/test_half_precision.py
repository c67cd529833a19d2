"""Weights kept in half precision, next to the same network with the widened ones."""

import copy
import gc

import pytest
import torch
from torch import nn

from lipdiag.design.description import digest
from lipdiag.linalg import half_precision
from lipdiag.linalg.half_precision import HalfPrecision, bytes_of, in_half_precision, widened
from lipdiag.linalg.linearize import linearize
from lipdiag.linalg.products import PRODUCTS, with_products
from lipdiag.study.memory import Held
from tests.linalg.networks import NETWORKS, randn

KINDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def rounded_to(module, dtype):
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_((weight + 0.05 * torch.randn(weight.shape)).to(dtype))
    return module.float().eval().requires_grad_(False)


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["UNet2DConditionModel", "DiTTransformer2DModel", "layers"])
def test_everything_is_bit_for_bit_that_of_the_widened_network(name, kind, device, monkeypatch):
    """Values, forward products in space and time, recorded and not, reverse ones, and both kinds of fast ones."""
    monkeypatch.setattr(half_precision, "LEAST", 64)
    torch.manual_seed(0)
    network, f = NETWORKS[name].make()
    rounded_to(network, KINDS[kind]).to(device)
    x, v = (randn(2, *NETWORKS[name].shape, seed=seed).float().to(device) for seed in (3, 5))
    t = torch.tensor([3.0, 900.0], dtype=torch.float64, device=device)

    def numbers():
        found = []
        for record in (True, False):
            here = linearize(f, x, t, record=record)
            found += [here.output, here.jvp(v), here.jvp(v, torch.ones_like(t)), here.vjp(v), here.vjp(2 * v)]
            assert here.method == "forward mode"
            assert here.recorded == record
        for products in PRODUCTS:
            A = with_products(here.jacobian, products)
            found += [A.mv(v.flatten(1)), A.vm(v.flatten(1))]
        return found

    before = numbers()
    with in_half_precision(network) as count:
        assert count > 5
        narrow = [weight for weight in network.parameters() if isinstance(weight, HalfPrecision)]
        assert {weight.numbers.dtype for weight in narrow} == {KINDS[kind]}
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}  # that networks cast their time to
        for a, b in zip(before, numbers(), strict=True):
            assert torch.equal(a, b)


def layers(width=256, depth=3):
    torch.manual_seed(0)
    network = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(width, width, bias=False), nn.Tanh())])
    return rounded_to(network, torch.bfloat16)


@pytest.mark.real
def test_recordings_and_graphs_hold_no_widened_weight(device):
    """Of 3 x 256 kB; what is held after a product of each kind are vectors, and at the peak one weight beside them."""
    network, x = layers().to(device), torch.randn(2, 256, device=device)
    narrow = bytes_of(network)
    assert narrow == 3 * 256 * 256 * 4
    with in_half_precision(network):
        assert bytes_of(network) == 3 * 256 * 256 * 2 + 256 * 256 * 4
        here = linearize(network, x)
        with Held() as held:
            assert here.recorded
            here.vjp(here.jvp(x))
            gc.collect()
            assert held.now < 100_000


@pytest.mark.real
@pytest.mark.parametrize(("narrow", "products"), [(False, 3 * 3), (True, 3 * 2)])
def test_a_weight_without_a_low_part_takes_two_products_for_three(narrow, products, device):
    network, x = layers().to(device), torch.randn(2, 256, device=device)
    seen = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with in_half_precision(network if narrow else nn.Module()):
        A = linearize(network, x).jacobian
        exact, fast = A.mv(x), with_products(A, "3xtf32")
        with Count():
            found = fast.mv(x)
    assert sum(packet in (torch.ops.aten.mm, torch.ops.aten.addmm) for packet in seen) == products
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_afterwards_all_is_as_it_was():
    """The same parameters with the same bits, one that two layers share and one that is no half number too."""
    network = layers()
    network[2].weight = network[0].weight
    network[4].weight.data[0, 0] = 1 + 2.0**-20
    weights, values = list(network.parameters()), [weight.clone() for weight in network.parameters()]
    whole, told = digest(network.state_dict()), repr(network)
    with in_half_precision(network) as count:
        assert count == 1
        assert network[2].weight is network[0].weight
        assert isinstance(network[0].weight, HalfPrecision)
        assert not isinstance(network[4].weight, HalfPrecision)
        assert digest(network.state_dict()) == whole
        assert torch.equal(copy.deepcopy(network).double()[0].weight, values[0].double())
        assert network[0].weight.to("meta").numbers.dtype == torch.bfloat16
        network.to("cpu", torch.float32)
        assert isinstance(network[0].weight, HalfPrecision)
        with in_half_precision(network) as more:
            assert more == 0
    assert repr(network) == told
    assert all(a is b for a, b in zip(network.parameters(), weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), values, strict=True))


def test_a_module_that_is_moved_takes_its_numbers_along():
    """Torch puts what lies on a card into the parameter that was there: its numbers too, and those that are shared."""
    network = layers()
    network[2].weight = network[0].weight
    with in_half_precision(network):
        weight, home = network[0].weight, network[0].weight.numbers
        card = torch.Tensor._make_wrapper_subclass(HalfPrecision, weight.size(), dtype=torch.float32, device="cuda:0")
        card.numbers = home.to("meta")
        for there, place, numbers in ((card, "cuda", card.numbers), (HalfPrecision(home), "cpu", home)):
            network._apply(lambda z, there=there: there)
            assert network[0].weight is weight is network[2].weight
            assert weight.device.type == place
            assert weight.numbers is numbers
        assert torch.equal(weight, home.float())


def test_small_weights_and_other_types_stay():
    """Those whose first numbers are half ones and whose last is none, too."""
    small, double, late = nn.Linear(8, 8), layers().double(), layers(depth=1)
    late[0].weight.data[-1, -1] = 1 + 2.0**-20
    for network in (small, double, late):
        with in_half_precision(network) as count:
            assert count == 0
    assert torch.equal(widened(double[0].weight), double[0].weight)
