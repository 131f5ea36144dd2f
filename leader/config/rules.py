"""Settings that make no sense together, each refused with the reason before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leader.config.dp_rules import problems_of_privacy
from leader.config.edges_rules import problems_of_edges
from leader.config.http_rules import problems_of_http
from leader.config.secagg_rules import problems_of_masks
from leader.config.sections import RunFields
from utils.settings.fields import is_address

#: Updates that a rule needs to withstand f malicious ones: this many times f, and so many more.
_NEEDS = {
    "median": (2, 1),
    "geometric_median": (2, 1),
    "trimmed_mean": (2, 1),
    "krum": (2, 3),
    "multi_krum": (2, 3),
    "bulyan": (4, 3),
}
#: Rules that keep the scalar products of all pairs of updates.
_PAIRWISE = ("krum", "multi_krum", "bulyan", "geometric_median")
_PRODUCT_BYTES = 8
_FEDERATED = "federated."  # how the names of metrics that learners measure begin


def least_updates(rule: str, byzantine: int) -> int:
    """Fewest updates with which `aggregate.rule` withstands `byzantine` malicious ones; 1 for the mean."""
    factor, more = _NEEDS.get(rule, (0, 1))
    return factor * byzantine + more


def updates_a_round(config: RunFields) -> int:
    """Fewest updates that a round of this run closes on, as long as the learners waited for stay."""
    return max(1, math.ceil(config.cohort.quorum * config.updates_awaited))


def problems(config: RunFields) -> list[str]:
    """One line for each combination of settings that can't work: the reason, and what to set instead."""
    on_rounds = (_robust, _norms, _weighting, _max_share, _gradient, _scaffold, _codec, _streaming, _buffer)
    on_the_rest = (
        _cohort,
        _data,
        _model,
        _evaluation,
        problems_of_privacy,
        _trust,
        _jwt,
        problems_of_masks,
        problems_of_edges,
        problems_of_http,
    )
    return [problem for check in on_rounds + on_the_rest for problem in check(config)]


def _robust(config: RunFields) -> Iterator[str]:
    aggregate = config.aggregate
    rule, byzantine = aggregate.rule, aggregate.byzantine
    if rule == "mean":
        if byzantine and not (aggregate.clip_norm or aggregate.reject_norm):
            yield (
                f"aggregate.byzantine is {byzantine} but aggregate.rule is mean, which one malicious update sways: "
                "choose a robust rule such as median, or bound the updates with aggregate.clip_norm"
            )
        return
    updates, needed = updates_a_round(config), least_updates(rule, byzantine)
    if updates < needed:
        factor, more = _NEEDS[rule]
        yield (
            f"aggregate.rule is {rule} and aggregate.byzantine is {byzantine}, which needs {factor} x {byzantine} "
            f"+ {more} = {needed} updates, but a round may close on {updates}: lower aggregate.byzantine, or "
            "let more updates in (learners, cohort.size, cohort.quorum, buffer.size)"
        )
    most = config.updates_awaited
    if rule in _PAIRWISE and (pairs := _PRODUCT_BYTES * most**2) > aggregate.spool_bytes:
        yield (
            f"aggregate.rule is {rule}, which compares all pairs of {most} updates in {pairs} bytes, more "
            f"than aggregate.spool_bytes: raise that to {pairs}, or set aggregate.rule=median"
        )


def _norms(config: RunFields) -> Iterator[str]:
    clip, reject = config.aggregate.clip_norm, config.aggregate.reject_norm
    if 0 < reject <= clip:
        yield (
            f"aggregate.reject_norm is {reject:g} and aggregate.clip_norm is {clip:g}, so that nothing is left to "
            "clip: set a clip_norm below the reject_norm, or 0"
        )


def _weighting(config: RunFields) -> Iterator[str]:
    rule, weighting = config.aggregate.rule, config.aggregate.weighting
    if weighting not in ("fednova", "qfedavg"):
        return
    if rule != "mean":
        yield (
            f"aggregate.weighting is {weighting}, which weighs a mean, but aggregate.rule is {rule}, which counts "
            "each update once: choose aggregate.weighting=uniform"
        )
    if config.exchange == "gradient":
        yield (
            f"aggregate.weighting is {weighting}, which is about local steps, but exchange is gradient: "
            "set aggregate.weighting=examples"
        )
    if weighting == "fednova" and config.train.proximal_mu:
        yield (
            "aggregate.weighting is fednova, which knows how much work plain local steps are, but train.proximal_mu "
            f"is {config.train.proximal_mu:g}, which damps them: set train.proximal_mu=0"
        )
    if weighting == "qfedavg" and config.buffer.size:
        yield (
            "aggregate.weighting is qfedavg, which compares losses of one and the same model, but buffer.size is "
            f"{config.buffer.size}, so that updates start from several: set buffer.size=0"
        )


def _max_share(config: RunFields) -> Iterator[str]:
    aggregate, size = config.aggregate, config.buffer.size
    if aggregate.max_share in (0, 1):
        return
    begins = f"aggregate.max_share is {aggregate.max_share:g}, which caps what examples count in a mean, but "
    if aggregate.rule != "mean":
        yield f"{begins}aggregate.rule is {aggregate.rule}, under which all count the same: leave it 0"
    if aggregate.weighting != "examples":
        yield f"{begins}aggregate.weighting is {aggregate.weighting}: set aggregate.weighting=examples"
    if size:
        yield f"{begins}buffer.size is {size}, so that nobody knows whose updates meet: set aggregate.weighting=uniform"
    elif aggregate.max_share * (updates := updates_a_round(config)) < 0.999:
        yield (
            f"{begins}a round may close on {updates} updates, of which one is at least {1 / updates:.4g}: raise it to "
            "that, or let more updates in (learners, cohort.size, cohort.quorum)"
        )


def _gradient(config: RunFields) -> Iterator[str]:
    if config.exchange != "gradient":
        return
    if config.server.optimizer != "fedavg":
        yield (
            f"server.optimizer is {config.server.optimizer}, which steps along a mean delta, but exchange is "
            "gradient: set exchange=delta"
        )
    for name in ("proximal_mu", "control_variates", "personal_lambda"):
        if value := getattr(config.train, name):
            shown = "true" if value is True else f"{value:g}"
            yield (
                f"train.{name} is {shown}, which changes local steps, but exchange is gradient: set exchange=delta"
            )
    if config.model.local:
        yield (
            f"model.local is {config.model.local!r}, but exchange is gradient, where learners make no steps of "
            "their own and tensors kept there would never be trained: set exchange=delta"
        )


def _scaffold(config: RunFields) -> Iterator[str]:
    train = config.train
    if not train.control_variates:
        return
    if not train.local_steps:
        yield (
            "train.control_variates is true, which compares learners after equally many local steps: "
            "set train.local_steps, such as 10"
        )
    if train.momentum:
        yield (
            f"train.control_variates is true, which corrects plain SGD, but train.momentum is {train.momentum:g}: "
            "set train.momentum=0 and train.nesterov=false"
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


def _codec(config: RunFields) -> Iterator[str]:
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


def _streaming(config: RunFields) -> Iterator[str]:
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
    for name in ("proximal_mu", "control_variates", "personal_lambda"):
        if value := getattr(train, name):
            shown = "true" if value is True else f"{value:g}"
            yield f"{begins}train.{name} is {shown}, which is about those of the round's model: set it to 0 or false"
    if config.model.local:
        yield f"{begins}model.local is {config.model.local!r}, which does the same for other tensors: leave it out"
    if config.aggregate.weighting == "qfedavg":
        yield f"{begins}aggregate.weighting is qfedavg, which compares losses of one model: set it to examples"
    if train.local_steps and streaming.overlap_steps >= train.local_steps:
        yield (
            f"streaming.overlap_steps is {streaming.overlap_steps}, but a round has train.local_steps="
            f"{train.local_steps}, and takes the fragment in before the last: set fewer"
        )


def _buffer(config: RunFields) -> Iterator[str]:
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


def _cohort(config: RunFields) -> Iterator[str]:
    cohort = config.cohort
    if cohort.policy != "uniform" and not cohort.size:
        yield f"cohort.policy is {cohort.policy}, but cohort.size is 0, which takes all: set cohort.size"


def _data(config: RunFields) -> Iterator[str]:
    data = config.data
    if data.partition == "groups" and data.source in ("cifar10", "synthetic", "none"):
        yield (
            f"data.partition is groups, which are folders of images, but data.source is {data.source}: "
            "set data.source to an image tree"
        )


def _model(config: RunFields) -> Iterator[str]:
    model = config.model
    if model.task and config.data.holder == "leader":
        yield (
            f"model.task is {model.task}, but data.holder is leader, which streams images only: "
            "set data.holder=learner"
        )
    if not (model.name or model.task or model.weights):
        yield "model.name is '', so that nothing says what the model is: set model.weights, model.task or model.name"


def _jwt(config: RunFields) -> Iterator[str]:
    trust = config.trust
    if trust.jwt_listen and not (trust.jwt_issuer or trust.jwt_jwks):
        yield (
            f"trust.jwt_listen is {trust.jwt_listen}, but nothing says whose JWTs count: set trust.jwt_issuer, "
            "or trust.jwt_jwks"
        )
    if trust.jwt_issuer and not trust.jwt_jwks and not trust.jwt_issuer.startswith("https://"):
        yield (
            f"trust.jwt_issuer is {trust.jwt_issuer}, but keys are fetched over https alone: set its https:// "
            "address, or trust.jwt_jwks, a file with its keys"
        )
    for name in ("jwt_audience", "jwt_role_claim"):
        if not getattr(trust, name):
            yield f"trust.{name} is '', so that any JWT of the issuer would do: leave it out, or set it"


def _evaluation(config: RunFields) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.federated_every and not evaluation.holdout:
        yield (
            f"evaluation.federated_every is {evaluation.federated_every}, but evaluation.holdout is 0, so that "
            "learners have nothing to test on: set evaluation.holdout, such as 0.1"
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


def _trust(config: RunFields) -> Iterator[str]:
    trust = config.trust
    pki = {name: getattr(trust, name) for name in ("certificate", "key", "client_ca", "roles")}
    given = [f"trust.{name}" for name, path in pki.items() if path]
    if given and (missing := [f"trust.{name}" for name, path in pki.items() if not path]):
        yield f"{given[0]} is set, and a PKI of your own needs {', '.join(missing)} too"
    listeners = [f"trust.{name}" for name in ("jwt_listen", "plain_listen") if getattr(trust, name)]
    jwts = [f"trust.{name}" for name in ("jwt_listen", "jwt_issuer", "jwt_jwks") if getattr(trust, name)]
    if given and jwts:
        yield (
            f"{jwts[0]} is set, but JWTs are exchanged for certificates of the leader's own CA, and {given[0]} puts "
            "another PKI in its place: leave one of them out"
        )
    if not config.secure and (idle := listeners + given):
        yield (
            f"{idle[0]} is set, but there is no trust on {config.listen} (trust.mode is {trust.mode}): "
            "leave it out, or set trust.mode=on (--secure)"
        )
    addresses = {f"trust.{name}": getattr(trust, name) for name in ("jwt_listen", "plain_listen")}
    for name in ("edges", "http", "web"):
        addresses[f"{name}.listen"] = getattr(config, name).listen
    for name, text in addresses.items():
        if text and not is_address(text):
            yield f"{name} is {text!r}, but it must be HOST:PORT with a port from 0 to 65535"
