"""`docs/papers.md`: what each paper of the field routes, as a linear program, and its verdicts.

One row a paper, then its references, and a glossary. A paper whose source was not had has a row
that says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lp_routing.claims.claim import Claim
from lp_routing.report.claims import anchor


@dataclass(frozen=True)
class Paper:
    """One row.

    Attributes:
        name: as people call it.
        reference: authors, year, where to find it.
        routes: what it routes, and how it is different.
        lp: the linear program of it, in the words and letters of `docs/guide/problems.md`.
        rule: its quick rule; a router of the catalogue where there is one.
        claims: ids of its claims, whose verdicts the page prints; empty where it has none.
        note: why there is no claim, or what of the source was not had; empty where all was.
        command: what to type, apart from `lp-routing claims --only` with its ids.
    """

    name: str
    reference: str
    routes: str
    lp: str
    rule: str
    claims: tuple[str, ...] = ()
    note: str = ""
    command: str = ""


USMOE = Paper(
    "USMoE",
    "Do, Le, Tran 2026, ICML, arXiv 2503.22996; code giangdip2410/USMoE",
    "the best token-expert pairs of a pool, a sequence or a batch",
    "total = N",
    "unified-usmoe: flattened top-N of (1 - r) softmax + r sigmoid 2 / E",
    tuple(f"B{n}" for n in range(1, 11)),
    "v3's theorem texts were not had; which reading of its first score v1 prints is not known",
    "python -m benchmarks.budget_loss",
)

PAPERS: tuple[Paper, ...] = (
    USMOE,
    Paper(
        "SoftMoE",
        "Zasada et al. 2026, ICML, arXiv 2606.17952",
        "a number of experts for each token, from a budget of each layer",
        "per token max <r, p> - a sum phi(p), sum_j p_j = k_l, sum_l k_l = B",
        "soft-top-k, truncated above tau",
        ("S3", "S4", "S5", "S6"),
        "its code was not had",
    ),
    Paper(
        "LapSum",
        "Struski et al. 2025, ICML, arXiv 2503.06242; code gmum/LapSum",
        "a differentiable top-k of any vector",
        "the same LP with a smoothing term, whose gap is certified row by row",
        "soft-top-k",
        ("S1", "S2", "S7", "S8"),
    ),
    Paper(
        "BIP",
        "Sun 2025, arXiv 2502.15451",
        "k experts a token under a capacity",
        "tokens <= k, experts <= C",
        "bip, bip-online: coordinate descent on prices",
        ("O1",),
    ),
    Paper(
        "Loss-free balancing",
        "Wang et al. 2024, arXiv 2408.15664",
        "k experts a token, biased towards rare experts",
        "tokens = k, experts = T k / E",
        "loss-free: a sign step on prices a batch",
        ("O2",),
    ),
    Paper(
        "ALF-LB's theory",
        "Han, Zhong 2025, arXiv 2512.03915",
        "loss-free balancing as a primal-dual method",
        "tokens = k, experts = T k / E",
        "loss-free",
        ("O18",),
        "read in its abstract; its logarithmic bound under strong convexity is not checked",
    ),
    Paper(
        "Quantile balancing",
        "Su 2026, kexue.fm/archives/11619; Megatron-LM, pull request 5349",
        "k experts a token with equal loads",
        "tokens = k, experts = T k / E",
        "quantile-balancing: coordinate descent on prices",
        ("O3",),
    ),
    Paper(
        "BASE",
        "Lewis et al. 2021, arXiv 2103.16716; Bertsekas 1988",
        "one expert a token with equal loads",
        "tokens = 1, experts = T / E",
        "auction",
        ("O4",),
    ),
    Paper(
        "S-BASE",
        "Clark et al. 2022, arXiv 2202.01169; Cuturi 2013",
        "the same, smoothed by an entropy",
        "tokens = k, experts = T k / E, plus epsilon H(x)",
        "sinkhorn, sinkhorn-balanced",
        ("O5",),
    ),
    Paper(
        "Selective Sinkhorn routing",
        "Nguyen et al. 2025, arXiv 2511.08972",
        "Sinkhorn's plan in some steps of training, as scores too",
        "as S-BASE",
        "sinkhorn",
        (),
        "read in its abstract: the plan is O5's; when it is applied is a matter of training",
    ),
    Paper(
        "MaxScore",
        "Dong et al. 2025, arXiv 2508.12801; its released KM.cpp",
        "k experts a token under a capacity, as a flow",
        "tokens = k, experts <= C",
        "maxscore, maxscore-flow",
        ("O6",),
    ),
    Paper(
        "Expert choice",
        "Zhou et al. 2022, arXiv 2202.09368; Benamou et al. 2015",
        "C tokens an expert, with a cap per token",
        "experts = C, tokens <= k",
        "expert-choice; capped-expert-choice by Dykstra's projections",
        ("O7",),
    ),
    Paper(
        "DeepSeek-V2, V3",
        "arXiv 2405.04434; arXiv 2412.19437",
        "k experts a token from M groups of devices",
        "tokens = k, at most M groups a token: not whole, a dynamic program a token",
        "group-limited, deepseek-v2, deepseek-v3",
        ("O8",),
    ),
    Paper(
        "LPLB",
        "repository deepseek-ai/LPLB",
        "tokens of an expert over its replicas",
        "min max_d load_d, sum_d f_jd = w_j along edges",
        "edge-wise levelling",
        ("O9",),
    ),
    Paper(
        "CompeteSMoE",
        "Pham et al. 2024, arXiv 2402.02526; Nguyen et al. 2025, arXiv 2505.13380",
        "the experts that respond most strongly",
        "tokens = k, scores from outputs",
        "token-choice on lpr.scores.competition_scores",
        ("O10a",),
    ),
    Paper(
        "MoE++",
        "Jin et al. 2024, arXiv 2410.07348; its code",
        "experts that cost nothing among others",
        "tokens = k, sum c_j x_ij <= B: whole with two costs",
        "token-choice with zero-computation experts",
        ("O10b", "O13a"),
    ),
    Paper(
        "SEER-MoE, EASY-EP, MC-Suite, MAN",
        "arXiv 2404.05089; 2504.06792; 2504.05586; 2606.15716",
        "which M of E experts to keep",
        "sum_j x_ij <= k, x_ij <= y_j, sum y_j = M: facility location",
        "the M largest of one number an expert; lpr.extensions.heavy_hitters, greedy",
        ("O10c",),
        "CAEP and criteria of MC-Suite that need gradients were not had",
        "python -m benchmarks.experts_dropped",
    ),
    Paper(
        "S2MoE",
        "Do et al. 2025, arXiv 2503.23007",
        "a token and its noisy copy by the same experts",
        "V(S + D) against V(S), margins at fixed prices",
        "token-choice, fixed-prices",
        ("O11a", "O11b"),
        "read in a summary",
    ),
    Paper(
        "VQMoE",
        "Do et al. 2024, arXiv 2411.19402; code giangdip2410/VQMoE",
        "a token to the expert of its nearest code",
        "min sum |h_i - e_j|^2 x_ij, tokens = 1; balanced: experts = T / E",
        "row argmax of 2 <h, e> - |e|^2",
        ("O12a", "O12b", "O12c"),
    ),
    Paper(
        "Skywork-MoE",
        "Wei et al. 2024, arXiv 2406.06563",
        "k experts a token, by normalised logits",
        "tokens = k, experts <= C, s = softmax(lambda (z - mu) / sigma)",
        "drop-by-position, drop-by-score",
        ("O13a", "O13b"),
    ),
    Paper(
        "Soft MoE",
        "Puigcerver et al. 2024, arXiv 2308.00951; code google-research/vmoe",
        "mixtures of all tokens to slots",
        "experts = 1 a slot, plus H(D_s); combine: tokens = 1, plus H(C_i)",
        "softmax over tokens; expert-choice without the entropy",
        ("O14a", "O14b", "O14c"),
    ),
    Paper(
        "Soft MoE's implicit bias",
        "Chung et al. 2024, arXiv 2409.00879",
        "a subset of experts that gives the layer's output",
        "none: the error is not linear in the choice",
        "largest combine mass; trial of all subsets",
        ("O14d",),
        "its algorithm was not had",
    ),
    Paper(
        "infinity-MoE",
        "2026, arXiv 2601.17680",
        "experts of a continuum, drawn for each token",
        "facility location with a column for each z",
        "sampling; column generation",
        ("O15",),
        "read in a summary",
    ),
    Paper(
        "Advancing Expert Specialization, D-MoE, OMoE",
        "2025, read in summaries",
        "k experts a token, trained apart from each other",
        "none: overlap is quadratic in x, information is not linear",
        "measures of any routing: lp_routing.evaluation.specialisation",
        ("O16a", "O16b"),
        "losses of training are not routing",
    ),
    Paper(
        "HSDL",
        "read in a summary",
        "a hierarchy of dictionaries of activations",
        "none",
        "none",
        (),
        "not routing: it factorises activations; its measures are O16's",
    ),
    Paper(
        "Generalisation of sparse mixtures",
        "Zhao et al. 2024, arXiv 2403.17404",
        "any k experts a token",
        "the count of its whole points",
        "none",
        ("O17a",),
        "from memory; the rest of the bound is not routing",
    ),
    Paper(
        "Convergence rates of softmax gating",
        "Nguyen et al. 2023 and later",
        "none: rates of fitting the parameters of a mixture",
        "none",
        "none",
        ("B10",),
        "not routing but for identifiability: a softmax does not fix a constant of each token",
    ),
    Paper(
        "muMoE",
        "Oldfield et al. 2024, arXiv 2402.12550",
        "product experts, by coefficients of their factors",
        "tokens = 1 a factor, plus an entropy",
        "entmax on each factor",
        ("O17b",),
        "the factorisation of weights is not routing",
    ),
    Paper(
        "ProbMoE",
        "2026",
        "-",
        "-",
        "-",
        (),
        "not had",
    ),
    Paper(
        "Online k-means routers",
        "2025 and later",
        "-",
        "as VQMoE: tokens = 1 with a bias, means updated by the batch",
        "-",
        (),
        "not had; the assignment is O12a's",
    ),
    Paper(
        "Congestion coefficient, mass near ties",
        "2026",
        "-",
        "the slope of prices against loads; scores within eps of a price",
        "-",
        (),
        "not had; lpr.certificate.ties reports pairs at their price",
    ),
)

GLOSSARY: dict[str, str] = {
    "assignment": "x (T, E): which pairs of token and expert are taken.",
    "bound": "no feasible assignment is worth more; it follows from any prices by weak duality.",
    "budget": "N, how many pairs are taken in all.",
    "capacity": "C, the most tokens that an expert takes.",
    "capacity factor": "C over the mean load T k / E.",
    "causal": "a token's experts do not depend on later tokens.",
    "certificate": "an assignment's value, a bound, and the gap between the two.",
    "dual ascent": "prices that rise with the excess over capacity, step by step.",
    "expert choice": "each expert takes its C best tokens.",
    "facility location": "which M of E experts to keep for the tokens' best k of them.",
    "gap": "bound minus value: by how much at most an assignment is below the best.",
    "integral": "the LP's optimum is attained by whole numbers: no pair is split.",
    "load": "how many tokens an expert has.",
    "margin": "by how much a token's scores may be off before it takes other experts.",
    "price": "what one more place is worth at the optimum: beta_j at an expert, lambda in all.",
    "reduced score": "s_ij minus the prices of expert and budget.",
    "shift per token": "a constant added to all logits of a token, which a softmax does not feel.",
    "soft drop": "a token whose weights in all slots together are next to nothing.",
    "spill": "tokens whose experts change because others were noised.",
    "token choice": "each token takes its k best experts.",
    "unified": "the N best pairs of a pool.",
}

COLUMNS = ("paper", "what it routes", "linear program", "quick rule", "verdict", "command")


def papers_page(claims: Sequence[Claim], command: str, papers: Sequence[Paper] = PAPERS) -> str:
    """The whole page, as Markdown.

    Args:
        claims: all claims; one that no paper in `PAPERS` names has a row with its formula alone.
        command: the command that makes this page.
        papers: the rows.

    Raises:
        KeyError: a paper with a claim that is not there.
    """
    by_id = {claim.id: claim for claim in claims}
    papers = [*papers, *_of_other_claims(claims)]
    lines = [
        "# Papers",
        "",
        "What papers route, the linear program of it, their quick rule, and what became of their",
        f"claims. Made by `{command}`; do not edit by hand. Reasons, counterexamples and figures:",
        "[Claims](claims.md). T tokens, E experts, k experts a token, C capacity, N pairs.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += [_row(paper, by_id) for paper in papers]
    lines += ["", "## References", ""]
    lines += [f"- {paper.name}: {paper.reference}." for paper in sorted(papers, key=_by_name)]
    lines += ["", "## Glossary", ""]
    lines += [f"- **{term}**: {meaning}" for term, meaning in sorted(GLOSSARY.items())]
    return "\n".join(lines) + "\n"


def _of_other_claims(claims: Sequence[Claim]) -> list[Paper]:
    """Rows for claims whose paper has none yet."""
    named = {name for paper in PAPERS for name in paper.claims}
    return [
        Paper(claim.title, claim.source, "", claim.formula, "", (claim.id,))
        for claim in claims
        if claim.id not in named
    ]


def _by_name(paper: Paper) -> str:
    return paper.name.lower()


def _row(paper: Paper, by_id: dict[str, Claim]) -> str:
    verdicts = [
        f"[{name}](claims.md#{anchor(by_id[name])}) {by_id[name].verdict.value}"
        for name in paper.claims
    ]
    note = [f"({paper.note})"] if paper.note else []
    only = f"lp-routing claims --only {','.join(paper.claims)}" if paper.claims else ""
    commands = [f"`{text}`" for text in (only, paper.command) if text]
    cells = (
        paper.name,
        paper.routes,
        paper.lp,
        paper.rule,
        " ".join(["; ".join(verdicts), *note]),
        "; ".join(commands) or "-",
    )
    return "| " + " | ".join(cell.replace("|", "\\|").strip() for cell in cells) + " |"
