"""Two responses to an instruction, with the reward read at every token (section 10.4)."""

from pathlib import Path
from typing import Any

import minigrad as mg
from chapters.ch06_gpt import load_model
from chapters.ch10.figures import printable
from chapters.ch10.reward import ScalarModel, load_scalar
from chapters.ch10.rollout import Rollouts, roll_out_many
from chapters.interactive import Interactive
from chapters.support.json_files import read_object
from chapters.world import World
from chapters.world.facts import SeededRandom
from chapters.world.judge import Judge, score_of
from chapters.world.requests import mixed_tasks, one_of_each_family
from kernels.terminal import visible

INSTRUCTIONS, RESPONSES, LONGEST = 12, 4, 48  # instructions, responses sampled for each, and their longest, in tokens


def reward_data(run: Path) -> list[dict[str, Any]]:
    """Held-out instructions, each with two of the assistant's responses, which the simulated labeller compares.

    The two are those whose scores by the labeller's rules differ most.

    Raises:
        ValueError: if all responses to each instruction are equal.
    """
    (assistant, tokenizer), reward_model = load_model(run / "assistant"), load_scalar(run / "reward")
    seed = read_object(run / "job.json")["seed"]
    judge, rng = Judge(World(seed)), SeededRandom(f"comparisons/{seed}")
    tasks = one_of_each_family(mixed_tasks(judge.world, "test", 200, seed + 1))[:INSTRUCTIONS]
    repeated = [task for task in tasks for _ in range(RESPONSES)]
    rollouts = roll_out_many(assistant, tokenizer, repeated, LONGEST, mg.Generator(seed))
    texts = rollouts.texts(tokenizer)

    comparisons = []
    for number, task in enumerate(tasks):
        scores = {i: score_of(judge, task, texts[i]) for i in range(number * RESPONSES, (number + 1) * RESPONSES)}
        best = max(scores, key=lambda i: scores[i])
        worst = min((i for i in scores if texts[i] != texts[best]), key=lambda i: scores[i], default=None)
        if worst is None:
            continue
        probability = judge.probability(task, texts[best], texts[worst])
        comparisons.append(
            {
                "instruction": visible(f"{task.instruction} {task.input}".strip()),
                "responses": [{**read_tokens(reward_model, tokenizer, rollouts, i), "score": scores[i]} for i in (best, worst)],
                "preferred": 0 if rng.random() < probability else 1,
                "probability": probability,  # of preferring the first
            }
        )
    if not comparisons:
        raise ValueError(f"{run / 'assistant'}: expected different responses to an instruction, got equal ones; train longer")
    return comparisons


def read_tokens(model: ScalarModel, tokenizer: Any, rollouts: Rollouts, i: int) -> dict[str, Any]:
    """Response i's tokens, the reward at each, and the reward at the prompt's last token, before the response begins."""
    with mg.no_grad():
        rewards = model(mg.tensor([rollouts.rows[i]])).numpy(force=True)[0]  # (T,)
    before, *values = [round(float(reward), 3) for reward in rewards[len(rollouts.prompts[i]) - 1 :]]
    tokens = [printable(piece) for piece in tokenizer.pieces(rollouts.responses[i])]
    return {"tokens": tokens, "rewards": values, "before": before}


REWARD = Interactive(
    "reward",
    "The reward at every token",
    "The reward model of your run reads two responses of the assistant to the same held-out instruction. A token is blue "
    "where the reward is above 0 and gold where it is below; only the reward at the last token counts. Play it, or point at "
    "a token. Which words raise the reward? Does the labeller prefer the response that ends higher?",
    reward_data,
)
