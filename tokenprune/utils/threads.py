"""Keeps the threads of OpenMP from waiting busily for one another where other programs compute, too.

A thread of GNU's OpenMP that waits for its team spins for a millisecond and more before it sleeps. If another program holds a core, one
thread of the team waits for that core while the other one burns its own, at each of the many small operations of a pruned ViT. Six
training steps and the start of the demo's detector took 112 and 157 s on two cores with other work, and 31 s with a shorter wait.
"""

import os
import sys

_SPINS = "10000"  # rounds of waiting, some ten microseconds; the default is 300000
_SAID = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Shorten the busy wait of this process and of those that it starts, unless the user's environment says how to wait.

    OpenMP reads the environment when torch loads it, so that there is nothing to do once torch is there.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _SAID):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
