"""Chapter 10: a pretrained model is fine-tuned twice, first to a task, then to a preference.

Reading order, first bend: `classify`, `sft`, `lora`, `exercises`; second bend: `demonstrations`, `reward`, `rollout`, `ppo`,
`rlhf`, then the alternatives `rloo`, `dpo`, `best_of_n`, all of them on one page in `frontier`; `constitution`, `headlines`,
and `reflex`, which closes Part I. `harness` trains policies and compares them by `assess`; `figures` and `preference_figures`
draw.

Results of the second bend, measured on two AVX-512 cores with seed 0 unless a row says otherwise. The tasks are held out: they
ask about people and things that no training task asked about, although the pretraining pages state the facts. The labeller is
a simulation (chapters/world/judge.py): seven written rules score a response, and a Bradley-Terry choice adds noise of a stated
size. Brackets are 95 % intervals over tasks.

    command                         quantity                                            before          after
    reward                          correct comparisons, share of the noise ceiling     -               97.4 %
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
                                    unseen principles: better response named, sentence  50 %            88 %, 95 %
                                    the same, a pair of words                           50 %            84 %, 75 %
                                    the same, one word                                  50 %            89 %, 90 %
    constitution, "polite" -> "rude"  rude (courteous) responses, unchanged principle   -               7.0 % (77.0 %)
                                    the same, changed principle                         17.5 % (30.5 %) 92.0 % (5.5 %)

How to read them:

- The reward model of `reward` learned from the responses to 5,000 instructions. From 3,000, as in the main job, it reaches 96.6
  to 98.3 % of the ceiling on a smaller test, depending on the assistant.
- PPO's three seeds share one SFT model and the main job's reward model, so the interval does not cover their variation.
- A refusal counts if it says no and gives some reason. No principle asks for the right reason, and many are wrong: 39 % and
  71 % of the two assistants' refusals give the reason of their own request and name nobody else.
- The constitution's settings were chosen on another world's held-out people, its wording on world 0's training side. Its two
  assistants come from `python -m chapters --seed 6`, then `constitution --world 6 --seed 6`, and the same with 7. They had
  been measured once before: 2.0 and 3.5 % evaded, plain tasks down to 84.5 and 85.5 %, which is why plain tasks weigh more now.
"""
