"""Chapter 10, the first bend: unbolt the vocabulary head and bolt on a head that answers with a label.

    python -m chapters.ch10.classify --quick    # the chapter's task: where does this snippet end?
    python -m chapters.ch10.classify --preset messages --data messages.tsv  # your file: a label, a tab and a text on each line

A body that has learned to continue text has already learned to read it. So keep the body, and replace the head over V
tokens by a head over a few labels (`GPTClassifier`). The command trains the same head twice, on a pretrained and on an
untrained body. Look at figures/gap.svg: the gap between the two accuracies is the value of pretraining.

Sources: section 10.2 of the book; reading the last position is Radford et al. 2018, "Improving Language Understanding by
Generative Pre-Training", section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, train_validation_split
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.figures import draw_confusion, draw_gap
from chapters.support.batches import RaggedBatches, by_length
from chapters.support.command import InShards, at_least_one, command
from chapters.support.readers import read_labelled, read_text
from chapters.support.run_folder import Run
from chapters.world import LABELS, World
from minigrad import Tensor

Labelled: TypeAlias = tuple[str, str]  # a text and its label
Examples: TypeAlias = Sequence[Labelled]
Labels: TypeAlias = Sequence[str]

# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class GPTClassifier(nn.Module):
    """A GPT with a class head in place of its vocabulary head: token ids (B, T) -> logits (B, num_classes).

    Args:
        gpt: the body. Its own head becomes nn.Identity(), so it returns the hidden states after ln_f, (B, T, d_model).
        pad_id: the padding token, which stands only to the right of a text; the head reads each row at its last real
            token. If None, it reads every row at column T − 1.

    Raises:
        ValueError: for fewer than two classes.
    """

    def __init__(
        self, gpt: GPT, d_model: int, num_classes: int, pad_id: int | None = None, generator: mg.Generator | None = None
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"GPTClassifier: expected at least 2 classes, got num_classes={num_classes}")
        self.gpt = gpt
        self.gpt.lm_head = nn.Identity()
        self.class_head = nn.Linear(d_model, num_classes)
        nn.init.normal_(self.class_head.weight, 0.0, 0.02, generator=generator)
        nn.init.zeros_(self.class_head.bias)
        self.pad_id = pad_id

    def forward(self, idx: Tensor) -> Tensor:
        h = self.gpt(idx)  # (B, T, d_model)
        if self.pad_id is None:
            h_last = h[:, -1, :]  # (B, d_model)  the last position has attended to all others
        else:
            B = idx.shape[0]
            h_last = h[np.arange(B), last_positions(idx, self.pad_id)]  # (B, d_model)
        return self.class_head(h_last)  # (B, num_classes)


def last_positions(idx: Tensor, pad_id: int) -> Tensor:
    """The column of each row's last token that is not padding, (B,); 0 for a row of nothing but padding. idx: (B, T)"""
    columns = mg.arange(idx.shape[1], device=idx.device)  # (T,)
    return mg.where(idx != pad_id, columns, 0).amax(dim=1)  # (B,)


def label_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Chapter 7's loss with one target for each row instead of each position; inputs: (B, T), targets: (B,)."""
    return F.cross_entropy(model(inputs), targets)


# ── the data ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def snippets(world: World, split: str, n: int, seed: int) -> list[Labelled]:
    """The chapter's own task: n cut-off texts of the little world, labelled by where they end (one of LABELS)."""
    return [(text, LABELS[label]) for text, label in world.snippets(split, n, seed)]


def stratified_split(examples: Examples, seed: int = 0) -> tuple[list[Labelled], list[Labelled]]:
    """Split examples at random, (train, held out): a fifth of every label's texts is held out, but at least one.

    Copies of a text stay together, so no held-out text occurs in training. Raises ValueError if a label has a single text.
    """
    held_out: set[str] = set()
    for place, label in enumerate(sorted({label for _, label in examples})):
        texts = sorted({text for text, other in examples if other == label})
        if len(texts) < 2:
            raise ValueError(f"label {label!r} has a single text; give at least 2, to train on one and hold out the other")
        count = min(max(round(len(texts) * 0.2), 1), len(texts) - 1)
        held_out.update(texts[i] for i in np.random.default_rng([seed, place]).permutation(len(texts))[:count])
    train = [example for example in examples if example[0] not in held_out]
    return train, [example for example in examples if example[0] in held_out]


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> tuple[list[list[int]], int]:
    """Rows of at most `context` token ids, and the number of cropped texts. Cropping keeps the end, where the head reads."""
    rows = [tokenizer.encode(text) for text in texts]
    return [row[-context:] for row in rows], sum(len(row) > context for row in rows)


# ── training and measuring ───────────────────────────────────────────────────────────────────────────────────────────


def predict(classifier: GPTClassifier, rows: Sequence[Sequence[int]], batch_size: int = 64) -> np.ndarray:
    """The predicted class number of every row, (N,)."""
    if classifier.pad_id is None:
        raise ValueError("predict: expected a classifier with a pad_id, got none; rows of unequal length need padding")
    classifier.eval()
    predicted = np.zeros(len(rows), np.int64)  # (N,)
    with mg.no_grad():
        for places, inputs in by_length(rows, batch_size, classifier.pad_id):  # inputs: (B, T)
            predicted[places] = classifier(mg.as_tensor(inputs)).numpy(force=True).argmax(axis=1)  # (B,)
    return predicted


def scores(predicted: np.ndarray, truth: np.ndarray, labels: Labels) -> dict[str, Any]:
    """Accuracy, F1 and the confusion matrix (rows: truth, columns: prediction).

    F1 = 2·TP / (2·TP + FP + FN), and 0 for a label that neither occurs nor is predicted. With two labels, "f1" belongs to
    the rarer one, which is usually the label of interest; with more, it is the mean over labels (macro F1).
    """
    C = len(labels)
    confusion = np.zeros((C, C), np.int64)  # (C, C)
    np.add.at(confusion, (truth, predicted), 1)
    hits = np.diag(confusion)  # (C,)
    f1 = 2 * hits / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)  # (C,)
    rarer = int(confusion.sum(axis=1).argmin())
    return {
        "accuracy": float(hits.sum() / max(confusion.sum(), 1)),
        "f1": float(f1[rarer] if C == 2 else f1.mean()),
        "f1_of": labels[rarer] if C == 2 else "mean over labels",
        "confusion": confusion.tolist(),
        "labels": list(labels),
    }


def train_classifier(
    gpt: GPT, train_set: Examples, test_set: Examples, labels: Labels, tokenizer: Tokenizer, config: TrainConfig, run: Run
) -> tuple[GPTClassifier, dict[str, Any]]:
    """Bolt a class head onto gpt, train body and head on train_set, and measure on test_set.

    Returns the classifier and its `scores`, which are also in run/scores.json; "cropped" counts texts longer than the context.
    """
    context, pad_id = gpt.config.context, tokenizer.eos_id
    numbers = {label: i for i, label in enumerate(labels)}
    rows, cropped = encode_texts([text for text, _ in train_set], tokenizer, context)
    targets = np.array([numbers[label] for _, label in train_set])  # (N,)
    generator = mg.Generator(config.seed)
    classifier = GPTClassifier(gpt, gpt.config.d_model, len(labels), pad_id, generator)
    batches = RaggedBatches(rows, targets, config.batch_size, pad_id, config.seed)
    train(classifier, batches, config, run, loss_fn=label_loss)

    rows, cropped_test = encode_texts([text for text, _ in test_set], tokenizer, context)
    result = scores(predict(classifier, rows), np.array([numbers[label] for _, label in test_set]), labels)
    result["cropped"] = cropped + cropped_test
    run.write_scores(result)
    return classifier, result


def compare_bodies(
    body: Path, train_set: Examples, test_set: Examples, labels: Labels, config: TrainConfig, folders: Sequence[Path]
) -> dict[str, dict[str, Any]]:
    """Train the same class head on an untrained body and on the pretrained one in the run folder `body`.

    Each of the two runs goes into a folder of its own.  Returns {"untrained body" and "pretrained body": scores}.
    """
    results = {}
    for name, folder in zip(("untrained body", "pretrained body"), folders, strict=True):
        gpt, tokenizer = load_model(body)
        if name == "untrained body":
            gpt = GPT(gpt.config, generator=mg.Generator(config.seed))
        _, results[name] = train_classifier(gpt, train_set, test_set, labels, tokenizer, config, Run(folder))
    return results


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(InShards):
    """Train a class head on a pretrained and on an untrained body, and show the difference."""

    preset: Literal["snippets", "messages"] = "snippets"  # sizes for the toy task, or for a few thousand messages
    data: Path | None = None  # file of label<TAB>text lines; the little world's snippets if None
    body: Path | None = None  # run folder of a pretrained model; pretrained here first if None
    pretrain: Path | None = None  # text file to pretrain on, besides the training texts
    run: Path = Path("runs/classify")  # run folder for all output
    vocab_size: int = 1024  # tokens of the vocabulary trained here
    model: GPTConfig = field(
        default_factory=lambda: GPTConfig.preset("tiny", context=128)
    )  # shape of a body pretrained here; --vocab-size sets its vocab_size
    pretraining: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=2000, batch_size=8, **FAST)
    )  # training of a body
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=100, batch_size=32, lr=3e-4, min_lr=3e-5, warmup_steps=10)
    )  # training of the classifiers; short, so that the result depends on the body
    snippets: int = 200  # world snippets to train on
    held_out: int = 600  # world snippets to test on; with --data, a fifth of the file
    seed: int = 0  # random seed
    quick: bool = False  # a smaller body and fewer steps


FAST: dict[str, Any] = dict(lr=4e-3, min_lr=4e-4, beta2=0.99)
PRESETS = {
    "messages": {  # dropout and many epochs, because messages are few; chosen on a part of the training messages
        "model": GPTConfig.preset("tiny", context=192, dropout=0.1),
        "pretraining": TrainConfig(steps=800, lr=3e-3, min_lr=3e-4, beta2=0.99, eval_every=200, keep_best=True),
        "training": TrainConfig(steps=500, batch_size=32, lr=1e-3, min_lr=5e-5, beta2=0.99),
    },
    "quick": {
        "model": GPTConfig.preset("tiny", n_layer=2, d_model=64, context=128),
        "pretraining": TrainConfig(steps=300, batch_size=8, **FAST),
        "training": TrainConfig(steps=40, batch_size=32, lr=1e-3, min_lr=1e-4, warmup_steps=10),
    },
}


def main(settings: Settings) -> None:
    at_least_one(settings, "snippets", "held_out")
    if settings.data:
        train_set, test_set = stratified_split(read_labelled(settings.data), seed=settings.seed)
        labels = sorted({label for _, label in train_set})
    else:
        world, labels = World(settings.seed), list(LABELS)
        train_set = snippets(world, "train", settings.snippets, settings.seed)
        test_set = snippets(world, "test", settings.held_out, settings.seed + 1)
    print(f"{len(train_set)} texts to train on, {len(test_set)} held out, {len(labels)} labels: {', '.join(labels)}")
    body = settings.body or pretrain_body(settings, train_set)
    config, folders = replace(settings.training, seed=settings.seed), (settings.run / "untrained", settings.run / "pretrained")
    show(compare_bodies(body, train_set, test_set, labels, config, folders), settings.run / "figures")


def pretrain_body(settings: Settings, train_set: Examples) -> Path:
    """Pretrain a body on the little world, or on the training texts of --data; returns its run folder.

    The text of --pretrain is added to either. The body never sees the held-out texts or any label.
    """
    if settings.data:
        texts = [text for text, _ in train_set]
        texts = [texts[i] for i in np.random.default_rng(settings.seed).permutation(len(texts))]
    else:
        texts = World(settings.seed).documents(1_000_000 if settings.quick else 8_000_000, seed=settings.seed)
    if settings.pretrain:
        texts.append(read_text(settings.pretrain))
    tokenizer = Tokenizer.train("\n".join(texts), settings.vocab_size)
    tokens = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eos_id]]
    config, run = replace(settings.pretraining, seed=settings.seed), Run(settings.run / "body")
    train_tokens, validation_tokens = train_validation_split(np.array(tokens), 0.05)
    gpt = GPT(replace(settings.model, vocab_size=tokenizer.vocab_size), generator=mg.Generator(settings.seed))
    context = gpt.config.context
    batches = NextTokenBatches(train_tokens, context, config.batch_size, config.seed)
    enough = len(validation_tokens) > context  # a short file has no validation loss
    validation = EveryTokenOnce(validation_tokens, context, config.batch_size) if enough else None
    train(gpt, batches, config, run, validation=validation)
    save_model(run, gpt, tokenizer)
    return run.folder


def show(results: dict[str, dict[str, Any]], figures: Path) -> None:
    """Print the table and draw the two figures."""
    print(f"\n{'':<18}{'accuracy':>9}{'F1':>8}   (F1: {next(iter(results.values()))['f1_of']})")
    for name, result in results.items():
        print(f"{name:<18}{result['accuracy']:>9.2%}{result['f1']:>8.4f}")
    pretrained = results["pretrained body"]
    if pretrained["cropped"]:
        print(f"{pretrained['cropped']} texts were longer than the context and were cropped to their last tokens")
    draw_confusion(figures / "confusion.svg", pretrained)
    draw_gap(figures / "gap.svg", {name: result["accuracy"] for name, result in results.items()}, "held-out accuracy")
    print(f"figures: {figures}")


if __name__ == "__main__":
    command(main, Settings, presets=PRESETS)
