"""What is measured: the cases by name, and the problem that each one states."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lp_routing as lpr
from benchmarks.scores import skewed_scores

FACTORS = (1.0, 1.05, 1.25)
SKEWED = (
    (1024, 64, 2),
    (4096, 64, 2),
    (16384, 256, 8),
    (65536, 64, 2),
    (262144, 64, 2),
    (1048576, 64, 2),
)
SKEWED_EIGHT = ((4096, 64, 8), (65536, 64, 8))
HARD = (
    ("collapsed-1e-3", 6400),
    ("collapsed-1e-2", 6400),
    ("binary", 12800),
    ("equal", 65536),
    ("integers", 65536),
    ("one-expert", 65536),
)
"""Scores by which solvers were stopped before, and their tokens: 64 experts, K = 2, factor 1."""
SKEWED_ONE_CHOICE = ((1024, 64, 1), (4096, 64, 1), (16384, 64, 1), (65536, 64, 1))
QUICK = ("skewed-1024x64-*", "skewed-4096x64-*", "sample-0-*")

GPT_OSS = "gpt_oss_20b_mmlu_dev.npz"
GPT_OSS_EXPERTS = 32
OLMOE = {"github": "olmoe_1b_7b_github.npz", "wikipedia": "olmoe_1b_7b_wikipedia.npz"}
OLMOE_K = 8

Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Case:
    """One problem to measure, small enough to be handed to another process.

    Attributes:
        scores: where they come from: "skewed", a name in `HARD`, "sample", "gpt-oss" ...
        part: the layer; empty for made scores.
        T, E, K: tokens (rows), experts, experts per token.
        factor: the capacity factor; an expert takes C = ceil(factor * demand / E) at most.
        seed: of the synthetic scores.
    """

    scores: str
    part: str
    T: int
    E: int
    K: int
    factor: float
    seed: int = 0

    @property
    def name(self) -> str:
        """How rows, options and tables call it."""
        size = self.part or f"{self.T}x{self.E}"
        return f"{self.scores}-{size}-k{self.K}-f{self.factor:g}"

    @property
    def family(self) -> tuple[str, int, float]:
        """Cases that differ only in their size, or in the layer."""
        return self.scores, self.K, self.factor

    @property
    def is_transport(self) -> bool:
        """One expert a token, all slots taken: what a plain transport solver can state."""
        return self.scores == "skewed" and self.K == 1


@dataclass(frozen=True, eq=False)
class Instance:
    """The problem of a case, in the words that every solver's adapter understands.

    Attributes:
        scores: float32 (T, E); -inf forbids.
        supply: what each row takes: a number, or int64 (T,).
        rows_exact: rows take exactly their supply, else at most.
        capacity: what each expert takes at most; exactly, where `columns_exact`.
        multiplicity: int64 (T,), how often a pair may be taken; None for once.
    """

    scores: Tensor
    supply: int | Counts
    rows_exact: bool
    capacity: int
    columns_exact: bool = False
    multiplicity: Counts | None = None

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        rows = "exactly" if self.rows_exact else "at_most"
        supply = f"{self.supply}" if isinstance(self.supply, int) else "8 f_i"
        columns = "exactly" if self.columns_exact else "at_most"
        return f"tokens {rows}({supply}), experts {columns}({self.capacity})"

    def supplies(self) -> Counts:
        """The supply of every row, int64 (T,)."""
        return np.broadcast_to(np.asarray(self.supply, dtype=np.int64), len(self.scores))

    def problem(self) -> lpr.RoutingProblem:
        """The same in lp_routing's words."""
        rows = lpr.exactly if self.rows_exact else lpr.at_most
        columns = lpr.exactly if self.columns_exact else lpr.at_most
        return lpr.RoutingProblem(
            self.scores,
            tokens=rows(self.supply),
            experts=columns(self.capacity),
            multiplicity=self.multiplicity,
        )


def all_cases(data: Path) -> tuple[list[Case], list[str]]:
    """All cases, the smallest matrices first, and a sentence for each file that is absent."""
    cases = [Case("skewed", "", *size, factor) for size in SKEWED for factor in FACTORS]
    cases += [Case("skewed", "", *size, factor) for size in SKEWED_EIGHT for factor in FACTORS]
    cases += [Case("skewed", "", *size, 1.0) for size in SKEWED_ONE_CHOICE]
    cases += [Case(name, "", T, 64, 2, 1.0) for name, T in HARD]
    layers, T, E = lpr.traces.sample().router_logits.shape
    cases += [Case("sample", f"{i}", T, E, 2, factor) for i in range(layers) for factor in FACTORS]
    absent = []
    for file in (GPT_OSS, *OLMOE.values()):
        if (data / file).is_file():
            cases += _gpt_oss_cases(data) if file == GPT_OSS else _olmoe_cases(data, file)
        else:
            absent.append(f"{data / file} is absent: its cases are left out.")
    return sorted(cases, key=lambda case: case.T * case.E), absent


def build(case: Case, data: Path) -> Instance:
    """The problem of a case; its scores are made, or read below `data`."""
    if case.scores.startswith("olmoe"):
        return _olmoe(case, data)
    capacity = math.ceil(case.factor * case.T * case.K / case.E)
    if case.scores == "gpt-oss":
        return Instance(_gpt_oss_scores(case, data), case.K, False, capacity)
    if case.scores == "sample":
        scores = lpr.scores.softmax(lpr.traces.sample().layer(int(case.part)))
    elif case.scores == "skewed":
        scores = skewed_scores(case.T, case.E, case.seed)
    else:
        scores = _hard_scores(case)
    return Instance(scores, case.K, True, capacity, columns_exact=case.is_transport)


def _hard_scores(case: Case) -> Tensor:
    """Scores with masses of ties, or with one expert that all tokens want."""
    rng = np.random.default_rng(case.seed)
    shape = case.T, case.E
    if case.scores.startswith("collapsed"):
        noise = float(case.scores.removeprefix("collapsed-"))
        logits = np.linspace(4, -4, case.E) + noise * rng.normal(size=shape)
        return torch.softmax(torch.from_numpy(logits).float(), 1)
    if case.scores == "binary":
        return torch.from_numpy(rng.integers(0, 2, shape)).float()
    if case.scores == "integers":
        return torch.from_numpy(rng.integers(0, 4, shape)).float()
    if case.scores == "equal":
        return torch.ones(shape)
    scores = torch.from_numpy(rng.normal(size=shape)).float()  # "one-expert"
    scores[:, 0] += 10
    return scores


def _gpt_oss_cases(data: Path) -> Iterator[Case]:
    with np.load(data / GPT_OSS, allow_pickle=False) as file:
        layers, T, _ = file["expert_ids"].shape
    for layer in range(layers):
        for K in (1, 2):
            for factor in FACTORS:
                yield Case("gpt-oss", f"{layer:02d}", T, GPT_OSS_EXPERTS, K, factor)


def _gpt_oss_scores(case: Case, data: Path) -> Tensor:
    """The softmax over the four recorded experts of each token; every other pair is forbidden."""
    with np.load(data / GPT_OSS, allow_pickle=False) as file:
        ids, probs = file["expert_ids"][int(case.part)], file["probs"][int(case.part)]
    scores = np.full((case.T, case.E), -np.inf, np.float32)
    np.put_along_axis(scores, ids.astype(np.int64), probs.astype(np.float32), 1)
    return torch.from_numpy(scores)


def _olmoe_cases(data: Path, file: str) -> Iterator[Case]:
    (text,) = (text for text, name in OLMOE.items() if name == file)
    with np.load(data / file, allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
    for name, (T, E) in shapes.items():
        for factor in FACTORS:
            yield Case(f"olmoe-{text}", name.removeprefix("counts_"), T, E, OLMOE_K, factor)


def _olmoe(case: Case, data: Path) -> Instance:
    """Token types: f_i occurrences, 8 experts each; score log(count / f_i), -inf where never."""
    path = data / OLMOE[case.scores.removeprefix("olmoe-")]
    with np.load(path, allow_pickle=False) as arrays:
        counts = arrays[f"counts_{case.part}"].astype(np.int64)
    supply = counts.sum(1)
    often = supply // OLMOE_K
    with np.errstate(divide="ignore"):
        scores = torch.from_numpy(np.log(counts / often[:, None]).astype(np.float32))
    capacity = math.ceil(case.factor * int(supply.sum()) / case.E)
    return Instance(scores, supply, True, capacity, multiplicity=often)
