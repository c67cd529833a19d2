"""What an error is: of a device that failed or is full, of a batch that is too large, or of the model itself.

Torch and the libraries below it tell that by the type and the text of what they raise, and by nothing else.
"""

import re

from .errors import LipdiagError

FULL = re.compile(
    r"MemoryError|out of memory|can't allocate memory|alloc(ation)?_failed"
    r"|(cublas|cudnn|cusolver)_status_not_initialized",  # a library takes memory of its own when it is first called
    re.IGNORECASE,
)
TOO_LARGE = re.compile(
    r"unable to find an engine"  # cuDNN, of which every algorithm ran out of memory, or none is made for this
    r"|invalid configuration argument|too many resources requested for launch"
)
FAILED = re.compile(
    r"AcceleratorError|CUDA driver error|CUDA error: (?!CUBLAS_STATUS_(INVALID_VALUE|NOT_SUPPORTED|ARCH_MISMATCH))"
    r"|CU(DNN|SOLVER)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)"
)


class MethodError(RuntimeError):
    """A function that none of the methods allowed for its derivatives works on, for the reasons that it says."""


def kind(error: BaseException) -> re.Pattern[str] | None:
    """Which of the above an error is; None for one of the model's own, and for what is told in a sentence already."""
    text = f"{type(error).__name__}: {error}"
    ours = isinstance(error, LipdiagError) or not isinstance(error, Exception)
    return None if ours else next((signs for signs in (FULL, TOO_LARGE, FAILED) if signs.search(text)), None)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which another method would not mend."""
    return isinstance(error, MemoryError) or kind(error) is FULL


def device_failed(error: BaseException) -> bool:
    """Whether a driver gave up, after which nothing can be computed in this process."""
    return kind(error) is FAILED


def of_the_device(error: BaseException) -> bool:
    """Whether an error says nothing of the model, since the device failed or is full."""
    return out_of_memory(error) or device_failed(error)


def curable(error: BaseException) -> bool:
    """Whether fewer samples at once may mend it: many a library tells a full device by not being able to go on."""
    return out_of_memory(error) or kind(error) is TOO_LARGE


def described(error: BaseException) -> str:
    """That memory ran out, or the type of an error and the first line of what it says."""
    if isinstance(error, MethodError) and error.__cause__ is not None:
        error = error.__cause__
    said = str(error).splitlines()[0][:200] if str(error) else ""
    return "out of memory" if out_of_memory(error) else f"{type(error).__name__} ({said})"
