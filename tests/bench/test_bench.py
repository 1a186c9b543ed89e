"""`fusionbench bench`: what is measured is what it says, and the report holds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from fusionbench.bench.folds import _timed, measure_at_once
from fusionbench.bench.measure import interleaved, ratio, split
from fusionbench.bench.operations import REST, SHOWN, most_different
from fusionbench.bench.plain_loop import bare, reference
from fusionbench.bench.real_trainer import Method
from fusionbench.bench.results import (
    AtOnce,
    FoldSpeed,
    Line,
    Machine,
    Operation,
    Ratio,
    Report,
    Split,
)
from fusionbench.bench.speed_report import data, markdown, tables
from fusionbench.bench.subjects import built, open_setting
from fusionbench.cli.bench import bench_command
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.progress import Task
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.network_study import setup

CPU = torch.device("cpu")
SMALL = RunConfig.of(
    backbone="test_resnet", weights="none", image_size=32, batch_size=8, precision="fp32"
)


@pytest.fixture(autouse=True)
def _settings_stay() -> object:
    """The trainer's switches are the process's; other tests get theirs back."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    limit = torch._dynamo.config.cache_size_limit
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch._dynamo.config.cache_size_limit = limit


def call(*arguments: str) -> Result:
    return CliRunner().invoke(bench_command, arguments, standalone_mode=False)


def test_a_bench_prints_writes_and_counts(tmp_path: Path) -> None:
    file = tmp_path / "speed" / "cpu.json"
    answer = call(
        *("--fusion", "none,sgmc,sgmc:ce", "--against", "bare", "--against", "reference"),
        *("--backbone", "test_resnet", "--image-size", "32", "--batch-size", "8"),
        *("--steps", "2", "--rounds", "2", "--device", "cpu", "--output", str(file)),
    )
    assert answer.exception is None and answer.return_value == 0
    for text in ("Training", "A step, in ms", "test_resnet, 32 px, batch 8", "vs reference"):
        assert text in answer.output
    assert "Operations" not in answer.output and "at once" not in answer.output
    found = json.loads(file.read_text("utf-8"))
    assert [p.name for p in file.parent.iterdir()] == ["cpu.json"]
    lines = {line["name"]: line for line in found["lines"]}
    assert [*lines] == [
        *("bare", "none", "none reference", "sgmc", "sgmc reference"),
        *("sgmc:ce", "sgmc:ce reference"),
    ]
    assert lines["sgmc"]["loss"] == "ce+self-contrastive" and lines["sgmc:ce"]["loss"] == "ce"
    assert [*lines["sgmc"]["ratios"]] == ["bare", "none", "sgmc reference"]
    assert lines["bare"]["ratios"] == {} and lines["sgmc"]["peak_memory"] is None
    for line in lines.values():
        assert len(line["rounds"]) == 2
        assert line["images_per_s"] * line["ms_per_step"] / 1000 == pytest.approx(8, rel=0.5)
    assert {lines[n]["precision"] for n in lines if n.endswith("reference")} == {"fp32"}
    assert lines["sgmc reference"]["path"] == "eager, contiguous"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fusion", "sgmk"), "Did you mean sgmc?"),
        (("--fusion", "sgmc:cee"), "Did you mean ce"),
        (("--fusion", "metadata-logistic"), "sees no photograph"),
        (("--fusion", ","), "name at least one method"),
        (("--output", "speed.txt"), "ends in .md or .json"),
        (("--backbone", "resnet"), "There is no backbone called 'resnet'"),
        (("--batch-size", "1"), "1 is not in the range"),
        (("--folds-at-once", "two"), "'two' is not a list of whole numbers"),
        (("--folds-at-once", "2,0"), "at least one fold at a time"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], message: str) -> None:
    answer = call("--device", "cpu", *arguments)
    assert answer.exception is not None
    assert message in f"{answer.exception} {getattr(answer.exception, 'message', '')}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert "PyTorch sees no GPU" in str(call("--device", "cuda").exception)


def test_a_method_trains_as_many_steps_as_it_is_told() -> None:
    setting = open_setting(SMALL, Execution(device="cpu"))
    method = Method("sgmc", setting, steps=3)
    taken: list[int] = []
    step = method.optimizer.step
    method.optimizer.step = lambda: taken.append(len(method.arrays.labels)) or step()
    method.run(3)
    assert len(taken) == 3
    method.run(2)
    assert len(taken) == 5 and set(taken) == {24}


def test_the_bare_backbone_is_timms_own_with_a_head() -> None:
    loop = bare(open_setting(SMALL, Execution(device="cpu")))
    net = loop.trained[0]
    assert not any(module._forward_hooks for module in net.modules())
    before = [p.detach().clone() for p in net.parameters()]
    loop.run(2)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_reference_is_the_same_model_in_plain_form() -> None:
    setting = open_setting(SMALL.changed(precision="bf16"), Execution(device="cpu"))
    loop = reference("sgmc", setting)
    assert loop.precision == "fp32" and loop.image.is_contiguous()
    assert all(p.is_contiguous() for p in loop.trained.parameters())
    model, loss, _ = built("sgmc", SMALL, loop.trained["model"].backbone)
    ours = sum(p.numel() for p in (*model.parameters(), *loss.parameters()))
    assert sum(p.numel() for p in loop.trained.parameters()) == ours


def test_parts_hold_each_other() -> None:
    """Forward leaves gradients as they are, the whole step makes new ones."""
    method = Method("sgmc", open_setting(SMALL, Execution(device="cpu")))
    parts = method.parts()
    parameters = list(method.step.trained.parameters())
    before = [p.grad for p in parameters]
    for name in ("feed", "inputs", "forward"):
        parts[name]()
        assert all(p.grad is g for p, g in zip(parameters, before, strict=True))
    parts["whole"]()
    assert any(p.grad is not g for p, g in zip(parameters, before, strict=True))
    values = [p.detach().clone() for p in parameters]
    parts["optimizer"]()
    assert any(not torch.equal(a, b) for a, b in zip(values, parameters, strict=True))


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
    found = interleaved(work, 3, CPU, Task(), clock=lambda: clock.now)
    assert found == {"a": [1, 1, 1], "b": [2, 2, 2], "c": [4, 4, 4]}
    assert "".join(clock.order) == "abcbcacab"


def test_a_ratio_is_of_the_same_round() -> None:
    # A round at half speed slows both: the ratio does not notice.
    assert ratio([10, 5, 12], [20, 10, 20]) == Ratio(0.5, 0.5, 0.6)


def test_parts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("fusionbench.bench.measure.interleaved.__defaults__", (lambda: clock.now,))
    seconds = {"feed": 1, "inputs": 2, "forward": 10, "whole": 25, "optimizer": 3}

    class Subject:
        def parts(self) -> dict[str, Callable[[], None]]:
            return {name: clock.work(name, s / 1000) for name, s in seconds.items()}

    found = split(Subject(), 4, 3, CPU, Task())  # type: ignore[arg-type]
    expected = Split(data=3, forward=8, backward=15, optimizer=3)
    for name in ("data", "forward", "backward", "optimizer"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))


def test_a_profile_tells_what_a_method_does_more(tmp_path: Path) -> None:
    file = tmp_path / "cpu.json"
    answer = call(
        *("--fusion", "none,sgmc", "--backbone", "test_resnet", "--image-size", "32"),
        *("--batch-size", "8", "--steps", "2", "--rounds", "1", "--device", "cpu"),
        *("--profile", "--output", str(file)),
    )
    assert answer.exception is None and "Operations, in ms" in answer.output
    # Its own messages would stand between ours.
    assert "USDT" not in answer.output
    found = {one["name"]: one["ms"] for one in json.loads(file.read_text("utf-8"))["operations"]}
    assert REST in found and len(found) <= SHOWN + 1
    assert all([*ms] == ["bare", "none", "sgmc"] for ms in found.values())
    assert sum(ms["sgmc"] for ms in found.values()) > sum(ms["none"] for ms in found.values()) > 0


def test_operations_that_differ_most_come_first_and_nothing_is_lost() -> None:
    found = {
        "bare": {"conv": 10.0, "norm": 3.0, "fill": 0.25},
        "sgmc": {"conv": 10.5, "norm": 3.0, "bmm": 4.0},
    }
    first, second, rest = most_different(found, shown=2)
    assert first == Operation("bmm", {"bare": 0.0, "sgmc": 4.0})
    assert second == Operation("conv", {"bare": 10.0, "sgmc": 10.5})
    assert rest == Operation(REST, {"bare": 3.25, "sgmc": 3.0})
    assert len(most_different(found, shown=4)) == 4


def test_several_folds_at_once_are_timed_as_whole_runs(quick: RunConfig, tmp_path: Path) -> None:
    """Of a control: its workers need not load PyTorch."""
    execution = Execution(store=tmp_path / "untouched", device="cpu")
    config = quick.changed(fusion="missingness", loss="", epochs=1)
    (two,) = measure_at_once("missingness", config, execution, (2,))
    experiment = open_experiment(config, execution)
    images = sum(len(experiment.rows(fold).train) for fold in experiment.protocol.folds)
    assert (two.at_once, two.folds, two.epochs, two.of_first) == (2, 3, 1, 1.0)
    assert two.images_per_s == pytest.approx(images / two.seconds)
    assert not execution.store.exists()


def test_numbers_of_folds_are_held_to_the_first(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {1: 60.0, 2: 40.0, 4: 80.0}
    monkeypatch.setattr(
        "fusionbench.bench.folds._in_a_process",
        lambda work, config, execution, folds, at_once: (20.0, ended[at_once]),
    )
    found = measure_at_once("concat", quick, here, (1, 2, 4))
    assert [(one.at_once, one.seconds, one.of_first) for one in found] == [
        *((1, 40.0, 1.0), (2, 20.0, 2.0), (4, 60.0, pytest.approx(2 / 3))),
    ]


def test_folds_are_timed_in_a_real_run(quick: RunConfig, tmp_path: Path) -> None:
    execution = Execution(store=tmp_path, folds=(0, 1), device="cpu")
    experiment = setup(quick, execution)
    folds = _timed(quick, execution)
    assert len(folds) == 2
    for fold, split_ in zip(folds, experiment.protocol.folds, strict=False):
        assert fold.images == quick.training.epochs * len(experiment.rows(split_).train)
        assert (
            fold.begun < fold.ready < fold.recorded
            and fold.first_batch == quick.training.batch_size
        )
    assert folds[0].recorded <= folds[1].begun


REPORT = Report(
    date="2026-01-02T03:04+00:00",
    version="0.1.0",
    machine=Machine("cuda", "A GPU", 8, "2.14.1", "1.0.31", "13.0"),
    backbone="resnet50",
    image_size=224,
    batch_size=64,
    augment="mild",
    optimizer="adamw",
    metadata=81,
    classes=6,
    steps=50,
    rounds=5,
    lines=(
        Line("bare", "bare", "ce", "bf16", "compiled+captured", 4000, 16, (4000,),
             Split(0, 5, 10, 1), {}, 5_000_000_000),
        Line("sgmc", "method", "ce+self-contrastive", "bf16", "compiled+captured", 3000, 21.333,
             (3000,), Split(0.5, 7, 13, 1.1),
             {"bare": Ratio(0.75, 0.7, 0.8), "sgmc reference": Ratio(9.25, 9, 9.5)}, None),
        Line("sgmc reference", "reference", "ce+self-contrastive", "fp32", "eager, contiguous",
             324.3, 197.3, (324.3,), Split(0, 60, 120, 3)),
    ),
    operations=(
        Operation("aten::bmm", {"bare": 0.0, "sgmc": 2.5}),
        Operation("a_kernel<" + 60 * "x" + ">", {"bare": 15.0, "sgmc": 17.5}),
    ),
    folds=(FoldSpeed("sgmc", 30, 533, 12.34, 0.567, 2900, 0.725),),
    at_once=(AtOnce("sgmc", 4, 5, 30, 61.5, 1300, 1.25),),
)  # fmt: skip


def test_markdown_states_what_was_measured_on_what() -> None:
    text = markdown(REPORT, "fusionbench bench --folds")
    tables_end = text.index("\n\nbare:") + 1
    assert [note.split(":")[0] for note in text[tables_end:].strip().split("\n\n")] == [
        *("bare", "vs", "data", "reference", "operations", "first, further", "at once"),
    ]
    assert (
        text[:tables_end]
        == """\
<!-- Generated by `fusionbench bench &#45;&#45;folds`; do not edit. -->

- Machine: cuda: A GPU, 8 threads
- Software: fusionbench 0.1.0, torch 2.14.1, timm 1.0.31, CUDA 13.0
- Setting: resnet50, 224 px, batch 64, augmentation mild, adamw, 81 metadata features, 6 classes
- Losses: sgmc under ce+self-contrastive
- Measured: 2026-01-02T03:04+00:00, 5 rounds of 50 steps

### Training

|  | images/s | ms/step | vs bare | vs reference |
| --- | ---: | ---: | ---: | ---: |
| bare | 4,000 | 16.0 |  |  |
| sgmc | 3,000 | 21.3 | 0.750 (0.700-0.800) | 9.2 (9.0-9.5) |
| sgmc reference | 324 | 197 |  |  |

### A step, in ms

|  | data | forward | backward | optimizer | precision | path | peak MB |
| --- | ---: | ---: | ---: | ---: | --- | --- | ---: |
| bare | 0.00 | 5.00 | 10.0 | 1.00 | bf16 | compiled+captured | 5,000 |
| sgmc | 0.50 | 7.00 | 13.0 | 1.10 | bf16 | compiled+captured |  |
| sgmc reference | 0.00 | 60.0 | 120 | 3.00 | fp32 | eager, contiguous |  |

### Operations, in ms

|  | bare | sgmc |
| --- | ---: | ---: |
| aten::bmm | 0.00 | 2.50 |
| a_kernel&lt;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… | 15.0 | 17.5 |
| together | 15.0 | 20.0 |

### Whole folds

|  | epochs | images | first, s | further, s | images/s | vs bare |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| sgmc | 30 | 533 | 12.3 | 0.57 | 2,900 | 0.725 |

### Folds at once

|  | at once | folds | epochs | seconds | images/s | vs first |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| sgmc | 4 | 5 | 30 | 61.5 | 1,300 | 1.25 |
"""
    )


def test_columns_are_there_only_where_they_say_something() -> None:
    plain = replace(REPORT, lines=REPORT.lines[:1], operations=(), folds=(), at_once=())
    (_, first, _), (_, second, _) = tables(plain)
    assert first == ["", "images/s", "ms/step"] and second[-1] == "peak MB"
    assert "reference:" not in markdown(plain) and "Losses" not in markdown(plain)


def test_json_holds_everything() -> None:
    found = json.loads(json.dumps(data(REPORT)))
    assert found["machine"]["name"] == "A GPU" and found["folds"][0]["further"] == 0.567
    assert found["lines"][1]["ratios"]["bare"] == {"median": 0.75, "low": 0.7, "high": 0.8}
