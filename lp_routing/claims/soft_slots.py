"""Soft MoE: slots as smoothed expert choice, soft drops, causality, specialised subsets (O14)."""

import math
from itertools import combinations

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, optimum, span
from lp_routing.problem.named import expert_choice

PAPER = "Soft MoE, Puigcerver et al. 2024, arXiv 2308.00951"
CODE = "code: google-research/vmoe, projects/soft_moe/router.py"
LEFT_OUT = 0.25
"""A token whose weights in all slots together are below this share of the mean counts as left out.

On the sample 1 to 29 % of the tokens are; with a tenth none is, with a half 30 to 36 %.
"""
EXPERTS, TOKENS, WIDTH = 12, 64, 16
"""Of each layer, for subsets by trial: 495 of 4 of 12 experts, 0.4 s on the sample; and the drawn
outputs' dimensions, in more of which they are closer to orthogonal."""


def dispatch(logits: Tensor) -> Tensor:
    """D: each slot's softmax over the tokens, (T, S), eq. 1 of the paper."""
    return logits.softmax(0)


def combine(logits: Tensor) -> Tensor:
    """C: each token's softmax over the slots, (T, S), eq. 2 of the paper."""
    return logits.softmax(1)


def gaps(logits: Tensor) -> tuple[Tensor, Tensor]:
    """max phi_s - <phi_s, D_s>, and the entropy of D_s, which bounds it; (S,) each."""
    D = dispatch(logits)
    gap = ((logits.amax(0) - logits) * D).sum(0)  # differences first: no large sums
    return gap, torch.special.entr(D).sum(0)


def coverage(logits: Tensor) -> Tensor:
    """A token's weights in all slots together over their mean, T / S sum_s D_is; (T,)."""
    T, S = logits.shape
    return dispatch(logits).sum(1) * T / S


def subset_error(C: Tensor, outputs: Tensor, kept: tuple[int, ...]) -> float:
    """|Y - Y_S|^2: outputs (T, E, D) combined by C (T, E), against those of the kept, renormalised.

    Tokens that give the kept experts no weight get 0.
    """
    some = list(kept)
    weights = C[:, some]
    total = weights.sum(1, keepdim=True)
    shares = weights / total.masked_fill(total == 0, 1.0)
    whole = torch.einsum("te,ted->td", C, outputs)
    part = torch.einsum("te,ted->td", shares, outputs[:, some])
    return float((whole - part).square().sum())


def by_mass(C: Tensor, keep: int) -> tuple[int, ...]:
    """The `keep` experts of the largest summed combine weight, ties to the lower expert."""
    return tuple(sorted(C.sum(0).sort(descending=True, stable=True).indices[:keep].tolist()))


def examine_slots(subject: ClaimInput) -> Evidence:
    """Logits as slot logits, one slot an expert: gap and entropy of each slot, and the optimum."""
    T = subject.shape[1]
    found = [gaps(logits) for logits in subject.logits]
    gap, entropy = (torch.stack(each) for each in zip(*found, strict=True))
    agrees = bool((gap >= 0).all() and (gap <= entropy + SLACK).all())
    agrees &= bool((entropy <= math.log(T) + SLACK).all())
    for logits in subject.logits:
        best = float(logits.amax(0).sum())
        room = SLACK * (1 + float(logits.abs().amax(0).sum()))
        agrees &= abs(optimum(expert_choice(logits, 1))[0] - best) <= room
    sentence = (
        f"Logits as slot logits: on {gap.numel()} slots the mixture lies "
        f"{span([float(gap.min()), float(gap.max())])} below the best token, where its entropy "
        f"allows {span([float(entropy.min()), float(entropy.max())])} and log T is "
        f"{math.log(T):.3g}; the best tokens are the optimum of expert choice with C = 1."
    )
    numbers: dict[str, Number] = {
        **by_layer("largest gap", gap.amax(1).tolist()),
        **by_layer("largest entropy", entropy.amax(1).tolist()),
    }
    return Evidence(agrees, sentence, numbers)


def examine_coverage(subject: ClaimInput) -> Evidence:
    """What tokens weigh in all slots together, over the mean."""
    shares = [coverage(logits) for logits in subject.logits]
    least = [float(each.min()) for each in shares]
    out = [100 * float((each < LEFT_OUT).double().mean()) for each in shares]
    agrees = all(abs(float(each.mean()) - 1) <= SLACK for each in shares)
    sentence = (
        f"A token's weight in all slots together is {span(least)} of the mean at the least; "
        f"{span(out)} % of the tokens have less than {LEFT_OUT:g} of it."
    )
    return Evidence(agrees, sentence, by_layer("least share", least) | by_layer("% left out", out))


def examine_causality(subject: ClaimInput) -> Evidence:
    """Dispatch weights of the first half of the tokens, alone and with the rest."""
    half = subject.shape[1] // 2
    if not half:
        return Evidence(None, "There is one token, none later.")
    lost, same = [], True
    for logits in subject.logits:
        alone, later = dispatch(logits[:half]), dispatch(logits)[:half]
        lost.append(100 * (1 - float(later.sum() / alone.sum())))
        same &= torch.equal(combine(logits)[:half], combine(logits[:half]))
    sentence = (
        f"With the later tokens the first {half} lose {span(lost)} % of their weight in the slots; "
        f"the slots' weights in a token's output stay, the slots' contents do not."
    )
    return Evidence(same, sentence, by_layer("% of weight lost to later tokens", lost))


def examine_subset(subject: ClaimInput) -> Evidence:
    """A third of some experts, outputs drawn: by trial of all subsets, and by combine mass."""
    E = min(subject.shape[2], EXPERTS)
    keep = max(E // 3, 1)
    if keep == E:
        return Evidence(None, "One expert leaves none to drop.")
    draw = torch.Generator().manual_seed(subject.seed)
    best, mass, mean, agrees = 0.0, 0.0, 0.0, True
    for logits in subject.logits:
        C = combine(logits[:TOKENS, :E].cpu())
        outputs = torch.randn(*C.shape, WIDTH, generator=draw, dtype=torch.float64)
        subsets = list(combinations(range(E), keep))
        errors = [subset_error(C, outputs, kept) for kept in subsets]
        chosen = by_mass(C, keep)
        kept_mass = float(C[:, list(chosen)].sum())
        most = max(float(C[:, list(kept)].sum()) for kept in subsets)
        agrees &= abs(kept_mass - most) <= SLACK * (1 + most)
        best += min(errors)
        mass += errors[subsets.index(chosen)]
        mean += sum(errors) / len(errors)
    sentence = (
        f"Keeping {keep} of {E} experts with outputs drawn {WIDTH} wide: the squared error is "
        f"{best:.4g} at best (all subsets tried), {mass:.4g} for those of the largest combine "
        f"mass, which no subset exceeds in mass, and {mean:.4g} on average over subsets."
    )
    numbers: dict[str, Number] = {"best": best, "by mass": mass, "mean of subsets": mean}
    return Evidence(agrees, sentence, numbers)


def refutes_slots(logits: Tensor) -> str | None:
    """A slot whose gap is below 0 or above its entropy."""
    gap, entropy = gaps(logits)
    if bool((gap < 0).any() | (gap > entropy + SLACK).any()):
        return f"Gaps {gap.tolist()}, entropies {entropy.tolist()}."
    return None


def refutes_coverage(logits: Tensor) -> str | None:
    """A token with less than a quarter of the mean weight."""
    least = float(coverage(logits).min())
    return f"A token has {least:.3g} of the mean weight." if least < LEFT_OUT else None


def refutes_causality(logits: Tensor) -> str | None:
    """A token whose weights in the slots change with later tokens."""
    for n in range(1, len(logits)):
        moved = float((dispatch(logits)[:n] - dispatch(logits[:n])).abs().max())
        if moved > SLACK:
            return f"The weights of the first {n} tokens move by {moved:.3g} with later ones."
    return None


def refutes_subset(logits: Tensor) -> str | None:
    """Outputs 1, -1, 0, 1, ..., one number wide, and one expert kept: not that of largest mass."""
    T, E = logits.shape
    C = combine(logits)
    outputs = torch.tensor([1.0, -1.0, 0.0] * E, dtype=C.dtype)[:E].expand(T, E)[..., None]
    errors = [subset_error(C, outputs, (j,)) for j in range(E)]
    mass = errors[by_mass(C, 1)[0]]
    if mass > min(errors) + SLACK:
        return f"The largest mass leaves an error of {mass:.3g}, the best expert {min(errors):.3g}."
    return None


O14A = Claim(
    id="O14a",
    title="a slot is smoothed expert choice",
    statement=(
        "A slot's mixture is expert choice of one token, smoothed, and its entropy bounds by how "
        "much."
    ),
    formula=(
        "D_s = argmax <phi_s, d> + H(d) over the simplex of tokens; "
        "0 <= max_i phi_is - <phi_s, D_s> <= H(D_s) <= log T"
    ),
    conditions="",
    source=f"{PAPER}, eq. 1; {CODE} (logits of unit-norm inputs and slots)",
    verdict=Verdict.HOLDS,
    reason=(
        "A softmax maximises <phi, d> + H(d). No point beats it there, the one token of largest "
        "logit, of entropy 0, included: max phi <= <phi, D> + H(D). Without H the simplex's "
        "maximum is that token, which is column top-1: expert choice with C = 1 and as many "
        "columns as slots. Combine weights are token choice with K = 1, smoothed, likewise."
    ),
    examine=examine_slots,
    refutes_verdict=refutes_slots,
)

O14B = Claim(
    id="O14b",
    title="slots leave no token out",
    statement="Since every slot mixes all tokens, no token is dropped.",
    formula="sum_s D_is > 0 for all i, over the mean S / T (here: at least a quarter of it)",
    conditions="",
    source=f"{PAPER}, properties: no token dropping (paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "Weights are above 0 but as small as logits make them: columns add up to 1, rows to "
        "nothing in particular, as in expert choice. A token that no slot likes is mixed into "
        "nothing: a soft drop. Its output is still a mixture of slots, of which it is no part. "
        "Sinkhorn's balanced plan, with row sums S / T, is the mend."
    ),
    examine=examine_coverage,
    counterexample=Counterexample(
        ((0, 0), (2, 2)),
        "Slot logits. Each slot's weights are 1 / (1 + e^2) = 0.119 and 0.881: token 1 has 0.238 "
        "in both together, where the mean is 1.",
    ),
    refutes_statement=refutes_coverage,
)

O14C = Claim(
    id="O14c",
    title="slots are causal",
    statement="What a token is given does not depend on later tokens.",
    formula="D_is and the slots' contents are functions of tokens 1 to i",
    conditions="",
    source=f"{PAPER}, limitations (it names autoregressive use as open)",
    verdict=Verdict.FAILS,
    reason=(
        "The softmax over tokens has all of them in its denominator, and a slot's content is a sum "
        "over all of them. Combine weights look at one row, but they weigh these contents."
    ),
    examine=examine_causality,
    counterexample=Counterexample(
        ((0,), (0,)),
        "Slot logits. Token 1 alone has all of the slot; with token 2 after it, half.",
    ),
    refutes_statement=refutes_causality,
)

O14D = Claim(
    id="O14d",
    title="combine mass finds the experts that matter",
    statement="The experts of the largest combine weight give nearly the layer's output alone.",
    formula=(
        "the M largest of sum_i C_ij = argmin over S, |S| = M, of |Y - Y_S|^2, with Y = C f and "
        "Y_S the kept part, renormalised"
    ),
    conditions="",
    source=(
        "Soft MoE's implicit bias, Chung et al. 2024, arXiv 2409.00879, specialised subsets "
        "(paraphrased; its algorithm was not had)"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Mass adds up over experts, so the M largest have the most: an LP with whole optima. The "
        "error does not add up: outputs cancel, and renormalising divides by a sum of the choice. "
        "No LP in the choice states it; trial of all subsets or a mixed-integer quadratic program "
        "does."
    ),
    examine=examine_subset,
    counterexample=Counterexample(
        ((1, 1, 0),),
        "Combine logits of one token; experts answer 1, -1 and 0. Weights are .42, .42 and .16, so "
        "Y = 0. The largest mass is expert 1's (a tie with 2), which alone answers 1: error 1. "
        "Expert 3, of the least mass, answers 0: no error.",
    ),
    refutes_statement=refutes_subset,
)

CLAIMS: tuple[Claim, ...] = (O14A, O14B, O14C, O14D)
