"""One pass over Arrow record batches: every column is counted as a whole, no row by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.profiles.columns import tensors, text
from tasks.profiles.columns.categories import Categories
from tasks.profiles.columns.distinct import REGISTERS, Distinct, updated
from tasks.profiles.columns.fourier_features import (
    FourierFeatures,
    normalized,
    scaled_units,
    summed_features,
)
from tasks.profiles.columns.hashing import hash64
from tasks.profiles.columns.quantiles import BINS, FineHistogram
from tasks.profiles.profile import Kept, Profile, empty_reservoir
from tasks.profiles.settings import ProfileSettings

TIME, ID, TEXT, TENSOR, DTYPE = "time", "request_id", "text", "tensor", "dtype"
_HOUR = 3_600_000_000  # microseconds
_A_DAY = 24
_BIN_OF_HOUR = [int(FineHistogram.of(np.array([hour])).counts.argmax()) for hour in range(_A_DAY)]
_TOGETHER = 4096  # embeddings whose features are held at once
_SPILL = 4096  # names of a column that are added up before a sketch sees them


def profile_batch(
    batch: pa.RecordBatch,
    settings: ProfileSettings = ProfileSettings(),  # noqa: B008  # frozen
    *,
    weights: NDArray[np.float64] | None = None,
    embeddings: NDArray[np.floating] | None = None,
) -> Profile:
    """Return the profile of one record batch of traffic; see `Scan.add`."""
    scan = Scan(settings)
    scan.add(batch, weights=weights, embeddings=embeddings)
    return scan.profile()


def profile_batches(
    batches: Iterable[pa.RecordBatch],
    settings: ProfileSettings = ProfileSettings(),  # noqa: B008  # frozen
) -> Profile:
    """Return the profile of a stream of record batches, one in memory at a time."""
    scan = Scan(settings)
    for batch in batches:
        scan.add(batch)
    return scan.profile()


class Scan:
    """Adds up batches; what it keeps does not grow with them."""

    def __init__(self, settings: ProfileSettings) -> None:
        """Start with nothing."""
        self._settings = settings
        self._rows = 0
        self._missing: Counter[str] = Counter()
        self._numbers: dict[str, NDArray[np.int64]] = {}
        self._names: dict[str, Categories] = {}
        self._tally: dict[str, dict[str, int]] = {}
        self._pending: dict[str, tuple[pa.Array, NDArray[np.int64]]] = {}
        self._distinct: dict[str, NDArray[np.uint8]] = {}
        self._fourier_features: dict[str, FourierFeatures] = {}
        self._reservoir = empty_reservoir(settings)

    def add(
        self,
        batch: pa.RecordBatch,
        *,
        weights: NDArray[np.float64] | None = None,
        embeddings: NDArray[np.floating] | None = None,
    ) -> None:
        """Count the columns of traffic that the batch has.

        Args:
            batch: Rows of traffic.
            weights: Of the reservoir, [rows].
            embeddings: The model's own, [rows, width], where somebody computed them.

        Raises:
            BadInput: A column of a wrong type, a missing request id, or texts that are not UTF-8.
        """
        self._rows += batch.num_rows
        columns = {name: batch.column(name) for name in batch.schema.names}
        for name in self._settings.names:
            if name in columns:
                self._count(name, columns[name])
        for name in self._settings.numbers:
            if name in columns:
                self._bin(name, self._present(name, columns[name]))
        if TIME in columns:
            self._hours(self._present(TIME, columns[TIME]))
        if self._settings.payloads:
            self._payloads(columns)
        if ID in columns and self._reservoir is not None:
            self._ids(columns, weights)
        if embeddings is not None:
            for start in range(0, len(embeddings), _TOGETHER):
                self._embed("model", embeddings[start : start + _TOGETHER].astype(np.float64))

    def profile(self) -> Profile:
        """Return the profile of everything added so far."""
        for name in list(self._pending):
            self._settle(name)
        for name in list(self._tally):
            self._spill(name)
        return Profile(
            settings=self._settings,
            rows=self._rows,
            missing={name: count for name, count in sorted(self._missing.items()) if count},
            numbers={
                name: FineHistogram(counts.copy()) for name, counts in sorted(self._numbers.items())
            },
            names=dict(sorted(self._names.items())),
            distinct={
                name: Distinct(registers.copy())
                for name, registers in sorted(self._distinct.items())
            },
            fourier_features=dict(sorted(self._fourier_features.items())),
            reservoir=self._reservoir,
        )

    def _present(self, name: str, column: pa.Array) -> pa.Array:
        self._missing[name] += column.null_count
        return column.drop_null() if column.null_count else column

    def _count(self, name: str, column: pa.Array) -> None:
        column = self._present(name, column)
        if not len(column):
            return
        if not pa.types.is_dictionary(column.type):
            column = _strings(name, column).dictionary_encode()
        counts = np.bincount(
            column.indices.to_numpy(zero_copy_only=False), minlength=len(column.dictionary)
        )
        pending = self._pending.get(name)
        if pending is not None and pending[0].equals(column.dictionary):
            pending[1][:] += counts
            return
        self._settle(name)
        self._pending[name] = column.dictionary, counts

    def _settle(self, name: str) -> None:
        """Count the names of a dictionary.

        Batches of one row group share one, so this waits until another comes.
        """
        if name in self._pending:
            dictionary, counts = self._pending.pop(name)
            tally = self._tally.setdefault(name, {})
            for text, count in zip(
                _strings(name, dictionary).to_pylist(), counts.tolist(), strict=True
            ):
                if count:
                    tally[text] = tally.get(text, 0) + count
            if len(tally) > _SPILL:
                self._spill(name)

    def _spill(self, name: str) -> None:
        tally = self._tally.pop(name)
        counts = np.fromiter(tally.values(), np.int64, len(tally))
        self._names.setdefault(name, Categories()).add(pa.array(tally, pa.string()), counts)

    def _bin(self, name: str, column: pa.Array | NDArray[np.float64]) -> None:
        if isinstance(column, pa.Array):
            if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
                raise BadInput(
                    f"column {name} is of type {column.type}, not a number: import the traffic "
                    "again"
                )
            column = column.to_numpy(zero_copy_only=False)
        if len(column):
            self._numbers.setdefault(name, np.zeros(BINS, np.int64))
            self._numbers[name] += FineHistogram.of(column).counts

    def _hours(self, times: pa.Array) -> None:
        """Count hours of the day, UTC; a part of stored traffic holds but one."""
        if not len(times):
            return
        micros = _micros(times)
        first, last = int(micros.min()) // _HOUR, int(micros.max()) // _HOUR
        if last - first > _A_DAY:
            self._bin("hour", (micros // _HOUR) % _A_DAY)
            return
        bounds = [np.count_nonzero(micros < _HOUR * hour) for hour in range(first + 1, last + 1)]
        counts = self._numbers.setdefault("hour", np.zeros(BINS, np.int64))
        for hour, count in zip(
            range(first, last + 1), np.diff([0, *bounds, len(micros)]).tolist(), strict=True
        ):
            counts[_BIN_OF_HOUR[hour % _A_DAY]] += count

    def _payloads(self, columns: dict[str, pa.Array]) -> None:
        texts, inputs = columns.get(TEXT), columns.get(TENSOR)
        payloads = [column for column in (texts, inputs) if column is not None]
        if payloads:
            present = np.zeros(len(payloads[0]), bool)
            for column in payloads:
                present |= column.is_valid().to_numpy(zero_copy_only=False)
            self._missing["input"] += int(np.count_nonzero(~present))
        if texts is not None and texts.null_count < len(texts):
            self._texts(_strings(TEXT, texts.drop_null()))
        if inputs is not None and inputs.null_count < len(inputs):
            plain, records = tensors.split(inputs, columns.get(DTYPE))
            if len(plain):
                self._tensors(plain)
            if len(records):
                self._records(records)

    def _texts(self, texts: pa.Array) -> None:
        described = text.describe(texts)
        for name, values in described.numbers.items():
            self._bin(name, values)
        self._count("script", described.script)
        self._see("input", hash64(texts, self._settings.seed))
        if self._settings.fourier_features:
            for vectors in text.embed(texts):
                self._embed(TEXT, vectors)

    def _tensors(self, inputs: pa.Array) -> None:
        self._see("input", hash64(inputs, self._settings.seed))
        for piece in tensors.pieces(inputs):
            for name, values in piece.numbers.items():
                self._bin(name, values)
            if self._settings.fourier_features:
                self._project(piece.flat)

    def _records(self, inputs: pa.Array) -> None:
        """Describe each named tensor by itself; a random projection of all of them is not made."""
        self._see("input", hash64(inputs, self._settings.seed))
        for name, values in tensors.numbers_of_records(inputs).items():
            self._bin(name, values)

    def _project(self, flat: NDArray[np.float64]) -> None:
        finite = np.isfinite(flat).all(axis=1)
        projected = tensors.project(
            scaled_units(flat[finite], self._settings.tensor_scale), self._settings.seed
        )
        # 64 places share a tensor's elements: divided by its length, every size of tensor suits one
        # bandwidth.
        units = np.rint(projected / np.sqrt(max(flat.shape[1], 1)))
        self._add_features(TENSOR, units, int(np.count_nonzero(~finite)))

    def _embed(self, name: str, vectors: NDArray[np.float64]) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        self._add_features(name, normalized(vectors[finite]), int(np.count_nonzero(~finite)))

    def _add_features(self, name: str, units: NDArray[np.float64], nonfinite: int) -> None:
        settings = self._settings
        if not len(units) + nonfinite:
            return
        sums = summed_features(
            units,
            features=settings.fourier_features,
            bandwidth=settings.bandwidth,
            seed=settings.seed,
        )
        zeros = int(np.count_nonzero(~units.any(axis=1)))
        before = self._fourier_features.get(name, FourierFeatures.empty(settings.fourier_features))
        self._fourier_features[name] = before + FourierFeatures(sums, len(units), zeros, nonfinite)

    def _see(self, name: str, hashes: NDArray[np.uint64]) -> None:
        if len(hashes):
            updated(self._distinct.setdefault(name, np.zeros(REGISTERS, np.uint8)), hashes)

    def _ids(self, columns: dict[str, pa.Array], weights: NDArray[np.float64] | None) -> None:
        ids = _strings(ID, columns[ID])
        hashes = hash64(ids, self._settings.seed)
        self._see(ID, hashes)
        times = columns.get(TIME)

        def chosen(name: str, rows: NDArray[np.intp]) -> list[str]:
            column = columns.get(name)
            return (
                [""] * len(rows)
                if column is None
                else [text or "" for text in column.take(pa.array(rows)).to_pylist()]
            )

        def items(rows: NDArray[np.intp]) -> list[Kept]:
            moments = (
                [0] * len(rows) if times is None else _micros(times.take(pa.array(rows))).tolist()
            )
            return [*map(Kept, moments, chosen("domain", rows), chosen("language", rows))]

        if self._reservoir is not None:
            self._reservoir.offer_all(
                ids, hashes, items, weights=weights, groups=lambda rows: chosen("tenant", rows)
            )


def _strings(name: str, column: pa.Array) -> pa.Array:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise BadInput(
            f"column {name} is of type {column.type}, not a string: import the traffic again"
        )
    return column


def _micros(times: pa.Array) -> NDArray[np.int64]:
    if not pa.types.is_timestamp(times.type):
        raise BadInput(
            f"column {TIME} is of type {times.type}, not a time: import the traffic again"
        )
    if times.type.unit != "us":
        times = pc.cast(times, pa.timestamp("us", times.type.tz), safe=False)
    numbers = times.view(pa.int64())
    micros: NDArray[np.int64] = (numbers.fill_null(0) if numbers.null_count else numbers).to_numpy(
        zero_copy_only=False
    )
    return micros
