"""Audits that compare situations: what they read, repeatable, causality, batches, decoding."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.audits import (
    AuditedRouter,
    NoRouterOutput,
    as_choice_mask,
    batch_invariance,
    causality,
    chosen,
    prefill,
    repeatable,
)
from lp_routing.routers import CapacityFactor, ExpertChoice, TopK, Unified

NEVER = float("-inf")
LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
MAP = torch.tensor([[True, False, True], [False, True, True]])
INDICES = torch.tensor([[0, 2], [1, 2]])
VALUES = torch.ones(2, 2)
normal = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))

tables = st.lists(
    st.lists(st.sampled_from([NEVER, -1.0, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=2,
    max_size=6,
)


@pytest.mark.parametrize(
    "answer",
    [
        lpr.Assignment(MAP),
        (lpr.Assignment(MAP), "the state"),
        MAP,
        MAP.numpy(),
        MAP.int(),
        MAP.double(),
        MAP.tolist(),
        INDICES,
        INDICES.to(torch.uint8).numpy(),
        (VALUES, INDICES),
        (INDICES, VALUES),
        [LOGITS, VALUES, INDICES],
        (LOGITS * MAP, MAP),
        (LOGITS * MAP, MAP, torch.tensor([1, 1, 2])),
        torch.topk(LOGITS, 2),
    ],
)
def test_every_usual_answer_is_read_as_the_same_map(answer):
    assert as_choice_mask(answer, LOGITS).dtype == torch.bool
    assert torch.equal(as_choice_mask(answer, LOGITS), MAP)


def test_indices_may_name_nobody_or_everybody():
    assert as_choice_mask(torch.tensor([[-1, 2], [-1, -1]]), LOGITS).tolist() == [
        [False, False, True],
        [False] * 3,
    ]
    everybody = torch.tensor([[0, 1, 2], [2, 0, 1]])
    assert as_choice_mask(everybody, LOGITS).all()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "returned NoneType; expected an Assignment"),
        ({"map": MAP}, "returned dict"),
        (MAP[:1], r"torch.bool of shape \(1, 3\) for logits of shape \(2, 3\)"),
        (VALUES, r"torch.float32 of shape \(2, 2\)"),
        (
            LOGITS / 9,
            r"holds 0.33\d* at \[0, 0\], a fraction, and leaves out no pair; expected choices",
        ),
        (LOGITS * float("nan"), r"its map holds nan at \[0, 0\]"),
        (lpr.Assignment(MAP * 0.5), r"holds 0.5 at \[0, 0\]"),
        (INDICES + 1, r"names expert 3 of 3 at \[0, 1\]"),
        (INDICES - 2, r"names expert -2 of 3 at \[0, 0\]"),
        (torch.tensor([[0, 2], [1, 1]]), r"names expert 1 twice for token \[1\]"),
        ((VALUES, VALUES), "no entry of its tuple says who goes where"),
        ((INDICES, INDICES), "2 entries of its tuple could say who goes where"),
        ((MAP, MAP), "2 entries of its tuple"),
        (["a", "b"], "its answer: expected an Assignment"),
    ],
)
def test_anything_else_is_refused_in_words(answer, says):
    with pytest.raises(NoRouterOutput, match=says):
        as_choice_mask(answer, LOGITS)


def test_a_router_may_write_to_its_logits_and_needs_no_gradients():
    logits = LOGITS.clone().requires_grad_()

    def spoils(given):
        assert not torch.is_grad_enabled()
        given.zero_()
        return INDICES

    assert torch.equal(chosen(spoils, logits), MAP)
    assert torch.equal(logits, LOGITS)


def test_an_audited_router_says_why_there_is_no_answer():
    forever = threading.Event()

    def raises(_):
        raise ZeroDivisionError("one\ntwo")

    with pytest.raises(NoRouterOutput, match=r"^it raised ZeroDivisionError: one$"):
        AuditedRouter(raises)(LOGITS)
    with pytest.raises(NoRouterOutput, match=r"it did not return in 0\.05 s"):
        AuditedRouter(lambda _: forever.wait(), limit_s=0.05)(LOGITS)
    forever.set()


def test_the_callers_random_numbers_stay_as_they_are():
    before = torch.get_rng_state()
    AuditedRouter(lambda logits: torch.rand(logits.shape) < 0.5)(LOGITS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ask", [repeatable, causality, batch_invariance, prefill])
def test_what_is_no_router_or_no_logits_is_refused_at_the_door(ask):
    with pytest.raises(lpr.InputError, match="router: expected a callable"):
        ask(3, LOGITS)
    with pytest.raises(lpr.InputError, match="an audit takes"):
        ask(TopK(1), torch.zeros(2, 2, 2, 2))
    with pytest.raises(lpr.InputError, match=r"logits\[0, 0\] is nan"):
        ask(TopK(1), LOGITS * float("nan"))
    with pytest.raises(lpr.InputError, match=r"limit_s=0: expected a number of seconds > 0"):
        AuditedRouter(TopK(1), limit_s=0)


@pytest.mark.parametrize("ask", [causality, batch_invariance, prefill])
def test_a_router_without_an_answer_is_not_asked(ask):
    finding = ask(lambda logits: logits / 9, LOGITS)
    assert (finding.verdict, finding.count, finding.share) == ("not asked", None, None)
    assert finding.sentence.startswith("Not asked: it holds 0.3")


@pytest.mark.parametrize("ask", [repeatable, causality, batch_invariance, prefill])
@pytest.mark.parametrize("logits", [normal, normal.view(3, 8, 6), normal.bfloat16()])
def test_token_choice_passes(ask, logits):
    finding = ask(TopK(2), logits)
    assert (finding.verdict, finding.count, finding.example) == ("holds", 0, None)
    assert finding.sentence.startswith(f"None of {finding.of} tokens changes experts")
    assert not any(finding.numbers.values())


@pytest.mark.parametrize("ask", [causality, batch_invariance, prefill])
@settings(max_examples=15)
@given(table=tables)
def test_token_choice_passes_with_ties_and_forbidden_pairs(ask, table):
    assert ask(TopK(2), torch.tensor(table)).verdict == "holds"


# repeatable


def test_a_random_router_is_told_from_one_that_no_seed_governs():
    calls = []

    def counts(logits):
        calls.append(1)
        return torch.full((len(logits), 1), len(calls) % 3)

    assert repeatable(TopK(1), LOGITS).numbers == {"same seed": 0, "other seed": 0}
    drawn = repeatable(lambda logits: torch.rand(logits.shape).topk(1), normal)
    assert drawn.verdict == "fails"
    assert drawn.numbers["same seed"] == 0 < drawn.numbers["other seed"]
    assert "The router is random; torch.manual_seed governs it" in drawn.sentence
    counting = repeatable(counts, LOGITS)
    assert counting.numbers["same seed"] == 1
    assert "torch.manual_seed does not make it repeatable" in counting.sentence
    assert "token 0 goes to expert 1 when asked first, to expert 2 when" in counting.sentence


def test_a_router_that_answers_nothing_fails_to_be_repeatable():
    finding = repeatable(lambda _: None, LOGITS)
    assert (finding.verdict, finding.share) == ("fails", None)
    assert finding.sentence.startswith("No answer on the logits as they are: it returned NoneType")


# causality: three tokens come one after another, one pair a token. Two tokens: both pairs go to
# token 0. Three: its second pair goes to token 2. If token 2 were weak, token 1 would get a pair.
STORY = torch.tensor([[5.0, 4.0], [1.0, 0.0], [9.0, 8.0]])


def test_unified_lets_later_tokens_take_from_earlier_ones():
    finding = causality(Unified(1, rate=1.0), STORY)
    assert (finding.verdict, finding.count, finding.of) == ("fails", 2, 2)
    assert finding.numbers == {"appended": 0.5, "changed": 1.0}
    assert (finding.example.token, finding.example.before) == ((0,), (0,))
    assert finding.example.after == (0, 1)
    assert finding.sentence == (
        "2 of 2 tokens change experts when later tokens are appended or changed (100 %): token 0 "
        "goes to expert 0 before the tokens that come, to experts 0 and 1 before others from "
        "token 1 on."
    )


@pytest.mark.parametrize(
    ("router", "verdict"),
    [
        (TopK(2, 6), "fails"),
        (TopK(2, 6, "position"), "fails"),
        (TopK(2, 6, "position", "token"), "holds"),
        (TopK(2, CapacityFactor(1.0), "position", "token"), "fails"),
        (ExpertChoice(1), "fails"),
        (Unified(2), "fails"),
    ],
)
def test_the_verdict_is_what_the_router_says_of_itself(router, verdict):
    for logits in (normal, normal.view(2, 12, 6)):
        assert causality(router, logits).verdict == verdict
    assert router.causal == (verdict == "holds")


def test_prefixes_a_router_refuses_are_named_and_the_rest_is_asked():
    finding = causality(ExpertChoice(2), STORY)
    assert finding.verdict == "fails"
    assert finding.sentence.endswith(
        "Not all asked (appended): it raised InputError: capacity=2 is more than T, the number of "
        "tokens (1)."
    )


class PeeksAtTheLast:
    causal = True

    def __call__(self, logits):
        last = (logits[..., -1, 0] > 0).long()
        return last[..., None, None].expand(*logits.shape[:-1], 1)


@pytest.mark.parametrize("logits", [normal, normal.view(2, 12, 6)])
def test_a_router_that_peeks_at_the_last_token_is_caught_although_it_calls_itself_causal(logits):
    finding = causality(PeeksAtTheLast(), logits)
    assert finding.share == 1
    assert finding.sentence.endswith("The router calls itself causal.")


def test_one_token_has_none_later():
    assert causality(TopK(1), LOGITS[:1]).sentence == (
        "Not asked: there is one token, and none later."
    )


# batch invariance: sequences of tokens (9, 8), (7, 1) and (6, 5), (2, 0), one pair a token.
# Alone, the first tokens take both pairs of their sequence. Together, 9, 8, 7 and 6 are taken.
# Beside a weak sequence every token of the other has both experts.
BATCH = torch.tensor([[[9.0, 8.0], [7.0, 1.0]], [[6.0, 5.0], [2.0, 0.0]]])


def test_a_pool_over_the_batch_lets_sequences_take_from_each_other():
    finding = batch_invariance(Unified(1, rate=1.0, pool="batch"), BATCH)
    assert (finding.verdict, finding.count, finding.of) == ("fails", 3, 4)
    assert finding.numbers == {"alone": 0.5, "order": 0, "others": 0.75, "padding": 0}
    assert "token 1 of sequence 0 goes to no expert when its sequence" in finding.sentence
    assert "to expert 0 in the whole batch" in finding.sentence
    assert batch_invariance(Unified(1, rate=1.0), BATCH).verdict == "holds"


def test_in_a_flat_batch_a_strong_token_takes_the_place_of_another_sequence():
    finding = batch_invariance(TopK(1, 1), torch.tensor([[3.0, 0.0], [5.0, 0.0]]), sequences=2)
    assert (finding.count, finding.of) == (1, 2)
    assert (finding.example.token, finding.example.before) == ((0,), (0,))
    assert finding.example.after == ()


# All tokens like expert 0 alike. Four tokens make two places; two of padding a third one.
def test_a_capacity_that_counts_padding_depends_on_padding_only():
    logits = torch.zeros(2, 4, 2)
    finding = batch_invariance(TopK(1, CapacityFactor(1.0)), logits)
    assert finding.numbers == {"alone": 0, "order": 0, "others": 0, "padding": 0.25}
    assert finding.example.token == (0, 2)
    assert batch_invariance(TopK(1, 2), logits).verdict == "holds"


def test_padding_that_competes_is_caught():
    finding = batch_invariance(Unified(2, padding="competes"), normal.view(3, 8, 6))
    assert finding.numbers["padding"] > 0 == finding.numbers["alone"]


def by_place_in_the_batch(logits):
    places = torch.arange(len(logits)) % logits.shape[-1]
    return places[:, None, None].expand(*logits.shape[:-1], 1)


def test_a_router_that_goes_by_the_place_in_the_batch_is_caught():
    finding = batch_invariance(by_place_in_the_batch, normal.view(3, 8, 6))
    assert finding.numbers == {"alone": 2 / 3, "order": 1, "others": 0}
    assert "Padding was not asked about: the router has no parameter `mask`." in finding.sentence


def test_one_sequence_has_no_others():
    finding = batch_invariance(TopK(1), LOGITS[None])
    assert finding.verdict == "holds"
    assert "There is one sequence" in finding.sentence


# prefill against decode: together, token 1 gets nothing and token 2 both experts; alone, each
# token gets its best one.
def test_unified_decodes_as_token_choice():
    finding = prefill(Unified(1, rate=1.0), STORY)
    assert (finding.count, finding.of) == (2, 3)
    assert finding.sentence.endswith(
        "token 1 goes to no expert when all 3 tokens come at once, to expert 0 when it comes alone."
    )


@given(table=tables)
def test_what_unified_decodes_is_what_token_choice_takes(table):
    logits = torch.tensor(table)
    together, alone = Unified(2)(logits).x, TopK(2)(logits).x
    assert prefill(Unified(2), logits).count == int((together != alone).any(-1).sum())


def test_a_batch_decodes_one_token_of_each_sequence_at_a_time():
    logits = normal.view(3, 8, 6)
    assert prefill(Unified(2), logits).of == 24
    step = prefill(Unified(2, pool="step"), logits)
    assert step.verdict == "holds"
    assert prefill(Unified(2, pool="batch"), logits).verdict == "fails"


def test_a_capacity_that_one_token_cannot_meet_fails():
    finding = prefill(ExpertChoice(2), STORY)
    assert (finding.verdict, finding.sentence) == (
        "fails",
        "No answer when token 0 comes alone: it raised InputError: capacity=2 is more than T, the "
        "number of tokens (1).",
    )


def test_a_prefix_without_an_answer_is_not_called_causal():
    def breaks_on_short_ones(logits):
        if len(logits) < 60:
            raise RuntimeError("too short")
        return TopK(2)(logits)

    finding = causality(breaks_on_short_ones, torch.rand(64, 6))
    assert finding.verdict == "not asked"
    assert "Not all asked (appended): it raised RuntimeError: too short." in finding.sentence


def test_a_look_at_the_next_token_is_counted_where_it_was_asked_about():
    """Every token looks at the next: 9 cuts show 9, which is the least there are; 63 show most."""

    def peeks(logits):
        following = torch.cat([logits[1:], torch.zeros_like(logits[:1])])
        return torch.topk(logits + following, 2).indices

    logits = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    few, every = causality(peeks, logits), causality(peeks, logits, cuts=64)
    assert few.count <= 9 < every.count
    assert "Asked at 9 of 63 places" in few.sentence
    assert "places" not in every.sentence


def test_a_router_that_counts_its_tokens_is_caught_and_only_some_tokens_are_asked():
    finding = prefill(lambda logits: torch.full((len(logits), 1), len(logits) % 2), normal, most=5)
    assert (finding.count, finding.of) == (5, 5)
    assert finding.example.ways == ("when all 24 tokens come at once", "when it comes alone")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: causality(TopK(1), LOGITS, cuts=0), "cuts=0: it must be at least 1"),
        (lambda: prefill(TopK(1), LOGITS, most=1.5), "most=1.5: expected a whole number"),
        (
            lambda: batch_invariance(TopK(1), LOGITS, sequences=1),
            "sequences=1: it must be at least",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(call, says):
    with pytest.raises(lpr.InputError, match=says):
        call()


def test_numpy_logits_are_taken():
    assert causality(TopK(1), np.asarray(normal)).verdict == "holds"


# Sequences in a flat batch: one expert with one slot, which goes to the best of 3, 2 | 5, 4.
# Within a sequence the first token is the best; over both, token 2 takes the slot of token 0.
TWO = torch.tensor([[3.0], [2.0], [5.0], [4.0]])
BEST = TopK(1, 1, score="logits")


def test_later_tokens_are_those_of_the_same_sequence():
    assert causality(BEST, TWO).example.token == (0,)
    finding = causality(BEST, TWO, sequence=torch.tensor([7, 7, 3, 3]))
    assert (finding.verdict, finding.count, finding.of) == ("holds", 0, 2)
    mixed = causality(BEST, TWO[[2, 0, 1, 3]], sequence=torch.tensor([3, 7, 7, 3]))
    assert (mixed.verdict, mixed.of) == ("holds", 2)


def test_an_example_names_its_place_in_the_batch():
    rises = torch.tensor([[5.0], [1.0], [4.0], [2.0]])  # 1, 2 is the second sequence
    finding = causality(BEST, rises, sequence=torch.tensor([0, 1, 0, 1]))
    assert finding.example.token == (1,)
    assert "token 1 goes to expert 0 in a prefix of 1, to no expert" in finding.sentence


def test_a_token_alone_is_compared_with_its_sequence():
    whole = prefill(BEST, TWO)
    assert (whole.count, whole.of) == (3, 4)  # alone, each has the slot; of all, token 2
    own = prefill(BEST, TWO, sequence=torch.tensor([0, 0, 1, 1]))
    assert (own.count, own.example.token) == (2, (1,))


def test_the_batch_is_cut_where_sequences_end():
    finding = batch_invariance(BEST, TWO, sequence=torch.tensor([0, 0, 0, 1]))
    # alone, token 2 has the slot of its sequence and token 3 that of its own
    assert finding.example.token == (3,)
    assert finding.numbers["alone"] == 1 / 4


@pytest.mark.parametrize(
    "sequence", [torch.arange(3), torch.zeros(4), torch.zeros(2, 2, dtype=torch.long)]
)
def test_sequences_that_do_not_fit_are_refused(sequence):
    for ask in (causality, prefill, batch_invariance, lpr.audits.audit):
        with pytest.raises(lpr.InputError, match="sequence: expected a whole number for each"):
            ask(BEST, TWO, sequence=sequence)


def test_a_count_at_some_cuts_is_the_least_there_is():
    # Every token but the last changes when the next one comes, which shows just before a cut.
    def minds_the_next(logits):
        last = torch.arange(len(logits)) == len(logits) - 1
        return torch.nn.functional.one_hot(last.long(), 6)

    some, every = (causality(minds_the_next, normal, cuts=cuts) for cuts in (4, 24))
    assert (some.at_least, every.at_least) == (True, False)
    assert some.count < every.count == 23


def test_of_more_sequences_than_are_asked_only_those_count():
    # Alone, every token goes elsewhere; 64 of the 66 sequences are asked.
    def minds_company(logits):
        return torch.nn.functional.one_hot(torch.full(logits.shape[:2], int(len(logits) > 1)), 2)

    assert batch_invariance(minds_company, torch.zeros(66, 1, 2)).numbers["alone"] == 1


@pytest.mark.parametrize("place", [0, -1])
def test_padding_is_asked_about_on_either_side(place):
    # Every token follows the first token, or the last, masked out or not: padding decides.
    def follows(logits, mask=None):
        leader = logits[:, place : place + 1 or None].argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, leader, 1).amax(1, True).expand(logits.shape)

    batch = normal.view(3, 8, 6)
    assert batch_invariance(follows, batch).numbers["padding"] > 0
    assert (
        batch_invariance(lambda logits, mask=None: TopK(1)(logits), batch).numbers["padding"] == 0
    )
