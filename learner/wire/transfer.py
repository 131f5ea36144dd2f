"""Moving payloads: pull the model and shards, push updates; everything received is checked."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
import numpy as np
from grpc import aio
from numpy.typing import NDArray

from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from model.image_classification import Shard
from model.layout import Layout
from model.piece_files import WHOLE, PieceFiles
from protos import leader_pb2
from utils import faults
from utils.errors import IncompatibleError, PayloadError
from utils.vector import Recycled, fresh
from utils.wire.contract import LeaderStub
from utils.wire.payload import CONTROL_VARIATE, Manifest, Payload, PayloadReader
from utils.wire.status import failures_told
from utils.wire.watchdog import Watchdog

_log = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 10.0
_STALL_S = 60.0
_TRIES = 5  # to send an update whose stream ends without a reason
_HEADER_BYTES = 8 << 20
_MAX_DATA_BYTES = 1 << 40
_MODELS = Recycled()  # the one that is trained on, and the one before or after it


async def push(to: Endpoint, held: HeldUpdate, chunk_bytes: int, *, resume: bool = False) -> None:
    """Send an update; returns when it is counted, raises what it was refused with.

    With `resume` that place is asked first how much of it an earlier, broken stream brought.
    """
    with failures_told():
        offset = await _received(to, held.said) if resume else 0
        for left in reversed(range(_TRIES)):
            try:
                await to.stub.accumulate(held.messages(to.token, chunk_bytes, offset, to.ticket))
                return
            except aio.AioRpcError as error:
                # A leader that refuses a stream ends it while we write. grpc.aio often gives INTERNAL
                # ("Internal error from Core") for the failed write then, and drops the leader's status.
                if error.code() is not grpc.StatusCode.INTERNAL or not left:
                    raise
            # A unary call always gets its status: the leader tells the refusal here, or how to go on.
            offset = await _received(to, held.said)


async def _received(at: Endpoint, said: leader_pb2.UpdateHeader) -> int:
    request = leader_pb2.UploadRequest(
        token=at.token,
        ticket=at.ticket,
        work_id=said.work_id,
        total_bytes=said.total_bytes,
        crc32=said.crc32,
    )
    received = (await at.stub.get_upload(request, _CALL_TIMEOUT_S)).received
    if received:
        _log.info("going on with the upload at byte %d of %d", received, said.total_bytes)
    return received


async def pull_model(
    at: Endpoint,
    order: leader_pb2.WorkOrder,
    layout: Layout,
    base: tuple[int, Download] | None = None,
    changes: PieceFiles | None = None,
) -> Download:
    """The order's model version, with the leader's control variate where the order wants that.

    Given `base`, a version that is here and its number, and how to read `changes`, the leader may send what
    has changed since. Raises IncompatibleError if the tensors are not `layout`'s, PayloadError for a change
    that can't be one.
    """
    request = leader_pb2.Empty(token=at.token, ticket=at.ticket, version=order.version)
    if base is not None and changes is not None:
        request.have = base[0]
    reader = _model_reader(order, layout, base, changes)
    with failures_told():
        payload = await _collect(at.stub.get_model(request), reader)
    if base is not None and changes is not None and is_change(payload.manifest, base):
        return Download(changes.apply(base[1].vector, payload))
    return unpack_model(layout, payload)


def read_model(file: bytes, order: leader_pb2.WorkOrder, layout: Layout) -> Download:
    """The order's model version from the file that came with it; raises as `pull_model` does."""
    reader = _model_reader(order, layout)
    reader.feed(file)
    return unpack_model(layout, reader.finish())


def _model_reader(
    order: leader_pb2.WorkOrder,
    layout: Layout,
    base: tuple[int, Download] | None = None,
    changes: PieceFiles | None = None,
) -> PayloadReader:
    control = layout.parameter_count if order.control_variates else None

    def accept(manifest: Manifest) -> None:
        if changes is not None and is_change(manifest, base):
            changes.check(WHOLE, manifest)
        else:
            check_model(layout, manifest, control)
        faults.reach("learner.downloading", order.round)

    return _reader(8 * layout.total + _HEADER_BYTES, accept, _MODELS.empty)


def is_change(manifest: Manifest, base: tuple[int, Download] | None) -> bool:
    """Whether a payload says that it is the change of the version that is here; raises PayloadError for another's."""
    counted_from = manifest.metadata.get("base")
    if counted_from is None:
        return False
    if base is None or counted_from != str(base[0]):
        raise PayloadError(
            "the leader sent the change of a model version that is not here; fetch the model again"
        )
    return True


def unpack_model(layout: Layout, payload: Payload) -> Download:
    """The flat vector in a payload that `check_model` has passed; a view of it where the order is the layout's."""
    tensors = {tensor.name: payload.data[tensor.start : tensor.stop] for tensor in payload.manifest.tensors}
    control = tensors.pop(CONTROL_VARIATE, None)
    variate = None if control is None else control.view(np.float32)
    if list(tensors) == [entry.name for entry in layout.entries]:
        return Download(payload.data[: 4 * layout.total].view(np.float32), variate)
    vector = np.concatenate([tensors[entry.name] for entry in layout.entries]).view(np.float32)
    return Download(vector, None if variate is None else _reordered(layout, list(tensors), variate))


def _reordered(layout: Layout, theirs: list[str], control: NDArray[np.float32]) -> NDArray[np.float32]:
    """The control variate (P,), which lies in the order of the leader's parameters, in that of the layout's."""
    sizes = {entry.name: entry.size for entry in layout.parameters}
    names = [name for name in theirs if name in sizes]
    ends = np.cumsum([sizes[name] for name in names])
    pieces = dict(zip(names, np.split(control, ends[:-1]), strict=True))
    return np.concatenate([pieces[entry.name] for entry in layout.parameters])


def check_model(layout: Layout, manifest: Manifest, control: int | None = None) -> None:
    """Raise IncompatibleError unless the payload holds `layout`'s tensors, in any order.

    With `control` it must hold the leader's control variate of that many values as well.
    """
    received = {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors}
    expected = {entry.name: ("F32", entry.shape) for entry in layout.entries}
    if control is not None:
        expected[CONTROL_VARIATE] = ("F32", (control,))
    for name in [*expected, *received]:
        theirs, ours = received.get(name), expected.get(name)
        if theirs != ours:
            raise IncompatibleError(
                f"the leader's model has {name!r} as {_said(theirs)}, this learner's as {_said(ours)}; "
                "install the same release on both sides, and use the same task"
            )


def _said(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{tensor[0]}{list(tensor[1])}" if tensor else "nothing"


async def pull_shard(stub: LeaderStub, token: bytes, shard: int, network_addr: str, classes: int) -> Shard:
    """One shard of the leader's data; raises PayloadError if it is not images and labels."""
    request = leader_pb2.LearnerDataRequest(network_addr=network_addr, token=token, shard=shard)
    with failures_told():
        payload = await _collect(stub.get_data(request), _reader(_MAX_DATA_BYTES, _check_data))
    arrays = payload.arrays()
    images, labels = (
        arrays["images"].astype(np.uint8, copy=False),
        arrays["labels"].astype(np.int64, copy=False),
    )
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        raise PayloadError(f"shard {shard} has no examples or labels outside 0..{classes - 1}")
    return Shard(images, labels)


def _check_data(manifest: Manifest) -> None:
    tensors = {tensor.name: tensor for tensor in manifest.tensors}
    if set(tensors) != {"images", "labels"}:
        raise PayloadError(f"a shard has images and labels, this one {sorted(tensors)}")
    images, labels = tensors["images"], tensors["labels"]
    if images.dtype != "U8" or len(images.shape) != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise PayloadError(f"a shard's images are U8 (N, 3, H, W), these {images.dtype} {images.shape}")
    if labels.dtype != "I64" or labels.shape != images.shape[:1]:
        raise PayloadError(
            f"a shard's labels are I64 {images.shape[:1]}, these {labels.dtype} {labels.shape}"
        )


def _reader(
    max_bytes: int,
    accept: Callable[[Manifest], None],
    memory: Callable[[int], NDArray[np.uint8]] = fresh,
) -> PayloadReader:
    return PayloadReader(
        max_bytes=max_bytes, header_bytes=_HEADER_BYTES, accept=accept, memory=memory, checksum=False
    )


async def _collect(chunks: AsyncIterator[memoryview], reader: PayloadReader) -> Payload:
    async with Watchdog(_STALL_S, f"the leader sent nothing for {_STALL_S:g} s") as watchdog:
        async for chunk in chunks:
            watchdog.progress()
            reader.feed(chunk)
    return reader.finish()


@dataclass(frozen=True)
class Download:
    """One version of the global model as the leader sends it."""

    vector: NDArray[np.float32]  # (total,)
    control: NDArray[np.float32] | None = None  # (P,): SCAFFOLD's control variate of the leader
