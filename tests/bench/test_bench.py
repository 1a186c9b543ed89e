"""`fusionbench bench`: it measures what it claims, and its tables hold all of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from traced import traced

from fusionbench.bench import speed_table, subjects
from fusionbench.bench.measure import (
    SpeedMeasurement,
    bench,
    interleaved,
    open_shared,
    speed_ratio,
    warm_up,
)
from fusionbench.bench.subjects import BareNetwork, TrainedMethod
from fusionbench.cli.bench import bench_command, print_speeds
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import RunFailedError
from fusionbench.progress import Task

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_CPU = Execution(device="cpu")


@pytest.fixture(autouse=True)
def _settings_stay() -> Iterator[None]:
    """The trainer's switches are the process's; other tests get theirs back."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    limit = torch._dynamo.config.cache_size_limit
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch._dynamo.config.cache_size_limit = limit


def call(*arguments: str) -> Result:
    return CliRunner().invoke(bench_command, arguments, standalone_mode=False)


def test_a_bench_prints_and_writes(tmp_path: Path) -> None:
    file = tmp_path / "speed" / "cpu.json"
    answer = call(
        *("--fusion", "none,sgmc:ce", "--backbone", "test_resnet", "--image-size", "32"),
        *("--batch-size", "8", "--steps", "2", "--rounds", "2", "--device", "cpu"),
        *("--precision", "fp32", "--output", str(file)),
    )
    assert answer.exception is None and answer.return_value == 0
    for text in ("images/s", "ms/step", "vs bare", "vs none", "test_resnet", "batch size: 8"):
        assert text in " ".join(answer.output.split())
    written = json.loads(file.read_text("utf-8"))
    assert [p.name for p in file.parent.iterdir()] == ["cpu.json"]
    assert [row["method"] for row in written["rows"]] == ["bare", "none", "sgmc:ce"]
    assert written["setting"]["precision"] == "fp32"


def test_rows_are_compared_with_the_bare_network_and_the_first_method(quick: RunConfig) -> None:
    names = ["concat", "sgmc", "sgmc:ce", "sgmc"]
    measured = bench(names, quick, ON_CPU, steps=1, rounds=2)
    rows = {row["method"]: row for row in measured.rows}
    assert [*rows] == ["bare", "concat", "sgmc", "sgmc:ce"]
    assert rows["sgmc"]["loss"] == "ce+self-contrastive" and rows["sgmc:ce"]["loss"] == "ce"
    assert rows["bare"]["vs bare"] is rows["bare"]["vs concat"] is None
    assert rows["concat"]["vs concat"] is None and rows["concat"]["vs bare"]["median"] > 0
    assert rows["sgmc"]["vs concat"]["min"] <= rows["sgmc"]["vs concat"]["max"]
    for row in rows.values():
        assert len(row["rounds"]) == 2 and row["path"] == "eager" and row["peak MB"] is None
        assert row["images/s"] * row["ms/step"] / 1000 == pytest.approx(16, rel=0.5)
    setting = measured.setting
    assert (setting["device"], setting["threads"]) == ("cpu", torch.get_num_threads())
    assert (setting["precision"], setting["backbone"]) == ("fp32", "test_resnet")
    alone = bench(["concat"], quick, ON_CPU, steps=1, rounds=1)
    assert "vs bare" in alone.rows[1] and "vs concat" not in alone.rows[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fusion", "sgmk"), "Did you mean sgmc"),
        (("--fusion", "sgmc:cee"), "Did you mean ce"),
        (("--fusion", "metadata-logistic"), "sees no photograph"),
        (("--fusion", ","), "name at least one method"),
        (("--output", "speed.txt"), "must end in .md, .csv or .json"),
        (("--backbone", "resnet"), "timm has no backbone called 'resnet'"),
        (("--batch-size", "1"), "--batch-size 1: must be greater than or equal to 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], message: str) -> None:
    answer = call("--device", "cpu", *arguments)
    assert answer.exception is not None
    assert message in f"{answer.exception} {getattr(answer.exception, 'message', '')}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert "PyTorch sees no GPU" in str(call("--device", "cuda").exception)


def test_a_method_trains_as_many_full_steps_as_it_is_told(quick: RunConfig) -> None:
    method = TrainedMethod("sgmc", open_shared(quick, ON_CPU), steps=3)
    batches: list[int] = []
    step = method.step.loss.register_forward_pre_hook(
        lambda module, inputs: batches.append(len(inputs[1]))
    )
    before = [p.detach().clone() for p in method.step.trained.parameters()]
    method.run(3)
    method.run(9)  # more than there are photographs for
    step.remove()
    assert batches == [quick.training.batch_size] * 12
    after = method.step.trained.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_bare_network_is_timms_own_with_a_head(quick: RunConfig) -> None:
    bare = BareNetwork(open_shared(quick, ON_CPU))
    assert not any(module._forward_hooks for module in bare.network.modules())
    before = [p.detach().clone() for p in bare.network.parameters()]
    bare.run(2)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, bare.network.parameters(), strict=True)
    )


def test_a_captured_bare_network_trains_as_a_plain_one(
    quick: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "CudaGraphs", lambda device: traced)
    monkeypatch.setattr(torch, "compile", _cannot)
    shared = open_shared(quick, ON_CPU)
    plain = BareNetwork(shared)
    shared.path = "compiled+captured"
    captured = BareNetwork(shared)
    for network in (plain, captured):
        # Dropping out and statistics of the warm-up steps would tell them apart.
        network.network.eval()
        network.run(3)
    assert captured.path == "captured"  # what cannot be compiled falls back
    for a, b in zip(plain.network.parameters(), captured.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def _cannot(*_: object, **__: object) -> None:
    raise RuntimeError("not here")


class Clock:
    """Time passes only in the work that is measured."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_rounds_interleave_and_rotate() -> None:
    clock = Clock()
    work = {name: clock.work(name, seconds) for name, seconds in (("a", 1), ("b", 2), ("c", 4))}
    seconds = interleaved(work, 3, CPU, Task(), clock=lambda: clock.now)
    assert seconds == {"a": [1, 1, 1], "b": [2, 2, 2], "c": [4, 4, 4]}
    assert "".join(clock.order) == "abcbcacab"


def test_the_clock_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU still has to do when Python is done counts, and counts for the one that asked."""
    clock = Clock()
    queued: list[float] = []

    def synchronize(device: torch.device) -> None:
        assert device == GPU
        clock.now += sum(queued)
        queued.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    queued.append(100)  # of something earlier
    work = {"a": lambda: queued.append(1), "b": lambda: queued.append(2)}
    seconds = interleaved(work, 2, GPU, Task(), clock=lambda: clock.now)
    assert seconds == {"a": [1, 1], "b": [2, 2]}


def test_peak_memory_of_a_gpu_is_what_a_subject_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Subject:
        def run(self, steps: int) -> None:
            calls.append("run")

    for name, answer in (
        *(("synchronize", None), ("empty_cache", None), ("reset_peak_memory_stats", None)),
        *(("memory_allocated", 300), ("max_memory_allocated", 1000)),
    ):
        monkeypatch.setattr(
            torch.cuda, name, lambda *_, name=name, answer=answer: calls.append(name) or answer
        )
    _, peak = warm_up(Subject, GPU)  # type: ignore[arg-type]
    assert peak == 700
    assert calls.index("reset_peak_memory_stats") < calls.index("run")
    assert calls[-2:] == ["synchronize", "max_memory_allocated"]
    assert warm_up(Subject, CPU)[1] is None  # type: ignore[arg-type]


def test_exhausted_memory_is_told_with_a_remedy() -> None:
    def too_large() -> BareNetwork:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(RunFailedError, match="Out of memory on cpu") as raised:
        warm_up(too_large, CPU)
    assert "--batch-size" in raised.value.remedy


def test_a_ratio_is_of_the_same_round() -> None:
    # A round at half speed slows both: the ratio does not notice.
    assert speed_ratio([2, 4, 5], [1, 2, 3]) == {"median": 0.5, "min": 0.5, "max": 0.6}


MEASURED = SpeedMeasurement(
    {"device": "cuda", "name": "A GPU", "threads": 8, "precision": "bf16"},
    [
        {"method": "bare", "images/s": 4000.0, "ms/step": 16.0, "vs bare": None, "vs none": None,
         "peak MB": 5000.0, "path": "compiled+captured", "loss": "ce", "rounds": [4000.0]},
        {"method": "sgmc", "images/s": 3000.0, "ms/step": 21.333,
         "vs bare": {"median": 0.75, "min": 0.7, "max": 0.8},
         "vs none": {"median": 0.85, "min": 0.8, "max": 0.9}, "peak MB": 6000.0,
         "path": "compiled+captured", "loss": "ce+self-contrastive", "rounds": [3000.0]},
    ],
)  # fmt: skip


def test_markdown_states_what_was_measured_on_what() -> None:
    text = speed_table.markdown(MEASURED, "fusionbench bench --fusion sgmc")
    head, setting, table, *notes = text.strip().split("\n\n")
    assert head == ("<!-- Generated by `fusionbench bench &#45;&#45;fusion sgmc`; do not edit. -->")
    assert setting == "device: cuda; name: A GPU; threads: 8; precision: bf16"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    ratios = ["vs bare", "vs none"]
    assert cells[0] == ["method", "images/s", "ms/step", *ratios, "peak MB", "path", "loss"]
    assert cells[2] == ["bare", "4,000", "16.0", "", "", "5,000", "compiled+captured", "ce"]
    assert cells[3][:4] == ["sgmc", "3,000", "21.3", "0.750 (0.700-0.800)"]
    assert notes == [*speed_table.NOTES]


def test_columns_are_there_only_where_they_say_something() -> None:
    bare = {**MEASURED.rows[0], "peak MB": None}
    shown = speed_table.displayed(replace(MEASURED, rows=[bare]))
    assert [*shown.columns] == ["method", "images/s", "ms/step", "path", "loss"]


def test_csv_holds_the_numbers_and_the_setting() -> None:
    frame = pd.read_csv(io.StringIO(speed_table.csv(MEASURED)))
    assert frame["vs bare.median"].tolist()[1] == 0.75 and frame["ms/step"].tolist()[1] == 21.333
    assert frame["name"].tolist() == ["A GPU", "A GPU"] and "rounds" not in frame


def test_json_holds_every_round() -> None:
    written = json.loads(speed_table.as_json(MEASURED))
    assert written == {"setting": MEASURED.setting, "rows": MEASURED.rows}


def test_a_terminal_of_80_columns_shows_every_number() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_speeds(MEASURED, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("A GPU", "4,000", "21.3", "0.750", "0.700-0.800", "0.800-0.900", "6,000"):
        assert shown in text
    for whole in ("compiled+", "captured", "ce+", "contrastive"):
        assert whole in text.split()
