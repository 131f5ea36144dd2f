from __future__ import annotations

import asyncio
import itertools
import weakref

import numpy as np
import pytest
import safetensors.numpy
from torch import nn

from leader.global_model.versions import ModelVersion, VersionStore, next_version
from model.layout import Layout
from protos import leader_pb2
from utils.errors import LateUpdateError, NotReadyError

LAYOUT = Layout.of(nn.Sequential(nn.Linear(30, 10), nn.BatchNorm1d(10)))
VALUES = np.arange(LAYOUT.total, dtype=np.float32)


def store(chunk_bytes: int = 256, older: int = 0) -> VersionStore:
    return VersionStore(LAYOUT, chunk_bytes, older)


def versions(count: int, older: int = 0) -> tuple[VersionStore, list[ModelVersion]]:
    these = store(older=older)
    made = [these.encode(number, VALUES + number) for number in range(1, count + 1)]
    return these, made


@pytest.mark.parametrize("chunk_bytes", [64, 256, 1 << 20])
def test_the_safetensors_library_reads_a_version(chunk_bytes: int) -> None:
    version = store(chunk_bytes).encode(5, VALUES)
    chunks = [leader_pb2.ModelChunk.FromString(message).chunk for message in version.messages]
    arrays = safetensors.numpy.load(b"".join(chunks))
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_bytes] * (len(chunks) - 1)
    assert set(arrays) == {entry.name for entry in LAYOUT.entries}
    for entry in LAYOUT.entries:
        expected = VALUES[entry.start : entry.start + entry.size].reshape(entry.shape)
        np.testing.assert_array_equal(arrays[entry.name], expected)


def test_the_newest_version_is_served_also_by_its_number() -> None:
    these, (first, second) = versions(2)
    assert these.number is None
    with pytest.raises(NotReadyError, match="not ready yet"):
        these.get(None)
    these.publish(first)
    assert [these.get(None), these.get(1)] == [first, first]
    these.publish(second)
    assert [these.get(None), these.get(2)] == [second, second]
    for number in (1, 3):
        with pytest.raises(LateUpdateError, match=f"model version {number} is no longer served"):
            these.get(number)


def test_a_download_goes_on_over_one_new_version_but_not_over_two() -> None:
    these, (first, second, third) = versions(3)
    these.publish(first)
    download = these.stream(first)
    assert next(download) == first.messages[0]
    these.publish(second)
    assert next(download) == first.messages[1]
    these.publish(third)
    with pytest.raises(LateUpdateError, match="was replaced during the download"):
        next(download)


def test_a_version_that_was_replaced_takes_no_memory_once_nobody_downloads_it() -> None:
    these, (first, second) = versions(2)
    these.publish(first)
    download, gone = these.stream(first), weakref.ref(first)
    next(download)
    these.publish(second)
    del first
    assert gone() is not None
    assert len(list(download)) == len(second.messages) - 1
    assert gone() is None


@pytest.mark.parametrize("older", [1, 2, 4])
def test_older_versions_are_served_as_far_as_work_may_go_back(older: int) -> None:
    these, made = versions(6, older)
    for number, version in enumerate(made, start=1):
        these.publish(version)
        assert these.number == number
        for earlier in made[:number]:
            if earlier.number >= number - older:
                assert these.get(earlier.number) is earlier
                assert tuple(these.stream(earlier)) == earlier.messages
            else:
                with pytest.raises(LateUpdateError, match=f"version {earlier.number} is no longer served"):
                    these.get(earlier.number)
                with pytest.raises(LateUpdateError, match="was replaced during the download"):
                    next(these.stream(earlier))
        assert these.get(None) is version


def test_a_download_is_all_messages_of_its_version() -> None:
    these, (first,) = versions(1)
    these.publish(first)
    assert tuple(these.stream(first)) == first.messages


def test_a_new_version_is_told_to_those_who_wait() -> None:
    async def scenario() -> bool:
        these, (first,) = versions(1)
        waiting = asyncio.ensure_future(these.changed.wait_until(lambda: these.number == 1, timeout_s=20))
        await asyncio.sleep(0)
        these.publish(first)
        return await waiting

    assert asyncio.run(scenario())


def test_a_version_number_tells_what_was_applied_to_what() -> None:
    numbers = [next_version(number, digest) for number, digest in itertools.product((0, 1), ("a", "b"))]
    assert len(set(numbers)) == 4
    assert all(0 <= number < 2**63 for number in numbers)
    assert next_version(0, "a") == numbers[0] == 5_690_829_181_965_289_459
