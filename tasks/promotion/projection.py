"""The ledger projected onto the registry's aliases and tags, and compared with them (ADR 34)."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from infra.canonical import Json
from infra.errors import NotFound, RequantError, Tampered, Unavailable
from infra.registry.registry import Projected, Registry
from infra.settings import settings
from tasks.promotion import journal
from tasks.promotion.ledger import FOUR_EYES, LedgerEntry, aliases, champion, labels
from tasks.promotion.reconcile import Reconciliation, Verification, reconcile
from tasks.promotion.registered import marks
from tasks.promotion.registered.marks import Mark
from tasks.promotion.verification import verification
from tasks.specs.registration import current_spec
from tasks.step import CONSOLE

NOTHING = Projected({}, None, "")


def compare(model: str, entries: Sequence[LedgerEntry]) -> Reconciliation:
    """Compare the alias `champion`, as the registry shows it now, with the ledger's history."""
    # In this order: what is noted of projections never claims more than the alias has shown.
    late, noted = marks.under_way(model), marks.mark(model)
    projected = anchored(model)
    shown = None if projected is None else projected.aliases.get("champion")
    wanted = aliases(entries)["champion"]
    if shown == wanted:
        return reconcile(entries, shown, {}, noted.number)
    lost = _lost(model, entries, projected, noted)
    checked = {} if shown is None or lost else {shown: _followed(model, shown)}
    return reconcile(entries, shown, checked, noted.number, lost=lost, late=late)


def _followed(model: str, version: str) -> Verification:
    """Return whether an alias that was moved is followed: never around the eyes of a second one."""
    with suppress(NotFound):  # a model that was never registered has no policy
        if current_spec(model).approval == FOUR_EYES:
            return Verification(False, "the spec wants four eyes, and the registry names nobody")
    return verification(model, version)


def _lost(
    model: str, entries: Sequence[LedgerEntry], projected: Projected | None, noted: Mark
) -> str:
    """Return in which way the registry is older than what was projected; empty where it is not."""
    reigning = champion(entries)
    if reigning is None or noted.number < reigning.number:
        return ""
    if projected is None:
        return "The registry does not know the model"
    if noted.in_registry and (projected.number or 0) < noted.number:
        return (
            f"The registry shows entry {projected.number or 0} of the ledger, and showed entry "
            f"{noted.number} before: it was restored from an older state"
        )
    if reigning.version is not None and not _is_registered(model, reigning.version):
        return f"Version {reigning.version}, the champion, was deleted in the registry"
    return ""


def _is_registered(model: str, version: str) -> bool:
    try:
        settings().registry().version(model, version)
    except NotFound:
        return False
    return True


def anchored(model: str) -> Projected | None:
    """Return what the registry shows, once the ledger is no shorter and no other than it was then.

    Raises `Tampered` where entries of the ledger were lost or rewritten since.
    """
    projected = settings().registry().projected(model)
    if projected is None or projected.number is None:
        return projected
    entries = journal.read(model)  # read after the registry: it can only have grown
    number = projected.number
    if number > len(entries):
        raise Tampered(
            f"The ledger of {model} ends at entry {len(entries)}, and the registry has shown entry "
            f"{number}: restore the store's ledger; until then nothing is promoted or moved."
        )
    if number and projected.digest and entries[number - 1].digest != projected.digest:
        raise Tampered(
            f"Entry {number} of the ledger of {model} is another one than the registry has shown "
            f"({projected.digest[:12]}): restore the store's ledger."
        )
    return projected


def record_comparison(model: str) -> Reconciliation:
    """Compare the alias with the ledger and append what that asks for; return the comparison."""
    comparisons: list[Reconciliation] = []  # of the attempt that won the race, the last

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        comparisons.append(compare(model, entries))
        return comparisons[-1].record

    journal.commit(model, decide)
    return comparisons[-1]


def project(model: str) -> None:
    """Make the registry's aliases show what the ledger says, read them back, and note that they do.

    Raises `Tampered` as `anchored`, `Unavailable`.
    """
    announcement = None
    for _ in range(journal.RACES):
        entries = journal.read(model)
        wanted = aliases(entries)
        if _shows(model, entries, wanted):
            break
        announcement = marks.announce(model, wanted["champion"], announcement)
        # Otherwise whoever committed meanwhile could not know what is set here.
        if len(journal.read(model)) != len(entries):
            continue
        reached = _show_aliases(model, wanted)
        settings().registry().note_projected(model, len(entries), entries[-1].digest)
        if len(journal.read(model)) == len(entries) and _is_shown(model, reached):
            marks.note_mark(model, len(entries))
            break
    else:
        raise Unavailable(
            f"the aliases of {model} lost {journal.RACES} races in a row: "
            f"run `requant reconcile {model}`"
        )
    if announcement is not None:
        marks.withdraw(announcement)


def _shows(model: str, entries: Sequence[LedgerEntry], wanted: Mapping[str, str | None]) -> bool:
    """Return whether nothing is left to do: the aliases, and what is noted of them, are right."""
    noted, projected = marks.mark(model), anchored(model)
    reigning = champion(entries)
    if projected is None:
        return not any(wanted.values())
    least = reigning.number if reigning else 0
    return (
        _agree(projected.aliases, wanted)
        and (noted.in_registry or not entries)
        and least <= noted.number <= (projected.number or 0)
    )


def _is_shown(model: str, wanted: Mapping[str, str | None]) -> bool:
    return _agree(settings().registry().aliases(model), wanted)


def _agree(present: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    return all(present.get(alias) == version for alias, version in wanted.items())


def label(model: str) -> None:
    """Tag each version with what the ledger last said about it, and where the console shows it.

    Only what differs is written.
    """
    registry, wanted = settings().registry(), labels(journal.read(model))
    for version in registry.versions(model):
        page = settings().console_page("models", model, "versions", version.version)
        tags = {**wanted.get(version.version, {}), **({CONSOLE: page} if page else {})}
        registry.set_tags(
            model,
            version.version,
            {name: value for name, value in tags.items() if version.tags.get(name) != value},
        )


def show(model: str) -> None:
    """Bring the registry in step: aliases, by which others load, and tags, which are for people."""
    project(model)
    label_or_warn(model)


def label_or_warn(model: str) -> None:
    """Tag the versions; a failure is logged, and the next reconciliation sets the tags.

    The ledger holds already.
    """
    try:
        label(model)
    except RequantError as exc:
        logging.getLogger(__name__).warning(
            "the next reconciliation tags the versions of %s: %s", model, exc
        )


def _show_aliases(model: str, wanted: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Set the aliases, and return what they were set to.

    One beside `champion` whose version is gone is removed: it stops nothing, and the reconciliation
    that registers the version again sets it.
    """
    registry, reached = settings().registry(), dict(wanted)
    present = registry.aliases(model)
    for alias, version in wanted.items():
        if present.get(alias) == version:
            continue
        try:
            _set_alias(registry, model, alias, version)
        except NotFound:
            if alias == "champion":
                raise
            _set_alias(registry, model, alias, None)
            reached[alias] = None
    return reached


def _set_alias(registry: Registry, model: str, alias: str, version: str | None) -> None:
    if version is None:
        registry.delete_alias(model, alias)
    else:
        registry.set_alias(model, alias, version)


def shown_champion(model: str) -> str | None:
    """Return the version that the alias `champion` shows in the registry; raises as `anchored`."""
    return (anchored(model) or NOTHING).aliases.get("champion")
