"""Headline results of seven papers in miniature, one file for each: start with `experiment.Row`, then gao.py.

Published results in the test worlds 100 to 104. No choice was made with them. Each world has its own facts, models, tasks and
seed. Brackets are 95 % t-intervals over the five worlds. A row says "yes" if every interval passes its bound. Claim, criterion,
settings and commit are in registered.json, under the digest, since before the test; `--published` prints this table. The
measurement does not check that the code is still that of the commit; the repository's history shows the order.

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
- Wei: right options on unseen attributes rise from 57.3 % to 68.7 %, where guessing gives 35.3 %. The rise comes from seven
  attributes that the pages state (15 to 26 points each). Comparing, adding, counting, naming a member and naming the first
  thing change by -3 to +6 points, and "true or false" stays at chance. Three attributes were removed in tuning because they
  did not profit (wei.py). On unseen combinations of seen attributes and forms, right options rise by 27.5 points [25.4, 29.6].
  In the paper, models of 8B parameters and fewer get worse on unseen kinds (figure 7); ours does not.
- An earlier version measured the same seven papers by other designs, in one world with one to three seeds. Three said yes:
  Bai, Gao and Wei.
"""
