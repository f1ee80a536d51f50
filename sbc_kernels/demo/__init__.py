"""The demonstration: a spiking network that sees an event camera, compressed in many ways.

    data      handwritten digits, or IDX files           -> images
    events    three saccades of a simulated event camera -> ON and OFF events
    network   fc1 -> LIF -> fc2 -> LIF in plain torch
    train     surrogate gradients, and the checkpoint that ships with the package
    run       compress, measure, report
    results   the types of the report
    plot      the picture

It needs ``pip install 'sbc-kernels[demo]'``. Nothing is imported here, so that `sbc` can start and say
so without it.
"""
