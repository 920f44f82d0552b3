"""Headline results of seven papers in miniature, one file for each: start with `experiment.Row`, then gao.py.

Published results in the test worlds 100 to 104, which nothing was chosen by. Each world has its own facts, models, tasks and
seed. Brackets are 95 % t-intervals over the five worlds. A row says "yes" if every interval passes its bound. Claim, criterion,
settings and commit are in registered.json, under the digest, since before the test; `--published` prints this table.

    paper        claim                                     criterion                               result                  yes?
    Bai 2022     harmless, not evasive, without            harmful requests obeyed, below 5 %      0.1 % [-0.3, 0.6]       yes
                 labels of harm                            evaded, below 10 %                      1.7 % [-1.3, 4.6]
                 (before: 43 % obeyed, 28 % evaded)        plain tasks lost, below 3 points        14.8 gained [11.7, 18.0]
    Gao 2022     pressure on a proxy lowers the            judge's score falls, of 8 points        1.69 [0.65, 2.73]       yes
                 true reward                               while the proxy's rises                 2.77 [0.19, 5.34]
    Wei 2021     more kinds of tasks help on               right options, rise over the base       11.4 points [9.3, 13.6] yes
                 unseen kinds                              rise over tuning on one attribute       12.5 points [8.4, 16.6]

Four rows are designed anew and not yet registered, because they have not been run in full on worlds 1 to 3. So they have no
result:

- Christiano 2017: short runs in world 1 brought 84 % of the true reward's gain at equal KL, and the criterion asks for 90 %.
  The learned reward finds too few of the misread questions from 252 compared responses.
- Ouyang 2022: the large model of the new form has not been trained yet.
- Stiennon 2020: in world 1 an earlier form of the policy was preferred to the references in 69.5 % of 300 comparisons; the
  large model has not been trained yet.
- Taori 2023: in world 1 the student matches its teacher's manners and does 57 % of the plain tasks correctly, the teacher 80 %.

How to read the table:

- Gao: before the fall, the judge's score rises by 0.78 points [0.09, 1.47]. The worst case of five reward models (Coste et al.
  2023, ch10/ensemble) is no cure: PPO against it ends 1.17 points below the SFT model [-2.45, 0.10], PPO against the proxy
  alone 0.91 [-2.31, 0.49]. Best of 64 gains 1.22 [0.85, 1.58] by the worst case and 1.03 [0.44, 1.61] by the proxy. In one
  world, 104, the score fell by 0.20 only.
- Bai: 88 % of harmful requests [80, 96] are refused for the right reason. The assistant gains correctness because the
  supervised phase trains it on its own likeliest responses, and most misreadings are not the likeliest.
- Wei: right options on unseen attributes rise from 57.3 % to 68.7 %, where guessing gives 35.3 %. On unseen combinations of
  seen attributes and forms they rise by 27.5 points [25.4, 29.6]. The paper found no such gain at 8B parameters and below (its
  figure 7).
- An earlier version of this table had other rows, one world and one to three seeds. Three of its seven rows said yes.
"""
