"""The command that measures a run again: with all that its user had said, and nothing that was of one launch."""

import shlex

import pytest

from lipdiag.cli.doctor import doctor
from lipdiag.cli.measure import measure
from lipdiag.results.command import FLAGS, OF_MODEL, PASSING, SPENT, again, examining


def launched(dataset, command: str):
    return dataset.assign_attrs(launches=[{"argv": shlex.split(command)}], checkpoint="net.pt")


SAID = (
    "lipdiag measure net.pt --factory fac:build --schedule 'linear(0.1, 20)' --data=x.npy --label 2 --no-probe "
    "--timesteps 0,10 --draws 8 --tolerance 0.1 --quantity loss"
)


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ("--quantity stein", SAID.removesuffix(" --quantity loss")),
        (
            "--timesteps log:64 --quantity loss --draws 2",
            SAID.removesuffix(" --timesteps 0,10 --draws 8 --tolerance 0.1 --quantity loss"),
        ),
    ],
)
def test_what_a_user_said_stands_in_the_command(ddpm, options, command):
    told = again(launched(ddpm, f"{SAID} --out net.zarr --shard 0/3 --retry --quiet --verify 3"), options)
    assert shlex.split(told) == [*shlex.split(command), *options.split(), "--out", "NEW.zarr"]


def test_the_doctor_is_told_of_model_and_data_alone(ddpm):
    told = examining(launched(ddpm, SAID))
    assert shlex.split(told) == shlex.split(SAID.split(" --no-probe")[0].replace("measure", "doctor"))


def test_of_several_checkpoints_the_runs_own_is_measured_again(ddpm):
    told = again(launched(ddpm, "lipdiag measure a.pt --resize net.pt b.pt --data x.npy"), "--quantity loss")
    assert told == "lipdiag measure net.pt --resize --data x.npy --quantity loss --out NEW.zarr"


def test_what_was_said_in_python_stands_in_it_too(ddpm):
    run = ddpm.assign_attrs(
        launches=[{"argv": ["a.py"], "asked": {"data": "x.npy", "shape": [1, 8, 8], "encode": True}}]
    )
    assert again(run, "--quantity loss") == (
        "lipdiag measure digits-ddpm --data x.npy --shape 1,8,8 --encode --quantity loss --out NEW.zarr"
    )
    assert again(ddpm.assign_attrs(checkpoint="in memory"), "--quantity loss").startswith("lipdiag measure CKPT --quan")


def test_options_with_and_without_a_value_are_those_of_the_commands():
    names = {name for option in measure.params for name in (*option.opts, *option.secondary_opts) if name[0] == "-"}
    flags = {name for o in measure.params if getattr(o, "is_flag", False) for name in (*o.opts, *o.secondary_opts)}
    assert flags == FLAGS
    assert names >= PASSING | SPENT | OF_MODEL
    assert {name for option in doctor.params for name in option.opts} >= OF_MODEL
