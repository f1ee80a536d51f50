"""The demonstration: an event camera, a spiking network, and what compression leaves of it.

    data      handwritten digits, or IDX files           -> images
    events    three saccades of a simulated event camera -> ON and OFF events
    network   fc1 -> LIF -> fc2 -> LIF in plain torch
    train     surrogate gradients, and the checkpoint that ships with the package
    run       compress, measure, report
    plot      the picture

Needs ``pip install 'sbc-kernels[demo]'``; nothing is imported here, so that `sbc` can say so.
"""
