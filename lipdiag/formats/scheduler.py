"""diffusers' scheduler_config.json as a schedule, a parameterization and a clock.

What a scheduler says about training: the noise levels (a table of betas, the straight path of flow matching, or
EDM's and the VE process's sigmas), what the network predicts, and which number it is told as its time. How a
scheduler steps when it samples does not matter here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..diffusion.clock import LogSigma, Sigma, Timesteps, Unit
from ..diffusion.convention import FLOW, UNTOLD, Convention
from ..diffusion.parameterization import Edm, Parameterization, eps, score, v, velocity, x0
from ..diffusion.schedule import (
    VE,
    Discrete,
    Karras,
    Linear,
    Normalized,
    ScaledLinear,
    Sigmoid,
    SquaredCosine,
    Straight,
    Table,
    ZeroTerminalSNR,
)
from ..files import shown

MOST = 100_000  # entries of a table that diffusers makes one by one
SHIFTED = "snr_shift_scale"  # CogView 3 and CogVideoX divide their table's signal-to-noise ratio by it
PREDICTIONS: dict[str, Parameterization] = {"epsilon": eps, "sample": x0, "v_prediction": v}
# what is read here of a training, and what is of sampling alone, in any class of diffusers past or present
TRAINING = {
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "timestep_type", "sigma_min", "sigma_max", "sigma_data", "rho", SHIFTED,
}  # fmt: skip
SAMPLING = {
    "algorithm_type", "base_image_seq_len", "base_shift", "clip_denoised", "clip_sample", "clip_sample_range",
    "correct_steps", "corrector_order", "disable_corrector", "dynamic_thresholding_ratio", "eta", "euler_at_final",
    "final_sigmas_type", "flow_shift", "gamma", "interpolation_type", "invert_sigmas", "lambda_min_clipped",
    "lower_order_final", "max_image_seq_len", "max_shift", "noise_sampler_seed", "num_inference_steps",
    "original_inference_steps", "predict_x0", "predictor_order", "s_noise", "sample_max_value", "sampling_eps",
    "scale_factors", "set_alpha_to_one", "shift", "shift_terminal", "sigma_schedule", "skip_prk_steps", "snr",
    "solver_order", "solver_p", "solver_type", "steps_offset", "stochastic_sampling", "tau_func", "tensor_format",
    "thresholding", "time_shift_type", "timestep_scaling", "timestep_spacing", "upscale_mode", "use_beta_sigmas",
    "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas", "use_karras_sigmas", "use_lu_lambdas",
    "variance_type",
}  # fmt: skip


class Stated(NamedTuple):
    """What a scheduler states of a training; where it does not, the reason is among the notes."""

    convention: Convention
    notes: tuple[str, ...] = ()


def stated(config: Mapping[str, Any], network: str, arguments: Mapping[str, Any] | None = None) -> Stated:
    """What a scheduler's config tells about the network trained with it.

    Args:
        config: Of scheduler_config.json; absent keys have diffusers' defaults.
        network: The network's class, on which the unit of a flow's time depends.
        arguments: Of the class.
    """
    config, notes = renamed(config)
    training = of_training(config, network, arguments or {})
    # a key without a value states nothing, and diffusers keeps its own under an underscore
    keys = {key for key, value in config.items() if value is not None and not key.startswith("_")}
    ignored = sorted(shown(key) for key in keys - TRAINING - SAMPLING)
    if ignored:
        notes += (f"arguments of the scheduler that lipdiag does not know were ignored: {', '.join(ignored)}",)
    return Stated(training.convention, (*training.notes, *notes))


def renamed(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config under the names of today, and where it contradicts itself.

    Before version 0.10 diffusers said `predict_epsilon` for what is predicted, and before 0.2 `timesteps` for their
    number.
    """
    today = dict(config)
    if "num_train_timesteps" not in today and type(today.get("timesteps")) is int:
        today["num_train_timesteps"] = today["timesteps"]
    if today.get("timesteps") == today.get("num_train_timesteps"):
        today.pop("timesteps", None)
    if type(today.get("predict_epsilon")) is not bool:
        return today, ()
    former = "epsilon" if today.pop("predict_epsilon") else "sample"
    latter = today.setdefault("prediction_type", former)
    if latter == former:
        return today, ()
    today["prediction_type"] = None
    words = f"predict_epsilon {str(former == 'epsilon').lower()} and prediction_type {shown(latter)!r}"
    return today, (f"the scheduler states both {words}, which contradict each other",)


def of_training(config: Mapping[str, Any], network: str, arguments: Mapping[str, Any]) -> Stated:
    """What such a config tells of the training."""
    name = str(config.get("_class_name", ""))
    count = int(config.get("num_train_timesteps", 1000))
    if name.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction":
        return flow(network, count, arguments)
    if name.startswith("ScoreSdeVe"):
        ve = VE(float(config.get("sigma_min", 0.01)), float(config.get("sigma_max", 1348.0)))
        return Stated(Convention(ve, score, Sigma(ve)))
    if name.startswith("EDM") or name == "CMStochasticIterativeScheduler":
        return preconditioned(name, config)
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return preconditioned(name, {"sigma_min": 0.002, "sigma_max": 700.0} | dict(config) | {"sigma_data": 1.0})
    if name == "UnCLIPScheduler":  # which knows one table and does not name it
        config = {"beta_schedule": "squaredcos_cap_v2"} | dict(config)
    if "beta_schedule" not in config and config.get("trained_betas") is None and "beta_start" not in config:
        return Stated(UNTOLD, (f"the scheduler {name or 'without a name'} is unknown",))
    kind = config.get("prediction_type", "epsilon")
    prediction = PREDICTIONS.get(str(kind))
    unknown = prediction is None and kind is not None
    notes = [f"the prediction type {shown(kind)!r} is unknown"] if unknown else []
    table = betas(config, count)
    if table is None:
        return Stated(Convention(None, prediction, Timesteps(count)), (*notes, unknown_betas(config)))
    table = ZeroTerminalSNR(table) if config.get("rescale_betas_zero_snr") else table
    return Stated(Convention(table, prediction, Timesteps(table.timesteps)), tuple(notes))


def flow(network: str, count: int, arguments: Mapping[str, Any]) -> Stated:
    """What the straight path means for a network: which number it is told, and which way its velocity points.

    diffusers' pipelines count from 0 to 1000 and convert that for each network: Flux and AuraFlow are told t/1000,
    Lumina 2 is told 1 - t/1000 and says minus the velocity, the others are told t itself.
    """
    if network == "Lumina2Transformer2DModel":
        return Stated(FLOW)
    if network in ("FluxTransformer2DModel", "AuraFlowTransformer2DModel"):
        return Stated(Convention(Straight(), velocity, Unit()))
    unit = Unit(float(count) * float(arguments.get("timestep_scale", 1.0)))
    return Stated(Convention(Straight(), velocity, unit))


EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


def preconditioned(name: str, config: Mapping[str, Any]) -> Stated:
    """A network inside EDM's preconditioner, which is told a logarithm of sigma."""
    karras = Karras(*(float(config.get(key) or value) for key, value in EDM.items()))
    scale, prediction = float(config.get("sigma_data", 0.5)), config.get("prediction_type", "epsilon")
    schedule, clock = Normalized(karras, scale), LogSigma(karras)
    notes: tuple[str, ...] = ("x is what the network sees, EDM's x / sqrt(sigma_data^2 + sigma^2)",)
    if name == "CMStochasticIterativeScheduler":
        boundary = "the consistency model's boundary condition, which bends its scalings near sigma_min, is left out"
        return Stated(Convention(schedule, Edm(scale), LogSigma(karras, 250.0)), (*notes, boundary))
    if prediction == "epsilon":
        return Stated(Convention(schedule, Edm(scale), clock), notes)
    if prediction == "v_prediction" and scale == 1:  # minus EDM's output, which is v where the data have variance 1
        return Stated(Convention(schedule, v, clock), notes)
    return Stated(
        Convention(schedule, None, clock), (*notes, f"the prediction type {prediction!r} of {name} is unknown")
    )


def betas(config: Mapping[str, Any], count: int) -> Table | None:
    """The table of betas, or None where its name is unknown."""
    if config.get(SHIFTED, 1.0) != 1:
        return None
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
    if name in ("laplace", "exp") and count <= MOST:
        from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar

        return Discrete(tuple(betas_for_alpha_bar(count, alpha_transform_type=name).double().tolist()))
    return SquaredCosine(count) if name == "squaredcos_cap_v2" else None


def unknown_betas(config: Mapping[str, Any]) -> str:
    """The note about a table that diffusers names and lipdiag does not know."""
    if config.get(SHIFTED, 1.0) != 1:
        return f"its table is shifted by {SHIFTED} {config[SHIFTED]!r}, which is unknown"
    return f"the beta schedule {config.get('beta_schedule')!r} is unknown"
