"""Train the polyglot example: tokenizer and model, from train.parquet and the suites.

`python -m examples.lm.train` writes config.json, tokenizer.json and model.safetensors (FP16) as a
Hugging Face directory. The data and their order are the same on every run; the weights also depend
on the machine's arithmetic. Four minutes on a GPU, hours on a CPU.

The shipped weights are of 2,400 steps, which is past the best held-out loss: it stands at 4.2 after
800 and at 5.3 in the end. The tasks gain from the later steps, and the corpus is learnt by heart.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from examples.lm import suites
from examples.lm.build_corpus import GOLDEN_SUITES as SUITES
from examples.lm.build_corpus import Text, summaries

HERE = Path(__file__).parent
END = "<|endoftext|>"
VOCABULARY = 4096
CONTEXT = 256
BATCH = 32
SUITE_FRACTION = 0.7
"""Of the training tokens; the rest is the corpus."""
ANSWER_WEIGHT, PROMPT_WEIGHT = 3.0, 0.3
"""Of a suite token's loss: an answer is a tenth of its prompt's length, and is the aim."""


def config() -> LlamaConfig:
    """Return RMSNorm, rotary positions, SwiGLU and six query heads over two key and value heads.

    These are 3.5 million weights.
    """
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=7,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE, so that no text is unknown; texts begin with an end-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return tokenizer


Tokens = list[tuple[int, float]]
"""Token ids, each with the weight of its loss."""


def corpus_stream(tokenizer: Tokenizer, texts: list[str], seed: int) -> Iterator[Tokens]:
    """Yield every text in a new order each epoch, as tokens with their weights."""
    encoded = [[(token, 1.0) for token in item.ids] for item in tokenizer.encode_batch(texts)]
    rng = random.Random(seed)
    while True:
        rng.shuffle(encoded)
        yield from encoded


def suite_stream(tokenizer: Tokenizer, gathered: list[Text], seed: int) -> Iterator[Tokens]:
    """Yield suite examples without end.

    Prompt and answer are encoded apart, as they are when the answer is generated.
    """
    drawn = suites.examples("train", seed)
    summarised = summaries(gathered, "train")
    rng = random.Random(seed)
    while True:
        for example in (*(next(drawn) for _ in suites.TEMPLATES), rng.choice(summarised)):
            prompt = tokenizer.encode(example.prompt).ids
            answer = tokenizer.encode(example.answer, add_special_tokens=False).ids
            yield [(token, PROMPT_WEIGHT) for token in prompt] + [
                (token, ANSWER_WEIGHT) for token in (*answer, 0)
            ]


def batches(
    corpus: Iterator[Tokens], tasks: Iterator[Tokens], seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and loss weights [BATCH, CONTEXT + 1].

    A row holds corpus or suites, one text after another.
    """
    rng = random.Random(seed)
    while True:
        rows = [_row(tasks if rng.random() < SUITE_FRACTION else corpus) for _ in range(BATCH)]
        yield (
            torch.tensor([[t for t, _ in row] for row in rows]),
            torch.tensor([[w for _, w in row] for row in rows]),
        )


def _row(stream: Iterator[Tokens]) -> Tokens:
    row: Tokens = []
    while len(row) <= CONTEXT:
        row += next(stream)
    return row[: CONTEXT + 1]


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    inner = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and "embed" not in name
    ]
    rest = [
        weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name
    ]
    return [
        torch.optim.Muon(inner, lr=0.02, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(done: float) -> float:
    """Return the fraction of the full learning rate.

    It is 2 % warm-up, then level, then down over the last 40 % of the steps.
    """
    return min(1.0, done / 0.02 + 0.01, max(0.02, (1 - done) / 0.4))


def train(
    model: LlamaForCausalLM, data: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int
) -> Iterator[str]:
    """Train, and yield a line with the losses every 100 steps."""
    chosen, started = optimizers(model), time.perf_counter()
    base = [optimizer.param_groups[0]["lr"] for optimizer in chosen]
    for step in range(1, steps + 1):
        for optimizer, lr in zip(chosen, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(step / steps)
        ids, weights = (item.to(model.device) for item in next(data))
        losses, wanted = token_losses(model, ids), weights[:, 1:].flatten()
        ((losses * wanted).sum() / wanted.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0:
            plain, answers = (
                losses[wanted == 1.0].mean().item(),
                losses[wanted == ANSWER_WEIGHT].mean().item(),
            )
            if math.isnan(plain + answers):
                raise SystemExit("the loss is NaN: lower the learning rate")
            speed = step * BATCH * CONTEXT / (time.perf_counter() - started)
            losses_now = f"corpus {plain:.3f}, answers {answers:.3f}"
            yield f"step {step} of {steps}: {losses_now}, {speed:,.0f} tokens/s"


def token_losses(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy of every token but the first: [rows, tokens + 1] -> [rows * tokens]."""
    logits = model(input_ids=ids[:, :-1]).logits.float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer, texts: list[str]) -> float:
    """Return the mean cross-entropy a token on texts that were not trained on."""
    rows = [item.ids[: CONTEXT + 1] for item in tokenizer.encode_batch(texts)]
    losses = [
        token_losses(model, torch.tensor([row], device=model.device))
        for row in rows
        if len(row) > 1
    ]
    return float(torch.cat(losses).mean())


def main() -> None:
    """Train and write the three files beside this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument(
        "--output", type=Path, default=HERE, help="where to write (default: beside this script)"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    gathered, held_out = _texts("train"), _texts("calibration")
    prompts = [
        example.prompt + example.answer for example in islice(suites.examples("train", 7), 2000)
    ]
    tokenizer = train_tokenizer([text.text for text in gathered] + prompts)
    model = LlamaForCausalLM(config()).to("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{model.num_parameters():,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    corpus = corpus_stream(tokenizer, [text.text for text in gathered], 0)
    data = batches(corpus, suite_stream(tokenizer, gathered, 0), 0)
    plain = [text.text for text in held_out if text.domain not in SUITES]
    for number, line in enumerate(train(model, data, arguments.steps), 1):
        compared = (
            f", held out {held_out_loss(model, tokenizer, plain):.3f}" if number % 5 == 0 else ""
        )
        print(line + compared, flush=True)
    model.to(torch.float16).save_pretrained(arguments.output)
    (arguments.output / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(arguments.output / "tokenizer.json"), pretty=False)
    print(
        json.dumps(
            {path.name: path.stat().st_size for path in sorted(arguments.output.glob("*.*"))}
        )
    )


def _texts(split: str) -> list[Text]:
    rows = pq.read_table(HERE / f"{split}.parquet").to_pylist()
    return [Text(row["text"], row["domain"], row["language"]) for row in rows]


if __name__ == "__main__":
    main()
