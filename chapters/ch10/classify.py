"""Chapter 10, the first bend: unbolt the vocabulary head, bolt on one that answers with a label.

    python -m chapters.ch10.classify --quick    # the chapter's task: where does this snippet end?
    python -m chapters.ch10.classify --preset messages --data messages.tsv  # yours: a label, a tab, a text on each line

What this file teaches: the body that learned to continue text has already learned to read it. The same head is trained
twice, on a pretrained body and on one that never saw a text; the gap between the two is what pretraining bought.
Sources: section 10.2 of the book; for reading the last position, Radford et al. 2018, "Improving Language Understanding
by Generative Pre-Training", section 3.2.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

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
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_labelled, read_text
from chapters.support.run_folder import Run
from chapters.world import LABELS, World

# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class GPTClassifier(nn.Module):
    """A GPT whose vocabulary head is replaced by a class head: idx (B, T) token ids -> (B, num_classes) logits.

    The given gpt is changed in place: its lm_head becomes nn.Identity(), so that its forward ends in the hidden states
    after ln_f, (B, T, d_model). pad_id, if given, is a token that stands only to the right of a row's text; each row is
    then read at its own last real token. Without it every row is read at column T − 1.
    """

    def __init__(self, gpt, d_model, num_classes, pad_id=None, generator=None):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes to choose from, got num_classes={num_classes}")
        self.gpt = gpt
        self.gpt.lm_head = nn.Identity()
        self.class_head = nn.Linear(d_model, num_classes)
        nn.init.normal_(self.class_head.weight, 0.0, 0.02, generator=generator)
        nn.init.zeros_(self.class_head.bias)
        self.pad_id = pad_id

    def forward(self, idx):
        h = self.gpt(idx)  # (B, T, d_model)
        if self.pad_id is None:
            h_last = h[:, -1, :]  # (B, d_model)  the last position has attended to all before it
        else:
            B = idx.shape[0]
            h_last = h[np.arange(B), last_positions(idx, self.pad_id)]  # (B, d_model)
        return self.class_head(h_last)  # (B, num_classes)


def last_positions(idx, pad_id):
    """Where each row's last token that is not padding stands: idx (B, T) -> (B,) int64; 0 for a row of nothing else."""
    columns = mg.arange(idx.shape[1], device=idx.device)  # (T,)
    return mg.where(idx != pad_id, columns, 0).amax(dim=1)  # (B,)


def label_loss(model, inputs, targets):
    """Chapter 7's loss with one answer a row instead of one a position: inputs (B, T), targets (B,)."""
    return F.cross_entropy(model(inputs), targets)


# ── the data ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def snippets(world, split, n, seed):
    """The chapter's own task: n cut-off texts of the little world, [(text, one of chapters.world.LABELS)]."""
    return [(text, LABELS[label]) for text, label in world.snippets(split, n, seed)]


def stratified_split(examples, fraction=0.2, seed=0):
    """[(text, label)] -> (train, held out), every label in both in the same proportion; the same seed, the same split.

    Copies of a text stay together, so that none of those held out was seen in training. Raises ValueError where a
    label has a single text.
    """
    held_out = set()
    for place, label in enumerate(sorted({given for _, given in examples})):
        texts = sorted({text for text, given in examples if given == label})
        if len(texts) < 2:
            raise ValueError(f"label {label!r} has a single text; give at least 2, one to train on and one to hold out.")
        count = min(max(round(len(texts) * fraction), 1), len(texts) - 1)
        held_out.update(texts[i] for i in np.random.default_rng([seed, place]).permutation(len(texts))[:count])
    train = [example for example in examples if example[0] not in held_out]
    return train, [example for example in examples if example[0] in held_out]


def encode_texts(texts, tokenizer, context):
    """texts -> (rows of token ids, how many were cropped): a text longer than the context keeps its last tokens,
    because the end is where the head reads."""
    rows = [tokenizer.encode(text) for text in texts]
    return [row[-context:] for row in rows], sum(len(row) > context for row in rows)


# ── training and measuring ───────────────────────────────────────────────────────────────────────────────────────────


def predict(classifier, rows, batch_size=64):
    """rows of token ids -> (N,) predicted class numbers."""
    classifier.eval()
    predicted = np.zeros(len(rows), np.int64)  # (N,)
    with mg.no_grad():
        for places, inputs in by_length(rows, batch_size, classifier.pad_id):  # inputs: (B, T)
            predicted[places] = classifier(mg.as_tensor(inputs)).numpy(force=True).argmax(axis=1)  # (B,)
    return predicted


def scores(predicted, truth, labels):
    """Accuracy, F1 and the confusion matrix (rows: truth, columns: prediction).

    With two labels F1 is that of the rarer one, the one worth finding; with more, the mean over the labels (macro).
    F1 = 2·TP / (2·TP + FP + FN), and 0 where a label was neither there nor predicted.
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


def train_classifier(gpt, train_set, test_set, labels, tokenizer, config, run, keep=None):
    """Bolt a class head onto gpt, train all of it on train_set, measure on test_set: both [(text, label)].

    config: chapter 7's TrainConfig.  run: its Run.  Returns `scores` with "cropped" added, and writes them to the run.
    keep: called with the trained GPTClassifier at the end, for whoever wants more than its scores.
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
    (Path(run.folder) / "scores.json").write_text(json.dumps(result, indent=1) + "\n")
    if keep is not None:
        keep(classifier)
    return result


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Train a class head twice, on a pretrained and on an untrained body, and show what the difference is worth."""

    preset: Literal["snippets", "messages"] = "snippets"  # sizes for the toy task, or for some thousand messages
    data: Path | None = None  # a file of label<TAB>text lines; the little world's snippets where none is given
    body: Path | None = None  # a run folder with a pretrained model; where none is given, one is pretrained here first
    pretrain: Path | None = None  # more plain text for that pretraining, besides the training part's own texts
    run: Path = Path("runs/classify")  # the folder for everything
    vocab_size: int = 1024  # tokens of the vocabulary learned here
    model: GPTConfig = field(  # the body pretrained here (its vocab_size is the one above)
        default_factory=lambda: GPTConfig.preset("tiny", context=128)
    )
    pretraining: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=2000, batch_size=8, lr=4e-3, min_lr=4e-4, beta2=0.99)
    )
    training: TrainConfig = field(  # brief: what is to be seen is what the body brings along
        default_factory=lambda: TrainConfig(steps=100, batch_size=32, lr=3e-4, min_lr=3e-5, warmup_steps=10)
    )
    snippets: int = 200  # of the world's snippets to train on
    held_out: int = 600  # of the world's snippets to test on; of a file, a fifth is held out
    seed: int = 0  # of the split and of everything random
    quick: bool = False  # a smaller body, fewer steps


PRESETS = {
    "messages": {  # dropout and many passes, since messages are few; found on a part of the training messages
        "model": GPTConfig.preset("tiny", context=192, dropout=0.1),
        "pretraining": TrainConfig(steps=800, lr=3e-3, min_lr=3e-4, beta2=0.99, eval_every=200, keep_best=True),
        "training": TrainConfig(steps=500, batch_size=32, lr=1e-3, min_lr=5e-5, beta2=0.99),
    },
    "quick": {
        "model": GPTConfig.preset("tiny", n_layer=2, d_model=64, context=128),
        "pretraining": TrainConfig(steps=300, batch_size=8, lr=4e-3, min_lr=4e-4, beta2=0.99),
        "training": TrainConfig(steps=40, batch_size=32, lr=1e-3, min_lr=1e-4, warmup_steps=10),
    },
}


def main(settings):
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

    results = {}
    for name in ("untrained body", "pretrained body"):
        gpt, tokenizer = load_model(body)
        if name == "untrained body":
            gpt = GPT(gpt.config, generator=mg.Generator(settings.seed))
        config = replace(settings.training, seed=settings.seed)
        run = Run(settings.run / name.split()[0])
        results[name] = train_classifier(gpt, train_set, test_set, labels, tokenizer, config, run)
    show(results, settings.run / "figures")


def pretrain_body(settings, train_set):
    """A body that learned to continue texts like these: the training part's texts without their labels (of the held-out
    part it sees nothing), or the little world's pages, and the text of --pretrain. Returns its run folder."""
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
    learned, kept_back = train_validation_split(np.array(tokens), 0.05)
    gpt = GPT(replace(settings.model, vocab_size=tokenizer.vocab_size), generator=mg.Generator(settings.seed))
    context = gpt.config.context
    batches = NextTokenBatches(learned, context, config.batch_size, config.seed)
    enough = len(kept_back) > context  # a short file does without a validation loss
    validation = EveryTokenOnce(kept_back, context, config.batch_size) if enough else None
    train(gpt, batches, config, run, validation=validation)
    save_model(run, gpt, tokenizer)
    return run.folder


def show(results, figures):
    """The table in the terminal, and the two figures."""
    print(f"\n{'':<18}{'accuracy':>9}{'F1':>8}   (F1 of {next(iter(results.values()))['f1_of']})")
    for name, result in results.items():
        print(f"{name:<18}{result['accuracy']:>9.2%}{result['f1']:>8.4f}")
    better = results["pretrained body"]
    if better["cropped"]:
        print(f"{better['cropped']} texts were longer than the context and kept their last tokens")
    draw_confusion(figures / "confusion.png", better)
    draw_gap(figures / "gap.png", {name: result["accuracy"] for name, result in results.items()}, "held-out accuracy")
    print(f"figures: {figures}")


if __name__ == "__main__":
    command(main, Settings, presets=PRESETS)
