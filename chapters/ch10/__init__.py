"""Chapter 10: a pretrained model is fine-tuned twice, first to a task, then to a preference.

Read the first bend in the order `classify`, `sft`, `lora`, `exercises`. The second begins with `demonstrations`,
`comparisons`, `reward` and its baseline `bag_of_words`, `rollout`, `ppo`, `rlhf`. `one_word` shows PPO and GRPO at work
within a minute. Then come the alternatives `rloo`, `grpo`, `dpo` and `best_of_n`, `frontier`, which compares them all,
`constitution`, `headlines` with its `ensemble` and `distillation`, and `taste`, on real text. `reflex`, and `reflex_grpo`,
which rewards it, close Part I. `harness` trains policies and compares them with `assess`; `figures` and `preference_figures`
draw.

Results of the second bend, measured on AVX-512 (Zen 4) with seed 0 unless a row says otherwise. The tasks are held out: no
training task asked about their people and things, but the pretraining pages state the facts. The labeller is a simulation
(chapters/world/judge.py): seven written rules score a response, and a Bradley-Terry choice adds a known amount of noise.
Brackets are 95 % intervals over tasks.

    command                         quantity                                            before          after
    main job, seeds 0 to 3          share of the noise ceiling, reward model            -               94.8, 95.6, 95.8, 97.6 %
                                    the same, a bag of words (ch10/bag_of_words)        -               91.9, 90.7, 91.7, 90.5 %
                                    best of 4 by the reward model, points of 8          -               +1.17, 1.29, 1.34, 1.40
                                    the same, by the bag of words                       -               +1.04, 1.08, 1.19, 1.15
                                    the same, by the judge                              -               +1.31, 1.36, 1.43, 1.42
                                    after PPO, preferred to the SFT model               50 %            77.7, 78.3, 77.3, 80.5 %
                                    KL from the SFT model, nats                         0               1.4, 1.5, 1.3, 1.7
                                    plain tasks done correctly                          73, 70, 73, 80 %  79, 80, 80, 86 %
                                    harmful requests obeyed                             36, 34, 35, 50 %  1, 1, 0, 1 %
                                    refused for the right reason                        34, 16, 34, 28 %  91, 84, 95, 75 %
                                    gain by PPO, points of 8                            -               +1.48, 1.72, 1.55, 1.52
                                    of it courtesy                                      -               +0.70, 0.64, 0.66, 0.68
                                    refusing, and a reason                              -               +0.50, 0.59, 0.54, 0.56
                                    correctness                                         -               +0.13, 0.24, 0.16, 0.13
                                    topic                                               -               +0.07, 0.16, 0.09, 0.04
    main job, seed 0                after the constitution: harmful requests obeyed     36.5 %          0 %
                                    refused for the right reason                        28.5 %          94.5 %
                                    plain tasks done correctly                          74 %            84.5 %
    reward                          expected accuracy, share of the noise ceiling       -               96.9 %
                                    the same, a bag of words                            -               91.4 %
                                    calibration error                                   -               0.035
    rlhf --seeds 3                  preferred to the SFT model (a tie counts half)      50 %            75.2 % [73.1, 77.2]
                                    plain tasks done correctly                          73, 80, 78 %    79, 76, 77 %
    frontier, 200 tasks             PPO preferred to the SFT model, KL 1.3              50 %            75.0 % [70.0, 79.5]
                                    RLOO, KL 1.4                                        50 %            74.8 % [70.2, 79.2]
                                    GRPO, KL 1.9                                        50 %            75.8 % [71.2, 80.8]
                                    best of 16 responses, KL 1.8                        50 %            85.8 %
                                    DPO with beta 0.5, KL 1.0                           50 %            75.0 % [70.8, 79.2]
                                    DPO with beta 0.1, KL 2.6                           50 %            69.8 % [64.8, 74.8]
                                    plain tasks done correctly, PPO (RLOO, GRPO)        75.3 %          78.7 % (80.7, 78.0 %)
                                    the same, DPO with beta 0.5 (0.1)                   75.3 %          85.3 % (72.7 %)
    grpo, 1,000 tasks               plain tasks done correctly, KL 0.49                 77.6 %          93.9 % [92.3, 95.3]
    constitution, worlds 6 and 7    unseen sentences: critic names the better response  50 %            88 %, 95 %
                                    the same, unseen pairs of qualities                 50 %            84 %, 75 %
                                    the same, unseen words                              50 %            89 %, 90 %
    constitution, "polite" -> "rude"  rude (courteous) responses, unchanged principle   -               7.0 % (77.0 %)
                                    the same, changed principle                         17.5 % (30.5 %) 92.0 % (5.5 %)

How to read them:

- A quarter of the demonstrations of plain tasks misread the question or claim ignorance. An SFT model imitates them: it does
  70 to 80 % of the plain tasks correctly. A bag of words hardly sees a misreading; the reward model sees more.
- Against the reward model, PPO changes correctness by +6 to +10 points in the main job, and by +6, -4 and -1 in the three
  seeds of `rlhf`; in `frontier`, PPO, RLOO and GRPO add 3 to 5. The verifiable reward of `grpo`, which pays for nothing else,
  adds 16.
- `headlines` has the constitution in five test worlds.
- The three seeds of `rlhf` sample anew, but share one SFT model and one reward model, so the interval does not cover their
  variation.
- A refusal whose reason belongs to another request, or that names another person, counts as "wrong reason" (`closer_conduct`
  in chapters/world/judge.py). The simulated labeller accepts any reason, and so do the principles.
- The main job asks each model 320 held-out tasks, 80 of them harmful, and its constitution 200 and 200; the 95 % intervals
  are at most ±11 and ±7 points.
- The last two blocks were measured earlier: worlds 6 and 7 with a model of 0.94M parameters (now 0.27M), and the changed
  principle with an assistant that learned from all revisions, where the name of another person cost nothing.
- RLOO and DPO have the settings that suited the model of 0.94M parameters.
- These settings were chosen after a look at world 0's held-out tasks: the size of the main job's model, the steps and
  learning rates of instruction tuning, of the assistant, of the critic and of the constitution's supervised phase, and the
  sizes of `--quick`. Seeds 1 to 3 were run once. The constitution's wording was chosen with world 0's training split, and the
  other settings with another world's held-out people.
- Worlds 6 and 7: `python -m chapters --seed 6`, then `constitution --world 6 --seed 6`, and the same with 7.
"""
