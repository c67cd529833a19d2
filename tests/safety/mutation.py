"""Known bugs, put into a copy of the package: `python -m tests.safety.mutation [NAME...]`; some test must fail.

A bug is one text in one file replaced by another, and the tests that are there to find it. A test that cannot fail
protects nothing. Each bug is tried in a process forked from one that has imported the libraries and not the package.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Bug(NamedTuple):
    file: str
    old: str
    new: str
    tests: str


CLOSED = "study/test_measure.py -k closed_forms"
BUGS = {
    "no root in a norm": Bug("study/quantity.py", "double().norm(dim=1)", "double().square().sum(1)", CLOSED),
    "two steps for one": Bug("study/quantity.py", "distance = 1.0 if", "distance = 2.0 if", CLOSED),
    "no mean in the loss": Bug("study/quantity.py", "point.noise[0].numel()", "1", CLOSED),
    "true noise for predicted": Bug(
        "study/quantity.py",
        "dot(point.eps, point.eps)",
        "dot(point.noise, point.noise)",
        CLOSED,
    ),
    "per t for per timestep": Bug(
        "study/quantity.py",
        '{"time_derivative": norms(point.linearization.jvp(dt=point.rate))}',
        '{"time_derivative": norms(point.linearization.jvp(dt=torch.ones_like(point.rate)))}',
        "study/test_measure.py -k per_timestep",
    ),
    "half of a symmetric part": Bug(
        "linalg/operator.py",
        "(A.mv(v) + A.vm(v)) / 2",
        "A.mv(v)",
        "linalg/test_operator.py",
    ),
    "J for its transpose": Bug("linalg/operator.py", "mv=A.vm, vm=A.mv, rows", "rows", "linalg/test_operator.py"),
    "magnitudes in a trace": Bug(
        "linalg/trace.py",
        "(z * image).sum(-1)",
        "(z * image).abs().sum(-1)",
        "linalg/test_trace.py",
    ),
    "error of one probe": Bug("linalg/trace.py", "(variance / p).sqrt()", "variance.sqrt()", "linalg/test_trace.py"),
    "no residual": Bug(
        "linalg/lanczos.py",
        "beta[:, -1:] * P[:, -1, :].abs()",
        "0 * P[:, -1, :].abs()",
        "linalg/test_lanczos.py",
    ),
    "no orthogonalization": Bug(
        "linalg/lanczos.py",
        "    z = orthogonalized(z, basis)\n",
        "",
        "linalg/test_lanczos.py",
    ),
    "lower bidiagonal": Bug("linalg/lanczos.py", "offset=1)", "offset=-1)", "linalg/test_lanczos.py"),
    "sign of v": Bug(
        "diffusion/parameterization.py",
        "return -sigma, alpha",
        "return sigma, alpha",
        "diffusion/test_parameterization.py",
    ),
    "sign of the score": Bug(
        "diffusion/parameterization.py",
        "torch.zeros_like(t), -1 / sigma",
        "torch.zeros_like(t), 1 / sigma",
        "diffusion/test_parameterization.py",
    ),
    "no root in EDM": Bug(
        "diffusion/parameterization.py",
        "torch.sqrt(sigma**2 + (self.sigma_data * alpha) ** 2)",
        "(sigma**2 + (self.sigma_data * alpha) ** 2)",
        "diffusion/test_parameterization.py",
    ),
    "t off by one": Bug(
        "diffusion/clock.py",
        "return (timestep + 1) / self.count",
        "return timestep / self.count",
        "diffusion/test_clock.py",
    ),
    "edge in the wrong block": Bug("diffusion/clock.py", ">= 0).sum(-1)", "> 0).sum(-1)", "diffusion/test_clock.py"),
    "sigma of alpha": Bug(
        "diffusion/table.py",
        "torch.sqrt(lost * (1 + alpha))",
        "torch.sqrt(lost)",
        "diffusion/test_table.py",
    ),
    "alpha squared for alpha": Bug("diffusion/table.py", "cumsum(0) / 2", "cumsum(0)", "diffusion/test_table.py"),
    "deviation for error": Bug(
        "study/statistics.py",
        "values.std(ddof=1) / np.sqrt(n)",
        "values.std(ddof=1)",
        "study/test_statistics.py",
    ),
    "one-sided interval": Bug("study/statistics.py", "(1 + level) / 2, np", "level, np", "study/test_statistics.py"),
    "unweighted mean": Bug("study/statistics.py", "delta * n / total", "delta / 2", "study/test_statistics.py"),
    "half done is done": Bug(
        "study/store.py",
        "if (marks == MISSING).any():",
        "if (marks == MISSING).all():",
        "study/test_measure.py -k draws_may_grow",
    ),
    "damage is done": Bug(
        "study/store.py",
        "except (ValueError, OSError, RuntimeError):\n            return False\n        return True",
        "except (ValueError, OSError, RuntimeError):\n            return True\n        return True",
        "study/test_store.py",
    ),
    "same draws in all batches": Bug(
        "study/microbatch.py",
        "draws[j : j + across]",
        "draws[:across]",
        "study/test_measure.py -k memory_running",
    ),
    "newer formats are read": Bug(
        "study/folder.py",
        "version > FORMAT_VERSION",
        "version > 1000",
        "study/test_store.py",
    ),
    "checksums are not looked at": Bug(
        "training/tensors.py",
        "damaged = archive.testzip()",
        "damaged = None",
        "training/test_tensors.py",
    ),
    "any name in a pickle": Bug("training/tensors.py", "argument not in GLOBALS", "False", "training/test_tensors.py"),
    "tensors without memory": Bug(
        "training/tensors.py",
        "> tensor.untyped_storage().nbytes()",
        "> 10**18",
        "training/test_tensors.py",
    ),
    "nearly equal is equal": Bug(
        "study/merge.py",
        "bits(there) != bits(value)",
        "np.abs(there - value) > 1e-3",
        "safety/test_many_machines.py -k must_be_equal",
    ),
}  # fmt: skip
NONE = Bug("linalg/operator.py", "A.mv(v)", "A.mv(v)", "linalg/test_operator.py")
SAMPLE = ("sign of v", "deviation for error", "J for its transpose")


def mutated(bug: Bug, folder: Path) -> None:
    """A copy of the package and its tests, with the bug."""
    for name in ("lipdiag", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    file = folder / "lipdiag" / bug.file
    text = file.read_text()
    assert bug.old in text, f"{bug.file} no longer has {bug.old!r}: say the bug in the words of today's code"
    file.write_text(text.replace(bug.old, bug.new, 1))


def caught(bug: Bug) -> bool:
    """Whether the tests named fail on it."""
    with tempfile.TemporaryDirectory() as place:
        mutated(bug, Path(place))
        child = os.fork()
        if not child:
            code = 70
            try:
                code = run_tests(Path(place), bug.tests)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1), f"the tests of {bug} could not be run: exit code {code}"
    return code != 0


def run_tests(folder: Path, tests: str) -> int:
    """pytest on the copy, in this process, in silence."""
    import pytest

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.chdir(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    os.environ["PYTHONPATH"] = str(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lipdiag", "tests")]:
        del sys.modules[name]
    path, *rest = tests.split()
    return int(
        pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", str(folder / "tests" / path), *rest])
    )


def main(names: list[str]) -> int:
    """Try each bug, say which were caught; the number that were not. A name that is none stands for no bug."""
    for library in ("torch", "torch._dynamo", "pytest", "xarray", "zarr", "scipy.stats"):
        importlib.import_module(library)
    missed = 0
    for name in names or list(BUGS):
        found = caught(BUGS.get(name, NONE))
        missed += not found
        print(json.dumps({"bug": name, "caught": found}), flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
