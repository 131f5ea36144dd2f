"""The section that bounds what comes from outside."""

from __future__ import annotations

from pydantic import Field

from leader.config.sections.base import MIB, Positive, Section


class LimitsConfig(Section):
    """Bounds on everything from outside."""

    max_learners: int = Field(1000, ge=1, description="learners that may be registered at once")
    chunk_bytes: int = Field(1 * MIB, ge=1024, le=2 * MIB - 64, description="bytes of payload a message")
    upload_bytes: int = Field(128 * MIB, ge=1 * MIB, description="bytes of unfinished uploads held in memory")
    window_bytes: int = Field(
        2 * MIB,
        ge=64 << 10,
        le=1 << 30,
        description="bytes of each stream that arrive before the leader reads them; "
        "a learner's upload takes no more in one round trip",
    )
    header_bytes: int = Field(1 * MIB, ge=1024, description="largest safetensors header")
    tensors: int = Field(16_384, ge=1, description="tensors in a payload")
    name_length: int = Field(256, ge=16, description="characters in the name of a tensor")
    message_bytes: int = Field(4 * MIB, ge=3 * MIB, le=64 * MIB, description="largest gRPC message taken")
    metadata_bytes: int = Field(
        16 << 10, ge=4 << 10, le=1 * MIB, description="most bytes of gRPC headers of a call"
    )
    dialled: int = Field(64, ge=0, description="learners that the leader dials at once")
    transfers: int = Field(64, ge=1, description="model and data streams at once; more wait")
    hello_s: Positive = Field(10.0, description="seconds that a new call may take to send its first message")
    stall_s: Positive = Field(60.0, description="seconds without progress after which a transfer is ended")
    slow_bytes_per_s: Positive = Field(
        32 << 10,
        description="bytes a second of a transfer below which its place may go to others that wait; "
        "such transfers keep half of limits.transfers and limits.upload_bytes at most",
    )
    calls_per_s: Positive = Field(
        500.0, description="calls a second of one identity or connection, with a burst of 2 s"
    )
    calls_at_once: int = Field(16, ge=1, description="calls of one identity under way at once")
    registrations_per_min: Positive = Field(30.0, description="registrations a minute of one identity")
    enrolments_per_min: Positive = Field(
        60.0, description="enrolments a minute from one address, or renewals of one identity"
    )
    refusals_per_min: Positive = Field(
        60.0, description="refused calls a minute from one address; beyond that they are refused unread"
    )
    upload_bytes_per_hour: int = Field(
        0, ge=0, description="bytes an hour up of one identity; 0 = any number"
    )
    download_bytes_per_hour: int = Field(
        0, ge=0, description="bytes an hour down to one identity; 0 = any number"
    )
    connections: int = Field(0, ge=0, description="connections at once; 0 = 2 x limits.max_learners + 64")
    handshake_s: Positive = Field(10.0, description="seconds that a new connection may take to say who it is")
