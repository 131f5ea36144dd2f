"""What rounds, the data, the model and the tests of it don't go together with."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config.run_fields import RunFields

_FEDERATED = "federated."  # how the names of metrics that learners measure begin


def buffer(config: RunFields) -> Iterator[str]:
    size = config.buffer.size
    if size and config.exchange == "gradient":
        yield (
            f"buffer.size is {size}, but exchange is gradient, where all must step together: set exchange=delta"
        )
    if size and config.evaluation.federated_every:
        yield (
            f"evaluation.federated_every is {config.evaluation.federated_every}, which scores one model at all "
            f"learners, but buffer.size is {size}, so that they work from several: set evaluation.federated_every=0"
        )
    if size and config.cohort.deadline_k:
        yield (
            f"cohort.deadline_k is {config.cohort.deadline_k:g}, which learns how long one piece of work takes, but "
            f"buffer.size is {size}, which may need several from a learner: set cohort.deadline_k=0"
        )
    if size and config.cohort.over_selection > 1:
        yield (
            f"buffer.size is {size}, so that nobody is waited for, but cohort.over_selection is "
            f"{config.cohort.over_selection:g}: set cohort.over_selection=1"
        )
    if config.buffer.group and (not size or config.secagg.mode == "off"):
        yield (
            f"buffer.group is {config.buffer.group}, but only masked updates of an asynchronous run count in groups: "
            "set buffer.group=0, or buffer.size and secagg.mode"
        )


def cohort(config: RunFields) -> Iterator[str]:
    cohort = config.cohort
    if cohort.policy != "uniform" and not cohort.size:
        yield f"cohort.policy is {cohort.policy}, but cohort.size is 0, which takes all: set cohort.size"


def data(config: RunFields) -> Iterator[str]:
    data = config.data
    if data.source == "none" and data.holder == "leader":
        yield "data.source is none, so learners must bring their own: set data.holder=learner"
    if data.partition == "groups" and data.source in ("cifar10", "synthetic", "none"):
        yield (
            f"data.partition is groups, which are folders of images, but data.source is {data.source}: "
            "set data.source to an image tree"
        )


def model(config: RunFields) -> Iterator[str]:
    model = config.model
    if model.task and config.data.holder == "leader":
        yield (
            f"model.task is {model.task}, but data.holder is leader, which streams images only: "
            "set data.holder=learner"
        )
    if not (model.name or model.task or model.weights):
        yield "model.name is '', so that nothing says what the model is: set model.weights, model.task or model.name"


def evaluation(config: RunFields) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.federated_every and not evaluation.holdout:
        yield (
            f"evaluation.federated_every is {evaluation.federated_every}, but evaluation.holdout is 0, so that "
            "learners have nothing to test on: set evaluation.holdout, such as 0.1"
        )
    if config.server.average and evaluation.metric.startswith(_FEDERATED):
        yield (
            f"server.average is {config.server.average:g}, but evaluation.metric is {evaluation.metric}, "
            "which learners measure of the model that they train from, not of the mean: name a metric of the leader's "
            "test split"
        )
    if evaluation.target is None and not evaluation.patience:
        return
    if evaluation.metric.startswith(_FEDERATED):
        if not evaluation.federated_every:
            yield (
                f"evaluation.metric is {evaluation.metric}, but evaluation.federated_every is 0, so that it is never "
                "measured and target and patience never stop the run: set evaluation.federated_every"
            )
    elif not evaluation.every:
        yield (
            f"evaluation.metric is {evaluation.metric}, but evaluation.every is 0, so that it is measured only at "
            "the end and target and patience never stop the run: set evaluation.every"
        )
