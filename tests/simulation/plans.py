"""The plans that seeds are played on: seed N on plan N modulo their number.

Each puts weight on one way in which an engine can go wrong. Rates are chosen so that
most calls meet some fault in the noisy plans, and so that every mutant is found soon.
"""

from __future__ import annotations

from botsessions.conformance.histories.history import Verb
from botsessions.keys import SessionKey
from tests.simulation.faulty import (
    AsideFault,
    CommitFault,
    Faults,
    Home,
    LoadFault,
    Near,
)
from tests.simulation.moments import Lifetime
from tests.simulation.schedule import Plan
from tests.simulation.server import NAMESPACE, Disk

_GROWING = {Verb.UPDATE: 6, Verb.GET: 2, Verb.OBSERVE: 2, Verb.REFUSE: 2}
_ALL = {**_GROWING, Verb.PUT: 2, Verb.DELETE: 2}
_LOOKING = {Verb.UPDATE: 2, Verb.GET: 4, Verb.OBSERVE: 4, Verb.REFUSE: 2}
_COMING_AND_GOING = {Verb.UPDATE: 4, Verb.DELETE: 4, Verb.GET: 2, Verb.PUT: 1}

_NO_ANSWER = {
    CommitFault.LOST_REQUEST: 0.1,
    CommitFault.LOST_ANSWER: 0.15,
    CommitFault.PART: 0.05,
}
_LATE = {CommitFault.LATE: 0.2, CommitFault.TWICE: 0.2, CommitFault.LOST_ANSWER: 0.1}


def _all_at(rate: float) -> Faults:
    return Faults(
        commit=dict.fromkeys(CommitFault, rate),
        load=dict.fromkeys(LoadFault, rate),
        aside=dict.fromkeys(AsideFault, 3 * rate),
    )


PLANS = [
    Plan(
        name="one process, many callers",
        processes=1,
        callers=10,
        calls=5,
        mix=_ALL,
        slow_functions=0.1,
        calm=True,
    ),
    Plan(name="several processes", processes=3, mix=_ALL, calm=True),
    Plan(
        name="watchers",
        processes=3,
        mix=_LOOKING,
        faults=Faults(trip=0.02),
        calm=True,
    ),
    Plan(
        name="two batches at once",
        callers=5,
        keys=5,
        mix=_ALL,
        concurrent_batches=2,
        slow_functions=0.1,
        calm=True,
    ),
    Plan(
        name="overload",
        callers=8,
        mix=_ALL,
        faults=Faults(commit={CommitFault.SLOW: 0.2}),
        max_pending=4,
    ),
    Plan(
        name="one poisoned key",
        processes=1,
        callers=8,
        calls=4,
        keys=5,
        mix=_ALL,
        faults=Faults(poisoned=frozenset({f"{NAMESPACE}/{SessionKey(chat_id=1)}"})),
        calm=True,
    ),
    Plan(
        name="lost answers",
        mix=_ALL,
        faults=Faults(commit=_NO_ANSWER, silence=0.0),
        calm=True,
    ),
    Plan(
        name="silence",
        keys=2,
        mix=_ALL,
        faults=Faults(commit=_NO_ANSWER, load={LoadFault.LOST: 0.05}, silence=1.0),
        timeout=0.5,
        unknown=0.1,
    ),
    Plan(
        name="one loss",
        processes=1,
        callers=4,
        keys=3,
        mix=_ALL,
        faults=Faults(
            commit={
                CommitFault.LOST_REQUEST: 0.1,
                CommitFault.LOST_ANSWER: 0.1,
                CommitFault.LATE: 0.1,
            },
            late=1.0,
            silence=0.7,
            limit=1,
        ),
        timeout=1.0,
        calm=True,
    ),
    Plan(
        name="late and twice",
        mix=_COMING_AND_GOING,
        faults=Faults(commit=_LATE, late=0.3),
        timeout=0.4,
        strays=3,
        unknown=0.03,
    ),
    Plan(
        name="late and refused",
        mix=_ALL,
        faults=Faults(
            commit={
                CommitFault.LATE: 0.2,
                CommitFault.REFUSED: 0.1,
                CommitFault.UNAVAILABLE: 0.2,
            },
            late=0.02,
            silence=0.2,
        ),
        timeout=0.4,
        unknown=0.01,
    ),
    Plan(
        name="several servers, one of them away",
        callers=5,
        keys=5,
        mix=_ALL | {Verb.GET: 6},
        faults=Faults(
            commit={CommitFault.EACH: 0.3},
            load={LoadFault.EACH: 0.1, LoadFault.BROKEN: 0.1},
        ),
        concurrent_batches=2,
    ),
    Plan(
        name="created and deleted",
        processes=3,
        callers=2,
        calls=12,
        keys=3,
        mix=_COMING_AND_GOING,
        faults=Faults(commit={CommitFault.LOST_ANSWER: 0.1}, silence=1.0, limit=2),
        timeout=0.5,
        pause=0.002,
        unknown=0.02,
    ),
    Plan(
        name="clock corrected",
        mix=_COMING_AND_GOING,
        faults=Faults(commit=_NO_ANSWER, silence=0.0),
        clock_corrections=10,
        calm=True,
    ),
    Plan(
        name="clock set back far",
        processes=1,
        keys=2,
        mix=_COMING_AND_GOING,
        faults=Faults(
            commit={CommitFault.LATE: 0.4, CommitFault.LOST_REQUEST: 0.1},
            trip=0.15,
            late=1.0,
            silence=0.9,
        ),
        timeout=1.5,
        clock_corrections=80,
        correction=0.7,
        unknown=0.25,
    ),
    Plan(
        name="expiry",
        mix=_ALL,
        faults=Faults(commit={CommitFault.SLOW: 0.2, CommitFault.TWICE: 0.1}, slow=0.1),
        lifetime=Lifetime(ttl=60),
        pause=0.02,
        clock_steps=2,
    ),
    Plan(
        name="expiry and faults",
        keys=2,
        mix=_ALL,
        faults=_all_at(0.04),
        lifetime=Lifetime(ttl=100, max_age=300),
        pause=0.03,
        sweeps=3,
        clock_steps=2,
        strays=2,
        unknown=0.02,
    ),
    Plan(
        name="swept behind one's back",
        callers=1,
        calls=16,
        keys=5,
        mix=_COMING_AND_GOING,
        faults=Faults(
            commit={CommitFault.TWICE: 0.5, CommitFault.LATE: 0.1},
            aside=dict.fromkeys(AsideFault, 0.1),
            late=150.0,
            silence=0.5,
        ),
        pause=60.0,
        sweeps=20,
        unknown=0.02,
    ),
    Plan(
        name="swept at once",
        mix=_COMING_AND_GOING,
        faults=Faults(
            commit=_LATE, aside=dict.fromkeys(AsideFault, 0.1), late=1.0, silence=0.5
        ),
        pause=0.2,
        sweeps=10,
        unknown=0.04,
    ),
    Plan(
        name="cancelled",
        callers=5,
        mix=_ALL,
        faults=Faults(commit=_NO_ANSWER, load={LoadFault.SLOW: 0.1}, slow=0.02),
        cancel=0.4,
        timeout=0.5,
        unknown=0.03,
    ),
    Plan(
        name="crashes",
        processes=3,
        mix=_ALL,
        faults=_all_at(0.02),
        crashes=2,
        closings=1,
        cancel=0.1,
        strays=2,
        unknown=0.02,
    ),
    Plan(
        name="cut off",
        processes=3,
        keys=2,
        mix=_ALL,
        locked=0.3,
        walks=0.05,
        sweeps=1,
        cuts=4,
        outage=1.0,
        timeout=0.5,
        unknown=0.02,
    ),
    Plan(
        name="slow",
        processes=1,
        callers=5,
        mix=_ALL,
        faults=Faults(
            commit={CommitFault.SLOW: 0.6},
            load={LoadFault.SLOW: 0.5, LoadFault.LOST: 0.1},
            slow=0.22,
        ),
        timeout=0.4,
        unknown=0.05,
    ),
    Plan(
        name="split and slow",
        processes=1,
        callers=10,
        keys=5,
        mix=_ALL,
        faults=Faults(
            commit={
                CommitFault.REFUSED: 0.4,
                CommitFault.SLOW: 0.5,
                CommitFault.LOST_ANSWER: 0.05,
            },
            slow=0.165,
            silence=0.9,
        ),
        pause=0.05,
        timeout=0.3,
        unknown=0.05,
    ),
    Plan(
        name="no time",
        processes=3,
        callers=4,
        mix=_ALL,
        faults=Faults(commit=_NO_ANSWER | {CommitFault.SLOW: 0.1}, slow=0.05),
        timeout=0.02,
        unknown=0.2,
    ),
    Plan(
        name="reordered",
        processes=3,
        mix=_COMING_AND_GOING,
        keys=2,
        faults=Faults(
            commit={
                CommitFault.OVERTAKEN: 0.3,
                CommitFault.ANSWER_OVERTAKEN: 0.2,
                CommitFault.TWICE: 0.1,
            },
            load={LoadFault.OVERTAKEN: 0.15, LoadFault.ANSWER_OVERTAKEN: 0.15},
            slow=0.05,
            late=0.05,
        ),
        concurrent_batches=2,
        timeout=2.0,
        calm=True,
    ),
    Plan(
        name="the server crashes",
        processes=3,
        calls=10,
        mix=_ALL,
        faults=Faults(commit={CommitFault.TWICE: 0.1}, late=0.2, silence=0.3),
        disk=Disk(flush=0.03),
        server_crashes=3,
        timeout=1.0,
        unknown=0.04,
    ),
    Plan(
        name="the server crashes, created and deleted",
        calls=10,
        keys=2,
        mix=_COMING_AND_GOING,
        faults=Faults(
            commit={
                CommitFault.LATE: 0.1,
                CommitFault.LOST_ANSWER: 0.1,
                CommitFault.TWICE: 0.4,
            },
            late=0.05,
        ),
        disk=Disk(flush=0.04),
        server_crashes=4,
        timeout=1.0,
        unknown=0.1,
    ),
    Plan(
        name="the server crashes while sessions expire",
        mix=_ALL,
        faults=Faults(commit={CommitFault.SLOW: 0.1}, slow=0.05),
        lifetime=Lifetime(ttl=40),
        disk=Disk(flush=0.03, readers_wait=True),
        calls=8,
        pause=0.02,
        clock_steps=1,
        server_crashes=2,
        timeout=1.0,
        sweeps=1,
        walks=0.05,
        unknown=0.04,
    ),
    Plan(
        name="no clock goes right",
        processes=3,
        mix=_ALL,
        faults=Faults(commit=_NO_ANSWER | {CommitFault.LATE: 0.1}, late=0.4),
        skew=0.4,
        timeout=0.5,
        unknown=0.1,
    ),
    Plan(
        name="no clock goes right, and sessions expire",
        processes=3,
        mix=_ALL,
        faults=Faults(commit={CommitFault.TWICE: 0.1, CommitFault.SLOW: 0.1}, slow=0.1),
        lifetime=Lifetime(ttl=80, max_age=400),
        pause=0.02,
        skew=0.4,
        sweeps=1,
        unknown=0.02,
    ),
    Plan(
        name="locked by all",
        calls=4,
        mix=_COMING_AND_GOING,
        faults=Faults(
            commit={CommitFault.LATE: 0.05, CommitFault.TWICE: 0.1} | _NO_ANSWER,
            late=1.0,
            silence=0.3,
        ),
        locked=1.0,
        timeout=0.4,
        cancel=0.1,
        crashes=1,
        unknown=0.1,
    ),
    Plan(
        name="locked by some",
        calls=5,
        keys=2,
        mix=_ALL,
        faults=Faults(
            commit={CommitFault.LOST_ANSWER: 0.1, CommitFault.LATE: 0.05}, late=1.0
        ),
        locked=0.4,
        timeout=0.4,
        skew=0.3,
        crashes=1,
        walks=0.05,
        unknown=0.1,
    ),
    Plan(
        name="locks and a server that crashes",
        calls=5,
        mix=_ALL,
        locked=0.5,
        timeout=0.4,
        disk=Disk(flush=0.02),
        server_crashes=3,
        unknown=0.06,
    ),
    Plan(
        name="data on this machine",
        processes=3,
        mix=_LOOKING,
        faults=Faults(
            commit={CommitFault.LOST_ANSWER: 0.1},
            load={
                LoadFault.SLOW: 0.2,
                LoadFault.EACH: 0.1,
                LoadFault.BROKEN: 0.02,
                LoadFault.REFUSED: 0.02,
            },
            slow=0.02,
        ),
        backend=Near,
        lifetime=Lifetime(ttl=60),
        pause=0.02,
        cancel=0.1,
        unknown=0.02,
    ),
    Plan(
        name="data in this process",
        processes=3,
        callers=4,
        calls=8,
        keys=2,
        mix=_ALL,
        backend=Home,
        stores=2,
        cancel=0.3,
        closings=1,
        sweeps=1,
        walks=0.05,
    ),
    Plan(
        name="data in this process expire",
        calls=10,
        mix=_ALL,
        backend=Home,
        lifetime=Lifetime(ttl=60, max_age=200),
        pause=0.02,
        clock_steps=2,
        locked=0.1,
        lease=0.5,
        sweeps=2,
        walks=0.05,
    ),
    Plan(
        name="several stores in a process",
        keys=2,
        callers=4,
        mix=_ALL,
        stores=3,
        faults=Faults(commit=_NO_ANSWER, silence=0.2),
        timeout=0.5,
        crashes=1,
        closings=1,
        unknown=0.05,
    ),
    Plan(
        name="walks",
        processes=2,
        keys=5,
        mix=_COMING_AND_GOING,
        faults=Faults(aside=dict.fromkeys(AsideFault, 0.03), slow=0.02, late=0.05),
        pause=0.01,
        lifetime=Lifetime(max_age=40),
        calls=8,
        sweeps=3,
        walks=0.3,
    ),
    Plan(
        name="everything",
        callers=4,
        calls=8,
        keys=2,
        mix=_ALL,
        faults=_all_at(0.05),
        concurrent_batches=2,
        slow_functions=0.05,
        cancel=0.1,
        crashes=1,
        clock_steps=1,
        sweeps=2,
        strays=2,
        stores=2,
        skew=0.05,
        locked=0.05,
        walks=0.03,
        disk=Disk(flush=0.01),
        server_crashes=1,
        outage=0.01,
        unknown=0.02,
    ),
]


def plan_of(seed: int) -> Plan:
    """Return the plan that a seed is played on."""
    return PLANS[seed % len(PLANS)]


def plan_named(name: str) -> Plan:
    """Return the plan of a name."""
    return next(plan for plan in PLANS if plan.name == name)


def seeds_of(plan: Plan, count: int) -> range:
    """Return the first so many seeds that are played on a plan."""
    first = PLANS.index(plan)
    return range(first, first + count * len(PLANS), len(PLANS))
