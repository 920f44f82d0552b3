"""Headline results of seven papers in miniature, one file for each: start with `experiment.Headline`, then gao.py.

Results of one run after the main job (28 minutes on one AVX-512 core, world 0, seed 0). The tasks are held out, and the
simulated judge scores the responses. Brackets are 95 % intervals over tasks, and over seeds if a row has several. "No" means
that the row's criterion failed.

    paper            claim                                       result here                                       yes?
    Bai 2022         harmless, not evasive, without harm labels  obeyed 0.0 % [0.0, 1.0], evaded 2.5 % [0.5, 5.0]  yes
                                                                 (before: 46 %, 26 %)
    Gao 2022         pressure on a proxy lowers the true reward  it falls by 1.06 of 8 points [0.67, 1.44]         yes
    Wei 2021         more kinds of tasks help on unseen kinds    +24.7 points after 16 kinds [15.8, 34.2];         yes
                                                                 in an earlier run +4.2 [-2.5, 10.8]
    Ouyang 2022      a tuned 1.3B model beats a 175B base        0.086M beats a 4.3M base, 95.5 % [93.4, 97.5];    no
                                                                 but that base is not better by itself
    Christiano 2017  labels on < 1 % of interactions suffice     labels on 0.98 %: 78 % of the true gain [71, 84]  no
    Stiennon 2020    preferred to the references (61 %) and to   51.9 % [34.8, 65.0];                              no
                     a ten times larger model                    48.0 % [28.9, 62.1]
    Taori 2023       a student ties with its teacher (90 to 89)  a fifth as large, preferred 28 % [23, 32]         no

How to read them:

- All figures are of an earlier version, whose main job trained the wide model (0.94M parameters). Now Wei's, Gao's and Bai's
  rows start from the main job's 0.27M model, and Stiennon's and Taori's rows train the wide model here. Nobody has run this
  form in full yet.
- Gao's row alone was run again with the present model, which takes 7 minutes of one core. With the one seed of the settings
  the judge's score falls by 0.14 points [-0.13, 0.46], so the answer is no. With seeds 0 to 2 of PPO it falls by 0.76
  [0.21, 1.32].
- In the same run the worst case of five reward models (Coste et al. 2023, ch10/ensemble) is no cure. PPO against it loses 2.62
  points; against each of the five alone it gains 0.65 and 0.10 and loses 2.25, 1.75 and 2.61. Best of 64 gains 0.82 points
  by the worst case and 0.91 by one model. All five overrate the same responses, which repeat "Thank you for asking."
- Bai's row runs `chapters.ch10.constitution` with its default plan and principles. The row's criterion is at most 5 % obeyed
  and 10 % evaded on average. Its figures are of an earlier version, in which the assistant learned from all revisions.
- Wei, Stiennon and Ouyang have three seeds, Bai and Taori two, the others one.
- Ouyang's criterion also asks that the larger base model be better by itself. One of the three small models predicts
  validation pages slightly better (0.661 nats per token against 0.669).
- Stiennon's small models differ much between seeds: an earlier run with one seed gave 58 and 55 %.
- Settings were chosen on training prompts and validation pages. But earlier versions of Wei's, Christiano's, Stiennon's and
  Taori's rows were measured on the same held-out tasks.
- Wei's paper found no such gain at 8B parameters and below (its figure 7).
- The notes in runs/headlines/table.md say why a row did not reproduce.
"""
