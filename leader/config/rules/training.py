"""Ways to train that don't go together."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config.run_fields import RunFields


def gradient(config: RunFields) -> Iterator[str]:
    if config.exchange != "gradient":
        return
    if config.server.optimizer != "fedavg":
        yield (
            f"server.optimizer is {config.server.optimizer}, which steps along a mean delta, but exchange is "
            "gradient: set exchange=delta"
        )
    for changed in _changed_steps(config):
        yield f"{changed}, which changes local steps, but exchange is gradient: set exchange=delta"
    if config.model.local:
        yield (
            f"model.local is {config.model.local!r}, but exchange is gradient, where learners make no steps of "
            "their own and tensors kept there would never be trained: set exchange=delta"
        )


def _changed_steps(config: RunFields) -> Iterator[str]:
    """The settings that make local steps other than plain ones."""
    for name in ("proximal_mu", "control_variates", "personal_lambda"):
        if value := getattr(config.train, name):
            yield f"train.{name} is {'true' if value is True else f'{value:g}'}"


def scaffold(config: RunFields) -> Iterator[str]:
    train = config.train
    if not train.control_variates:
        return
    if not train.local_steps:
        yield (
            "train.control_variates is true, which compares learners after equally many local steps: "
            "set train.local_steps, such as 10"
        )
    if config.aggregate.rule != "mean":
        yield (
            "train.control_variates is true, whose variates must be those of the mean, but aggregate.rule is "
            f"{config.aggregate.rule}: set aggregate.rule=mean"
        )
    if config.aggregate.weighting == "qfedavg":
        yield (
            "train.control_variates is true, whose variates must be those of the mean, but aggregate.weighting is "
            "qfedavg, which makes it a step of another length: set aggregate.weighting=examples"
        )
    if config.aggregate.clip_norm:
        yield (
            "train.control_variates is true, which takes the updates as they were made, but aggregate.clip_norm is "
            f"{config.aggregate.clip_norm:g}, which shortens some: set aggregate.clip_norm=0"
        )
    if config.buffer.size:
        yield (
            "train.control_variates is true, which needs all learners to start from one model, but buffer.size is "
            f"{config.buffer.size}: set buffer.size=0"
        )


def codec(config: RunFields) -> Iterator[str]:
    codec = config.codec
    if codec.down != "none" and config.train.control_variates:
        yield (
            f"codec.down is {codec.down}, but train.control_variates is true, whose variates travel beside the model "
            "as they are: set codec.down=none"
        )
    if codec.warmup and codec.up != "topk":
        yield f"codec.warmup is {codec.warmup:g}, which is about codec.up=topk, but codec.up is {codec.up}: set it to 0"
    if codec.zstd and codec.up == codec.down == "none":
        yield "codec.zstd is true, but nothing is encoded: set codec.up or codec.down, such as int8"


def streaming(config: RunFields) -> Iterator[str]:
    streaming, train = config.streaming, config.train
    if not streaming.fragments:
        if streaming.overlap_steps:
            yield (
                f"streaming.overlap_steps is {streaming.overlap_steps}, but streaming.fragments is 0, so that there is "
                "no fragment to wait for: set streaming.fragments, such as 4"
            )
        return
    begins = f"streaming.fragments is {streaming.fragments}, so that learners go on with weights of their own, but "
    if config.exchange == "gradient":
        yield f"{begins}exchange is gradient, where all make one step together: set exchange=delta"
    if config.buffer.size:
        yield f"{begins}buffer.size is {config.buffer.size}, so that rounds have no order: set buffer.size=0"
    for changed in _changed_steps(config):
        yield f"{begins}{changed}, which is about those of the round's model: set it to 0 or false"
    if config.model.local:
        yield f"{begins}model.local is {config.model.local!r}, which does the same for other tensors: leave it out"
    if config.aggregate.weighting == "qfedavg":
        yield f"{begins}aggregate.weighting is qfedavg, which compares losses of one model: set it to examples"
    if train.local_steps and streaming.overlap_steps >= train.local_steps:
        yield (
            f"streaming.overlap_steps is {streaming.overlap_steps}, but a round has train.local_steps="
            f"{train.local_steps}, and takes the fragment in before the last: set fewer"
        )
