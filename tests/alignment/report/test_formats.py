from alignment.report.formats import format_duration, format_interval


def test_a_duration_has_its_two_largest_units():
    durations = [format_duration(seconds) for seconds in (0.25, 59.0, 90.0, 3599.6, 7500.0)]
    assert durations == ["0.25 s", "59 s", "1 min 30 s", "1 h 00 min", "2 h 05 min"]


def test_an_interval_has_three_digits():
    assert format_interval({"mean": 0.75, "low": 0.5, "high": 1}) == "0.750 (0.500 to 1.000)"
