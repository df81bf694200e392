"""How a sparsity rises during a training."""

from typing import Literal

Rise = Literal["magnitude-one-shot", "magnitude-iterative", "magnitude-gradual"]


def progress(step: int, steps: int) -> float:
    """The part of a training of `steps` that is done when `step` begins, counted from 0.

    1 at the last step, so that a training of a few steps reaches the end of its schedule, too.
    """
    return 1.0 if step == steps - 1 else step / steps


def gradual(done: float, final: float, begin: float, end: float) -> float:
    """s_f − s_f·(1 − (t − t0)/(nΔt))³ at `done` in [0, 1] of the run.

    0 until `begin`, `final` from `end` on (Zhu and Gupta, 2017, arXiv:1710.01878, equation 1, from
    a sparsity of 0).
    """
    ramp = min(max((done - begin) / (end - begin), 0.0), 1.0)
    return final * (1 - (1 - ramp) ** 3)


def scheduled(schedule: Rise, done: float, final: float, begin: float, end: float, rounds: int) -> float:
    """The sparsity due at `done` in [0, 1] of the run: 0 before `begin`, `final` from `end` on.

    One-shot: all of it at `begin`. Iterative: in `rounds` steps, evenly spread over begin … end,
    each of which removes the same share of the weights that are left (Han et al., 2015,
    arXiv:1506.02626). Gradual: along the cubic schedule.
    """
    if done < begin:
        return 0.0
    if schedule == "magnitude-one-shot" or done >= end:
        return final
    if schedule == "magnitude-gradual":
        return gradual(done, final, begin, end)
    step = int((done - begin) / (end - begin) * (rounds - 1)) + 1
    return 1 - (1 - final) ** (step / rounds)
