"""Adapters of a transformer: LoRA on a frozen base, of which nothing travels; a text classifier and a language model.

Both bases are made here, from a configuration and a seed of their own; with a real one, `from_pretrained` of a folder
that each machine has a copy of takes the place of that. The reviews are made too: a line each, the label before a tab.

    python -m examples.lora_task data/reviews
    python -m leader --data data/reviews --rounds 8 --set data.holder=learner \
      --set model.task=examples.lora_task:Verdicts --set train.batch_size=32 --set train.lr=0.05 \
      --set train.local_steps=20
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name a --task examples.lora_task:Verdicts \
      --data data/reviews/part-1
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name b --task examples.lora_task:Verdicts \
      --data data/reviews/part-2
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from utils.errors import DataError

BASE_SEED = 1  # of the frozen weights: the same for every run and machine
WORDS, LENGTH = 512, 8  # token ids, 0 = no word; tokens of a text
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.1,
}


@dataclass(frozen=True)
class Texts:
    """Texts with a label each."""

    tokens: Tensor  # (N, LENGTH) int64
    labels: Tensor  # (N,) int64, 0 or 1

    def __len__(self) -> int:
        return len(self.labels)


def tokens_of(text: str) -> list[int]:
    """A token for each word, by its checksum, and then as many zeros as there is room for."""
    words = [1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.split()]
    return (words + [0] * LENGTH)[:LENGTH]


class Reviews:
    """What both tasks have in common: the texts and the adapters."""

    def base(self) -> nn.Module:
        """The network without adapters, its weights drawn from torch's generator."""
        raise NotImplementedError

    def adapters(self) -> LoraConfig:
        """What is trained beside it."""
        raise NotImplementedError

    def build_model(self, seed: int) -> nn.Module:
        """The base, the same for every `seed`, with fresh adapters; PEFT has frozen all but these."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(BASE_SEED)
            base: Any = self.base()
            torch.manual_seed(seed)
            adapted: nn.Module = get_peft_model(base, self.adapters())
            return adapted

    def open_data(self, path: Path, *, train: bool) -> Texts | None:
        """`path`/train.tsv or `path`/test.tsv, if it is there; raises DataError."""
        file = path / ("train.tsv" if train else "test.tsv")
        if not file.exists():
            return None
        lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
        if not all(len(line) == 2 and line[0] in ("0", "1") for line in lines):
            raise DataError(f"{file}: expected 0 or 1, a tab and a text in each line")
        return Texts(
            torch.tensor([tokens_of(text) for _, text in lines]),
            torch.tensor([int(label) for label, _ in lines]),
        )

    def make_batch(
        self, examples: Texts, indices: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(tokens (B, LENGTH), labels (B,))."""
        return examples.tokens[indices], examples.labels[indices]


class Verdicts(Reviews):
    """Whether a review praises: adapters in the attention of a BERT, and the classifier on top of it."""

    def base(self) -> nn.Module:
        """See Reviews."""
        network: nn.Module = BertForSequenceClassification(BertConfig(**SIZES, num_labels=2))
        return network

    def adapters(self) -> LoraConfig:
        """LoRA of rank 4; PEFT trains the classifier as a whole."""
        return LoraConfig(r=4, lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS")

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        tokens, labels = batch
        return cross_entropy(self._logits(model, tokens), labels)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Accuracy and loss."""
        tokens, labels = batch
        logits = self._logits(model, tokens)
        right = (logits.argmax(1) == labels).double().mean()
        return {"accuracy": float(right), "loss": float(cross_entropy(logits, labels))}

    def _logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=tokens, attention_mask=(tokens > 0).long()).logits
        return logits.float()


class NextWords(Reviews):
    """How reviews go on: adapters in all layers of a Llama."""

    def base(self) -> nn.Module:
        """See Reviews."""
        network: nn.Module = LlamaForCausalLM(LlamaConfig(**SIZES))
        return network

    def adapters(self) -> LoraConfig:
        """LoRA of rank 8, in the last layer too: the base has never read a word."""
        layers = ["q_proj", "v_proj", "up_proj", "down_proj", "lm_head"]
        return LoraConfig(r=8, lora_alpha=32, target_modules=layers, task_type="CAUSAL_LM")

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy of each next word, the end of the text with it."""
        tokens, _ = batch
        logits = model(input_ids=tokens).logits.float()[:, :-1]
        return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """The loss, in nats a word."""
        return {"loss": float(self.loss(model, batch))}


def reviews() -> list[str]:
    """All reviews that these words make, in a fixed shuffled order."""
    begins = (("the", "a", "our"), ("soup", "bread", "tea", "fish", "cake"), ("was", "tasted", "seemed"))
    words = [("bad", "awful", "stale", "poor", "bland"), ("good", "lovely", "fresh", "great", "tasty")]
    lines = [
        "\t".join([str(label), " ".join(text)])
        for label, ends in enumerate(words)
        for text in itertools.product(*begins, ("very", "rather", "so"), ends)
    ]
    return [lines[at] for at in np.argsort(np.random.PCG64(0).random_raw(len(lines)))]


def main() -> None:
    """Write the reviews: a fifth to test on, the rest for two learners."""
    parser = argparse.ArgumentParser(description="Write the reviews that lora_task trains on.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    lines = reviews()
    cut, half = len(lines) // 5, len(lines) // 5 * 3
    files = {"test": lines[:cut], "part-1/train": lines[cut:half], "part-2/train": lines[half:]}
    for name, part in files.items():
        path = folder / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    print(f"{folder}: {cut} reviews for testing, {[half - cut, len(lines) - half]} to train on")


if __name__ == "__main__":
    main()
