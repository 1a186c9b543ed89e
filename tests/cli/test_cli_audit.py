"""fusionbench audit: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def _small_models(monkeypatch):
    from fusionbench.audit.leak_value import estimators

    logistic = {"metadata-logistic": estimators(0)["metadata-logistic"]}
    monkeypatch.setattr("fusionbench.audit.leak_value.estimators", lambda seed: logistic)


def test_the_verdict_comes_first_and_every_section_follows(cli, tiny_card, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    answer = cli("audit", tiny_card)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "tiny / grouped-3fold: clean"
    assert max(map(len, lines)) <= 80
    for title in ("Overlap", "Missingness", "Proxies", "leak", "Confounds", "Classes"):
        assert any(title in line for line in lines)


def test_json_and_a_named_protocol(cli, tiny_card):
    answer = cli("audit", tiny_card, "--protocol", "image-3fold", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["verdict"].startswith("leaky: patients ")
    assert answer.json["protocol"]["name"] == "image-3fold"
    assert answer.json["leak_value"]["twin"] == "grouped-3fold"


def test_files(cli, tiny_card, tmp_path):
    md, js = tmp_path / "deep" / "a.md", tmp_path / "a.json"
    said = cli("audit", tiny_card, "--output", md)
    assert said.code == 0 and "clean" in said.out
    assert cli("audit", tiny_card, "--output", js).code == 0
    text = md.read_text(encoding="utf-8")
    assert text.startswith("# Audit of tiny / grouped-3fold\n\n**clean**\n")
    assert "generated" in text and str(tiny_card.parent) not in text
    assert json.loads(js.read_text(encoding="utf-8"))["verdict"] == "clean"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "nowhere"),
        (["synthetic", "--protocol", "grouped-6fold"], "grouped-5fold"),
        (["synthetic", "--output", "x.pdf"], ".md or .json"),
    ],
)
def test_what_cannot_be_audited_is_said(cli, arguments, text):
    answer = cli("audit", *arguments)
    assert answer.code == 2 and text in answer.err and "Traceback" not in answer.err
