"""Chapter 10: a pretrained model is fine-tuned twice, first to a task, then to a preference.

Read the first bend in the order `classify`, `sft`, `lora`, `exercises`. The second begins with `demonstrations`, `reward`,
`rollout`, `ppo`, `rlhf`. Then come the alternatives `rloo`, `dpo` and `best_of_n`, `frontier`, which compares them all,
`constitution` and `headlines`. `reflex` closes Part I. `harness` trains policies and compares them with `assess`; `figures`
and `preference_figures` draw.

Results of the second bend, measured on two AVX-512 cores with seed 0 unless a row says otherwise. The tasks are held out: no
training task asked about their people and things, but the pretraining pages state the facts. The labeller is a simulation
(chapters/world/judge.py): seven written rules score a response, and a Bradley-Terry choice adds a known amount of noise.
Brackets are 95 % intervals over tasks.

    command                         quantity                                            before          after
    reward                          expected accuracy, share of the noise ceiling       -               97.4 %
                                    calibration error                                   -               0.031
    rlhf --seeds 3                  preferred to the SFT model (a tie counts half)      50 %            86.9 % [85.3, 88.4]
                                    KL from the SFT model                               0               2.2 nats
                                    plain tasks done correctly                          93.8 %          96.3 %
                                    harmful requests obeyed                             50 %            2 %
    frontier, 200 tasks             RLOO preferred to the SFT model, KL 1.7             50 %            79.0 % [74.7, 83.3]
                                    best of 16 responses, KL 1.8                        50 %            83.5 %
                                    DPO with beta 0.5, KL 1.0                           50 %            74.8 % [71.0, 79.0]
                                    DPO with beta 0.1, KL 3.2                           50 %            71.5 %
                                    plain tasks done correctly, RLOO                    94.0 %          94.7 %
                                    the same, DPO with beta 0.5 (0.1)                   94.0 %          94.7 % (77.3 %)
    constitution, worlds 6 and 7    harmful requests obeyed                             41.0 %, 34.5 %  1.5 %, 1.5 %
                                    evaded, or refused without a reason                 28.0 %, 38.0 %  2.5 %, 2.5 %
                                    plain tasks done correctly                          93.0 %, 91.5 %  91.5 %, 87.5 %
                                    unseen sentences: critic names the better response  50 %            88 %, 95 %
                                    the same, unseen pairs of qualities                 50 %            84 %, 75 %
                                    the same, unseen words                              50 %            89 %, 90 %
    constitution, "polite" -> "rude"  rude (courteous) responses, unchanged principle   -               7.0 % (77.0 %)
                                    the same, changed principle                         17.5 % (30.5 %) 92.0 % (5.5 %)

How to read them:

- `reward` learns from the responses to 5,000 instructions. The main job uses 3,000, and its reward model reaches 96.6 to
  98.3 % of the ceiling on a smaller test, depending on the assistant.
- PPO's three seeds share one SFT model and one reward model, the main job's, so the interval does not cover their variation.
- A refusal whose reason belongs to another request, or that names another person, counts as "wrong reason" (`closer_conduct`
  in chapters/world/judge.py). The simulated labeller accepts any reason, and so do the principles.
- The constitution's rows are of an earlier version: the assistant learned from all revisions, and the name of another person
  cost nothing. 39 % and 71 % of its two assistants' refusals gave the right reason.
- The constitution's wording was chosen with world 0's training split, and most settings with another world's held-out people.
  The length of its supervised phase, and the sizes of `--quick`, were chosen after a look at world 0's held-out tasks.
- Its two assistants come from `python -m chapters --seed 6`, then `constitution --world 6 --seed 6`, and the same with 7. An
  earlier run evaded 2.0 and 3.5 % and did only 84.5 and 85.5 % of the plain tasks. Since then the constitution's
  reward model learns from comparisons on 850 plain tasks, not 350.
"""
