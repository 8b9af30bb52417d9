"""Isolation: a tool's function in a process of its own, which can be killed whatever it does.

    worker          child.py, the guard                  child.py, the performer
    starts it  ---> forks                           ---> loads the function, says that it is ready
    may it be sent? then the arguments ----------------> calls it, answers
    kills the whole group as soon as it has what it needs, or nobody waits any more

JSON goes in and comes out, nothing else. The guard runs no foreign code: it says how the performer ended, and kills
the group when the worker is gone, however it went.
"""

from interlock.isolation.performing import LOADING
from interlock.isolation.process import ANSWER_BYTES_MAX, Isolation

__all__ = ["ANSWER_BYTES_MAX", "LOADING", "Isolation"]
