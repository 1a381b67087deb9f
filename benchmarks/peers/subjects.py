"""The peers: their packages, the functions that are compared, the differences that are known."""

from benchmarks.peers import (
    deepspeed,
    deepspeed_findings,
    megatron,
    megatron_findings,
    megatron_score_findings,
    models,
    models_findings,
)
from benchmarks.peers.registry import Peer

PEERS = (
    Peer(
        "megatron-core",
        "megatron.core.transformer.moe.moe_utils",
        megatron.subjects,
        (
            megatron_findings.position_is_not_first_come,
            megatron_findings.groups_all_rank_zero,
            megatron_findings.groups_ranked_by_another_rule,
            megatron_findings.sinkhorn_overflows,
            megatron_findings.sinkhorn_drifts,
            megatron_findings.padding_to_capacity_is_routed,
            megatron_findings.padding_takes_places,
            megatron_score_findings.one_choice_has_no_score,
            megatron_score_findings.probability_zero_loses_its_place,
            megatron_score_findings.scores_are_rounded_before_the_choice,
            megatron_score_findings.equal_logits_go_anywhere,
            megatron_score_findings.a_dropped_weight_is_lost,
        ),
    ),
    Peer(
        "deepspeed",
        "deepspeed.moe.sharded_moe",
        deepspeed.subjects,
        (
            deepspeed_findings.top1_is_not_first_come,
            deepspeed_findings.sampling_changes_the_callers_logits,
            deepspeed_findings.a_weight_of_zero_is_not_dispatched,
            deepspeed_findings.padding_takes_places,
            deepspeed_findings.counts_are_of_wishes,
            deepspeed_findings.what_is_left_is_normalised,
        ),
    ),
    Peer(
        "transformers",
        "transformers",
        models.subjects,
        (models_findings.a_group_left_out_is_chosen, models_findings.logits_as_they_come_out),
    ),
)
