"""Train the small CLIP and write weights, tokenizer, data and golden set.

`python -m examples.vision.train`
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from examples.rows import CorpusRow, GoldenCase, fingerprint, tensor_payload, write
from examples.vision.shapes import (
    CLASSES,
    COLOURS,
    SHAPES,
    SIDE,
    SIGHTS,
    Image,
    Sight,
    caption,
    draw,
    see,
)

HERE = Path(__file__).parent
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (START, "a", "photo", "of", *COLOURS, *SHAPES, END)
VOCABULARY = {word: number for number, word in enumerate(WORDS)}
MEAN, DEVIATION = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
TRAINING, STEPS, BATCH, LEARNING_RATE, SEED = 6000, 1500, 48, 2e-3, 11
TRAINED_EXPOSURES, TRAINED_BLURS = (0.15, 4.0), (0.0, 1.6)
"""Wider than what is measured: its edges are not the edges of the trained range."""
GOLDEN, POOL, TRAFFIC = 80, 100, 200
"""Golden images a sight; pool and traffic are taken as drawn, and tests light and blur them."""


def pictures(count: int, seed: int) -> list[tuple[Image, str]]:
    """Return images of all classes in turn, with their names; another seed draws others."""
    rng = np.random.default_rng(seed)
    return [
        (draw(name, rng), name)
        for name in (CLASSES[number % len(CLASSES)] for number in range(count))
    ]


def config() -> CLIPConfig:
    """Return two layers on each side, 64 wide."""
    size = {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
    }
    ends = {
        "bos_token_id": VOCABULARY[START],
        "eos_token_id": VOCABULARY[END],
        "pad_token_id": VOCABULARY[END],
    }
    text = {**size, **ends, "vocab_size": len(VOCABULARY), "max_position_embeddings": 12}
    return CLIPConfig(
        text_config=text,
        vision_config={**size, "image_size": SIDE, "patch_size": 4},
        projection_dim=32,
    )


def tokenizer() -> Tokenizer:
    """Return one token a word, between start and end."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token=END))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([START, END])
    ends = [(START, VOCABULARY[START]), (END, VOCABULARY[END])]
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=ends
    )
    return words


def processor() -> CLIPImageProcessor:
    """Return how pixels in 0..1 are normalised."""
    size = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessor(size=size, crop_size=size, image_mean=MEAN, image_std=DEVIATION)


def normalised(images: npt.NDArray[np.float32]) -> torch.Tensor:
    """Return [N, 3, SIDE, SIDE] as the model wants them."""
    mean, deviation = (torch.tensor(values)[None, :, None, None] for values in (MEAN, DEVIATION))
    return (torch.from_numpy(images) - mean) / deviation


def tokens() -> torch.Tensor:
    """Return the captions of all classes, [classes, tokens]: they are equally long."""
    return torch.tensor(
        [encoding.ids for encoding in tokenizer().encode_batch([caption(name) for name in CLASSES])]
    )


def train(steps: int) -> CLIPModel:
    """Fit a new model to put each image nearest to its caption, and each caption to its image."""
    torch.manual_seed(SEED)
    # Sums in another order give other weights: one thread, so that any machine of one kind agrees.
    torch.set_num_threads(1)
    model, rng = CLIPModel(config()), np.random.default_rng(SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=LEARNING_RATE, total_steps=steps
    )
    drawn, captions = pictures(TRAINING, SEED), tokens()
    for step in range(1, steps + 1):
        chosen = [drawn[int(number)] for number in rng.integers(0, len(drawn), BATCH)]
        exposures = np.exp(rng.uniform(*np.log(TRAINED_EXPOSURES), BATCH))
        blurs = rng.uniform(*TRAINED_BLURS, BATCH) * (rng.random(BATCH) < 0.5)
        sights = [
            Sight(float(exposure), float(blur))
            for exposure, blur in zip(exposures, blurs, strict=True)
        ]
        images = np.stack(
            [see(image, sight) for (image, _), sight in zip(chosen, sights, strict=True)]
        )
        wanted = torch.tensor([CLASSES.index(name) for _, name in chosen])
        logits = model(input_ids=captions, pixel_values=normalised(images)).logits_per_image
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    return model.eval()


def accuracy(model: CLIPModel, images: npt.NDArray[np.float32], names: Sequence[str]) -> float:
    """Return the fraction of images [N, 3, SIDE, SIDE] that lie nearest to their caption."""
    with torch.inference_mode():
        logits = model(input_ids=tokens(), pixel_values=normalised(images)).logits_per_image
    return float((logits.argmax(1).numpy() == [CLASSES.index(name) for name in names]).mean())


def golden_cases() -> list[GoldenCase]:
    """Return images of their own for each sight."""
    return [
        GoldenCase(
            f"{sight}-{number:03}",
            tensor_payload(see(image, SIGHTS[sight])),
            sight,
            "none",
            label=name,
        )
        for seed, sight in enumerate(SIGHTS)
        for number, (image, name) in enumerate(pictures(GOLDEN, 1000 + seed))
    ]


def corpus_rows(drawn: Sequence[tuple[Image, str]]) -> list[CorpusRow]:
    """Return images taken at exposure 1, without blur."""
    taken_images = [(see(image, Sight(1.0, 0.0)), name) for image, name in drawn]
    return [
        CorpusRow(
            fingerprint(image.tobytes())[:16], tensor_payload(image), "daylight", "none", name
        )
        for image, name in taken_images
    ]


def write_data(output: Path) -> list[GoldenCase]:
    """Write the three Parquet files; return the golden cases."""
    golden = golden_cases()
    write(output / "golden.parquet", golden)
    write(output / "calibration.parquet", corpus_rows(pictures(POOL, 2000)))
    write(output / "traffic.parquet", corpus_rows(pictures(TRAFFIC, 3000)))
    return golden


def main() -> None:
    """Train, write everything beside this script, and print the zero-shot accuracy by sight."""
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
    processor().save_pretrained(output)
    tokenizer().save(str(output / "tokenizer.json"))
    for sight in SIGHTS:
        cases = [case for case in golden if case.domain == sight]
        images = [
            np.frombuffer(case.payload.tensor or b"", "<f4").reshape(3, SIDE, SIDE)
            for case in cases
        ]
        print(
            f"zero-shot accuracy, {sight}: "
            f"{accuracy(model, np.stack(images), [str(c.label) for c in cases]):.4f}"
        )
    print(json.dumps({path.name: path.stat().st_size for path in sorted(output.glob("*.*"))}))


if __name__ == "__main__":
    main()
