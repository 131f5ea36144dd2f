"""The down-link: encoded changes of the model, counted from what learners have, with error feedback."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leader.config import RunConfig
from leader.config.codec_spec import down_spec
from leader.state import RunState
from model.changes import Changes
from model.flat import Layout
from model.fragments import Fragments
from model.renewal import Renewal
from utils.codecs import Moment, make_codec
from utils.codecs.compression import compressed
from utils.codecs.files import File
from utils.seeds import derive_seed


class DownLink:
    """Keeps `RunState.public` in step with the model: one vector, whatever the number of learners.

    What a codec loses is not lost (error feedback): each change is the difference between the model and what
    learners have, with all that was left out before. Public weights depend on the run alone, not on who
    fetched what, so a learner may come at any time and gets them whole.
    """

    def __init__(self, config: RunConfig, layout: Layout) -> None:
        spec, count = down_spec(config.codec), config.streaming.fragments
        layouts = Fragments(layout, count).layouts if spec or count else ()
        #: Of each fragment in its turn, where the model is streamed; else one, or none.
        self._changes = [
            Changes(one, make_codec(spec), config.codec.piece_bytes) if spec else Renewal(one)
            for one in layouts
        ]
        self._zstd = config.codec.zstd
        self._seed = config.seed

    def advance(self, before: RunState, after: RunState) -> tuple[RunState, tuple[int, File] | None]:
        """`after` with its public weights; the change from the version before, and that one's number.

        Without a codec, or for weights that are not finite, there is no change: the model comes whole. In
        streamed runs the change is the round's fragment.
        """
        if not self._changes:
            return after, None
        changes = self._changes[before.round % len(self._changes)]
        metadata = {"version": str(after.version), "base": str(before.version)}
        if isinstance(changes, Renewal):
            return after, (before.version, changes.encode(after.vector, metadata))
        if not np.isfinite(after.vector).all() or not np.isfinite(before.served).all():
            return replace(after, public=after.vector), None
        moment = Moment(derive_seed(self._seed, "down", after.exchanges))
        file, public = changes.encode(before.served, after.vector, moment, metadata)
        sent = compressed(file) if self._zstd else file
        return replace(after, public=public), (before.version, sent)
