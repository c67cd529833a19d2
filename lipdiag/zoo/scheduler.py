"""diffusers' scheduler_config.json as a schedule, a parameterization and a clock.

What a scheduler says about training: the noise levels (a table of betas, the straight path of flow matching, or
EDM's and the VE process's sigmas), what the network predicts, and which number it is told as its time. How a
scheduler steps when it samples does not matter here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipdiag.diffusion.clock import LogSigma, Sigma, Timesteps, Unit
from lipdiag.diffusion.schedule import (
    VE,
    Discrete,
    Karras,
    Linear,
    ScaledLinear,
    Sigmoid,
    SquaredCosine,
    Straight,
    Table,
    ZeroTerminalSNR,
)
from lipdiag.diffusion.spelling import spell

PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}


@dataclass(frozen=True)
class Told:
    """What a scheduler tells, spelled out; None where it does not, with the reason among the notes."""

    schedule: str | None
    parameterization: str | None
    clock: str | None
    notes: tuple[str, ...] = ()


def told(config: Mapping[str, Any], network: str) -> Told:
    """What a scheduler's config tells about the network trained with it.

    Args:
        config: Of scheduler_config.json; absent keys have diffusers' defaults.
        network: The network's class, on which the unit of a flow's time depends.
    """
    name = str(config.get("_class_name", ""))
    count = int(config.get("num_train_timesteps", 1000))
    if name.startswith("FlowMatch"):
        # Flux's own pipeline divides the scheduler's timestep by 1000, SD3's does not.
        clock = Unit() if network == "FluxTransformer2DModel" else Unit(float(count))
        return Told(spell(Straight()), "velocity", spell(clock))
    if name.startswith("ScoreSdeVe"):
        ve = VE(float(config.get("sigma_min", 0.01)), float(config.get("sigma_max", 1348.0)))
        return Told(spell(ve), "score", spell(Sigma(ve)))
    if name.startswith("EDM"):
        karras = Karras(*(float(config.get(key, value)) for key, value in EDM.items()))
        # The network sees x / sqrt(sigma^2 + sigma_data^2), which no parameterization of the output can say.
        note = "an EDM network's input is scaled by its noise level: give it by a factory that does so"
        return Told(spell(karras), None, spell(LogSigma(karras)), (note,))
    if "beta_schedule" not in config and config.get("trained_betas") is None and "beta_start" not in config:
        return Told(None, None, None, (f"the scheduler {name or 'without a name'} is unknown",))
    prediction = str(config.get("prediction_type", "epsilon"))
    notes = [] if prediction in PREDICTIONS else [f"the prediction type {prediction!r} is unknown"]
    table = betas(config, count)
    if table is None:
        return Told(None, PREDICTIONS.get(prediction), spell(Timesteps(count)), (*notes, unknown_betas(config)))
    table = ZeroTerminalSNR(table) if config.get("rescale_betas_zero_snr") else table
    return Told(spell(table), PREDICTIONS.get(prediction), spell(Timesteps(table.timesteps)), tuple(notes))


EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


def betas(config: Mapping[str, Any], count: int) -> Table | None:
    """The table of betas, or None where its name is unknown."""
    if config.get("trained_betas") is not None:
        return Discrete(tuple(float(beta) for beta in config["trained_betas"]))
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    name = config.get("beta_schedule", "linear")
    if name == "linear":
        return Linear(first, last, count)
    if name == "scaled_linear":
        return ScaledLinear(first, last, count)
    if name == "sigmoid":
        return Sigmoid(first, last, count)
    return SquaredCosine(count) if name == "squaredcos_cap_v2" else None


def unknown_betas(config: Mapping[str, Any]) -> str:
    """The note about a table that diffusers names and lipdiag does not know."""
    return f"the beta schedule {config.get('beta_schedule')!r} is unknown"
