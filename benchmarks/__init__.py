"""What every quantity costs, next to its floor and to what one would write instead: `python -m benchmarks`.

The unit is F, one forward pass of the same batch without gradients, timed before and after each piece of work in the
same run: ratios survive a busy or slow machine, seconds do not. The floor of a quantity is one pass for the
linearization and one for each Jacobian product, since a product repeats the multiplications of a pass.
"""
