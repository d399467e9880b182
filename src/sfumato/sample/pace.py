"""How fast masks are replaced: evenly, or as Dream's published loop does it.

Dream's noise levels end at 0.001: of n masks a step from t to s replaces the share 1 - s/t, rounded down, and the last
step replaces whatever is left. With as many steps as tokens the first step so writes nothing.

Source: Ye et al. 2025 (Dream 7B, 2508.15487), `diffusion_generate` of the published model.

Shape letters: B rows.
"""

import torch
from torch import Tensor

PACES = ("even", "dream")
EPS = 1e-3  # the default of Dream's `eps`


def dream_levels(done_B: Tensor, steps_B: Tensor) -> tuple[Tensor, Tensor]:
    """The levels (t_B, s_B), float64, evenly from 1 to EPS; the last step goes to 0 instead."""
    t_B, s_B = (1 - (1 - EPS) * ((done_B + i).double() / steps_B).clamp(max=1.0) for i in (0, 1))
    return t_B, torch.where(done_B + 1 >= steps_B, 0.0, s_B)
