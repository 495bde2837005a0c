"""A framework's objects give the keys of the documents they were made from.

What a framework cannot parse, or drops while it parses, is listed here with the reason;
a test fails as soon as an entry is no longer true.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from aiogram import Bot
from aiogram.types import Update as AiogramUpdate
from pydantic import ValidationError
from telebot.types import Update as TelebotUpdate
from telegram import Update as TelegramUpdate

from botsessions.updates import origin
from tests.updates.corpus import CORPUS, expected_origin, needs_corpus
from tests.updates.samples import SAMPLES, UPDATE_TYPES, Document, Sample, of_bare_event

BOT = Bot("42:sample")

PARSERS: dict[str, Callable[[Document], Any]] = {
    "aiogram": AiogramUpdate.model_validate,
    # As its dispatcher does: the bot becomes an attribute of every object.
    "aiogram with its bot": lambda doc: AiogramUpdate.model_validate(
        doc, context={"bot": BOT}
    ),
    "python-telegram-bot": lambda doc: TelegramUpdate.de_json(doc, None),
    "telebot": TelebotUpdate.de_json,
}
# What they raise for documents of the corpus that lack fields, or have odd ones.
PARSE_ERRORS = (ValidationError, KeyError, TypeError, ValueError, AttributeError)

CANNOT_PARSE = {
    ("telebot", "purchased_paid_media"): "de_json reads obj['from_user'], not 'from'",
}
DROPS = {
    ("telebot", "future type with the fields of a message"): "keeps no unknown field",
    ("telebot", "future type with a user"): "keeps no unknown field",
}

every_framework = pytest.mark.parametrize("framework", PARSERS)
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)


def parse(framework: str, document: Document) -> Any:
    return PARSERS[framework](copy.deepcopy(document))  # some change what they parse


@every_framework
@every_sample
def test_update_object_says_the_same_as_its_document(
    framework: str, sample: Sample
) -> None:
    if (framework, sample.name) in CANNOT_PARSE:
        with pytest.raises(PARSE_ERRORS):
            parse(framework, sample.update)
        return
    found = origin(parse(framework, sample.update))
    if (framework, sample.name) in DROPS:
        assert found != sample.origin
    else:
        assert found == sample.origin


@pytest.mark.parametrize(
    ("framework", "sample"),
    [
        pytest.param(framework, sample, id=f"{framework}-{sample.name}")
        for framework in PARSERS
        for sample in SAMPLES
        if sample.origin.event and (framework, sample.name) not in CANNOT_PARSE
    ],
)
def test_bare_event_object_says_the_same(framework: str, sample: Sample) -> None:
    event = event_of(parse(framework, sample.update), sample.origin.event)
    assert origin(event) == of_bare_event(sample.origin)


def event_of(update: Any, name: str | None) -> Any:
    assert name in UPDATE_TYPES
    # Newer than python-telegram-bot: it keeps the raw document.
    return getattr(update, name, None) or update.api_kwargs[name]


def test_exceptions_are_of_samples_that_exist() -> None:
    names = {sample.name for sample in SAMPLES}
    assert {name for _, name in CANNOT_PARSE | DROPS} <= names


# A few lines have fields that python-telegram-bot parses and calls deprecated.
@pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning")
@needs_corpus
@every_framework
def test_corpus_objects_say_what_is_expected(framework: str) -> None:
    read = 0
    for line in CORPUS:
        try:
            update = parse(framework, line["update"])
        except PARSE_ERRORS:
            continue
        expected = expected_origin(line)
        assert origin(update) == expected, line
        if expected.event:
            event = event_of(update, expected.event)
            assert origin(event) == of_bare_event(expected), line
        read += 1
    assert read > 480  # each parses most of it
