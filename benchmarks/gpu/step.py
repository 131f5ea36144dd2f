"""Seconds a step of distributed training with both learners on one device, beside DDP with both ranks on it.

DDP has gloo with CUDA tensors, because NCCL takes no two ranks on one device. Short blocks of each in turn.
"""

from __future__ import annotations

from benchmarks.gpu.job import Job
from benchmarks.result import Figure, Result
from benchmarks.spread import Spread
from benchmarks.step_time.contenders import Compute, Ddp, Flockstep
from benchmarks.step_time.scene import Link, run_scene


def measure(job: Job) -> Result:
    """A leader and two learners that exchange gradients in pieces, and two ranks that compute the same."""
    model, batch, dtype = ("resnet9-w8", 16, "float32") if job.quick else ("resnet18", 128, "bfloat16")
    steps, blocks = (2, 1) if job.quick else (10, 4)
    compute = Compute(model, batch, dtype, job.device)
    found = run_scene(Link("loopback"), compute, [Flockstep(), Ddp(steps)], steps=steps, blocks=blocks)
    spreads = {
        name: Spread.of([step for block in blocks for step in block.steps]) for name, blocks in found.items()
    }
    ratio = spreads[Flockstep.NAME].median / spreads[Ddp.SYNC].median
    return Result(
        entry="step",
        about=f"{model}, batch {batch} a learner, {dtype}, 2 learners on one device, on loopback",
        target=None,
        figures=tuple(Figure(name, "ms", spread.scaled(1e3)) for name, spread in spreads.items()),
        ratios={"step of Flockstep to DDP's": ratio},
    )
