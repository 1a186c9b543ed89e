"""Weights never run code, and a header cannot make us reserve what is not there."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attempts import WORDS, Attempts, changed, mutated
from safetensors.torch import save
from thorough import times

from fusionbench.models.backbones import create_net
from fusionbench.models.weights import load_weights, read_weights

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class Evil:
    """Unpickled, it writes a file: the trace of code that ran."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('ran', 'w').write('code ran')",)


def torch_saved(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(3)}
EVIL: dict[str, Callable[[], bytes]] = {
    "torch": lambda: torch_saved(Evil()),
    "in a state dict": lambda: torch_saved({**STATE, "x": Evil()}),
    "under state_dict": lambda: torch_saved({"state_dict": STATE, "args": Evil()}),
    "legacy": lambda: torch_saved(Evil(), _use_new_zipfile_serialization=False),
    "pickle": lambda: pickle.dumps(Evil()),
    "pickle 0": lambda: pickle.dumps({"a": Evil()}, 0),
    "whole module": lambda: torch_saved(torch.nn.Linear(2, 2)),
    "os.system": lambda: b"cos\nsystem\n(S'touch ran'\ntR.",
    "builtins": lambda: b'cbuiltins\neval\n(S\'open("ran","w")\'\ntR.',
    "torch.hub": lambda: b"ctorch.hub\nload\n(S'x/y'\nS'z'\ntR.",
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("name", EVIL)
@pytest.mark.hostile("weights")
def test_pickled_code_is_refused_and_not_run(attempts: Attempts, name: str, suffix: str) -> None:
    path = Path(f"evil{suffix}")
    path.write_bytes(EVIL[name]())
    assert not attempts(lambda: read_weights(path), path.name)
    assert not Path("ran").exists()
    attempts.finish(1)


def test_the_evil_is_evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would pass for the wrong reason."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Evil()))
    assert Path("ran").exists()


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: list[tuple[str, bytes]] = [
    ("length", struct.pack("<Q", 2**63) + b"{}"),
    ("length-max", b"\xff" * 8 + b"{}"),
    ("length-past-the-end", struct.pack("<Q", 10_000) + b"{}"),
    ("cut", b"\x01\x00"),
    ("empty", b""),
    ("no-json", safetensors(b"not json")),
    ("list", safetensors([1])),
    ("deep", safetensors(b'{"a":' * 20_000)),
    ("huge-shape", safetensors({"a": one([2**40, 2**40], [0, 4])}, b"1234")),
    ("offsets-outside", safetensors({"a": one([1], [0, 10**9])})),
    ("offsets-backwards", safetensors({"a": one([1], [4, 0])}, b"1234")),
    ("overlap", safetensors({"a": one([1], [0, 4]), "b": one([1], [0, 4])}, b"1234")),
    ("negative", safetensors({"a": one([-1], [0, 4])}, b"1234")),
    ("dtype", safetensors({"a": one([1], [0, 4], "PICKLE")}, b"1234")),
    ("too-much", safetensors({}, b"x" * 100)),
]


@pytest.mark.parametrize(("name", "data"), HEADERS, ids=[name for name, _ in HEADERS])
@pytest.mark.hostile("weights")
def test_hostile_headers(attempts: Attempts, name: str, data: bytes) -> None:
    path = Path(f"{name}.safetensors")
    path.write_bytes(data)
    assert not attempts(lambda: read_weights(path), path.name)
    attempts.finish(1)


@pytest.mark.hostile("weights")
def test_mutated_weights(attempts: Attempts) -> None:
    draw = random.Random(1)
    header = {"a": one([2, 3], [0, 24]), "b": one([3], [24, 36])}
    files = {
        "w.safetensors": save(STATE),
        "w.pth": torch_saved(STATE),
        "legacy.pt": torch_saved(STATE, _use_new_zipfile_serialization=False),
    }
    for name, good in files.items():
        path = Path(name)
        for _ in range(times(120)):
            path.write_bytes(mutated(draw, good))
            attempts(lambda p=path: read_weights(p), name)
    path = Path("header.safetensors")
    for _ in range(times(200)):
        path.write_bytes(safetensors(changed(draw, header), bytes(36)))
        attempts(lambda: read_weights(path), path.name)
        path.write_bytes(safetensors(draw.choice(WORDS), draw.choice(WORDS)))
        attempts(lambda: read_weights(path), path.name)
    attempts.finish(760, refused=400)


def odd_state(**changes: Any) -> dict[Any, Any]:
    net = create_net("test_resnet", 32)
    return dict(net.state_dict()) | changes


ODD_STATES: dict[str, Callable[[], Any]] = {
    "numbers for names": lambda: dict(enumerate(odd_state().values())),
    "nothing but a number": lambda: {"x": 1},
    "a list": lambda: [torch.zeros(3)],
    "sparse": lambda: {k: v.to_sparse() if v.ndim == 4 else v for k, v in odd_state().items()},
    "complex": lambda: {k: v.to(torch.complex64) for k, v in odd_state().items()},
    "expanded": lambda: odd_state() | {"huge": torch.zeros(1).expand(2**40)},
    "expanded in place": lambda: {
        k: torch.zeros(1).expand(2**20, 2**20) if v.ndim == 4 else v for k, v in odd_state().items()
    },
    "meta": lambda: {k: v.to("meta") for k, v in odd_state().items()},
    "quantised": lambda: {
        k: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8) if v.ndim == 4 else v
        for k, v in odd_state().items()
    },
    "nested": lambda: {"state_dict": {"model": {"model": odd_state()}}},
    "not a number": lambda: {
        k: torch.full_like(v, float("nan")) if v.is_floating_point() else v
        for k, v in odd_state().items()
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD_STATES)
@pytest.mark.hostile("weights")
def test_odd_states_are_loaded_right_or_refused(attempts: Attempts, name: str) -> None:
    path = Path("odd.pth")
    path.write_bytes(torch_saved(ODD_STATES[name]()))
    net = create_net("test_resnet", 32)
    done = attempts(lambda: load_weights(net, "test_resnet", str(path), 32), path.name)
    if done:
        assert all(v.isfinite().all() for v in net.state_dict().values())
    assert done == (name in ("expanded",))
    attempts.finish(1, refused=0)
