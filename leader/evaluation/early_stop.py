"""When a run has trained enough: a target is reached, or its metric has stopped getting better."""

from __future__ import annotations

from collections.abc import Mapping

from leader.metric_names import Mode, is_better, lower_is_better


class EarlyStop:
    """Follows one metric over the rounds of a run.

    It depends on nothing but the values that `see` is given, so a resumed run tells it those of
    the rounds before and goes on as if it had never stopped.

    >>> stop = EarlyStop("test_accuracy", "auto", target=0.9, patience=0)
    >>> stop.see(1, {"test_accuracy": 0.8})
    >>> stop.see(2, {"test_accuracy": 0.93})
    'test_accuracy 0.93 after round 2 reached the target 0.9'
    """

    def __init__(self, metric: str, mode: Mode, target: float | None, patience: int) -> None:
        self.reason: str | None = None  # why the run is done; stays once there is one
        self.can_stop = target is not None or patience > 0
        self._metric = metric
        self._lower = lower_is_better(metric, mode)
        self._target = target
        self._patience = patience
        self._last = 0  # newest round that counted
        self._best: tuple[int, float] | None = None  # round, value
        self._since_best = 0  # evaluations

    def see(self, round_: int, metrics: Mapping[str, float]) -> str | None:
        """Take in the scores of the model of `round_`; returns why the run is done, or None.

        Rounds come in order; one that was seen before, or that lacks the metric, counts for nothing.
        """
        if self.reason is not None or round_ <= self._last or self._metric not in metrics:
            return self.reason
        self._last = round_
        value = metrics[self._metric]
        if is_better(value, self._best[1] if self._best else None, lower=self._lower):
            self._best, self._since_best = (round_, value), 0
        else:
            self._since_best += 1
        self.reason = self._judge(round_, value)
        return self.reason

    def _judge(self, round_: int, value: float) -> str | None:
        if self._target is not None and (value <= self._target if self._lower else value >= self._target):
            return f"{self._metric} {value:.6g} after round {round_} reached the target {self._target:.6g}"
        if self._patience and self._since_best >= self._patience:
            best = f"better than {self._best[1]:.6g} (round {self._best[0]})" if self._best else "finite"
            return f"{self._metric} has not been {best} in the last {self._since_best} evaluations"
        return None
