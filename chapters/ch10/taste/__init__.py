"""Chapter 10, a taste: the whole second bend on real text, in one command.

    python -m chapters.ch10.taste --data pairs.json           # a file of pairs; then you choose blindly
    python -m chapters.ch10.taste --data pairs.json --label   # you label 100 pairs: you are the human in RLHF

The little world's tasks have a judge who knows the truth. Real text has none. There are only people who like one answer better
than another, and files of such choices: an instruction, the chosen answer and the rejected one. This command takes a model of
135 million parameters that already answers questions, SmolLM2, and bends it to the taste in such a file, or to yours:

    drafts    The model answers instructions of the file, eight times each.
    reward    A reward model learns from half of the pairs.
    choose    It scores all drafts. The best of eight is the first result, without any training of the model.
    DPO       The model learns to write like the best draft of each instruction, and unlike the worst.
    judge     A second reward model, from the other half of the pairs, compares the answers before and after.
    you       A blind test: twenty instructions with both answers, and nobody tells you which is which.

A laptop can do this because little is trained. The lower half of the blocks stays frozen and reads each text once
(taste/frozen.py); the upper half learns low-rank products (ch10/lora). The reward model and DPO are those of ch10/reward
and ch10/dpo.

Look at answers.txt in the run's folder, ten instructions that nobody selected. Then look at the bags of words beside the
reward models: they have read the same pairs, and they cannot read. The sample file's pairs come from a language model that was
asked to make an answer a little more polite or a little ruder.

Fixed before the first full run on the sample file of 1,100 pairs, and reported whatever comes out: the rewards (the mean of
both reward models) get at least 90 % of 220 held-out pairs right, split by instruction. The judge prefers the tuned model's
answers on at least 70 % of the held-out instructions. Recall of the gold answers' words falls by at most 3 points. The command
takes at most 25 minutes on two AVX-512 cores, 45 on two AVX2 cores, and 4 GiB.
"""
