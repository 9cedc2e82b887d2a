"""Durations in steps, and what can be told from them."""

import pytest

from keepalive.histogram import BOUNDS, Histogram, quantile


def test_nothing_has_no_quantile() -> None:
    assert quantile(Histogram().counts, 0.5) is None


@pytest.mark.parametrize("seconds", [0.0002, 0.003, 0.04, 0.5, 2.0])
def test_a_quantile_is_right_to_a_step(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds, times=1000)
    for share in 0.01, 0.5, 0.99, 1.0:
        found = quantile(histogram.counts, share)
        assert found is not None
        assert seconds / 1.42 <= found <= seconds * 1.42


def test_the_slow_ones_are_in_the_tail_alone() -> None:
    histogram = Histogram()
    histogram.add(0.001, times=980)
    histogram.add(0.4, times=20)
    median, tail = quantile(histogram.counts, 0.5), quantile(histogram.counts, 0.99)
    assert median is not None and median < 0.002
    assert tail is not None and 0.28 < tail < 0.57


def test_what_is_off_the_scale_is_counted_and_told_as_its_end() -> None:
    histogram = Histogram()
    histogram.add(1e9)
    histogram.add(0.0)
    assert sum(histogram.counts) == 2
    assert quantile(histogram.counts, 1.0) == BOUNDS[-1]
    assert quantile(histogram.counts, 0.25) == pytest.approx(BOUNDS[0] / 2)
