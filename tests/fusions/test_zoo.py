"""The methods of the zoo against slow forms of their formulas: value and gradient, in float64.

An oracle computes sample by sample, in loops, from the fusion's own parameters; so the gradients to
inputs and to every parameter can be compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionbench.models.fusion_model import as_fused
from fusionbench.plugin import registry
from fusionbench.plugin.columns import MetadataColumn
from fusionbench.plugin.fusion import Features, Fusion, Spec, Stage
from fusionbench.plugin.loss import CombinedLoss, Loss, Output

BATCH, METADATA, WIDTH, CLASSES = 5, 6, 14, 3
STAGES = (Stage(8, (3, 2)), Stage(12, (2, 2)), Stage(16, (2, 1)))
COLUMNS = (
    MetadataColumn("age", "numeric", (0,), recorded=6),
    MetadataColumn("region", "categorical", (1, 2, 3), ("ARM", "FACE", "LEG"), recorded=7),
    MetadataColumn("itch", "boolean", (4, 5), ("False", "True"), recorded=8),
)
Oracle = Callable[[Any, tuple[Tensor, ...], Tensor, Tensor], list[Tensor]]


def fusion_class(name: str) -> type[Fusion]:
    return registry.load(registry.find("fusions", name), Fusion)


def made(name: str, **params: object) -> Fusion:
    """In evaluation mode, in float64, with parameters and statistics that are not trivial."""
    cls = fusion_class(name)
    features = METADATA + (len(COLUMNS) if cls.takes_recorded else 0)
    columns = COLUMNS if cls.takes_recorded else ()
    fusion = cls(Spec(STAGES, WIDTH, features, CLASSES, columns=columns), **params).double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            nn.init.normal_(parameter, std=0.5)
        for part in fusion.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    return fusion


def inputs(fusion: Fusion) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Tokens of each stage, the pooled image and the metadata, as leaves."""
    meta = torch.randn(BATCH, METADATA, dtype=torch.float64)
    if fusion.takes_recorded:
        recorded = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]])
        meta = torch.cat([meta, recorded.double()], dim=1)
    tokens = tuple(
        torch.randn(BATCH, s.grid[0] * s.grid[1], s.channels, dtype=torch.float64) for s in STAGES
    )
    image = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    return (
        tuple(t.requires_grad_() for t in tokens), image.requires_grad_(), meta.requires_grad_()
    )  # fmt: skip


def outputs(
    fusion: Fusion, tokens: tuple[Tensor, ...], image: Tensor, meta: Tensor
) -> list[Tensor]:
    """The stages' tokens, and all that `fuse` returns."""
    encoded, after = fusion.encode(meta), []
    for k, x in enumerate(tokens):
        result = fusion.stage(k, x, encoded)
        x, encoded = result if isinstance(result, tuple) else (result, encoded)
        after.append(x)
    fused = as_fused(fusion.fuse_stages(Features(image, tuple(after), after[-1][:, :0]), encoded))
    return [*after, fused.embedding, *fused.heads.values()]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """One vector through a linear layer, unit by unit."""
    out = torch.stack([(row * x).sum() for row in layer.weight])
    return out if layer.bias is None else out + layer.bias


def norm(layer: nn.BatchNorm1d, x: Tensor) -> Tensor:
    scaled = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
    return scaled * layer.weight + layer.bias


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / ((centred**2).mean() + layer.eps).sqrt() * layer.weight + layer.bias


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def every(rows: Callable[[int], Tensor]) -> Tensor:
    return torch.stack([rows(b) for b in range(BATCH)])


def attend(layer: Any, queries: Tensor, keys: Tensor, counts: Tensor | None = None) -> Tensor:
    """One sample's multi-head attention, (Nq, Q) and (Nk, K), query by query and head by head."""
    q = torch.stack([linear(layer.query, x) for x in queries])
    both = torch.stack([linear(layer.key_value, x) for x in keys])
    k, v = both.chunk(2, dim=1)
    size = q.shape[1] // layer.heads
    rows = []
    for query in q:
        heads = []
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            use = [i for i in range(len(k)) if counts is None or counts[i]]
            scores = [query[part] @ k[i, part] / math.sqrt(size) for i in use]
            weights = [torch.exp(s) for s in scores]
            total = sum(weights)
            heads.append(sum(w / total * v[i, part] for w, i in zip(weights, use, strict=True)))
        rows.append(linear(layer.out, torch.cat(heads)))
    return torch.stack(rows)


def column_tokens(layer: Any, m: Tensor) -> tuple[Tensor, Tensor]:
    """One sample's tokens behind CLS, and which count."""
    tokens, counts = [layer.cls], [True]
    for i, column in enumerate(COLUMNS):
        told = m[column.recorded] == 1
        token = layer.bias[i] + sum(m[f] * layer.weight[f] for f in column.features)
        tokens.append(token if told else torch.zeros_like(token))
        counts.append(bool(told))
    return torch.stack(tokens), torch.tensor(counts)


def film(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def one(k: int, b: int) -> Tensor:
        scale, shift = linear(f.generators[str(k)], meta[b]).split(STAGES[k].channels)
        return torch.stack([x * (1 + scale) + shift for x in tokens[k][b]])

    after = [
        every(lambda b, k=k: one(k, b)) if str(k) in f.generators else tokens[k] for k in (0, 1, 2)
    ]
    return [*after, image]


def daft(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    act = {"linear": lambda x: x, "tanh": torch.tanh, "sigmoid": sigmoid}[f.told]

    def one(b: int) -> Tensor:
        x = tokens[1][b]
        squeezed = torch.cat([sum(x) / len(x), meta[b]])
        inner = linear(f.transform[0], squeezed).clamp(min=0)
        scale, shift = linear(f.transform[2], inner).split(12)
        return torch.stack([act(scale) * t + shift for t in x])

    return [tokens[0], every(one), tokens[2], image]


def mul(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    after, m = [], [meta[b] for b in range(BATCH)]
    for k, layer in enumerate(f.layers):
        m = [norm(layer[2], linear(layer[0], x).clamp(min=0)) for x in m]
        after.append(every(lambda b, k=k, m=m: torch.stack([t * m[b] for t in tokens[k][b]])))
    return [*after, image]


def mmtm(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    after, m = [], [meta[b] for b in range(BATCH)]
    for k in range(3):
        block, rows = f.blocks[str(k)], []
        assert block[0].out_features == int(2 * (STAGES[k].channels + METADATA) / 4)
        for b in range(BATCH):
            x = tokens[k][b]
            z = linear(block[0], torch.cat([sum(x) / len(x), m[b]])).clamp(min=0)
            gates = sigmoid(linear(block[2], z))
            rows.append(torch.stack([t * gates[: x.shape[1]] for t in x]))
            m[b] = m[b] * gates[x.shape[1] :]
        after.append(torch.stack(rows))
    return [*after, every(lambda b: torch.cat([image[b], m[b]]))]


def gmu(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def one(b: int) -> Tensor:
        v, m = linear(f.image, image[b]), linear(f.metadata, meta[b])
        seen = (v, m) if f.on_projections else (image[b], meta[b])
        z = sigmoid(linear(f.gate, torch.cat(seen)))
        return z * torch.tanh(v) + (1 - z) * torch.tanh(m)

    return [*tokens, every(one)]


def md_net(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def one(b: int) -> Tensor:
        gate = sigmoid(linear(f.gate[2], linear(f.gate[0], meta[b]).clamp(min=0)))
        scale, shift = linear(f.scale, meta[b]), linear(f.shift, meta[b])
        return torch.stack(
            [x * gate + sigmoid(torch.tanh(x * scale) + shift) for x in tokens[2][b]]
        )

    return [*tokens[:2], every(one), image]


def rg_att(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def gated(g: Any, q: Tensor) -> Tensor:
        gate = sigmoid(linear(g.gate, q))
        a = linear(g.source[1], linear(g.source[0], q))
        return layer_norm(g.norm, gate * a + (1 - gate) * q)

    def one(b: int) -> Tensor:
        t = meta[b]
        for i in (0, 2, 4):
            t = linear(f.metadata[i], t).clamp(min=0)
        t = gated(f.refine_metadata, linear(f.metadata[6], t))
        i = gated(f.refine_image, linear(f.image, image[b]))
        joined = torch.cat([linear(f.of_metadata, t), linear(f.of_image, i)])
        for layer in (f.join[:4], f.join[4:]) if len(f.join) == 8 else f.join:
            joined = layer_norm(layer[1], linear(layer[0], joined)).clamp(min=0)
        return joined

    return [*tokens, every(one)]


def bilinear(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def one(b: int) -> Tensor:
        v = linear(f.image, image[b]).split(f.width)
        m = linear(f.metadata, meta[b]).split(f.width)
        pairs = list(zip(v, m, strict=True))
        if f.member == "lmf":
            fused = sum(w * x * y for w, (x, y) in zip(f.weights, pairs, strict=True)) + f.bias
        elif f.member in ("mlb", "mutan"):
            fused = sum(torch.tanh(x) * torch.tanh(y) for x, y in pairs)
        elif f.member == "mfb":
            fused = sum(x.clamp(min=0) * y.clamp(min=0) for x, y in pairs)
        elif f.member == "hadamard":
            fused = sum(x * y for x, y in pairs)
        else:
            fused = sum(torch.where(x > y, x, y) for x, y in pairs)
        if f.normalise:
            fused = fused.sign() * (fused.abs() + 1e-12) ** 0.5
            fused = fused / (fused**2).sum() ** 0.5
        return fused

    return [*tokens, every(one)]


def remixformer(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    mha, size = f.attention, 16 // f.attention.num_heads

    def one(b: int) -> Tensor:
        token = norm(f.token[1], linear(f.token[0], meta[b])).clamp(min=0)
        g, *z = [layer_norm(f.norm, x) for x in (token, *tokens[2][b])]
        wq, wk, wv = mha.in_proj_weight.chunk(3)
        bq, bk, bv = mha.in_proj_bias.chunk(3)
        q, heads = wq @ g + bq, []
        keys, values = [wk @ x + bk for x in z], [wv @ x + bv for x in z]
        for h in range(mha.num_heads):
            part = slice(h * size, (h + 1) * size)
            weights = [torch.exp(q[part] @ k[part] / math.sqrt(size)) for k in keys]
            total = sum(weights)
            heads.append(sum(w / total * v[part] for w, v in zip(weights, values, strict=True)))
        return torch.cat([image[b], g + linear(mha.out_proj, torch.cat(heads))])

    return [*tokens, every(one)]


def cross_attention(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def image_asks(k: int, b: int) -> Tensor:
        ask = f.asks[str(k)]
        keys, counts = column_tokens(f.tokens, meta[b])
        queries = torch.stack([layer_norm(ask.norm, x) for x in tokens[k][b]])
        return tokens[k][b] + ask.gate * attend(ask.attention, queries, keys, counts)

    after = [
        every(lambda b, k=k: image_asks(k, b)) if str(k) in f.asks else tokens[k] for k in range(3)
    ]
    if f.answer is None:
        return [*after, image]

    def metadata_asks(b: int) -> Tensor:
        keys, counts = column_tokens(f.tokens, meta[b])
        cls = keys[:1] + attend(f.pool, keys[:1], keys, counts)
        answer = attend(f.answer, layer_norm(f.norm, cls[0])[None], after[2][b])
        return torch.cat([image[b], (cls + answer)[0]])

    return [*after, every(metadata_asks)]


def ft_tokens(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def one(b: int) -> Tensor:
        x, counts = column_tokens(f.encoder.tokens, meta[b])
        for i, block in enumerate(f.encoder.blocks):
            normed = x if i == 0 else torch.stack([layer_norm(block.norm1, t) for t in x])
            x = x + attend(block.attention, normed, normed, counts)
            rows = []
            for t in x:
                value, gate = linear(block.up, layer_norm(block.norm2, t)).chunk(2)
                rows.append(t + linear(block.down, value * gate.clamp(min=0)))
            x = torch.stack(rows)
        return torch.cat([image[b], layer_norm(f.encoder.norm, x[0]).clamp(min=0)])

    return [*tokens, every(one)]


def jif(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    v = every(lambda b: norm(f.image[1], linear(f.image[0], image[b])).clamp(min=0))
    m = every(lambda b: norm(f.metadata[1], linear(f.metadata[0], meta[b])).clamp(min=0))
    heads = [
        every(lambda b: linear(f.image_head, v[b])),
        every(lambda b: linear(f.metadata_head, m[b])),
    ]
    return [*tokens, torch.cat([v, m], dim=1), *heads]


def tip_ensemble(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def mlp(block: Any, x: Tensor) -> Tensor:
        inner = linear(block.mlp[0], layer_norm(block.norm2, x))
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        return x + linear(block.mlp[2], gelu)

    tables, joints = [], []
    for b in range(BATCH):
        x, counts = column_tokens(f.tokens, meta[b])
        for block in f.table:
            normed = torch.stack([layer_norm(block.norm1, t) for t in x])
            x = torch.stack([mlp(block, t) for t in x + attend(block.attention, normed, x, counts)])
        tables.append(x[0])
        for block in f.joint:
            normed = torch.stack([layer_norm(block.norm1, t) for t in x])
            asked = x + attend(block.attention, normed, tokens[2][b])
            x = torch.stack([mlp(block, t) for t in asked])
        joints.append(x[0])
    of_image = every(lambda b: linear(f.image_head, image[b]))
    return [
        *tokens,
        torch.stack(joints),
        of_image,
        every(lambda b: linear(f.table_head, tables[b])),
    ]


def ogm_ge(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def one(b: int) -> Tensor:
        u = linear(f.metadata[0], meta[b]).clamp(min=0)
        return linear(f.of_image, image[b]) + linear(f.of_metadata, u)

    return [*tokens, every(one)]


def concat(f: Any, tokens: Any, image: Tensor, meta: Tensor) -> list[Tensor]:
    def reduced(layers: Any, x: Tensor) -> Tensor:
        return norm(layers[1], linear(layers[0], x)).clamp(min=0)

    def one(b: int) -> Tensor:
        if f.preset == "siim-2020":
            m = meta[b]
            for i in (0, 4):
                normed = norm(f.metadata[i + 1], linear(f.metadata[i], m))
                m = normed * sigmoid(normed)
            return torch.cat([image[b], m])
        m = reduced(f.metadata[1], reduced(f.metadata[0], meta[b]))
        return reduced(f.join, torch.cat([image[b], m]))

    return [*tokens, every(one)]


CASES: list[tuple[str, dict[str, object], Oracle]] = [
    ("film", {}, film),
    ("film", {"stages": (3,)}, film),
    ("daft", {}, daft),
    ("daft", {"stage": 2, "activation": "tanh", "bottleneck": 3}, daft),
    ("daft", {"activation": "sigmoid"}, daft),
    ("mul", {}, mul),
    ("mmtm", {}, mmtm),
    ("gmu", {"hidden": 4}, gmu),
    ("gmu", {"hidden": 4, "gate_on_projections": True}, gmu),
    ("md-net", {"hidden": 4}, md_net),
    ("rg-att", {"width": 6, "hidden": (5, 4)}, rg_att),
    ("bilinear", {"width": 4, "rank": 3}, bilinear),
    ("bilinear", {"member": "mlb", "width": 4}, bilinear),
    ("bilinear", {"member": "mfb", "width": 4, "rank": 2, "normalise": True}, bilinear),
    ("bilinear", {"member": "mutan", "width": 4, "rank": 3}, bilinear),
    ("bilinear", {"member": "hadamard", "width": 4}, bilinear),
    ("bilinear", {"member": "max", "width": 4}, bilinear),
    ("remixformer", {"heads": 4}, remixformer),
    ("cross-attention", {"width": 6, "heads": 2}, cross_attention),
    ("cross-attention", {"width": 6, "heads": 3, "direction": "image-asks"}, cross_attention),
    ("cross-attention", {"width": 6, "heads": 1, "direction": "metadata-asks"}, cross_attention),
    ("cross-attention", {"width": 6, "heads": 2, "stages": (1,)}, cross_attention),
    ("ft-tokens", {"width": 6, "heads": 2, "blocks": 2}, ft_tokens),
    ("jif", {"hidden": 4}, jif),
    ("tip-ensemble", {"width": 6, "heads": 2, "blocks": 2}, tip_ensemble),
    ("ogm-ge", {"hidden": 4}, ogm_ge),
    ("concat", {"preset": "siim-2020"}, concat),
    ("concat", {"preset": "gessert-2019"}, concat),
]


@pytest.mark.parametrize(
    ("name", "params", "oracle"), CASES, ids=lambda v: "" if callable(v) else str(v)
)
def test_value_and_gradient(name: str, params: dict[str, object], oracle: Oracle) -> None:
    torch.manual_seed(5)
    fusion: Any = made(name, **params)
    if name == "daft":
        fusion.told = params.get("activation", "linear")
    tokens, image, meta = inputs(fusion)
    got, want = outputs(fusion, tokens, image, meta), oracle(fusion, tokens, image, meta)
    assert len(got) == len(want)
    leaves = [*tokens, image, meta, *fusion.parameters()]
    gradients = []
    for values in (got, want):
        torch.manual_seed(6)
        total = sum((torch.randn_like(v) * v).sum() for v in values)
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    for a, b, leaf in zip(*gradients, leaves, strict=True):
        zero = torch.zeros_like(leaf)
        a, b = zero if a is None else a, zero if b is None else b
        if leaf is meta and fusion.takes_recorded:  # whether a cell was recorded has no gradient
            a, b = a[:, :METADATA], b[:, :METADATA]
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_every_method_beside_the_first_five_has_an_oracle() -> None:
    first = {"none", "metanet", "metablock", "sgmc"}  # theirs are in other files here
    assert {name for name, *_ in CASES} == set(registry.discover("fusions")) - first


def test_film_and_the_image_that_asks_start_as_the_identity() -> None:
    for name in ("film", "cross-attention"):
        cls = fusion_class(name)
        columns = COLUMNS if cls.takes_recorded else ()
        features = METADATA + (len(COLUMNS) if cls.takes_recorded else 0)
        fusion = cls(Spec(STAGES, WIDTH, features, CLASSES, columns=columns))
        for k, stage in enumerate(STAGES):
            tokens = torch.randn(2, stage.grid[0] * stage.grid[1], stage.channels)
            result = fusion.stage(k, tokens, torch.randn(2, features))
            assert isinstance(result, Tensor) and torch.equal(result, tokens)


def test_five_dropouts_are_averaged_in_training() -> None:
    torch.manual_seed(0)
    fusion = fusion_class("concat")(Spec(STAGES, WIDTH, METADATA, CLASSES), preset="siim-2020")
    head, x = fusion.head(WIDTH + 128), torch.randn(4, WIDTH + 128)
    plain = head.eval()(x)
    assert torch.equal(plain, head.linear(x))
    drawn = torch.stack([head.train()(x) for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0), plain, atol=0.05, rtol=0.05)
    single = torch.stack([head.linear(head.drop(x)) for _ in range(2000)])
    ratio = (single.var(0) / drawn.var(0)).mean()
    assert 4 < float(ratio.detach()) < 6


def test_jif_averages_probabilities_in_evaluation() -> None:
    fusion = made("jif", hidden=4)
    logits = torch.randn(3, BATCH, CLASSES, dtype=torch.float64)
    want = logits.softmax(2).mean(0)
    torch.testing.assert_close(fusion.combine(logits).softmax(1), want)


def ogm(alpha: float, ge: float = 0.0) -> Loss:
    cls = registry.load(registry.find("losses", "ogm-ge"), Loss)
    return cls(Spec(STAGES, WIDTH, METADATA, CLASSES), alpha=alpha, ge=ge)


def of_features(fusion: Any, image: Tensor, meta: Tensor) -> Output:
    fused = fusion.fuse(image * 1, meta)  # a feature, not a leaf
    return Output(fused.embedding, fused.embedding, (), meta, {}, fused.extras)


@pytest.mark.parametrize("ahead", ["image", "metadata"])
def test_ogm_ge_slows_the_modality_that_is_ahead(ahead: str) -> None:
    torch.manual_seed(1)
    fusion: Any = made("ogm-ge", hidden=4)
    target = torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():  # the one that is ahead knows the classes
        behind = fusion.of_metadata if ahead == "image" else fusion.of_image
        behind.weight.mul_(0.01)
    _, image, meta = inputs(fusion)
    plain = of_features(fusion, image, meta)
    loss = torch.nn.functional.cross_entropy(plain.logits, target)
    leaves = [image, *fusion.parameters()]
    names = ["image", *(n for n, _ in fusion.named_parameters())]
    want = dict(zip(names, torch.autograd.grad(loss, leaves), strict=True))

    seen = of_features(fusion, image, meta)
    terms = CombinedLoss({"ogm-ge": ogm(0.3)})(seen, target)
    torch.testing.assert_close(terms["ogm-ge"], loss.float(), atol=1e-5, rtol=1e-5)
    got = dict(zip(names, torch.autograd.grad(terms["ogm-ge"], leaves), strict=True))

    scores = {}
    for name in ("image", "metadata"):
        rows = seen.extras[f"{name} logits"]
        exps = [[math.exp(v) for v in row] for row in rows.tolist()]
        scores[name] = sum(e[y] / sum(e) for e, y in zip(exps, target.tolist(), strict=True))
    rho = scores["image"] / scores["metadata"]
    scale = {"image": 1.0, "metadata": 1.0}
    faster = "image" if rho > 1 else "metadata"
    scale[faster] = 1 - math.tanh(0.3 * (rho if rho > 1 else 1 / rho))
    assert scale[faster] < 0.75
    for name, gradient in got.items():
        # Encoders are slowed, classifiers are not.
        factor = scale["image"] if name == "image" else 1.0
        factor = scale["metadata"] if name.startswith("metadata.") else factor
        torch.testing.assert_close(gradient, factor * want[name], rtol=1e-4, atol=1e-5)


def test_generalisation_noise_has_the_size_of_the_gradient() -> None:
    torch.manual_seed(2)
    fusion: Any = made("ogm-ge", hidden=64)
    _, image, meta = inputs(fusion)
    target = torch.tensor([0, 1, 2, 0, 1])
    draws = []
    for ge in (0.0, *[1.0] * 200):
        seen = of_features(fusion, image, meta)
        term = ogm(0.0, ge)(seen, target)["ogm-ge"]
        draws.append(torch.autograd.grad(term, image)[0])
    plain, noisy = draws[0], torch.stack(draws[1:])
    torch.testing.assert_close(noisy.std(0).mean(), plain.std(), rtol=0.1, atol=0)
