"""What Python's callers are told to do, in Python's words; and what a package's names cost before they are used."""

import subprocess
import sys

import pytest

import lipdiag
from lipdiag.dialect import in_python, pythonic
from lipdiag.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "spoken"),
    [
        ("give it by --schedule", "give it by schedule="),
        ("it exists; give another --out", "it exists; give another out="),
        ("give --draws instead, or leave --shard out", "give draws= instead, or leave shard= out"),
        ("ask for --weights ema", "ask for weights='ema'"),
        ("by --schedule 've(0.001, 1000)' and --shape 3,32,32", "by schedule='ve(0.001, 1000)' and shape=(3,32,32)"),
        ('try --clock "timesteps(1000)" --parameterization x0', "try clock=\"timesteps(1000)\" parameterization='x0'"),
        ("use --original-config flags.json", "use original_config= flags.json"),
        ("take --timesteps log:64, --draws 16.", "take timesteps='log:64', draws=16."),
        ("with --encode where its folder has one", "with encode=True where its folder has one"),
        ("add --no-probe", "add probe=False"),
        ("by --set accumulate=2, which", "by accumulate=2, which"),
        ("run `lipdiag measure CKPT --quantity loss`, or say --quantity loss", None),
        ("pip install --no-deps azula, or leave --label out", "pip install --no-deps azula, or leave label= out"),
        ("an em--dash and a -- b", "an em--dash and a -- b"),
    ],
)
def test_options_become_arguments_and_commands_stay(typed, spoken):
    if spoken is None:
        spoken = "run `lipdiag measure CKPT --quantity loss`, or say quantities='loss'"
    assert in_python(typed) == spoken
    assert in_python(spoken) == spoken


def test_what_the_package_hands_out_speaks_python_and_the_functions_behind_it_do_not(tmp_path):
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr" / "file").write_text("")
    for measure, word in ((lipdiag.measure, "out="), (lipdiag.study.measure.measure, "--out")):
        with pytest.raises(lipdiag.errors.RunError, match=f"another {word}"):
            measure("digits-ddpm", out=tmp_path / "run.zarr", device="cpu")

    def plain():
        raise UsageError("give --data")

    with pytest.raises(UsageError, match=r"^give data=$"):
        pythonic(plain)()
    assert pythonic(UsageError) is UsageError


def test_the_package_completes_every_name_and_costs_nothing_before_one_is_used():
    names = dir(lipdiag)
    assert {"train", "sample", "evaluate", "Monitor", "Panel", "measure", "figures", "training"} <= set(names)
    assert set(lipdiag.__all__) <= set(names)
    for package in (lipdiag, lipdiag.training, lipdiag.figures, lipdiag.diffusion):
        assert all(hasattr(package, name) for name in dir(package))
    code = (
        "import time, sys; began = time.process_time(); import lipdiag; took = time.process_time() - began; "
        "print(took, *{'torch', 'numpy', 'xarray', 'click'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, *heavy = ran.stdout.split()
    assert not heavy
    assert float(took) < 0.1
