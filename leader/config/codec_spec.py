"""The codecs that a run's config asks for, and what is agreed on with each learner."""

from __future__ import annotations

from leader.config.sections import CodecConfig


def up_spec(config: CodecConfig) -> str:
    """Spec of the codec of updates, such as "topk:0.01"; empty for none."""
    if config.up == "topk":
        return f"topk:{config.fraction:g}" + (f":{config.warmup:g}" if config.warmup else "")
    if config.up == "powersgd":
        return f"powersgd:{config.rank}"
    return "" if config.up == "none" else config.up


def down_spec(config: CodecConfig) -> str:
    """Spec of the codec of changes of the model; empty for none."""
    if config.down == "topk":
        return f"topk:{config.fraction:g}"
    return "" if config.down == "none" else config.down
