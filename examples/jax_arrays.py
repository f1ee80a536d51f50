"""Compress JAX arrays with compress_layer, which takes and returns them through DLPack.

    python examples/jax_arrays.py

This uses the trained network of `sbc demo`, with its neuron written as a scan. Only the compression
leaves JAX. It runs on the CPU, so move arrays on another device there first, with `jax.device_get` or
`jax.devices("cpu")`.
"""

from importlib.resources import files

import jax
import jax.numpy as jnp

import sbc_kernels as sbc
from sbc_kernels.demo.data import digits
from sbc_kernels.demo.events import saccade_events
from sbc_kernels.files import load_packed


@jax.jit
def fire(current: jax.Array) -> jax.Array:
    """Leaky integrate and fire, tau = 2: currents [T, N, d] in, spikes [T, N, d] out."""

    def step(v: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = v + (x - v) / 2.0
        spike = v >= 1.0
        return jnp.where(spike, 0.0, v), spike

    return jax.lax.scan(step, jnp.zeros_like(current[0]), current)[1]


def accuracy(fc1: jax.Array, fc2: jax.Array, events: jax.Array, labels: jax.Array) -> float:
    hidden = fire(events @ fc1.T)
    counts = fire(hidden @ fc2.T).sum(axis=0)
    return 100 * float((counts.argmax(axis=1) == labels).mean())


def main() -> None:
    data = digits()
    weights = load_packed(str(files("sbc_kernels.demo") / "digits.safetensors"))
    fc1, fc2 = jnp.asarray(weights["fc1"]), jnp.asarray(weights["fc2"])
    calibration = jnp.asarray(saccade_events(data.train_images[:300]).reshape(10, 300, -1))
    test = jnp.asarray(saccade_events(data.test_images).reshape(10, -1, 800))
    labels = jnp.asarray(data.test_labels)

    # Keep 1 of every 4 consecutive inputs.
    out = sbc.compress_layer(fc1, calibration, sbc.LIF(tau=2.0), sparsity="1:4")
    print(f"a jax.Array: {isinstance(out.weight, jax.Array)}, {out.weight.dtype}")
    print(f"kept: {int((out.weight.reshape(-1, 4) != 0).sum(axis=1).max())} of every 4")

    small = sbc.compress_layer(
        fc1, calibration, sbc.LIF(tau=2.0), sparsity="1:4", method="magnitude"
    )
    before = accuracy(fc1, fc2, test, labels)
    print(f"accuracy: {before:.2f} % before, {accuracy(out.weight, fc2, test, labels):.2f} % after")
    print(f"by magnitude: {accuracy(small.weight, fc2, test, labels):.2f} %")


if __name__ == "__main__":
    main()
