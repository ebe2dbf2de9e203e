"""Divergences from a convex generator of the user, imported by name and checked at load.

Derivatives are taken by autograd, in float64 whatever the precision of the logits.
"""

import importlib
import inspect
import linecache
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignment.divergences.record import MAX_LOGIT, Divergence, Generator

GRID = torch.linspace(-MAX_LOGIT, MAX_LOGIT, 2001, dtype=torch.float64)
"""Logarithms of the ratios at which a generator is checked: the safe range in steps of 0.01."""
TOLERANCE = 1e-9
"""Tolerance for a negative second derivative, relative to f' / u."""
ZERO_TOLERANCE = 1e-6
"""Tolerance for f(1), as a constant in f may be rounded to float32."""
LIMIT_TOLERANCE = 1e-6
"""Change from e^(s / 2) to e^s, relative to the value, below which a limit is taken as reached."""
LIMIT_LOG_RATIOS = (200.0, 100.0, 50.0)
"""Tried in this order, as a part of f may overflow at the first ones."""
Function = Callable[[Tensor], Tensor]


def custom(path: str) -> Divergence:
    """Import a generator f(u) and return its record, if f is convex with f(1) = 0.

    f takes a tensor of ratios u = p / q > 0 and returns f at each of them, by operations that torch
    differentiates twice. Convexity is checked for u from e^-10 to e^10, the safe range.

    Returns:
        The record. Where f has not settled at u = e^-200, or f(u) / u at e^200, within a millionth,
        its limit counts as infinite.

    Raises:
        ValueError: if f cannot be imported or differentiated, is not finite, f(1) is not 0, or it
            is not convex; it says at which u, or in which line.
    """
    given = _imported(path)
    f = _in_float64(given)
    derivative = _derivative(f)
    _require_differentiable(path, given)
    _require_convex(path, f, derivative)
    documentation = (inspect.getdoc(given) or "user-defined").splitlines()[0]

    def reward(logits: Tensor) -> Tensor:
        ratio = logits.double().exp()
        return (ratio * derivative(ratio) - f(ratio)).to(logits.dtype)

    return Divergence(
        name=path,
        formula="sum q f(p / q)",
        generator_formula=documentation,
        reward_formula="u f'(u) - f(u), u = e^h",
        behavior=(
            "depends on f: a reward that rises fast for h > 0 covers modes, a flat one seeks modes"
        ),
        choose_when="you study a divergence that is not in the list",
        avoid_when="the divergence is in the list, whose formulas are stable in float32",
        generator=Generator(
            f=f,
            derivative=derivative,
            second_derivative=_derivative(derivative),
            at_zero=_limit(path, f, -1.0),
            slope_at_infinity=_limit(path, lambda u: f(u) / u, 1.0),
        ),
        reward=reward,
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


def _imported(path: str) -> Function:
    module_name, _, name = path.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"divergence {path!r} cannot be imported: {error}; write it as module:function, and "
            "put the module where Python finds it"
        ) from error
    if not callable(function):
        raise ValueError(f"divergence {path!r} is a {type(function).__name__}, not a function")
    imported: Function = function
    return imported


def _in_float64(given: Function) -> Function:
    return lambda u: given(u.double()).to(u.dtype)


def _derivative(f: Function) -> Function:
    """Return f' by autograd, also where gradients are switched off; itself differentiable."""

    def derivative(u: Tensor) -> Tensor:
        is_tracked = torch.is_grad_enabled() and u.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            point = u if u.requires_grad else u.clone().requires_grad_()
            values = f(point)
            if not values.requires_grad:  # the derivative of a straight piece is a constant
                return torch.zeros_like(u)
            (slope,) = torch.autograd.grad(values.sum(), point, create_graph=is_tracked)
        return slope.clone()  # autograd may give zeros without memory, which are slow to work with

    return derivative


def _require_differentiable(path: str, given: Function) -> None:
    """Call the user's function itself, so that the traceback ends in the user's line."""
    ratios = GRID.exp().requires_grad_()
    remedy = "compute f(u) by torch functions of u only, without detach, numpy or math"
    try:
        values = given(ratios)
        _derivative(_derivative(given))(ratios)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be differentiated: {type(error).__name__}: {error}, in "
            f"{_line(given, error)}; {remedy}"
        ) from error
    if values.shape != ratios.shape:
        raise ValueError(
            f"{path} must return f at each ratio: of {len(ratios)} ratios it made a tensor of "
            f"shape {tuple(values.shape)}, in {_line(given)}; leave out sums and means"
        )
    if not values.requires_grad:
        raise ValueError(f"{path} cannot be differentiated: see {_line(given)}; {remedy}")


def _require_convex(path: str, f: Function, derivative: Function) -> None:
    """Refuse a function that is not finite, 0 at 1 and convex, naming the first ratio."""
    u = GRID.exp()
    values, slopes, curvatures = f(u), derivative(u), _derivative(derivative)(u)
    for what, numbers in (("f", values), ("f'", slopes), ("f''", curvatures)):
        if (at := _first(~numbers.isfinite())) is not None:
            raise ValueError(
                f"{path} must be finite for u from e^-10 to e^10; {what}({u[at]:.6g}) is "
                f"{float(numbers[at])}"
            )
    at_one = float(f(torch.ones(1, dtype=torch.float64)))
    if abs(at_one) > ZERO_TOLERANCE:
        raise ValueError(f"{path} must be 0 at u = 1; f(1) is {at_one:.6g}, subtract that")
    rounding = TOLERANCE * (slopes.abs() + values.abs() / u)
    if (at := _first(curvatures * u < -rounding)) is not None:
        raise ValueError(
            f"{path} is not convex: f''({u[at]:.6g}) is {float(curvatures[at]):.6g}, below 0, so "
            "its reward would move the policy away from the expert there"
        )
    if (at := _first(slopes.diff() < -rounding[1:])) is not None:
        raise ValueError(
            f"{path} is not convex: f' falls from {float(slopes[at]):.6g} to "
            f"{float(slopes[at + 1]):.6g} between u = {u[at]:.6g} and {u[at + 1]:.6g}"
        )
    if slopes[-1] - slopes[0] <= rounding.max():
        raise ValueError(f"{path} is linear, so its divergence is 0 for any policy; curve it")
    # A chord of a convex function is steeper than f' where it begins, not than where it ends.
    chords = values.diff() / u.diff()
    is_wrong = (chords < slopes[:-1] - rounding[1:]) | (chords > slopes[1:] + rounding[1:])
    if (at := _first(is_wrong)) is not None:
        raise ValueError(
            f"{path}: at u = {u[at]:.6g} autograd says f' = {float(slopes[at]):.6g} where f rises "
            f"by {float(chords[at]):.6g}; a part of f is detached from u"
        )


def _first(is_wrong: Tensor) -> int | None:
    places = is_wrong.nonzero()
    return int(places[0]) if len(places) else None


def _limit(path: str, function: Function, sign: float) -> float:
    """Return the limit of a function as log u goes to sign * infinity, if it has settled."""
    far = math.nan
    for log_ratio in LIMIT_LOG_RATIOS:
        points = torch.tensor([log_ratio / 2.0, log_ratio], dtype=torch.float64)
        near, far = function((sign * points).exp()).tolist()
        if math.isfinite(near) and math.isfinite(far):
            has_settled = abs(far - near) <= LIMIT_TOLERANCE * max(1.0, abs(far))
            return far if has_settled else math.inf
    if math.isnan(far):
        raise ValueError(
            f"{path} is not a number at u = e^{sign * LIMIT_LOG_RATIOS[-1]:g}; rewrite it so that "
            "nothing overflows"
        )
    return math.inf


def _line(given: Function, error: Exception | None = None) -> str:
    """Name the last line of the user's function that an error went through, or its first line."""
    code = getattr(given, "__code__", None)
    if code is None:
        return repr(given)
    number = code.co_firstlineno
    trace = error.__traceback__ if error else None
    while trace is not None:
        if trace.tb_frame.f_code is code:
            number = trace.tb_lineno
        trace = trace.tb_next
    source = linecache.getline(code.co_filename, number).strip()
    return f"line {number} of {code.co_filename}: {source}"
