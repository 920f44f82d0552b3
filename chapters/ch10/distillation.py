"""Chapter 10, distillation: a student answers, and a larger teacher grades every token of the answer.

A student that is tuned on a teacher's responses learns what to do after the teacher's words. When it answers by itself, it
continues its own words, and its first slip takes it where no example ever was. On-policy distillation trains it there: the
student samples the responses, and at each of their tokens the loss compares two distributions over the next token, the
student's π and the teacher's τ, by the reverse KL divergence

    KL(π ‖ τ) = Σ_v π(v) (log π(v) − log τ(v)).

The reverse KL punishes a student for saying what the teacher would not say, and hardly for omitting something that the
teacher would say. A small student cannot do everything, so that is the right way round. The sum runs over the whole
vocabulary, so every token teaches V numbers. A reward model gives a single number for the whole response, and imitation names
one right token.

The gradient needs no chain of samples. With logits z and π = softmax(z), ∂π(v)/∂z(w) = π(v) (δ_vw − π(w)), hence

    ∂KL/∂z(w) = π(w) (log π(w) − log τ(w) − KL(π ‖ τ)):

the logit of a token falls if the student overrates it more than it overrates tokens on average. The loss does not
differentiate the sampling itself: the words that the student has said are fixed when their continuation is graded.

`chapters/ch10/headlines/taori.py` improves a student with it. Watch the mean reverse KL fall.

Sources: Agarwal et al. 2023, "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes"
(arXiv:2306.13649), sections 3 and 3.1; Gu et al. 2023, MiniLLM (arXiv:2306.08543), for the reverse KL.
"""

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT
from chapters.ch07_train import LossFunction, TrainConfig, train
from chapters.ch10.demonstrations import RehearsalBatches
from chapters.ch10.rollout import roll_out
from chapters.ch10.sft import Tasks, graded_logits
from chapters.support.run_folder import History, Run


def reverse_kl(logits: mg.Tensor, teacher_logits: mg.Tensor) -> mg.Tensor:
    """KL(student ‖ teacher) at each of N positions, in nats: twice (N, V) -> (N,).

    >>> student, teacher = mg.tensor([[0.0, 0.0]]), mg.tensor(np.log([[0.9, 0.1]]))
    >>> round(reverse_kl(student, teacher).item(), 3)  # ½ log(½ / 0.9) + ½ log(½ / 0.1)
    0.511
    """
    log_p, log_t = F.log_softmax(logits, dim=-1), F.log_softmax(teacher_logits, dim=-1)  # (N, V) each
    return (mg.exp(log_p) * (log_p - log_t)).sum(dim=-1)  # (N,)


def loss_against(teacher: GPT) -> LossFunction:
    """The mean reverse KL from a frozen teacher over the tokens of responses, as a loss for chapter 7's `train`."""

    def distillation_loss(student: GPT, inputs: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
        """inputs: (B, T) ids.  targets: (B, T) ids, or IGNORE_INDEX where no token of a response follows."""
        logits, _, at = graded_logits(student, inputs, targets.numpy())  # (N, V), N positions
        with mg.no_grad():
            teacher_logits = teacher(inputs, at=at)  # (N, V)
        return reverse_kl(logits, teacher_logits).mean()

    return distillation_loss


class OwnResponses:
    """The student's own responses as chapter 7's batches.

    batch(step) samples from the student as it is at that step, with random numbers that depend on (seed, step) alone, so a
    stopped run goes on exactly.
    """

    def __init__(self, student: GPT, tokenizer: Tokenizer, tasks: Tasks, batch_size: int, seed: int, max_new_tokens: int = 48):
        if not tasks:
            raise ValueError("distillation: expected at least one task for the student to answer, got none")
        self.student, self.tokenizer, self.tasks = student, tokenizer, tasks
        self.batch_size, self.seed, self.max_new_tokens = batch_size, seed, max_new_tokens

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, step])
        tasks = [self.tasks[i] for i in rng.integers(0, len(self.tasks), self.batch_size)]
        generator = mg.Generator(int(rng.integers(2**31)))
        rollouts = roll_out(self.student, self.tokenizer, tasks, self.max_new_tokens, generator, record=False)
        return rollouts.inputs[:, :-1].copy(), rollouts.targets  # (B, T − 1) each

    @property
    def signature(self) -> str:
        return f"own responses to {len(self.tasks)} tasks, batch {self.batch_size}, seed {self.seed}"


def distill(
    student: GPT,
    teacher: GPT,
    tokenizer: Tokenizer,
    tasks: Tasks,
    config: TrainConfig,
    run: Run,
    pages: NextTokenBatches | None = None,
    every: int = 3,
) -> History:
    """Train the student in place on its own responses to the tasks; student and teacher share the tokenizer.

    pages: pretraining text. One batch in `every` comes from it, against forgetting, and the teacher grades each of its tokens.
    """
    teacher.eval()
    own = OwnResponses(student, tokenizer, tasks, config.batch_size, config.seed)
    return train(student, RehearsalBatches(own, pages, every) if pages else own, config, run, loss_fn=loss_against(teacher))
