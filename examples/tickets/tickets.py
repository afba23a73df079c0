"""Customers' tickets from seeded templates, each with the queue that it belongs to."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from examples.rows import fingerprint, share

SPLITS = {"train": 0.70, "traffic": 0.82, "calibration": 0.88, "golden": 1.0}
"""Upper end of each split's share of the hash range."""

QUEUES = {
    "billing": (
        "I was charged twice for {item}.",
        "The invoice for {item} shows the wrong amount.",
        "My card was declined when I paid for {item}.",
        "When do I get the refund of {money} for {item}?",
        "The discount of {money} is missing on my bill.",
    ),
    "delivery": (
        "The parcel with {item} has not arrived.",
        "Tracking says that {item} is still in {city}.",
        "The courier left {item} at the wrong door in {city}.",
        "Can you send {item} to {city} instead?",
        "My order of {item} is {days} days late.",
    ),
    "account": (
        "I cannot sign in since {days} days.",
        "Please change the address of my profile to {city}.",
        "How do I reset my password?",
        "Delete my account and all that you know of me.",
        "Somebody in {city} has signed in with my name.",
    ),
    "returns": (
        "I want to send {item} back.",
        "{item} came broken, and I want another one.",
        "The colour of {item} is wrong. How do I return it?",
        "How many days do I have to return {item}?",
        "The label for returning {item} does not print.",
    ),
}
ITEMS = (
    *("the lamp", "the kettle", "a pair of shoes", "the blue coat", "my phone", "two chairs"),
    *("the book", "the bicycle pump", "a winter hat", "the headphones", "the desk", "the mirror"),
)
CITIES = ("Oslo", "Lima", "Paris", "Rome", "Cairo", "Delhi", "Kyoto", "Quito", "Dakar", "Vienna")
OPENINGS = {
    "mail": ("Dear team,", "Hello,", "Good morning,", "To whom it may concern:"),
    "chat": ("hi", "hey there,", "quick question:", "so"),
}
CLOSINGS = {
    "mail": ("Thank you.", "Kind regards, {name}", "I am waiting for your answer.", "Best, {name}"),
    "chat": ("thanks", "pls help", "anyone there?", ""),
}
NAMES = ("Lina", "Omar", "Yuki", "Anna", "Ben", "Carla", "David", "Elif", "Farid", "Greta")


@dataclass(frozen=True)
class Ticket:
    """One prompt, the queue that is the right answer, and the channel that it came by."""

    prompt: str
    queue: str
    channel: str

    @property
    def split(self) -> str:
        """Return where the prompt's hash falls, the same on every run."""
        where = share(fingerprint(f"tickets split {self.prompt}"))
        return next(name for name, end in SPLITS.items() if where < end)


def tickets(split: str, seed: int) -> Iterator[Ticket]:
    """Yield distinct tickets of one split; queues with few sentences run out of them first."""
    rng, seen = random.Random(seed), set[str]()
    while True:
        ticket = _ticket(rng)
        if ticket.split == split and ticket.prompt not in seen:
            seen.add(ticket.prompt)
            yield ticket


def first(split: str, seed: int, count: int) -> list[Ticket]:
    """Return the first tickets of one split."""
    return list(islice(tickets(split, seed), count))


def _ticket(rng: random.Random) -> Ticket:
    queue, channel = rng.choice(sorted(QUEUES)), rng.choice(sorted(OPENINGS))
    said = rng.choice(QUEUES[queue])
    parts = (rng.choice(OPENINGS[channel]), said, rng.choice(CLOSINGS[channel]))
    text = " ".join(part for part in parts if part).format(
        item=rng.choice(ITEMS),
        city=rng.choice(CITIES),
        days=rng.randint(2, 20),
        money=f"{rng.randint(3, 90)} euros",
        name=rng.choice(NAMES),
    )
    return Ticket(f"Ticket: {text}\nQueue:", queue, channel)
