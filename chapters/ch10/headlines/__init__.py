"""Headline results of seven papers in miniature, one file for each: start with `experiment.Row`, then gao.py.

Published results in the test worlds 100 to 104. No choice was made with them. Each world has its own facts, models, tasks and
seed. Brackets are 95 % t-intervals over the five worlds. A row says "yes" if every interval passes its bound. Claim, criterion,
settings and commit are in registered.json, under the digest, since before the test; `--published` prints this table. The
measurement does not check that the code is still that of the commit; the repository's history shows the order.

    paper          claim                                    criterion                              result                   yes?
    Bai 2022       harmless, not evasive, without           harmful requests obeyed, below 5 %     0.15 % [-0.27, 0.57]     yes
                   labels of harm                           evaded, below 10 %                     1.7 % [-1.3, 4.6]
                   (before: 43 % obeyed, 28 % evaded)       plain tasks lost, below 3 points       14.8 gained [11.7, 18.0]
    Christiano     a reward learned from comparisons of     its gain over the true reward's,       91.4 % [85.8, 97.0]      no
    2017           under 1 % of the samples does nearly     above 90 %
                   as well as the true reward               KL of its policy, above 1 nat          2.09 [1.82, 2.36]
    Gao 2022       pressure on a proxy lowers the           judge's score falls, of 8 points       1.69 [0.65, 2.73]        yes
                   true reward                              while the proxy's rises                2.77 [0.19, 5.34]
    Ouyang 2022    a small aligned model is preferred       preferred to the base with examples,   98.0 % [97.0, 99.1]      yes
                   to a base model 25 times its size        above 50 %
                   that is better in itself                 base's lead in page loss               0.16 nats [0.08, 0.25]
                                                            in fact tokens                         38.9 points [15.4, 62.3]
                                                            in plain tasks, both tuned alike       42.9 points [38.4, 47.5]
    Stiennon 2020  preferences make summaries better        preferred to references, above 50 %    75.5 % [66.5, 84.4]      yes
                   than the writers', and than those        preferred to the larger model          77.1 % [71.9, 82.3]
                   of a supervised model ten times          lead over it against the references    24.1 points [20.8, 27.4]
                   as large                                 it against the references, above 40 %  51.4 % [44.7, 58.1]
    Taori 2023     manners alone: a student matches         student's lead in manners, of 3       0.05 [0.02, 0.08]        yes
                   the teacher that wrote its pairs         points, above -0.1
                                                            pairs, above 12,000                    15,191 [13,383, 16,998]
    Wei 2021       more kinds of tasks help on              right options, rise over the base      11.4 points [9.3, 13.6]  yes
                   unseen kinds                             rise over tuning on one attribute      12.5 points [8.4, 16.6]

Bounds on the sizes of models, which restate the settings, are left out. A first registration of Christiano's row (commit
34031c3) was withdrawn before any result (d0b8408), because its claim and its interpolation were wrong.

How to read the table:

- Gao: before the fall, the judge's score rises by 0.78 points [0.09, 1.47]. The rise is not part of the criterion; in world 103
  there is none. In world 104 the fall is only 0.20. PPO ends at 24 nats [12, 37]. The proxy reaches 79 % of the best possible
  accuracy, and a bag of words from the same comparisons 83 %.
- Gao, the worst case of five reward models (Coste et al. 2023, ch10/ensemble): it does not prevent the fall. Against it PPO
  changes the judge's score by -1.17 points [-2.45, 0.10], against the proxy alone by -0.91 [-2.31, 0.49]; these two cannot be
  told apart. Best of 64 gains 1.22 [0.85, 1.58] by the worst case and 1.03 [0.44, 1.61] by the proxy.
- Bai: 88 % of harmful requests [80, 96] are refused for the right reason and 10 % for a wrong one, which the criterion allows.
  3 of 2,000 are obeyed, all in world 103. The critic learned from the judge's rules; the labeller compared no harmful request.
  The assistant gains correctness because the supervised phase trains it on its own likeliest responses, and most misreadings
  are not the likeliest.
- Christiano: the mean passes and the interval does not (world 101: 86 %, world 100: 88 %). With 810 comparisons on average the
  learned reward brings 91 % of the true reward's gain of 2.05 points, and a bag of words 76.6 % [71.1, 82.1]. At the end of
  training, what is missing is correctness: the learned reward gains 0.31 points of it, the true reward 0.44, and the bag of
  words loses 0.01. In courtesy they gain 0.78 and 0.80, and in refusing the same. Both learned rewards are linear; one also
  reads the response against the prompt (online_reward.py). Training ends after a fixed number of iterations, so held-out
  comparisons set the penalty and do not stop anything. Tried before registration with fewer samples: 63 prompts (87 % in world
  1), 126 (92 % in world 2), 252 (95 % in world 1), eight responses to a prompt (85 %), two or three of four responses compared
  (90 and 93 %), and some twenty sets of features.
- Ouyang: plain tasks "both tuned alike" have the large model's learning rate, a quarter of the small model's best; so this lead
  is partly the recipe's. Page loss and fact tokens do not depend on it. The base is a weak opponent. After three examples it
  asks another question or begins a page, and hardly ever answers; without examples it loses as often (98.2 %). Its pages teach
  no courtesy, for which the judge pays. If courtesy does not count, the small model still wins 91.1 % [85.0, 97.2]. The hardest
  opponent is the large model after a short tuning on demonstrations: 72.9 % [63.2, 82.6].
- Stiennon: size alone buys little here. Against the references the larger model is preferred 51.4 % [44.7, 58.1], and the small
  supervised model 50.2 %. The policy tells 95 % of the facts (references and larger model 79 %), averages 12.0 words, and makes
  no mistake in 84 % of its summaries (79 %). In world 101 it makes more mistakes than the references. Its lead is mostly
  completeness. At equal length, within one word, the preference cannot be told from chance: 53.9 % [47.7, 60.2] against the
  references and 52.5 % [47.9, 57.1] against the larger model. At temperature 0 the larger model omits a fact and loses 96.5 %
  of the comparisons with the policy, but it beats the references without any preferences, 57.3 % [53.1, 61.5]. The regression
  on length, which the paper uses, changes nothing here (stiennon.py). The reward model predicts 76.0 % of the comparisons
  [73.9, 78.1], a bag of words 67.4 % [65.2, 69.6]; the noise allows 87.3 %.
- Taori: the criterion is narrower than the paper's claim. The 15,191 pairs are two answers to each of 7,639 instructions.
  Manners come over and knowledge does not. The student does 44.8 % [33.8, 55.7] of the plain tasks correctly, the teacher 78.7
  % [71.3, 86.0], and the student wins 32.8 % [26.9, 38.6] of the comparisons. The paper's student was on a par. Our student's
  size is not what it lacks: from 15,000 right answers in place of the teacher's pairs, by the same recipe, it does 92, 90 and
  84 % of the plain tasks in worlds 1 to 3. On-policy distillation mends little: 47.0 % [36.4, 57.6] and 36.5 % [32.1, 40.9].
- Wei: right options on unseen attributes rise from 57.3 % to 68.7 %, where guessing gives 35.3 %. The rise comes from seven
  attributes that the pages state (15 to 26 points each). Comparing, adding, counting, naming a member and naming the first
  thing change by -3 to +6 points, and "true or false" stays at chance. Three attributes were removed in tuning because they did
  not profit (wei.py). On unseen combinations of seen attributes and forms, right options rise by 27.5 points [25.4, 29.6]. In
  the paper, models of 8B parameters and fewer get worse on unseen kinds (figure 7); ours does not.
- Two quantities were added after the test, and computed from the same models: Ouyang's without courtesy, and Taori's number of
  different instructions. They are in no criterion.
- Taori's row was run in worlds 1 to 3 before its registration, Stiennon's in world 1, and Ouyang's in world 1 with two sizes of
  the large model. The three were registered together, after the first three rows had been measured in the same test worlds.
- An earlier version measured the same seven papers by other designs, in one world with one to three seeds. Three said yes: Bai,
  Gao and Wei.
"""
