"""The command line as its users meet it: what it prints, what it leaves on disk, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.cli.options import stem

TRIED = ["--timesteps", "0,19,500", "--draws", "4", "--batch", "12"]
SMALL = [*TRIED, "--no-probe"]


def run(*arguments, env=None):
    result = CliRunner().invoke(main, list(arguments), env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def sentence(result):
    """The refusal: one line, no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("lipdiag: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, lipdiag.cli; lipdiag.cli.main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'xarray', 'matplotlib', 'diffusers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_every_quantity_is_named_in_the_help():
    from lipdiag.quantities.catalogue import QUANTITIES

    text = run("measure", "--help").output
    assert all(name in text for name in QUANTITIES)


def test_every_style_is_named_in_the_help():
    from lipdiag.figures.style import STYLES

    words = run("plot", "--help").output.replace(",", " ").replace(".", " ").split()
    assert set(STYLES) <= set(words)


def test_no_bar_begins_before_the_words_are_read():
    result = run("advise", "digits-ddpm", "--sampler", "dmp")
    assert result.stderr == f"{sentence(result)}\n"


def test_help_names_every_convention_as_its_option_takes_it():
    text = run("help", "conventions").output
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(run("help", "conventions", "--json").output)
    assert all(entry["usage"] in text for entries in found.values() for entry in entries)
    assert "unnormalized_cosine(offset=0.008)" in text
    assert run("help", "merge").output == run("merge", "--help").output
    refused = sentence(run("help", "convention"))
    assert "no help on 'convention' (did you mean conventions?); known are conventions, inspect" in refused


def test_measure_prints_a_table_and_leaves_a_run():
    result = run("measure", "digits-ddpm", *TRIED)
    assert result.exit_code == 0, result.stderr
    assert "x0: digits" in result.stderr
    assert "the convention fits the data" in result.stderr
    assert re.search(r"a pair took \S+ ms, (as long as \S+|no longer than the \d+) forward passes", result.stderr)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert lipdiag.open_run("digits-ddpm.zarr").sizes["draw"] == 4


def test_measure_json_is_one_line_of_finite_json():
    result = run("measure", "digits-ddpm", *SMALL, "--json", "--quiet", "--out", "a.zarr")
    line = json.loads(result.stdout, parse_constant=pytest.fail)
    assert line["timestep"] == [0, 19, 500]
    assert result.stderr == ""
    stored = lipdiag.open_run("a.zarr")["loss"].values.mean(1)
    np.testing.assert_allclose(line["loss"]["mean"], stored)


def test_a_dry_run_writes_nothing(tmp_path):
    result = run("measure", "digits-ddpm", "--dry-run", "--json", "--quiet")
    told = json.loads(result.stdout)
    assert told["cost"]["pairs"] == 64 * 64
    assert told["cost"]["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_file_gives_defaults_and_flags_beat_it(tmp_path):
    (tmp_path / "plan.toml").write_text('draws = 3\ntimesteps = "7"\n')
    told = json.loads(run("measure", "digits-ddpm", "--config", "plan.toml", "--dry-run", "--json", "--quiet").stdout)
    assert (told["plan"]["draws"], told["plan"]["timesteps"]) == (3, [7])
    told = json.loads(
        run("measure", "digits-ddpm", "--config", "plan.toml", "--draws", "5", "--dry-run", "--json", "--quiet").stdout
    )
    assert told["plan"]["draws"] == 5
    (tmp_path / "plan.toml").write_text("drawz = 3\n")
    result = run("measure", "digits-ddpm", "--config", "plan.toml", "--dry-run")
    assert result.exit_code == 2
    assert "drawz" in sentence(result)


def test_environment_variables_give_defaults():
    told = json.loads(
        run("measure", "digits-ddpm", "--dry-run", "--json", "--quiet", env={"LIPDIAG_MEASURE_DRAWS": "2"}).stdout
    )
    assert told["plan"]["draws"] == 2


def nothing(path):
    pass


def folder(path):
    path.mkdir()


def text(path):
    path.write_text("not a model")


def truncated(path):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


def spoiled(path):
    model = lipdiag.load("digits-ddpm")
    with torch.no_grad():
        next(model.network.parameters())[0] = torch.nan
    lipdiag.save(path, model)


def misshapen(path):
    lipdiag.save(path, lipdiag.load("digits-ddpm"))
    content = torch.load(path, weights_only=True)
    name = next(iter(content["model"]))
    content["model"][name] = content["model"][name][..., :1].clone()
    torch.save(content, path)


@pytest.mark.parametrize("make", [nothing, folder, text, truncated, spoiled, misshapen])
def test_a_bad_checkpoint_ends_in_one_sentence(tmp_path, make):
    make(tmp_path / "model.pt")
    result = run("measure", "model.pt", *SMALL)
    assert result.exit_code == 3
    assert "model.pt" in sentence(result)
    assert not (tmp_path / "model.zarr").exists()
    if make not in (spoiled, misshapen):  # inspect reads the file and builds no network
        assert run("inspect", "model.pt").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--timesteps", "0,1000"], 2, "out of range; this model's timesteps run from 0 to 999"),
        (["--draws", "0"], 2, "draws is 0"),
        (["--quantity", "speed"], 2, "there is no quantity 'speed'; known are"),
        (["--data", "nowhere"], 2, "nowhere"),
        (["--device", "cuda:77"], 2, "device 'cuda:77' is not at hand: give auto, or cpu"),
        (["--shard", "2/2"], 2, "out of range"),
        (["--shard", "0/2", "--tolerance", "0.1"], 2, "tolerance"),
        (["--schedule", "linea(3)"], 2, "linea"),
    ],
)
def test_bad_options_end_in_one_sentence(tmp_path, arguments, code, words):
    result = run("measure", "digits-ddpm", *arguments)
    assert result.exit_code == code
    assert words in sentence(result)
    assert list(tmp_path.iterdir()) == []


def test_data_of_the_wrong_shape_or_type_are_refused(tmp_path):
    np.save("wide.npy", np.zeros((4, 3, 9, 9), np.float32))
    np.save("words.npy", np.array(["a", "b"]))
    for name in ("wide.npy", "words.npy"):
        result = run("measure", "digits-ddpm", "--data", name)
        assert result.exit_code == 2
        assert name in sentence(result)


def test_an_output_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = run("measure", "digits-ddpm", *SMALL, "--out", "mine")
    assert result.exit_code == 4
    assert "is no lipdiag run" in sentence(result)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    run("measure", "digits-ddpm", *SMALL, "--out", "a.zarr")
    result = run("measure", "digits-etsdm", *SMALL, "--out", "a.zarr")
    assert result.exit_code == 4
    assert "is another run" in sentence(result)


def test_a_place_that_cannot_be_written_is_an_input_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("measure", "digits-ddpm", *SMALL, "--out", "file/a.zarr")
    assert result.exit_code == 5
    assert "file/a.zarr" in sentence(result)


def test_a_factory_of_ones_own_is_measured(tmp_path):
    result = run("measure", "--factory", "no_such_module:f")
    assert result.exit_code == 2
    assert "no_such_module" in sentence(result)
    assert run("measure").exit_code == 2
    (tmp_path / "mine.py").write_text("import lipdiag\ndef model():\n    return lipdiag.load('digits-ddpm')\n")
    result = run("measure", "--factory", "mine:model", "--data", "digits", *SMALL, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["run"] == "model.zarr"


def test_a_model_of_fewer_numbers_than_ranks_is_measured(tmp_path):
    """Both singular values of two numbers, and all that is measured beside them."""
    written = [
        *(
            "import torch",
            "from lipdiag.diffusion.exact import Gaussian",
            "from lipdiag.diffusion.schedule import Linear",
        ),
        *("from lipdiag.diffusion.clock import Timesteps", "def toy():"),
        "    return Gaussian(torch.zeros(2), torch.tensor([1.0, 4.0]), Linear(), Timesteps())",
    ]
    (tmp_path / "toys.py").write_text("\n".join(written))
    np.save("x.npy", np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    asked = ("--quantity", "singular_values", "--quantity", "spectral_norm", "--quantity", "trace")
    result = run("measure", "--factory", "toys:toy", "--data", "x.npy", *SMALL, *asked, "--out", "toy.zarr")
    assert result.exit_code == 0, result.stderr
    found = lipdiag.open_run("toy.zarr")
    assert found["singular_values"].shape == (3, 4, 2)
    assert not any(found[name].isnull().any() for name in ("singular_values", "spectral_norm", "trace"))


def test_a_checkpoint_without_data_is_measured_on_its_own_samples(tmp_path):
    model = lipdiag.load("digits-ddpm")
    model.data = None
    lipdiag.save(tmp_path / "ckpt.pt", model)
    result = run("measure", "ckpt.pt", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "samples of the model itself" in result.stderr
    assert "warning: x0 are samples of the model itself" in result.stderr
    assert result.stdout.startswith("Warning, ")
    assert "samples of the model itself" in lipdiag.open_run("ckpt.zarr").attrs["data"]


def test_the_machine_s_line_holds_warnings_and_notes_and_names_as_they_are():
    """A run whose name holds the letters of a number that is none keeps them."""
    data = np.zeros((3, 1, 8, 8), np.float32)
    data[0, 0, 0, 0] = 0.5
    np.save("x.npy", data)
    result = run(
        "measure", "digits-ddpm", "--data", "x.npy", *TRIED, "--json", "--quiet", "--out", "NaNcy-Infinity.zarr"
    )
    assert result.exit_code == 0, result.stderr
    line = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(word))
    assert line["run"] == "NaNcy-Infinity.zarr"
    assert line["warnings"] == lipdiag.open_run("NaNcy-Infinity.zarr").attrs["warnings"] != []
    result = run("measure", "digits-ddpm", *SMALL, "--json", "--quiet", "--out", "plain.zarr")
    line = json.loads(result.stdout)
    assert line["warnings"] == []
    assert any("was not tried" in note for note in line["notes"])


def test_plot_draws_without_loading_a_model(tmp_path):
    run("measure", "digits-etsdm", *SMALL, "--out", "a.zarr")
    result = run("plot", "a.zarr", "--out", "figure.png", "--out", "figure.svg")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert run("plot", "--list").output.count("\n") >= 1
    assert run("plot").exit_code == 2
    assert run("plot", "nothing.zarr").exit_code == 4


def test_training_writes_a_checkpoint_that_measure_reads(tmp_path):
    result = run(
        "train", "--recipe", "digits", "--etsdm", "--steps", "3", "--set", "batch=4", "--out", "twin", "--quiet"
    )
    assert result.exit_code == 0, result.stderr
    assert run("measure", "twin", *SMALL, "--quiet").exit_code == 0
    frozen = lipdiag.open_run("twin.zarr").attrs["frozen"]
    assert frozen["model"]["clock"] == "shared(timesteps(1000), 100, 5)"
    again = run("train", "--recipe", "digits", "--etsdm", "--steps", "3", "--set", "batch=4", "--out", "twin")
    assert again.exit_code == 4
    assert "finished" in sentence(again)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "cats"], "no recipe"),
        (["--etsdm", "a,b"], "edges:"),
        (["--set", "speed=3"], "speed"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_training_options_end_in_one_sentence(tmp_path, arguments, words):
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert words in sentence(result)


def test_sharing_is_spelled_as_typed():
    told = json.loads(run("train", "--etsdm", "edges:0,5,15,40,100", "--dry-run", "--json").stdout)
    assert told["clock"] == "shared(timesteps(1000), 100, 4, (0, 5, 15, 40, 100))"
    assert (
        json.loads(run("train", "--etsdm", "--dry-run", "--json").stdout)["clock"] == "shared(timesteps(1000), 100, 5)"
    )
    assert json.loads(run("train", "--dry-run", "--json").stdout)["clock"] == "timesteps(1000)"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on(tmp_path, number, code):
    """A signal in the middle ends with its exit code, and the same command finishes with the same numbers."""
    command = ["measure", "digits-ddpm", "--timesteps", "log:24", "--draws", "12", "--batch", "24", "--no-probe"]
    command += ["--threads", "1", "--json", "--out", "a.zarr"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lipdiag", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    marks = tmp_path / "a.zarr" / "done" / "c"
    while len(list(marks.rglob("*"))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors.decode()
    assert b"goes on" in errors
    part = lipdiag.open_run("a.zarr")
    assert 0 < (part["done"] == 1).sum() < part["done"].size
    kept = {name: part[name].values for name in part.data_vars}
    done = kept.pop("done") == 1
    profiled = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    again = [sys.executable, "-m", "lipdiag", *command]
    imported = subprocess.run(again, check=True, capture_output=True, env=profiled).stderr.decode().split()
    assert "diffusers" in imported
    assert not {"torch._dynamo.eval_frame", "scipy.stats"} & set(imported)  # which take as long as torch itself
    whole = lipdiag.open_run("a.zarr")
    assert (whole["done"] == 1).all()
    for name, values in kept.items():
        np.testing.assert_array_equal(values[done], whole[name].values[done])


def test_selftest_passes():
    result = run("selftest")
    assert result.exit_code == 0, result.stdout
    assert "FAILED" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.safetensors", "a.bin", "a.PKL", "a", "dir/a.pt"])
def test_a_run_is_named_without_the_ending_of_its_checkpoint(name):
    assert stem(name, None) == "a"
    assert stem(None, "module:a") == "a"
    assert stem("a.b", None) == "a.b"


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_of_a_configuration_that_is_none_is_refused(value, tmp_path):
    """TOML has a word for infinity, which no integer can be made of."""
    (tmp_path / "lipdiag.toml").write_text(f"draws = {value}\n")
    result = run("measure", "digits-ddpm", "--config", "lipdiag.toml")
    assert result.exit_code == 2
    assert f"lipdiag.toml sets 'draws' to '{value}', which is no value of that option" in result.stderr


def test_an_end_before_the_first_pair_is_told(monkeypatch):
    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["lipdiag.cli.measure"], "use_threads", pressed)
    result = run("measure", "digits-ddpm", "--device", "CPU", "--quiet")
    assert (result.exit_code, "interrupted; what was finished is kept" in sentence(result)) == (130, True)
