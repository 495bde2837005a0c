"""Writes updates.jsonl: a day of a bakery's bot, as getUpdates would tell of them.

    python examples/make_updates.py > examples/updates.jsonl

Every run writes the same file. Each *story* is a generator that yields one update after
the other: a sign-up, an order, the talk in a group. ``tell`` interleaves the stories as
people would, and numbers and dates what happens.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
Story = Iterator[Json]

SEED = 20260504
START = 1777874400  # 2026-05-04 06:00:00 UTC
FIRST_UPDATE_ID = 731904113

BOT = {
    "id": 7203544811,
    "is_bot": True,
    "first_name": "Corner Bakery",
    "username": "corner_bakery_bot",
}
ANONYMOUS_ADMIN = {
    "id": 1087968824,
    "is_bot": True,
    "first_name": "Group",
    "username": "GroupAnonymousBot",
}
TELEGRAM = {"id": 777000, "is_bot": False, "first_name": "Telegram"}

GROUP = {"id": -1001934417652, "title": "Bakery regulars", "type": "supergroup"}
FORUM = {**GROUP, "id": -1002046633817, "title": "Bakers' forum", "is_forum": True}
OLD_GROUP = {"id": -4185502397, "title": "Saturday market", "type": "group"}
CHANNEL = {
    "id": -1001650098231,
    "title": "Bread of the day",
    "username": "bread_of_the_day",
    "type": "channel",
}
TOPICS = {3: "Sourdough", 17: "Ovens", 42: "Off topic"}
CONNECTION = "fGh3kQwXmEoVAgAA7rZtYc0pN2s"
PRICES = {"croissant": 240, "rye": 590, "baguette": 310, "pretzel": 180, "cake": 2450}
CHATTER = (
    "Good morning!",
    "Is the rye still warm?",
    "Two of those for me, please",
    "See you at the market 🥐",
    "Who bakes on Sunday?",
    "Grüße aus Köln",
    "хлеб!",
    "+1",
    "What hydration do you use?",
    "75 %, and a long cold proof",
)


def person(user_id: int, first_name: str, language: str, **more: Any) -> Json:
    """Return somebody as Telegram describes them."""
    return {
        "id": user_id,
        "is_bot": False,
        "first_name": first_name,
        **more,
        "language_code": language,
    }


ADA = person(512406937, "Ada", "en", last_name="Byron", username="ada_byron")
BRUNO = person(6148820354, "Bruno", "de", username="bruno_k")
CHIARA = person(289174465, "Chiara", "it", last_name="Conti")
DMITRI = person(1377250918, "Дмитрий", "ru", username="dmitri_bakes")
ELIF = person(5904416623, "Elif", "tr", is_premium=True)
FUMIKO = person(74120988, "文子", "ja", username="fumiko")
GUSTAV = person(930561277, "Gustav", "de", last_name="Groß")
HANA = person(7011295840, "Hana", "en", username="hana_h")
IVAN = person(448203116, "Ivan", "en")
PEOPLE = (ADA, BRUNO, CHIARA, DMITRI, ELIF, FUMIKO, GUSTAV, HANA, IVAN)


class World:
    """What all stories share: the clock, chance, and the numbers of messages."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = START
        self._messages: Counter[int] = Counter()

    def pass_time(self) -> None:
        """Let a while pass until the next update."""
        self.now += self.rng.choice((1, 2, 3, 8, 20, 45, 90, 240, 900))

    def digits(self) -> str:
        """Draw the number of a query."""
        return str(self.rng.getrandbits(63))

    def message(self, chat: Json, sender: Json | None, **content: Any) -> Json:
        """Make the next message of a chat; the bot's own are no updates, but count."""
        self._messages[chat["id"]] += 1
        number = self._messages[chat["id"]]
        author = {} if sender is None else {"from": sender}
        head = {"message_id": number, **author, "chat": chat, "date": self.now}
        return {**head, **content}

    def press(self, sender: Json, message: Json, data: str) -> Json:
        """Let somebody press a button below a message of the bot."""
        return {
            "callback_query": {
                "id": self.digits(),
                "from": sender,
                "message": message,
                "chat_instance": str(-message["chat"]["id"] * 7919),
                "data": data,
            }
        }


def private(who: Json) -> Json:
    """Return the private chat of somebody with the bot; it has the user's id."""
    names = ("id", "first_name", "last_name", "username")
    return {**{n: who[n] for n in names if n in who}, "type": "private"}


def command(text: str) -> Json:
    """Return the content of a message that is a command."""
    return {
        "text": text,
        "entities": [{"offset": 0, "length": len(text), "type": "bot_command"}],
    }


def keyboard(*buttons: tuple[str, str]) -> Json:
    """Return the markup of buttons, one below the other."""
    rows = [[{"text": text, "callback_data": data}] for text, data in buttons]
    return {"reply_markup": {"inline_keyboard": rows}}


LANGUAGES = keyboard(("English", "language:en"), ("Deutsch", "language:de"))
SHOP = keyboard(*((name.title(), f"add:{name}") for name in PRICES))


# Stories of one person.


def sign_up(world: World, who: Json, email: str, *answers: str) -> Story:
    """Go through all steps; further answers are mistyped before the right one."""
    chat = private(who)
    yield {"message": world.message(chat, who, **command("/start"))}
    world.message(chat, BOT, text="Welcome! What is your name?")
    yield {"message": world.message(chat, who, text=who["first_name"])}
    world.message(chat, BOT, text="And your e-mail address?")
    for answer in (*answers, email):
        yield {"message": world.message(chat, who, text=answer)}
        world.message(chat, BOT, text="…")
    asked = world.message(chat, BOT, text="Which language do you prefer?", **LANGUAGES)
    language = "de" if who["language_code"] == "de" else "en"
    yield world.press(who, asked, f"language:{language}")


def give_up(world: World, who: Json) -> Story:
    """Begin to sign up and never come back."""
    chat = private(who)
    yield {"message": world.message(chat, who, **command("/start"))}
    world.message(chat, BOT, text="Welcome! What is your name?")
    yield {"message": world.message(chat, who, text=who["first_name"])}


def order(world: World, who: Json, *items: str) -> Story:
    """Fill the cart by buttons, and pay."""
    chat = private(who)
    yield {"message": world.message(chat, who, **command("/shop"))}
    shop = world.message(chat, BOT, text="What may it be?", **SHOP)
    for item in items:
        yield world.press(who, shop, f"add:{item}")
    address = {
        "country_code": "DE",
        "state": "",
        "city": "Köln",
        "street_line1": "Sample Street 1",
        "street_line2": "",
        "post_code": "50667",
    }
    payload = f"order-{world.rng.randrange(10**6):06}"
    yield {
        "shipping_query": {
            "id": world.digits(),
            "from": who,
            "invoice_payload": payload,
            "shipping_address": address,
        }
    }
    total = sum(PRICES[item] for item in items)
    bill = {"currency": "EUR", "total_amount": total, "invoice_payload": payload}
    yield {"pre_checkout_query": {"id": world.digits(), "from": who, **bill}}
    charge = {
        "telegram_payment_charge_id": f"tg_{world.digits()}",
        "provider_payment_charge_id": f"ch_{world.digits()}",
    }
    yield {"message": world.message(chat, who, successful_payment={**bill, **charge})}


def shop(world: World, who: Json, email: str, *items: str) -> Story:
    """Sign up first, then order."""
    yield from sign_up(world, who, email)
    yield from order(world, who, *items)


def correct(world: World, who: Json) -> Story:
    """Send a message and change it afterwards; react to the answer."""
    chat = private(who)
    message = world.message(chat, who, text="Do you have glutten-free bread?")
    yield {"message": message}
    edit = {"text": "Do you have gluten-free bread?", "edit_date": world.now}
    yield {"edited_message": {**message, **edit}}
    answer = world.message(chat, BOT, text="On Thursdays.")
    yield {
        "message_reaction": {
            "chat": chat,
            "message_id": answer["message_id"],
            "user": who,
            "date": world.now,
            "old_reaction": [],
            "new_reaction": [{"type": "emoji", "emoji": "❤"}],
        }
    }


def search(world: World, who: Json, word: str) -> Story:
    """Type an inline query, choose a result, press the button below it."""
    for length in range(1, len(word) + 1, 2):
        yield {
            "inline_query": {
                "id": world.digits(),
                "from": who,
                "chat_type": "supergroup",
                "query": word[:length],
                "offset": "",
            }
        }
    inline_message_id = f"BAAAA{world.digits()}"
    yield {
        "chosen_inline_result": {
            "result_id": word,
            "from": who,
            "query": word,
            "inline_message_id": inline_message_id,
        }
    }
    yield {
        "callback_query": {
            "id": world.digits(),
            "from": who,
            "inline_message_id": inline_message_id,
            "chat_instance": world.digits(),
            "data": f"add:{word}",
        }
    }


def leave(world: World, who: Json) -> Story:
    """Block the bot, and come back."""
    blocked, back = ("member", "kicked"), ("kicked", "member")
    yield {"my_chat_member": membership(world, private(who), who, BOT, blocked)}
    yield {"my_chat_member": membership(world, private(who), who, BOT, back)}


def pay_by_star(world: World, who: Json) -> Story:
    """Buy a picture, subscribe, stop an answer that takes too long."""
    yield {"purchased_paid_media": {"from": who, "paid_media_payload": "recipe-book"}}
    yield {"subscription": {"user": who, "invoice_payload": "club", "state": "active"}}
    yield {"message": world.message(private(who), who, text="Tell me about rye")}
    stopped = {"chat": private(who), "draft_id": world.rng.getrandbits(31)}
    yield {"stopped_message_generation": stopped}


# Stories of a group, a channel, a business.


def membership(
    world: World, chat: Json, actor: Json, member: Json, change: tuple[str, str]
) -> Json:
    """Say that a member's status in a chat has changed."""
    old, new = (
        {"user": member, "status": status}
        | ({"until_date": 0} if status == "kicked" else {})
        for status in change
    )
    return {
        "chat": chat,
        "from": actor,
        "date": world.now,
        "old_chat_member": old,
        "new_chat_member": new,
    }


def talk(world: World, chat: Json, people: tuple[Json, ...], length: int) -> Story:
    """Chat in a group; now and then somebody replies or corrects a message."""
    for _ in range(length):
        who = world.rng.choice(people)
        message = world.message(chat, who, text=world.rng.choice(CHATTER))
        yield {"message": message}
        if world.rng.random() < 0.1:
            text = message["text"] + " 🙂"
            yield {"edited_message": {**message, "text": text, "edit_date": world.now}}
        if world.rng.random() < 0.15:
            other = world.rng.choice(people)
            reply = {"text": "True.", "reply_to_message": message}
            yield {"message": world.message(chat, other, **reply)}


def talk_in_topics(world: World, people: tuple[Json, ...], length: int) -> Story:
    """Open the topics of a forum, and talk in them."""
    for topic, name in TOPICS.items():
        created = {"forum_topic_created": {"name": name, "icon_color": 7322096}}
        where = {"message_thread_id": topic, "is_topic_message": True}
        yield {"message": world.message(FORUM, people[0], **where, **created)}
    for _ in range(length):
        where = {
            "message_thread_id": world.rng.choice(list(TOPICS)),
            "is_topic_message": True,
        }
        text = world.rng.choice(CHATTER)
        who = world.rng.choice(people)
        yield {"message": world.message(FORUM, who, **where, text=text)}
        if world.rng.random() < 0.2:
            asked = world.message(FORUM, BOT, **where, text="Useful?", **LANGUAGES)
            yield world.press(world.rng.choice(people), asked, "vote:up")


def moderate(world: World) -> Story:
    """Add the bot to a group; admins act, some anonymously; people come and go."""
    came, went = ("left", "member"), ("member", "left")
    yield {"my_chat_member": membership(world, GROUP, ADA, BOT, came)}
    for text in ("Please keep to bread.", "And be kind."):
        anonymous = {"sender_chat": GROUP, "text": text}
        yield {"message": world.message(GROUP, ANONYMOUS_ADMIN, **anonymous)}
    yield {
        "chat_join_request": {
            "chat": GROUP,
            "from": HANA,
            "user_chat_id": HANA["id"],
            "date": world.now,
            "bio": "Bread, mostly",
        }
    }
    yield {"chat_member": membership(world, GROUP, ADA, HANA, came)}
    joined = {"new_chat_members": [HANA]}
    yield {"message": world.message(GROUP, HANA, **joined)}
    yield {"chat_member": membership(world, GROUP, IVAN, IVAN, went)}
    yield {"message": world.message(GROUP, IVAN, left_chat_member=IVAN)}
    boost_id = f"{world.rng.getrandbits(128):032x}"
    source = {"source": "premium", "user": ELIF}
    yield {
        "chat_boost": {
            "chat": GROUP,
            "boost": {
                "boost_id": boost_id,
                "add_date": world.now,
                "expiration_date": world.now + 30 * 86400,
                "source": source,
            },
        }
    }
    yield {
        "removed_chat_boost": {
            "chat": GROUP,
            "boost_id": boost_id,
            "remove_date": world.now,
            "source": source,
        }
    }


def ask_a_poll(world: World, voters: tuple[Json, ...]) -> Story:
    """Ask a group what to bake; its admins vote anonymously, a poll is closed."""
    poll_id = world.digits()
    votes = [0, 0, 0]
    for voter in voters:
        choice = world.rng.randrange(3)
        votes[choice] += 1
        yield {
            "poll_answer": {"poll_id": poll_id, "user": voter, "option_ids": [choice]}
        }
    names = ("Rye", "Spelt", "Wheat")
    options = [
        {"text": name, "voter_count": count}
        for name, count in zip(names, votes, strict=True)
    ]
    yield {
        "poll": {
            "id": poll_id,
            "question": "What shall we bake on Friday?",
            "options": options,
            "total_voter_count": sum(votes),
            "is_closed": True,
            "is_anonymous": False,
            "type": "regular",
            "allows_multiple_answers": False,
        }
    }


def publish(world: World, posts: int) -> Story:
    """Post in a channel; each post is forwarded to its group, counted, some changed."""
    for number in range(1, posts + 1):
        text = f"Bread of the day, no. {number}"
        post = world.message(CHANNEL, None, sender_chat=CHANNEL, text=text)
        yield {"channel_post": post}
        forward = {
            "sender_chat": CHANNEL,
            "is_automatic_forward": True,
            "forward_origin": {
                "type": "channel",
                "chat": CHANNEL,
                "message_id": post["message_id"],
                "date": post["date"],
            },
            "text": text,
        }
        yield {"message": world.message(GROUP, TELEGRAM, **forward)}
        reaction = {"type": {"type": "emoji", "emoji": "🔥"}, "total_count": number}
        yield {
            "message_reaction_count": {
                "chat": CHANNEL,
                "message_id": post["message_id"],
                "date": world.now,
                "reactions": [reaction],
            }
        }
        if not number % 3:
            text = f"{text} (sold out)"
            yield {
                "edited_channel_post": {**post, "text": text, "edit_date": world.now}
            }


def serve(world: World, owner: Json, customers: tuple[Json, ...]) -> Story:
    """Let the bot answer the customers of a business account."""
    yield {
        "business_connection": {
            "id": CONNECTION,
            "user": owner,
            "user_chat_id": owner["id"],
            "date": world.now,
            "rights": {"can_reply": True},
            "is_enabled": True,
        }
    }
    in_business = {"business_connection_id": CONNECTION}
    for customer in customers:
        chat = private(customer)
        for text in ("Are you open on Sunday?", "And on Monday?"):
            message = world.message(chat, customer, **in_business, text=text)
            yield {"business_message": message}
        edit = {"text": "And on Mondays?", "edit_date": world.now}
        yield {"edited_business_message": {**message, **edit}}
        reply = world.message(chat, owner, **in_business, text="Closed, sorry!")
        yield {"business_message": reply}
    yield {
        "deleted_business_messages": {
            "business_connection_id": CONNECTION,
            "chat": private(customers[0]),
            "message_ids": [1, 2],
        }
    }


def visit(world: World, who: Json) -> Story:
    """Call the bot as a guest of a chat it is no member of; make a bot of one's own."""
    guest = {"guest_query_id": world.digits(), "text": "@corner_bakery_bot rye?"}
    yield {"guest_message": world.message(OLD_GROUP, who, **guest)}
    own = {**BOT, "id": 7203599042, "username": "my_bakery_bot"}
    yield {"managed_bot": {"user": who, "bot": own}}


def stories(world: World) -> list[Story]:
    """Return all that happens, each story from its beginning."""
    return [
        shop(world, ADA, "ada@example.com", "croissant", "croissant", "cake"),
        sign_up(world, BRUNO, "bruno@example.com", "bruno at example", "@example.com"),
        shop(world, CHIARA, "chiara@example.com", "baguette", "rye", "pretzel"),
        sign_up(world, ELIF, "elif@example.com", "elif"),
        sign_up(world, GUSTAV, "gustav@example.com"),
        give_up(world, HANA),
        order(world, DMITRI, "rye"),
        correct(world, FUMIKO),
        correct(world, IVAN),
        search(world, BRUNO, "pretzel"),
        search(world, ELIF, "croissant"),
        leave(world, IVAN),
        pay_by_star(world, ELIF),
        talk(world, GROUP, (ADA, BRUNO, CHIARA, ELIF, GUSTAV), 90),
        talk(world, OLD_GROUP, (CHIARA, DMITRI, FUMIKO), 40),
        talk_in_topics(world, (DMITRI, ADA, GUSTAV, HANA), 70),
        moderate(world),
        ask_a_poll(world, PEOPLE),
        publish(world, 12),
        serve(world, GUSTAV, (ADA, FUMIKO, IVAN)),
        visit(world, HANA),
        talk(world, GROUP, PEOPLE, 30),
    ]


def tell(seed: int = SEED) -> Iterator[Json]:
    """Yield all updates in the order of their ids."""
    world = World(seed)
    going_on = stories(world)
    update_id = FIRST_UPDATE_ID
    while going_on:
        world.pass_time()
        story = world.rng.choice(going_on)
        body = next(story, None)
        if body is None:
            going_on.remove(story)
        else:
            yield {"update_id": update_id, **body}
            update_id += 1


if __name__ == "__main__":
    for update in tell():
        print(json.dumps(update, ensure_ascii=False, separators=(",", ":")))
