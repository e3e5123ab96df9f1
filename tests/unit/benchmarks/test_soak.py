"""What the soak calls growth."""

from benchmarks.cases.soak import growth


def test_what_fills_at_the_beginning_is_no_growth() -> None:
    flat = [10.0, 40.0, 80.0, *[100.0] * 12]
    assert growth("rss_mib", {"host-0": flat}) == {"rss_mib_growth": {"host-0": 0.0}, "rss_mib_growth_max": 0.0}


def test_a_leak_is() -> None:
    leaking = [float(minute) for minute in range(60)]
    assert growth("rss_mib", {"host-0": leaking, "host-1": [1.0] * 60})["rss_mib_growth_max"] == 30.0
