"""What this copy of Flockstep is: its release and the protocol it speaks."""

from __future__ import annotations

from importlib import metadata


def _release() -> str:
    try:
        return metadata.version("flockstep")
    except metadata.PackageNotFoundError:
        return "0.1.0+source"


#: Version of the installed package; `0.1.0+source` when run from a source tree that isn't installed.
RELEASE = _release()

#: Version of the wire protocol; leader and learner must have the same.
PROTOCOL = 1

#: Version of the privacy of examples (dp.mode=examples), as LearnerInfo says it.
EXAMPLE_PRIVACY = 1
