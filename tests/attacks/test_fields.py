"""Each field that a learner sends is bounded or checked before use, and a test holds that: one row a field."""

from __future__ import annotations

import ast
import math
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from leader.events import UpdateAccepted
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, play
from tests.strangers import Stranger, at_work, update_of

ROOT = Path(__file__).parents[2] / "tests"
MEMBERS = "leader/learners/test_membership.py"
REGISTRATION = f"{MEMBERS}::test_a_registration_that_cannot_be_is_refused"
TOKENS = f"{MEMBERS}::test_a_learner_is_found_by_its_token_alone"
UPLOADS = "leader/rpc/test_uploads.py"
BAD_UPDATE = f"{UPLOADS}::test_a_bad_update_is_refused_and_its_memory_let_go"
SAME_BYTES = f"{UPLOADS}::test_only_the_same_bytes_go_on"
STREAMS = "leader/rpc/test_gradient_streams.py"
BAD_STREAM = f"{STREAMS}::test_a_stream_with_a_mistake_is_refused_and_changes_nothing"
FORGED = "leader/distributed/test_ticket.py::test_what_the_key_has_not_signed_is_refused"
ORDERS = "leader/training/test_open_orders.py"
SESSION = "leader/rpc/test_session.py"
MASKS = "leader/secagg/test_session.py"
ADVERT = f"{MASKS}::test_keys_that_can_be_none_are_refused"
METRICS = "leader/evaluation/test_federated.py"
VERSIONS = "leader/global_model/test_versions.py::test_older_versions_are_served_as_far_as_work_may_go_back"

#: What holds a field whose value is a message: its own fields' rows.
PARTS = (
    {"LearnerInfo.own_data", "GradientData.header", "GradientData.piece"}
    | {f"LearnerMessage.{kind}" for kind in ("hello", "heartbeat", "progress", "failure", "goodbye", "mask")}
    | {f"MaskUp.{kind}" for kind in ("advert", "shares", "agreed", "revealed", "refused")}
    | {"Shares.shares"}
)
#: The test that holds each other field.
HELD = {
    "LearnerInfo.network_addr": "leader/learners/test_dialling.py::test_no_other_address_is_dialled",
    "LearnerInfo.protocol": REGISTRATION,
    "LearnerInfo.release": REGISTRATION,
    "LearnerInfo.name": REGISTRATION,
    "LearnerInfo.token": f"{MEMBERS}::test_nobody_chooses_a_token",
    "LearnerInfo.device": REGISTRATION,
    "LearnerInfo.control": REGISTRATION,
    "LearnerInfo.tags": REGISTRATION,
    "LearnerInfo.device_kind": REGISTRATION,
    "LearnerInfo.memory_bytes": f"{MEMBERS}::test_tags_device_and_memory_are_kept_and_plain_learners_have_none",
    "LearnerInfo.codecs": REGISTRATION,
    "LearnerInfo.inline_bytes": "leader/rpc/test_inline_models.py::"
    "test_a_learner_gets_no_model_that_it_has_not_said_it_takes",
    "OwnData.examples": "leader/learners/test_eligibility.py::"
    "test_a_learner_brings_no_more_examples_than_the_config_lets_it",
    "OwnData.classes": "leader/learners/test_eligibility.py::"
    "test_learners_whose_data_does_not_fit_the_run_are_refused",
    "OwnData.fingerprint": REGISTRATION,
    "LearnerDataRequest.network_addr": "cluster/test_taken_names.py::"
    "test_a_plain_learners_shard_and_place_are_not_had_by_naming_its_address",
    "LearnerDataRequest.token": TOKENS,
    "LearnerDataRequest.shard": "leader/learners/test_eligibility.py::"
    "test_learners_that_do_not_meet_the_requirement_are_registered_and_hold_nothing",
    "Empty.token": TOKENS,
    "Empty.version": VERSIONS,
    "Empty.have": "attacks/test_fields.py::test_a_version_that_nobody_has_is_not_counted_from",
    "Empty.ticket": FORGED,
    "UpdateHeader.ticket": FORGED,
    "UploadRequest.ticket": FORGED,
    "GradientData.chunk": BAD_UPDATE,
    "UpdateHeader.token": BAD_STREAM,
    "UpdateHeader.work_id": f"{ORDERS}::test_a_work_id_leads_to_its_part_as_long_as_it_is_open",
    "UpdateHeader.examples": f"{ORDERS}::test_nobody_weighs_more_than_its_part_has_examples",
    "UpdateHeader.total_bytes": BAD_UPDATE,
    "UpdateHeader.crc32": BAD_UPDATE,
    "UpdateHeader.loss": f"{ORDERS}::test_a_loss_that_no_float32_holds_is_infinite",
    "UpdateHeader.seconds": "attacks/test_fields.py::test_seconds_of_training_that_can_not_be_tell_no_speed",
    "UpdateHeader.offset": f"{UPLOADS}::test_going_on_at_another_byte_is_refused_and_frees_the_memory",
    "UpdateHeader.metrics": f"{METRICS}::test_metrics_that_cannot_be_meant_are_refused",
    "UpdateHeader.start_loss": "leader/aggregation/test_weighting.py::"
    "test_q_fedavg_refuses_a_start_loss_that_is_none",
    "Metric.name": f"{METRICS}::test_metrics_that_cannot_be_meant_are_refused",
    "Metric.value": f"{METRICS}::test_metrics_that_cannot_be_meant_are_refused",
    "Metric.examples": f"{METRICS}::test_scores_weigh_no_more_than_what_their_part_holds_out",
    "LearnerInfo.secagg": "leader/learners/test_eligibility.py::"
    "test_who_can_not_keep_what_the_run_promises_has_no_part_in_it",
    "LearnerInfo.example_privacy": "leader/learners/test_eligibility.py::"
    "test_who_can_not_keep_what_the_run_promises_has_no_part_in_it",
    "LearnerInfo.frozen": "cluster/test_frozen.py::"
    "test_a_learner_with_another_base_is_refused_before_it_is_given_work",
    "UpdateHeader.session": "cluster/test_masked.py::test_an_update_counts_only_under_the_masks_of_its_round",
    "MaskUp.session": "cluster/test_masked.py::test_what_a_learner_says_in_no_session_changes_nothing",
    "Advert.share_key": ADVERT,
    "Advert.mask_key": ADVERT,
    "Advert.self_hash": ADVERT,
    "Advert.identity": ADVERT,
    "Advert.signature": ADVERT,
    "Share.seat": f"{MASKS}::test_shares_that_are_not_for_each_neighbour_once_are_refused",
    "Share.sealed": f"{MASKS}::test_shares_that_are_not_for_each_neighbour_once_are_refused",
    "Agreed.signature": f"{MASKS}::test_an_agreement_that_nobody_asked_for_is_nothing",
    "Revealed.shares": f"{MASKS}::test_a_revelation_of_another_size_is_refused",
    "MaskRefused.reason": f"{MASKS}::test_who_refuses_is_not_waited_for",
    "MaskRefused.unopened": f"{MASKS}::test_whose_shares_do_not_open_is_blamed_by_a_third_of_all_and_by_no_fewer",
    "Piece.number": BAD_STREAM,
    "Piece.total_bytes": BAD_STREAM,
    "Piece.crc32": BAD_STREAM,
    "Piece.attempt": f"{STREAMS}::test_pieces_of_an_old_attempt_are_ignored",
    "UploadRequest.token": TOKENS,
    "UploadRequest.work_id": SAME_BYTES,
    "UploadRequest.total_bytes": SAME_BYTES,
    "UploadRequest.crc32": SAME_BYTES,
    "WorkRequest.token": TOKENS,
    "WorkRequest.wait_s": "cluster/test_http.py::test_a_wait_for_work_is_no_longer_than_any_call_may_stall",
    "Hello.token": f"{SESSION}::test_a_session_without_a_proper_hello_is_refused",
    "Progress.work_id": f"{SESSION}::test_progress_is_told_for_the_open_round",  # which nobody reads
    "Progress.done": f"{SESSION}::test_a_speed_that_can_not_be_is_not_told",
    "Progress.total": f"{SESSION}::test_a_speed_that_can_not_be_is_not_told",
    "Progress.images_per_s": f"{SESSION}::test_a_speed_that_can_not_be_is_not_told",
    "Failure.work_id": "cluster/test_forged_work.py::"
    "test_made_up_learners_that_can_not_do_their_work_do_not_end_the_run",
    "Failure.message": f"{SESSION}::test_a_learner_that_fails_leaves_and_the_run_hears_why",
    "Goodbye.reason": f"{SESSION}::test_a_learner_that_says_goodbye_leaves",
}


def sent_by_learners() -> set[str]:
    """All fields of the messages that the leader's methods take, and of those inside."""
    service = leader_pb2.DESCRIPTOR.services_by_name["LeaderService"]
    left: list[Descriptor] = [method.input_type for method in service.methods]
    seen: dict[str, Descriptor] = {}
    while left:
        message = left.pop()
        if message.name not in seen:
            seen[message.name] = message
            left += [field.message_type for field in message.fields if field.message_type is not None]
    return {f"{name}.{field.name}" for name, message in seen.items() for field in message.fields}


def test_each_field_that_learners_send_has_a_test_that_holds_it() -> None:
    assert HELD.keys() | PARTS == sent_by_learners()
    assert not HELD.keys() & PARTS
    for place in set(HELD.values()):
        path, _, name = place.partition("::")
        functions = ast.parse((ROOT / path).read_text()).body
        assert name in [node.name for node in functions if isinstance(node, ast.FunctionDef)], place


def test_a_version_that_nobody_has_is_not_counted_from() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with Stranger(cluster.address) as stranger:
            sizes = []
            for have in (None, 0, 2**64 - 1):
                await stranger.register("a", token=stranger.token)
                request = leader_pb2.Empty(token=stranger.token, have=have)
                sizes.append(sum([len(message.chunk) async for message in stranger.stub.GetModel(request)]))
            assert sizes == [sizes[0]] * 3  # the whole model
            assert sizes[0] > 4 * cluster.app.layout.total

    play(scenario, {**SHARDS, "codec.down": "int8"}, data=IMAGES)


def test_seconds_of_training_that_can_not_be_tell_no_speed() -> None:
    said = (math.nan, math.inf, -1.0, 5e-324)

    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with at_work(cluster.address, "a") as a:
            for round_, seconds in enumerate((*said, 0.5), 1):
                await a.send(file, (await a.work()).work_id, 8, seconds=seconds)
                await cluster.committed(round_)
        speeds = [event.images_per_s for event in cluster.seen(UpdateAccepted)]
        assert speeds == [0.0, 0.0, 0.0, 0.0, 16.0]

    play(scenario, {**SHARDS, "learners": 1, "rounds": 5}, data=IMAGES)
