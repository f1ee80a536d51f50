"""Real spiking networks, and for every weight layer the norms and neurons that its output meets.

The tables are rules written down from reading each model's source, never traced. ``PYTHONPATH=tests
python -m zoo`` checks them against the models.
"""

from .cases import CASES, Case
from .spikingjelly_networks import build_sew_resnet152

__all__ = ["CASES", "Case", "build_sew_resnet152"]
