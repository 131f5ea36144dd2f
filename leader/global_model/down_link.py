"""The way down: changes of the model, counted from what learners have, with error feedback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from leader.config import RunConfig
from leader.state import RunState
from model.fragments import Fragments
from model.layout import Layout
from model.piece_files import WHOLE, PieceFiles
from utils.codecs import Moment, make_codec
from utils.codecs.files import File
from utils.seeds import derive_seed
from utils.vector import Vector
from utils.wire.payload import Payload, parse_header


class DownLink:
    """Keeps `RunState.public` in step with the model: one vector, whatever the number of learners.

    What a codec loses is not lost (error feedback): each change is the difference between the model and what
    learners have, with all that was left out before. Public weights depend on the run alone, not on who
    fetched what, so a learner may come at any time and gets them whole. They are the same, bit for bit, whether
    a change goes down in pieces or whole.
    """

    def __init__(self, config: RunConfig, layout: Layout) -> None:
        spec, count = config.codec.down_spec, config.streaming.fragments
        codec = make_codec(spec) if spec else None
        #: Of each fragment in its turn, where the model is streamed; else one.
        self._files = [
            PieceFiles(
                one,
                config.codec.piece_bytes,
                codec,
                cut_tensors=config.codec.cut_tensors,
                zstd=config.codec.zstd,
            )
            for one in Fragments(layout, count).layouts
        ]
        self._streams = count > 0
        self._seed = config.seed

    def encode(self, before: RunState, number: int, values: Vector) -> tuple[File, Vector | None]:
        """The file of piece `number` of the step from `before`; what learners then have, if not `values`.

        `values`, the new weights, go down as they are without a codec, and where numbers are not finite.
        """
        files = self._files_of(before)
        piece = files.pieces[number]
        had = files.layout.gathered(before.served)[piece.start : piece.stop]
        if files.encoded(number) and np.isfinite(values).all() and np.isfinite(had).all():
            return self._change(before, number, values, had, {"base": str(before.version)})
        return files.plain(number, values, {}), None if files.codec is None else values

    def advance(self, before: RunState, after: RunState) -> tuple[RunState, tuple[int, File] | None]:
        """`after` with its public weights; the change from the version before, and that one's number.

        Without a codec, or for weights that are not finite, there is no change: the model comes whole. In
        streamed runs the change is the round's fragment.
        """
        files, had = self._files_of(before), before.served
        if not (files.codec or self._streams):
            return after, None
        metadata = {"version": str(after.version), "base": str(before.version)}
        values = files.layout.gathered(after.vector)
        if files.codec is None:
            return after, (before.version, files.plain(WHOLE, values, metadata))
        if not (np.isfinite(after.vector).all() and np.isfinite(had).all()):
            return replace(after, public=after.vector), None
        file, values = self._change(before, WHOLE, values, files.layout.gathered(had), metadata)
        return replace(after, public=files.layout.merged(had, values)), (before.version, file)

    def _files_of(self, before: RunState) -> PieceFiles:
        return self._files[before.round % len(self._files)]

    def _change(
        self, before: RunState, number: int | None, values: Vector, had: Vector, metadata: Mapping[str, str]
    ) -> tuple[File, Vector]:
        """The encoded change from `had` to `values`, and what it makes of `had`."""
        files = self._files_of(before)
        split = min(values.size, files.layout.shared_parameter_count)  # buffers travel as they are
        change = values - had
        change[split:] = values[split:]
        moment = Moment(derive_seed(self._seed, "down", before.exchanges + 1))
        file, _ = files.encode(number, change, {}, moment, metadata)
        public = files.decode(number, Payload(parse_header(file.header), file.body, file.crc32))
        public[:split] += had[:split]
        return file, public
