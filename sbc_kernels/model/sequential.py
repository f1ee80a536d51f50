"""Layer by layer, each on what the compressed layers before it produce."""

from __future__ import annotations

from .run import Run


def sequential(run: Run) -> None:
    """Compresses the layers of a run in the order of the plan."""
    advance = run.bars.task("layers", sum(map(run.cost, run.layers.values())))
    for name, layer in run.layers.items():
        advance(0, description=name)
        if not run.restore(name) and not run.leave(name):
            ((_, moments),) = run.gather([name], paired=True)
            run.decide(name, moments)
            for _ in run.norms.follow(run.norms.layers[name]):
                pass
            run.ledger.store(name)
        advance(run.cost(layer))
