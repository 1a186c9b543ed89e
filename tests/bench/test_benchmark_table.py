"""The table of `make bench`: ratios are to the first of a group, and the machine is the run's."""

from __future__ import annotations

from benchmarks.as_markdown import markdown


def one(name: str, group: str | None, seconds: float, **extra: object) -> dict[str, object]:
    stats = {"median": seconds, "rounds": 5}
    return {"name": name, "group": group, "stats": stats, "extra_info": extra}


def test_speed_is_over_the_first_of_the_group() -> None:
    text = markdown(
        {
            "machine_info": {"measured_on": {"Machine": "A CPU", "CPU threads": "2"}},
            "datetime": "2026-01-02T03:04:05.678",
            "benchmarks": [
                one("test_bare", "steps", 0.2),
                one("test_alone", None, 1.0, peak=7),
                one("test_ours", "steps", 0.25),
            ],
        }
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["bare", "200.0", "1.000", "5", ""] in lines
    assert ["ours", "250.0", "0.800", "5", ""] in lines
    assert ["alone", "1,000.0", "1.000", "5", "peak: 7"] in lines
    assert text.index("bare") < text.index("ours") < text.index("### test_alone")
    for fact in ("- Machine: A CPU", "- CPU threads: 2", "- Measured: 2026-01-02T03:04"):
        assert f"{fact}\n" in text
