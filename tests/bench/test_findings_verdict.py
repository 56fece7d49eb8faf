"""The rule of the verdicts, against SciPy's t test and an example of Holm's adjustment worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastclr.bench.findings.verdict import CONTRADICTED, HOLDS, NOT_RESOLVED, holm, judge

VALUES = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=3, max_size=10)


@given(VALUES.filter(lambda values: len(set(values)) > 1))
def test_interval_and_p_are_those_of_scipy(values: list[float]) -> None:
    found, expected = judge(values), stats.ttest_1samp(values, 0.0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)
    opposite = judge([-value for value in values])
    assert {HOLDS: CONTRADICTED, CONTRADICTED: HOLDS}.get(found.verdict, NOT_RESOLVED) == opposite.verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((5.0, 6.0, 7.0), HOLDS),
        ((-5.0, -6.0, -7.0), CONTRADICTED),
        ((5.0, 6.0, 7.0, -0.1, 6.0, 6.0, 6.0), NOT_RESOLVED),  # the interval is above 0, but not all signs are
        ((0.1, 3.0, 9.0), NOT_RESOLVED),  # all signs agree, but the interval contains 0
        ((50.0, 60.0), NOT_RESOLVED),  # two seeds resolve nothing
        ((2.0, 2.0, 2.0), HOLDS),
        ((0.0, 0.0, 0.0), NOT_RESOLVED),
    ],
)
def test_rule(values: tuple[float, ...], verdict: str) -> None:
    assert judge(values).verdict == verdict


def test_what_cannot_be_judged() -> None:
    assert math.isnan(judge((1.0, 2.0)).low)
    for values in ((), (1.0, math.nan, 2.0)):
        with pytest.raises(ValueError, match="effects must be finite numbers"):
            judge(values)


def test_holm() -> None:
    # 4 x 0.01, then the larger of 3 x 0.02 and before, 2 x 0.03 likewise, and 0.04; nan does not count
    adjusted = holm({"c": 0.03, "a": 0.01, "x": math.nan, "d": 0.04, "b": 0.02})
    assert {name: adjusted[name] for name in "abcd"} == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert math.isnan(adjusted["x"])
    assert holm({"a": 0.7, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})
