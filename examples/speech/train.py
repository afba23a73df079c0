"""Train the small Whisper and write weights, tokenizer, data and golden set.

`python -m examples.speech.train`
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from examples.rows import CorpusRow, GoldenCase, fingerprint, tensor_payload, write
from examples.speech.synthesis import PLACES, RATE, SPEAKERS, WORDS, Place, Wave, record, say

HERE = Path(__file__).parent
PAD, START = "<|endoftext|>", "<|startoftranscript|>"
VOCABULARY = {PAD: 0, START: 1, **{word: number for number, word in enumerate(WORDS, 2)}}
SECONDS, MELS = 1, 40
TRAINING, STEPS, BATCH, LEARNING_RATE, SEED = 3000, 2000, 32, 2e-3, 7
TRAINED_GAINS, TRAINED_SNR = (1 / 64, 2.0), (8.0, 40.0)
"""Wider than what is measured: its edges are not the edges of the trained range."""
GOLDEN, POOL, TRAFFIC = 40, 64, 120
"""Golden utterances a place; pool and traffic are of the studio, and tests move them."""


@dataclass(frozen=True)
class Utterance:
    """What was said, and by whom."""

    wave: Wave  # [samples]
    text: str
    speaker: str


def utterances(count: int, seed: int) -> list[Utterance]:
    """Return two to four digits each, by all speakers in turn; another seed gives others."""
    rng, names = np.random.default_rng(seed), sorted(SPEAKERS)
    recorded = []
    for number in range(count):
        words = [str(word) for word in rng.choice(sorted(WORDS), int(rng.integers(2, 5)))]
        speaker = names[number % len(names)]
        recorded.append(Utterance(say(words, SPEAKERS[speaker], rng), " ".join(words), speaker))
    return recorded


def extractor() -> WhisperFeatureExtractor:
    """Return the log-mel features: one second, 100 frames of 40 bands."""
    return WhisperFeatureExtractor(feature_size=MELS, sampling_rate=RATE, chunk_length=SECONDS)


def config() -> WhisperConfig:
    """Return two layers on each side, 64 wide: 0.3 million parameters."""
    return WhisperConfig(
        vocab_size=len(VOCABULARY),
        num_mel_bins=MELS,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=50 * SECONDS,
        max_target_positions=16,
        pad_token_id=VOCABULARY[PAD],
        bos_token_id=VOCABULARY[PAD],
        eos_token_id=VOCABULARY[PAD],
        decoder_start_token_id=VOCABULARY[START],
        suppress_tokens=[],
        begin_suppress_tokens=[],
        dropout=0.0,
    )


def tokenizer() -> Tokenizer:
    """Return one token a word."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([PAD, START])
    return words


def targets(texts: Sequence[str]) -> torch.Tensor:
    """Return token ids [texts, longest + 2]: the start, the words, the end, and -100 after it."""
    rows = [
        [VOCABULARY[START], *(VOCABULARY[word] for word in text.split()), VOCABULARY[PAD]]
        for text in texts
    ]
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-100] * (longest - len(row))] for row in rows])


def features(waves: Sequence[Wave]) -> torch.Tensor:
    """Return features, [waves, mels, frames]."""
    return torch.from_numpy(
        extractor()(list(waves), sampling_rate=RATE, return_tensors="np")["input_features"]
    )


def batches(
    spoken: Sequence[Utterance], rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield recordings of random utterances, each at a new random gain over new noise."""
    while True:
        chosen = [spoken[int(number)] for number in rng.integers(0, len(spoken), BATCH)]
        gains = np.exp(rng.uniform(*np.log(TRAINED_GAINS), BATCH))
        ratios = rng.uniform(*TRAINED_SNR, BATCH)
        waves = [
            record(utterance.wave, Place(float(gain), float(snr)), rng)
            for utterance, gain, snr in zip(chosen, gains, ratios, strict=True)
        ]
        yield features(waves), targets([utterance.text for utterance in chosen])


def train(steps: int) -> WhisperForConditionalGeneration:
    """Fit a new model."""
    torch.manual_seed(SEED)
    # Sums in another order give other weights: one thread, so that any machine of one kind agrees.
    torch.set_num_threads(1)
    model = WhisperForConditionalGeneration(config())
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=LEARNING_RATE, total_steps=steps
    )
    data = batches(utterances(TRAINING, SEED), np.random.default_rng(SEED))
    for step in range(1, steps + 1):
        heard, wanted = next(data)
        read = wanted[:, :-1].clamp(min=0)
        logits = model(input_features=heard, decoder_input_ids=read).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    return model.eval()


def written(model: WhisperForConditionalGeneration, waves: Sequence[Wave]) -> list[str]:
    """Return what the model hears, greedily."""
    names = {number: word for word, number in VOCABULARY.items()}
    heard, ids = features(waves), torch.full((len(waves), 1), VOCABULARY[START])
    with torch.inference_mode():
        for _ in range(8):
            following = model(input_features=heard, decoder_input_ids=ids).logits[:, -1].argmax(-1)
            ids = torch.cat([ids, following[:, None]], dim=1)
    texts = [" ".join(names[token] for token in row[1:]) for row in ids.tolist()]
    return [text.split(PAD)[0].strip() for text in texts]


def word_errors(right: Sequence[str], heard: Sequence[str]) -> float:
    """Return the word error rate over all texts."""
    from torchmetrics.functional.text import word_error_rate

    return float(word_error_rate(list(heard), list(right)))


def golden_cases(rng: np.random.Generator) -> list[GoldenCase]:
    """Return utterances of their own at each place."""
    return [
        GoldenCase(
            f"{place}-{number:03}",
            tensor_payload(record(utterance.wave, PLACES[place], rng)),
            place,
            "en",
            label=utterance.text,
        )
        for seed, place in enumerate(PLACES)
        for number, utterance in enumerate(utterances(GOLDEN, 1000 + seed))
    ]


def corpus_rows(spoken: Sequence[Utterance], rng: np.random.Generator) -> list[CorpusRow]:
    """Return recordings in the studio."""
    waves = [record(utterance.wave, PLACES["studio"], rng) for utterance in spoken]
    return [
        CorpusRow(
            fingerprint(wave.tobytes())[:16], tensor_payload(wave), "studio", "en", utterance.text
        )
        for utterance, wave in zip(spoken, waves, strict=True)
    ]


def write_data(output: Path) -> list[GoldenCase]:
    """Write the three Parquet files; return the golden cases."""
    rng = np.random.default_rng(SEED + 1)
    golden = golden_cases(rng)
    write(output / "golden.parquet", golden)
    write(output / "calibration.parquet", corpus_rows(utterances(POOL, 2000), rng))
    write(output / "traffic.parquet", corpus_rows(utterances(TRAFFIC, 3000), rng))
    return golden


def waves_of(cases: Sequence[GoldenCase]) -> list[Wave]:
    """Return the payloads as arrays."""
    return [np.frombuffer(case.payload.tensor or b"", "<f4") for case in cases]


def main() -> None:
    """Train, write everything beside this script, and print the word error rate at each place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--output", type=Path, default=HERE, help="where to write (default: beside this script)"
    )
    arguments = parser.parse_args()
    output: Path = arguments.output
    golden = write_data(output)
    model = train(arguments.steps)
    model.save_pretrained(output)
    extractor().save_pretrained(output)
    tokenizer().save(str(output / "tokenizer.json"))
    for place in PLACES:
        cases = [case for case in golden if case.domain == place]
        rate = word_errors([case.label or "" for case in cases], written(model, waves_of(cases)))
        print(f"word error rate, {place}: {rate:.4f}")
    print(json.dumps({path.name: path.stat().st_size for path in sorted(output.glob("*.*"))}))


if __name__ == "__main__":
    main()
