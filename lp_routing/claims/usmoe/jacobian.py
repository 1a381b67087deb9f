"""USMoE: in which directions of the hidden state the router's scores can move at all (B7)."""

from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import by_layer, span
from lp_routing.claims.usmoe.rules import CODE, PAPER
from lp_routing.scores import ScoreFunction, softmax, unified

TOKENS = 8
"""Tokens of each layer with a Jacobian, evenly spaced; the check takes 0.12 s, and 0.17 s with 64
on the sample.
"""
GRADIENTS = 1024
"""Most rows of all Jacobians of a layer together: with many experts fewer tokens are looked at.

It bounds the time for their rank, which grows with the cube of their number.
"""
RANK = 1e-9
"""Singular values below this share of the largest count as zero.

Float64 leaves some 1e-15 where the exact value is 0; a larger limit would count small ones as 0.
"""
ROUNDING = 1e-12
"""Relative to the embeddings (or logits): what is smaller counts as rounding."""


class Routing(NamedTuple):
    """Hidden states (T, D) and expert embeddings (E, D) whose products are the logits (T, E)."""

    hidden: Tensor
    embeddings: Tensor


def recovered(logits: Tensor, generator: torch.Generator) -> Routing:
    """Hidden states and embeddings in D = 2 E dimensions that give these logits.

    Logits alone fix neither. By the singular value decomposition U S V^T of the logits, states
    U S^1/2 and embeddings V S^1/2 reproduce them; the states get E more coordinates that no
    embedding sees, drawn from a normal distribution of the same size, and both are turned by one
    random orthogonal matrix.

    Args:
        logits: float64 (T, E).
        generator: of the draws.
    """
    T, E = logits.shape
    left, values, right = torch.linalg.svd(logits, full_matrices=False)
    # a square root would lift rounding above what counts as zero
    root = torch.where(values > ROUNDING * values.max(), values, 0.0).sqrt()
    rank = values.shape[0]
    state, embeddings = logits.new_zeros(T, E), logits.new_zeros(E, E)
    state[:, :rank], embeddings[:, :rank] = left * root, right.mT * root
    size = float(state.square().mean().sqrt())
    unseen = torch.randn(T, E, generator=generator, dtype=logits.dtype) * (size or 1.0)
    turn = _orthogonal(2 * E, generator)
    padded = torch.cat([embeddings, logits.new_zeros(E, E)], 1)
    return Routing(torch.cat([state, unseen], 1) @ turn, padded @ turn)


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    turn: Tensor = torch.linalg.qr(drawn).Q
    return turn


def two_routers(first: Tensor, second: Tensor, rate: float = 0.5) -> Tensor:
    """The unified score with logits of its own for the sigmoid, (T, E)."""
    return (1 - rate) * unified(first, rate=0.0) + rate * unified(second, rate=1.0)


def jacobian(score: ScoreFunction, hidden: Tensor, *embeddings: Tensor) -> Tensor:
    """How the scores move with the hidden state, (T, E, D), by autograd.

    Args:
        score: of the logits of one router, or of two with `two_routers`' signature; row by row.
        hidden: (T, D).
        embeddings: one (E, D), or two.
    """
    state = hidden.detach().clone().requires_grad_()
    logits = [state @ matrix.mT for matrix in embeddings]
    scores = score(logits[0], logits[1] if len(logits) == 2 else None)
    # rows do not see each other, so the gradient of a column's sum holds that of every token
    columns = [
        torch.autograd.grad(column.sum(), state, retain_graph=True)[0] for column in scores.mT
    ]
    return torch.stack(columns, 1)


def rank(matrices: Tensor, floor: float = 0.0) -> Tensor:
    """The numerical rank of each (..., m, n); singular values up to a floor count as zero."""
    found: Tensor = torch.linalg.matrix_rank(matrices, atol=floor, rtol=RANK)
    return found


def principal_angles(rows: Tensor, embeddings: Tensor, floor: float = 0.0) -> Tensor:
    """Principal angles from the span of rows (m, D) to that of the embeddings, degrees, (r,).

    The largest first, one for each of the r dimensions that the rows span; all 0 where their span
    lies within the other. Singular values of the rows up to the floor are rounding, and span
    nothing. A direction with a small singular value is known only roughly, and so is its angle.
    """
    ours = _basis(rows, floor)
    sines = torch.linalg.svdvals(_beyond(ours.mT, embeddings))[: ours.shape[1]]
    angles: Tensor = sines.clamp(max=1.0).asin().rad2deg()
    return angles


def outside(rows: Tensor, embeddings: Tensor) -> float:
    """How much of rows (m, D) lies outside the span of the embeddings, as a share of their norm.

    Rows that are combinations of the embeddings with coefficients up to 1 show rounding alone.
    """
    norm = torch.linalg.matrix_norm
    size = float(norm(embeddings, ord=2))
    return float(norm(_beyond(rows, embeddings), ord=2)) / (size or 1.0)


def _beyond(rows: Tensor, embeddings: Tensor) -> Tensor:
    """Rows (m, D) minus their projection on the span of the embeddings."""
    basis = _basis(embeddings)
    return rows - rows @ basis @ basis.mT


def _basis(rows: Tensor, floor: float = 0.0) -> Tensor:
    """Orthonormal columns (D, r) that span rows (m, D)."""
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    basis: Tensor = right[values > max(RANK * float(values.max()), floor)].mT
    return basis


def unified_of_two(first: Tensor, second: Tensor | None) -> Tensor:
    """The unified score of the logits of one router, or of two."""
    return unified(first) if second is None else two_routers(first, second)


class Layer(NamedTuple):
    """Ranks at one token (the largest) and over all tokens together; what leaves the span.

    `outside` is the part of any gradient outside the span of the embeddings, a share of their norm;
    angles are principal angles to that span in degrees, the largest first.
    """

    softmax_token: int
    unified_token: int
    unified_all: int
    outside: float
    angles: tuple[float, ...]
    two_token: int
    two_all: int
    two_angles: tuple[float, ...]


def measured(routing: Routing, second: Tensor) -> Layer:
    """Jacobians of the softmax, of the unified score, and of that with a second router matrix."""
    hidden, one = routing
    plain = jacobian(softmax, hidden, one)
    mixed = jacobian(unified_of_two, hidden, one)
    two = jacobian(unified_of_two, hidden, one, second)
    flat, flat_two = mixed.flatten(0, 1), two.flatten(0, 1)
    # a saturated score changes by rounding only, which has any rank and direction
    floor = ROUNDING * float(torch.linalg.matrix_norm(one, ord=2))
    return Layer(
        softmax_token=int(rank(plain, floor).max()),
        unified_token=int(rank(mixed, floor).max()),
        unified_all=int(rank(flat, floor)),
        outside=max(outside(rows, one) for rows in (flat, plain.flatten(0, 1))),
        angles=tuple(principal_angles(flat, one, floor).tolist()),
        two_token=int(rank(two, floor).max()),
        two_all=int(rank(flat_two, floor)),
        two_angles=tuple(principal_angles(flat_two, one, floor).tolist()),
    )


def within(layer: Layer, E: int) -> bool:
    """Whether ranks and spans are as `reason` proves."""
    one = layer.softmax_token <= E - 1 and max(layer.unified_token, layer.unified_all) <= E
    return one and layer.two_token <= E and layer.two_all <= 2 * E and layer.outside <= ROUNDING


def examine(subject: ClaimInput) -> Evidence:
    """Ranks and principal angles on hidden states recovered from the logits."""
    _, T, E = subject.shape
    some = torch.linspace(0, T - 1, min(T, max(2, min(TOKENS, GRADIENTS // E)))).long()
    layers = []
    for number, logits in enumerate(subject.logits):
        generator = torch.Generator().manual_seed(subject.seed + number)
        routing = recovered(logits, generator)
        size = routing.embeddings.square().mean().sqrt()
        drawn = torch.randn(E, 2 * E, generator=generator, dtype=torch.float64)
        layers.append(measured(Routing(routing.hidden[some], routing.embeddings), drawn * size))
    alike, two = [layer.unified_all for layer in layers], [layer.two_all for layer in layers]
    largest, largest_two = (
        [max(angles, default=0.0) for angles in of_layers]
        for of_layers in ([x.angles for x in layers], [x.two_angles for x in layers])
    )
    sentence = (
        f"E={E}, on states of {2 * E} dimensions recovered from the logits (SVD, seeded turn), "
        f"{len(some)} tokens a layer: the Jacobian at one token has rank at most "
        f"{max(x.softmax_token for x in layers)} with the softmax and "
        f"{max(x.unified_token for x in layers)} with the unified score; over all tokens "
        f"{span(alike)}, and {max(x.outside for x in layers):.1g} of their norm lies outside the "
        f"experts' span. A second router matrix (drawn) gives {span(two)} over all tokens, "
        f"{max(x.two_token for x in layers)} at one token, and a largest principal angle to that "
        f"span of {span(largest_two)} degrees."
    )
    numbers = (
        by_layer("rank at a token, softmax", [x.softmax_token for x in layers])
        | by_layer("rank at a token, unified", [x.unified_token for x in layers])
        | by_layer("rank over tokens, unified", alike)
        | by_layer("outside the experts' span, share of their norm", [x.outside for x in layers])
        | by_layer("largest principal angle, degrees", largest)
        | by_layer("principal angles, degrees", [_listed(x.angles) for x in layers])
        | by_layer("rank at a token, two routers", [x.two_token for x in layers])
        | by_layer("rank over tokens, two routers", two)
        | by_layer("largest principal angle, two routers, degrees", largest_two)
        | by_layer(
            "principal angles, two routers, degrees", [_listed(x.two_angles) for x in layers]
        )
    )
    return Evidence(all(within(layer, E) for layer in layers), sentence, numbers)


def _listed(angles: tuple[float, ...]) -> str:
    return ", ".join(f"{angle:.3g}" for angle in angles)


def tiny(logits: Tensor) -> tuple[Routing, Tensor]:
    """Embeddings along the first E axes of 2 E, a second router's along the others; closed form.

    The second router's logits are those of the first backwards.
    """
    E = logits.shape[1]
    eye, zero = torch.eye(E, dtype=logits.dtype), logits.new_zeros(E, E)
    hidden = torch.cat([logits, logits.flip(-1)], 1)
    return Routing(hidden, torch.cat([eye, zero], 1)), torch.cat([zero, eye], 1)


def refutes_statement(logits: Tensor) -> str | None:
    """A Jacobian without a part outside the E embeddings, where 2 E directions are claimed."""
    E = logits.shape[1]
    routing, _ = tiny(logits)
    moves = jacobian(unified_of_two, routing.hidden, routing.embeddings)
    if E < 2 or bool(moves[..., E:].any()):
        return None
    return f"All gradients lie in the span of {E} embeddings; {2 * E} directions are claimed."


def refutes_verdict(logits: Tensor) -> str | None:
    """A gradient outside the span of the embeddings, or a rank above what is proved."""
    E = logits.shape[1]
    routing, second = tiny(logits)
    for score in (softmax, unified):
        if bool(jacobian(score, *routing)[..., E:].any()):
            return f"{score.__name__}: a gradient leaves the span of the embeddings."
    layer = measured(routing, second)
    return None if within(layer, E) else f"Ranks and spans are {layer}."


B7 = Claim(
    id="B7",
    title="unified score widens the Jacobian",
    statement=(
        "The unified score adds a second family of E directions to the router's Jacobian, up to "
        "2 E in place of E, and so lessens representation collapse."
    ),
    formula="J = J_1 + sum_j c_j e_j^T + sum_j d_j e_j^T spans more than sum_j c_j e_j^T does",
    conditions="",
    source=f"{PAPER}, representation collapse, after Chi et al. 2022, arXiv 2204.09179; {CODE}",
    verdict=Verdict.FAILS,
    reason=(
        "With one router matrix W the scores see the hidden state through W h alone, so every "
        "gradient is a combination of the same E rows e_j: (c_j + d_j) e_j, not two families. The "
        "softmax's own Jacobian has rank E - 1 at most (its scores add up to 1), that of the "
        "sigmoid E: one direction more, inside the same span. With a second matrix for the "
        "sigmoid gradients can leave the span of the first, and over several tokens reach rank "
        "above E; at one token E scores still have a Jacobian of rank E at most. On the hidden "
        "states of a trained model: python -m benchmarks.jacobian."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((0, 0),),
        "Logits of one token, e_1 and e_2 the first two axes of four, so D = 2 E. Softmax (.5, "
        ".5): gradients .25 (e_1 - e_2) and its negative, rank 1. The sigmoid's slope at 0 is .25: "
        "gradients .25 e_1 and .25 e_2. Their mean, (.25, -.125) and (-.125, .25), has rank 2 = "
        "E; axes 3 and 4 stay zero. Claimed: 4.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)
