"""A refusal of a name says which one may be meant, whatever the name is of."""

import pytest

from lipdiag.design.plan import Plan
from lipdiag.diffusion.convention import Convention
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import UsageError, meant
from lipdiag.figures.gallery import specified
from lipdiag.figures.style import preset
from lipdiag.quality.extractor import extractor
from lipdiag.sampling.sampler import require_sampler
from lipdiag.sampling.walk import require_rule
from lipdiag.training.door import described


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (lambda: Convention.of(schedule="liner"), r"got 'liner' \(did you mean linear\?\); allowed names are linear,"),
        (
            lambda: Convention.of(schedule="liner(0.1, 0.2, 5)"),
            r"got 'liner' in 'liner\(0.1, 0.2, 5\)' \(did you mean linear\?\); allowed",
        ),
        (lambda: Convention.of(parameterization="velocty"), r"did you mean velocity\?"),
        (lambda: Convention.of(clock="timestep(1000)"), r"did you mean timesteps\?"),
        (lambda: Plan(quantities=("los",)), r"there is no quantity 'los' \(did you mean loss\?\); known are "),
        (lambda: specified("singularty"), r"there is no figure 'singularty' \(did you mean singularity\?\); known"),
        (lambda: preset("icml-wid"), r"no style 'icml-wid' \(did you mean icml-wide\?\)"),
        (lambda: require_rule("dmp"), r"there is no sampler 'dmp' \(did you mean dpm\?\) along"),
        (lambda: require_sampler(Linear(), "unipcc", 5), r"no sampler 'unipcc' \(did you mean unipc\?\): choose"),
        (lambda: described("digit"), r"there is no recipe 'digit' \(did you mean digits\?\); known"),
        (lambda: extractor("pixel"), r"no extractor 'pixel' \(did you mean pixels\?\): choose"),
    ],
)
def test_a_name_that_is_nearly_right_is_told(refused, sentence):
    with pytest.raises(UsageError, match=sentence):
        refused()


def test_nothing_is_guessed_where_no_name_is_near():
    assert meant("banana", ["linear", "cosine"]) == meant("", ["linear"]) == ""
