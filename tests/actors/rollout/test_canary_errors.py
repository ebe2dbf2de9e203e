"""The canary's two error rates on planted faults, on a part of the benchmark's grid."""

import pytest

from tests.benchmarks.canary_errors import SURE_EFFECT, TINY, measure, random_texts
from tests.fakes.planted_faults import WRONG, all_stale


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("model", TINY)
def test_no_healthy_weights_are_rejected_and_no_fault_above_rounding_is_missed(
    tmp_path, model, dtype
):
    texts, num_stale = random_texts(60, 40, seed=3), 0
    for outcome in measure(TINY[model](tmp_path), texts, dtype, rates=(1e-2, 1e-5)):
        assert len(outcome.readings) == 5
        if outcome.fault is None:
            assert outcome.num_rejected == 0
            assert not any(reading.note for reading in outcome.readings)
        elif outcome.fault in (*WRONG, all_stale):
            assert outcome.num_rejected == 5, outcome.fault
        else:  # a part of the weights is stale
            num_large, num_missed = outcome.missed_above(SURE_EFFECT)
            assert num_missed == 0, outcome.fault
            num_stale += num_large
    assert num_stale >= 8
