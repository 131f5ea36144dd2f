"""The header of a file of weights."""

from __future__ import annotations

from model.layout import Layout
from utils.wire.payload import CONTROL_VARIATE, encode_header


def model_header(layout: Layout, metadata: dict[str, str], *, control: bool = False) -> bytes:
    """Header of the safetensors file that holds the flat vector under the layout's names.

    With `control`, a control variate follows it. What of the model is frozen is told by its fingerprint alone.
    """
    tensors = [(entry.name, "F32", entry.shape) for entry in layout.entries]
    extra = [(CONTROL_VARIATE, "F32", (layout.parameter_count,))] if control else []
    told = {"frozen": layout.frozen} if layout.frozen else {}
    return encode_header([*tensors, *extra], metadata | told)
