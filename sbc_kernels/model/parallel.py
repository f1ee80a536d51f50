"""All layers on what the dense model produces, as many in one pass as memory holds."""

from __future__ import annotations

from .run import Run


def parallel(run: Run) -> None:
    """Compresses the layers of a run, then lets the BatchNorms follow all of them."""
    advance = run.bars.task("layers", sum(map(run.cost, run.layers.values())))
    restored = {name for name in run.layers if run.restore(name)}
    for group in run.plan.groups(run.settings.max_memory, run.settings.method):
        waiting = [layer.name for layer in group if layer.name not in restored]
        for name, moments in run.gather([name for name in waiting if not run.leave(name)]):
            advance(0, description=name)
            run.decide(name, moments)
            run.ledger.store(name)
            advance(run.cost(run.layers[name]))
        for layer in group:
            if layer.name in restored:
                advance(run.cost(layer))
    layers_before = run.norms.layers_before
    advance = run.bars.task("BatchNorms", len(layers_before))
    waiting = [norm for norm in layers_before if not run.norms.has_followed(norm)]
    advance(len(layers_before) - len(waiting))  # the checkpoint has the others
    for norm in run.norms.follow(waiting):
        for name in layers_before[norm]:
            run.ledger.store(name)
        advance()
