"""What torch raises on a card, told by what can be done about it."""

import pytest
import torch

from lipdiag.breakdown import curable, described, device_failed, of_the_device, out_of_memory
from lipdiag.errors import IncompleteError

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`. If you"),
]
TOO_LARGE = [
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    torch.AcceleratorError("CUDA error: invalid configuration argument\nCUDA kernel errors might be asynchronously"),
    torch.AcceleratorError("CUDA error: too many resources requested for launch\nCUDA kernel errors might be"),
]
FAILED = [
    torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnSgesvdj(handle)`. If you"),
]
OWN = [
    ValueError("odd"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"),
    KeyboardInterrupt("CUDA error: unknown error"),
    IncompleteError("out of memory with a single (draw, timestep) pair"),
]


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (FULL, (True, True, False, True)),
        (TOO_LARGE, (False, True, False, False)),
        (FAILED, (False, False, True, True)),
        (OWN, (False, False, False, False)),
    ],
    ids=["full", "too large", "failed", "own"],
)
def test_an_error_is_of_one_kind(errors, told):
    for error in errors:
        assert (out_of_memory(error), curable(error), device_failed(error), of_the_device(error)) == told, repr(error)


def test_an_error_is_described_in_a_line():
    assert described(FULL[1]) == "out of memory"
    assert described(FAILED[0]) == "AcceleratorError (CUDA error: unspecified launch failure)"
    assert described(KeyError()) == "KeyError ()"
