"""Train the tickets example's adapter over the polyglot core, which stays as it is.

`python -m examples.tickets.train` writes adapter_config.json and adapter_model.safetensors as PEFT
does, in a minute or two on two cores. The data and their order are the same on every run.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from examples.tickets.tickets import first, tickets

HERE = Path(__file__).parent
CORE = HERE.parent / "lm"
RANK, ALPHA = 8, 16
BATCH = 16
IGNORED = -100  # of a label: no loss


def adapted() -> PeftModel:
    """Return the core with an adapter that does nothing yet."""
    core = LlamaForCausalLM.from_pretrained(CORE, dtype=torch.float32)
    rules = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    made = get_peft_model(core, rules)
    assert isinstance(made, PeftModel)
    return made


def row(tokenizer: Tokenizer, prompt: str, queue: str) -> tuple[list[int], list[int]]:
    """Return token ids, and labels of the answer's tokens alone."""
    asked = tokenizer.encode(prompt).ids
    answer = [*tokenizer.encode(f" {queue}", add_special_tokens=False).ids, 0]
    return asked + answer, [IGNORED] * len(asked) + answer


def train(model: PeftModel, tokenizer: Tokenizer, steps: int) -> None:
    """Train for so many batches, and print the loss now and then."""
    drawn = tickets("train", 0)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=2e-3
    )
    for step in range(1, steps + 1):
        rows = [row(tokenizer, item.prompt, item.queue) for item in islice(drawn, BATCH)]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([kept + [IGNORED] * (longest - len(kept)) for _, kept in rows])
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def right(model: torch.nn.Module, tokenizer: Tokenizer, count: int = 100) -> float:
    """Return the fraction of golden tickets whose queue begins as the likeliest token says."""
    model.eval()
    hits = 0
    for item in first("golden", 2, count):
        ids, labels = row(tokenizer, item.prompt, item.queue)
        asked = labels.count(IGNORED)
        hits += (
            int(model(input_ids=torch.tensor([ids[:asked]])).logits[0, -1].argmax()) == ids[asked]
        )
    return hits / count


def main() -> None:
    """Train, and write the adapter beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(CORE / "tokenizer.json"))
    model = adapted()
    print(f"golden tickets sorted right before: {right(model, tokenizer):.2f}")
    model.train()
    train(model, tokenizer, arguments.steps)
    print(f"golden tickets sorted right after: {right(model, tokenizer):.2f}")
    model.peft_config["default"].base_model_name_or_path = "../lm"
    model.save_pretrained(arguments.output)
    (arguments.output / "README.md").unlink(
        missing_ok=True
    )  # a form without a word of this adapter


if __name__ == "__main__":
    main()
