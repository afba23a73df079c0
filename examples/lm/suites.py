"""Labelled task examples from seeded templates: what the model is trained and asked to do.

One template gives examples without end. Which split an example belongs to follows from the hash of
its prompt, so that no split ever holds a prompt of another.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from examples.minilm.safety_texts import GOLDEN, TRAIN
from examples.rows import fingerprint, share

SPLITS = {"train": 0.70, "traffic": 0.82, "calibration": 0.88, "golden": 1.0}
"""Upper end of each split's share of the hash range."""

NAMES = (
    "Lina", "Omar", "Yuki", "Anna", "Ben", "Carla", "David", "Elif", "Farid", "Greta", "Hugo",
    "Ines", "Jonas", "Kofi", "Lara", "Mateo", "Nadia", "Otto", "Paula", "Quinn", "Rosa", "Sami",
    "Tara", "Umar", "Vera", "Walt", "Xenia", "Yara",
)  # fmt: skip
CITIES = (
    "Oslo", "Lima", "Paris", "Rome", "Cairo", "Delhi", "Kyoto", "Quito", "Dakar", "Vienna", "Porto",
    "Hanoi", "Seoul", "Turin", "Lyon", "Berlin", "Madrid", "Lisbon", "Prague", "Athens",
)  # fmt: skip
ANIMALS = ("cats", "dogs", "birds", "horses", "goats", "fish")


@dataclass(frozen=True)
class Example:
    """One prompt with its right answer.

    `checks` are expressions that hold once a code answer has run.
    """

    prompt: str
    answer: str
    suite: str
    language: str = "en"
    checks: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """Return where the prompt's hash falls."""
        return split_of(self.prompt)


def split_of(text: str) -> str:
    """Return the split of a text, the same on every run and in any order.

    It is independent of the MiniLM example's split.
    """
    where = share(fingerprint(f"polyglot split {text}"))
    return next(name for name, end in SPLITS.items() if where < end)


@dataclass(frozen=True)
class Phrases:
    """Question answering in one language: facts, and the question about each."""

    labels: tuple[str, str, str]  # context, question, answer
    lives: tuple[str, str]
    works: tuple[str, str]
    colour: tuple[str, str]
    jobs: tuple[str, ...]
    colours: tuple[str, ...]


PHRASES = {
    "en": Phrases(
        ("Context", "Question", "Answer"),
        ("{n} lives in {v}.", "Where does {n} live?"),
        ("{n} works as a {v}.", "What is the job of {n}?"),
        ("{n} has a {v} bicycle.", "Which colour is the bicycle of {n}?"),
        ("baker", "doctor", "farmer", "painter", "teacher", "pilot", "lawyer", "singer"),
        ("red", "blue", "green", "white", "black", "yellow"),
    ),
    "de": Phrases(
        ("Kontext", "Frage", "Antwort"),
        ("{n} wohnt in {v}.", "Wo wohnt {n}?"),
        ("{n} arbeitet als {v}.", "Was ist der Beruf von {n}?"),
        ("Das Fahrrad von {n} ist {v}.", "Welche Farbe hat das Fahrrad von {n}?"),
        ("Koch", "Arzt", "Bauer", "Maler", "Lehrer", "Pilot", "Anwalt"),
        ("rot", "blau", "weiß", "schwarz", "gelb"),
    ),
    "fr": Phrases(
        ("Contexte", "Question", "Réponse"),
        ("{n} habite à {v}.", "Où habite {n} ?"),
        ("{n} travaille comme {v}.", "Quel est le métier de {n} ?"),
        ("Le vélo de {n} est {v}.", "De quelle couleur est le vélo de {n} ?"),
        ("boulanger", "peintre", "avocat", "pilote", "fermier", "médecin"),
        ("rouge", "bleu", "vert", "blanc", "noir", "jaune"),
    ),
    "es": Phrases(
        ("Contexto", "Pregunta", "Respuesta"),
        ("{n} vive en {v}.", "¿Dónde vive {n}?"),
        ("{n} trabaja como {v}.", "¿Cuál es el trabajo de {n}?"),
        ("La bicicleta de {n} es {v}.", "¿De qué color es la bicicleta de {n}?"),
        ("pintor", "piloto", "médico", "abogado", "cantante", "profesor"),
        ("roja", "azul", "verde", "blanca", "negra"),
    ),
}


def questions(rng: random.Random) -> Example:
    """Ask for one of three or four facts: extractive question answering."""
    language = rng.choice(("en", "en", "de", "fr", "es"))
    words = PHRASES[language]
    facts = []
    for name in rng.sample(NAMES, rng.choice((3, 4))):
        (fact, question), values = rng.choice(
            ((words.lives, CITIES), (words.works, words.jobs), (words.colour, words.colours))
        )
        value = rng.choice(values)
        facts.append((fact.format(n=name, v=value), question.format(n=name), value))
    _, question, value = rng.choice(facts)
    context, ask, answer = words.labels
    prompt = f"{context}: {' '.join(fact for fact, _, _ in facts)}\n{ask}: {question}\n{answer}:"
    return Example(prompt, f" {value}", "qa", language)


def dialogues(rng: random.Random) -> Example:
    """Write a dialogue whose next reply depends on an earlier turn, often not on the last one."""
    name, city, count, animal = (
        rng.choice(NAMES),
        rng.choice(CITIES),
        rng.randint(2, 9),
        rng.choice(ANIMALS),
    )
    said = [
        (f"My name is {name}.", f"Hello, {name}.", "What is my name?", f"Your name is {name}."),
        (f"I live in {city}.", f"{city} is nice.", "Where do I live?", f"You live in {city}."),
        (
            f"I have {count} {animal}.",
            "I see.",
            f"How many {animal} do I have?",
            f"You have {count} {animal}.",
        ),
    ]
    turns = rng.sample(said, rng.choice((2, 3)))
    lines = [f"User: {said}\nBot: {reply}" for said, reply, _, _ in turns]
    asked = rng.sample(turns, rng.choice((1, 2)))
    lines += [f"User: {question}\nBot: {reply}" for _, _, question, reply in asked[:-1]]
    _, _, question, reply = asked[-1]
    return Example("\n".join([*lines, f"User: {question}\nBot:"]), f" {reply}", "dialogue")


def _arithmetic(rng: random.Random) -> tuple[str, str, str, str, Callable[[int], object]]:
    number = rng.randint(2, 99)
    word, verb, operator, apply = rng.choice(
        (
            ("add", f"Add {number} to", "+", lambda x: x + number),
            ("subtract", f"Subtract {number} from", "-", lambda x: x - number),
            ("multiply", f"Multiply by {number}", "*", lambda x: x * number),
            ("modulo", f"Divide by {number} and keep the rest of", "%", lambda x: x % number),
        )
    )
    variable = rng.choice(("x", "n", "value", "number"))
    return (
        f"{word}_{number}",
        f"{verb} {variable}",
        variable,
        f"{variable} {operator} {number}",
        apply,
    )


def _comparison(rng: random.Random) -> tuple[str, str, str, str, Callable[[int], object]]:
    number = rng.randint(2, 99)
    word, text, operator, apply = rng.choice(
        (
            ("above", f"is above {number}", ">", lambda x: x > number),
            ("below", f"is below {number}", "<", lambda x: x < number),
            ("equals", f"equals {number}", "==", lambda x: x == number),
        )
    )
    variable = rng.choice(("x", "n", "value", "number"))
    return (
        f"{word}_{number}",
        f"Tell whether {variable} {text}",
        variable,
        f"{variable} {operator} {number}",
        apply,
    )


def _ranges(rng: random.Random) -> tuple[str, str, str, str, Callable[[int], object]]:
    number = rng.randint(2, 20)
    word, text, expression, apply = rng.choice(
        (
            ("multiples", f"List the first n multiples of {number}", "[{k} * i for i in range(n)]",
             lambda n: [number * i for i in range(n)]),
            ("total", f"Sum the first n multiples of {number}", "sum({k} * i for i in range(n))",
             lambda n: sum(number * i for i in range(n))),
            ("repeat", f"List {number} copies of n", "[n] * {k}", lambda n: [n] * number),
        )
    )  # fmt: skip
    return f"{word}_{number}", text, "n", expression.format(k=number), apply


def functions(rng: random.Random) -> Example:
    """Write a Python function from a comment and its first line; three examples of it must hold."""
    name, text, variable, expression, apply = rng.choice((_arithmetic, _comparison, _ranges))(rng)
    checks = tuple(f"{name}({argument}) == {apply(argument)!r}" for argument in (3, 10, 57))
    prompt = f"# {text}.\ndef {name}({variable}):\n"
    return Example(prompt, f"    return {expression}\n", "coding", checks=checks)


_REQUESTS = tuple(sorted({(item.text, item.label, item.language) for item in (*TRAIN, *GOLDEN)}))


def guardrails(rng: random.Random) -> Example:
    """Write a request that is to be allowed or blocked: the MiniLM example's authored texts."""
    text, label, language = rng.choice(_REQUESTS)
    return Example(f"Request: {text}\nVerdict:", f" {label}", "safety", language)


def summary(text: str) -> Example | None:
    """Summarise a text by its first sentence.

    None where it has no short first one or nothing after it.
    """
    first, stop, rest = text.partition(". ")
    if not stop or "\n" in text or not 20 <= len(first) <= 110 or len(rest) < 60:
        return None
    body = " ".join(f"{first}. {rest}".split()[:45])
    return Example(f"Text: {body}\nSummary:", f" {first}.", "summary")


TEMPLATES: Sequence[Callable[[random.Random], Example]] = (
    questions,
    dialogues,
    functions,
    guardrails,
)


def examples(
    split: str, seed: int, templates: Sequence[Callable[[random.Random], Example]] = TEMPLATES
) -> Iterator[Example]:
    """Yield examples of one split without end, templates in turn; one seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        for template in templates:
            example = template(rng)
            while example.split != split:
                example = template(rng)
            yield example
