"""Known bugs, put into a copy of the package: `python -m tests.safety.mutation [NAME...]`; some test must fail.

A bug is one text in one file replaced by another, and the narrowest tests that are there to find it. A test that
cannot fail protects nothing. Each bug is tried in a process forked from one that has imported the libraries and not
the package, as many at once as there are processors. "without NAME" runs the same tests on the code as it is, where
they must pass.
"""

import importlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    "torch", "torch._dynamo", "pytest", "hypothesis", "jaxtyping", "beartype", "xarray", "zarr", "safetensors.torch",
    "scipy.stats", "scipy.optimize", "mpmath", "matplotlib.pyplot", "torchmetrics.image.fid", "torchmetrics.image.kid",
    "diffusers.models.unets.unet_2d", "diffusers.schedulers.scheduling_ddim",
)  # fmt: skip
LONGEST = 300
"""Seconds: a bug that makes the tests run on and on ends here, with an error."""


class Bug(NamedTuple):
    file: str
    old: str
    new: str
    tests: str


HUB = "checkpoints/test_hub.py"
TEMPLATE = "checkpoints/test_template.py"
FORMULAS = "quantities/test_quantity.py -k formulas"
BUGS = {
    "batches of a sampler for samples": Bug(
        "data/objects.py", '("batch_size", "batch_sampler")', '("batch_size",)', "data/test_objects.py",
    ),
    # what stands out, and how surely
    "a certificate for a mean over draws": Bug(
        "results/headline.py", " + np.maximum(lower.half_width, upper.half_width)", "", "results/test_headline.py",
    ),
    "a launch's own options in the command for another": Bug(
        "results/command.py", 'if word.startswith("--")} | PASSING', 'if word.startswith("--")}',
        "results/test_command.py -k user_said",
    ),
    "a shard of so many pairs as all others": Bug(
        "study/state.py", "return sum(part.size for part in parts)", "return held.size // self.shard[1]",
        "study/test_measure.py -k what_is_left",
    ),
    "a refusal of an option in one line": Bug(
        "cli/options.py", "remark(words.getvalue().rstrip())", "click.echo(words.getvalue().rstrip(), err=True)",
        "test_cli_terminal.py -k refusals",
    ),
    # what is told with x0
    "a prompt without its library": Bug(
        "checkpoints/prompt.py", 'find_spec("transformers") is None', "False", "checkpoints/test_prompt.py -k refusals",
    ),
    "an adapter followed beside a text encoder": Bug(
        "checkpoints/prompt.py", 'WEIGHTS = ("model*.safetensors", ', 'WEIGHTS = ("*.json", "model*.safetensors", ',
        "checkpoints/test_prompt.py -k leads",
    ),
    "channels in front of x": Bug(
        "diffusion/predictor.py", "torch.cat([x, channels.to(x.dtype)], 1)", "torch.cat([channels.to(x.dtype), x], 1)",
        "test_conditions.py -k concatenates",
    ),
    "one condition for all": Bug(
        "design/points.py", "{i: told(i) for i in", "{i: told(0) for i in", "test_conditions.py -k own_x0"
    ),
    # models on the hub
    "fetched unasked": Bug("checkpoints/hub.py", "    if download:\n", "    if True:\n", f"{HUB} -k network"),
    "half a download for a whole": Bug(
        "checkpoints/hub.py", "len(files) == int(", "len(files) <= int(", f"{HUB} -k 'shards or broke'"
    ),
    "the cosine divided by its start": Bug(
        "diffusion/continuous.py",
        "return torch.sin((1 - t) * per_time), torch",
        "return torch.sin((1 - t) * per_time) / math.cos(self.offset * per_time), torch",
        "diffusion/test_continuous.py -k Unnormalized",
    ),
    "an adapter is scaled by alpha, not by alpha over its rank": Bug(
        "checkpoints/adapter.py", 'rank**0.5 if config.get("use_rslora") else rank', "1",
        "checkpoints/test_adapter.py -k merged",
    ),
    "the conditions of a policy are as wide as the embedding of its time": Bug(
        "formats/lerobot.py", ".shape[1] - embedding", ".shape[0] - embedding", "formats/test_lerobot.py -k folder"
    ),
    "a network that sees a condition beside x passes for one of x alone": Bug(
        "formats/physicsnemo.py", 'outputs not in (inputs, 2 * inputs)', "not outputs",
        "formats/test_physicsnemo.py -k strange",
    ),
    "an expression in a bundle's config passes for a value": Bug(
        "formats/monai.py", 'known.startswith(("$", "@"))', 'known.startswith("@")', "formats/test_monai.py -k asked"
    ),
    "heads for their width": Bug(
        "formats/lucidrains.py", "[shape[1] for shape in learned]", "[shape[2] for shape in learned]",
        "formats/test_lucidrains.py -k arguments",
    ),
    "the corner for the centre": Bug(
        "data/dataset.py", "Image.Resampling.LANCZOS)", "Image.Resampling.LANCZOS, 0.0, (0.0, 0.0))",
        "data/test_ranged.py -k centre",
    ),
    "the time of a network for its x": Bug(
        "timestep.py", "len(placed) > 1 and placed[0] == time", "False", f"{TEMPLATE} -k time_first"
    ),
    "a run that cannot be read back": Bug(
        "store/schema.py", "LONG: 1_000_000", "LONG: 20_000", "study/test_measure.py -k thousand"
    ),
    "a stranger's text as code": Bug(
        "checkpoints/template.py", "        return ascii(value)", "        return str(value)", f"{TEMPLATE} -k run"
    ),
    "the first part of a module, whatever it is": Bug(
        "checkpoints/factory.py", "if set(part.state_dict()) == set(in_file.content)", "if True",
        f"{TEMPLATE} -k trainer"
    ),
    "a branch for a commit in a run": Bug("study/measure.py", "spelled(model) if", "str(model) if", f"{HUB} -k kept"),
    # what is measured
    "no root in a norm": Bug("quantities/quantity.py", "double().norm(dim=1)", "double().square().sum(1)", FORMULAS),
    "batch mean before the norm": Bug(
        "quantities/quantity.py",
        "z.flatten(1).double().norm(dim=1)",
        "z.flatten(1).double().mean(0, keepdim=True).norm(dim=1).expand(len(z))",
        FORMULAS,
    ),
    "two steps for one": Bug("quantities/time.py", "distance = 1.0 if", "distance = 2.0 if", FORMULAS),
    "derivatives of a module's input for its output's": Bug(
        "quantities/modules.py", '["output"] += self.sizes(output)', '["output"] += self.sizes(args)',
        "quantities/test_modules.py -k finite_differences",
    ),
    "a module that writes over its input is heard too late": Bug(
        "quantities/modules.py",
        "known[1] != z._version",
        "known[1] is None",
        "quantities/test_modules.py -k finite_differences",
    ),
    "the schedule's clock in the data's factor": Bug(
        "findings/anatomy.py",
        "factor = values / clock[:, None]",
        "factor = values",
        "findings/test_anatomy.py -k theory",
    ),
    "health told of an interval that holds harm": Bug(
        "pages/verdict.py", "slope.low > 1 - RIGHT and slope.high < 1 + RIGHT", "slope.low <= 1 <= slope.high",
        "pages/test_page.py -k excludes",
    ),
    "an exponent whose times are taken for all there are": Bug(
        "findings/anatomy.py", "half_width(np.array(error), np.array(x.size - 1), LEVEL)", "0",
        "findings/test_anatomy.py -k choice",
    ),
    "a dimension that the trace contradicts": Bug(
        "findings/anatomy.py", "APART * self.dimension", "self.dimension", "findings/test_anatomy.py -k contradicts"
    ),
    "a quotient's law over its first time": Bug(
        "findings/anatomy.py", "np.exp(noise_level(run)[0](later))", 'run.time("sigma")',
        "findings/test_anatomy.py -k quotient",
    ),
    "no noise in the dimension": Bug(
        "findings/geometry.py", 'd - sigma * run.values("trace")', 'd - run.values("trace")',
        "findings/test_geometry.py -k plane",
    ),
    "twice the information in the likelihood": Bug(
        "findings/geometry.py", "snr, axis=0) / 2", "snr, axis=0)", "findings/test_geometry.py -k likelihood"
    ),
    "growth in a block for that in a layer": Bug(
        "findings/modules.py", "np.where(self.leaf, self.gain.value, np.nan)", "self.gain.value",
        "quantities/test_modules.py -k thirty",
    ),
    "no mean in the loss": Bug("quantities/prediction.py", "point.noise[0].numel()", "1", FORMULAS),
    "true noise for predicted": Bug(
        "quantities/prediction.py", "dot(point.eps, point.eps)", "dot(point.noise, point.noise)", FORMULAS
    ),
    "per t for per timestep": Bug(
        "quantities/time.py",
        '{"time_derivative": norms(point.linearization.jvp(dt=point.rate))}',
        '{"time_derivative": norms(point.linearization.jvp(dt=torch.ones_like(point.rate)))}',
        FORMULAS,
    ),
    "alpha for sigma in x": Bug(
        "design/points.py",
        "x=(along(alpha, x0) * x0 + along(sigma, x0) * noise)",
        "x=(along(sigma, x0) * x0 + along(alpha, x0) * noise)",
        FORMULAS,
    ),
    "a probe of length one": Bug(
        "quantities/point.py", "self.start.shape[1] ** 0.5", "1.0", "quantities/test_quantity.py -k intervals_of_traces"
    ),
    "a sampler's step that forgets the signal": Bug(
        "diffusion/ddim.py", "- a * sigma", "- sigma", "quantities/test_sensitivity.py -k last_step"
    ),
    "a dimension at the noised sample": Bug(
        "quantities/dimension.py", "- along(point.predictor.schedule(point.t)[1], x) * point.noise.double()", "",
        "quantities/test_dimension.py -k formula",
    ),
    "no gap before nothing": Bug(
        "quantities/dimension.py", "[whole, size, none]", "[whole, size]",
        "quantities/test_dimension.py -k 'plane and none'",
    ),
    "a mean that counts as a direction": Bug(
        "quantities/dimension.py", "alpha=-1 / (COPIES * d)", "alpha=0.0", "quantities/test_dimension.py -k in_common"
    ),
    "a density in y for one in x": Bug(
        "quantities/density.py", "total = -d * alpha[0].log()", "total = 0 * alpha[0]",
        "quantities/test_density.py -k 'gaussian and table'",
    ),
    "a grid moved one time after the other alone": Bug(
        "advice/grids.py", "PLACES = (3, 5, 10)", "PLACES = (10,)", "advice/test_grids.py -k whole_where"
    ),
    "a sampler one timestep late": Bug(
        "quantities/sensitivity.py", "torch.ceil(left - 1e-9) - 1", "torch.ceil(left - 1e-9)",
        "quantities/test_sensitivity.py -k 'path_falls and ddpm'",
    ),
    "squares of pairs": Bug(
        "quantities/pairs.py", "- here).norm(dim=1)", "- here).square().sum(1)",
        "quantities/test_pairs.py -k 'closed and plain'"
    ),
    "swapped times that are not shared": Bug(
        "quantities/pairs.py", "told = clock(clock", "told = clock.base(clock",
        "quantities/test_pairs.py -k 'closed and shared'"
    ),
    "the noise level swapped too": Bug(
        "quantities/pairs.py", ".conditioned(point.x, point.t, told)", "(point.x, clock.base.time(other))",
        "quantities/test_pairs.py -k leaves_the_noise_level",
    ),
    "left vectors of the transpose": Bug(
        "quantities/vectors.py", "P.mT[:, :count]", "P[:, :count]", "quantities/test_vectors.py -k belong_together"
    ),
    "an embedding's change undivided": Bug(
        "quantities/embedding.py", " / (other - point.timestep).abs()", "",
        "quantities/test_embedding.py -k whatever_the_step",
    ),
    "one stream for all roles": Bug(
        "quantities/draw.py", "(ROLES[role], *key)", "key", "quantities/test_draw.py -k alike"
    ),
    "one noise for all draws": Bug(
        "quantities/draw.py", 'generator(seed, "noise", draw)', 'generator(seed, "noise")',
        "quantities/test_draw.py -k alike"
    ),
    "one probe many times": Bug(
        "quantities/draw.py", 'generator(seed, "probe", draw, k)', 'generator(seed, "probe", draw)',
        "quantities/test_draw.py -k alike",
    ),
    "a last timestep left out": Bug(
        "store/layout.py", "range(0, times, layout.times)", "range(0, times - 1, layout.times)", "store/test_layout.py"
    ),
    "memory that is never given back": Bug(
        "study/memory.py", "self.now -= size", "self.now -= 0", "study/test_memory.py -k 'let_go'"
    ),
    "a step for all groups": Bug(
        "linalg/lanczos.py", "self.taken[members] = alpha.shape[1]", "self.taken[:] = alpha.shape[1]",
        "linalg/test_lanczos.py -k belong_together",
    ),
    "a draw that failed once fails for ever": Bug(
        "study/ahead.py", "self._rows.pop((role, i), None)", "self._rows.get((role, i))", "study/test_ahead.py -k again"
    ),
    "a network that makes x0 beside the one that is measured": Bug(
        "study/study.py", '() if study.source.stored else ("x0",)', "()", "study/test_ahead.py -k beside"
    ),
    "samples of the model made again by each batch": Bug(
        "study/study.py", '"x0", draws, device_of(', '"x", draws, device_of(', "study/test_ahead.py -k several_units"
    ),
    "half a unit at once": Bug(
        "study/memory.py", "fits // unit * unit)", "fits)", "study/test_memory.py -k fill_the_device"
    ),
    "a device that failed taken for a model's error": Bug(
        "study/study.py", "if device_failed(error):", "if False:", "study/test_units.py -k device_that_fails"
    ),
    "numbers by another method than was checked": Bug(
        "study/study.py", "point.methods = ", "point.methods = METHODS or ", "study/test_units.py -k on_fewer"
    ),
    "a device that failed in a check of the model taken for its fault": Bug(
        "readiness/consistency.py", "if of_the_device(error):", "if False:", "readiness/test_answer.py -k models_fault"
    ),
    "units of a batch in one another's places": Bug(
        "study/study.py", "for unit, values in zip(some, found", "for unit, values in zip(some, found[::-1]",
        "study/test_units.py -k one_after_the_other",
    ),
    "same draws in all batches": Bug(
        "study/microbatch.py", "draws[j : j + across]", "draws[:across]", "study/test_microbatch.py"
    ),
    # how it is measured
    "half of a symmetric part": Bug(
        "linalg/operator.py", "(A.mv(v) + A.vm(v)) / 2", "A.mv(v)", "linalg/test_operator.py -k symmetric"
    ),
    "J for its transpose": Bug(
        "linalg/operator.py", "mv=A.vm, vm=A.mv, rows", "rows", "linalg/test_operator.py -k come_back"
    ),
    "magnitudes in a trace": Bug(
        "linalg/trace.py", "(z * image).sum(-1)", "(z * image).abs().sum(-1)", "linalg/test_trace.py -k means_are_right"
    ),
    "error of one probe": Bug(
        "linalg/trace.py", "(variance / p).sqrt()", "variance.sqrt()", "linalg/test_trace.py -k estimates_the_standard"
    ),
    "no residual": Bug(
        "linalg/bidiagonalization.py",
        "beta[:, -1:] * P[:, -1, :].abs()",
        "0 * P[:, -1, :].abs()",
        "linalg/test_lanczos.py",
    ),
    "no orthogonalization": Bug(
        "linalg/bidiagonalization.py",
        "z, along = orthogonalized(z, basis)",
        "along = orthogonalized(z, basis)[1]",
        "linalg/test_lanczos.py",
    ),
    "a tangent without memory": Bug(
        "linalg/tape.py", "if func is aten._efficientzerotensor.default:", "if False:", "linalg/test_still_arguments.py"
    ),
    "rules that forget an inner graph": Bug(
        "linalg/forward_mode.py", "torch.is_grad_enabled() and", "False and", "linalg/test_inner_gradient.py"
    ),
    "a precision that is not given back": Bug(
        "linalg/precision.py", "_write(*place, precision)", "pass", "linalg/test_precision.py -k pair"
    ),
    "a precision that the first thread takes with it": Bug(
        "linalg/precision.py", "self.wanted += 1", "self.wanted = 1", "linalg/test_precision.py -k last_thread"
    ),
    "K of a model card on tensor cores": Bug(
        "training/card.py", "with undisturbed(predictor):", "if True:", "training/test_card.py -k in_float32"
    ),
    "a tangent in another precision than its value": Bug(
        "linalg/dual.py",
        "dy if dy.dtype == y.dtype else dy.to(y.dtype)",
        "dy",
        "linalg/test_forward_mode.py -k operations",
    ),
    "a weight whose tangent is not seen": Bug(
        "linalg/dual.py", "type(x) is Parameter or", "x.is_leaf or", "linalg/test_forward_mode.py -k operations_equal"
    ),
    "torch's fused transformer layers": Bug(
        "linalg/precision.py",
        "torch.backends.mha.set_fastpath_enabled(False)",
        "pass",
        "linalg/test_precision.py -k fused",
    ),
    "probabilities are kept beyond their room": Bug(
        "linalg/replay.py", "room -= size", "pass", "linalg/test_attention.py -k room"
    ),
    "probabilities of scores that are not scaled": Bug(
        "linalg/attention.py", "beta=0, alpha=scale", "beta=0", "linalg/test_attention.py -k kept"
    ),
    "a tangent of attention that forgets the sum of its softmax's": Bug(
        "linalg/attention.py", "sums[h, r] = ds.sum(-1, keepdim=True)", "pass", "linalg/test_attention.py -k masks"
    ),
    "the derivative of a gate is computed for each product": Bug(
        "linalg/replay.py", "slot.size != target.size", "not slot.alike(target)", "linalg/test_tape.py -k gate"
    ),
    "activations are computed again while probabilities are kept": Bug(
        "study/state.py", "level = self.sparing if self.record else max(self.sparing, 1)", "level = 1",
        "study/test_memory.py -k given_up",
    ),
    "a few scores' tangent that is scaled by half": Bug(
        "linalg/attention.py", "beta=scale, alpha=scale", "alpha=scale", "linalg/test_attention.py -k few_scores"
    ),
    "a proof that forgets what products lose": Bug(
        "linalg/certificate.py", "proven * reach.sqrt()", "0 * reach", "linalg/test_certificate.py -k resolvent"
    ),
    "a narrow weight that is laid out anew is widened for good": Bug(
        "linalg/half_precision.py", "    aten.t.default,\n", "", "linalg/test_half_precision.py -k recordings"
    ),
    "a narrow weight on a card whose numbers stay behind": Bug(
        "linalg/half_precision.py", "self.numbers = moved.numbers", "pass", "linalg/test_half_precision.py -k along"
    ),
    "weights that are no half numbers are rounded": Bug(
        "linalg/half_precision.py", "for numbers in (weight.flatten()[:FEW], weight):",
        "for numbers in (weight.flatten()[:FEW],):", "linalg/test_half_precision.py -k stay",
    ),
    "rounded products for exact ones": Bug(
        "linalg/rounding_error.py",
        "seen = self.forward[some] + self.backward[some]",
        "seen = 0 * self.forward[some]",
        "linalg/test_products.py -k converges",
    ),
    "float32 products taken for exact where terms cancel": Bug(
        "linalg/rounding_error.py", "self.both(apart.sum(1), max(steps**2 - steps, 1))", "0 * apart.sum(1)",
        "linalg/test_products.py -k cancels",
    ),
    "a lower bound that is not lowered": Bug(
        "linalg/lanczos.py", "(near - slack).clamp_min(0)", "near", "linalg/test_products.py -k cancels"
    ),
    "values are looked for that no step was taken for": Bug(
        "linalg/lanczos.py", "max(minimum, count))", "minimum)", "quantities/test_vectors.py -k ranks"
    ),
    "a Krylov step that is waited for": Bug(
        "linalg/bidiagonalization.py",
        "if z.device.type not in READ_FREELY or lost.any():",
        "if lost.any():",
        "linalg/test_lanczos.py -k waited",
    ),
    "times that stay on the processor": Bug(
        "design/points.py",
        "torch.stack(numbers).to(device)",
        "torch.stack(numbers)",
        "study/test_study.py -m card -k device",
    ),
    "the widest interval of a step ago for all": Bug(
        "linalg/lanczos.py",
        "members = self._members[number]",
        "members = self._widest[number]",
        "linalg/test_lanczos.py -k narrow_enough",
    ),
    "time 0 left of the axis": Bug(
        "results/run.py",
        "np.where(places == 0, self.nought,",
        "np.where(places == 0, 0,",
        "results/test_axis.py -k has_a_place",
    ),
    "a single timestep without its interval": Bug(
        "figures/marks.py",
        "x[alone], bottom[alone], top[alone],",
        "[], [], [],",
        "figures/test_drawn.py -k single_timestep",
    ),
    "lower bidiagonal": Bug("linalg/bidiagonalization.py", "offset=1)", "offset=-1)", "linalg/test_lanczos.py"),
    "what a command left out of an import stays out": Bug(
        "lean.py", "            del sys.modules[name]\n", "            pass\n", "test_lean.py -k once"
    ),
    "a library that needs what was left out fails": Bug(
        "lean.py", "with suppress(Exception), hastily()", "with hastily()", "test_lean.py -k gets_them"
    ),
    "what is imported is searched for garbage for ever": Bug(
        "lean.py", "        gc.freeze()\n", "        pass\n", "test_lean.py -k garbage"
    ),
    "each of several workers tries the conventions": Bug(
        "study/measure.py", ' or ready.shard[0]:', ":", "study/test_measure.py -k several_workers"
    ),
    "a rate under vmap that nothing tracks": Bug(
        "diffusion/continuous.py", "if not moved.requires_grad:", "if False:",
        "diffusion/test_continuous.py -k transforms",
    ),
    "the first number waits for those of a full device": Bug(
        "study/study.py", "most = 1 if first else", "most = 1 if False else", "study/test_units.py -k alone"
    ),
    "the first unit waits for the second": Bug(
        "study/study.py", "but=0 if first else len(some)", "but=len(some)", "study/test_units.py -k alone"
    ),
    # what noise is
    "sign of v": Bug(
        "diffusion/parameterization.py", "return -sigma, alpha", "return sigma, alpha",
        "diffusion/test_parameterization.py",
    ),
    "sign of the score": Bug(
        "diffusion/parameterization.py", "torch.zeros_like(t), -1 / sigma", "torch.zeros_like(t), 1 / sigma",
        "diffusion/test_parameterization.py",
    ),
    "no root in EDM": Bug(
        "diffusion/parameterization.py",
        "torch.sqrt(sigma**2 + (self.sigma_data * alpha) ** 2)",
        "(sigma**2 + (self.sigma_data * alpha) ** 2)",
        "diffusion/test_parameterization.py",
    ),
    "t off by one": Bug(
        "diffusion/clock.py", "return (timestep + 1) / self.count", "return timestep / self.count",
        "diffusion/test_clock.py",
    ),
    "edge in the wrong block": Bug("diffusion/clock.py", ">= 0).sum(-1)", "> 0).sum(-1)", "diffusion/test_clock.py"),
    "sigma of alpha": Bug(
        "diffusion/betas.py", "torch.sqrt(lost * (1 + alpha))", "torch.sqrt(lost)", "diffusion/test_betas.py"
    ),
    "alpha squared for alpha": Bug(
        "diffusion/betas.py", "cumsum(0) / 2", "cumsum(0)", "diffusion/test_betas.py"
    ),
    "no root in sigma": Bug(
        "diffusion/continuous.py", "torch.sqrt(-torch.expm1(-B))", "-torch.expm1(-B)",
        "diffusion/test_continuous.py -k digits_at_both_ends",
    ),
    "twice the slope of beta": Bug(
        "diffusion/continuous.py", "(beta_max - beta_min) / 2 * t", "(beta_max - beta_min) * t",
        "diffusion/test_continuous.py -k digits_at_both_ends",
    ),
    "half a log-SNR": Bug(
        "diffusion/continuous.py", "2 * (alpha.log() - sigma.log())", "(alpha.log() - sigma.log())",
        "diffusion/test_continuous.py -k twice_the_log_ratio",
    ),
    "a spread of data that is forgotten": Bug(
        "diffusion/continuous.py", "torch.hypot(self.sigma_data * alpha, sigma)", "torch.hypot(alpha, sigma)",
        "diffusion/test_continuous.py -k digits_at_both_ends",
    ),
    "a covariance that is added": Bug(
        "diffusion/exact.py", "precision) - weighted_covariance", "precision) + weighted_covariance",
        "diffusion/test_exact.py -k ten_digits",
    ),
    "a mean rate that is not subtracted": Bug(
        "diffusion/exact.py", "(dlog - (w * dlog).sum(1, keepdim=True))", "dlog",
        "diffusion/test_exact.py -k ten_digits",
    ),
    "the noise of points in units of alpha": Bug(
        "diffusion/exact.py", "alpha * self.points) / sigma", "alpha * self.points) / alpha",
        "diffusion/test_exact.py -k ten_digits",
    ),
    # what is said of it
    "deviation for error": Bug(
        "statistics.py", "np.divide(squares, count - 1)) / np.sqrt(count)", "np.divide(squares, count - 1))",
        "test_statistics.py -k summary",
    ),
    "one-sided interval": Bug(
        "statistics.py", "(1 + level) / 2)", "level)", "test_statistics.py -k students"
    ),
    "unweighted mean": Bug(
        "statistics.py", "delta * n / total", "delta / 2", "test_statistics.py -k streamed"
    ),
    "draws that are not paired": Bug(
        "comparison/effect.py", "- a / mean_a[..., None]", "+ a / mean_a[..., None]",
        "comparison/test_comparison.py -k pairing_removes",
    ),
    "a variance over n": Bug(
        "statistics.py", "np.divide(squares, count - 1)", "np.divide(squares, count)",
        "comparison/test_comparison.py -k textbook",
    ),
    "draws that one model lacks": Bug(
        "comparison/pairs.py", "np.where(np.isnan(b), np.nan, a)", "a",
        "comparison/test_comparison.py -k draws_that_both",
    ),
    "samples paired with themselves": Bug(
        "comparison/statements.py", "numbers[:, 0, i], numbers[:, 1, i]", "numbers[:, 0, i], numbers[:, 0, i]",
        "comparison/test_comparison.py -k paired_by_seed",
    ),
    "a jump against the error before it": Bug(
        "advice/bound.py", "error[edges[1:] - 1]", "error[edges[:-1]]", "advice/test_sharing.py -k held_against"
    ),
    "an error without its root": Bug(
        "advice/bound.py", "np.sqrt(run.dimension * cells.loss)", "run.dimension * cells.loss",
        "advice/test_sharing.py -k follows_from_the_loss",
    ),
    "a mean of K for its median": Bug(
        "advice/cells.py", "float(np.median(np.interp", "float(np.mean(np.interp",
        "advice/test_sharing.py -k ten_times_its_median",
    ),
    "the largest of what was measured between jumps": Bug(
        "results/run.py", "return not self.missing_jumps", "return True",
        "comparison/test_comparison.py -k not_measured_is_said",
    ),
    "draws that were never measured, counted": Bug(
        "store/notes.py", "(done != 1).sum()", "(done == 2).sum()", "advice/test_sharing.py -k not_counted"
    ),
    "the largest jump as if it had not been picked": Bug(
        "advice/partition.py", "return picked._replace(low=low, high=max(mean(column).high for column in values.T))",
        "return picked", "advice/test_sharing.py -k although_it_was",
    ),
    "what a block hides, past its end": Bug(
        "advice/hidden.py", "before + self.reach[:, None] * (self.change - before)", "self.change",
        "advice/test_hidden.py -k whatever_the_clock",
    ),
    "a dearer partition": Bug(
        "advice/pieces.py", "best = total.min(0)", "best = total.max(0)", "advice/test_hidden.py -k no_partition"
    ),
    "a grid judged on the draws it was fitted on": Bug(
        "tuning/search.py", "slice(0, draws // 2), slice(draws // 2, draws)", "slice(0, draws // 2), slice(0, draws)",
        "tuning/test_search.py -k not_those_that_fit",
    ),
    "x0 extrapolated twice as far": Bug(
        "sampling/walk.py", "ratio / 2 * (x0 - before)", "ratio * (x0 - before)", "sampling/test_walk.py -k order"
    ),
    "a better grid in name": Bug(
        "advice/choice.py", "name = ours if better(against) else best", "name = ours",
        "advice/test_choice.py -k refused_in_words",
    ),
    "a hundred-millionth more": Bug(
        "quantities/quantity.py", "double().norm(dim=1)", "double().norm(dim=1) * (1 + 1e-8)",
        "test_golden.py -k 'ddpm and float64'",
    ),
    "autocast left on": Bug(
        "design/arithmetic.py", "torch.autocast(kind, enabled=False)",
        "torch.autocast(kind, enabled=torch.is_autocast_enabled(kind))", "design/test_arithmetic.py -k autocast_around",
    ),
    "an inference mode left on": Bug(
        "design/arithmetic.py", "with torch.inference_mode(False):\n        copies",
        "with torch.no_grad():\n        copies", "readiness/test_derivatives.py -k caller_s_inference",
    ),
    "a caching network trusted": Bug(
        "readiness/consistency.py", "changed = max(changed, gap(again, here, exact))", "again, changed = here, 0.0",
        "readiness/test_derivatives.py -k one_question_differently",
    ),
    "the rounding that does not follow x": Bug(
        "readiness/rounding.py", "(size - true).abs() > OFF * true", "(size - true).abs() > 2 * true",
        "readiness/test_rounding.py -k no_others",
    ),
    "rounding looked for at four timesteps": Bug(
        "readiness/rounding.py", "for first in range(0, len(more), size):", "for first in range(0, 0, size):",
        "readiness/test_rounding.py -k no_others",
    ),
    "a network sent to no memory": Bug(
        "study/device.py", "        there.cpu()", "        pass", "study/test_network.py -k stays_whole",
    ),
    "a time read off the first sample": Bug(
        "readiness/consistency.py",
        "x, t[-1].expand_as(t))[last]",
        "x, t)[last]",
        "readiness/test_derivatives.py -k thousandth",
    ),
    "one timestep a batch, said and not done": Bug(
        "study/study.py", "1 if study.findings.company.of else None", "None",
        "readiness/test_derivatives.py -k 'reads_one_time and first'",
    ),
    "a Jacobian that is beside no difference": Bug(
        "readiness/derivatives.py", "probed(line, line.jvp(dx=v.to(x.dtype)), in_space(predictor, x, t, v, (length,)))",
        "probed(line, line.jvp(dx=v.to(x.dtype)), ())._replace(difference=torch.zeros_like(t))",
        "readiness/test_derivatives.py -k not_that_of_the_answers",
    ),
    "compiled code measured": Bug(
        "design/arithmetic.py", 'set_stance("force_eager")', 'set_stance("default")',
        "design/test_arithmetic.py -k compiled",
    ),
    "a conversion detached from time": Bug(
        "diffusion/parameterization.py", "    t = double(t)\n    alpha", "    t = double(t).detach()\n    alpha",
        "safety/test_gradcheck.py -k conversions",
    ),
    "a loss beside a trace without its noise level": Bug(
        "health/laws.py", 'run.time("sigma")[place] * trace / d', "trace / d",
        "health/test_checks.py -k jacobian_leaves"
    ),
    "p-values that are judged one by one": Bug(
        "health/judge.py", "values[order] * left / shares[order]", "values[order]", "health/test_judge.py -k holms"
    ),
    "what follows from a scale is a fault of its own": Bug(
        "health/fault.py", "if scaled:", "if False:",
        "health/test_examine.py -k 'wrongly and larger'"
    ),
    "half the second term of the Fokker-Planck equation": Bug(
        "quantities/fokker_planck.py", "x + 2 * sigma * u", "x + sigma * u",
        "quantities/test_fokker_planck.py -k multiple"
    ),
    "an embedding that is rounded, and taken for exact": Bug(
        "health/embedding.py", "if bool((numbers.to(kind).double() == numbers).all()):", "if False:",
        "health/test_embedding.py -k rounded_itself"
    ),
    "a scale that is judged in the noise, whatever the network predicts": Bug(
        "health/scan.py", "convert(z, x, at.t, schedule, eps, own).flatten(1)", "z.flatten(1)",
        "health/test_scan.py -k 'predicted and v'"
    ),
    "a shift that is looked for where timesteps are shared": Bug(
        "health/shift.py", "if isinstance(clock, Shared):", "if False:", "health/test_shift.py -k neighbours"
    ),
    "a shift to the other side": Bug(
        "health/shift.py", "saved, square = -found", "saved, square = found", "health/test_shift.py -k offset"
    ),
    "an EDM network that is tried as anything but one": Bug(
        "checkpoints/probe.py", "*PREDICTIONS, *natural_predictions(own.schedule)", "*PREDICTIONS",
        "checkpoints/test_probe.py -k edm_network"
    ),
    "answers in no common convention, and nothing said": Bug(
        "checkpoints/probe.py", "not trained and misread(choice, test, stated)", "False",
        "checkpoints/test_probe.py -k in_no_common"
    ),
    "a band that is compared with the times before it": Bug(
        "health/scan.py", "k + SETS, min(k + 1 + BESIDE, len(found.error)), SETS", "max(0, k - BESIDE), k",
        "health/test_scan.py -k noisy_end"
    ),
    "a guess of the noise for one of what is predicted": Bug(
        "health/scan.py", "(b - a * sigma / alpha) ** 2", "1", "health/test_scan.py -k noise_alone"
    ),
    "copies that are compared with all that lies between data": Bug(
        "health/samples.py", "nearest(found.x, data) < COPY * apart", "nearest(found.x, data) < 2 * apart",
        "health/test_samples.py -k 'binomial or law'"
    ),
    # who is measured, and how good it is
    "told alpha for sigma": Bug(
        "training/objective.py", "x, target = alpha * x0 + sigma * noise", "x, target = sigma * x0 + alpha * noise",
        "training/test_objective.py -k added_with_its_weight",
    ),
    "eps and v swapped": Bug(
        "training/objective.py", "a * x0 + b * noise", "b * x0 + a * noise", "training/test_loop.py -k squared_error"
    ),
    "a mean before the square of the penalty": Bug(
        "training/objective.py", "penalty * derivative.square().mean()", "penalty * derivative.mean().square()",
        "training/test_objective.py -k added_with_its_weight",
    ),
    "x drawn a timestep later": Bug(
        "watching/difference.py", "predictor.schedule(at)", "predictor.schedule(after)",
        "training/test_card.py -k single_point",
    ),
    "K a timestep earlier": Bug(
        "watching/difference.py", "(step + 1) / count", "step / count", "training/test_card.py -k single_point"
    ),
    "a mean of changes before their norm": Bug(
        "watching/difference.py", ".flatten(1).norm(dim=1)", ".flatten(1).mean(0, keepdim=True).norm(dim=1)",
        "training/test_card.py -k single_point",
    ),
    "a monitor that puts nothing aside": Bug(
        "watching/budget.py", "return MARGIN * (self.price or 0)", "return 0.0", "training/test_monitor.py -k hundredth"
    ),
    "a command torn in two": Bug(
        "printing.py", 'quoted[0].replace(" ", "\\0")', "quoted[0]", "test_cli_terminal.py -k torn"
    ),
    "options that nobody gave": Bug(
        "cli/bug.py", "is not ParameterSource.DEFAULT", "is not None", "weights/test_outline.py -k embedded"
    ),
    "a bar before its refusal": Bug(
        "progress.py", '"delay": 0.1', '"delay": 0', "test_cli.py -k no_bar"
    ),
    "panels a step late": Bug(
        "watching/budget.py", "max(step // self.every + 1", "max(step // self.every + 2",
        "training/test_monitor.py -k multiples"
    ),
    "inspect without what is told": Bug(
        "checkpoints/load.py", "reading.convention.over(checkpoint.convention)", "checkpoint.convention",
        "checkpoints/test_load.py -k inspection_shows"
    ),
    "a monitor that leaves parts in training mode": Bug(
        "design/arithmetic.py", "part.training = mode", "part.training = True", "training/test_monitor.py -k without"
    ),
    "options in the refusals of Python": Bug(
        "dialect.py", "(in_python(str(error)),", "(str(error),", "test_dialect.py -k hands_out"
    ),
    "an error of K too small by a factor": Bug(
        "watching/difference.py", "moved.std() / root, missed.mean()", "moved.std() / root / 1.3, missed.mean()",
        "watching/test_difference.py",
    ),
    "a covariance over all samples": Bug(
        "quality/metric.py", "(len(f) - 1) ** 0.5", "len(f) ** 0.5", "quality/test_metric.py -k fewer_samples",
    ),
    "other samples than those that were drawn": Bug(
        "quality/grading.py", "x = draw(predictor", "x = sample(predictor",
        "quality/test_evaluation.py -k drawn_before",
    ),
    "a subset's error for the whole's": Bug(
        "quality/metric.py", "float(spread) * (n // 4 / (n - n // 4)) ** 0.5", "float(spread)",
        "quality/test_metric.py -k 'knows_its_error and 0.5'",
    ),
    "a datum that is its own neighbour": Bug(
        "quality/metric.py", "block, place=2", "block, place=1",
        "quality/test_metric.py -k planted",
    ),
    "data against themselves": Bug(
        "quality/grading.py", "frechet(rest, some)", "frechet(features, some)",
        "quality/test_evaluation.py -k parts_the_data",
    ),
    "intervals that hide each other": Bug(
        "figures/quality.py", "whole ** (APART", "whole ** (0 * APART", "figures/test_drawn.py -k side_by_side"
    ),
    "conditions that a training leaves unsaid": Bug(
        "training/loop.py", "if data.conditions:", "if False:", "training/test_estimate.py -k what_else"
    ),
    "a sampler one timestep early": Bug(
        "sampling/sampler.py", "((k.double() + 1) / count)", "(k.double() / count)",
        "sampling/test_sampler.py -k samplers_are_diffusers_own",
    ),
    "no signal in a step of DDIM": Bug(
        "sampling/sampler.py", "x = a * x + b * eps", "x = x + b * eps",
        "sampling/test_sampler.py -k 'plain_ddim and Straight'",
    ),
    "noise that is added again": Bug(
        "sampling/sampler.py", "(STREAM, index, role)", "(STREAM, index)", "sampling/test_sampler.py -k streams"
    ),
    "samples beyond the range of the data": Bug(
        "sampling/sampler.py", "limited(predictor.limit, clips", "limited(None, clips",
        "sampling/test_sampler.py -k samplers_are_diffusers_own",
    ),
    "samples of the model that nobody looks at": Bug(
        "sampling/doubt.py", "if ratio <= HARDLY_BETTER or", "if True or", "sampling/test_doubt.py -k far_out"
    ),
    "cautions that are facts": Bug(
        "store/notes.py", "parts[not isinstance(note, Caution)]", "parts[1]",
        "study/test_measure.py -k meaning_of_numbers"
    ),
    "x0 of eps without a signal": Bug(
        "quantities/flow.py", "torch.where(faint, own, moved)", "moved", "quantities/test_quantity.py -k signal_left"
    ),
    "all timesteps shared": Bug(
        "timestep.py", "block < self.clock.blocks", "block <= self.clock.blocks", "test_share.py -k rule_is"
    ),
    "no time in the first place": Bug(
        "timestep.py", "name in NAMES if name in named)", "name in NAMES if name in named[1:])",
        "test_share.py -k no_name",
    ),
    "a guidance that is not told": Bug(
        "share.py", '"forward": forward, ', "", "test_share.py -k 'forward_shares'"
    ),
    "a tenth from the noise": Bug(
        "advice/sharing.py",
        "usual = cells.after(PAPER_END)",
        "usual = max(1, cells.place(PAPER_END * run.count))",
        "advice/test_sharing.py -k none_is_needed",
    ),
    "edges between integers": Bug(
        "results/clock.py", "map(round, uniform) if", "uniform if", "results/test_run.py -k spelling"
    ),
    "a grid even in log t": Bug(
        "design/plan.py", "schedule is not None and", "schedule is None and", "design/test_plan.py -k log_snr"
    ),
    "classes of other draws": Bug(
        "design/points.py", "[each[i][name] for i in draws]", "[each[i][name] for i in sorted(draws)]",
        "test_classes.py -k own_x0",
    ),
    "latents that are not scaled": Bug(
        "checkpoints/encoder.py", "(z - self.shift) * self.scale", "z - self.shift",
        "checkpoints/test_encoder.py -k posterior"
    ),
    "hidden copies among the data": Bug(
        "data/dataset.py", 'name.startswith(".") or name in ADDED', "name in ADDED",
        "data/test_dataset.py -k hidden_copies",
    ),
    "a lateness everywhere for sharing": Bug(
        "checkpoints/probe.py", "return found if float((earlier - true).mean()) > 0 else None", "return found",
        "checkpoints/test_probe.py -k late_everywhere",
    ),
    "files over their user": Bug(
        "diffusion/convention.py", "replace(other, **self.parts)", "replace(self, **other.parts)",
        "formats/test_native.py -k overrides",
    ),
    "a word that is dropped": Bug(
        "checkpoints/reading.py", "if value is not None}", "if value}", "checkpoints/test_reading.py -k label"
    ),
    "an error rate on both sides in the probe": Bug(
        "checkpoints/probe.py", "level=1 - 2 * ALPHA", "level=1 - ALPHA",
        "checkpoints/test_probe.py -k student"
    ),
    "draws of one sample as evidence of their own": Bug(
        "checkpoints/probe.py", "gain[rows == row].mean() for row in rows.unique()", "value for value in gain",
        "checkpoints/test_probe.py -k student",
    ),
    "a network that is no better than a guess contradicts its files": Bug(
        "checkpoints/probe.py", "return gain, trained and gain[1] > MARGIN", "return gain, gain[1] > MARGIN",
        "checkpoints/test_false_alarms.py -k too_small",
    ),
    "no square in the probe's guess": Bug(
        "checkpoints/trial.py", "rest.square().mean()", "rest.abs().mean()", "checkpoints/test_probe.py -k wiener"
    ),
    "a range at another noise level": Bug(
        "checkpoints/trial.py", "- 2 * math.log", "+ 2 * math.log", "checkpoints/test_probe.py -k scaled_range"
    ),
    "a prediction that is stated twice": Bug(
        "formats/scheduler.py", 'else "sample"', 'else "epsilon"',
        "formats/test_scheduler.py -k former",
    ),
    "a range taken for the other": Bug(
        "diffusion/convention.py", "(2.0, -1.0) if float(data.min()) >=", "(2.0, -1.0) if float(data.min()) <",
        "checkpoints/test_probe.py -k unit_interval",
    ),
    "a class for no class": Bug(
        "formats/conditioning.py", 'config["num_embeds_ada_norm"] or 1000])', 'config["num_embeds_ada_norm"] - 1])',
        "formats/test_conditioning.py",
    ),
    "a crop for a size": Bug(
        "formats/conditioning.py", "[side, side, 0.0, 0.0, side, side]", "[0.0, 0.0, side, side, side, side]",
        "formats/test_conditioning.py",
    ),
    "a first class for no class": Bug(
        "formats/openai.py", 'shape["num_classes"] - 1 if', "0 if", "formats/test_openai.py -k flow_matching"
    ),
    "averages in the order of their spelling": Bug(
        "weights/container.py", "key=lambda name: (len(name), name)", "key=None",
        "weights/test_container.py -k counted"
    ),
    "data made again at every timestep": Bug(
        "study/ahead.py", "if i in self._now:", "if False:", "study/test_ahead.py -k bit"
    ),
    # what is kept
    "half done is done": Bug(
        "store/store.py", "if (marks == MISSING).any():", "if (marks == MISSING).all():", "store/test_store.py -k grew"
    ),
    "damage is done": Bug(
        "store/store.py",
        "array.chunks).size)\n        except UNREADABLE:\n            return False",
        "array.chunks).size)\n        except UNREADABLE:\n            return True",
        "store/test_store.py -k flipped_bit",
    ),
    "any codec of a stranger's": Bug(
        "store/format.py", "            and first == (", "            or first == (", "store/test_reader.py -k no_codec"
    ),
    "the copy of the metadata is not looked at": Bug(
        "store/format.py", 'tables.append(copy["metadata"])', "pass", "store/test_reader.py -k no_codec"
    ),
    "what is packed says how large it is": Bug(
        "store/reader.py", "if not width or size > most:", "if not width:", "store/test_reader.py -k zstandard"
    ),
    "a terminal is told what to do": Bug(
        "text.py", 'printable(text[bar:], keep="\\n\\t")', "text[bar:]", "test_text.py -k whoever"
    ),
    "a run removed meanwhile is made anew": Bug(
        "store/store.py", "if not (self.path / name).is_dir():", "if False:", "study/test_study.py -k removed"
    ),
    "draws that a growth does not number": Bug(
        "store/header.py", "np.arange(number * size, (number + 1) * size)", "np.zeros(size, np.int64)",
        "safety/test_survival.py -k growth",
    ),
    "a launch that begins is a death": Bug(
        "store/suspicion.py", "max(self.died(unit), 0) + ", "abs(self.died(unit)) + ",
        "safety/test_survival.py -k kills_every_launch",
    ),
    "a machine taken away costs a unit": Bug(
        "store/suspicion.py", "EARLY, LATE = 1, 3", "EARLY, LATE = 1, 4", "safety/test_survival.py -k taken_away"
    ),
    "a state is kept without its rows": Bug(
        "training/session.py", "writer.logged == state.step < recipe.steps", "state.step < recipe.steps",
        "training/test_session.py -k full_once",
    ),
    "weights that went on are kept as a step's": Bug(
        "training/session.py", "if not state.holds:", "if False:", "training/test_session.py -k went_on"
    ),
    "what the compiler thinks of other libraries is told": Bug(
        "training/learner.py", 'warnings.filterwarnings("ignore"', 'warnings.filterwarnings("error"',
        "training/test_learner.py -k what_torch_compiles",
    ),
    "the same scale for every picture on a device": Bug(
        "training/batch.py", "found.float() / self.half - 1", "found.float() / 127.5 - 1",
        "training/test_batch.py -k samples_on_a_device",
    ),
    "a part of a row is a row": Bug(
        "watching/log.py", "left = left[self.file.write(left) :]", "left = left[: 0 * self.file.write(left)]",
        "training/test_session.py -k takes_a_part",
    ),
    "the old folder is lost": Bug(
        "files.py", "    except OSError:\n        restore(path)\n        raise", "    except OSError:\n        raise",
        "test_files.py -k replaced_or_stays",
    ),
    "newer formats are read": Bug(
        "store/format.py", "version > FORMAT_VERSION", "version > 1000", "store/test_store.py -k newer"
    ),
    "a mean of differences hides one": Bug(
        "study/verify.py", "float(gap.max())", "float(gap.mean())", "study/test_verify.py"
    ),
    "checksums are not looked at": Bug(
        "weights/archive.py",
        "except FAULTS as error:\n            name =",
        "except FAULTS as error:\n            return\n            name =",
        "weights/test_tensors.py",
    ),
    "one of two averages": Bug(
        "weights/container.py", 'weights != "raw" and len(by_place) > 1', "False",
        "weights/test_averages.py -k never_silently"
    ),
    "averages that were never begun": Bug(
        "weights/averages.py", "all(bool(tensor.any())", "all(True",
        "weights/test_averages.py -k never_silently"
    ),
    "two tables of contents": Bug(
        "weights/archive.py", "start + length + tail != size or ", "", "weights/test_archive.py -k two_tables"
    ),
    "any key of a dictionary": Bug(
        "weights/pickled.py", "elif key is not Bystander", "elif False and key is not Bystander",
        "weights/test_pickled.py -k keys",
    ),
    "tensors beyond their storage": Bug(
        "weights/pickled.py", "end * storage.dtype.itemsize > storage.bytes.numel()", "False",
        "weights/test_pickled.py -k beyond",
    ),
    "any name in a pickle": Bug(
        "weights/pickled.py", "BYSTANDERS.fullmatch(name)", "True", "weights/test_tensors.py"
    ),
    "tensors without memory": Bug(
        "weights/tensors.py", "> tensor.untyped_storage().nbytes()", "> 10**18", "weights/test_tensors.py"
    ),
    "nearly equal is equal": Bug(
        "store/merge.py", "bits(there) != bits(here)", "np.abs(there - here) > 1e-3",
        "safety/test_many_machines.py -k must_be_equal",
    ),
    "a longer unit takes the place of a shorter one": Bug(
        "store/merge.py", "if number else ():", "if number >= size(unit) else ():",
        "safety/test_many_machines.py -k held_to_the_longer",
    ),
    "verified in smaller units": Bug(
        "study/verify.py", "range(study.store.draws)", "range(study.plan.draws)",
        "safety/test_many_machines.py -k run_that_grew",
    ),

    # what is drawn
    "fonts of the machine": Bug(
        "figures/backend.py", "manager.ttflist += listed", "manager.ttflist[:0] = listed",
        "figures/test_singularity.py -k fonts_are",
    ),
    "a seventh run like the first": Bug(
        "figures/style.py", "divmod(number, CYCLE)", "(0, number % CYCLE)", "figures/test_figures.py -k looks_like",
    ),
    "a picture's beginning": Bug(
        "cli/terminal.py", "range(0, len(text), CHUNK)", "range(0, CHUNK, CHUNK)", "test_cli_terminal.py -k kitty"
    ),
    "demands on the first run alone": Bug(
        "figures/gallery.py", "    for run in runs:", "    for run in runs[:1]:",
        "figures/test_figures.py -k several_labels",
    ),
    # what a report of a bug shows
    "names that a person wrote are shown": Bug(
        "weights/outline.py", "if NAME.fullmatch(text) else", "if True else",
        "weights/test_outline.py -k private"
    ),
    "texts of the file in the error": Bug(
        "cli/bug.py", "secrets += phrases(list(held.values()))", "pass",
        "weights/test_outline.py -k error_that_quotes"
    ),
    "steps in the order of their digits": Bug(
        "findings/steps.py", "key=lambda i: steps[i]", "key=lambda i: str(steps[i])",
        "pages/test_steps.py -k order_of_steps"
    ),
    "percent signs that LaTeX takes for comments": Bug(
        "pages/latex.py", 'SPECIAL.get(letter, letter)', "letter", "pages/test_page.py -k copied_with_its_caption"
    ),
}  # fmt: skip
WITHOUT = "without "
SAMPLE = ("sign of v", "deviation for error", "J for its transpose")


def named(name: str) -> Bug:
    """The bug of that name, or its tests without it."""
    bug = BUGS[name.removeprefix(WITHOUT)]
    return bug._replace(new=bug.old) if name.startswith(WITHOUT) else bug


def mutated(bug: Bug, folder: Path) -> None:
    """A copy of the package and its tests, with the bug."""
    for name in ("lipdiag", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    file = folder / "lipdiag" / bug.file
    text = file.read_text()
    assert bug.old in text, f"{bug.file} no longer has {bug.old!r}: say the bug in the words of today's code"
    file.write_text(text.replace(bug.old, bug.new, 1))


def launched(bug: Bug, folder: Path) -> int:
    """The process in which the tests named run on the bug."""
    mutated(bug, folder)
    child = os.fork()
    if not child:
        code = 70
        try:
            signal.alarm(LONGEST)
            code = run_tests(folder, bug.tests)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    return child


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
    path, *rest = shlex.split(tests)
    return int(
        pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", str(folder / "tests" / path), *rest])
    )


def tried(bugs: Iterable[tuple[str, Bug]], workers: int) -> Iterator[tuple[str, bool, float]]:
    """Each bug, whether the tests named fail on it, and after how many seconds; as they end."""
    waiting, running = iter(bugs), {}
    while True:
        while len(running) < workers and (pair := next(waiting, None)) is not None:
            place = tempfile.TemporaryDirectory()
            running[launched(pair[1], Path(place.name))] = *pair, place, time.monotonic()
        if not running:
            return
        child, status = os.wait()
        name, bug, place, began = running.pop(child)
        place.cleanup()
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 1), f"the tests of {bug} could not be run: exit code {code}"
        yield name, code != 0, time.monotonic() - began


def main(names: list[str]) -> int:
    """Try each bug, say which were caught; the number that were not."""
    for library in LIBRARIES:
        importlib.import_module(library)
    missed = 0
    asked = ((name, named(name)) for name in names or BUGS)
    for name, found, seconds in tried(asked, os.cpu_count() or 1):
        missed += not found
        print(json.dumps({"bug": name, "caught": found, "seconds": round(seconds, 1)}), flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
