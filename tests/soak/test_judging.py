"""The judges of a soak find what is wrong, and say of each thing which it is."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from botsessions.conformance.histories.history import NEVER, Call, Outcome, Verb
from tests.soak.figures import Fault, Figures, Latencies, recovery, silence
from tests.soak.journal import MILLISECOND, SECOND, Hold, Journal, Oddity, Told, read
from tests.soak.judging import SHORT, Judgement, Wrong, judge
from tests.soak.page import page, picture
from tests.soak.summary import Run, markdown, rows

if TYPE_CHECKING:
    from pathlib import Path

TTL = 0.6
LEDGER, REGISTER = "chat=0/name=ledger", "chat=0/name=register"
COUNTER, LOCKED = "chat=0/name=counter", "chat=0/name=locked"
BRIEF = "chat=0/name=brief"


class Story:
    """Calls for one key, one after the other unless told otherwise."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.calls: list[Call] = []
        self._ids = itertools.count(1)
        self._now = SECOND

    def call(
        self,
        verb: Verb,
        saw: tuple[int, ...] | None = None,
        outcome: Outcome = Outcome.DONE,
        after: float = 0.001,
        lasts: float = 0.001,
    ) -> Call:
        called = self._now + round(after * SECOND)
        self._now = called + round(lasts * SECOND)
        returned = NEVER if outcome is Outcome.UNKNOWN else self._now
        call = Call(next(self._ids), self.key, verb, called, process="bot1")
        call.outcome, call.returned, call.saw = outcome, returned, saw
        self.calls.append(call)
        return call

    def told(self) -> Told:
        return Told(calls={self.key: self.calls})

    def judged(self) -> list[Wrong]:
        return wrong(judge(self.told(), TTL))


def wrong(judgement: Judgement) -> list[Wrong]:
    return sorted({finding.wrong for finding in judgement.findings})


# Nothing is wrong.


def test_a_right_history_of_each_kind_is_fine() -> None:
    for key in (LEDGER, REGISTER, LOCKED, BRIEF):
        story = Story(key)
        story.call(Verb.GET, ())
        story.call(Verb.UPDATE, (2,))
        story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
        story.call(Verb.UPDATE, None, Outcome.FAILED)
        story.call(Verb.UPDATE, (2, 3, 5))
        story.call(Verb.OBSERVE, (2, 3, 5))
        story.call(Verb.GET, (2, 3, 5))
        assert story.judged() == [], key
    story = Story(REGISTER)
    story.call(Verb.UPDATE, (1,))
    story.call(Verb.PUT)
    story.call(Verb.UPDATE, (2, 3))
    story.call(Verb.DELETE)
    story.call(Verb.GET, ())
    assert story.judged() == []
    counter = Story(COUNTER)
    counter.call(Verb.UPDATE, (1,))
    counter.call(Verb.UPDATE, None, Outcome.UNKNOWN)
    counter.call(Verb.GET, (1,))
    counter.call(Verb.UPDATE, (3,))
    counter.call(Verb.GET, (3,))
    assert counter.judged() == []


def test_a_short_history_is_decided_by_the_exact_search_and_a_long_one_is_not() -> None:
    for count, exact in ((SHORT, 1), (SHORT + 1, 0)):
        story = Story(REGISTER)
        for _ in range(count):
            story.call(Verb.GET, ())
        judgement = judge(story.told(), TTL)
        assert (judgement.histories, judgement.exact) == (1, exact)


# Lost.


def test_an_acknowledged_change_that_is_not_in_the_end_of_a_ledger_is_lost() -> None:
    story = Story(LEDGER)
    story.call(Verb.UPDATE, (1,))
    story.call(Verb.UPDATE, (1, 2))
    story.call(Verb.GET, (1,))
    assert Wrong.LOST in story.judged()
    story.calls[1].outcome = Outcome.UNKNOWN
    story.calls[1].returned, story.calls[1].saw = NEVER, None
    assert story.judged() == []


def test_a_change_that_was_under_way_need_not_be_in_the_last_look() -> None:
    story = Story(LEDGER)
    story.call(Verb.UPDATE, (1,))
    late = story.call(Verb.UPDATE, (1, 2))
    last = story.call(Verb.GET, (1,))
    late.returned = last.called + 1
    assert story.judged() == []


@pytest.mark.parametrize("key", [REGISTER, LOCKED, BRIEF])
def test_two_changes_of_one_state_are_a_lost_one(key: str) -> None:
    story = Story(key)
    story.call(Verb.PUT)
    story.call(Verb.UPDATE, (1, 2))
    story.call(Verb.UPDATE, (1, 3))
    assert Wrong.LOST in story.judged()


@pytest.mark.parametrize("length", [3, SHORT + 1])
def test_a_tampered_answer_is_found_by_the_judges_of_the_kit(length: int) -> None:
    story = Story(REGISTER)
    story.call(Verb.PUT)
    story.call(Verb.DELETE)
    for _ in range(length - 2):
        story.call(Verb.GET, ())
    assert story.judged() == []
    story.calls[-1].saw = (1,)
    assert story.judged() == [Wrong.UNEXPLAINED]


def test_what_only_the_exact_search_can_see_is_found_in_a_short_history() -> None:
    """One delete cannot have ended two lives, the one after the other."""
    story = Story(REGISTER)
    delete = story.call(Verb.DELETE)
    for _ in range(2):
        story.call(Verb.PUT)
        last = story.call(Verb.GET, ())
    delete.returned = last.returned + 1
    assert story.judged() == [Wrong.UNEXPLAINED]


def test_a_search_that_was_given_up_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.judging._BUDGET", 0)
    story = Story(REGISTER)
    story.call(Verb.PUT)
    story.call(Verb.GET, (1,))
    judgement = judge(story.told(), TTL)
    assert (judgement.exact, judgement.undecided) == (0, 1)
    assert judgement.findings == []


def test_a_counter_that_counts_two_as_one_has_lost_one() -> None:
    story = Story(COUNTER)
    story.call(Verb.UPDATE, (1,))
    again = story.call(Verb.UPDATE, (1,))
    assert story.judged() == [Wrong.LOST, Wrong.UNEXPLAINED]
    # Also if neither came before the other.
    again.called = story.calls[0].called
    assert story.judged() == [Wrong.LOST, Wrong.UNEXPLAINED]


def test_a_counter_that_goes_back_is_not_explained() -> None:
    story = Story(COUNTER)
    story.call(Verb.UPDATE, (1,))
    story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
    story.call(Verb.GET, (2,))
    back = story.call(Verb.GET, (1,))
    assert story.judged() == [Wrong.UNEXPLAINED]
    # A change must make more of it.
    back.verb, back.saw = Verb.UPDATE, (2,)
    assert story.judged() == [Wrong.UNEXPLAINED]
    back.saw = (3,)
    assert story.judged() == []


def test_a_counter_is_judged_exactly() -> None:
    story = Story(COUNTER)
    story.call(Verb.UPDATE, (2,))
    assert judge(story.told(), TTL).exact == 1
    assert story.judged() == [Wrong.UNEXPLAINED]
    # Whoever could have made the first one was called too late.
    story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
    assert story.judged() == [Wrong.UNEXPLAINED]
    story.calls[1].called = story.calls[0].called
    assert story.judged() == []


def test_a_counter_below_what_was_acknowledged_has_lost_something() -> None:
    story = Story(COUNTER)
    story.call(Verb.UPDATE, (1,))
    second = story.call(Verb.UPDATE, (2,))
    last = story.call(Verb.GET, (1,))
    assert story.judged() == [Wrong.LOST, Wrong.UNEXPLAINED]
    # What is answered in the tick of the last look need not be in it.
    second.returned = last.called
    assert story.judged() == []


def test_a_session_that_is_gone_before_its_end_is_lost() -> None:
    story = Story(BRIEF)
    story.call(Verb.PUT)
    gone = story.call(Verb.GET, (), after=0.4)
    assert story.judged() == [Wrong.LOST]
    gone.called += round(0.2 * SECOND)
    gone.returned += round(0.2 * SECOND)
    assert story.judged() == []
    story = Story(BRIEF)
    story.call(Verb.PUT)
    story.call(Verb.DELETE, outcome=Outcome.UNKNOWN)
    story.call(Verb.GET, ())
    assert story.judged() == []


# Doubled, or applied against what was said.


def test_a_change_that_is_there_twice_is_doubled() -> None:
    for key in (LEDGER, REGISTER, LOCKED, BRIEF):
        story = Story(key)
        story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
        story.call(Verb.UPDATE, (1, 1, 2))
        assert Wrong.DOUBLED in story.judged(), key
    story = Story(REGISTER)
    for _ in range(2):
        story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
    story.call(Verb.UPDATE, (1, 2, 1, 2, 3))
    findings = judge(story.told(), TTL).findings
    doubled = [finding.what for finding in findings if finding.wrong is Wrong.DOUBLED]
    assert [what[:9] for what in doubled] == ["#1 update", "#2 update"]


def test_a_doubled_change_is_not_counted_as_lost_too() -> None:
    story = Story(REGISTER)
    story.call(Verb.PUT)
    story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
    story.call(Verb.UPDATE, (1, 2, 2, 3))
    assert story.judged() == [Wrong.DOUBLED, Wrong.UNEXPLAINED]


def test_a_change_that_was_made_of_two_states_is_doubled() -> None:
    story = Story(REGISTER)
    story.call(Verb.PUT)
    story.call(Verb.UPDATE, (1, 2))
    story.call(Verb.PUT)
    story.call(Verb.GET, (3, 2))
    assert Wrong.DOUBLED in story.judged()


def test_a_counter_above_what_was_asked_for_counted_something_twice() -> None:
    story = Story(COUNTER)
    story.call(Verb.UPDATE, (1,))
    story.call(Verb.GET, (2,))
    assert story.judged() == [Wrong.DOUBLED, Wrong.UNEXPLAINED]
    story.calls[0].outcome, story.calls[1].saw = Outcome.FAILED, (1,)
    assert story.judged() == [Wrong.DOUBLED, Wrong.UNEXPLAINED]


def test_what_was_refused_and_is_there_is_found() -> None:
    story = Story(REGISTER)
    story.call(Verb.UPDATE, None, Outcome.FAILED)
    story.call(Verb.GET, (1,))
    assert Wrong.REFUSED in story.judged()
    story = Story(REGISTER)
    story.call(Verb.GET, (77,))
    assert Wrong.REFUSED in story.judged()


# Served after its end, and locks.


def test_what_is_served_after_its_end_is_found() -> None:
    story = Story(BRIEF)
    story.call(Verb.PUT)
    late = story.call(Verb.GET, (1,), after=TTL + 0.01)
    assert story.judged() == [Wrong.LATE]
    late.called -= 20 * MILLISECOND
    assert story.judged() == []
    # It may have landed when its call was nearly over.
    story = Story(BRIEF)
    story.call(Verb.PUT, lasts=0.4)
    story.call(Verb.GET, (1,), after=0.4)
    assert story.judged() == []


def test_an_update_that_revives_what_has_ended_is_found() -> None:
    story = Story(BRIEF)
    story.call(Verb.PUT)
    story.call(Verb.UPDATE, (1, 2), after=TTL + 0.01)
    assert story.judged() == [Wrong.LATE]


def test_an_update_that_changes_nothing_moves_the_end() -> None:
    story = Story(BRIEF)
    story.call(Verb.PUT)
    story.call(Verb.OBSERVE, (1,), after=0.4)
    story.call(Verb.GET, (1,), after=0.4)
    assert story.judged() == []
    story.call(Verb.GET, (1,), after=0.4)
    assert story.judged() == [Wrong.LATE]
    # Or nobody knows when it did.
    unknown = story.calls[1]
    unknown.outcome, unknown.returned, unknown.saw = Outcome.UNKNOWN, NEVER, None
    assert story.judged() == []


def test_a_lock_that_two_hold_at_once_is_found() -> None:
    holds = [Hold(LOCKED, f"bot{n}", 0, 10 * n, 10 * n + 9, "") for n in range(1, 4)]
    assert wrong(judge(Told(holds=holds), TTL)) == []
    holds.append(Hold(LOCKED, "bot4", 0, 15, 18, ""))
    assert wrong(judge(Told(holds=holds), TTL)) == [Wrong.SHARED]
    # It had lost it, and knew.
    holds[-1] = Hold(LOCKED, "bot4", 0, 15, None, "LockLostError")
    assert wrong(judge(Told(holds=holds), TTL)) == []


def test_what_no_caller_should_meet_is_reported() -> None:
    told = Told(oddities=[Oddity("", "bot1", "ZeroDivisionError")])
    assert wrong(judge(told, TTL)) == [Wrong.ODD]


# What is written down.


def test_a_journal_says_what_was_told_and_what_was_not(tmp_path: Path) -> None:
    one, other = (tmp_path / f"bot{number}.jsonl" for number in (1, 2))
    journal = Journal(one, first=1)
    done = journal.begin(LEDGER, Verb.UPDATE)
    journal.end(done, Outcome.DONE, (done.id,))
    journal.end(journal.begin(LEDGER, Verb.PUT), Outcome.FAILED, note="no")
    journal.hold(LOCKED, 1, 2, None, "lost")
    journal.oddity("", "strange")
    journal.close()
    journal = Journal(other, first=1000)
    journal.begin(LEDGER, Verb.UPDATE)
    journal.close()
    with other.open("a") as file:
        file.write('["end", 1000, "do')  # it was killed
    told = read([one, other])
    assert [
        (call.id, call.process, call.outcome, call.saw, call.note)
        for call in told.calls[LEDGER]
    ] == [
        (1, "bot1", Outcome.DONE, (1,), ""),
        (2, "bot1", Outcome.FAILED, None, "no"),
        (1000, "bot2", Outcome.UNKNOWN, None, ""),
    ]
    assert told.calls[LEDGER][2].returned == NEVER
    assert told.holds == [Hold(LOCKED, "bot1", 1, 2, None, "lost")]
    assert told.oddities == [Oddity("", "bot1", "strange")]
    later = read([one, other], since=1000)
    for call, same in zip(later.calls[LEDGER], told.calls[LEDGER], strict=True):
        assert call.called == same.called - 1000
        assert call.returned in {same.returned - 1000, NEVER}
    assert later.holds == [Hold(LOCKED, "bot1", -999, -998, None, "lost")]


# Figures.


def test_latencies_are_kept_to_three_percent() -> None:
    latencies = Latencies()
    assert latencies.within(0.5) == 0
    for number in range(1, 1001):
        latencies.add(float(number))
    assert latencies.within(0.5) == pytest.approx(500, rel=0.03)
    assert latencies.within(0.99) == pytest.approx(990, rel=0.03)
    assert latencies.within(1) == latencies.longest == 1000


def test_recovery_is_the_answer_of_a_change_that_was_asked_for_behind_the_fault() -> (
    None
):
    story = Story(LEDGER)
    story.call(Verb.UPDATE, (1,), after=0, lasts=1.0)
    story.call(Verb.UPDATE, (1, 2), after=1.0, lasts=0.5)
    assert recovery(Fault("", 0, SECOND + SECOND // 2), story.calls) == 2.0
    assert recovery(Fault("", 0, 9 * SECOND), story.calls) is None


def test_silence_counts_from_the_beginning_of_a_fault_to_the_first_change_behind() -> (
    None
):
    fault = Fault("", 10 * SECOND, 14 * SECOND)

    def after(*answers: float) -> float:
        return silence(fault, [round(answer * SECOND) for answer in answers])

    assert after(9.0, 10.5, 13.5, 13.75, 15.0, 19.0) == 3.0
    # What failed over is back long after others took over.
    assert after(9.9, 13.0, 13.5, 14.5) == 3.0
    assert after(9.9, 14.5) == 4.5
    # None came any more.
    assert after(9.0) == 4.0
    assert after(9.0, 11.0) == 3.0


def figures_of(story: Story) -> Figures:
    figures = Figures(title="A <place>")
    fault = Fault("the disk & all", SECOND, SECOND + 1)
    figures.add(story.told(), judge(story.told(), TTL), [fault])
    return figures


def test_a_report_has_the_figures_of_each_place() -> None:
    story = Story(LEDGER)
    story.call(Verb.UPDATE, (1,))
    story.call(Verb.UPDATE, None, Outcome.UNKNOWN)
    story.call(Verb.UPDATE, None, Outcome.FAILED)
    story.call(Verb.GET, (1,))
    figures = {"one": figures_of(story)}
    table = {row[0]: row[1] for row in rows(figures)}
    assert table["operations"] == "4"
    assert table["· update"] == "3"
    assert (table["acknowledged"], table["refused"]) == ("2", "1")
    assert table["unknown outcomes"] == "1"
    assert table["faults"] == "1"
    assert table[f"**{Wrong.LOST}**"] == table[f"**{Wrong.DOUBLED}**"] == "**0**"
    run = Run("python -m tests.soak", 7, 1.0, "now", wanted={"one": []})
    assert "nothing lost, nothing doubled" in page(run, figures)
    assert "| the disk & all | 1 | 0.00 s | 0.00 s |" in markdown(run, figures)


def test_a_report_shows_what_was_wrong_with_its_calls() -> None:
    story = Story(LEDGER)
    story.call(Verb.UPDATE, (1,))
    story.call(Verb.GET, ())
    made = page(Run("", 7, 1.0, "now"), {"one": figures_of(story)})
    assert "something is wrong" in made
    assert "is not there in the end: #1 update chat=0/name=ledger by bot1" in made
    assert "#2 get chat=0/name=ledger by bot1" in made
    # A page of its own, and nothing that it holds is taken for a tag.
    assert "A &lt;place&gt;" in made
    assert "the disk &amp; all" in made
    for word in ("src=", "href=", "url(", "<script"):
        assert word not in made


def drawn_of(figures: Figures) -> ET.Element:
    return ET.fromstring(picture(figures))  # noqa: S314 - our own


def test_the_picture_has_a_bar_for_each_second_and_a_mark_for_each_fault() -> None:
    figures = Figures(seconds=3.5)
    figures.flow.update({0: 10, 1: 40, 3: 20})
    figures.marks += [(1.5, "one"), (1.7, "other"), (3.2, "one")]
    drawn = drawn_of(figures)
    bars = [float(bar.attrib["height"]) for bar in drawn.iter("rect")]
    assert [round(bar / max(bars), 2) for bar in bars] == [0.25, 1, 0, 0.5]
    marks = [mark.find("title") for mark in drawn.iter("line")]
    assert [m.text for m in marks if m is not None] == ["1 s: one, other", "3 s: one"]
    # Of hours it has no more bars.
    figures.seconds = 36_000
    assert len(list(drawn_of(figures).iter("rect"))) <= 240


def test_many_wrong_things_are_counted_and_some_kept_whole() -> None:
    figures = Figures()
    for _ in range(30):
        story = Story(LEDGER)
        story.call(Verb.UPDATE, (1,))
        story.call(Verb.GET, ())
        figures.add(story.told(), judge(story.told(), TTL), [])
    assert figures.wrong[Wrong.LOST] == 30
    assert len(figures.findings) == 10
