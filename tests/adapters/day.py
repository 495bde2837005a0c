"""A day of a bot: what everybody does, and what must come of it.

The traffic is drawn from a seed. The rules of the conversation are plain functions,
which bots of every framework call between reading and writing; ``fold`` calls them one
after the other, on a dict for each place, and that is what bot and store are held to.
Nothing here knows botsessions, or a framework.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.servers.botapi import ME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Data = dict[str, Any]

MIDNIGHT, A_DAY = 1_790_000_000, 86_400
# Who is told of what happens in no chat, or by nobody.
OWNER = 99
# The step of a reply that leaves the conversation where it is.
STAYS = "stays"


class OnPurposeError(Exception):
    """What some handlers end with; it says what the bot is to answer."""


# The conversation. All that is said ends in the mark of its update, as do all answers.


class Reply(NamedTuple):
    """What to answer, and the step of the conversation that comes next."""

    text: str
    step: str | None = STAYS


def start(data: Data, words: str) -> Reply:
    hello = {"en": "Who are you?", "de": "Wer bist du?", "eo": "Kiu vi estas?"}
    return Reply(hello[data.get("language", "en")], "name")


def name(data: Data, words: str) -> Reply:
    data["name"] = words
    return Reply(f"How old, {words}?", "age")


def age(data: Data, words: str) -> Reply:
    if not words.isdigit():
        return Reply(f"Not {words}: a number.")
    data["age"] = int(words)
    # Without a name only after a kill between the writing of name and step.
    return Reply(f"{data.get('name')} is {words}.", None)


def talk(data: Data, words: str) -> Reply:
    what, _, item = words.partition(" ")
    cart = data.setdefault("cart", {})
    if what == "add":
        cart[item] = cart.get(item, 0) + 1
        return Reply(f"{cart[item]} {item}")
    if what == "remove":
        return Reply(f"{cart.pop(item, 'no')} {item} out")
    data["n"] = data.get("n", 0) + 1
    return Reply(f"That makes {data['n']}.")


def press(data: Data, words: str) -> Reply:
    what, _, value = words.partition(" ")
    if what == "language":
        data["language"] = value
        return Reply(f"Now {value}.")
    return talk(data, words)


def edit(data: Data, words: str) -> Reply:
    data["edits"] = [*data.get("edits", ()), words]
    return Reply(f"So you meant {words}.")


def fail(data: Data, words: str) -> Reply:
    data["failed"] = data.get("failed", 0) + 1
    raise OnPurposeError("That failed.")


def forget(data: Data, words: str) -> Reply:
    data.clear()
    return Reply("Who was that?", None)


RULES: dict[str, Callable[[Data, str], Reply]] = {
    rule.__name__: rule for rule in (start, name, age, talk, press, edit, fail, forget)
}
COMMANDS = ("start", "fail", "forget")
STEPS = ("name", "age")


def act(rule: str, data: Data, said: str) -> Reply:
    """Change the data by a rule, and log that in them; return what to answer."""
    words, mark = split(said)
    data["log"] = [*data.get("log", ()), f"{rule}: {said}"]
    try:
        reply = RULES[rule](data, words)
    except OnPurposeError as failure:
        raise OnPurposeError(f"{failure} #{mark}") from None
    return reply._replace(text=f"{reply.text} #{mark}")


def split(said: str) -> tuple[str, int]:
    """Return what was said, and the mark of the update that said it."""
    words, _, mark = said.rpartition(" #")
    return words, int(mark)


# The traffic.


class Place(NamedTuple):
    """Where somebody has a session."""

    chat: int
    user: int
    business: str | None = None
    topic: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One update; ``place`` is None if it belongs to no chat, or to nobody.

    Events of the same ``turn`` are sent in one breath, and the order in which they are
    handled makes no difference to the session.
    """

    mark: int
    date: int
    turn: int
    place: Place | None
    kind: str
    words: str

    @property
    def said(self) -> str:
        return f"{self.words} #{self.mark}"

    def update(self, update_id: int) -> dict[str, Any]:
        """Return what Telegram would send."""
        if self.place is None:
            return {"update_id": update_id, self.kind: self._of_nobody()}
        kind = self.kind
        if self.place.business is not None and kind != "callback_query":
            kind = kind.replace("message", "business_message")
        return {"update_id": update_id, kind: self._of(self.place)}

    def _of_nobody(self) -> dict[str, Any]:
        somebody = _user(OWNER)
        match self.kind:
            case "poll":
                return {"id": str(self.mark), "question": self.said, **_POLL}
            case "inline_query":
                query = {"id": str(self.mark), "query": self.said, "offset": ""}
                return {**query, "from": somebody}
            case "chosen_inline_result":
                return {"result_id": "1", "query": self.said, "from": somebody}
        channel = {"id": -3001, "type": "channel", "title": "News"}
        return {**self._dated(), "chat": channel, "text": self.said}

    def _of(self, place: Place) -> dict[str, Any]:
        sender = _user(place.user)
        message = {**self._dated(), "chat": _chat(place), "from": sender}
        if place.business is not None:
            message["business_connection_id"] = place.business
        if place.topic is not None:
            message |= {"message_thread_id": place.topic, "is_topic_message": True}
        if self.kind == "callback_query":
            query = {"id": str(self.mark), "data": self.said, "chat_instance": "1"}
            buttons = {**message, "from": ME, "text": "Choose!"}
            return {**query, "from": sender, "message": buttons}
        if self.kind == "edited_message":
            message["edit_date"] = self.date + 5
        if self.words.startswith("/"):
            command = {"offset": 0, "length": len(self.words), "type": "bot_command"}
            message["entities"] = [command]
        return {**message, "text": self.said}

    def _dated(self) -> dict[str, Any]:
        return {"message_id": self.mark, "date": self.date}


_POLL: dict[str, Any] = {
    "options": [],
    "total_voter_count": 0,
    "is_closed": False,
    "is_anonymous": True,
    "type": "regular",
    "allows_multiple_answers": False,
    "allows_revoting": False,
    "members_only": False,
}


def _user(number: int) -> dict[str, Any]:
    return {"id": number, "is_bot": False, "first_name": f"Ada {number}"}


def _chat(place: Place) -> dict[str, Any]:
    if place.chat > 0:
        return {"id": place.chat, "type": "private", "first_name": f"Ada {place.chat}"}
    forum = {"is_forum": True} if place.topic is not None else {}
    return {"id": place.chat, "type": "supergroup", "title": "All", **forum}


# One thing somebody does: the kind of the update, and the words.
Deed = tuple[str, str]
# What is done in one breath, and what one breath after the other.
Scene = list[list[Deed]]
KINDS_OF_NOBODY = ("poll", "inline_query", "chosen_inline_result", "channel_post")
_ITEMS = ("apple", "pear", "plum")


def day(seed: int, many: int, *, forgetting: bool = True) -> list[Event]:
    """Draw a day of about so many updates; there are no two days to a seed."""
    rng = random.Random(seed)
    # So many people that each has some hours' worth to do, and some are done early.
    places = _places(4 + many // 100)
    kinds = [*_SCENES, *([_forgetting] if forgetting else [])]
    acts: list[tuple[float, Place, Scene]] = []
    while sum(len(turn) for _, _, scene in acts for turn in scene) < many:
        scene = rng.choice(kinds)(rng)
        acts.append((rng.uniform(0, A_DAY - 3600), rng.choice(places), scene))
    deeds = list(_one_after_the_other(rng, sorted(acts)))
    for _ in range(many // 20):
        of_nobody = (rng.choice(KINDS_OF_NOBODY), "hi")
        deeds.append((rng.uniform(0, A_DAY), 0, None, of_nobody))
    deeds.sort(key=lambda deed: deed[0])
    return [
        Event(mark, MIDNIGHT + int(date), turn, place, kind, words)
        for mark, (date, turn, place, (kind, words)) in enumerate(deeds, 1)
    ]


def _one_after_the_other(
    rng: random.Random, acts: Iterable[tuple[float, Place, Scene]]
) -> Iterator[tuple[float, int, Place | None, Deed]]:
    """Nobody begins anything before the end of what they do in that place."""
    turns = itertools.count(1)
    over: dict[Place, float] = {}
    for begin, place, scene in acts:
        now = max(begin, over.get(place, 0.0))
        for breath in scene:
            turn = next(turns)
            for deed in breath:
                yield now, turn, place, deed
            now += rng.uniform(1, 60)
        over[place] = now


def _places(many: int) -> list[Place]:
    """Return where people meet the bot; each of them in several places."""
    people = range(101, 101 + many)
    return [
        place
        for person in people
        for place in (
            Place(person, person),
            # In a business chat and in the private one the ids are the same.
            Place(person, person, business=f"b{person}"),
            # Three groups, and two topics of one forum.
            Place(-1001 - person % 3, person),
            Place(-2001, person, topic=5 + person % 2),
            Place(-2001, person, topic=7),
        )
    ]


def _signing_up(rng: random.Random) -> Scene:
    age = [[_says(str(rng.randrange(9, 99)))]]
    if rng.random() < 0.3:
        age.insert(0, [_says("old enough")])
    whole = [[_says("/start")], [_says(rng.choice(["Ada", "Bo", "Cy"]))], *age]
    # Some never come to the end, and are asked again whenever they say anything.
    return whole if rng.random() < 0.8 else whole[: rng.randrange(1, len(whole))]


def _shopping(rng: random.Random) -> Scene:
    whats = rng.choices(["add", "remove"], weights=[3, 1], k=rng.randrange(2, 5))
    return [[_says(f"{what} {rng.choice(_ITEMS)}")] for what in whats]


def _hurrying(rng: random.Random) -> Scene:
    adds = [_presses(f"add {rng.choice(_ITEMS)}") for _ in range(2)]
    return [[_presses("count")] * rng.randrange(3, 7) + adds]


def _pressing(rng: random.Random) -> Scene:
    language = rng.choice(["de", "eo", "en"])
    twice = [_presses(f"add {rng.choice(_ITEMS)}")] * 2
    return [[_presses(f"language {language}")], twice]


def _editing(rng: random.Random) -> Scene:
    return [[_says("count")], [("edited_message", rng.choice(_ITEMS))]]


def _failing(rng: random.Random) -> Scene:
    return [[_says("/fail")]]


def _forgetting(rng: random.Random) -> Scene:
    return [[_says("/forget")]]


def _says(words: str) -> Deed:
    return "message", words


def _presses(words: str) -> Deed:
    return "callback_query", words


_SCENES = [_signing_up, _shopping, _hurrying, _pressing, _editing, _failing]


def halves(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """Cut the day in two, for a restart at noon.

    The first bot's last updates are not confirmed, and come again to the second: none
    of them in the same place.
    """
    noon = len(events) // 2
    again: list[Event] = []
    for event in reversed(events[:noon]):
        if event.place is not None and _whose(event) in map(_whose, again):
            break
        again.insert(0, event)
    return [*events[:noon]], [*again, *events[noon:]]


def _whose(event: Event) -> Place | None:
    return event.place and event.place._replace(topic=None)


# What must come of it.


@dataclass(frozen=True, slots=True)
class Traits:
    """What a bot makes of the same traffic, by its framework and its adapter."""

    by_topic: bool = False
    """Whether each topic of a forum has sessions of its own."""
    ordered: bool = True
    """Whether updates of one place are handled in the order in which they came."""
    keeps_failures: bool = False
    """Whether what a handler changed before it failed is kept."""
    answers_first: bool = False
    """Whether it answers before it saves."""

    def place(self, event: Event) -> Place | None:
        """Return whose session it is."""
        if event.place is None or self.by_topic:
            return event.place
        return event.place._replace(topic=None)

    def turn(self, event: Event) -> int:
        """Return what this event has in common with those whose order is open."""
        return event.mark if self.ordered else event.turn


@dataclass(slots=True)
class Kept:
    """What is kept of one place."""

    data: Data = field(default_factory=dict)
    step: str | None = None

    def __bool__(self) -> bool:
        return bool(self.data) or self.step is not None


def route(kind: str, words: str, step: str | None) -> str:
    """Name the rule for what somebody does at this step of the conversation."""
    if kind != "message":
        return {"callback_query": "press", "edited_message": "edit"}[kind]
    if words.startswith("/"):
        return words[1:]
    return step or "talk"


class Outcome(NamedTuple):
    """What is kept of each place, and what was answered to each event, in order."""

    kept: dict[Place, Kept]
    answers: dict[Place | None, list[str]]


def fold(events: Iterable[Event], traits: Traits) -> Outcome:
    """Handle one event after the other."""
    kept: dict[Place, Kept] = defaultdict(Kept)
    answers: dict[Place | None, list[str]] = defaultdict(list)
    for event in events:
        place = traits.place(event)
        if place is None:
            answers[None].append(f"{event.kind} #{event.mark}")
        else:
            answers[place].append(_handle(event, kept[place], traits))
    return Outcome({place: its for place, its in kept.items() if its}, dict(answers))


def _handle(event: Event, kept: Kept, traits: Traits) -> str:
    data = copy.deepcopy(kept.data)
    try:
        reply = act(route(event.kind, event.words, kept.step), data, event.said)
    except OnPurposeError as failure:
        if traits.keeps_failures:
            kept.data = data
        return str(failure)
    kept.data = data
    if reply.step != STAYS:
        kept.step = reply.step
    return reply.text


def breaths(items: Sequence[str], traits: Traits, events: Sequence[Event]) -> Any:
    """Return answers, or a log, such that what is the same to the bot is equal.

    What was handled in one breath may be in any order: marks and words are sorted, each
    by themselves, because who comes first counts first.
    """
    turns = {event.mark: traits.turn(event) for event in events}
    of_marks = [split(item)[::-1] for item in items]
    return [
        (turn, *map(sorted, zip(*group, strict=True)))
        for turn, group in itertools.groupby(of_marks, lambda item: turns[item[0]])
    ]


def same(one: Kept, other: Kept, traits: Traits, events: Sequence[Event]) -> bool:
    """Tell whether both kept the same, but for the order within a breath."""
    logs = [breaths(kept.data.get("log", ()), traits, events) for kept in (one, other)]
    datas = [{**kept.data, "log": None} for kept in (one, other)]
    return logs[0] == logs[1] and datas[0] == datas[1] and one.step == other.step


def check_after_a_kill(
    kept: Kept,
    events: Sequence[Event],
    answered: Sequence[int],
    unsure: int | None,
    traits: Traits,
) -> bool:
    """Check what is kept of a place whose bot was killed at some time of the day.

    The log says which events were handled, how often, and by which rules. What is kept
    must come of these, in order, and of all that was answered; but ``unsure`` may be
    missing, or have left data and no step. Return whether nothing came twice, and
    nothing was lost: then it must be what it would be without a kill.
    """
    log = [entry.partition(": ")[::2] for entry in kept.data.get("log", ())]
    rules = {split(said)[1]: rule for rule, said in log}
    marks = [split(said)[1] for _, said in log]
    saved = [e.mark for e in events if traits.keeps_failures or e.words != "/fail"]
    owed = set(answered).intersection(saved) - {unsure}
    assert owed <= set(marks), ("lost", owed - set(marks), log)
    # Turns begin in order, and each is one breath.
    begun = list(dict.fromkeys(event.turn for event in events))
    turns = {event.mark: begun.index(event.turn) for event in events}
    in_order = [turns[mark] for mark in marks]
    assert in_order == sorted(in_order), log
    is_whole = unsure is None or rules.get(unsure) not in {"start", *STEPS}
    if is_whole and sorted(marks) == saved and sorted(answered) == sorted(turns):
        expected = next(iter(fold(events, traits).kept.values()), Kept())
        assert same(kept, expected, traits, events), (kept, expected)
        return True
    data: Data = {}
    for rule, said in log:
        with suppress(OnPurposeError):
            act(rule, data, said)
    assert data == kept.data
    assert kept.step in {None, *STEPS}
    return False
