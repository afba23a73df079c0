"""`python -m benchmarks.personal_data.build_samples`: writes `samples.jsonl` beside this file.

300 synthetic sentences of 12 countries, 25 each, in the country's language. Each holds one number
or name of a person or a secret: phone numbers, bank accounts, cards, national and tax numbers,
e-mail addresses, keys. All are made up: numbers are drawn with a fixed seed, and their check digits
computed here by the public definitions, not by the libraries that are measured on them.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path

SAMPLES = Path(__file__).with_name("samples.jsonl")
Draw = random.Random
SENTENCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "en": {
        "phone": ("Please call me back at {} after five.", "My number is {}, ask for the flat."),
        "id": ("My number on file is {}, please update it.", "{label}: {}", "The {label} is {}."),
        "bank": ("Refund it to {} please.", "The account is {}, in my name."),
        "card": ("I paid with {} last week.", "Card {} was charged twice."),
        "email": ("Write to {} instead.", "My address is {}, not the old one."),
        "key": ("It fails with the key {} since today.", "export TOKEN={}"),
    },
    "de": {
        "phone": ("Bitte rufen Sie mich unter {} an.", "Meine Telefonnummer ist {}."),
        "id": ("{label}: {}", "Meine {label} lautet {}, bitte korrigieren."),
        "bank": ("Bitte auf {} überweisen.", "Die Kontoverbindung ist {}."),
        "card": ("Ich habe mit {} bezahlt.", "Die Karte {} wurde doppelt belastet."),
        "email": ("Schreiben Sie an {}.", "Meine Adresse ist {}."),
        "key": ("Mit dem Schlüssel {} kommt ein Fehler.", "export TOKEN={}"),
    },
    "fr": {
        "phone": ("Vous pouvez me joindre au {}.", "Mon téléphone : {}"),
        "id": ("{label} : {}", "Mon {label} est le {}, merci de corriger."),
        "bank": ("Merci de rembourser sur {}.", "Mon compte est {}."),
        "card": ("J'ai payé avec {} hier.", "La carte {} a été débitée deux fois."),
        "email": ("Écrivez-moi à {}.", "Mon adresse est {}."),
        "key": ("La clé {} ne marche plus.", "export TOKEN={}"),
    },
    "es": {
        "phone": ("Llámame al {} por la tarde.", "Mi teléfono es {}."),
        "id": ("{label}: {}", "Mi {label} es {}, por favor corríjanlo."),
        "bank": ("Devuélvanlo a {}.", "Mi cuenta es {}."),
        "card": ("Pagué con {} ayer.", "La tarjeta {} se cobró dos veces."),
        "email": ("Escríbame a {}.", "Mi correo es {}."),
        "key": ("La clave {} no funciona.", "export TOKEN={}"),
    },
    "it": {
        "phone": ("Mi chiami al {} dopo le cinque.", "Il mio telefono è {}."),
        "id": ("{label}: {}", "Il mio {label} è {}, correggetelo."),
        "bank": ("Rimborsate su {}.", "Il conto è {}."),
        "card": ("Ho pagato con {} ieri.", "La carta {} è stata addebitata due volte."),
        "email": ("Scrivetemi a {}.", "Il mio indirizzo è {}."),
        "key": ("La chiave {} non va.", "export TOKEN={}"),
    },
    "nl": {
        "phone": ("Bel me op {} na vijf uur.", "Mijn telefoonnummer is {}."),
        "id": ("{label}: {}", "Mijn {label} is {}, graag aanpassen."),
        "bank": ("Graag terugstorten op {}.", "De rekening is {}."),
        "card": ("Ik heb met {} betaald.", "Kaart {} is dubbel belast."),
        "email": ("Schrijf naar {}.", "Mijn adres is {}."),
        "key": ("De sleutel {} werkt niet.", "export TOKEN={}"),
    },
    "pl": {
        "phone": ("Proszę dzwonić: telefon {}.", "Mój numer telefonu to {}."),
        "id": ("{label}: {}", "Mój {label} to {}, proszę poprawić."),
        "bank": ("Proszę o zwrot na {}.", "Konto to {}."),
        "card": ("Zapłaciłem kartą {}.", "Karta {} została obciążona dwa razy."),
        "email": ("Proszę pisać na {}.", "Mój adres to {}."),
        "key": ("Klucz {} nie działa.", "export TOKEN={}"),
    },
    "sv": {
        "phone": ("Ring mig på {} efter fem.", "Mitt mobilnummer är {}."),
        "id": ("{label}: {}", "Mitt {label} är {}, rätta det tack."),
        "bank": ("Betala tillbaka till {}.", "Kontot är {}."),
        "card": ("Jag betalade med {}.", "Kortet {} debiterades två gånger."),
        "email": ("Skriv till {}.", "Min adress är {}."),
        "key": ("Nyckeln {} fungerar inte.", "export TOKEN={}"),
    },
    "pt": {
        "phone": ("Pode me ligar no {} à tarde.", "Meu celular é {}."),
        "id": ("{label}: {}", "Meu {label} é {}, favor corrigir."),
        "bank": ("Reembolse em {}.", "A conta é {}."),
        "card": ("Paguei com {} ontem.", "O cartão {} foi cobrado duas vezes."),
        "email": ("Escreva para {}.", "Meu endereço é {}."),
        "key": ("A chave {} não funciona.", "export TOKEN={}"),
    },
    "ja": {
        "phone": ("電話番号は {} です。", "午後に {} へ連絡してください。"),
        "id": ("{label}は {} です。", "{label}: {}"),
        "bank": ("返金先は {} です。", "口座は {} です。"),
        "card": ("カード {} で払いました。", "カード {} が二重に請求されました。"),
        "email": ("{} に送ってください。", "メールは {} です。"),
        "key": ("キー {} が使えません。", "export TOKEN={}"),
    },
}


def digits(draw: Draw, count: int) -> str:
    """Return so many random digits, the first of which is not 0."""
    return str(draw.randint(1, 9)) + "".join(str(draw.randint(0, 9)) for _ in range(count - 1))


def letters(draw: Draw, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """Return so many random letters, a digit among them."""
    return "7" + "".join(draw.choice(alphabet) for _ in range(count - 1))


def weighted(number: str, weights: tuple[int, ...]) -> int:
    """Return the sum of digits times weights."""
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=True))


def luhn(number: str) -> str:
    """Return a number with its check digit by Luhn (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return f"{number}{-total % 10}"


def iban(country: str, account: str) -> str:
    """Return an account number with its check digits (ISO 13616, mod 97)."""
    plain = "".join(str(int(letter, 36)) for letter in f"{account}{country}00")
    return f"{country}{98 - int(plain) % 97:02d}{account}"


def grouped(text: str, *sizes: int, by: str = " ") -> str:
    """Return a text in groups of these sizes, the last size again and again."""
    parts, rest = [], text
    for size in (*sizes, *[sizes[-1]] * len(text)):
        if rest:
            parts.append(rest[:size])
            rest = rest[size:]
    return by.join(parts)


def birth(draw: Draw) -> tuple[str, str, str]:
    """Return two digits each of year, month and day."""
    return f"{draw.randint(50, 99)}", f"{draw.randint(1, 12):02d}", f"{draw.randint(1, 28):02d}"


def ssn(draw: Draw) -> str:
    """US social security number: area, group, serial."""
    return f"{draw.randint(100, 665)}-{draw.randint(10, 99)}-{draw.randint(1000, 9999)}"


def nino(draw: Draw) -> str:
    """UK national insurance number."""
    first, second = draw.choice("ABCEHJLMPRSTW"), draw.choice("ABCEHJKLMPRSTWXY")
    return f"{first}{second} {grouped(digits(draw, 6), 2)} {draw.choice('ABCD')}"


def nhs(draw: Draw) -> str:
    """UK NHS number: weights 10 to 2, mod 11."""
    while True:
        number = digits(draw, 9)
        check = -weighted(number, tuple(range(10, 1, -1))) % 11
        if check < 10:
            return grouped(f"{number}{check}", 3, 3, 4)


def steuer_id(draw: Draw) -> str:
    """German tax number: one digit twice, ISO 7064 mod 11, 10."""
    pool = draw.sample("0123456789", 9)
    drawn = [*pool, draw.choice(pool)]
    draw.shuffle(drawn)
    if drawn[0] == "0":
        place = next(n for n, digit in enumerate(drawn) if digit != "0")
        drawn[0], drawn[place] = drawn[place], drawn[0]
    product = 10
    for digit in drawn:
        product = ((product + int(digit)) % 10 or 10) * 2 % 11
    return grouped("".join(drawn) + str((11 - product) % 10), 2, 3)


def nir(draw: Draw) -> str:
    """French social security number: 97 minus the number mod 97."""
    year, month, _ = birth(draw)
    place = f"{draw.randint(1, 95):02d}{draw.randint(1, 500):03d}{draw.randint(1, 999):03d}"
    number = f"{draw.choice('12')}{year}{month}{place}"
    return grouped(f"{number}{97 - int(number) % 97:02d}", 1, 2, 2, 2, 3, 3, 2)


def dni(draw: Draw) -> str:
    """Spanish identity number: the letter is the number mod 23."""
    number = digits(draw, 8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(number) % 23]}"


def codice_fiscale(draw: Draw) -> str:
    """Italian fiscal code: the last letter from odd and even places."""
    consonants = "BCDFGLMNPRSTVZ"
    year, _, day = birth(draw)
    stem = "".join(draw.choice(consonants) for _ in range(6))
    stem += f"{year}{draw.choice('ABCDEHLMPRST')}{day}{draw.choice('ABCDEFGHIL')}{digits(draw, 3)}"
    odd = (
        1,
        0,
        5,
        7,
        9,
        13,
        15,
        17,
        19,
        21,
        2,
        4,
        18,
        20,
        11,
        3,
        6,
        8,
        12,
        14,
        16,
        10,
        22,
        25,
        24,
        23,
    )
    values = [int(letter, 36) - (0 if letter.isdigit() else 10) for letter in stem]
    total = sum(odd[value] if place % 2 == 0 else value for place, value in enumerate(values))
    return f"{stem}{string.ascii_uppercase[total % 26]}"


def bsn(draw: Draw) -> str:
    """Dutch citizen's number: weights 9 to 2 and -1, mod 11."""
    while True:
        number = digits(draw, 8)
        check = weighted(number, tuple(range(9, 1, -1))) % 11
        if check < 10:
            return f"{number}{check}"


def pesel(draw: Draw) -> str:
    """Polish number: birth, serial, weights 1, 3, 7, 9."""
    number = "".join(birth(draw)) + digits(draw, 4)
    return f"{number}{-weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"


def personnummer(draw: Draw) -> str:
    """Swedish number: birth, serial, Luhn."""
    number = luhn("".join(birth(draw)) + digits(draw, 3))
    return f"{number[:6]}-{number[6:]}"


def pan(draw: Draw) -> str:
    """Indian tax number."""
    upper = string.ascii_uppercase
    first = "".join(draw.choice(upper) for _ in range(3))
    return f"{first}P{draw.choice(upper)}{digits(draw, 4)}{draw.choice(upper)}"


def aadhaar(draw: Draw) -> str:
    """Indian identity number: Verhoeff's check digit (dihedral group D5)."""
    multiply = lambda a, b: (  # noqa: E731
        (a + b) % 5
        if a < 5 and b < 5
        else 5 + (a + b - 5) % 5
        if a < 5
        else 5 + (a - b) % 5
        if b < 5
        else (a - b) % 5
    )
    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    number, check = str(draw.randint(2, 9)) + digits(draw, 10), 0
    for place, digit in enumerate(reversed(number), 1):
        value = int(digit)
        for _ in range(place % 8):
            value = permutation[value]
        check = multiply(check, value)
    inverse = next(d for d in range(10) if multiply(check, d) == 0)
    return grouped(f"{number}{inverse}", 4)


def cpf(draw: Draw) -> str:
    """Brazilian number: two check digits, mod 11."""
    number = digits(draw, 9)
    for start in (10, 11):
        check = weighted(number, tuple(range(start, 1, -1))) * 10 % 11 % 10
        number += str(check)
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def my_number(draw: Draw) -> str:
    """Japanese individual number: weights 6 to 2 and 7 to 2, mod 11."""
    number = digits(draw, 11)
    rest = weighted(number, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return f"{number}{0 if rest <= 1 else 11 - rest}"


def visa(draw: Draw) -> str:
    """Return a number of 16 digits with Luhn's check digit, in fours."""
    return grouped(luhn("4" + digits(draw, 14)), 4)


KEYS: tuple[Callable[[Draw], str], ...] = (
    lambda draw: f"ghp_{letters(draw, 36)}",
    lambda draw: f"AKIA{letters(draw, 16, string.ascii_uppercase + string.digits)}",
    lambda draw: f"xoxb-{digits(draw, 12)}-{digits(draw, 12)}-{letters(draw, 24)}",
    lambda draw: f"SG.{letters(draw, 22)}.{letters(draw, 43)}",
    lambda draw: f"glpat-{letters(draw, 20)}",
    lambda draw: f"{digits(draw, 9)}:AA{letters(draw, 33)}",
    lambda draw: f"SK{letters(draw, 32, string.hexdigits.lower()[:16])}",
    lambda draw: f"sk_live_{letters(draw, 24)}",
    lambda draw: f"{letters(draw, 32, string.hexdigits.lower()[:16])}-us12",
)


class Country:
    """What is drawn for one country."""

    def __init__(
        self,
        code: str,
        language: str,
        phones: tuple[str, ...],
        ids: tuple[tuple[str, Callable[[Draw], str]], ...],
        bank: Callable[[Draw], str],
    ) -> None:
        """Take patterns of phones (# is a digit), national numbers with labels, and accounts."""
        self.code, self.language, self.phones = code, language, phones
        self.ids, self.bank = ids, bank


COUNTRIES = (
    Country("US", "en", ("(212) 555-0###", "+1 415 555 2###", "646-555-0###", "+1-305-555-2###", "312.555.4###"), (("SSN", ssn),), visa),
    Country("GB", "en", ("020 7946 0###", "+44 20 7946 0###", "07700 900###", "+44 7911 123###", "0161 496 0###"), (("NI number", nino), ("NHS number", nhs)), lambda d: grouped(iban("GB", "NWBK" + digits(d, 14)), 4)),
    Country("DE", "de", ("030 901820##", "+49 30 901820##", "0151 234567##", "+49 171 39200##", "089/1234 56##"), (("Steuer-ID", steuer_id),), lambda d: grouped(iban("DE", digits(d, 18)), 4)),
    Country("FR", "fr", ("01 42 68 53 ##", "+33 1 42 68 53 ##", "06 12 34 56 ##", "+33612345###", "04.91.13.89.##"), (("numéro de sécurité sociale", nir),), lambda d: iban("FR", digits(d, 20) + "A" + digits(d, 2))),
    Country("ES", "es", ("912 345 6##", "+34 912 345 6##", "612 34 56 ##", "+34 612 345 6##", "93 412 34 ##"), (("DNI", dni),), lambda d: grouped(iban("ES", digits(d, 20)), 4)),
    Country("IT", "it", ("06 6982 34##", "+39 06 698 234##", "347 123 45##", "+39 347 12345##", "02 8646 34##"), (("codice fiscale", codice_fiscale),), lambda d: iban("IT", "X" + digits(d, 22))),
    Country("NL", "nl", ("020 624 11##", "+31 20 624 11##", "06 1234 56##", "+31 6 1234 56##", "010-4123 4##"), (("BSN", bsn),), lambda d: grouped(iban("NL", "ABNA" + digits(d, 10)), 4)),
    Country("PL", "pl", ("22 621 02 ##", "+48 22 621 02 ##", "512 345 6##", "+48 512 345 6##", "12 422 04 ##"), (("PESEL", pesel),), lambda d: grouped(iban("PL", digits(d, 24)), 4)),
    Country("SE", "sv", ("08-123 456 ##", "+46 8 123 456 ##", "070-123 45 ##", "+46 70 123 45 ##", "031-123 45 ##"), (("personnummer", personnummer),), lambda d: grouped(iban("SE", digits(d, 20)), 4)),
    Country("IN", "en", ("+91 98765 43###", "098765 43###", "98765432##", "+91-22-2345-67##", "022 2345 67##"), (("PAN", pan), ("Aadhaar", aadhaar)), visa),
    Country("BR", "pt", ("(11) 3456-78##", "+55 11 3456-78##", "(11) 91234-56##", "+55 21 98765-43##", "(31) 3222-45##"), (("CPF", cpf),), visa),
    Country("JP", "ja", ("03-1234-56##", "+81 3-1234-56##", "090-1234-56##", "+81 90-1234-56##", "06-6123-45##"), (("マイナンバー", my_number),), visa),
)  # fmt: skip
NAMES = ("jane.roe", "m.mustermann", "j_dupont", "ana.garcia", "k.tanaka+shop", "o'neil", "p-nowak")
DOMAINS = ("example.com", "mail.example.org", "firma.example.de", "exemplo.com.br", "example.co.jp")


def samples() -> list[dict[str, str]]:
    """Return all samples, the same each time."""
    draw, rows = random.Random(20261129), []
    for country in COUNTRIES:
        sentences = SENTENCES[country.language]
        kinds = (
            ["phone"] * 7 + ["id"] * 7 + ["bank"] * 3 + ["card"] * 2 + ["email"] * 3 + ["key"] * 3
        )
        for place, kind in enumerate(kinds):
            label, secret = _secret(country, kind, place, draw)
            sentence = sentences[kind][place % len(sentences[kind])]
            text = sentence.replace("{label}", label).format(secret)
            rows.append({"country": country.code, "kind": kind, "secret": secret, "text": text})
    return rows


def _secret(country: Country, kind: str, place: int, draw: Draw) -> tuple[str, str]:
    if kind == "phone":
        pattern = country.phones[place % len(country.phones)]
        return "", "".join(
            str(draw.randint(0, 9)) if letter == "#" else letter for letter in pattern
        )
    if kind == "id":
        label, drawn = country.ids[place % len(country.ids)]
        return label, drawn(draw)
    if kind == "bank":
        return "", country.bank(draw)
    if kind == "card":
        return "", visa(draw)
    if kind == "email":
        return "", f"{draw.choice(NAMES)}@{draw.choice(DOMAINS)}"
    return "", draw.choice(KEYS)(draw)


if __name__ == "__main__":
    SAMPLES.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in samples()), encoding="utf-8"
    )
