"""fusionbench check FILE, fusionbench new fusion|loss NAME"""

from __future__ import annotations

from pathlib import Path

import pytest

from fusionbench.contract import Check
from fusionbench.plugin import registry

DEAF = '''
"""Does not listen to the labels, nor to the second half of the batch."""
from fusionbench.plugin.loss import Loss
class Deaf(Loss):
    def forward(self, output, target):
        return {"deaf": output.logits[: len(target) // 2].square().mean()}
'''


def test_check_of_a_good_plugin(cli) -> None:
    loss = registry.find("losses", "ce").path
    data = cli("check", loss, "--json")
    assert data.code == 0
    assert {check["status"] for check in data.json} <= {"pass", "skip"}
    answer = cli("check", loss)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[-1] == f"{len(data.json)} passed, 0 failed, 0 skipped"
    names = {check["name"] for check in data.json}
    assert len(lines) == 2 + len(names)  # one line each, however many backbones


def test_check_of_a_broken_plugin_ends_with_1_and_says_what_is_wrong(cli, tmp_path: Path) -> None:
    plugin = tmp_path / "deaf.py"
    plugin.write_text(DEAF)
    answer = cli("check", plugin)
    assert answer.code == 1
    (line,) = [line for line in answer.out.splitlines() if line.startswith("batch order")]
    assert line.split()[2:5] == ["0", "of", "2"]
    assert "the terms depend on the order of the batch (deaf: off by" in " ".join(
        answer.out.split()
    )
    assert answer.out.splitlines()[-1].split()[2] == "2"
    assert "Traceback" not in answer.err


def test_check_of_a_file_that_is_no_python(cli, tmp_path: Path) -> None:
    plugin = tmp_path / "half.py"
    plugin.write_text("x = (")
    answer = cli("check", plugin)
    assert answer.code == 1 and "never closed" in answer.out
    as_json = cli("check", plugin, "--json")
    assert as_json.code == 1
    (check,) = as_json.json
    assert (check["name"], check["status"]) == ("loads", "fail")


def test_equal_findings_are_said_once(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Check("shapes", f"net{i}", "fail", "[too] long") for i in range(3)]
    found += [Check("shapes", "net3", "pass"), Check("compiled", "net0", "skip", "no compiler")]
    monkeypatch.setattr("fusionbench.contract.check_file", lambda *a, **k: found)
    answer = cli("check", "any.py")
    assert answer.code == 1
    assert answer.out.splitlines()[1:] == [
        line.ljust(len(answer.out.splitlines()[1]))
        for line in (
            "shapes    1 of 4  net0, net1, net2: [too] long",
            "compiled  0 of 1  net0: no compiler",
        )
    ] + ["1 passed, 3 failed, 1 skipped"]


@pytest.mark.parametrize("kind", ["fusion", "loss"])
def test_new_writes_a_plugin_that_runs(
    kind: str, cli, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    answer = cli("new", kind, "My-Gate", "--folder", folder)
    assert (answer.code, answer.err) == (0, "")
    plugin = folder / "my_gate.py"
    assert f"fusionbench check {plugin}" in answer.out
    assert f"--{kind} my-gate --plugins {plugin}" in answer.out
    assert sorted(p.name for p in folder.iterdir()) == ["my_gate.py", "test_my_gate.py"]
    data = cli(*tiny_run, f"--{kind}", "my-gate", "--plugins", plugin, "--fold", 0, "--json").json
    assert data["config"][kind] == "my-gate" and len(data["folds"]) == 1
    monkeypatch.chdir(tmp_path)
    paths = cli("new", kind, "other", "--json").json
    assert all(Path(path).is_file() for path in paths.values())
    assert set(paths) == {"plugin", "test"}
    before = plugin.read_text()
    taken = cli("new", kind, "my-gate", "--folder", folder)
    assert taken.code == 2 and "already" in taken.err and plugin.read_text() == before
