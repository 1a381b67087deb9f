"""CompeteSMoE: whether the experts that respond most strongly are the best choice (O10a)."""

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK
from lp_routing.problem.named import token_choice
from lp_routing.routers.token_choice import TopK
from lp_routing.scores import competition_scores

TOKENS = 128
"""Tokens of each layer: the check takes 0.02 s, and 0.08 s with 1,024 on the sample."""
WIDTH = 16
"""Dimensions of the drawn outputs: in more, directions are closer to orthogonal and cancel less.

Of 384 tokens of the sample an exchange helps 254 with 4, 197 with 16 and 150 with 64.
"""
NOISE = 0.5
"""Standard deviation of the logarithm of an output's norm around that of its logit.

With 0, 0.5 and 1 the router's choice has 100, 90 and 69 % of the winners' norms on the sample.
"""
HUGE = 1e100
"""Largest logit: outputs are drawn with norms about as large as the logits, and squared."""


def examine(subject: ClaimInput) -> Evidence:
    """Competition on drawn outputs whose norms follow the logits: its LP, and what it misses."""
    L, T, E = subject.shape
    k = subject.k
    tokens = min(T, TOKENS)
    if float(subject.logits.max()) > HUGE:
        return Evidence(None, f"Does not apply here: outputs of norm over {HUGE:g} overflow.")
    draw = torch.Generator().manual_seed(subject.seed)
    of_winners = of_router = 0.0
    beaten, agrees = 0, True
    for layer in range(L):
        logits = subject.logits[layer, :tokens].cpu()
        outputs = _drawn(logits, draw)
        norms = torch.linalg.vector_norm(outputs, dim=-1)
        scores = competition_scores(outputs)
        won = TopK(k, score="logits")(scores)
        agrees &= certify(token_choice(scores, k), won, Prices()).proves_optimal(SLACK)
        strongest = float(norms.topk(k).values.sum())
        of_winners += float(norms[won.x].sum())
        agrees &= abs(float(norms[won.x].sum()) - strongest) <= SLACK * strongest
        of_router += float(norms[TopK(k, score="logits")(logits).x].sum())
        beaten += _beaten(outputs, won.x) if k < E else 0
    if not of_winners:
        return Evidence(None, "Does not apply here: all outputs drawn are 0, so nobody competes.")
    share = of_router / of_winners
    numbers: dict[str, Number] = {
        "norms of the winners": of_winners,
        "norms of the router's choice": of_router,
        "tokens whose joint output an exchange lengthens": beaten,
        "tokens": L * tokens,
    }
    return Evidence(
        bool(agrees),
        f"On outputs drawn around the logits ({WIDTH} wide, {tokens} tokens a layer) the winners "
        f"are the optimum of token choice in their own scores; the router's choice has "
        f"{100 * share:.1f} % of their norms; yet for {beaten} of {L * tokens} tokens exchanging "
        f"one winner gives a longer joint output.",
        numbers,
    )


def _drawn(logits: Tensor, draw: torch.Generator) -> Tensor:
    """Outputs (T, E, D) in random directions, of norm softplus(logit) times log-normal noise."""
    directions = torch.randn(*logits.shape, WIDTH, generator=draw, dtype=torch.float64)
    noise = torch.randn(logits.shape, generator=draw, dtype=torch.float64)
    norm = softplus(logits) * (NOISE * noise).exp()
    return torch.nn.functional.normalize(directions, dim=-1) * norm[..., None]


def _beaten(outputs: Tensor, chosen: Tensor) -> int:
    """Tokens for which one exchange makes the sum of the chosen outputs longer."""
    total = (outputs * chosen[..., None]).sum(1)
    longest = torch.linalg.vector_norm(total, dim=-1)
    found = torch.zeros(len(outputs), dtype=torch.bool)
    places = torch.where(chosen)[1].reshape(len(outputs), -1)
    for out in places.T:
        without = total - outputs[torch.arange(len(outputs)), out]
        others = torch.linalg.vector_norm(without[:, None] + outputs, dim=-1)
        best = others.masked_fill(chosen, 0.0).amax(-1)
        found |= best > longest * (1 + SLACK)
    return int(found.sum())


def _winners(outputs: Tensor, k: int) -> Tensor:
    """The competition's choice where outputs (T, E) are one number wide."""
    return TopK(k, score="logits").select(competition_scores(outputs[..., None]))


def refutes_statement(scores: Tensor) -> str | None:
    """Scores read as outputs one number wide: winners whose sum is shorter than others'."""
    E = scores.shape[1]
    for k in range(2, E):
        won = (scores * _winners(scores, k)).sum(-1).abs().tolist()
        for i, row in enumerate(scores.tolist()):
            best = max(abs(sum(some)) for some in combinations(row, k))
            if won[i] < best:
                return f"k={k}, token {i}: the winners sum to {won[i]:g}, others to {best:g}."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """Winners that are not the best choice in the sum of norms, for some k."""
    for k in range(1, scores.shape[1] + 1):
        won = (scores.abs() * _winners(scores, k)).sum(-1).tolist()
        for i, row in enumerate(scores.abs().tolist()):
            best = max(sum(some) for some in combinations(sorted(row), k))
            if won[i] != best:
                return f"k={k}, token {i}: the winners' norms sum to {won[i]:g}, not {best:g}."
    return None


O10A = Claim(
    id="O10a",
    title="the strongest experts are best",
    statement=(
        "Competition, which runs all experts and keeps the k whose outputs have the largest norms, "
        "gives each token its best k experts."
    ),
    formula=(
        "top-k of softplus(||g_j(x_i)||) = argmax over k experts of v(S), with v(S) the length "
        "|| sum_{j in S} g_j(x_i) || of their joint output (checked without combine weights; the "
        "matrices of the counterexample are outputs one number wide)"
    ),
    conditions="v(S) is the sum of the responses, as in the LP of token choice",
    source=(
        "CompeteSMoE, Pham et al. 2024, arXiv 2402.02526, the competition mechanism (paraphrased)"
    ),
    verdict=Verdict.CONDITIONAL,
    reason=(
        "As an LP it is token choice whose scores come from outputs: softplus rises with the norm, "
        "so row top-k of the responses is its optimum, and prices of zero prove it. Any other "
        "constraint (capacity, budget) takes the same scores. But lengths do not add up: outputs "
        "that point away from each other cancel, so the strongest experts need not be the "
        "strongest together."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((2, -2, 1),),
        "Three experts answer 2, -2 and 1, and k = 2. The two strongest, of norm 2 each, sum to 0; "
        "the first and the third sum to 3.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O10A,)
