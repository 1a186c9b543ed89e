"""Settings are listed from the fields that declare them."""

from __future__ import annotations

from fusionbench.config.run_config import SETTINGS


def test_settings_are_listed(cli) -> None:
    rows = cli("list", "settings", "--json").json
    assert [row["name"] for row in rows] == list(SETTINGS)
    assert all(row["summary"] and row["option"].startswith("--") for row in rows)
    text = cli("list", "settings", "augment").out
    assert "mild" in text and "metablock-2021" in text and "--augment" in text
