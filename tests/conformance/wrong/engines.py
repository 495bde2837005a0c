"""Wrong engines over a right backend: the laws of the store have checks of their own.

They are planted as the simulation's are (``tests.simulation.mutants``, which has many
more, and hunts them where networks fail); here each is one that a kit's user would meet
on a calm day.
"""

from __future__ import annotations

import dataclasses

from tests.simulation.mutants import MUTANTS, Mutant

_BATCHED = "botsessions.engine.batched"
_FOLD = "botsessions.engine.fold"
_READER = "botsessions.engine.reader"
_RULES = "botsessions.engine.rules"
_CODEC = "botsessions.codec"
_RICH = "botsessions.codec.rich"
_STORE = "botsessions.store"


@dataclasses.dataclass(frozen=True, slots=True)
class WrongEngine:
    """A planted fault, and the check of the kit that must fail for it."""

    caught_by: str
    mutant: Mutant

    def __str__(self) -> str:
        return self.mutant.name


def _wrong(
    caught_by: str, name: str, module: str, snippet: str, replacement: str
) -> WrongEngine:
    return WrongEngine(caught_by, Mutant(name, "", module, {snippet: replacement}))


def _known(caught_by: str, name: str) -> WrongEngine:
    [mutant] = [mutant for mutant in MUTANTS if mutant.name == name]
    return WrongEngine(caught_by, mutant)


WRONG_ENGINES = [
    _wrong(
        "law_1_a_function_gets_a_fresh_dict",
        "a function that returns None empties the session",
        _RULES,
        "if returned is None:\n        raise InvalidSessionError(",
        "if returned is None:\n        return {}\n"
        "    if not returned:\n        raise InvalidSessionError(",
    ),
    _wrong(
        "law_1_a_function_gets_a_fresh_dict",
        "functions of one batch share a dict",
        _FOLD,
        "new = operation.context.run(operation.function, session)",
        "shared = vars(operation.future.get_loop()).setdefault('shared', session); "
        "new = operation.context.run(operation.function, shared)",
    ),
    _wrong(
        "law_2_an_exception_writes_nothing",
        "what a function did to its dict is kept though it raised",
        _FOLD,
        "        new = operation.context.run(operation.function, session)\n",
        "        try:\n"
        "            new = operation.context.run(operation.function, session)\n"
        "        except Exception:\n"
        "            self._body, _ = self._codec.pack(session)\n"
        "            self._alive, self._spare = True, None\n"
        "            raise\n",
    ),
    _wrong(
        "law_2_an_exception_writes_nothing",
        "one that raises fails all that were combined with it",
        _FOLD,
        "                operation.changes = False\n",
        "                operation.changes = False\n"
        "                for other in operations:\n"
        "                    other.fail(exc)\n",
    ),
    _wrong(
        "law_3_each_update_is_applied_once",
        "a conflict is taken for success",
        _BATCHED,
        "        elif outcome:\n",
        "        elif True:\n",
    ),
    _known("law_3_each_update_is_applied_once", "answer before the commit"),
    _wrong(
        "law_4_what_is_no_session_is_refused",
        "no session is too large",
        _RULES,
        "if len(body) > self.max_bytes:",
        "if False:",
    ),
    _wrong(
        "law_4_what_is_no_session_is_refused",
        "whatever a dict can be made of is a session",
        _CODEC,
        "if not isinstance(session, Mapping):",
        "if False:",
    ),
    _wrong(
        "law_5_nothing_aliases",
        "a session is decoded once for all that read it",
        _CODEC,
        "                return session\n        raise",
        "                return self._by_tag.setdefault(data, session)\n        raise",
    ),
    _wrong(
        "law_5_nothing_aliases",
        "an update is given the answer of the one before",
        _FOLD,
        "self._spare = None if gc.is_tracked(copy) else copy.copy()",
        "self._spare = copy.copy()",
    ),
    _wrong(
        "law_6_types_come_back",
        "a frozenset comes back as a set",
        _RICH,
        "tag = _SET if cls is set else _FROZENSET",
        "tag = _SET",
    ),
    _wrong(
        "law_6_types_come_back",
        "what cannot be kept is kept as its text",
        _RICH,
        "raise self._refusal(_why_not(cls))",
        "return str(value)",
    ),
    _wrong(
        "law_7_a_cancelled_call_blocks_nobody",
        "a cancelled caller is answered all the same",
        _FOLD,
        "        if self.future.done():\n            return\n"
        "        if self.error is None:",
        "        if self.error is None:",
    ),
    _known("law_8_an_unknown_outcome_is_settled_or_told", "unknown taken for success"),
    _known(
        "law_8_an_unknown_outcome_is_settled_or_told",
        "unknown taken for failure, and run again",
    ),
    _known("law_8_an_unknown_outcome_is_settled_or_told", "unknown told as failure"),
    _wrong(
        "law_9_an_expired_session_is_gone",
        "an expired record is read at once",
        _READER,
        "if record is None or record.is_gone(loaded.now):",
        "if record is None:",
    ),
    _known("law_9_an_expired_session_is_gone", "expired row served to update"),
    _wrong(
        "law_10_a_corrupt_record_is_left_alone",
        "what cannot be read is overwritten",
        _FOLD,
        "raise rules.corrupt(self._key, exc) from exc",
        "return {}",
    ),
    _wrong(
        "law_10_a_corrupt_record_is_left_alone",
        "what cannot be read reads as nothing",
        _READER,
        "raise rules.corrupt(key.removeprefix(self._prefix), exc) from exc",
        "return {}",
    ),
    _wrong(
        "law_11_a_closed_store_refuses",
        "a closed store still reads",
        _READER,
        "if self._gate.closed is not None:",
        "if False:",
    ),
    _wrong(
        "law_11_a_closed_store_refuses",
        "closing twice is an error",
        _STORE,
        "        self._closed = True\n",
        "        if self._closed:\n"
        "            raise StoreClosedError('it is closed already')\n"
        "        self._closed = True\n",
    ),
]
