"""A model card: what a trained model is, how it was made, and how its output moves with the timestep.

The table shows K(k, k + 1) = mean over x of ||eps(x, k) - eps(x, k + 1)||, x drawn at k. With data on a finite set of
points and sigma -> 0 the exact noise is (x - alpha x0) / sigma, so K(k, k + 1) -> sqrt(d) (1 - sigma_k / sigma_(k+1)).
"""

import json
import math

import torch
from torch import Tensor

from lipdiag.diffusion.predictor import Predictor
from lipdiag.training.data import Data
from lipdiag.training.recipe import RECIPES, Recipe

TIMESTEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 900)
DRAWS = 256
