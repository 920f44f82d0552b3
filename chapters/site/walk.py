"""Chapter 10 of the book from section to section: what a reader asks there, and where the project answers it.

Numbers and titles are the book's; the questions are ours.
"""

from typing import NamedTuple


class Answer(NamedTuple):
    """Where a question is answered.

    Args:
        question: what a reader of the section asks.
        code: lessons, and files or definitions in them, such as "ch10.sft" or "ch10.sft:build_example".
        report: anchor of a section in the main job's report.
        play: name of an interactive page.
        exercise: number of a command's exercise, for `ch10.exercises --exercise`.
    """

    question: str
    code: tuple[str, ...] = ()
    report: str = ""
    play: str = ""
    exercise: int = 0


class Section(NamedTuple):
    """A section of the chapter."""

    number: str
    title: str
    answers: tuple[Answer, ...]


SECTIONS = (
    Section(
        "10.1",
        "What pretraining actually bought",
        (
            Answer("What does a base model do with a question?", ("ch10.sft:ask_base",), "base", "models"),
            Answer("How often is its answer another question?", ("ch10.sft:questions_answered_by_questions",), "base"),
            Answer("What is it a mirror of? What has it read?", ("world.documents",)),
            Answer("How did it learn to continue?", ("ch07_train:train_plainly",), "", "training"),
        ),
    ),
    Section(
        "10.2",
        "Fine-tuning is not a new mechanism",
        (
            Answer("Which parts do I own already?", ("ch01_tokenizer", "ch06_gpt:GPT", "ch07_train:train", "ch08_sample")),
            Answer("How is the vocabulary head replaced by a class head?", ("ch10.classify:GPTClassifier",)),
            Answer("Which position is the last, if texts are padded?", ("ch10.classify:last_positions",)),
            Answer("What is the pretrained body worth?", ("ch10.classify:compare_bodies",), "head"),
            Answer("How gentle must the learning rate be?", ("ch10.sft:Settings",)),
            Answer("What if the body is too large to train?", ("ch10.lora:LoRALinear",)),
        ),
    ),
    Section(
        "10.3",
        "Instruction tuning: teaching the mirror to answer",
        (
            Answer("What does the template look like?", ("ch10.sft:format_prompt",), "prompt_mask"),
            Answer("Which targets are masked, and why is the seam not?", ("ch10.sft:build_example",), "prompt_mask", "mask"),
            Answer("How does the loss skip what is masked?", ("ch10.sft:response_loss", "ch10.sft:graded_logits")),
            Answer("Does the model answer afterwards?", ("ch10.sft:acceptance",), "answers"),
            Answer("Which kinds of tasks has it learned?", (), "families"),
            Answer("Wei et al.: does it learn the shape of being instructed?", ("ch10.headlines:wei",)),
            Answer("Taori et al.: can a model write its own instructions?", ("ch10.headlines:taori",)),
        ),
    ),
    Section(
        "10.4",
        "The second bend: learning from preference",
        (
            Answer("What is the ceiling of demonstrations?", ("ch10.demonstrations",)),
            Answer("How does a comparison become a number?", ("ch10.reward:preference_loss",), "reward_model", "reward"),
            Answer("Where does the labeller come from, and how noisy is it?", ("world.judge",)),
            Answer("What does the reward model know beyond words? How sure is it?", ("ch10.bag_of_words", "ch10.ensemble")),
            Answer("How does the policy learn from the reward?", ("ch10.rlhf:optimise_plainly", "ch10.ppo"), "rlhf", "ppo"),
            Answer("Christiano et al.: how few comparisons are enough?", ("ch10.headlines:christiano",)),
            Answer("Stiennon et al.: better than the references?", ("ch10.headlines:stiennon",)),
            Answer("Ouyang et al.: can a small tuned model beat a large base model?", ("ch10.headlines:ouyang",)),
            Answer("Which stages make an assistant, and in which order?", ("main_job.first_bend", "main_job.second_bend")),
            Answer("Bai et al.: what if the principles are written down?", ("ch10.constitution",), "constitution"),
            Answer("Bai et al.: harmless without being evasive?", ("ch10.headlines:bai",)),
            Answer("What happens if the policy pleases the reward model too well?", ("ch10.headlines:gao",)),
            Answer("Is PPO needed?", ("ch10.rloo", "ch10.grpo", "ch10.dpo", "ch10.best_of_n", "ch10.frontier")),
        ),
    ),
    Section(
        "10.5",
        "End of Part I: the honest inventory",
        (
            Answer("What did I build?", ("ch01_tokenizer", "ch03_embeddings", "ch04_attention", "ch05_block"), "", "attention"),
            Answer("How did I train it?", ("ch02_dataset", "ch07_train"), "", "training"),
            Answer("How does it speak?", ("ch08_sample",), "", "sampler"),
            Answer("Do a giant's weights run in the same class?", ("ch09.gpt2", "ch09.smollm2")),
            Answer("What does a fixed amount of thinking for each token cost?", ("ch10.reflex", "ch10.reflex_grpo")),
        ),
    ),
    Section(
        "10.6",
        "The thing to actually understand",
        (Answer("What did each bend change in one and the same model?", ("ch10",), "side_by_side", "models"),),
    ),
    Section(
        "10.7",
        "Exercises",
        (
            Answer("1. Write your own five", ("ch10.exercises:write_your_own_five",), "", "mask", 1),
            Answer("2. Mask versus no mask", ("ch10.exercises:mask_versus_no_mask",), "exercise", "", 2),
            Answer("3. Bolt on a class head", ("ch10.exercises:bolt_on_a_class_head",), "head", "", 3),
            Answer("4. Read the recipe", ("ch10.exercises:read_the_recipe",), "", "", 4),
        ),
    ),
)
