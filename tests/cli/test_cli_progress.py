"""Progress as lines and as bars, on a clock of our own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fusionbench.cli import progress as progress_module
from fusionbench.cli.progress import BarProgress, LineProgress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    monkeypatch.setattr(progress_module, "time", ticking)
    return ticking


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_quick_task_says_one_thing_or_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress()
    with progress.task("reading files", 10, "file") as task:
        task.advance(10)
    assert lines(capsys) == []
    with progress.task("fold 0", 64, "img") as task:
        task.advance(64)
        clock.now += 0.5
        task.advance(0, epoch=1, loss=0.25)
    assert lines(capsys) == ["fold 0: 64/64 img, 0.5 s, epoch 1 loss 0.250"]


def test_a_long_task_speaks_now_and_then_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with LineProgress().task("decoding", 6000, "img") as task:
        for _ in range(600):
            clock.now += 1
            task.advance(10)
    said = lines(capsys)
    assert said[0] == "decoding: 100/6000 img, 10 img/s, 9 min 50 s left"
    assert said[1] == "decoding: 300/6000 img, 10 img/s, 9 min 30 s left"
    assert said[-1] == "decoding: 6000/6000 img, 10 img/s, 10 min 00 s"
    assert 8 < len(said) < 14  # ten minutes


def test_what_was_done_before_says_nothing_of_the_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with LineProgress().task("fold 0", 3000, "img") as task:
        task.resume(2000, epoch=2)
        for _ in range(100):
            clock.now += 1
            task.advance(10)
    said = lines(capsys)
    assert said[0].startswith("fold 0: 2100/3000 img, 10 img/s, 1 min 30 s left")
    assert said[-1] == "fold 0: 3000/3000 img, 10 img/s, 1 min 40 s, epoch 2"


def test_nested_tasks_tell_the_time_left_of_the_whole(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress()
    with progress.task("folds", 5, "fold") as folds:
        for k in range(5):
            with progress.task(f"fold {k}", 100, "img") as task:
                for _ in range(25):
                    clock.now += 1
                    task.advance(4)
            folds.advance()
    said = lines(capsys)
    assert said[0] == "fold 0: 40/100 img, 4.0 img/s, 15 s left, 1 min 55 s left for all folds"
    assert said[-1] == "folds: 5/5, 2 min 05 s"
    assert [line for line in said if line.startswith("folds")] == said[-1:]
    assert len(said) == len(set(said)) == 5 * 2 + 1


def test_parts_go_on_beside_each_other(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress().task("folds", 4, "fold") as folds:
        with folds.part("fold 0", 100, "img") as first:
            with folds.part("fold 1", 100, "img") as second:
                for _ in range(20):
                    clock.now += 1
                    first.advance(2)
                    second.advance(4)
            folds.advance()
            clock.now += 10
            first.advance(10)  # of four folds one and a half, in 30 s
        with pytest.raises(KeyError), folds.part("fold 2", 100, "img"):
            raise KeyError
    said = lines(capsys)
    assert said[0].startswith("fold 0: 20/100 img, 2.0 img/s, 40 s left, ")
    assert said[1] == "fold 1: 40/100 img, 4.0 img/s, 15 s left, 57 s left for all folds"
    assert "fold 1: 80/100 img, 4.0 img/s, 20 s" in said
    assert "fold 0: 50/100 img, 1.7 img/s, 30 s left, 50 s left for all folds" in said
    assert not [line for line in said if line.startswith("fold 2")]
    assert said[-1] == "folds: 1/4, 30 s"


def test_bars_of_parts_stand_beside_each_other(clock: Clock) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, color_system=None)
    progress = BarProgress(console)
    with progress.task("folds", 2, "fold") as folds, folds.part("fold 0", 10, "img") as first:
        with folds.part("fold 1", 10, "img") as second:
            clock.now += 5
            first.advance(5)
            second.advance(5)
            progress._bars.refresh()
            both = screen.getvalue()
            second.advance(5)
        folds.advance()
        progress._bars.refresh()
    assert "fold 0" in both and "fold 1" in both and "50% 0/2, 5.0 s left" in both
    assert "fold 1: 10/10 img" in screen.getvalue()
    assert "75% 1/2" in screen.getvalue()


def test_an_interrupted_task_is_not_reported_as_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress()
    with pytest.raises(KeyError), progress.task("fold 0", 10, "img") as task:
        clock.now += 5
        task.advance(3)
        raise KeyError
    assert lines(capsys) == []
    with progress.task("fold 1", 10, "img") as task:  # which is nobody's child
        clock.now += 20
        task.advance(3)
    assert lines(capsys)[0] == "fold 1: 3/10 img, 0.1 img/s, 47 s left"


def test_bars_show_share_rate_time_left_and_what_is_nested(clock: Clock) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, color_system=None)
    progress = BarProgress(console)
    with progress.task("folds", 2, "fold") as folds:
        for k in range(2):
            with progress.task(f"fold [{k}]", 100, "img") as task:
                clock.now += 5
                task.advance(50, loss=1.5)
                progress._bars.refresh()
                halfway = screen.getvalue()
                clock.now += 5
                task.advance(50)
            folds.advance()
        progress.note("a [note]")
    assert "50% 10 img/s, 5.0 s left, loss 1.500" in halfway
    assert "75% 1/2, 5.0 s left" in halfway  # half of the second of two folds
    assert "fold [1]" in halfway
    text = screen.getvalue()
    assert "a [note]" in text
    assert "fold [0]: 100/100 img, 10 img/s, 10 s, loss 1.500" in text
    assert "folds: 2/2, 20 s" in text


def test_a_task_of_nothing_is_whole() -> None:
    with LineProgress().task("nothing", 0) as task:
        task.advance(0)
    assert progress_module.Counter(LineProgress(), "nothing", 0, "img", None).share == 1.0
