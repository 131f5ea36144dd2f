"""Writes the Grafana dashboard beside it, flockstep.json: `python -m deploy.grafana.make`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
)

FILE = Path(__file__).with_name("flockstep.json")
_SOURCE = DataSourceRef("prometheus", "$datasource")
_HERE = 'job=~"$job", instance=~"$instance"'
_WIDE, _NARROW = 12, 6  # of the 24 columns


@dataclass(frozen=True)
class Plot:
    """One panel: its queries by legend; `{}` in them stands for the leaders that are looked at."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    single: bool = False  # only the newest value


def rate(counter: str) -> str:
    """A counter's increase a second."""
    return f"rate(flockstep_{counter}{{}}[$__rate_interval])"


def quantiles(histogram: str) -> dict[str, str]:
    """Median and 95th percentile of a histogram."""
    buckets = f"sum by (job, instance, le) ({rate(f'{histogram}_bucket')})"
    return {
        "{{instance}} " + name: f"histogram_quantile({share}, {buckets})"
        for name, share in (("median", 0.5), ("p95", 0.95))
    }


PLOTS = [
    Plot(
        "Rounds done",
        "The last committed round as a share of those planned.",
        "percentunit",
        {"{{instance}}": "flockstep_round_committed{} / flockstep_rounds_planned{}"},
        single=True,
    ),
    Plot(
        "Since the last commit",
        "How long ago a round was committed last; long against a round's duration means trouble.",
        "s",
        {"{{instance}}": "time() - flockstep_last_commit_timestamp_seconds{}"},
        single=True,
    ),
    Plot(
        "Learners",
        "Registered learners.",
        "short",
        {"{{instance}}": "flockstep_learners_connected{}"},
        single=True,
    ),
    Plot(
        "Learners missing",
        "How many more must come before a round can start; 0 while rounds go on.",
        "short",
        {"{{instance}}": "flockstep_learners_missing{}"},
        single=True,
    ),
    Plot(
        "Training loss",
        "Mean training loss of each committed round, weighted by examples.",
        "none",
        {"{{instance}}": "flockstep_training_loss{}"},
    ),
    Plot(
        "Scores",
        "Newest scores of the global model: test_NAME on the test split, federated.NAME at the learners.",
        "none",
        {"{{instance}} {{metric}}": "flockstep_evaluation_score{}"},
    ),
    Plot(
        "Duration of a round",
        "From a round's work orders to its last step; the checkpoint comes after it.",
        "s",
        quantiles("round_duration_seconds"),
    ),
    Plot(
        "Wait for an update",
        "From a work order to its update in the sum, over all learners.",
        "s",
        quantiles("update_wait_seconds"),
    ),
    Plot(
        "Wait for each learner",
        "The same for each learner, the last time: who is far above the others holds up the rounds.",
        "s",
        {"{{instance}} {{learner}}": "flockstep_learner_update_seconds{}"},
    ),
    Plot(
        "Examples",
        "Training examples in committed rounds.",
        "rowsps",
        {"{{instance}}": rate("examples_total")},
    ),
    Plot(
        "Payload on the wire",
        "Updates up to the leader; model and data down to the learners.",
        "Bps",
        {"{{instance}} {{direction}}": rate("payload_bytes_total")},
    ),
    Plot(
        "Rounds abandoned and learners that left",
        "Rounds that closed without a quorum, and learners by why they left.",
        "ops",
        {
            "{{instance}} abandoned": rate("rounds_abandoned_total"),
            "{{instance}} left: {{cause}}": rate("learners_left_total"),
        },
    ),
    Plot(
        "Refused calls",
        "By the call and by what it was refused for; none is the rule.",
        "reqps",
        {"{{instance}} {{method}} {{error}}": rate("calls_refused_total")},
    ),
    Plot(
        "Rows that wait for a service",
        "Rows of the record that a service does not have yet; they are sent once it is back.",
        "short",
        {"{{instance}} {{service}}": "flockstep_service_rows_waiting{}"},
    ),
    Plot(
        "Epsilon",
        "What differential privacy has spent of the learner that was in most rounds; nothing without dp.mode.",
        "none",
        {"{{instance}}": "flockstep_privacy_epsilon{}"},
    ),
    Plot(
        "Memory of the leader",
        "Resident memory of the leader's process.",
        "bytes",
        {"{{instance}}": "process_resident_memory_bytes{}"},
    ),
]


def panel(plot: Plot) -> stat.Panel | timeseries.Panel:
    """The panel of one plot."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    made = (
        stat.Panel().graph_mode(BigValueGraphMode.AREA) if plot.single else timeseries.Panel().legend(legend)
    )
    made.title(plot.title).description(plot.description).unit(plot.unit).datasource(_SOURCE)
    made.span(_NARROW if plot.single else _WIDE).height(4 if plot.single else 8)
    for letter, (name, query) in zip("ABCD", plot.queries.items(), strict=False):
        expr = query.replace("{}", f"{{{_HERE}}}")
        made.with_target(
            prometheus.Dataquery().expr(expr).legend_format(name).ref_id(letter).datasource(_SOURCE)
        )
    return made


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """What is chosen at the top of the dashboard; all of them at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(VariableOption(text="All", value="$__all"))
    )


def make() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("Flockstep")
        .uid("flockstep")
        .description("Runs of Flockstep: rounds, learners, loss, traffic, refusals, services.")
        .tags(["flockstep", "federated-learning"])
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", "label_values(flockstep_run_info, job)"))
        .with_variable(
            variable("instance", "Instance", 'label_values(flockstep_run_info{job=~"$job"}, instance)')
        )
    )
    for number, plot in enumerate(PLOTS, 1):
        board.with_panel(panel(plot).id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
