"""A simulated event camera that makes three small saccades over a still image.

The recipe of N-MNIST (Orchard et al. 2015): the image stands still, the camera moves along a
triangle, and a pixel reports an ON or OFF event whenever its log intensity has changed by a
threshold since its last event. Everything here is a pure function of the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MARGIN = 4  # pixels by which the sensor is higher and wider than the image
FRAMES = 3  # camera frames per time step: T = 10 steps are 30 frames, 10 per saccade
CONTRAST = 0.3  # change of log intensity that triggers an event
DARK = 0.1  # log intensity is log(DARK + image), so that black is a tenth of white
CORNERS = ((0.0, 0.0), (4.0, 2.0), (0.0, 4.0), (0.0, 0.0))  # (y, x) of the image on the sensor

Images = NDArray[np.float32]
Events = NDArray[np.uint8]


def saccade_path(num_frames: int) -> NDArray[np.float64]:
    """Returns the image's offset (y, x) before the first frame and after each: [frames + 1, 2]."""
    corners = np.asarray(CORNERS)
    time = np.linspace(0.0, len(corners) - 1, num_frames + 1)
    return np.stack([np.interp(time, np.arange(len(corners)), axis) for axis in corners.T], axis=1)


def project(images: Images, offset: NDArray[np.float64]) -> Images:
    """Returns images [N, h, w] at a fractional offset (y, x) on the sensor, [N, h + 4, w + 4]."""
    n, h, w = images.shape
    (y, x), (fy, fx) = offset.astype(int), offset % 1.0
    sensor = np.zeros((n, h + MARGIN, w + MARGIN), np.float32)
    for dy, dx, share in (
        (0, 0, (1 - fy) * (1 - fx)),
        (0, 1, (1 - fy) * fx),
        (1, 0, fy * (1 - fx)),
        (1, 1, fy * fx),
    ):
        if share > 0:  # at the far corner the neighbour would lie outside the sensor
            sensor[:, y + dy : y + dy + h, x + dx : x + dx + w] += np.float32(share) * images
    return sensor


def saccade_events(images: Images, num_steps: int = 10) -> Events:
    """Returns the ON and OFF events of three saccades over each image.

    Parameters
    ----------
    images : float32 [N, h, w], 0 (black) to 1 (white).
    num_steps : T, the number of time steps of the recording.

    Returns
    -------
    uint8 [T, N, 2, h + 4, w + 4] of zeros and ones; channel 0 is ON (brighter), 1 is OFF. A pixel
    that fires more than once in a step counts once.
    """
    n, h, w = images.shape
    path = saccade_path(num_steps * FRAMES)
    events = np.zeros((num_steps, n, 2, h + MARGIN, w + MARGIN), np.uint8)
    memory = np.log(DARK + project(images, path[0]))
    for frame, offset in enumerate(path[1:]):
        change = np.log(DARK + project(images, offset)) - memory
        count = np.trunc(change / CONTRAST)
        memory += CONTRAST * count
        events[frame // FRAMES, :, 0] |= count > 0
        events[frame // FRAMES, :, 1] |= count < 0
    return events
