"""A decoder-only byte transformer whose every feed-forward layer is a Mixture of Experts.

Axis letters: B batch, S positions in a window, D width, T = B * S tokens, E experts,
K experts chosen per token, L layers, H hidden units of one expert, A attention heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of the model."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    experts: int = 32
    chosen: int = 2
    hidden: int = 64
    context: int = 256
    vocabulary: int = 256
    recent: int = 4  # a position's input is the sum of embeddings of its last 4 bytes


@dataclass(frozen=True)
class Routing:
    """What one router did: logits [T, E] and two scalar penalties."""

    logits: Tensor
    balance: Tensor
    z: Tensor


def normalise(x: Tensor) -> Tensor:
    """Shift and scale x [..., D] to mean 0 and variance 1 along its last axis."""
    return F.layer_norm(x, (x.shape[-1],))


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Make a uniform random parameter of this shape with variance 1 / fan_in."""
    bound = (3.0 / fan_in) ** 0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def rotary_table(context: int, size: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [S, size / 2] of the rotary position angles, in radians."""
    rates = 1000.0 ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(context)[:, None] * rates
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    """Causal attention with rotary positions; the heads share one key and one value."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.query = uniform(config.width, config.width, fan_in=config.width)
        self.key_value = uniform(config.width, 2 * self.size, fan_in=config.width)
        self.out = nn.Parameter(torch.zeros(config.width, config.width))
        self.cos: Tensor
        self.sin: Tensor
        cos, sin = rotary_table(config.context, self.size)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Turn normalised x [B, S, ..., D / A] by the angle of its position."""
        left, right = normalise(x).chunk(2, dim=-1)
        shape = (1, x.shape[1], *(1,) * (x.dim() - 3), self.size // 2)
        cos, sin = self.cos[: x.shape[1]].view(shape), self.sin[: x.shape[1]].view(shape)
        return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, S, D] to [B, S, D]; a position sees itself and earlier ones only."""
        batch, positions, width = x.shape
        q = self.rotate((x @ self.query).view(batch, positions, self.heads, self.size))
        k, v = (x @ self.key_value).chunk(2, dim=-1)
        k, v = (y[:, None].expand(-1, self.heads, -1, -1) for y in (self.rotate(k), v))
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, positions, width) @ self.out


class MixtureOfExperts(nn.Module):
    """A linear router without bias, and E two-layer experts with squared ReLU; no capacity.

    `kept`, boolean [E], leaves other experts out (`benchmarks.experts_dropped`); None keeps all.
    """

    kept: Tensor | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.experts, self.chosen = config.experts, config.chosen
        self.router = uniform(config.width, config.experts, fan_in=config.width)
        self.up = uniform(config.experts, config.width, config.hidden, fan_in=config.width)
        self.down = nn.Parameter(torch.zeros(config.experts, config.hidden, config.width))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Map x [T, D] to [T, D] and report the routing."""
        logits = x @ self.router
        if self.kept is not None:
            logits = logits.masked_fill(~self.kept, float("-inf"))
        probabilities = logits.softmax(dim=-1)
        top, chosen = probabilities.topk(self.chosen, dim=-1)
        weights = top / top.sum(dim=-1, keepdim=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.experts)
        shares = counts / chosen.numel()
        balance = self.experts * (shares * probabilities.mean(dim=0)).sum()
        z = logits.logsumexp(dim=-1).square().mean()
        mixed = self.run_experts(x, chosen, weights, counts.tolist())
        return mixed, Routing(logits=logits, balance=balance, z=z)

    def run_experts(self, x: Tensor, chosen: Tensor, weights: Tensor, counts: list[int]) -> Tensor:
        """Sum the chosen experts' outputs: x [T, D], chosen and weights [T, K], counts E."""
        order = chosen.flatten().argsort(stable=True)  # pairs [T * K], grouped by expert
        tokens = order // self.chosen
        groups = torch.split(x.index_select(0, tokens), counts)
        parts = [
            (group @ up).relu().square() @ down
            for group, up, down in zip(groups, self.up.unbind(), self.down.unbind(), strict=True)
        ]
        scaled = torch.cat(parts) * weights.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(x).index_add(0, tokens, scaled)


class Block(nn.Module):
    """Attention, then the Mixture of Experts, each on normalised input with a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.moe = MixtureOfExperts(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Map x [B, S, D] to [B, S, D] and report the routing of its B * S tokens."""
        x = x + self.attention(normalise(x))
        mixed, routing = self.moe(normalise(x).flatten(0, 1))
        return x + mixed.view_as(x), routing


class ByteMoE(nn.Module):
    """The whole model, from bytes to next-byte logits."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shape = (config.recent, config.vocabulary, config.width)
        self.embedding = nn.Parameter(torch.randn(*shape) / config.recent**0.5)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = nn.Parameter(torch.zeros(config.width, config.vocabulary))

    def embed(self, text: Tensor) -> Tensor:
        """Sum the embeddings of each position's latest bytes: text [B, S] to [B, S, D]."""
        count = self.config.recent
        recent = F.pad(text, (count - 1, 0)).unfold(1, count, 1)  # [B, S, count]
        tables = zip(recent.unbind(-1), self.embedding.unbind(), strict=True)
        return torch.stack([F.embedding(index, table) for index, table in tables]).sum(0)

    def forward(self, text: Tensor) -> tuple[Tensor, list[Routing]]:
        """Map bytes [B, S] (int64) to next-byte logits [B, S, 256] and L routings."""
        x = normalise(self.embed(text))
        routings = []
        for block in self.blocks:
            x, routing = block(x)
            routings.append(routing)
        return normalise(x) @ self.head, routings
